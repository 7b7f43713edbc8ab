"""Durable consumers: each event to one of those who share it, until it is acknowledged or given up."""

import gc
import logging
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    DeadlineExceededError,
    Event,
    InvalidOptionError,
    JetStreamEventStore,
    NATSServer,
    PermissionDeniedError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
    StreamMismatchError,
    flush_logs,
)
from aether_sync.stores._jetstream.pull import PullRequester
from aether_sync.stores.consumers.arrivals import Arrivals
from aether_sync.stores.consumers.pulled import PulledConsumption

from ..programs import consumers as programs
from ..programs.run import finish, run, start
from ..support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ..support.inside import buffer_of, names_of, on_write
from ..support.proxy import Proxy
from ..support.raw import RawClient
from ..support.signals import before
from ..support.stores import ACK_WAIT, put, save, take_all

MakeStore = Callable[..., JetStreamEventStore]


def spoil(store: JetStreamEventStore, data: bytes = b"no event") -> int:
    """Store what is no event; return its sequence."""
    return put(store, data)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # whose close() was cut off
@pytest.mark.parametrize(
    ("function", "line"),
    [
        (PulledConsumption._close_by, "self._buffer.changed.wake_all"),
        (PulledConsumption._close_by, "self._requester.close"),
        (PullRequester.close, "unsubscribe"),
        (PulledConsumption._close_by, "self._requester.await_last"),
    ],
)
def test_an_interrupted_close_gives_back_what_was_not_taken(
    make_store: MakeStore, function: Callable[..., Any], line: str
) -> None:
    store, other = make_store(), make_store()
    save(store, 20)
    events = store.consumer("c", ack_wait=ACK_WAIT).iterate(prefetch=30)
    eventually(lambda: len(buffer_of(events).arrived) == 20, "all events")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), before(function, line, interrupt):
        events.close()
    with other.consumer("c", ack_wait=ACK_WAIT).iterate() as rest:
        assert {one.sequence for one in take_all(rest, 20)} == set(range(1, 21))
        eventually(lambda: events._requester.is_over)
        save(other, 10, actors=1, actor_id="later")  # nothing of it goes to who is closed
        later = take_all(rest, 10)
    assert {(one.sequence, one.attempt) for one in later} == {(sequence, 1) for sequence in range(21, 31)}


def test_a_handler_that_closes_it_while_it_takes_ends_it(make_store: MakeStore) -> None:
    store = make_store()
    save(store, 20)
    events = store.consumer("c", ack_wait=ACK_WAIT).iterate()
    eventually(lambda: len(buffer_of(events).arrived) == 20, "all events")
    with before(Arrivals.pop, "popleft()", events.close), pytest.raises(StoreClosedError):
        events.get(timeout=PATIENCE)
    with store.consumer("c", ack_wait=ACK_WAIT).iterate() as rest:
        assert {one.sequence for one in take_all(rest, 20)} == set(range(1, 21))


class TestSharing:
    def test_it_asks_again_at_once_when_a_question_ends(
        self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("aether_sync.stores._jetstream.pull.EXPIRES", 0.2)
        monkeypatch.setattr("aether_sync.stores._jetstream.pull._HEARTBEAT", 0.05)
        with store.consumer("c").iterate() as events:
            questions: list[bytes] = []
            on_write(store, monkeypatch, questions.append)

            def late() -> None:
                begun = time.monotonic()
                eventually(lambda: len(questions) == 5)
                assert time.monotonic() - begun < 2.5 * UNIT
                save(store, 1)

            run_threads(lambda: take_all(events, 1), late)


class TestWhatItIsMadeWith:
    def test_only_what_is_wanted_is_handed_out(self, store: JetStreamEventStore) -> None:
        save(store, 10)
        store.save_event(Event(event_type="Undone", actor_id="a-1.x", version=1))
        store.save_event(Event(event_type="Undone", actor_id="a-1", version=9))
        with store.consumer("c", actors="a-*", event_types=["Undone"]).iterate() as events:
            assert events.get(timeout=PATIENCE).sequence == 12
            assert events.get_batch(1, timeout=0) == []
            eventually(lambda: store.consumers()[0].unacknowledged == 1, "the rest to be passed by")
        with store.consumer("d", actors="a-1").iterate() as events:
            assert [one.sequence for one in take_all(events, 2)] == [2, 12]

    def test_what_is_advised_of_the_dead_letter_streams_own_forgets_no_other(self, store: JetStreamEventStore) -> None:
        store.consumer("c").iterate(dead_letters=True).close()
        with pytest.raises(StreamMismatchError, match=r"'c' of stream '.*~dead-letters' .* 30 s, not 60 s") as caught:
            store.consumer("c", ack_wait=60.0).iterate(dead_letters=True)
        assert "delete" not in str(caught.value)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"name": ""},
            {"name": "x" * 201},
            {"start": "last"},
            {"start": -1},
            {"start": True},
            {"ack_wait": 0},
            {"max_deliver": 0},
            {"max_ack_pending": 0},
            {"event_types": "A"},
            {"actors": 1},
        ],
        ids=str,
    )
    def test_what_no_consumer_can_be_is_refused(self, store: JetStreamEventStore, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidOptionError):
            store.consumer(**{"name": "c"} | wrong)
        assert not store.connection.is_connected

    @pytest.mark.parametrize("wrong", [{"prefetch": 0}, {"timeout": -1}], ids=str)
    def test_what_no_iteration_can_be_is_refused(self, store: JetStreamEventStore, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidOptionError, match=next(iter(wrong))):
            store.consumer("c").iterate(**wrong)
        assert not store.connection.is_connected

    def test_more_types_than_the_server_takes_are_refused_and_the_connection_stays(
        self, store: JetStreamEventStore
    ) -> None:
        """It may be shared, and a server that gets more than its ``max_payload`` ends it."""
        store.start(PATIENCE)
        many = store.consumer("c", event_types=[f"{n:06}-{'x' * 1_000}" for n in range(1_100)])
        with pytest.raises(StoreUnavailableError, match="larger than the server's max_payload"):
            many.iterate(timeout=UNIT)
        assert (store.connection.is_connected, store.connection.reconnects) == (True, 0)


