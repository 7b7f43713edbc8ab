"""Locks and waits that no signal handler and no finalizer can break.

A handler may raise between any two bytecodes, or publish, subscribe or ``close()`` over the very call that it
interrupted; so may a finalizer, as the collector runs on whatever thread comes by. ``threading.Condition`` and
``concurrent.futures.Future`` are Python code around a lock, and such an exception can leave that lock held, or release
it in another thread's hands. So here:

- A lock that is waited for is a :func:`guard`: re-entrant, and only ever taken by ``with``, which no signal can
  interrupt half done.
- What publishing needs is waited for by nobody. The holder may be in a log handler, by way of a finalizer, and wait for
  a lock of the user's whose holder publishes. So it is taken by ``for mine in tries(lock): break`` inside a ``try``
  whose ``finally`` gives it back: one step, as no signal comes between what a loop gets and its variable. Who does not
  get it leaves the work to the holder, who looks for such work afterwards.
- A thread waits parked on a lock of its own (:class:`Parking`), holding no guard. Parking and waking take no lock.
- A handler's ``close()`` that has to wait for another thread first steps :func:`outside_guards`.

Accepted race: an exception between being woken and acting on it may swallow that wake-up. Whoever leaves a wait by an
exception wakes another thread, and a wake-up too many is harmless: the woken look, and park again.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from copy import copy
from functools import partial
from itertools import islice
from operator import methodcaller
from threading import Lock, RLock, get_ident
from typing import Any, Generic, TypeVar, cast

from ._deadline import Deadline
from .errors import DeadlineExceededError

__all__ = ["Living", "Once", "Parking", "Reply", "free_guards", "guard", "outside_guards", "tries"]

T = TypeVar("T")

_release = methodcaller("release")


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


def tries(lock: "Lock | RLock", within: float = 0.0) -> Iterator[bool]:
    """Try to take a lock, each time that one more is asked for, and say whether that went well.

    Args:
        lock: Which.
        within: Seconds to wait for it each time.
    """
    return iter(partial(lock.acquire, True, within) if within else partial(lock.acquire, False), None)


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
    """Threads that wait until something has changed.

    Who waits parks, *then* looks; who has changed something wakes *then*. So none sleeps beside what it waits for, and
    neither needs a lock.
    """

    __slots__ = ("_next", "parked")

    def __init__(self) -> None:
        self.parked: list[Lock] = []  #: one for each thread, the longest waiting first; single operations only
        self._next = partial(self.parked.pop, 0)

    def __len__(self) -> int:
        return len(self.parked)

    def wait(self, ready: Callable[[], object], deadline: Deadline) -> bool:
        """Wait until ``ready()``, which is called without any lock; False when the deadline came first."""
        while True:
            ticket = Lock()
            ticket.acquire()
            try:
                self.parked.append(ticket)
                if ready():
                    return True
                if not ticket.acquire(timeout=deadline.for_lock()):
                    with suppress(ValueError):  # a wake-up has come just now, and is acted on
                        self.parked.remove(ticket)
                    return bool(ready())
                if ready():  # as most often, who was woken
                    return True
            except BaseException:
                self.wake(1)
                raise
            finally:
                try:  # and not by a call of our own: a signal may come between that and the removing
                    self.parked.remove(ticket)
                except ValueError:  # it was woken
                    pass

    def wake(self, count: int) -> None:
        """Wake up to ``count`` threads, the longest waiting first.

        They are taken off and released in one step, in C: a ticket between the two would sleep on.
        """
        if self.parked:
            with suppress(IndexError):  # there are no more
                deque(map(_release, islice(iter(self._next, None), count)), maxlen=0)

    def wake_all(self) -> None:
        """Wake every parked thread."""
        self.wake(len(self.parked))


class Reply(Generic[T]):
    """A result, or an error, that one thread leaves for any number of others. The first one left stays."""

    __slots__ = ("_left", "_waiting", "done")

    def __init__(self) -> None:
        self._left: dict[int, tuple[T | None, Exception | None]] = {}  # the one that stays, put there in one step
        self._waiting = Parking()
        self.done = False

    @property
    def error(self) -> Exception | None:
        """What :meth:`fail` left."""
        return self._left[0][1] if self._left else None

    def set(self, value: T) -> None:
        """Leave a result."""
        self._finish(value, None)

    def fail(self, error: Exception) -> None:
        """Leave an error, for each waiter to raise."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: Exception | None) -> None:
        try:
            self._left.setdefault(0, (value, error))
            self.done = True
        finally:
            self._waiting.wake_all()

    def wait(self, deadline: Deadline) -> T:
        """Wait for what is left here.

        Raises:
            DeadlineExceededError: Nothing was left in time. The caller knows what it waited for, and says it.
        """
        if not self._left and not self._waiting.wait(lambda: self._left, deadline):
            raise DeadlineExceededError(f"no answer within {deadline}")
        value, error = self._left[0]
        if error is not None:
            raise copy(error) from error.__cause__  # each waiter its own: a traceback belongs to one thread
        return cast(T, value)


class Once(Generic[T]):
    """Work that the first thread to come does, and others wait for."""

    def __init__(self) -> None:
        self._attempt: dict[int, tuple[Reply[T], int]] = {}  # the one that counts, and whose thread does the work

    def run(self, work: Callable[[], T], deadline: Deadline, otherwise: T) -> T:
        """Do the work, or wait for its result.

        Args:
            work: Called outside all guards. If it is interrupted by an exception, the next caller does it again.
            deadline: For those who wait.
            otherwise: What they get when the deadline comes first, and a signal handler that interrupted the work
                itself.
        """
        own: tuple[Reply[T], int] = Reply(), get_ident()
        reply, worker = self._attempt.get(0, own)
        if reply.done:
            return reply.wait(deadline)
        with outside_guards():
            try:
                reply, worker = self._attempt.setdefault(0, own)
                if reply is own[0]:
                    reply.set(work())
            except BaseException:
                if self._attempt.get(0) is own and not own[0].done:
                    del self._attempt[0]
                    own[0].set(otherwise)
                raise
            if worker == get_ident() and not reply.done:
                return otherwise
            try:
                return reply.wait(deadline)
            except DeadlineExceededError:
                return otherwise

    def disown(self, otherwise: T) -> None:
        """In a forked child, where nobody does the work: give those who wait this."""
        for reply, _ in list(self._attempt.values()):
            reply.set(otherwise)
