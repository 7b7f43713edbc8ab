"""The runner: handlers on threads of its own, each actor's events in order, failures tried again and then given up."""

import gc
import logging
import random
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from aether_sync import CloseReport, Delivery, Event, EventStore, StoreError, flush_logs
from aether_sync._runtime import threads
from aether_sync.stores.consumers import runner as runners

from ...support.common import PATIENCE, UNIT, eventually, run_threads
from ...support.inside import held_by, scheduler_of
from ...support.stores import ACK_WAIT, save
from .base import TwoNodes

QUICK = 0.001 * UNIT


class Recorder:
    """A handler that notes what it has, and sees that no actor has two events in work at once."""

    def __init__(self, fails: Callable[[Delivery], object] = lambda _: False) -> None:
        self.handled: dict[str, list[int]] = defaultdict(list)
        self.tries: dict[int, int] = defaultdict(int)
        self.threads: set[str] = set()
        self.at_once = 0
        self._busy: set[str] = set()
        self._fails = fails
        self._lock = threading.Lock()

    def __call__(self, delivery: Delivery) -> None:
        actor = delivery.event.actor_id
        with self._lock:
            assert actor not in self._busy, "two events of an actor at once"
            self._busy.add(actor)
            self.at_once = max(self.at_once, len(self._busy))
            self.tries[delivery.sequence] += 1
            self.threads.add(threading.current_thread().name)
        try:
            time.sleep(random.random() * 0.001)
            if self._fails(delivery):
                raise KeyError("of the handler")
            self.handled[actor].append(delivery.sequence)
        finally:
            self._busy.remove(actor)

    def sequences(self) -> list[int]:
        return sorted(sequence for sequences in self.handled.values() for sequence in sequences)

    def check_order(self) -> None:
        for sequences in self.handled.values():
            assert sequences == sorted(sequences)


class WithHandlers(TwoNodes):
    """Tests with handlers that wait."""

    @pytest.fixture
    def go_on(self) -> Iterator[threading.Event]:
        """What handlers wait for; set at the latest when the test ends."""
        event = threading.Event()
        yield event
        event.set()


@pytest.mark.concurrent
class HandlingInOrder(WithHandlers):
    """The events of an actor are handled one after the other."""

    def test_each_actors_events_come_in_order(self, store: EventStore) -> None:
        save(store, 600, actors=12)
        recorder = Recorder(lambda delivery: random.random() < 0.2)
        with store.consumer("c", max_deliver=50).run(recorder, threads=8, retry_delay=QUICK) as runner:
            store.consumer("c").wait_for(600, timeout=PATIENCE)
        recorder.check_order()
        assert recorder.sequences() == list(range(1, 601))
        assert sum(recorder.tries.values()) > 650
        assert recorder.at_once > 2
        assert all(name.startswith("aether-worker-") for name in recorder.threads)
        assert runner.closed
        assert runner.wait()

    def test_an_actor_waits_only_for_itself(
        self,
        store: EventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 40, actors=4)
        recorder = Recorder()

        def handle(delivery: Delivery) -> None:
            if delivery.event.actor_id == "a-0":
                go_on.wait(PATIENCE)
            recorder(delivery)

        with store.consumer("c").run(handle, threads=2):
            eventually(lambda: len(recorder.sequences()) == 30)
            assert "a-0" not in recorder.handled
            go_on.set()
            store.consumer("c").wait_for(40, timeout=PATIENCE)
        recorder.check_order()

    def test_processes_share(self, store: EventStore, other: EventStore) -> None:
        save(store, 1_000)
        here, there = Recorder(), Recorder()
        with store.consumer("c").run(here, prefetch=20), other.consumer("c").run(there, prefetch=20):
            store.consumer("c").wait_for(1_000, timeout=PATIENCE)
        assert sorted(here.sequences() + there.sequences()) == list(range(1, 1_001))
        assert here.handled
        assert there.handled


