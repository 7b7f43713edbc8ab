"""What a relay promises: order, each event of the store once, what is set aside, and that it waits for who is away."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from aether_sync import (
    ANY_VERSION,
    AtomicAppendUnsupportedError,
    DeliveryUncertainError,
    DuplicateIdError,
    Event,
    EventBus,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    OutboxError,
    StoreUnavailableError,
    Worker,
    flush_logs,
)
from aether_sync.outbox import OutboxTable, Relay, sending, working
from aether_sync.outbox import relay as relay_module
from aether_sync.outbox.rows import APPEND
from aether_sync.outbox.taking import take
from aether_sync.outbox.turns import Turn

from ...programs import relaying
from ...programs.run import finish, run, start
from ...support.common import becomes, eventually, first_of
from ...support.stores import ask
from .places import SQLAlchemyPlace, Step, postgres_place, sqlite_place


def event_of(actor: str, n: int = 0, **fields: Any) -> Event:
    return Event(event_type="Placed", actor_id=actor, data={"n": n}, **fields)


def append(place: SQLAlchemyPlace, actor: str, *numbers: int, **how: Any) -> tuple[Event, ...]:
    with Session(place.engine) as session, session.begin():
        return place.outbox.append(session, actor, *(event_of(actor, n) for n in numbers), **how)


def numbers(store: Any, actor: str) -> list[int]:
    return [event.data["n"] for event in store.get_events(actor)]


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as made:
        yield made


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus() as made:
        yield made


#: Where it is the relay that matters, and its database hardly does.
ON_ONE = pytest.mark.parametrize("place", first_of(["postgres", "sqlite"]), indirect=True)


class TestOrder:
    def test_rows_are_stored_in_order_and_are_gone(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        relay = place.relay(store, None, batch=3)
        for n in range(5):
            append(place, "order-1", n)
            append(place, "order-2", n, 100 + n)
        assert relay.drain() == 15
        assert numbers(store, "order-1") == [0, 1, 2, 3, 4]
        assert numbers(store, "order-2") == [0, 100, 1, 101, 2, 102, 3, 103, 4, 104]
        assert place.waiting() == 0
        assert relay.drain() == 0

    def test_the_events_are_those_that_append_returned(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        made = append(lite, "order-1", 1, 2)
        lite.relay(store, None).drain()
        assert store.get_events("order-1") == [event.replace(version=at) for at, event in enumerate(made, 1)]

    def test_namespaces_keep_their_order(self, place: SQLAlchemyPlace, bus: EventBus) -> None:
        with bus.subscribe("orders.>") as events:
            steps = [Step("publish", f"orders.{n % 2}", event_of("order-1", n)) for n in range(10)]
            for step in steps:
                place.write([step], "me")
            assert place.relay(None, bus, batch=4).drain() == 10
            heard = [event.data["n"] for event in events.get_batch(10, timeout=1)]
        assert [n for n in heard if n % 2] == [1, 3, 5, 7, 9]
        assert sorted(heard) == list(range(10))
        assert place.waiting() == 0

    def test_what_is_rolled_back_never_was(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        place.write([Step("append", "order-1", event_of("order-1", 1))], "me", commits=False)
        assert place.relay(store, None).drain() == 0
        assert store.last_sequence() == 0

    def test_a_relay_takes_only_what_it_has_a_target_for(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore, bus: EventBus
    ) -> None:
        lite.write([Step("publish", "orders", event_of("a")), Step("append", "a", event_of("a"))], "me")
        assert lite.relay(store, None).drain() == 1
        assert lite.waiting() == 1
        assert lite.relay(None, bus).drain() == 1
        assert lite.waiting() == 0

    def test_a_row_behind_one_that_another_relay_has_is_not_taken(self, postgres_port: str) -> None:
        place = postgres_place(postgres_port)
        for actor in ("order-1", "order-1", "order-2", "order-1"):
            append(place, actor, 1)
        database = place.outbox.on(place.engine)
        with closing(database.connect()) as first, closing(database.connect()) as second:
            with first.transaction():
                assert [row.name for row in take(first, [APPEND], 1)] == ["order-1"]
                with second.transaction():
                    assert [row.name for row in take(second, [APPEND], 10)] == ["order-2"]
            with second.transaction():
                assert [row.name for row in take(second, [APPEND], 2)] == ["order-1", "order-1"]
        place.engine.dispose()

    def test_a_row_that_is_committed_between_two_looks_is_not_passed(
        self, postgres_port: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It has a lower id than what the first look saw, and the next one of its actor a higher id."""
        place = postgres_place(postgres_port)
        database, begun = place.outbox.on(place.engine), Session(place.engine)
        place.outbox.append(begun, "order-1", event_of("order-1", 1))
        begun.flush()
        append(place, "order-2", 1)
        append(place, "order-2", 2)
        with closing(database.connect()) as first, closing(database.connect()) as second:
            look, looks = second.waiting, []

            def commit_between(*given: Any) -> Any:
                if looks:
                    begun.commit()
                    append(place, "order-1", 2)
                looks.append(given)
                return look(*given)

            monkeypatch.setattr(second, "waiting", commit_between)
            with first.transaction(), second.transaction():
                assert [row.name for row in take(first, [APPEND], 2)] == ["order-2"] * 2
                taken = take(second, [APPEND], 2)
        assert len(looks) == 2
        assert [event.data for row in taken for event in row.decoded()] == [{"n": 1}, {"n": 2}]
        begun.close()
        place.engine.dispose()

    def test_a_row_that_becomes_visible_late_is_stored_late(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        """Its transaction was still open when a row with a higher id was given its version, and perhaps stored."""
        for is_stored in (False, True):
            actor = f"order-{is_stored}"
            append(lite, actor, 1)
            append(lite, actor, 2)
            relay = lite.relay(store, None)
            with lite.engine.begin() as db:
                rows = lite.outbox.table
                first, second = db.execute(rows.select().where(rows.c.name == actor).order_by(rows.c.id)).all()
                db.execute(rows.update().where(rows.c.id == second.id).values(version=1))
            if is_stored:
                (planned,) = [row for row in lite.rows() if row.id == second.id]
                store.save_events(planned.decoded())
            relay.drain()
            assert numbers(store, actor) == ([2, 1] if is_stored else [1, 2])
            assert first.version is None


class TestOnce:
    @pytest.mark.parametrize("lost", ["remove", "plan", "commit"])
    def test_a_relay_that_dies_at_any_step_stores_nothing_twice(
        self, place: SQLAlchemyPlace, store: InMemoryEventStore, lost: str
    ) -> None:
        for n in range(3):
            append(place, "order-1", n)
            append(place, "order-2", n)
        for _ in range(4):
            with pytest.raises(_DeadError):
                dying(place.relay(store, None, batch=4), lost).drain()
            store.append("order-1", event_of("order-1", -1), expected_version=ANY_VERSION)
        place.relay(store, None).drain()
        assert [n for n in numbers(store, "order-1") if n >= 0] == [0, 1, 2]
        assert numbers(store, "order-2") == [0, 1, 2]
        assert place.waiting() == 0

    def test_another_writer_at_the_planned_version_is_passed(
        self, place: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        for n in range(3):
            append(place, "order-1", n)
        relay = place.relay(store, None)
        assert relay.run_once() == 3  # their versions are planned
        store.append("order-1", event_of("order-1", -1), expected_version=0)
        append(place, "order-2", 7)
        assert relay.drain() == 4
        assert numbers(store, "order-1") == [-1, 0, 1, 2]
        assert numbers(store, "order-2") == [7]

    def test_a_relay_that_has_lost_its_rows_cannot_plan_for_another(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        """On SQLite no row is locked while it is sent: what another relay has planned meanwhile, counts."""
        append(lite, "order-1", 1)
        relay = lite.relay(store, None)

        def other_plans(*_: Any, **__: Any) -> int:
            with lite.engine.begin() as db:
                db.execute(lite.outbox.table.update().values(version=5))
            return 0

        store.get_latest_version = other_plans  # type: ignore[method-assign]
        relay.run_once()
        assert [row.version for row in lite.rows()] == [5]


class TestSetAside:
    def test_a_conflict_with_the_expected_version(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        store.append("order-1", event_of("order-1", 0), expected_version=0)
        append(place, "order-1", 1, 2, expected_version=0)
        append(place, "order-1", 3)
        append(place, "order-2", 4, expected_version=0)
        relay = place.relay(store, None)
        relay.drain()
        assert numbers(store, "order-1") == [0]
        assert numbers(store, "order-2") == [4]
        (aside,) = relay.set_aside()
        assert (aside.name, aside.count, aside.expected_version) == ("order-1", 2, 0)
        assert "is at version 1" in aside.error
        assert relay.metrics().set_aside == 1
        assert place.waiting() == 2  # the later one waits, too

        assert relay.retry() == 0
        assert relay.retry_all() == 1
        relay.drain()
        assert [row.id for row in relay.set_aside()] == [aside.id]
        assert relay.retry(aside.id, at_any_version=True) == 1
        relay.drain()
        assert numbers(store, "order-1") == [0, 1, 2, 3]

    def test_a_discarded_row_lets_the_later_ones_go(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        append(place, "order-1", 1, expected_version=7)
        append(place, "order-1", 2)
        relay = place.relay(store, None)
        relay.drain()
        (aside,) = relay.set_aside()
        assert "was at version 0" in aside.error or "is at version 0" in aside.error
        assert relay.discard(aside.id + 1) == 0
        assert relay.discard(aside.id) == 1
        relay.drain()
        assert numbers(store, "order-1") == [2]

    def test_expected_versions_of_one_transaction_follow_each_other(
        self, place: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        append(place, "order-1", 1, 2, expected_version=0)
        append(place, "order-1", 3, expected_version=2)
        append(place, "order-1", 4)
        append(place, "order-1", 5, expected_version=4)
        place.relay(store, None).drain()
        assert numbers(store, "order-1") == [1, 2, 3, 4, 5]

    def test_a_server_without_atomic_batches(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        real = store.save_events

        def one_by_one(events: Any, **how: Any) -> Any:
            if len(events) > 1:
                raise AtomicAppendUnsupportedError("not here")
            return real(events, **how)

        store.save_events = one_by_one  # type: ignore[method-assign]
        for n in range(3):
            append(lite, "order-1", n)
            append(lite, f"other-{n}", n)
        append(lite, "order-2", 1, 2)
        with lite.relay(store, None) as relay:
            eventually(lambda: relay.metrics().set_aside)
            assert [row.name for row in relay.set_aside()] == ["order-2"]
        assert numbers(store, "order-1") == [0, 1, 2]
        assert len(store.actors("other-*")) == 3

    def test_an_error_that_no_database_takes_as_it_is(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        def refuse(*_: Any, **__: Any) -> Any:
            raise DuplicateIdError("a \0 and a \ud800")

        store.save_events = refuse  # type: ignore[method-assign]
        append(place, "order-1", 1)
        with place.relay(store, None) as relay:
            eventually(lambda: relay.metrics().set_aside)
            (aside,) = relay.set_aside()
        assert aside.error == "DuplicateIdError: a \\0 and a \\ud800"

    def test_a_row_that_somebody_has_spoilt(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        append(lite, "order-1", 1)
        with lite.engine.begin() as db:
            db.execute(lite.outbox.table.update().values(events='[{"id": 1}]'))
        append(lite, "order-2", 2)
        relay = lite.relay(store, None)
        relay.drain()
        assert "DecodingError" in relay.set_aside()[0].error
        assert numbers(store, "order-2") == [2]

    def test_it_is_logged_once(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        append(lite, "order-1", 1, expected_version=7)
        relay = lite.relay(store, None)
        relay.drain()
        relay.drain()
        flush_logs()
        (record,) = [one for one in caplog.records if getattr(one, "kind", "") == "set_aside"]
        assert record.actor == "order-1"  # type: ignore[attr-defined]

    def test_what_the_server_does_not_let_be_published(self, lite: SQLAlchemyPlace, prefix: str) -> None:
        rights = f'{{publish: {{deny: "{prefix}.events.secret"}}}}'
        config = f"authorization {{ users = [{{user: u, password: p, permissions: {rights}}}] }}"
        with NATSServer(config=config) as server:
            url = f"nats://u:p@127.0.0.1:{server.port}"
            with NATSEventBus(url, prefix=prefix) as bus, bus.subscribe("open") as events:
                lite.write(
                    [Step("publish", "secret", event_of("a", 1)), Step("publish", "open", event_of("a", 2))], "me"
                )
                relay = lite.relay(None, bus)
                relay.drain()
                assert events.get(timeout=2).data == {"n": 2}
                (aside,) = relay.set_aside()
                assert aside.name == "secret"
                assert "ermission" in aside.error

    def test_relays_of_the_same_actors_do_not_stumble_over_each_other(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        """What one has stored makes the other's knowledge wrong: it notices that once, and asks from then on."""
        relay = lite.relay(store, None)
        turns = [sending.Sending(relay._settings, relay._counts, relay._reporter) for _ in range(2)]
        with closing(lite.outbox.on(lite.engine).connect()) as table:
            for n in range(20):
                for actor in range(5):
                    append(lite, f"order-{actor}", n)
                while not turns[n % 2].work_once(table).is_empty:
                    pass
        assert store.metrics().conflicts <= 20, "in the first turns, in a batch and alone"
        assert numbers(store, "order-4") == list(range(20))

    def test_each_row_is_reached_however_many_are_set_aside(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(relay_module, "_LISTED", 2)
        for n in range(5):
            append(lite, f"order-{n}", n, expected_version=7)
        relay = lite.relay(store, None)
        relay.drain()
        assert len(relay.set_aside()) == 2
        assert relay.retry(5, 99, at_any_version=True) == 1
        assert relay.drain() == 1
        assert numbers(store, "order-4") == [4]
        assert relay.retry_all(at_any_version=True) == 4
        assert relay.drain() == 4
        assert lite.waiting() == 0

    def test_an_actor_of_a_stream_that_was_made_anew_begins_anew(
        self, lite: SQLAlchemyPlace, make_store: Callable[..., JetStreamEventStore], prefix: str
    ) -> None:
        store = make_store()
        relay = lite.relay(store, None)
        append(lite, "order-1", 1, 2)
        assert relay.drain() == 2
        ask(make_store(), f"STREAM.DELETE.{prefix}")
        append(lite, "order-1", 3)
        for _ in range(3):
            with suppress(StoreUnavailableError):
                relay.drain()
        assert [event.version for event in make_store().get_events("order-1")] == [1]


class TestBus:
    def test_what_the_server_refuses_of_others_is_no_matter_of_a_row(self, lite: SQLAlchemyPlace, prefix: str) -> None:
        """The row's namespace is a part of every word that the server says."""
        rights = f'{{publish: {{deny: "{prefix}.events.noise"}}}}'
        config = f"authorization {{ users = [{{user: u, password: p, permissions: {rights}}}] }}"
        with (
            NATSServer(config=config) as server,
            NATSEventBus(f"nats://u:p@127.0.0.1:{server.port}", prefix=prefix) as bus,
            bus.subscribe("n") as events,
        ):
            is_over = threading.Event()

            def disturb() -> None:
                while not is_over.wait(0.0005):
                    bus.publish("noise", event_of("a"))

            neighbour = threading.Thread(target=disturb)
            neighbour.start()
            relay = lite.relay(None, bus)
            try:
                eventually(lambda: bus.metrics().rejected)
                for n in range(20):
                    lite.write([Step("publish", "n", event_of("a", n))], "me")
                    assert relay.drain() == 1
            finally:
                is_over.set()
                neighbour.join()
            assert relay.set_aside() == []
            assert [event.data for event in events.get_batch(100, timeout=5)] == [{"n": n} for n in range(20)]

    def test_what_nobody_takes_is_told(
        self, lite: SQLAlchemyPlace, bus: EventBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(sending, "_OTHERS_MAY_TAKE", 0.1)
        monkeypatch.setattr(working, "_COUNT_EVERY", 0.05)
        lite.write([Step("append", "a", event_of("a"))], "me")
        with lite.relay(None, bus, poll=0.05) as relay:
            eventually(lambda: relay.health().numbers["for_others"] == 1)
            eventually(lambda: flush_logs() and "1 rows of outbox aether_outbox" in caplog.text)
            assert relay.health().numbers["waiting"] == 0
        assert "are for a store, which this relay was not given" in caplog.text

    def test_what_is_uncertain_is_published_again(
        self, lite: SQLAlchemyPlace, bus: EventBus, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Also if another thread's flush was told of it."""
        counts, published = bus.metrics, bus.publish
        lite.write([Step("publish", "orders", event_of("a", 1))], "me")
        with bus.subscribe("orders") as events, lite.relay(None, bus) as relay:
            events.get(timeout=5)
        assert relay.closed
        lite.write([Step("publish", "orders", event_of("a", 2))], "me")
        lost = []

        def losing(*given: Any) -> None:
            lost.append(given)
            published(*given)

        monkeypatch.setattr(bus, "publish", losing)
        monkeypatch.setattr(bus, "metrics", lambda: replace(counts(), uncertain=len(lost)))
        relay = lite.relay(None, bus)
        with bus.subscribe("orders") as events:
            with pytest.raises(DeliveryUncertainError):
                relay.drain()
            assert lite.waiting() == 1
            monkeypatch.setattr(bus, "metrics", counts)
            assert relay.drain() == 1
            first, second = events.get_batch(2, timeout=1)
        assert first.id == second.id

    def test_an_event_that_is_too_large_is_set_aside_and_the_later_ones_go(
        self, lite: SQLAlchemyPlace, make_bus: Callable[..., NATSEventBus]
    ) -> None:
        bus = make_bus()
        large = Event(event_type="Large", actor_id="a", data={"text": "x" * 2**21})
        with bus.subscribe("orders") as events:
            lite.write([Step("publish", "orders", large), Step("publish", "orders", event_of("a", 2))], "me")
            relay = lite.relay(None, bus)
            relay.drain()
            assert events.get(timeout=5).data == {"n": 2}
            assert "EventTooLargeError" in relay.set_aside()[0].error
            relay.close()


class TestThread:
    def test_a_commit_of_the_same_process_wakes_it(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        with place.relay(store, None, poll=60.0) as relay:
            for n in range(3):
                append(place, "order-1", n)
                becomes(lambda: len(store.get_events("order-1")), n + 1)
            eventually(lambda: relay.health().ok)
        assert not relay.health().alive

    def test_a_commit_of_another_process_is_polled_for(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        with lite.relay(store, None, poll=0.01):
            other = SQLAlchemyPlace(lite.url)
            with other.engine.begin() as db:  # no session that could tell
                other.outbox.append(db, "order-1", event_of("order-1", 1))
            other.engine.dispose()
            becomes(lambda: numbers(store, "order-1"), [1])

    @ON_ONE
    def test_it_waits_for_a_store_that_is_away(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        real, fails = store.save_events, threading.Event()

        def save(*given: Any, **how: Any) -> Any:
            if fails.is_set():
                raise StoreUnavailableError("nobody leads")
            return real(*given, **how)

        store.save_events = save  # type: ignore[method-assign]
        fails.set()
        append(place, "order-1", 1)
        with place.relay(store, None, poll=0.01) as relay:
            eventually(lambda: not relay.health().ok)
            assert "nobody leads" in relay.health().reasons[0]
            assert relay.health().alive
            fails.clear()
            becomes(lambda: numbers(store, "order-1"), [1])
            eventually(lambda: relay.health().ok)
            assert relay.metrics().failures
            eventually(lambda: not relay.health().numbers["waiting"])

    @ON_ONE
    def test_several_relays_share_the_work(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        relays = [place.relay(store, None, poll=0.01, batch=7) for _ in range(3)]
        for relay in relays:
            relay.start()
        try:
            for n in range(60):
                append(place, f"order-{n % 5}", n)
            becomes(store.last_sequence, 60)
        finally:
            for relay in relays:
                assert relay.close()
        for actor in range(5):
            assert numbers(store, f"order-{actor}") == list(range(actor, 60, 5))
        assert sum(relay.metrics().stored for relay in relays) == 60

    def test_on_sqlite_one_works_and_the_next_takes_over(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore
    ) -> None:
        with lite.relay(store, None) as first:
            eventually(lambda: "which works" in repr(first))
            with lite.relay(store, None, poll=0.01) as second:
                eventually(lambda: "which stands by" in repr(second))
                assert second.health().ok
                first.close()
                eventually(lambda: "which works" in repr(second))

    def test_a_store_that_is_closed_ends_it(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        relay = lite.relay(store, None, poll=0.01)
        relay.start()
        store.close()
        append(lite, "order-1", 1)
        with pytest.raises(Exception, match="closed"):
            relay.wait(10)
        assert not relay.health().alive
        relay.close()

    def test_it_starts_again(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        relay = lite.relay(store, None)
        relay.start()
        relay.start()
        assert relay.close()
        assert relay.close()
        with pytest.raises(Exception, match="is closed"):
            relay.start()

    def test_without_a_target_there_is_nothing_to_do(self, lite: SQLAlchemyPlace) -> None:
        with pytest.raises(InvalidOptionError, match="store= or bus="):
            Relay(lite.outbox.on(lite.engine))


class TestItsDatabase:
    def test_a_pool_that_others_have_used_up_is_waited_for(self, tmp_path: Path, store: InMemoryEventStore) -> None:
        place = sqlite_place(tmp_path)
        place.engine.dispose()
        place.engine = create_engine(place.url, pool_size=1, max_overflow=0, pool_timeout=0.05)
        relay = place.relay(store, None)
        with place.engine.connect(), pytest.raises(OutboxError, match="QueuePool"):
            relay.start(timeout=0.5)
        relay.start()
        relay.close()
        place.engine.dispose()

    def test_in_memory_it_has_no_thread(self, store: InMemoryEventStore) -> None:
        place = SQLAlchemyPlace("sqlite:///:memory:")
        place.make_tables()
        append(place, "order-1", 1)
        relay = place.relay(store, None)
        with pytest.raises(OutboxError, match="name a file, or call drain"):
            relay.start()
        assert relay.drain() == 1
        relay.close()
        place.engine.dispose()

    def test_in_memory_it_ends_no_transaction_of_the_users(self, store: InMemoryEventStore) -> None:
        place = SQLAlchemyPlace("sqlite:///:memory:")
        place.make_tables()
        relay = place.relay(store, None)
        with Session(place.engine) as session:
            place.outbox.append(session, "order-1", event_of("order-1", 1))
            session.flush()
            with pytest.raises(OutboxError, match="commit the session first"):
                relay.drain()
            session.commit()
        assert relay.drain() == 1
        place.engine.dispose()

    def test_without_the_table_it_says_what_to_do(self, place: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        place.metadata.drop_all(place.engine)
        with pytest.raises(OutboxError, match=r"make it by metadata\.create_all"):
            place.relay(store, None).drain()

    def test_a_turn_that_cannot_be_had_now_is_waited_for(
        self, lite: SQLAlchemyPlace, store: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        real, tries = Turn.take, []

        def scarce(turn: Turn) -> bool:
            tries.append(turn)
            if len(tries) < 3:
                raise OSError(24, "Too many open files")
            return real(turn)

        monkeypatch.setattr(Turn, "take", scarce)
        append(lite, "order-1", 1)
        with lite.relay(store, None) as relay:
            eventually(lambda: numbers(store, "order-1") == [1])
            assert relay.metrics().failures == 2


class TestPrograms:
    def test_a_worker_has_a_relay(self, lite: SQLAlchemyPlace, store: InMemoryEventStore) -> None:
        relay = lite.relay(store, None)
        worker = Worker(store=store)
        assert worker.relay(relay) is relay
        with pytest.raises(InvalidOptionError, match="already"):
            worker.relay(relay)
        with pytest.raises(InvalidOptionError, match="takes a Relay"):
            worker.relay(store)  # type: ignore[arg-type]
        with worker:
            append(lite, "order-1", 1)
            becomes(lambda: numbers(store, "order-1"), [1])
            assert worker.health().ok
        assert relay.closed

    @pytest.mark.slow
    def test_a_forked_child_does_not_relay_and_can_begin(self, postgres_port: str) -> None:
        """Not with SQLite: its locks are part of the memory that a fork copies, whatever they are at that moment."""
        place = postgres_place(postgres_port)
        assert run(relaying.forks, place.url) == "[1]\n[1, 2]\n"
        place.engine.dispose()

    @pytest.mark.slow
    def test_run_ends_in_order(self, lite: SQLAlchemyPlace) -> None:
        program = start(relaying.runs, lite.url)
        assert program.stdout is not None
        assert program.stdout.readline() == "works\n"
        program.send_signal(signal.SIGTERM)
        assert finish(program) == "ended\n"

    @pytest.mark.slow
    def test_the_end_of_the_program_ends_it(self, lite: SQLAlchemyPlace) -> None:
        assert run(relaying.just_ends, lite.url) == "works\n"


class TestServer:
    """With a server, as in production."""

    @ON_ONE
    def test_events_reach_it_through_a_restart(
        self, place: SQLAlchemyPlace, own_server: NATSServer, prefix: str
    ) -> None:
        url = own_server.url
        with NATSEventBus(url, prefix=f"{prefix}-bus") as bus, JetStreamEventStore(url, prefix) as store:
            with place.relay(store, bus, poll=0.02) as relay:
                for n in range(20):
                    steps = [Step("append", f"order-{n % 3}", event_of(f"order-{n % 3}", n))]
                    place.write([*steps, Step("publish", "orders", event_of("a", n))], "me")
                    if n == 10:
                        own_server.restart()
                eventually(lambda: not place.waiting())
                becomes(lambda: relay.metrics().stored, 20)  # it counts after the commit
            for actor in range(3):
                assert numbers(store, f"order-{actor}") == list(range(actor, 20, 3))

    @ON_ONE
    def test_the_actors_of_one_batch_do_not_disturb_each_other(
        self, place: SQLAlchemyPlace, make_store: Callable[..., JetStreamEventStore]
    ) -> None:
        store = make_store()
        for n in range(30):
            append(place, f"order-{n}", n)
        relay = place.relay(store, None)
        relay.run_once()
        for n in range(0, 30, 7):
            store.append(f"order-{n}", event_of(f"order-{n}", -1), expected_version=0)
        relay.drain()
        for n in range(30):
            assert numbers(store, f"order-{n}") == ([-1, n] if n % 7 == 0 else [n])


class _DeadError(BaseException):
    """What ends a relay at once, as a signal that kills does."""


def dying(relay: Relay, step: str) -> Relay:
    """Have a relay die at a step of the database, when the store has taken something."""
    connect = relay._settings.database.connect

    def connecting() -> OutboxTable:
        table = connect()
        if step == "commit":
            real = table.transaction

            def transaction() -> Any:
                return _dies_at_the_end(real())

            table.transaction = transaction  # type: ignore[method-assign]
        else:
            setattr(table, step, _dies)
        return table

    relay._settings.database.connect = connecting  # type: ignore[method-assign]
    return relay


def _dies(*_: Any, **__: Any) -> Any:
    raise _DeadError


class _dies_at_the_end:
    deaths = 0

    def __init__(self, real: Any) -> None:
        self._real = real

    def __enter__(self) -> None:
        self._real.__enter__()

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        _dies_at_the_end.deaths += 1
        if kind is None and _dies_at_the_end.deaths % 2:
            self._real.__exit__(_DeadError, _DeadError(), None)
            raise _DeadError
        self._real.__exit__(kind, error, trace)
