"""``EventQueue``: as a state machine against a simple model."""

import threading
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aether_sync import DeadlineExceededError, SubscriptionClosedError
from aether_sync._deadline import Deadline
from aether_sync._queues import EventQueue, Overflow

from .conftest import PATIENCE, make_event, run_threads

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
