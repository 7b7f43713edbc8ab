"""``HandlerThreads``: threads that call handlers of the user's; and ``ThreadHooks``, what is called on each of them.

A handler may close what it runs in, and then waits for all other handlers, but not for itself, nor for those that do
the same at that moment.
"""

from collections.abc import Callable
from itertools import count
from threading import get_ident
from typing import NamedTuple, Self

from .._arguments import check_callback
from .._values.shown import explained
from ..errors import AetherError, WorkerError
from .deadline import Deadline
from .locks import outside_locks, signal_safe_lock
from .reporter import Kind, Reporter
from .threads import NoThreadError, make_thread, start
from .waits import ParkingLot

__all__ = ["HandlerThreads", "Hook", "ThreadHooks", "as_failure"]

#: A user's function that is called on a thread before it calls handlers, or when it calls no more.
Hook = Callable[[], object]

_numbers = count(1)


class ThreadHooks(NamedTuple):
    """What is called on each thread of handlers.

    Attributes:
        begin: Called before the first handler; None for nothing.
        end: Called after the last one; None for nothing.
    """

    begin: Hook | None = None
    end: Hook | None = None

    @classmethod
    def checked(cls, thread_start: Hook | None, thread_exit: Hook | None) -> Self:
        """Return them, or raise if one of them cannot be called."""
        for name, hook in (("thread_start", thread_start), ("thread_exit", thread_exit)):
            if hook is not None:
                check_callback(name, hook)
        return cls(thread_start, thread_exit)

    def run(self, work: Callable[[], object], reporter: Reporter) -> None:
        """Do the work of a thread between them.

        Raises:
            WorkerError: The first one has raised, so nothing was done.
        """
        if self.begin is not None:
            try:
                self.begin()
            except BaseException as error:  # the thread is ours
                raise WorkerError(f"thread_start has raised {explained(error)}") from error
        try:
            work()
        finally:
            if self.end is not None:
                try:
                    self.end()
                except BaseException as error:
                    reporter.error(Kind.CALLBACK_FAILED, "thread_exit has raised", error=error)


class HandlerThreads:
    """Threads that all do the same work, each until it returns or raises.

    Args:
        work: What each does. It returns soon when its owner says that it is to end.
        number: How many threads.
        name: The begin of their names.
        hooks: What is called on each.
        reporter: Logs for the owner.
        failed: Called with the error that a thread has ended with, on that thread.
        ended: Called when the last of them has ended, on that thread. It must be quick.

    Attributes:
        running: How many have begun and not ended.
    """

    def __init__(
        self,
        work: Callable[[], object],
        number: int,
        name: str,
        hooks: ThreadHooks,
        reporter: Reporter,
        failed: Callable[[BaseException], object],
        ended: Callable[[], object],
    ) -> None:
        self._work = work
        self._hooks = hooks
        self._reporter = reporter
        self._failed = failed
        self._all_ended = ended
        self._changed = ParkingLot()
        self._lock = signal_safe_lock()  # guards the fields below
        self.running = 0
        self._closers: set[int] = set()  # threads whose handlers wait for the others
        self._threads = [make_thread(self._run, name=f"{name}-{next(_numbers)}") for _ in range(number)]

    def __len__(self) -> int:
        return len(self._threads)

    def start(self) -> None:
        """Start all of them. If one cannot be started, those that are have to be ended by the owner.

        Raises:
            WorkerError: There is no thread to be had.
        """
        for thread in self._threads:
            with self._lock:
                self.running += 1
            try:
                start(thread)
            except NoThreadError as error:
                self._leave()
                raise WorkerError(f"no thread for a handler: {error}") from error
            except BaseException:  # of a signal handler
                if thread.ident is None:
                    self._leave()
                raise

    def _run(self) -> None:
        try:
            self._hooks.run(self._work, self._reporter)
        except BaseException as error:
            self._failed(error)
        finally:
            self._leave()

    def _leave(self) -> None:
        with self._lock:
            self.running -= 1
            is_last = not self.running
        self._changed.wake_all()
        if is_last:
            self._all_ended()

    def wait(self, deadline: Deadline) -> int:
        """Wait until all have ended; return how many still run, without those whose handlers wait here, too."""
        me, is_own = get_ident(), self._is_own()
        try:
            if is_own:
                self._closers.add(me)
                self._changed.wake_all()
            with outside_locks():
                self._changed.wait(lambda: not self._others(is_own), deadline)
            return self._others(is_own)
        finally:
            self._closers.discard(me)

    def _others(self, is_own: bool) -> int:
        return max(0, self.running - len(self._closers) * is_own)

    def _is_own(self) -> bool:
        me = get_ident()
        return any(thread.ident == me for thread in self._threads)

    def join(self, deadline: Deadline) -> None:
        """Wait for the threads themselves, which have ended their work; on one of them, do nothing."""
        if not self._is_own():
            for thread in self._threads:
                if thread.ident is not None:
                    thread.join(deadline.for_lock())

    def names(self) -> str:
        """Return the names of those that run, for a message."""
        return ", ".join(thread.name for thread in self._threads if thread.is_alive())

    def disown(self) -> None:
        """In a forked child, where none of them is."""
        self.running = 0
        self._changed.wake_all()


def as_failure(error: BaseException, about: str) -> AetherError:
    """Return an error that has ended threads as one of this library."""
    if isinstance(error, AetherError):
        return error
    failure = WorkerError(f"a mistake ends {about}: {explained(error)}")
    failure.__cause__ = error
    return failure
