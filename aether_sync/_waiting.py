"""Locks and waits that no signal handler can break.

A handler may raise between any two bytecodes, or call ``close()`` over the very call that it interrupted.
``threading.Condition`` and ``concurrent.futures.Future`` are Python code around a lock, and such an exception can leave
that lock held, or release it in another thread's hands. So here:

- A lock is a :func:`guard`: re-entrant, and only ever taken by ``with``, which no signal can interrupt half done.
- A thread waits parked on a lock of its own (:class:`Parking`), holding no guard.
- A handler's ``close()`` that has to wait for another thread first steps :func:`outside_guards`.

Accepted race: an exception between being woken and acting on it may swallow that wake-up. Whoever leaves a wait by an
exception wakes another thread, and a wake-up too many is harmless: the woken look, and park again.
"""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from functools import partial
from operator import methodcaller
from threading import Lock, RLock, get_ident
from typing import Any, Generic, TypeVar, cast

from ._deadline import Deadline
from .errors import DeadlineExceededError

__all__ = ["Living", "Once", "Parking", "Reply", "free_guards", "guard", "outside_guards"]

T = TypeVar("T")


class Living(Generic[T]):
    """Objects that are still alive. Any thread, without a lock.

    Only single operations of a dict are used, and the callbacks are C functions, so no signal handler can raise in one.
    """

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[T]] = {}  # by id
        self._forget = self._refs.pop

    def add(self, one: T) -> None:
        """Know it until it is collected."""
        self._refs[id(one)] = weakref.ref(one, partial(self._forget, id(one)))

    def __iter__(self) -> Iterator[T]:
        return iter([one for ref in list(self._refs.values()) if (one := ref()) is not None])


_guards: Living[Any] = Living()  # RLocks, with the methods that threading itself uses in conditions and after forks


def guard() -> RLock:
    """Make a lock that :func:`outside_guards` knows."""
    lock = RLock()
    _guards.add(lock)
    return lock


def free_guards() -> None:
    """In a forked child: free the guards of threads that did not survive.

    Those of the forking thread stay held: a signal handler that forks may have interrupted who gives them back.
    """
    for lock in _guards:
        if not lock._is_owned():
            lock._at_fork_reinit()


@contextmanager
def outside_guards() -> Iterator[None]:
    """Let go of all guards that this thread holds (a signal handler interrupted it inside), and take them back after.

    What the interrupted code was changing is seen half done by others in between, and what it knew may be old when it
    goes on: each piece of code under a guard is written such that this costs at most a count that is off.
    """
    held = [lock for lock in _guards if lock._is_owned()]
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


class Parking:
    """Threads that wait until something guarded by ``lock`` has changed."""

    __slots__ = ("_lock", "parked")

    def __init__(self, lock: RLock) -> None:
        self._lock = lock
        self.parked: list[Lock] = []  #: one for each thread, the longest waiting first; guarded by lock

    def __len__(self) -> int:
        return len(self.parked)

    def wait(self, ready: Callable[[], object], deadline: Deadline) -> bool:
        """Wait until ``ready()``, which is called with the lock held; False when the deadline came first."""
        while True:
            ticket = Lock()
            ticket.acquire()
            try:
                with self._lock:
                    self.parked.append(ticket)  # first: a handler's close() lets go of the lock, and then others come
                    if ready():
                        return True
                if not ticket.acquire(timeout=deadline.for_lock()):
                    with self._lock:  # a wake-up may have come just now: then it is not lost, but acted on
                        self._leave(ticket)
                        return bool(ready())
            except BaseException:
                self.wake(1)
                raise
            finally:
                self._leave(ticket)

    def wake(self, count: int) -> None:
        """Wake up to ``count`` threads, the longest waiting first."""
        if not self.parked:
            return
        with self._lock:
            for _ in range(min(count, len(self.parked))):
                ticket = self.parked[0]
                if ticket.locked():
                    ticket.release()
                del self.parked[0]  # only now: a ticket taken off but not released would sleep on

    def wake_all(self) -> None:
        """Wake every parked thread."""
        self.wake(len(self.parked))

    def _leave(self, ticket: Lock) -> None:
        with self._lock:
            if ticket in self.parked:
                self.parked.remove(ticket)


class Reply(Generic[T]):
    """A result, or an error, that one thread leaves for any number of others. The first one left stays."""

    __slots__ = ("_lock", "_value", "_waiting", "done", "error")

    def __init__(self) -> None:
        self._lock = guard()  # guards all fields
        self._waiting = Parking(self._lock)
        self._value: T | None = None
        self.error: Exception | None = None  #: what fail() left
        self.done = False

    def set(self, value: T) -> None:
        """Leave a result."""
        self._finish(value, None)

    def fail(self, error: Exception) -> None:
        """Leave an error, for each waiter to raise."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: Exception | None) -> None:
        with self._lock:
            if not self.done:
                self._value, self.error = value, error
                self.done = True
            self._waiting.wake_all()

    def wait(self, deadline: Deadline) -> T:
        """Wait for what is left here.

        Raises:
            DeadlineExceededError: Nothing was left in time. The caller knows what it waited for, and says it.
        """
        if not self.done and not self._waiting.wait(lambda: self.done, deadline):
            raise DeadlineExceededError(f"no answer within {deadline}")
        if self.error is not None:
            raise copy(self.error) from self.error.__cause__  # each waiter its own: a traceback belongs to one thread
        return cast(T, self._value)


class Once(Generic[T]):
    """Work that the first thread to come does, and others wait for."""

    def __init__(self) -> None:
        self._lock = guard()  # guards the fields below
        self._reply: Reply[T] | None = None
        self._worker = 0

    def run(self, work: Callable[[], T], deadline: Deadline, otherwise: T) -> T:
        """Do the work, or wait for its result.

        Args:
            work: Called outside all guards. If it is interrupted by an exception, the next caller does it again.
            deadline: For those who wait.
            otherwise: What they get when the deadline comes first, and a signal handler that interrupted the work
                itself.
        """
        own: Reply[T] = Reply()
        done = self._reply
        if done is not None and done.done:
            return done.wait(deadline)
        with outside_guards():
            try:
                with self._lock:
                    if self._reply is None:
                        self._worker = get_ident()
                        self._reply = own
                    reply = self._reply
                if reply is own:
                    own.set(work())
            except BaseException:
                if self._reply is own and not own.done:
                    self._reply = None
                    own.set(otherwise)
                raise
            if self._worker == get_ident() and not reply.done:
                return otherwise
            try:
                return reply.wait(deadline)
            except DeadlineExceededError:
                return otherwise

    def disown(self, otherwise: T) -> None:
        """In a forked child, where nobody does the work: give those who wait this."""
        if self._reply is not None:
            self._reply.set(otherwise)
