"""``_deadline`` and ``_waiting``: timeouts, parked threads, replies, guards."""

import gc
import math
import random
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import pytest

from aether_sync import DeadlineExceededError, InvalidOptionError
from aether_sync._runtime import waits
from aether_sync._runtime.deadline import Deadline
from aether_sync._runtime.locks import outside_locks, signal_safe_lock
from aether_sync._runtime.registry import WeakRegistry
from aether_sync._runtime.waits import ParkingLot, Relay, Reply, SingleFlight

from ..support.common import PATIENCE, UNIT, eventually, run_threads


def test_a_deadline() -> None:
    assert Deadline(None).remaining() == math.inf
    assert Deadline(None).timeout_left() is None
    assert Deadline(0).remaining() == 0
    assert 0 < Deadline(PATIENCE).remaining() <= PATIENCE
    assert Deadline(1e300).for_lock() == threading.TIMEOUT_MAX
    assert (str(Deadline(1.5)), str(Deadline(None))) == ("1.5 s", "for ever")


@pytest.mark.parametrize("timeout", [-1, -0.001, math.nan, "1", True, [], 1j])
def test_what_is_no_timeout(timeout: object) -> None:
    with pytest.raises(InvalidOptionError, match="timeout must be"):
        Deadline(timeout)  # type: ignore[arg-type]


def test_parking_looks_before_it_waits() -> None:
    lot = ParkingLot()
    assert lot.wait(lambda: True, Deadline(0))
    assert not lot.wait(lambda: False, Deadline(0))
    assert not lot.wait(lambda: False, Deadline(0.01))
    assert len(lot) == 0


@pytest.mark.concurrent
def test_the_longest_waiting_is_woken_first() -> None:
    lot, woken, turns = ParkingLot(), [], [0]

    def wait(n: int) -> None:
        assert lot.wait(lambda: turns[0] > n, Deadline(PATIENCE))
        woken.append(n)

    threads = []
    for n in range(4):
        threads.append(threading.Thread(target=wait, args=(n,)))
        threads[-1].start()
        eventually(lambda n=n: len(lot) == n + 1, "one more parked thread")
    for n in range(4):
        turns[0] = n + 1
        lot.wake(1)
        eventually(lambda n=n: woken == list(range(n + 1)), f"{n + 1} woken threads")
    for thread in threads:
        thread.join(PATIENCE)


