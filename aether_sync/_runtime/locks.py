"""Locks and waits that no signal handler and no finalizer can break.

A signal handler may raise between any two bytecodes. It may publish, subscribe or ``close()`` in the middle of the
very call that it interrupted. So may a finalizer, as the garbage collector runs on any thread. ``threading.Condition``
and ``concurrent.futures.Future`` are Python code around a lock: such an exception can leave the lock held, or release
it while another thread holds it. Therefore:

- A lock that is waited for is a :func:`signal_safe_lock`. It is re-entrant, and is taken only by ``with``, which no
  signal interrupts half-way.
- No thread waits for a lock that publishing needs. Its holder may run a log handler, by way of a finalizer, and wait
  for a lock of the user's whose holder publishes. Such a lock is taken by ``for mine in tries(lock): break`` inside a
  ``try`` whose ``finally`` releases it. That is one step, as no signal comes between the result of an iterator and the
  variable of the loop. A thread that does not get the lock leaves the work to the holder, who checks for it afterwards.
- A thread that waits is parked on a lock of its own (``ParkingLot``) and holds no other. Parking and waking take none.
- A ``close()`` in a signal handler that has to wait for another thread first steps :func:`outside_locks`.

Accepted race: an exception between being woken and acting on it may lose that wake-up. It is harmless, because a thread
that leaves a wait by an exception wakes another one; and a thread that is woken in vain looks, and parks again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from threading import Lock, RLock
from typing import Any

from .registry import WeakRegistry

__all__ = ["free_locks", "signal_safe_lock", "outside_locks", "tries"]


# RLocks, with the methods that ``threading`` itself uses in conditions and after forks.
_locks: WeakRegistry[Any] = WeakRegistry()


def signal_safe_lock() -> RLock:
    """Make a lock that :func:`outside_locks` knows."""
    lock = RLock()
    _locks.add(lock)
    return lock


def tries(lock: "Lock | RLock", within: float = 0.0) -> Iterator[bool]:
    """Return an iterator that tries to take a lock with each step, and gives whether it did.

    Args:
        lock: The lock.
        within: Seconds to wait for it with each step.
    """
    return iter(partial(lock.acquire, True, within) if within else partial(lock.acquire, False), None)


def free_locks() -> None:
    """In a forked child: free the locks of threads that did not survive.

    Those of the forking thread stay held: a signal handler that forks may have interrupted code that releases them.
    """
    for lock in _locks:
        if not lock._is_owned():
            lock._at_fork_reinit()


@contextmanager
def outside_locks() -> Iterator[None]:
    """Release all locks that this thread holds, as a signal handler has interrupted it, and take them back afterwards.

    Meanwhile other threads see what the interrupted code has half changed, and what that code knew may be outdated when
    it goes on. All code under these locks is written so that at most a count is wrong then.
    """
    held = [lock for lock in _locks if lock._is_owned()]
    states: list[tuple[int, int]] = []  # depth and owner of those that are released
    try:
        states.extend(map(methodcaller("_release_save"), held))  # all of it in C: no signal comes in between
        yield
    finally:
        _take_back([(lock, depth) for lock, (depth, _) in zip(held, states, strict=False)])


def _take_back(held: list[tuple[Any, int]]) -> None:
    """Take all these locks. It waits for one only while it holds none, because they are taken in no fixed order.

    Accepted race: if the handler of a second signal raises in here, some of them stay free. The code that held them
    then raises RuntimeError, while that same exception leaves it anyway.
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
