"""``InMemoryEventStore``: the promises of an event store, in one process; and what interrupts and forks do to it."""

import itertools
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from aether_sync import EventBus, EventStored, EventTypes, InvalidOptionError
from aether_sync.errors import DeadlineExceededError, StoreClosedError, VersionConflictError
from aether_sync.stores._memory_log import Log, LogFollower
from aether_sync.stores.base import ANY_VERSION, Snapshot, StoredEvent
from aether_sync.stores.memory import InMemoryEventStore

from ..contracts import store as contract
from ..programs import forks
from ..programs.run import run
from ..support.common import PATIENCE, eventually, first_of, run_threads
from ..support.signals import INTERRUPTS, before, closing_another, hammer
from ..support.stores import event, fill, take, versions
from ..support.typed import typed

is_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no signals and forks as of POSIX here")


class InOneProcess:
    @pytest.fixture
    def store(self) -> Iterator[InMemoryEventStore]:
        with InMemoryEventStore() as store:
            yield store

    @pytest.fixture
    def other(self, store: InMemoryEventStore) -> InMemoryEventStore:
        return store


class TestAppending(InOneProcess, contract.Appending): ...


class TestBadInput(InOneProcess, contract.BadInput): ...


class TestCachedVersions(InOneProcess, contract.CachedVersions): ...


class TestClosing(InOneProcess, contract.Closing): ...


class TestFollowing(InOneProcess, contract.Following): ...


class TestMeasuring(InOneProcess, contract.Measuring): ...


class TestReadingActors(InOneProcess, contract.ReadingActors): ...


class TestReadingAll(InOneProcess, contract.ReadingAll): ...


class TestReadingTogether(InOneProcess, contract.ReadingTogether): ...


class TestSaving(InOneProcess, contract.Saving): ...


class TestSavingAgain(InOneProcess, contract.SavingAgain): ...


class TestSavingTogether(InOneProcess, contract.SavingTogether): ...


class TestSnapshotHistory(InOneProcess, contract.SnapshotHistory):
    @pytest.fixture
    def store(self) -> Iterator[InMemoryEventStore]:
        with InMemoryEventStore(snapshots_kept=3) as store:
            yield store


class TestConsumerObjects(InOneProcess, contract.ConsumerObjects): ...


class TestDeadLetters(InOneProcess, contract.DeadLetters): ...


class TestDraining(InOneProcess, contract.Draining): ...


class TestEndingConsumptions(InOneProcess, contract.EndingConsumptions): ...


class TestEndingRunners(InOneProcess, contract.EndingRunners): ...


class TestFailingHandlers(InOneProcess, contract.FailingHandlers): ...


class TestHandlingInOrder(InOneProcess, contract.HandlingInOrder): ...


class TestMakingConsumers(InOneProcess, contract.MakingConsumers): ...


class TestSettling(InOneProcess, contract.Settling): ...


class TestSharingConsumers(InOneProcess, contract.SharingConsumers): ...


class TestWaitingForConsumers(InOneProcess, contract.WaitingForConsumers): ...


class TestSnapshots(InOneProcess, contract.Snapshots): ...


class TestTelling(InOneProcess, contract.Telling): ...


class TestTyped(contract.Typed):
    @pytest.fixture
    def store(self, types: EventTypes) -> Iterator[InMemoryEventStore]:
        with InMemoryEventStore(types=types) as store:
            yield store


class TestTypedConsumers(contract.TypedConsumers):
    @pytest.fixture
    def store(self) -> Iterator[InMemoryEventStore]:
        with InMemoryEventStore(types=typed()) as store:
            yield store


class TestUntyped(InOneProcess, contract.Untyped): ...


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as store:
        yield store


def test_it_says_what_it_has() -> None:
    store = InMemoryEventStore()
    assert repr(store) == "<InMemoryEventStore 0 events of 0 actors>"
    store.save_events([event("a", 1), event("b", 1), event("a", 2)])
    assert repr(store) == "<InMemoryEventStore 3 events of 2 actors>"
    store.close()
    assert repr(store) == "<InMemoryEventStore 3 events of 2 actors closed>"


def test_followers_say_where_they_are(store: InMemoryEventStore) -> None:
    fill(store, "a", 1)
    with store.follow() as follower:
        take(follower, 1)
        assert repr(follower) == "<follower after 1>"
    assert repr(follower) == "<follower after 1 closed>"


def test_a_bus_from_the_beginning(local_bus: EventBus) -> None:
    with pytest.raises(InvalidOptionError, match="namespace"):
        InMemoryEventStore(bus=local_bus)
    with InMemoryEventStore(bus=local_bus, namespace="n") as store, local_bus.subscribe("n") as told:
        fill(store, "a", 1)
        assert told.get(timeout=PATIENCE).data_as(EventStored).sequence == 1


