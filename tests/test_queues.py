"""``EventQueue`` and ``Outbox``: as state machines against simple models, and under interrupts."""

import threading
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aether_sync import BusClosedError, DeadlineExceededError, PublishTimeoutError, SubscriptionClosedError
from aether_sync._deadline import Deadline
from aether_sync._queues import EventQueue, Outbox, Overflow

from .conftest import PATIENCE, eventually, make_event, run_threads

LIMIT, BYTES = 5, 50
NOW = Deadline(0)


class QueueMachine(RuleBasedStateMachine):
    """The queue beside a list of (number, size) and the plainest reading of each policy."""

    policy: Overflow

    def __init__(self) -> None:
        super().__init__()
        self.queue = EventQueue(LIMIT, BYTES, self.policy, "'n'", lambda stats: None)
        self.model: deque[tuple[int, int]] = deque()
        self.next = self.offered = self.dropped = self.taken = 0
        self.closed = False

    def fits(self, size: int) -> bool:
        return not self.model or (len(self.model) < LIMIT and sum(size for _, size in self.model) + size <= BYTES)

    @rule(sizes=st.lists(st.integers(1, 60), max_size=8))
    def offer(self, sizes: list[int]) -> None:
        events = [make_event(self.next + n) for n in range(len(sizes))]
        dropped = self.queue.offer(events, sizes)
        if self.closed:
            assert dropped == 0
            return
        before = self.dropped
        for event, size in zip(events, sizes, strict=True):
            if self.policy is Overflow.DROP_OLDEST:
                while not self.fits(size):
                    self.model.popleft()
                    self.dropped += 1
            if self.fits(size):
                self.model.append((event.data["n"], size))  # type: ignore[index]
            else:
                self.dropped += 1
                self.closed |= self.policy is Overflow.FAIL
        self.next += len(sizes)
        self.offered += len(sizes)
        assert dropped == self.dropped - before

    @rule(size=st.integers(1, 60))
    def offer_if_room(self, size: int) -> None:
        fits = self.fits(size) and not self.closed
        assert self.queue.offer_if_room(make_event(self.next), size) == fits
        if fits:
            self.model.append((self.next, size))
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
        assert stats.high_water <= LIMIT


def machine(policy: Overflow) -> type:
    case = type(f"Queue_{policy.value}", (QueueMachine,), {"policy": policy}).TestCase
    case.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
    return case


TestDropNewest = machine(Overflow.DROP_NEWEST)
TestDropOldest = machine(Overflow.DROP_OLDEST)
TestFail = machine(Overflow.FAIL)


class OutboxMachine(RuleBasedStateMachine):
    """The outbox beside a list of frames that wait, and a count of those that the loop holds and has not written."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(LIMIT, BYTES)
        self.waiting: list[bytes] = []
        self.held: list[bytes] = []  # taken by the loop, and not yet written
        self.accepted = 0
        self.closed = False

    @property
    def depth(self) -> tuple[int, int]:
        frames = self.waiting + self.held
        return len(frames), sum(map(len, frames))

    @rule(sizes=st.lists(st.integers(1, 15) | st.just(60), min_size=1, max_size=3) | st.just([1] * 7))
    def put(self, sizes: list[int]) -> None:
        frames = [bytes([(self.accepted + n) % 256]) * size for n, size in enumerate(sizes)]
        count, size = self.depth
        if self.closed:
            with pytest.raises(BusClosedError):
                self.outbox.put(frames, max(sizes), 0)
        elif count and (count + len(frames) > LIMIT or size + sum(sizes) > BYTES):
            with pytest.raises(PublishTimeoutError):
                self.outbox.put(frames, max(sizes), 0)
        else:
            self.outbox.put(frames, max(sizes), 0)
            self.waiting += frames
            self.accepted += len(frames)

    @precondition(lambda self: self.waiting)
    @rule()
    def take(self) -> None:
        batch = self.outbox._get()
        assert batch.frames
        assert batch.frames == self.waiting[: len(batch.frames)]
        assert batch.largest == max(map(len, batch.frames))
        self.held += batch.frames
        del self.waiting[: len(batch.frames)]

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 10))
    def write(self, count: int) -> None:
        written, self.held = self.held[:count], self.held[count:]
        self.outbox.written(len(written), sum(map(len, written)))

    @precondition(lambda self: self.accepted > 15)
    @rule()
    def close(self) -> None:
        self.outbox.close()
        self.closed = True

    @invariant()
    def counts(self) -> None:
        assert self.outbox.depth() == self.depth
        assert self.outbox.position() == self.accepted
        assert bool(self.outbox._qsize()) == bool(self.waiting)


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_an_outbox_accepts_all_or_nothing() -> None:
    outbox = Outbox(max_events=3, max_bytes=100)
    outbox.put([b"x"] * 2, 1, 0)
    with pytest.raises(PublishTimeoutError, match="2 events"):
        outbox.put([b"x"] * 2, 1, 0)
    assert (outbox.depth(), outbox.position()) == ((2, 2), 2)
    with pytest.raises(PublishTimeoutError):
        outbox.put([b"x" * 99], 99, 0)
    outbox.put([b"x"], 1, 0)
    assert outbox.depth() == (3, 3)


def test_what_is_larger_than_the_outbox_goes_when_it_is_empty() -> None:
    outbox = Outbox(max_events=3, max_bytes=100)
    outbox.put([b"x" * 500] * 9, 500, 0)
    with pytest.raises(PublishTimeoutError):
        outbox.put([b"x"], 1, 0)


def test_what_the_loop_holds_counts_until_it_is_written() -> None:
    outbox = Outbox(max_events=4, max_bytes=100)
    outbox.put([b"x"] * 4, 1, 0)
    batch = outbox._get()
    assert (len(batch.frames), batch.taken, outbox.depth()) == (4, 4, (4, 4))
    with pytest.raises(PublishTimeoutError):
        outbox.put([b"x"], 1, 0)
    outbox.written(2, 2)
    outbox.put([b"y"] * 2, 1, 0)
    assert (outbox.depth(), outbox.position()) == ((4, 4), 6)
    assert len(batch.frames) == 4, "a batch that was taken must not grow"


@pytest.mark.concurrent
def test_waiting_publishers_go_on_when_there_is_room() -> None:
    outbox = Outbox(max_events=2, max_bytes=100)
    outbox.put([b"x"] * 2, 1, 0)
    done: list[int] = []

    def publish(n: int) -> None:
        outbox.put([b"y"], 1, PATIENCE)
        done.append(n)

    def make_room() -> None:
        while len(done) < 10:
            if outbox._qsize():
                batch = outbox._get()
                outbox.written(len(batch.frames), batch.size)

    run_threads(make_room, *(lambda n=n: publish(n) for n in range(10)))
    assert sorted(done) == list(range(10))


def test_closing_an_outbox_releases_publishers() -> None:
    outbox = Outbox(max_events=1, max_bytes=100)
    outbox.put([b"x"], 1, 0)

    def publish() -> None:
        with pytest.raises(BusClosedError):
            outbox.put([b"x"], 1, None)

    def close() -> None:
        eventually(lambda: len(outbox._publishers) == 3, "three waiting publishers")
        outbox.close()

    run_threads(publish, publish, publish, close)


@pytest.mark.concurrent
def test_no_thread_sleeps_beside_an_event() -> None:
    queue = EventQueue(10_000, 2**20, Overflow.DROP_NEWEST, "'n'", lambda stats: None)
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