@pytest.mark.concurrent
class FailingHandlers(WithHandlers):
    """What fails is tried again, and then given up."""

    def test_one_is_tried_again_and_then_given_up(
        self,
        store: EventStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        save(store, 30, actors=3)
        recorder = Recorder(lambda delivery: delivery.sequence in (4, 5))
        with caplog.at_level(logging.ERROR), store.consumer("c", max_deliver=3).run(recorder, retry_delay=QUICK):
            store.consumer("c").wait_for(30, timeout=PATIENCE)
            assert flush_logs(PATIENCE)
        recorder.check_order()
        assert recorder.sequences() == [n for n in range(1, 31) if n not in (4, 5)]
        assert (recorder.tries[4], recorder.tries[5]) == (3, 3)
        assert [(one.sequence, one.reason) for one in store.consumer("c").dead_letters()] == [
            (4, "KeyError: 'of the handler'"),
            (5, "KeyError: 'of the handler'"),
        ]
        (record,) = caplog.records
        assert "attempt 1 of 3" in record.getMessage()
        assert record.exc_info is not None

    def test_what_was_given_up_is_handled_again(self, store: EventStore) -> None:
        save(store, 20, actors=2)
        broken = True
        recorder = Recorder(lambda _: broken)
        consumer = store.consumer("c", max_deliver=2, actors="a-*")
        with consumer.run(recorder, retry_delay=QUICK):
            consumer.wait_for(20, timeout=PATIENCE)
        assert len(consumer.dead_letters()) == 20
        broken = False
        with consumer.run(recorder, dead_letters=True, retry_delay=QUICK):
            eventually(lambda: consumer.dead_letters() == [])
        assert recorder.sequences() == list(range(1, 21))

    def test_what_still_fails_stays(self, store: EventStore) -> None:
        save(store, 1)
        recorder = Recorder(lambda _: True)
        with store.consumer("c", max_deliver=1).run(recorder, retry_delay=QUICK):
            store.consumer("c").wait_for(1, timeout=PATIENCE)
        with store.consumer("c", max_deliver=3).run(recorder, dead_letters=True, retry_delay=QUICK):
            eventually(lambda: recorder.tries[1] == 4)
        assert len(store.consumer("c").dead_letters()) == 1

    def test_pauses_between_tries_double(self, store: EventStore) -> None:
        save(store, 1)
        times: list[float] = []

        def fail(_: Delivery) -> None:
            times.append(time.monotonic())
            raise SystemExit

        with store.consumer("c", max_deliver=4).run(fail, retry_delay=0.05 * UNIT):
            store.consumer("c").wait_for(1, timeout=PATIENCE)
        pauses = [later - earlier for earlier, later in pairwise(times)]
        assert [pause >= wanted * UNIT for pause, wanted in zip(pauses, (0.05, 0.1, 0.2), strict=True)] == [True] * 3
        assert [one.reason for one in store.consumer("c").dead_letters()] == ["SystemExit: "]

    def test_a_retry_is_not_forgotten_while_others_work(
        self,
        store: EventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 1)
        tried: list[int] = []

        def handle(delivery: Delivery) -> None:
            tried.append(delivery.sequence)
            if delivery.sequence == 1 and tried.count(1) == 1:
                raise ValueError
            if delivery.sequence > 1:
                go_on.wait(PATIENCE)

        with store.consumer("c").run(handle, threads=3, retry_delay=0.2 * UNIT):
            eventually(lambda: tried == [1])
            store.save_event(Event(event_type="Done", actor_id="b-1", version=1))
            store.save_event(Event(event_type="Done", actor_id="b-2", version=1))
            eventually(lambda: tried.count(1) == 2, "the second try, with one thread free")
            go_on.set()

    def test_a_handler_may_settle_it_itself(self, store: EventStore) -> None:
        save(store, 4, actors=4)
        seen: dict[int, int] = defaultdict(int)

        def handle(delivery: Delivery) -> None:
            seen[delivery.sequence] += 1
            if delivery.sequence == 1:
                delivery.reject("at once")
            elif delivery.sequence == 2:
                delivery.ack(confirm=True, timeout=PATIENCE)
                raise ValueError("after it was done")
            elif delivery.sequence == 3 and delivery.attempt == 1:
                delivery.nak()

        with store.consumer("c").run(handle, retry_delay=QUICK):
            store.consumer("c").wait_for(4, timeout=PATIENCE)
        assert seen == {1: 1, 2: 1, 3: 2, 4: 1}
        assert [one.reason for one in store.consumer("c").dead_letters()] == ["at once"]

    def test_a_handler_may_take_its_time(
        self,
        store: EventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 8, actors=1)
        recorder = Recorder()

        def handle(delivery: Delivery) -> None:
            recorder(delivery)
            if delivery.sequence == 1:
                go_on.wait(PATIENCE)

        with store.consumer("c", ack_wait=ACK_WAIT).run(handle, threads=4) as runner:
            eventually(lambda: len(held_by(runner)) == 8, "all of them")
            with store.consumer("c", ack_wait=ACK_WAIT).iterate() as rest:
                assert rest.get_batch(1, timeout=4 * ACK_WAIT) == []
            go_on.set()
            store.consumer("c").wait_for(8, timeout=PATIENCE)
        assert set(recorder.tries.values()) == {1}


@pytest.mark.concurrent
class EndingRunners(WithHandlers):
    """Closing waits for handlers, and gives back the rest."""

    def test_running_handlers_end_and_the_rest_is_given_back(
        self,
        store: EventStore,
        other: EventStore,
        go_on: threading.Event,
    ) -> None:
        save(store, 100)
        recorder = Recorder()
        begun: list[Delivery] = []

        def handle(delivery: Delivery) -> None:
            begun.append(delivery)
            go_on.wait(PATIENCE)
            recorder(delivery)

        runner = store.consumer("c").run(handle, threads=3)
        eventually(lambda: len(held_by(runner)) == 6 and len(begun) == 3)
        threading.Timer(0.1 * UNIT, go_on.set).start()
        assert runner.close(PATIENCE)
        assert runner.close()
        assert len(recorder.sequences()) == 3
        with other.consumer("c").run(recorder):
            store.consumer("c").wait_for(100, timeout=PATIENCE)
        assert recorder.sequences() == list(range(1, 101))

    def test_a_handler_that_takes_longer_is_left_behind(
        self,
        store: EventStore,
        other: EventStore,
        go_on: threading.Event,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        save(store, 2)
        handles = threading.Event()
        runner = store.consumer("c", ack_wait=ACK_WAIT).run(lambda _: (handles.set(), go_on.wait(PATIENCE)), threads=1)
        assert handles.wait(PATIENCE)
        eventually(lambda: len(held_by(runner)) == 2)
        begun = time.monotonic()
        with caplog.at_level(logging.WARNING):
            assert not runner.close(0.1 * UNIT)
            assert flush_logs(PATIENCE)
        assert time.monotonic() - begun < PATIENCE / 4
        assert "aether-worker-" in caplog.text
        with other.consumer("c", ack_wait=ACK_WAIT).iterate() as events:
            assert {events.get(timeout=PATIENCE).sequence for _ in range(2)} == {1, 2}
        assert not runner.wait(0)
        go_on.set()
        assert runner.wait(PATIENCE)

    def test_one_that_was_left_behind_is_not_waited_for_again(
        self, store: EventStore, other: EventStore, go_on: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        save(store, 1)
        handles = threading.Event()
        with store, store.consumer("c").run(lambda _: (handles.set(), go_on.wait(PATIENCE))) as runner:
            assert handles.wait(PATIENCE)
            assert runner.close(0.1 * UNIT) == CloseReport(handlers_left=1, timed_out=True)
            begun = time.monotonic()
            store.close()
            assert time.monotonic() - begun < 3.0, "nobody has waited once more"
            go_on.set()
        assert flush_logs(PATIENCE)
        assert caplog.text.count("leaves handlers behind") == 1

    def test_all_runners_of_a_store_end_at_once(
        self,
        store: EventStore,
        other: EventStore,
        go_on: threading.Event,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        save(store, 400)
        handles, works = threading.Event(), threading.Event()
        slow = store.consumer("slow").run(lambda _: (handles.set(), go_on.wait(PATIENCE)), threads=1)
        quick = store.consumer("quick").run(lambda _: (works.set(), time.sleep(0.05 * UNIT)), threads=1)
        assert handles.wait(PATIENCE)
        assert works.wait(PATIENCE)
        report = store.close(1.5 * UNIT)
        assert report == CloseReport(handlers_left=1, timed_out=True)
        assert not report
        assert flush_logs(PATIENCE)
        assert "the runner of consumer 'slow' leaves handlers behind" in caplog.text
        assert "<Runner of 'quick' closed>" not in caplog.text
        assert quick.wait(0)
        go_on.set()
        assert slow.wait(PATIENCE)

    @pytest.mark.parametrize("what", ["runner", "store"])
    def test_a_handler_may_close_it(self, store: EventStore, other: EventStore, what: str) -> None:
        save(store, 1)
        ready = threading.Event()
        runner = store.consumer("c").run(lambda _: (ready.wait(), (runner if what == "runner" else store).close()))
        run_threads(lambda: runner.wait(PATIENCE), ready.set)
        assert runner.closed

    @pytest.mark.parametrize("whats", [("runner", "runner"), ("runner", "store"), ("store", "store")])
    def test_handlers_that_close_it_do_not_wait_for_each_other(
        self, store: EventStore, other: EventStore, whats: tuple[str, str], caplog: pytest.LogCaptureFixture
    ) -> None:
        save(store, 2)
        together = threading.Barrier(3)

        def close(delivery: Delivery) -> None:
            together.wait(PATIENCE)
            (runner if whats[delivery.sequence - 1] == "runner" else store).close()

        runner = store.consumer("c").run(close)
        together.wait(PATIENCE)
        assert runner.wait(PATIENCE)
        assert flush_logs(PATIENCE)
        assert "leaves handlers behind" not in caplog.text

    def test_the_store_ends_it(self, store: EventStore, other: EventStore) -> None:
        save(store, 10)
        recorder = Recorder()
        runner = store.consumer("c").run(recorder)
        eventually(lambda: len(recorder.sequences()) == 10)
        store.close()
        assert runner.closed
        assert runner.wait(0)

    def test_what_ends_it_is_raised_to_who_waits(
        self,
        store: EventStore,
        other: EventStore,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        with caplog.at_level(logging.ERROR), store.consumer("c").run(lambda _: None) as runner:
            store.consumer("c").delete()
            with pytest.raises(StoreError, match="there is no consumer 'c'"):
                runner.wait(PATIENCE)
            assert runner.closed
            assert flush_logs(PATIENCE)
        assert "there is no consumer 'c'" in caplog.text

    def test_a_mistake_that_ends_it_keeps_no_event(
        self, store: EventStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def fail(_: Delivery) -> None:
            raise MemoryError

        save(store, 4, actors=2)
        with monkeypatch.context() as patched:
            patched.setattr("aether_sync.stores.consumers.lanes.extend", fail)
            runner = store.consumer("c", ack_wait=ACK_WAIT).run(print)
            with pytest.raises(StoreError, match="MemoryError"):
                runner.wait(PATIENCE)
            assert not scheduler_of(runner).running, "it waited in vain"
        recorder = Recorder()
        with store.consumer("c", ack_wait=ACK_WAIT).run(recorder):
            store.consumer("c").wait_for(4, timeout=PATIENCE)
        assert recorder.sequences() == [1, 2, 3, 4]
        assert flush_logs(PATIENCE)
        assert "ends: MemoryError" in caplog.text

    def test_one_that_nobody_keeps_goes_on_until_its_store_is_closed(
        self, store: EventStore, other: EventStore
    ) -> None:
        handled: list[int] = []
        store.consumer("c").run(lambda delivery: handled.append(delivery.sequence))
        gc.collect()
        for version in (1, 2):
            store.save_event(Event(event_type="Happened", actor_id="a-1", version=version))
            gc.collect()
        eventually(lambda: handled == [1, 2])
        store.close()
        eventually(lambda: not any(thread.name.startswith("aether-worker") for thread in threading.enumerate()))

    @pytest.mark.parametrize("begun", [0, 1, 2])
    def test_one_that_is_interrupted_at_its_start_takes_nothing(
        self, store: EventStore, other: EventStore, monkeypatch: pytest.MonkeyPatch, begun: int
    ) -> None:
        def start(thread: threading.Thread) -> None:
            if not places:
                raise KeyboardInterrupt
            places.pop()
            threads.start(thread)

        store, places = other, [True] * begun
        save(store, 20)
        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(runners, "start", start)
            store.consumer("c", ack_wait=ACK_WAIT).run(lambda one: one.ack(), threads=2)
        eventually(lambda: not any(one.name.startswith("aether-taker") for one in threading.enumerate()), "its end")
        recorder = Recorder()
        with store.consumer("c", ack_wait=ACK_WAIT).run(recorder):
            store.consumer("c").wait_for(20, timeout=PATIENCE)
        before = time.monotonic()
        store.close()
        assert time.monotonic() - before < 4  # it waits for nobody