def test_sequences_have_no_gaps(store: InMemoryEventStore) -> None:
    fill(store, "a", 3, 8)
    with pytest.raises(VersionConflictError):
        store.save_events([event("b", 1), event("a", 8)])
    fill(store, "b", 2)
    with store.follow() as follower:
        assert [one.sequence for one in take(follower, 3)] == [1, 2, 3]


def test_what_is_said_of_it_changes_nothing(store: InMemoryEventStore) -> None:
    fill(store, "a", 1)
    store.update_version_cache("a", 7, 9)
    store.update_version_cache("b", 7)
    assert (store.cached_version("a"), store.cached_version("b")) == (1, None)


def test_a_zero_timeout_is_enough(store: InMemoryEventStore) -> None:
    stored = store.save_event(event("a", 1), timeout=0)
    assert store.append("a", event("a"), expected_version=1, timeout=0)[0].sequence == stored.sequence + 1
    assert store.load("a", timeout=0).version == 2
    with store.follow(timeout=0) as follower:
        assert follower.get(timeout=0) == stored


def test_an_iterator_reads_page_by_page(store: InMemoryEventStore) -> None:
    fill(store, "a", *range(1, 601))
    iterator = store.iter_events("a")
    assert next(iterator).version == 1
    fill(store, "a", 601)
    unfinished = store.iter_events("a")
    assert next(unfinished).version == 1
    assert versions(iterator) == [*range(2, 602)]
    store.close()
    with pytest.raises(StoreClosedError):
        list(unfinished)  # and not a short list that looks whole


def test_a_follower_of_few_among_many_has_a_deadline_all_the_same(store: InMemoryEventStore) -> None:
    """Events that it does not want come all the time, and keep it from no ``DeadlineExceededError``."""
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            store.append("a", event("a"), expected_version=ANY_VERSION)

    def read() -> None:
        try:
            with store.follow(actors="b") as follower:
                for _ in range(20):
                    assert follower.get_batch(1, timeout=0.001) == []
        finally:
            done.set()

    run_threads(write, read)