class Clock:
    """It stands still, but for what it is told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(waits, "monotonic", clock)
    return clock


class Ticket:
    """Of a thread that notes that it is woken."""

    def __init__(self, woken: "list[Ticket]") -> None:
        self._woken = woken

    def release(self) -> None:
        self._woken.append(self)


def test_each_thread_of_a_relay_wakes_the_next(clock: Clock) -> None:
    relay, woken = Relay(), list[Ticket]()
    tickets = [Ticket(woken) for _ in range(4)]
    relay.waiting.extend(tickets)
    relay.start()
    assert woken == tickets[:1]
    relay.pass_on()
    assert woken == tickets[:2]
    relay.wake_all()
    assert woken == tickets
    for wake in (relay.start, relay.pass_on, relay.wake_all):
        wake()  # with nobody there
    assert woken == tickets
    relay.waiting.extend(tickets)
    relay.start()
    assert woken == tickets + tickets[:1], "it can be used again"


@pytest.mark.parametrize("wake", [Relay.start, Relay.pass_on, Relay.wake_all])
def test_a_relay_passes_over_who_does_not_wait_any_more(wake: Callable[[Relay], None]) -> None:
    relay, lock = Relay(), threading.Lock()
    lock.acquire()
    relay.waiting.extend([threading.Lock(), threading.Lock(), lock, threading.Lock()])
    wake(relay)
    assert lock.acquire(blocking=False)
    assert len(relay.waiting) == (0 if wake is Relay.wake_all else 1)


def test_nobody_in_a_relay_sleeps_behind_a_thread_that_does_not_wake_the_next(clock: Clock) -> None:
    relay, woken = Relay(), list[Ticket]()
    tickets = [Ticket(woken) for _ in range(4)]
    relay.waiting.extend(tickets)
    assert relay.watch(None) is tickets[0]
    relay.start()
    assert relay.watch(tickets[0]) is tickets[1]
    assert woken == tickets[:1], "they come on"
    assert relay.watch(tickets[1]) is None
    assert woken == tickets
    assert relay.watch(tickets[1]) is None


def test_a_relay_whose_threads_come_to_run_late_wakes_all_at_once(clock: Clock) -> None:
    """Else each of them would wait for the GIL as long as the first, behind a thread that computes."""
    relay, woken = Relay(), list[Ticket]()

    def run(late: float) -> int:
        relay.waiting.extend(Ticket(woken) for _ in range(4))
        relay.start()
        begun = len(woken)
        clock.now += late
        relay.pass_on()
        return begun

    interval = sys.getswitchinterval()
    assert run(interval) == 1
    assert len(woken) == 4, "the first came late, and has woken the others"
    assert run(interval) == 8, "the next time they are woken from the start"
    assert run(interval / 10) == 12, "as the last one that was measured was late"
    assert run(interval / 10) == 13
    assert len(woken) == 14


@pytest.mark.concurrent
def test_nobody_in_a_relay_is_forgotten() -> None:
    """Threads park, are woken, leave by themselves, and wake all: whoever stays to be woken is."""
    relay, parked, left = Relay(), deque[threading.Lock](), list[int]()
    ends = time.monotonic() + UNIT

    def wait(n: int) -> None:
        chosen = random.Random(n)
        try:
            while time.monotonic() < ends:
                lock = threading.Lock()
                lock.acquire()
                parked.append(lock)
                leaves = chosen.random() < 0.2
                assert lock.acquire(timeout=0 if leaves else PATIENCE) or leaves, "it was forgotten"
                with suppress(RuntimeError):
                    lock.release()
                (relay.wake_all if chosen.random() < 0.1 else relay.pass_on)()
        finally:
            left.append(n)

    def wake() -> None:
        while len(left) < 8:
            if parked:
                relay.waiting.extend(parked.popleft() for _ in range(len(parked)))
                relay.start()
            time.sleep(0)

    run_threads(wake, *(partial(wait, n) for n in range(8)))


def test_a_reply_is_left_once_and_found_by_all() -> None:
    reply: Reply[int] = Reply()
    with pytest.raises(DeadlineExceededError):
        reply.wait(Deadline(0))
    found: list[int] = []
    run_threads(*[lambda: found.append(reply.wait(Deadline(PATIENCE)))] * 5, lambda: reply.set(7))
    reply.set(8)
    reply.fail(ValueError("late"))
    assert found == [7] * 5
    assert reply.wait(Deadline(0)) == 7


def test_each_waiter_gets_an_error_of_its_own() -> None:
    reply: Reply[int] = Reply()
    reply.fail(ValueError("no"))
    caught = []
    for _ in range(2):
        with pytest.raises(ValueError, match="no") as error:
            reply.wait(Deadline(0))
        caught.append(error.value)
    assert caught[0] is not caught[1]


def test_once() -> None:
    once: SingleFlight[int] = SingleFlight()
    calls = []

    def work() -> int:
        calls.append(1)
        time.sleep(0.02 * UNIT)
        return 7

    results: list[int] = []
    run_threads(*[lambda: results.append(once.run(work, Deadline(PATIENCE), -1))] * 5)
    assert (results, calls) == ([7] * 5, [1])


def test_once_is_done_again_after_an_interrupt_and_not_within_itself() -> None:
    once: SingleFlight[int] = SingleFlight()

    def interrupted() -> int:
        assert once.run(lambda: 1, Deadline(0), -1) == -1  # a handler, over the work itself
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once.run(interrupted, Deadline(0), -1)
    assert once.run(lambda: 7, Deadline(0), -1) == 7


def test_stepping_outside_guards_lets_others_in_and_takes_them_back() -> None:
    lock, other = signal_safe_lock(), signal_safe_lock()
    entered = threading.Event()

    def enter() -> None:
        with lock, other:
            entered.set()

    with lock, lock, other:
        with outside_locks():
            run_threads(enter)
        assert entered.is_set()
        thread = threading.Thread(target=lambda: lock.acquire(timeout=0.01 * UNIT) and lock.release())
        thread.start()
        thread.join(PATIENCE)
        assert lock._is_owned()  # type: ignore[attr-defined]
    assert not lock._is_owned()  # type: ignore[attr-defined]


def test_a_weak_registry_forgets_what_is_gone() -> None:
    class Thing:
        pass

    registry: WeakRegistry[Thing] = WeakRegistry()
    things = [Thing() for _ in range(3)]
    for thing in things:
        registry.add(thing)
    assert set(registry) == set(things)
    del thing, things[1:]
    gc.collect()
    assert list(registry) == things
