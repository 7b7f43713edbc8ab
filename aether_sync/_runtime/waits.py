"""Waits that no signal handler and no finalizer can break: ``locks`` says why and how."""

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf
from operator import methodcaller
from sys import getswitchinterval
from threading import Lock, get_ident
from typing import Generic, Protocol, TypeVar, cast

from .._values.clock import monotonic
from ..errors import DeadlineExceededError
from .again import again
from .deadline import Deadline
from .locks import outside_locks

__all__ = ["ParkingLot", "Relay", "Reply", "SingleFlight", "Ticket"]

T = TypeVar("T")
_LATE = 0.5  # of the switch interval, from the wake-up of a thread until it runs: beside one that computes it is 1
_SURELY_LATE = 0.001  # seconds, however short that interval is

_release = methodcaller("release")


class Ticket(Protocol):
    """What a waiting thread, or a coroutine, leaves in a :class:`ParkingLot`."""

    def release(self) -> object:
        """Wake it."""


class ParkingLot:
    """Threads that wait until something has changed.

    A thread that waits parks first, and looks for the change afterwards. A thread that changes something makes the
    change first, and wakes afterwards. So none sleeps although the change was made, and neither side needs a lock.
    """

    __slots__ = ("_next", "parked")

    def __init__(self) -> None:
        self.parked: list[Ticket] = []  #: the one that waits longest comes first; changed by single operations
        self._next = partial(self.parked.pop, 0)

    def __len__(self) -> int:
        return len(self.parked)

    def wait(self, ready: Callable[[], object], deadline: Deadline) -> bool:
        """Wait until ``ready()``, which is called without any lock; return False if the deadline came first."""
        while True:
            ticket = Lock()
            ticket.acquire()
            try:
                self.parked.append(ticket)
                if ready():
                    return True
                if not deadline.acquire(ticket):
                    with suppress(ValueError):  # a wake-up has come just now, and the look below acts on it
                        self.parked.remove(ticket)
                    return bool(ready())
                if ready():  # almost always, after a wake-up
                    return True
            except BaseException:
                self.wake(1)
                raise
            finally:
                try:  # not by a function of our own: a signal may come between its call and the removal
                    self.parked.remove(ticket)
                except ValueError:  # it was woken
                    pass

    def wake(self, count: int) -> None:
        """Wake up to ``count`` of those who wait, the longest waiting first.

        A thread's ticket is taken off and released in one step, in C: if an exception came between the two, that
        thread would sleep on.
        """
        if self.parked:
            try:
                deque(map(_release, islice(iter(self._next, None), count)), maxlen=0)
            except IndexError:  # there are no more
                pass
            except BaseException:  # of a signal handler; a ticket that is Python code may have been cut off
                self.wake_all()
                raise

    def wake_all(self) -> None:
        """Wake all that wait."""
        self.wake(len(self.parked))


class Relay:
    """Threads that are woken one after the other: each wakes the next one as soon as it runs.

    If many threads are woken at once, most of them wake up only to wait for the GIL, which costs another change of
    threads for each. If they come to run late, because a thread computes, they are woken at once: then the GIL is
    passed among them before that thread gets it back.

    A thread that is woken may be kept from waking the next one, by a signal handler or a finalizer that takes long. So
    somebody else has to call :meth:`watch` from time to time while threads wait.

    Attributes:
        waiting: Tickets of threads that are to be woken, in order. A ticket is a lock that its thread waits for. A
            thread that does not wait any more releases it: then it is passed over.
    """

    __slots__ = ("_is_late", "_wakes", "_woken", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[Ticket] = deque()  # appended to by one thread, taken from by any
        self._wakes = map(_release, iter(self.waiting.popleft, None))  # takes a ticket off and releases it in one step
        self._woken = inf  # when a thread was woken that has not run since
        self._is_late = False  # whether the last one that was measured came to run late

    def start(self) -> None:
        """Wake the first thread, or all if the last one came to run late."""
        if self._is_late:
            self._woken = monotonic()
            self.wake_all()
        else:
            self._wake_next()

    def pass_on(self) -> None:
        """Wake the next thread. Each thread that was woken calls this at once."""
        if not (self.waiting or self._is_late):
            return
        woken, self._woken = self._woken, inf
        if woken < inf:
            self._is_late = monotonic() - woken > max(_LATE * getswitchinterval(), _SURELY_LATE)
        if self._is_late:
            self.wake_all()
        else:
            self._wake_next()

    def _wake_next(self) -> None:
        if len(self.waiting) > 1:
            self._woken = monotonic()
        while self.waiting:
            try:
                next(self._wakes)
            except RuntimeError:  # it does not wait any more
                continue
            except IndexError:  # others have taken the last
                pass
            return

    def watch(self, first: Ticket | None) -> Ticket | None:
        """Wake all if the first one is the same as the last time; return the first one, or None if there is none."""
        now = self._first()
        if now is None or now is not first:
            return now
        self.wake_all()
        return self._first()

    def _first(self) -> Ticket | None:
        try:
            return self.waiting[0]
        except IndexError:
            return None

    def wake_all(self) -> None:
        """Wake all threads: by one that leaves its wait by an exception, and may have been woken to pass it on."""
        while self.waiting:
            try:
                deque(self._wakes, maxlen=0)
            except RuntimeError:  # one does not wait any more
                continue
            except IndexError:  # there are no more
                return


class Reply(Generic[T]):
    """A result, or an error, that one thread leaves for any number of others. Only the first one counts."""

    __slots__ = ("_left", "_waiting", "done")

    def __init__(self) -> None:
        self._left: dict[int, tuple[T | None, Exception | None]] = {}  # the first one, put there in one step
        self._waiting = ParkingLot()
        self.done = False

    @property
    def error(self) -> Exception | None:
        """The error that :meth:`fail` left, if any."""
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
        """Wait for the result, and return it; an error that was left is raised.

        Raises:
            DeadlineExceededError: Nothing was left in time. The caller knows what was waited for, and says so.
        """
        if not self._left and not self._waiting.wait(lambda: self._left, deadline):
            raise DeadlineExceededError(f"no answer within {deadline}")
        value, error = self._left[0]
        if error is not None:
            raise again(error)
        return cast(T, value)


class SingleFlight(Generic[T]):
    """Work that the first thread to call does, while the others wait for its result."""

    def __init__(self) -> None:
        self._attempt: dict[int, tuple[Reply[T], int]] = {}  # the reply that counts, and the thread that does the work

    def run(self, work: Callable[[], T], deadline: Deadline, otherwise: T) -> T:
        """Do the work, or wait for its result.

        Args:
            work: Called outside all locks. If an exception interrupts it, the next caller does it again.
            deadline: How long the others wait for the result.
            otherwise: What is returned to those whose deadline comes first, and to a signal handler that interrupted
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
        """In a forked child, where nobody does the work: give ``otherwise`` to those who wait."""
        for reply, _ in list(self._attempt.values()):
            reply.set(otherwise)