def test_what_a_follower_has_passed_by_is_not_looked_at_again(
    store: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = Log.__getitem__

    def count(self: Log, sequence: int) -> StoredEvent:
        looked.append(sequence)
        return look(self, sequence)

    monkeypatch.setattr(Log, "__getitem__", count)
    fill(store, "a", 1, 2, 3)
    with store.follow(actors="b") as follower:
        for _ in range(3):
            assert follower.get_batch(5, timeout=0.01) == []
            assert follower.is_caught_up
    assert looked == [1, 2, 3]


def test_a_follower_of_few_among_many_looks_at_a_part_at_a_time(
    store: InMemoryEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []
    look = Log.__getitem__

    def count(self: Log, sequence: int) -> StoredEvent:
        looked.append(sequence)
        return look(self, sequence)

    for start in range(1, 5_001, 1_000):
        fill(store, "a", *range(start, start + 1_000))
    monkeypatch.setattr(Log, "__getitem__", count)
    with store.follow(event_types={"Never"}) as follower:
        for times in range(1, 5):
            with pytest.raises(DeadlineExceededError):
                follower.get(timeout=0)
            assert len(looked) == follower.sequence == times * 1_000
        assert follower.get_batch(5, timeout=0) == []
        assert follower.is_caught_up


# -- signal handlers


@is_posix
@pytest.mark.concurrent
@pytest.mark.parametrize("interrupts", first_of([INTERRUPTS // 5, INTERRUPTS]))
def test_an_interrupted_save_is_stored_whole_or_not_at_all(store: InMemoryEventStore, interrupts: int) -> None:
    saved: set[int] = set()
    numbers = itertools.count(1)

    def work() -> None:
        n = next(numbers)
        with suppress(VersionConflictError):
            store.save_events(
                [event("a", 2 * n, save=n), event(f"b-{n % 5}", n, save=n), event("a", 2 * n + 1, save=n)]
            )
            saved.add(n)
            store.append("c", event("c"), expected_version=ANY_VERSION)

    hammer(interrupts, work)
    history = store.get_events_with_errors("a").events
    by_save: dict[int, int] = {}
    for actor_id in store.actors():
        for one in store.get_events(actor_id):
            if one.data:
                by_save[one.data["save"]] = by_save.get(one.data["save"], 0) + 1
    assert set(by_save.values()) == {3}
    assert saved <= set(by_save)
    assert versions(one.event for one in history) == sorted(set(versions(one.event for one in history)))
    assert versions(store.get_events("c")) == [*range(1, store.get_latest_version("c") + 1)]
    with store.follow() as follower:
        assert [one.sequence for one in take(follower, store.last_sequence())] == [*range(1, store.last_sequence() + 1)]


@is_posix
@pytest.mark.concurrent
@pytest.mark.parametrize("interrupts", first_of([INTERRUPTS // 5, INTERRUPTS]))
def test_an_interrupted_follower_goes_on(store: InMemoryEventStore, interrupts: int) -> None:
    """What was in hand when it was interrupted may be gone; nothing comes twice, and nobody hangs."""
    got: list[int] = []
    others: list[int] = []
    done = threading.Event()

    def write() -> None:
        while not done.is_set():
            store.append("a", event("a"), expected_version=ANY_VERSION)
            eventually(lambda: done.is_set() or store.last_sequence() < follower.sequence + 50)

    with store.follow() as follower:
        threads = [
            threading.Thread(target=write),
            threading.Thread(target=lambda: others.extend(o.sequence for o in follower)),
        ]
        for thread in threads:
            thread.start()
        try:
            hammer(interrupts, lambda: got.append(follower.get(timeout=PATIENCE).sequence))
        finally:
            done.set()
            threads[0].join(PATIENCE)
            eventually(lambda: follower.is_caught_up)
            follower.close()
            threads[1].join(PATIENCE)
    assert len(set(got) | set(others)) == len(got) + len(others)
    lost = store.last_sequence() - len(got) - len(others)
    assert 0 <= lost <= interrupts


@is_posix
@pytest.mark.parametrize(
    ("function", "line"),
    [
        (InMemoryEventStore._store, "events = number()"),
        (InMemoryEventStore._store, "self._log.add("),
        (Log.add, "if self._saves"),
        (Log.add, "self.end()"),
        (Log.end, "for stored, place"),
        (Log.end, "start = "),
        (Log.end, "self._events["),
    ],
)
@pytest.mark.parametrize("through", ["itself", "another thread"])
def test_a_handler_saves_over_a_save(store: InMemoryEventStore, function: object, line: str, through: str) -> None:
    """It may come by where other threads cannot, and let them in too, by closing a bus."""
    fill(store, "a", 1)

    def save() -> None:
        store.append("b", event("b"), event("b"), expected_version=ANY_VERSION)
        store.append("a", event("a"), expected_version=ANY_VERSION)

    handler = save if through == "itself" else closing_another(save)
    new = [event("a", 3), event("c", 1)]
    with before(function, line, handler):  # type: ignore[arg-type]
        stored = store.save_events(new)
    assert [one.event for one in stored] == new
    assert versions(store.get_events("a")) in ([1, 2, 3], [1, 3, 4])
    with store.follow() as follower:
        history = take(follower, 6)
        assert follower.is_caught_up
    assert [one.sequence for one in history] == [*range(1, 7)]
    assert [versions(store.get_events(actor_id)) for actor_id in "bc"] == [[1, 2], [1]]
    assert [one for one in history if one.event in new] == stored


@is_posix
@pytest.mark.parametrize("line", ["found, passed =", "following = ", "if here.next", "return found"])
def test_a_handler_takes_over_a_take(store: InMemoryEventStore, line: str) -> None:
    stored = fill(store, "a", 1, 2, 3)
    got = []
    with store.follow() as follower:
        with before(LogFollower._next, line, lambda: got.append(follower.get(timeout=0))):
            got.append(follower.get(timeout=0))
        got.append(follower.get(timeout=0))
        assert sorted(got, key=lambda one: one.sequence) == stored
        assert follower.sequence == 3
        assert follower.is_caught_up


@is_posix
def test_a_handler_closes_over_a_wait(store: InMemoryEventStore) -> None:
    before_ = signal.signal(signal.SIGALRM, lambda *_: store.close())
    try:
        with store.follow() as follower:
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            assert list(follower) == []
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_)
    assert store.closed


# -- forks


@is_posix
@pytest.mark.concurrent
@pytest.mark.parametrize("children", first_of([4, 40]))
def test_a_child_has_a_store_of_its_own(children: int) -> None:
    run(forks.a_store_in_memory, children, within=PATIENCE * 3)


def test_a_snapshot_that_is_read_is_the_readers(store: InMemoryEventStore) -> None:
    fill(store, "a", 1)
    store.save_snapshot(Snapshot(actor_id="a", version=1, state={"x": 1}))
    one, two = store.load("a").snapshot, store.load("a").snapshot
    assert one is not None
    assert two is not None
    assert one == two
    assert one.state is not two.state
