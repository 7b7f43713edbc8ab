"""The loop thread: an asyncio event loop that other threads post work to."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from traceback import format_exception
from typing import Any, TypeVar

from .._values.clock import monotonic
from ..errors import BusClosedError, DeadlineExceededError, WrongThreadError
from .base_loop import BaseLoop
from .closing import loop_threads
from .deadline import Deadline
from .event_loop import _numbers, _without_thread
from .fork import ForkAware, fork_aware, let_go
from .locks import signal_safe_lock
from .threads import NoThreadError, make_thread, start
from .waits import Reply

__all__ = ["LoopThread"]

T = TypeVar("T")
_TURNS_TO_CLOSE = 5
_buried: list[object] = []  # loops that a forked child inherited: their finalizers would disturb the parent


class _Question:
    """A question to the loop whether it runs."""

    __slots__ = ("answered", "since")

    def __init__(self) -> None:
        self.since = monotonic()
        self.answered = False

    def answer(self) -> None:
        """Say that it does. Loop thread only."""
        self.answered = True


class LoopThread(ForkAware):
    """An event loop that runs in a daemon thread of its own from :meth:`start` to :meth:`stop`.

    One lock is held while a call checks that work is still accepted and enqueues it, so no work is ever left behind.

    Args:
        loop: The loop; it is closed at the end.
        report: Called on the loop thread with the error of a callback, which asyncio itself would log there.
        last: Called when the loop has run for the last time, for whatever reason.
    """

    def __init__(
        self, loop: BaseLoop, report: Callable[[str], object], last: Callable[[], object] = lambda: None
    ) -> None:
        self.name = f"aether-loop-{next(_numbers)}"
        self._loop = loop
        self._last = last
        self._loop.set_exception_handler(lambda _, context: report(_described(context)))
        self._lock = signal_safe_lock()  # guards _accepting and _calls
        self._accepting = True
        self._calls: set[Reply[Any]] = set()  # not answered yet
        self._ran = threading.Lock()  # taken for ever by the thread that runs the loop, or that closes it unrun
        self._thread: threading.Thread | None = None  # that thread
        self._ident: int | None = None  # of that thread, while it runs the loop
        self._ended: Reply[None] = Reply()
        self._question: _Question | None = None  # whether it runs; replaced whole, by any thread
        self._is_let_go = False  # in a forked child
        fork_aware.add(self)

    def start(self) -> None:
        """Start the thread, which first runs what was posted before. Does nothing if it was started.

        If a signal handler raises in here, it is unknown whether a thread was started. Then the next call starts
        another, and the later of the two ends at once.

        Raises:
            ConnectError: No thread can be started at the moment.
            BusClosedError: No thread can be started any more.
        """
        if self._thread is None and not self.has_ended:
            try:
                start(make_thread(self._run, name=self.name))
            except NoThreadError as error:
                raise _without_thread(error) from error

    def refuse_own_thread(self) -> None:
        """Raise if this is the loop thread, which must not wait for itself."""
        if threading.get_ident() == self._ident:
            raise WrongThreadError(f"a blocking call on {self.name}, the thread that would have to answer it")

    def is_current(self) -> bool:
        """Whether the caller runs on the loop thread."""
        return threading.get_ident() == self._ident

    def post(self, callback: Callable[..., object], *args: object) -> None:
        """Run a callback on the loop soon, in the order of these calls.

        Raises:
            BusClosedError: The loop accepts no more work.
        """
        with self._lock:
            if not self._accepting:
                raise BusClosedError("the connection is closed")
            try:
                self._loop.call_soon_threadsafe(callback, *args)
            except RuntimeError as error:  # a signal handler has closed it meanwhile
                raise BusClosedError("the connection is closed") from error

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback on the loop if it still runs. Takes no lock: for finalizers."""
        if not self.has_ended:  # in a forked child it has; the call would wake the loop of the parent
            with suppress(RuntimeError):  # it is closed, and nothing is left to be done there
                self._loop.call_soon_threadsafe(callback)

    def hangs(self, patience: float) -> bool:
        """Whether the loop has not answered a question, which an earlier call of this put to it. Waits for nothing.

        That time has passed shows nothing: the whole process may have been stopped. Therefore the loop is asked, and
        has from one call to the next to answer.

        Args:
            patience: Seconds that it has at least.
        """
        question = self._question
        if question is None or question.answered:
            question = _Question()
            self.call_soon(question.answer)
            self._question = question  # last: what an exception keeps from being asked is not waited for
            return False
        return monotonic() - question.since >= patience

    def repeat(self, seconds: float, callback: Callable[[], bool]) -> None:
        """Run a callback on the loop every so many seconds, until it returns False or the loop ends.

        Raises:
            BusClosedError: The loop accepts no more work.
        """

        def run() -> None:
            goes_on = True
            try:
                goes_on = callback()
            finally:  # also if there was no memory for it this time
                if goes_on:
                    self._loop.call_later(seconds, run)

        self.post(self._loop.call_later, seconds, run)

    def call(self, function: Callable[..., Coroutine[Any, Any, T]], *args: object, deadline: Deadline) -> T:
        """Run a coroutine function on the loop and wait for what it returns.

        Raises:
            DeadlineExceededError: It did not return in time, and is cancelled.
            BusClosedError: The loop accepts no more work, or has stopped meanwhile.
            WrongThreadError: It was called on the loop thread.
        """
        self.refuse_own_thread()
        reply: Reply[T] = Reply()
        tasks: list[asyncio.Task[T]] = []

        def begin() -> None:
            task = self._loop.create_task(function(*args))
            tasks.append(task)
            task.add_done_callback(lambda task: self._answer(reply, task))

        with self._lock:
            self.post(begin)
            self._calls.add(reply)
        try:
            return reply.wait(deadline)
        finally:
            if not reply.done:
                self.call_soon(lambda: [task.cancel() for task in tasks])

    def _answer(self, reply: Reply[T], task: "asyncio.Task[T]") -> None:
        self._calls.discard(reply)
        if task.cancelled():
            reply.fail(BusClosedError("the connection was closed meanwhile"))
        elif (error := task.exception()) is not None:
            reply.fail(error if isinstance(error, Exception) else BusClosedError(repr(error)))
        else:
            reply.set(task.result())

    def stop(self, deadline: Deadline) -> bool:
        """Accept no more work, cancel what runs, and end the thread.

        Returns:
            Whether the thread ended in time. If not, it keeps no process alive, as it is a daemon.
        """
        with self._lock:
            if self._accepting:
                self.call_soon(self._loop.stop)  # first: if an exception comes here, the next call stops it
                self._accepting = False
        if not self.has_ended and self._ran.acquire(blocking=False):
            self._loop.close()
            self._end("the connection is closed")
            return True
        if self.is_current() or not self.await_end(deadline):
            return False
        if self._thread is not None:
            self._thread.join(deadline.for_lock())
        return True

    def discard(self) -> bool:
        """Close a loop that no thread runs; returns False if one does."""
        if not self._ran.acquire(blocking=False):
            return False
        self._accepting = False
        self._loop.close()
        self._ended.set(None)
        return True

    @property
    def was_started(self) -> bool:
        """Whether a thread runs the loop, or has run it."""
        return self._thread is not None

    @property
    def has_ended(self) -> bool:
        """Whether the loop has run for the last time."""
        return self._ended.done

    def await_end(self, deadline: Deadline) -> bool:
        """Wait until the loop has run for the last time; returns whether it has."""
        try:
            self._ended.wait(deadline)
        except DeadlineExceededError:
            return False
        return True

    def _run(self) -> None:
        if not self._ran.acquire(blocking=False):
            return
        self._thread = threading.current_thread()
        self._ident = threading.get_ident()
        loop_threads.add(self._ident)
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            with self._lock:
                self._accepting = False
            with suppress(RuntimeError):  # it was stopped twice
                self._cancel_tasks()
            with suppress(RuntimeError):
                self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            with suppress(RuntimeError):
                self._loop.run_until_complete(_some_turns())
            with suppress(RuntimeError):  # what was begun meanwhile, by a callback that had waited
                self._cancel_tasks()
            asyncio.set_event_loop(None)
            self._ident = None
            loop_threads.discard(threading.get_ident())
            self._loop.close()
            self._end("the connection was closed meanwhile")

    def _end(self, reason: str) -> None:
        """Release every thread that waits for this loop."""
        self._last()
        for reply in list(self._calls):
            reply.fail(BusClosedError(reason))
        self._ended.set(None)

    def _cancel_tasks(self) -> None:
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        if tasks:  # bounded: a task may swallow its cancellation
            self._loop.run_until_complete(asyncio.wait(tasks, timeout=1.0))

    def _after_fork(self) -> None:
        """Release the parent's connections and files, and the thread that waits here."""
        self._accepting = False
        self._ident = None
        for reply in list(self._calls):
            reply.fail(BusClosedError("this process was forked meanwhile"))
        self._ended.set(None)
        if (
            self._loop.is_closed() or self._is_let_go
        ):  # by the fork of a parent: its numbers may belong to other files now
            return
        self._is_let_go = True
        files = self._loop.files()
        self._loop.forget_files()
        let_go(files)
        self._loop.set_exception_handler(lambda *_: None)
        _buried.append(self)  # and with it, through its last callback, the connections that run on it

    def __del__(self) -> None:
        ended = getattr(self, "_ended", None)
        if ended is not None and not ended.done and not self._loop.is_running():  # made, and never run
            self._loop.close()


async def _some_turns() -> None:
    """Let transports close that were told to: each takes one or two turns of the loop."""
    for _ in range(_TURNS_TO_CLOSE):
        await asyncio.sleep(0)


def _described(context: dict[str, Any]) -> str:
    error = context.get("exception")
    trace = "" if error is None else "".join(format_exception(error))
    return f"{context.get('message', '')} {trace}".strip()
