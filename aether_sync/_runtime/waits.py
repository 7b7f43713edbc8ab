"""Waits that no signal handler and no finalizer can break: see ``locks`` for why and how."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from operator import methodcaller
from threading import Lock, get_ident
from typing import Generic, TypeVar, cast

from ..errors import DeadlineExceededError
from .again import again
from .deadline import Deadline
from .locks import outside_locks

__all__ = ["SingleFlight", "ParkingLot", "Reply"]

T = TypeVar("T")

_release = methodcaller("release")


class ParkingLot:
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
        self._waiting = ParkingLot()
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
            raise again(error)
        return cast(T, value)


class SingleFlight(Generic[T]):
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
        with outside_locks():
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
