"""What an observer sees of a store on a server, and what handlers know of the event that they handle."""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from itertools import count

import pytest

from aether_sync import (
    Delivery,
    Event,
    HandlingContext,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Operation,
    Stamp,
    StoreError,
    current_handling,
    instrument,
)

from ..support.common import eventually, make_event, run_threads
from ..support.inside import buffer_of
from ..support.raw import RawClient
from ..support.stores import save

MakeStore = Callable[..., JetStreamEventStore]
MakeBus = Callable[..., NATSEventBus]


class Observed:
    """Notes what it sees, and gives each event that is sent a number of its own."""

    def __init__(self) -> None:
        self.seen: list[tuple[Operation, str]] = []
        self._numbers = count(1)

    def __call__(self, operation: Operation) -> AbstractContextManager[Stamp | None]:
        return self._around(operation)

    @contextmanager
    def _around(self, operation: Operation) -> Iterator[Stamp | None]:
        try:
            yield self._stamp
        except BaseException as error:
            self.seen.append((operation, type(error).__name__))
            raise
        self.seen.append((operation, ""))

    def _stamp(self, event: Event) -> Mapping[str, str]:
        return {"stamp": str(next(self._numbers))}

    def of(self, *names: str) -> list[Operation]:
        return [one for one, _ in self.seen if one.name in names]


@pytest.fixture
def observed() -> Iterator[Observed]:
    observed = Observed()
    take_off = instrument(observed)
    yield observed
    take_off()


class TestSaving:
    def test_the_stamp_is_stored(self, store: JetStreamEventStore, observed: Observed) -> None:
        (stored,) = store.append("thing-1", make_event(1), expected_version=0)
        assert stored.event.metadata == {"stamp": "1"}
        store.save_events([make_event(1, version=2), make_event(2, version=1)])
        assert [one.metadata["stamp"] for one in store.get_events("thing-1")] == ["1", "2"]
        assert [(one.name, one.destination, one.is_batch) for one in observed.of("append", "save")] == [
            ("append", store.stream, False),
            ("save", store.stream, True),
        ]

    def test_all_attempts_of_a_save_store_the_same(self, make_store: MakeStore, observed: Observed) -> None:
        store, other = make_store(), make_store()
        store.append("thing-1", make_event(1), expected_version=0)
        other.append("thing-1", make_event(1), expected_version=1)  # of which the first node does not know
        stored = store.save_event(make_event(1, version=9))  # so the server refuses the first attempt
        assert stored.event.metadata == {"stamp": "3"}
        assert [one.metadata["stamp"] for one in other.get_events("thing-1")] == ["1", "2", "3"]

    def test_a_save_that_is_done_again_is_recognised(self, make_store: MakeStore, observed: Observed) -> None:
        event = make_event(1, version=1)
        first, second = make_store().save_event(event), make_store().save_event(event)
        assert (second.duplicate, second.sequence) == (True, first.sequence)
        assert second.event.metadata == {"stamp": "1"}

    @pytest.mark.concurrent
    def test_saves_that_travel_together_keep_their_own(self, store: JetStreamEventStore, observed: Observed) -> None:
        def write(number: int) -> None:
            for turn in range(5):
                events = [make_event(number, version=2 * turn + one, id=f"{number}/{turn}/{one}") for one in (1, 2)]
                stored = store.save_events(events)
                assert len({one.event.metadata["stamp"] for one in stored}) == 2

        run_threads(*(lambda number=number: write(number) for number in range(6)))  # type: ignore[misc]
        stamps = [one.event.metadata["stamp"] for one in store.read_all(limit=100)]
        assert sorted(map(int, stamps)) == list(range(1, 61))


class TestOnTheWire:
    def test_the_stamp_travels_in_metadata(
        self, make_bus: MakeBus, server: NATSServer, prefix: str, observed: Observed
    ) -> None:
        bus, other = make_bus(), make_bus()
        port = int(server.url.rpartition(":")[2])
        with RawClient(port) as raw, other.subscribe("n") as events, bus.subscribe("n") as own:
            raw.subscribe(f"{prefix}.events.n")
            raw.flush()
            bus.publish("n", make_event(1))
            _, payload = raw.next_message()
            assert json.loads(payload)["event"]["metadata"] == {"stamp": "1"}
            there, here = events.get(5), own.get(5)
            assert there == here
            assert here.metadata == {"stamp": "1"}
            bus.flush()
            assert own.get_batch(1, 0) == []  # the node's own event does not come back