class TestSettling:
    def test_what_waits_here_is_not_given_to_another(self, store: JetStreamEventStore) -> None:
        save(store, 3)
        with store.consumer("c", ack_wait=ACK_WAIT).iterate() as events:
            eventually(lambda: len(buffer_of(events).arrived) == 3)
            with store.consumer("c", ack_wait=ACK_WAIT).iterate() as other:
                assert other.get_batch(1, timeout=2 * ACK_WAIT) == []
            assert [one.attempt for one in take_all(events, 3)] == [1, 1, 1]

    @pytest.mark.fault
    def test_nobody_confirms_while_the_server_is_away(self, make_store: MakeStore, own_server: NATSServer) -> None:
        store = make_store(own_server.url)
        save(store, 1)
        with store.consumer("c").iterate() as events:
            delivery = events.get(timeout=PATIENCE)
            own_server.stop()  # one that is killed may forget the delivery, and never confirms it
            with pytest.raises(DeadlineExceededError, match="not confirmed"):
                delivery.ack(confirm=True, timeout=0.3 * UNIT)
            own_server.start()
            delivery.ack(confirm=True, timeout=PATIENCE)
            assert store.consumers(timeout=PATIENCE)[0].acknowledged == 1


class TestDeadLetters:
    def test_what_points_to_no_event_is_passed_by(
        self, store: JetStreamEventStore, server: NATSServer, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(store, 2)
        junk = [b"junk", b"{}", *(b'{"stream_seq": %d, "timestamp": "2026-01-02T03:04:05Z"}' % n for n in (-1, 2**64))]
        junk.append(b'{"stream_seq": 1, "timestamp": "2026-01-02T03:04:05"}')
        with store.consumer("c").iterate() as events, RawClient(server.port) as client:
            for n, data in enumerate(junk):
                client.send(b"PUB %b.c %d\r\n%b\r\n" % (names_of(store).dead_letters.encode(), len(data), data))
                client.flush()
                if n < 2:
                    events.get(timeout=PATIENCE).reject("no")
        with caplog.at_level(logging.WARNING):
            assert [one.sequence for one in store.consumer("c").dead_letters()] == [1, 2]
            assert flush_logs(PATIENCE)
        (record,) = caplog.records
        assert record.kind == "malformed_record"  # type: ignore[attr-defined]
        assert "record 1 of the dead-letter stream" in record.getMessage()
        assert store.consumer("c").discard_dead_letter(1)
        with store.consumer("c").iterate(dead_letters=True) as events:
            assert [one.sequence for one in take_all(events, 1)] == [2]
        eventually(lambda: store.consumer("c").dead_letters() == [])

    def test_a_slow_link_is_no_hindrance(self, make_store: MakeStore, server: NATSServer) -> None:
        store = make_store()
        save(store, 300)
        with store.consumer("c").iterate(prefetch=300) as events:
            for _ in range(300):
                events.get(timeout=PATIENCE).reject("no")
        with Proxy(server.port) as proxy, make_store(proxy.url) as far:
            far.start()
            proxy.slow_down(delay=0.02 * UNIT)  # 12 s for as many questions one after the other
            assert len(far.consumer("c").dead_letters(timeout=8 * UNIT)) == 300
            proxy.restore()

    @pytest.mark.slow
    @pytest.mark.fault
    def test_what_a_process_dies_of_is_there(self, store: JetStreamEventStore, server: NATSServer) -> None:
        save(store, 1)
        ack_wait = 2 * UNIT  # a worker that is held up for longer is given its event again, and uses up both attempts
        for attempt in (1, 2):
            worker = start(programs.takes_and_waits, server.url, names_of(store).stream, ack_wait, 2)
            assert worker.stdout is not None
            assert worker.stdout.readline().split() == ["1", str(attempt)]
            worker.kill()
            finish(worker, status=-signal.SIGKILL)
        with store.consumer("worker", ack_wait=ack_wait, max_deliver=2).iterate() as events:
            eventually(
                lambda: events.get_batch(1, timeout=0) == [] and store.consumer("worker").dead_letters(),
                "it to be given up",
            )

    def test_what_is_no_event_is_there(self, store: JetStreamEventStore, caplog: pytest.LogCaptureFixture) -> None:
        save(store, 1)
        bad = spoil(store)
        store.save_event(Event(event_type="Done", actor_id="a-0", version=2))
        with caplog.at_level(logging.WARNING), store.consumer("c").iterate() as events:
            assert [one.sequence for one in take_all(events, 2)] == [1, 3]
            store.consumer("c").wait_for(3, timeout=PATIENCE)
            assert flush_logs(PATIENCE)
        (found,) = store.consumer("c").dead_letters()
        assert (found.sequence, found.event) == (bad, None)
        assert f"record {bad}" in found.reason
        assert f"record {bad}" in caplog.text
        with store.consumer("c").iterate(dead_letters=True) as events:
            assert events.get_batch(1, timeout=ACK_WAIT) == []
        assert len(store.consumer("c").dead_letters()) == 1

    def test_a_subject_that_is_no_text_is_there(
        self, store: JetStreamEventStore, server: NATSServer, prefix: str
    ) -> None:
        save(store, 1)
        with RawClient(server.port) as client:
            client.send(b"PUB %b.events.a.\xff\xfe 2\r\n{}\r\n" % prefix.encode())
            client.flush()
        store.save_event(Event(event_type="Done", actor_id="a-0", version=2))
        with store.consumer("c").iterate() as events:
            assert [one.sequence for one in take_all(events, 2)] == [1, 3]
        assert [(found.sequence, found.event) for found in store.consumer("c").dead_letters()] == [(2, None)]


def test_who_may_not_acknowledge_is_told() -> None:
    config = """
    authorization { users: [ { user: u, password: p, permissions: { publish: { allow: ">", deny: "$JS.ACK.>" } } } ] }
    """
    with NATSServer(config=config) as server, JetStreamEventStore(server.url.replace("//", "//u:p@")) as store:
        save(store, 1)
        with store.consumer("c").iterate() as events, pytest.raises(PermissionDeniedError, match="ACK"):
            events.get(timeout=PATIENCE).ack(confirm=True, timeout=PATIENCE)


class TestItsEnd:
    def test_what_was_not_taken_is_given_back(self, make_store: MakeStore) -> None:
        store = make_store()
        save(store, 500)
        with store.consumer("c", max_ack_pending=500).iterate(prefetch=400) as events:
            kept = [events.get(timeout=PATIENCE) for _ in range(10)]
            with make_store().consumer("c", max_ack_pending=500).iterate(prefetch=400) as other:
                events.close()
                begun = time.monotonic()
                rest = take_all(other, 490)
                assert time.monotonic() - begun < PATIENCE / 2, "nothing waits for the ack wait"
                kept[0].ack(confirm=True, timeout=PATIENCE)
        assert {one.sequence for one in (*kept, *rest)} == set(range(1, 501))

    @pytest.mark.concurrent
    @pytest.mark.parametrize(("count", "closes"), first_of([(1_000, 6), (5_000, 20)]))
    def test_nothing_is_held_by_who_closes_under_load(self, make_store: MakeStore, count: int, closes: int) -> None:
        store, other = make_store(), make_store()
        save(store, count)
        taken: list[int] = []
        for n in range(closes):
            with store.consumer("c", max_deliver=50).iterate(prefetch=500) as events:
                taken += [one.sequence for one in take_all(events, n % 2)]  # most of it is on its way
        with other.consumer("c", max_deliver=50).iterate(prefetch=500) as events:
            begun = time.monotonic()
            while set(taken) != set(range(1, count + 1)):
                taken += [one.sequence for one in take_all(events, 1)]
            assert time.monotonic() - begun < PATIENCE, "nothing waits for the ack wait"

    def test_one_that_was_dropped_is_warned_of(self, make_store: MakeStore) -> None:
        store = make_store()
        save(store, 3)
        events = store.consumer("c", ack_wait=8 * UNIT).iterate()
        events.get(timeout=PATIENCE).ack()
        eventually(lambda: len(buffer_of(events).arrived) == 2)
        with pytest.warns(ResourceWarning, match="unclosed <Consumption 'c'"):
            del events
            gc.collect()
        begun = time.monotonic()
        with make_store().consumer("c", ack_wait=8 * UNIT).iterate() as events:
            assert len(take_all(events, 2)) == 2
        assert time.monotonic() - begun < 4 * UNIT

    @pytest.mark.slow
    def test_the_process_ends(self, store: JetStreamEventStore, server: NATSServer) -> None:
        save(store, 1)
        output = run(programs.ends_while_iterating, server.url, names_of(store).stream, says="unclosed <Connection")
        assert "ended" in output

    @pytest.mark.slow
    def test_a_child_has_its_own(self, store: JetStreamEventStore, server: NATSServer) -> None:
        save(store, 5)
        run(programs.forks, server.url, names_of(store).stream)


class TestFaults:
    pytestmark = pytest.mark.fault

    @pytest.mark.parametrize("fault", first_of([lambda server: (server.kill(), server.start()), NATSServer.restart]))
    def test_it_goes_on_after_a_restart(
        self, make_store: MakeStore, own_server: NATSServer, fault: Callable[[NATSServer], object]
    ) -> None:
        store = make_store(own_server.url)
        save(store, 600)
        taken: list[int] = []
        with store.consumer("c", ack_wait=5 * ACK_WAIT, max_deliver=50).iterate() as events:
            for end in (200, 400, 600):
                while len(set(taken)) < end:
                    taken += [one.sequence for one in take_all(events, 1)]
                if end < 600:
                    fault(own_server)
            last = threading.Thread(target=lambda: [one.ack() for one in events])  # what the server has forgotten of
            last.start()
            store.consumer("c").wait_for(600, timeout=PATIENCE)
        last.join(PATIENCE)
        assert sorted(set(taken)) == list(range(1, 601))

    def test_what_a_killed_process_had_is_given_to_another(
        self, store: JetStreamEventStore, server: NATSServer
    ) -> None:
        worker = start(programs.works, server.url, names_of(store).stream, ACK_WAIT)
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
        save(store, 600)
        eventually(lambda: store.consumers()[0].acknowledged > 100)
        worker.kill()
        taken = [int(line) for line in finish(worker, status=-signal.SIGKILL).split()]
        with store.consumer("worker", ack_wait=ACK_WAIT).iterate() as events:
            while set(taken) != set(range(1, 601)):
                taken += [one.sequence for one in take_all(events, 1)]

    @pytest.mark.slow
    def test_a_process_that_is_killed_holds_nothing_up(self, store: JetStreamEventStore, server: NATSServer) -> None:
        workers = [start(programs.works, server.url, names_of(store).stream, ACK_WAIT) for _ in range(3)]
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        save(store, 3_000)
        eventually(lambda: store.consumers()[0].acknowledged > 100)
        workers[0].kill()
        store.consumer("worker").wait_for(3_000, timeout=PATIENCE)
        outputs = [finish(workers[0], status=-signal.SIGKILL)]
        for worker in workers[1:]:
            assert worker.stdin is not None
            worker.stdin.write("\n")
            worker.stdin.flush()
            outputs.append(finish(worker))
        taken = [int(line) for output in outputs for line in output.split()]
        assert set(taken) == set(range(1, 3_001))


class TestTheObject:
    def test_it_asks_the_server_nothing(self, store: JetStreamEventStore) -> None:
        assert store.consumer("c").name == "c"
        assert repr(store.consumer("c")) == "<Consumer 'c'>"
        assert not store.connection.is_connected

    def test_the_server_counts_what_was_given_up_as_redelivered(self, store: JetStreamEventStore) -> None:
        save(store, 10)
        consumer = store.consumer("c", max_deliver=2, ack_wait=ACK_WAIT)
        with consumer.iterate() as events:
            for _ in range(20):  # and nobody settles them
                events.get(timeout=PATIENCE)
            eventually(lambda: events.get_batch(1, timeout=0) == [] and len(consumer.dead_letters()) == 10)
        state = consumer.state()
        assert state is not None
        assert (state.unacknowledged, state.redelivered) == (0, 10)


class TestWaitingForIt:
    def test_nobody_is_waited_for(self, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("aether_sync.stores.consumers.durable._RECOVERY", 0.2 * UNIT)
        store.start()
        with pytest.raises(StoreError, match="there is no consumer 'c'"):
            store.consumer("c").wait_for(1, timeout=PATIENCE)
