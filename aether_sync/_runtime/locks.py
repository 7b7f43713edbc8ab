"""Locks that no signal handler and no finalizer can break; the waits in ``waits`` follow the same rules.

A signal handler runs between any two bytecodes of the main thread. It may raise there, and it may publish, subscribe or
call ``close()`` while the call that it interrupted is half done. A finalizer may do the same on any thread, since the
garbage collector runs on whichever thread happens to allocate. ``threading.Condition`` and
``concurrent.futures.Future`` are Python code around a lock, so an exception at the wrong moment leaves that lock held,
or releases it while another thread holds it. Therefore:

- A lock that threads wait for is a :func:`signal_safe_lock`. It is re-entrant, and it is taken by ``with`` alone, which
  no signal can interrupt half-way.
- No publisher waits for a lock. Its holder may be in a log handler, called by way of a finalizer, and wait there for a
  lock of the user, whose holder publishes. So such a lock is taken by ``for mine in tries(lock): break`` inside a
  ``try`` whose ``finally`` releases it. That is one step, because no signal arrives between the moment when a loop gets
  a value and the moment when it is in the variable. A thread that does not get the lock leaves its work to the holder,
  who looks for such work after releasing the lock.
- A thread that waits is parked on a lock of its own (:class:`~.waits.ParkingLot`), and holds no other lock meanwhile.
  Parking and waking take no lock.
- A ``close()`` by a handler, if it has to wait for another thread, first steps :func:`outside_locks`.

Accepted race: an exception between a wake-up and the work that follows may swallow the wake-up. A thread that leaves a
wait by an exception therefore wakes another thread. A superfluous wake-up is harmless: that thread looks, and parks
again.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from operator import methodcaller
from threading import Lock, RLock
from typing import Any

from .registry import WeakRegistry

__all__ = ["free_locks", "signal_safe_lock", "outside_locks", "tries"]


# RLocks; of their methods these are used that threading itself uses in conditions and after forks.
_locks: WeakRegistry[Any] = WeakRegistry()


def signal_safe_lock() -> RLock:
    """Make a re-entrant lock that :func:`outside_locks` and :func:`free_locks` know."""
    lock = RLock()
    _locks.add(lock)
    return lock


def tries(lock: "Lock | RLock", within: float = 0.0) -> Iterator[bool]:
    """Return an iterator that tries to take a lock for each of its values, which says whether the lock was taken.

    Args:
        lock: The lock to take.
        within: Seconds to wait for the lock each time.
    """
    return iter(partial(lock.acquire, True, within) if within else partial(lock.acquire, False), None)


def free_locks() -> None:
    """In a forked child, free the locks of threads that do not exist there.

    The locks of the forking thread stay held. If a signal handler forked, the code that it interrupted releases them.
    """
    for lock in _locks:
        if not lock._is_owned():
            lock._at_fork_reinit()


@contextmanager
def outside_locks() -> Iterator[None]:
    """Release all locks that this thread holds, and take them back afterwards.

    A signal handler that has to wait for another thread needs this, if it interrupted code that holds locks. Meanwhile
    other threads see what that code was changing half done, and what that code knew may be outdated when it goes on.
    All code that holds such a lock is written so that this costs at most a wrong count.
    """
    held = [lock for lock in _locks if lock._is_owned()]
    states: list[tuple[int, int]] = []  # depth and owner of those that are released
    try:
        states.extend(map(methodcaller("_release_save"), held))  # all of it in C, so no signal arrives meanwhile
        yield
    finally:
        _take_back([(lock, depth) for lock, (depth, _) in zip(held, states, strict=False)])


def _take_back(held: list[tuple[Any, int]]) -> None:
    """Take these locks. As they have no order, one is waited for only while none of the others is held.

    Accepted race: if a second signal arrives and its handler raises in here, some of the locks stay free. The code that
    held them then raises RuntimeError while it is left by that same exception.
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