class TestConsumers:
    def test_what_a_program_takes_and_settles_is_seen(self, make_store: MakeStore, observed: Observed) -> None:
        store = make_store(namespace="tenant-a")
        save(store, 4)
        with store.consumer("mailer").iterate() as deliveries:
            first = next(deliveries)
            assert (first.consumer, first.stream, first.namespace) == ("mailer", store.stream, "tenant-a")
            first.ack()
            deliveries.get(5).nak(60)
            third = deliveries.get(5)
            third.reject("no")
            with pytest.raises(StoreError):
                third.ack()
            (fourth,) = deliveries.get_batch(5, 5)
            fourth.ack(confirm=True)
        assert [one.is_batch for one in observed.of("receive")] == [False, False, False, True]
        settled = [(one.name, error) for one, error in observed.seen if one.kind == "settle"]
        assert settled == [("ack", ""), ("nak", ""), ("reject", ""), ("ack", "StoreError"), ("ack", "")]
        ours = [one for one, _ in observed.seen if one.kind in ("receive", "settle")]
        assert {(one.destination, one.consumer) for one in ours} == {(store.stream, "mailer")}
        assert observed.of("ack")[0].sequence == first.sequence

    def test_followers_are_seen(self, store: JetStreamEventStore, observed: Observed) -> None:
        save(store, 4)
        with store.follow() as events:
            eventually(lambda: len(buffer_of(events).arrived) == 4, "all of them")
            next(events)
            events.get(5)
            assert len(events.get_batch(5, 5)) == 2
        received = observed.of("receive")
        assert [(len(one.events), one.is_batch, one.destination) for one in received] == [
            (1, False, store.stream),
            (1, False, store.stream),
            (2, True, store.stream),
        ]


class TestRunners:
    def test_a_handler_knows_what_it_handles(self, make_store: MakeStore) -> None:
        store = make_store(namespace="tenant-a")
        found: dict[str, HandlingContext | None] = {}

        def handle(delivery: Delivery) -> None:
            found[delivery.event.id] = current_handling()

        stored = [
            store.append(f"thing-{n}", make_event(n).with_metadata(correlation_id=f"c-{n}"), expected_version=0)[0]
            for n in range(20)
        ]
        with store.consumer("mailer").run(handle):
            eventually(lambda: len(found) == 20)
        assert found == {
            one.event.id: HandlingContext(
                one.event.id,
                "Happened",
                one.event.actor_id,
                "tenant-a",
                one.event.correlation_id,
                "mailer",
                one.sequence,
            )
            for one in stored
        }

    def test_a_handler_that_raises_leaves_nothing_to_the_next(self, store: JetStreamEventStore) -> None:
        found: list[tuple[int, HandlingContext | None]] = []
        threads: set[threading.Thread] = set()

        def handle(delivery: Delivery) -> None:
            threads.add(threading.current_thread())
            found.append((delivery.sequence, current_handling()))
            if delivery.sequence % 2 and delivery.attempt == 1:
                raise SystemExit

        save(store, 10)
        with store.consumer("mailer").run(handle, threads=1, retry_delay=0.01):
            eventually(lambda: len(found) == 15)
        assert len(threads) == 1
        assert [context and context.sequence for _, context in found] == [sequence for sequence, _ in found]

    def test_a_handler_runs_within_what_is_seen(self, store: JetStreamEventStore, observed: Observed) -> None:
        def handle(delivery: Delivery) -> None:
            if delivery.attempt == 1:
                raise LookupError

        save(store, 1)
        observed.seen.clear()
        with store.consumer("mailer").run(handle, retry_delay=0.01):
            eventually(lambda: observed.of("ack"))
        seen = [(one.name, one.is_pushed, one.consumer, error) for one, error in observed.seen]
        assert seen == [
            ("process", True, "mailer", "LookupError"),
            ("process", True, "mailer", ""),
            ("ack", False, "mailer", ""),
        ]

    def test_what_a_handler_sets_ends_with_it(self, store: JetStreamEventStore) -> None:
        tenant: ContextVar[str] = ContextVar("tenant", default="")
        seen: list[str] = []

        def handle(delivery: Delivery) -> None:
            seen.append(tenant.get())
            tenant.set(f"of event {delivery.sequence}")

        save(store, 3)
        with store.consumer("mailer").run(handle, threads=1):
            eventually(lambda: len(seen) == 3)
        assert seen == ["", "", ""]

    def test_what_is_given_up_is_seen(self, store: JetStreamEventStore, observed: Observed) -> None:
        def handle(delivery: Delivery) -> None:
            raise LookupError

        save(store, 1)
        consumer = store.consumer("mailer", max_deliver=1)
        with consumer.run(handle):
            eventually(lambda: observed.of("reject"))
        assert len(consumer.dead_letters()) == 1

    @pytest.mark.concurrent
    def test_what_is_put_on_while_handlers_run_harms_none(self, store: JetStreamEventStore) -> None:
        handled: set[int] = set()
        save(store, 100)

        def handle(delivery: Delivery) -> None:
            handled.add(delivery.sequence)
            take_off = instrument(Observed())
            take_off()

        with store.consumer("mailer").run(handle):
            eventually(lambda: len(handled) == 100)
