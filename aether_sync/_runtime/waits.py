"""Waits that no signal handler and no finalizer can break; ``locks`` says why that is needed, and how it is done."""

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

    A thread that waits parks, and *then* looks. A thread that changes something does so, and *then* wakes. So no thread
    sleeps although what it waits for is there, and neither of the two needs a lock.
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
                    with suppress(ValueError):  # it was woken just now, and looks once more
                        self.parked.remove(ticket)
                    return bool(ready())
                if ready():  # as usual, for one that was woken
                    return True
            except BaseException:
                self.wake(1)
                raise
            finally:
                try:  # inline: a signal may come between the call of a function and its first step
                    self.parked.remove(ticket)
                except ValueError:  # it was woken
                    pass

    def wake(self, count: int) -> None:
        """Wake up to ``count`` threads, the longest waiting first.

        They are taken off the list and released in one step, in C: a thread between the two would sleep on.
        """
        if self.parked:
            with suppress(IndexError):  # there are no more
                deque(map(_release, islice(iter(self._next, None), count)), maxlen=0)

    def wake_all(self) -> None:
        """Wake every parked thread."""
        self.wake(len(self.parked))


class Reply(Generic[T]):
    """A result, or an error, that one thread sets and any number of others wait for. Only the first one counts."""

    __slots__ = ("_left", "_waiting", "done")

    def __init__(self) -> None:
        self._left: dict[int, tuple[T | None, Exception | None]] = {}  # the one that counts, put there in one step
        self._waiting = ParkingLot()
        self.done = False

    @property
    def error(self) -> Exception | None:
        """The error that :meth:`fail` set, if any."""
        return self._left[0][1] if self._left else None

    def set(self, value: T) -> None:
        """Set the result."""
        self._finish(value, None)

    def fail(self, error: Exception) -> None:
        """Set an error, which every waiting thread raises a copy of."""
        self._finish(None, error)

    def _finish(self, value: T | None, error: Exception | None) -> None:
        try:
            self._left.setdefault(0, (value, error))
            self.done = True
        finally:
            self._waiting.wake_all()

    def wait(self, deadline: Deadline) -> T:
        """Wait for the result, and return it, or raise the error.

        Raises:
            DeadlineExceededError: Neither came in time. The caller has to say what it waited for.
        """
        if not self._left and not self._waiting.wait(lambda: self._left, deadline):
            raise DeadlineExceededError(f"no answer within {deadline}")
        value, error = self._left[0]
        if error is not None:
            raise again(error)
        return cast(T, value)


class SingleFlight(Generic[T]):
    """Work that the first thread does, while all others wait for its result."""

    def __init__(self) -> None:
        self._attempt: dict[int, tuple[Reply[T], int]] = {}  # the one that counts, with the thread that does the work

    def run(self, work: Callable[[], T], deadline: Deadline, otherwise: T) -> T:
        """Do the work, or wait for its result.

        Args:
            work: Called outside all locks. If an exception interrupts it, the next caller does it again.
            deadline: For the threads that wait.
            otherwise: What they get when the deadline comes first; and what a signal handler gets that has interrupted
                the work itself.
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
        """In a forked child, where no thread does the work any more: give this to the threads that wait."""
        for reply, _ in list(self._attempt.values()):
            reply.set(otherwise)
