"""``EventQueue``: as a state machine against a simple model, and as the janus queue that it is."""

import asyncio
import gc
import threading
import tracemalloc
from collections import deque
from collections.abc import Callable

import janus
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aether_sync import (
    AetherError,
    DeadlineExceededError,
    Event,
    InvalidOptionError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
)
from aether_sync._bus.bounded import BoundedEvents, Overflow
from aether_sync._bus.queue import EventQueue
from aether_sync._runtime.deadline import Deadline

from ..support.common import PATIENCE, eventually, first_of, make_event, run_threads
from ..support.inside import waiting_readers
from ..support.signals import before

LIMIT, BYTES = 5, 100_000
NOW = Deadline(0)
SIZES = st.integers(1, 60).map(lambda size: size * BYTES // 50)


def make_queue(maxsize: int = 10_000, max_bytes: int = 2**20, overflow: Overflow = Overflow.DROP_NEWEST) -> EventQueue:
    return EventQueue(maxsize, max_bytes, overflow, "'n'", lambda stats: None)


def offer(queue: EventQueue, *sizes: int) -> int:
    return queue.offer([make_event(n) for n in range(len(sizes))], sizes)


def drain(queue: EventQueue) -> list[int]:
    taken = []
    while queue.stats().pending:
        taken.append(queue.take(NOW).data["n"])  # type: ignore[index]
    return taken


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a list of (number, size) and the plainest reading of each policy."""

    policy: Overflow

    def __init__(self) -> None:
        super().__init__()
        self.queue = make_queue(LIMIT, BYTES, self.policy)
        self.model: deque[tuple[int, int]] = deque()
        self.next = self.offered = self.dropped = self.taken = self.high_water = 0
        self.closed = False

    def fits(self, size: int) -> bool:
        return not self.model or (len(self.model) < LIMIT and sum(size for _, size in self.model) + size <= BYTES)

    def put(self, number: int, size: int) -> None:
        while self.policy is Overflow.DROP_OLDEST and not self.fits(size):
            self.model.popleft()
            self.dropped += 1
        if self.fits(size) and not self.closed:
            self.model.append((number, size))
        else:
            self.dropped += 1
            self.closed |= self.policy is Overflow.FAIL
        self.high_water = max(self.high_water, len(self.model))

    @rule(sizes=st.lists(SIZES, max_size=8))
    def offer(self, sizes: list[int]) -> None:
        events = [make_event(self.next + n) for n in range(len(sizes))]
        dropped = self.queue.offer(events, sizes)
        if self.closed:
            assert dropped == 0
            return
        before = self.dropped
        for number, size in enumerate(sizes, self.next):
            self.put(number, size)
        self.next += len(sizes)
        self.offered += len(sizes)
        assert dropped == self.dropped - before

    @rule(size=SIZES)
    def offer_if_room(self, size: int) -> None:
        fits = self.fits(size) and not self.closed
        assert self.queue.offer_if_room(make_event(self.next), size) == fits
        if fits:
            self.put(self.next, size)
            self.next += 1
            self.offered += 1

    @rule()
    def take(self) -> None:
        if self.model:
            assert self.queue.take(NOW).data == {"n": self.model.popleft()[0]}
            self.taken += 1
        else:
            with pytest.raises(SubscriptionClosedError if self.closed else DeadlineExceededError):
                self.queue.take(NOW)

    @precondition(lambda self: not self.closed and self.offered > 10)
    @rule(discard=st.booleans())
    def close(self, discard: bool) -> None:
        self.queue.close(discard=discard)
        self.closed = True
        if discard:
            self.dropped += len(self.model)
            self.model.clear()

    @invariant()
    def counts(self) -> None:
        stats = self.queue.stats()
        assert stats.pending == len(self.model)
        assert stats.pending_bytes == sum(size for _, size in self.model)
        assert (stats.offered, stats.delivered) == (self.offered, self.taken)
        assert sum(stats.dropped.values()) == self.dropped
        assert stats.high_water == self.high_water


def machine(policy: Overflow, examples: int = 20) -> type:
    case = type(f"Queue_{policy.value}_{examples}", (QueueMachine,), {"policy": policy}).TestCase
    case.settings = settings(max_examples=examples, stateful_step_count=40, deadline=None)
    return case


TestDropNewest = machine(Overflow.DROP_NEWEST)
TestDropOldest = machine(Overflow.DROP_OLDEST)
TestFail = machine(Overflow.FAIL)
TestDropNewestForLong = pytest.mark.slow(machine(Overflow.DROP_NEWEST, 60))
TestDropOldestForLong = pytest.mark.slow(machine(Overflow.DROP_OLDEST, 60))
TestFailForLong = pytest.mark.slow(machine(Overflow.FAIL, 60))


def test_what_fails_takes_nothing_behind_the_lost_event() -> None:
    queue = make_queue(max_bytes=100, overflow=Overflow.FAIL)
    assert offer(queue, 60, 60, 30, 5) == 3
    assert queue.stats().dropped == {"max_bytes": 3}
    assert drain(queue) == [0]
    with pytest.raises(SubscriptionOverflowError, match="'n' overflowed: its queue was full"):
        queue.take(NOW)


@pytest.mark.parametrize(
    ("overflow", "sizes", "kept", "dropped"),
    [
        (Overflow.DROP_NEWEST, [60, 60, 30, 5], [0, 2, 3], {"max_bytes": 1}),
        (Overflow.DROP_NEWEST, [1] * 7, [0, 1, 2, 3, 4], {"maxsize": 2}),
        (Overflow.DROP_OLDEST, [10, 10, 10, 90], [2, 3], {"max_bytes": 2}),
        (Overflow.DROP_OLDEST, [1] * 7, [2, 3, 4, 5, 6], {"maxsize": 2}),
        (Overflow.DROP_OLDEST, [10, 200], [1], {"max_bytes": 1}),
        (Overflow.FAIL, [1] * 7, [0, 1, 2, 3, 4], {"maxsize": 2}),
    ],
)
def test_why_events_are_dropped(overflow: Overflow, sizes: list[int], kept: list[int], dropped: dict[str, int]) -> None:
    queue = make_queue(5, 100, overflow)
    offer(queue, *sizes)
    assert (queue.stats().dropped, drain(queue)) == (dropped, kept)


def test_an_event_that_comes_just_before_the_end_is_taken() -> None:
    queue = make_queue()

    def end() -> None:
        offer(queue, 10)
        queue.close()

    with before(EventQueue.take, "if self.closed", end):
        assert queue.take(NOW).data == {"n": 0}


def test_how_it_ended_first_counts() -> None:
    queue = make_queue()
    queue.close()
    queue.close(failure=SubscriptionOverflowError("late"))
    with pytest.raises(SubscriptionClosedError, match="'n' is closed"):
        queue.take(NOW)


def test_what_was_taken_in_time_is_not_dropped() -> None:
    queue = make_queue(1, overflow=Overflow.DROP_OLDEST)
    offer(queue, 10)
    with before(BoundedEvents._put_and_drop_oldest, "self.pop()", lambda: drain(queue)):
        assert offer(queue, 10) == 0
    assert (queue.stats().delivered, queue.stats().dropped) == (2, {})


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEWEST, Overflow.DROP_OLDEST])
@pytest.mark.parametrize("batch", first_of([7, 1]))
@pytest.mark.parametrize("kept", [1, 10])
def test_what_went_through_leaves_nothing_behind(overflow: Overflow, batch: int, kept: int) -> None:
    queue = make_queue(10, 2**30, overflow)
    for _ in range(20_000 // batch):
        offer(queue, *[300] * batch)
        while len(queue._events) > kept:
            queue.pop()
    assert len(queue._sizes) < 1_000


@pytest.mark.concurrent
def test_counts_are_of_one_moment(fast_switching: None) -> None:
    queue, size, each = make_queue(maxsize=1, overflow=Overflow.DROP_OLDEST), 10, 3_000
    taken, seen = [], []

    def put() -> None:
        for _ in range(each):
            offer(queue, size, size, size)
        queue.close()

    def take() -> None:
        with pytest.raises(SubscriptionClosedError):
            while True:
                taken.append(queue.take(Deadline(PATIENCE)))

    def look() -> None:
        while not queue.closed:
            seen.append(queue.stats())

    run_threads(put, take, look)
    for stats in seen:
        assert stats.pending_bytes == stats.pending * size
        assert stats.offered == stats.delivered + stats.pending + sum(stats.dropped.values())
        assert stats.pending <= stats.high_water <= 1
    assert (queue.stats().offered, queue.stats().delivered) == (3 * each, len(taken))


@pytest.mark.concurrent
def test_no_thread_sleeps_beside_an_event() -> None:
    queue = make_queue()
    each, taken = 200, []
    done = threading.Barrier(4)

    def take() -> None:
        for _ in range(each):
            taken.append(queue.take(Deadline(PATIENCE)))
        done.wait(PATIENCE)

    def put() -> None:
        for n in range(0, each * 4, 4):
            queue.offer([make_event(n + k) for k in range(4)], [10] * 4)

    run_threads(put, *[take] * 4)
    assert len(taken) == each * 4


@pytest.mark.concurrent
@pytest.mark.parametrize(
    "put",
    [
        lambda queue, events: queue.offer(events, [10] * len(events)),
        lambda queue, events: [queue.offer((event,), (10,)) for event in events],
        lambda queue, events: [queue.offer_if_room(event, 10) for event in events],
        lambda queue, events: queue._events.extend(events) or queue.take(NOW),  # their wake-ups were lost
    ],
    ids=["a batch", "one by one", "if there is room", "handed on"],
)
def test_each_event_wakes_a_parked_thread(put: Callable[[EventQueue, list[Event]], object]) -> None:
    queue, taken = make_queue(), []
    threads = [threading.Thread(target=lambda: taken.append(queue.take(Deadline(None)))) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: waiting_readers(queue) == 3, "three parked threads")
    put(queue, [make_event(n) for n in range(4)])
    try:
        eventually(lambda: len(taken) == 3, "all three woken")
    finally:
        queue.close()
        for thread in threads:
            thread.join(PATIENCE)


class TestJanus:
    def test_an_idle_queue_is_small(self) -> None:
        make_queue()
        tracemalloc.start()
        try:
            queues = [make_queue() for _ in range(100)]
            gc.collect()
            traced, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert traced < 4 * 1024 * len(queues)

    def test_its_side_for_threads(self) -> None:
        queue = make_queue(2)
        assert isinstance(queue, janus.Queue)
        side = queue.sync_q
        assert (side.maxsize, side.qsize(), side.empty(), side.full(), side.closed) == (2, 0, True, False, False)
        with pytest.raises(janus.SyncQueueEmpty):
            side.get_nowait()
        with pytest.raises(janus.SyncQueueEmpty):
            side.get(timeout=0.001)
        with pytest.raises(InvalidOptionError, match="timeout"):
            side.get(timeout=-1)
        offer(queue, 10, 10)
        assert (side.qsize(), side.empty(), side.full()) == (2, False, True)
        assert [side.get_nowait().data, side.get().data] == [{"n": 0}, {"n": 1}]
        got: list[Event] = []
        thread = threading.Thread(target=lambda: got.append(side.get(timeout=PATIENCE)))
        thread.start()
        eventually(lambda: waiting_readers(queue) == 1, "a parked thread")
        offer(queue, 10)
        thread.join(PATIENCE)
        assert len(got) == 1
        side.shutdown()
        with pytest.raises(janus.SyncQueueShutDown):
            side.get()

    def test_its_side_for_coroutines(self) -> None:
        queue = make_queue()
        side = queue.async_q

        async def read() -> None:
            with pytest.raises(janus.AsyncQueueEmpty):
                side.get_nowait()
            waiting = asyncio.create_task(side.get())
            await asyncio.to_thread(eventually, lambda: waiting_readers(queue) == 1, "a waiting coroutine")
            await asyncio.to_thread(offer, queue, 10, 10)
            assert (await waiting).data == {"n": 0}
            assert side.get_nowait().data == {"n": 1}
            with pytest.raises(RuntimeError, match="is not closed"):
                await queue.wait_closed()
            await queue.aclose()
            with pytest.raises(janus.AsyncQueueShutDown):
                await side.get()
            with pytest.raises(janus.AsyncQueueShutDown):
                side.get_nowait()

        asyncio.run(read())
        assert queue.closed

    @pytest.mark.parametrize("side", ["sync_q", "async_q"])
    @pytest.mark.parametrize("name", ["put", "put_nowait", "task_done", "join", "unfinished_tasks"])
    def test_what_its_sides_do_not_do_is_refused(self, side: str, name: str) -> None:
        with pytest.raises(AetherError, match="its bus puts the events"):
            getattr(getattr(make_queue(), side), name)(1)

    @pytest.mark.parametrize(("immediate", "kept"), [(False, [0]), (True, [])])
    def test_its_shutdown_is_a_close(self, immediate: bool, kept: list[int]) -> None:
        queue, ended = make_queue(), []

        def take() -> None:
            with pytest.raises(SubscriptionClosedError):
                queue.take(Deadline(None))
            ended.append(queue.closed)

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        eventually(lambda: waiting_readers(queue) == 1, "a parked thread")
        queue.shutdown(immediate)
        thread.join(PATIENCE)
        assert ended == [True]
        queue = make_queue()
        offer(queue, 10)
        queue.shutdown(immediate)
        assert drain(queue) == kept
        assert offer(queue, 10) == 0
