"""Locks and waits that no signal handler and no finalizer can break.

A handler may raise between any two bytecodes, or publish, subscribe or ``close()`` over the very call that it
interrupted; so may a finalizer, as the collector runs on whatever thread comes by. ``threading.Condition`` and
``concurrent.futures.Future`` are Python code around a lock, and such an exception can leave that lock held, or release
it in another thread's hands. So here:

- A lock that is waited for is a :func:`signal_safe_lock`: re-entrant, and only ever taken by ``with``, which no signal
  can interrupt half done.
- What publishing needs is waited for by nobody. The holder may be in a log handler, by way of a finalizer, and wait for
  a lock of the user's whose holder publishes. So it is taken by ``for mine in tries(lock): break`` inside a ``try``
  whose ``finally`` gives it back: one step, as no signal comes between what a loop gets and its variable. Who does not
  get it leaves the work to the holder, who looks for such work afterwards.
- A thread waits parked on a lock of its own (:class:`ParkingLot`), holding no guard. Parking and waking take no lock.
- A handler's ``close()`` that has to wait for another thread first steps :func:`outside_locks`.

Accepted race: an exception between being woken and acting on it may swallow that wake-up. Whoever leaves a wait by an
exception wakes another thread, and a wake-up too many is harmless: the woken look, and park again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from threading import Lock, RLock
from typing import Any

from .registry import WeakRegistry

__all__ = ["free_locks", "signal_safe_lock", "outside_locks", "tries"]


_locks: WeakRegistry[Any] = (
    WeakRegistry()
)  # RLocks, with the methods that threading itself uses in conditions and after forks


def signal_safe_lock() -> RLock:
    """Make a lock that :func:`outside_locks` knows."""
    lock = RLock()
    _locks.add(lock)
    return lock


def tries(lock: "Lock | RLock", within: float = 0.0) -> Iterator[bool]:
    """Try to take a lock, each time that one more is asked for, and say whether that went well.

    Args:
        lock: Which.
        within: Seconds to wait for it each time.
    """
    return iter(partial(lock.acquire, True, within) if within else partial(lock.acquire, False), None)


def free_locks() -> None:
    """In a forked child: free the guards of threads that did not survive.

    Those of the forking thread stay held: a signal handler that forks may have interrupted who gives them back.
    """
    for lock in _locks:
        if not lock._is_owned():
            lock._at_fork_reinit()


@contextmanager
def outside_locks() -> Iterator[None]:
    """Let go of all guards that this thread holds (a signal handler interrupted it inside), and take them back after.

    What the interrupted code was changing is seen half done by others in between, and what it knew may be old when it
    goes on: each piece of code under a guard is written such that this costs at most a count that is off.
    """
    held = [lock for lock in _locks if lock._is_owned()]
    states: list[tuple[int, int]] = []  # depth and owner of those that are let go
    try:
        states.extend(map(methodcaller("_release_save"), held))  # all of it in C: no signal comes in between
        yield
    finally:
        _take_back([(lock, depth) for lock, (depth, _) in zip(held, states, strict=False)])


def _take_back(held: list[tuple[Any, int]]) -> None:
    """Take all of these, waiting for one only while holding none: they are in no order.

    Accepted race: a second signal whose handler raises in here leaves some of them free. The code that held them then
    raises RuntimeError, on its way out of that same exception.
    """
    taken: list[Any] = []
    while len(taken) < len(held):
        lock = held[len(taken)][0]
        if lock.acquire(blocking=False):
            taken.append(lock)
            continue
        while taken:
            taken.pop().release()
        with lock:
            pass
    for lock, depth in held:
        for _ in range(depth - 1):
            lock.acquire()
