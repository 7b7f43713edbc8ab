"""Periodic work: each process's own, and one process's of the cluster."""

import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest

from aether_sync import (
    AetherError,
    BusClosedError,
    EventBus,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSServer,
    PermissionDeniedError,
    Worker,
    flush_logs,
)
from aether_sync._runtime.deadline import Deadline
from aether_sync._values import clock
from aether_sync.stores.jetstream import turns_of
from aether_sync.worker import periodic, turns
from aether_sync.worker.turns import Held, Turns

from ..support.common import PATIENCE, UNIT, eventually, run_threads

MakeStore = Callable[..., JetStreamEventStore]

pytestmark = [pytest.mark.concurrent, pytest.mark.slow]


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What handlers wait for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that says nothing for a moment has lost its turn."""
    monkeypatch.setattr(turns, "BEAT", 0.05 * UNIT)
    monkeypatch.setattr(periodic, "BEAT", 0.05 * UNIT)
    monkeypatch.setattr(turns, "LOST", 0.5 * UNIT)


class TestOfEachProcess:
    def test_it_comes_at_once_and_then_again_and_again(self) -> None:
        worker, at = Worker(), list[float]()

        @worker.every(0.05)
        def work() -> None:
            at.append(time.monotonic())

        begun = time.monotonic()
        with worker:
            eventually(lambda: len(at) >= 4)
            assert worker.health().ok
        assert at[0] - begun < 5 * UNIT
        assert all(later - one >= 0.045 for one, later in pairwise(at))
        (metrics,) = worker.metrics().handlers
        assert (metrics.kind, metrics.handled, metrics.threads) == ("every", len(at), 1)
        assert metrics.of.endswith("work")

    def test_an_error_is_logged_and_the_next_turn_comes(self, caplog: pytest.LogCaptureFixture) -> None:
        told: list[Any] = []
        worker = Worker(on_error=told.append)
        worker.every(0.01, name="work")(lambda: 1 / 0)
        with worker:
            eventually(lambda: worker.metrics().handlers[0].failed >= 3)
            assert worker.health().ok
        flush_logs()
        assert [one.kind for one in caplog.records] == ["handler_failed"]  # type: ignore[attr-defined]
        assert told[0].event is None

    def test_one_that_takes_long_holds_up_the_next_and_is_waited_for(self, go_on: threading.Event) -> None:
        worker, running = Worker(), list[int]()

        @worker.every(0.01)
        def work() -> None:
            running.append(1)
            go_on.wait(PATIENCE)

        worker.start()
        eventually(lambda: running)
        time.sleep(0.05)
        assert running == [1]
        report = worker.drain(0.05)
        assert report.handlers_left == 1
        go_on.set()
        eventually(lambda: worker.drain(PATIENCE))

    def test_it_may_end_its_worker(self) -> None:
        worker = Worker()
        worker.every(60)(lambda: worker.drain(PATIENCE))
        worker.start()
        assert worker.wait(PATIENCE)
        assert worker.drain(PATIENCE)

    def test_an_end_does_not_wait_for_the_next_turn(self) -> None:
        worker, did = Worker(), list[int]()
        worker.every(1000)(lambda: did.append(1))
        worker.start()
        eventually(lambda: did)
        assert worker.drain(PATIENCE)


class TestOfTheCluster:
    def test_each_turn_is_of_one_process_and_none_at_the_same_time(self, make_store: MakeStore) -> None:
        begun, at_once, most = list[float](), list[int](), list[int]()
        workers = []
        for _ in range(3):
            worker = Worker(store=make_store())

            @worker.every(0.2 * UNIT, name="work", once_per_cluster=True)
            def work() -> None:
                begun.append(time.monotonic())
                at_once.append(1)
                most.append(len(at_once))
                time.sleep(0.05)
                at_once.pop()

            workers.append(worker)
        run_threads(*(lambda one=one: one.start(PATIENCE) for one in workers))  # type: ignore[misc]
        eventually(lambda: len(begun) >= 6)
        run_threads(*(lambda one=one: one.drain(PATIENCE) for one in workers))  # type: ignore[misc]
        assert max(most) == 1
        assert begun[-1] - begun[0] >= 0.2 * UNIT * (len(begun) - 2), "a turn is begun a moment after it is taken"
        found = [worker.metrics().handlers[0] for worker in workers]
        assert sum(one.handled for one in found) == len(begun)
        assert sum(one.passed_by for one in found) > 0

    def test_one_that_was_just_done_is_not_done_by_the_next_that_starts(self, make_store: MakeStore) -> None:
        did: list[str] = []
        for name in ("first", "second"):
            worker = Worker(store=make_store())
            worker.every(1000, name="work", once_per_cluster=True)(lambda name=name: did.append(name))  # type: ignore[misc]
            worker.start(PATIENCE)
            eventually(
                lambda worker=worker, name=name: did == [name] or worker.metrics().handlers[0].passed_by  # type: ignore[misc]
            )
            worker.drain(PATIENCE)
        assert did == ["first"]

    @pytest.mark.slow
    def test_work_that_runs_long_is_not_begun_elsewhere(
        self, make_store: MakeStore, quick: None, go_on: threading.Event
    ) -> None:
        did: list[int] = []
        workers = []
        for number in range(2):
            worker = Worker(store=make_store())

            @worker.every(0.1 * UNIT, name="work", once_per_cluster=True)
            def work(number: int = number) -> None:
                did.append(number)
                go_on.wait(PATIENCE)

            worker.start(PATIENCE)
            eventually(lambda: did)
            workers.append(worker)
        time.sleep(1.5 * UNIT)  # three times as long as one that says nothing has its turn
        assert did == [0]
        go_on.set()
        eventually(lambda: 1 in did)
        for worker in workers:
            worker.drain(PATIENCE)

    @pytest.mark.parametrize("ahead", [-3600.0, 3600.0])
    def test_a_clock_that_was_wrong_stops_nothing(
        self, store: JetStreamEventStore, ahead: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        book, seconds = turns_of(store), 0.3 * UNIT
        book.last("work", Deadline(PATIENCE))  # which makes the stream
        book.write("work", turns.Turn(by="other", begun=time.time() + ahead, has_ended=True), Deadline(PATIENCE))
        worker, did = Worker(store=store), list[float]()
        worker.every(seconds, name="work", once_per_cluster=True)(lambda: did.append(time.monotonic()))
        begun = time.monotonic()
        with worker:
            eventually(lambda: len(did) >= 2)
            monkeypatch.setattr(turns, "now", lambda: clock.now() - timedelta(seconds=ahead))  # it is set anew
            number = len(did)
            eventually(lambda: len(did) >= number + 3)
        assert did[-1] - begun >= seconds * (len(did) - 2), "and brings no turn too early, but for the first"
        assert did[-1] - did[0] <= 5 * UNIT + 2 * seconds * len(did)

    def test_processes_whose_clocks_stand_still_share_the_turns(
        self, make_store: MakeStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        moment = clock.now()
        monkeypatch.setattr(turns, "now", lambda: moment)
        workers, did = [], list[float]()
        for _ in range(2):
            worker = Worker(store=make_store())
            worker.every(0.2 * UNIT, name="work", once_per_cluster=True)(lambda: did.append(time.monotonic()))
            worker.start(PATIENCE)
            workers.append(worker)
        eventually(lambda: len(did) >= 6)
        for worker in workers:
            worker.drain(PATIENCE)
        assert all(later - one >= 0.15 * UNIT for one, later in pairwise(did))

    def test_another_one_goes_on_for_one_that_is_gone(self, make_store: MakeStore, quick: None) -> None:
        gone = Turns(turns_of(make_store()), "work", 0.1 * UNIT, "gone", lambda: None).take()
        assert isinstance(gone, Held)  # and never says anything
        worker, did = Worker(store=make_store()), list[float]()
        worker.every(0.1 * UNIT, name="work", once_per_cluster=True)(lambda: did.append(time.monotonic()))
        begun = time.monotonic()
        with worker:
            eventually(lambda: did)
        assert did[0] - begun >= 0.45 * UNIT

    def test_one_that_has_lost_its_turn_leaves_the_other_ones(self, make_store: MakeStore, quick: None) -> None:
        book = turns_of(make_store())
        first = Turns(book, "work", 0.1, "first", lambda: None).take()
        assert isinstance(first, Held)
        other = Turns(book, "work", 0.1, "other", lambda: None)
        end = time.monotonic() + PATIENCE
        while not isinstance(second := other.take(), Held) and time.monotonic() < end:
            time.sleep(0.02)
        assert isinstance(second, Held)
        with first:
            eventually(lambda: first.is_lost)
        last = book.last("work", Deadline(PATIENCE))
        assert (last.by, last.has_ended) == ("other", False)

    def test_what_the_server_has_not_confirmed_is_known_again(self, store: JetStreamEventStore) -> None:
        book = turns_of(store)
        last = book.last("work", Deadline(PATIENCE))
        turn = turns.Turn(by="me", begun=1.5, has_ended=False)
        assert book.write("work", turn, Deadline(PATIENCE)) is not None
        again = book.write("work", turn, Deadline(PATIENCE))  # with what was the last one before
        assert again is not None
        assert again.sequence == last.sequence + 2
        assert book.write("work", turns.Turn(by="x", begun=1.5, has_ended=False), Deadline(PATIENCE)) is None

    @pytest.mark.slow
    def test_while_the_server_is_away_it_waits_and_says_so(
        self, own_server: NATSServer, make_store: MakeStore, quick: None, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Worker(store=make_store(own_server.url))
        did: list[int] = []
        worker.every(0.1 * UNIT, name="work", once_per_cluster=True)(lambda: did.append(1))
        worker.start(PATIENCE)
        eventually(lambda: did)
        own_server.stop()
        eventually(lambda: "whose turn" in str(worker.health().reasons))
        own_server.start()
        number = len(did)
        eventually(lambda: len(did) > number)
        eventually(lambda: worker.health(timeout=PATIENCE).ok)
        worker.drain(PATIENCE)
        flush_logs()
        assert "turn_unknown" in [one.kind for one in caplog.records]  # type: ignore[attr-defined]

    @pytest.mark.parametrize("of", ["memory", "server"])
    def test_a_closed_store_ends_it(self, of: str, make_store: MakeStore, quick: None) -> None:
        store = InMemoryEventStore() if of == "memory" else make_store()
        worker, did = Worker(store=store), list[str]()
        worker.every(1000, once_per_cluster=True)(lambda: did.append("of the cluster"))
        worker.every(0.01, name="other")(lambda: did.append("of the process"))
        worker.start(PATIENCE)
        eventually(lambda: "of the cluster" in did)
        assert not worker.wait(0)
        store.close()
        assert worker.wait(PATIENCE)
        assert worker.health().ok is False
        assert worker.drain(PATIENCE)

    @pytest.mark.parametrize("error", [PermissionDeniedError("the right was revoked"), BusClosedError("closed")])
    def test_what_never_passes_ends_it(
        self,
        store: JetStreamEventStore,
        error: AetherError,
        quick: None,
        monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        worker, did = Worker(store=store), list[int]()
        worker.every(0.01, name="work", once_per_cluster=True)(lambda: did.append(1))
        worker.start(PATIENCE)
        eventually(lambda: did)

        def raise_it(*_: object) -> None:
            raise error

        monkeypatch.setattr(Turns, "take", raise_it)
        with pytest.raises(type(error), match=str(error)):
            worker.wait(PATIENCE)
        assert not worker.health().alive
        worker.drain(PATIENCE)
        flush_logs()
        assert [one.kind for one in caplog.records] == ["runner_ended"]  # type: ignore[attr-defined]

    def test_in_memory_there_is_one_process(self) -> None:
        with InMemoryEventStore() as store:
            worker, did = Worker(store=store), list[int]()
            worker.every(1000, once_per_cluster=True)(lambda: did.append(1))
            with worker:
                eventually(lambda: did)


@pytest.mark.parametrize(
    ("seconds", "options", "says"),
    [
        (0, {}, "seconds must be a number, more than 0, not 0"),
        ("x", {}, "seconds must be"),
        (1, {"name": 3}, "name must be a str"),
        (1, {"once_per_cluster": 1}, "once_per_cluster must be True or False"),
        (1, {"once_per_cluster": True}, r"Worker\(store=...\)"),
    ],
)
def test_what_is_wrong_is_refused(local_bus: EventBus, seconds: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        Worker(bus=local_bus).every(seconds, **options)


def test_a_function_that_takes_something_is_refused() -> None:
    worker = Worker()
    with pytest.raises(InvalidOptionError, match=r"every 5 s: its parameter 'x' has no default"):
        worker.every(5)(lambda x: None)
    worker.every(5, name="work")(lambda x=3: None)
    with pytest.raises(InvalidOptionError, match=r"already.* another by every\(..., name=...\)"):
        worker.every(6, name="work")(lambda: None)
