"""``TimeLimits``: handlers that take longer than they may are reported with their stacks; ``interruptible()``.

Python can have an exception raised on another thread, between two steps of its Python code. It cannot end a call into
C: a ``time.sleep()``, a query or a socket that waits goes on until it returns. And code that does not expect an
exception everywhere may be left half done: a lock that is held, a connection in the middle of an answer. So a handler
is interrupted only where it says that this is safe, in a ``with interruptible():`` block.
"""

import ctypes
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from threading import Thread, get_ident
from types import FrameType
from typing import Any

from .._arguments import check_seconds, is_of
from .._runtime.deadline import Deadline
from .._runtime.locks import signal_safe_lock
from .._runtime.reporter import Details, Kind, Reporter
from .._runtime.threads import make_thread, start
from .._runtime.waits import ParkingLot
from .._values.clock import monotonic
from .._values.shown import short
from ..errors import TimeLimitExceededError, WorkerError
from ..events import Event
from ..stores.consumers.delivery import Delivery

__all__ = ["TimeLimits", "check_limit", "interruptible"]

_LONGEST_STACK = 8_000  # characters: its end says most
_SHORTEST = 0.001  # seconds between two looks
_PACKAGE = str(Path(__file__).parents[1])


class _Call:
    """A call of a handler that has a limit."""

    __slots__ = ("block", "due", "given", "handler", "has_come", "is_reported", "is_sent", "limit", "overdue", "thread")

    def __init__(self, handler: str, limit: float, given: object, overdue: Callable[[], object]) -> None:
        self.handler = handler
        self.limit = limit
        self.given = given
        self.overdue = overdue  # counts it
        self.thread = get_ident()
        self.due = monotonic() + limit
        self.is_reported = False
        self.block = 0  # how many interruptible blocks it is in
        self.is_sent = False  # an exception was sent into the block
        self.has_come = False  # and was raised there


#: The calls that run, by thread; changed by single operations.
_running: dict[int, _Call] = {}
#: Guards ``block`` and ``is_sent`` of all calls: no exception is sent to who has left a block.
_lock = signal_safe_lock()


class TimeLimits:
    """Watches the calls of a worker's handlers that have a limit, on a thread of its own.

    Args:
        reporter: Logs for the worker.
    """

    def __init__(self, reporter: Reporter) -> None:
        self._reporter = reporter
        self._least = inf  # the shortest limit
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._calls: dict[int, _Call] = {}  # by thread; changed by single operations
        self._idle, self._pausing = ParkingLot(), ParkingLot()  # where the thread waits for a call, and for its limit
        self._is_ending = False
        self._thread: Thread | None = None

    def forget(self) -> None:
        """In a forked child, begin anew: the calls are those of the parent's threads."""
        for thread in self._calls:
            _running.pop(thread, None)
        self._begin_anew()

    def limited(
        self, call: Callable[[Any], object], handler: str, limit: float, overdue: Callable[[], object]
    ) -> Callable[[Any], object]:
        """Return a call that is watched.

        Args:
            call: The call.
            handler: The name of the handler.
            limit: Seconds that it may take.
            overdue: Counts a call that takes longer.
        """
        self._least = min(self._least, limit)

        def watched(given: Any) -> object:
            own = _Call(handler, limit, given, overdue)
            self._calls[own.thread] = _running[own.thread] = own
            if self._idle.parked:
                self._idle.wake_all()
            try:
                return call(given)
            finally:
                self._calls.pop(own.thread, None)
                _running.pop(own.thread, None)

        return watched

    def begin(self) -> None:
        """Start the thread, if any handler has a limit.

        Raises:
            WorkerError: There is no thread to be had.
        """
        if self._least == inf:
            return
        thread = make_thread(self._watch, name="aether-time-limits")
        try:
            start(thread)
        except Exception as error:
            raise WorkerError(f"no thread for time limits: {error}") from error
        self._thread = thread

    def end(self, deadline: Deadline) -> None:
        """Watch no more."""
        self._is_ending = True
        self._idle.wake_all()
        self._pausing.wake_all()
        if self._thread is not None:
            self._thread.join(deadline.for_lock())

    def _watch(self) -> None:
        while not self._is_ending:
            if not self._calls:
                self._idle.wait(lambda: self._calls or self._is_ending, Deadline(None))
            now = monotonic()
            calls = list(self._calls.values())
            for one in calls:
                if one.due <= now:
                    self._act(one)
            # A call that begins while this sleeps is not due before the shortest limit is over.
            next_due = min((one.due for one in calls if one.due > now), default=inf)
            self._pausing.wait(lambda: self._is_ending, Deadline(max(_SHORTEST, min(next_due - now, self._least))))

    def _act(self, call: _Call) -> None:
        """Report a call that is overdue, once; interrupt it wherever that is safe."""
        if not call.is_reported:
            call.is_reported = True
            call.overdue()
            frame = sys._current_frames().get(call.thread)
            if frame is None or self._calls.get(call.thread) is not call:  # it has just ended
                return
            text = "the handler %s has run for longer than its time limit of %s s%s; it is at: %s"
            about = call.handler, f"{call.limit:g}", _in_words(call.given), "\n" + _stack_of(frame)
            self._reporter.warning(Kind.OVERDUE, text, *about, **_details(call.given))
        with _lock:
            if call.block and not call.is_sent and self._calls.get(call.thread) is call:
                call.is_sent = True
                _send(call.thread, _Sent)
        call.due = monotonic() + call.limit  # it may enter a block later

    def reasons(self) -> list[str]:
        """Return which handlers run for longer than they may, in words."""
        return [
            f"the handler {one.handler} runs for longer than its time limit of {one.limit:g} s"
            for one in list(self._calls.values())
            if one.is_reported
        ]


def check_limit(time_limit: object) -> float | None:
    """Return a time limit in seconds, or None for none; raise if it is neither."""
    return None if time_limit is None else check_seconds("time_limit", time_limit, _SHORTEST)


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the handler be interrupted, in a ``with`` block, when its time limit is over.

    Then :class:`TimeLimitExceededError` is raised in the block, at any place of its Python code; if the limit is over
    already, at once. Use it around code that can be left anywhere: a computation, and not a ``with lock:`` that must
    not be cut, or a connection that others use after that. A call into C is not interrupted, such as ``time.sleep()``,
    a query, a socket or a long operation of numpy: the error comes when it returns. In some versions of CPython, such
    as 3.13.0, no ``except``, ``finally`` or ``with`` of the same function sees an error that comes at the jump back of
    a loop: then the handler fails with it. Elsewhere than in a handler with a time limit the block does nothing. Where
    Python is not CPython, nothing is interrupted.
    """
    call = _running.get(get_ident())
    if call is None:
        yield
        return
    if call.is_reported:
        raise TimeLimitExceededError
    try:
        with _lock:
            call.block += 1
        yield
    finally:
        was_on_its_way = _leave(call)
    if was_on_its_way:
        raise TimeLimitExceededError


def _leave(call: _Call) -> bool:
    """Leave a block. If it was the outermost one, take back what was sent and has not come; return whether there was.

    What comes in the middle of this is raised here, so it leaves the block all the same.
    """
    with _lock:
        call.block -= 1
        if call.block:
            return False
        is_on_its_way = call.is_sent and not call.has_come
        call.is_sent = call.has_come = False
        if is_on_its_way:
            _send(call.thread, None)
    if is_on_its_way:
        _forget_that_one_was_sent()
    return is_on_its_way


class _Sent(TimeLimitExceededError):
    """What is sent to a thread. When Python makes the exception there, the call notes that it has come."""

    def __new__(cls) -> TimeLimitExceededError:  # type: ignore[misc]  # the handler sees nothing but that
        call = _running.get(get_ident())
        if call is not None:
            call.has_come = True
        return TimeLimitExceededError()


class _NoneIsLeftError(BaseException):
    """The last asynchronous exception of a thread."""


def _forget_that_one_was_sent() -> None:
    """Have this thread get an asynchronous exception, after one was taken back.

    CPython before 3.12 notes for the whole process that there is one, until a thread gets one. While that is noted,
    a thread that is traced, as by a debugger, hangs at the beginning of the next function.
    """
    try:
        _send(get_ident(), _NoneIsLeftError)
        for _ in range(100):
            _do_nothing()  # it is raised where a function begins
    except _NoneIsLeftError:
        pass


def _do_nothing() -> None: ...


def _send(thread: int, error: type[BaseException] | None) -> None:
    """Have an exception raised on a thread, or take one back that was not raised yet; nothing but in CPython."""
    raising = getattr(ctypes.pythonapi, "PyThreadState_SetAsyncExc", None)
    if raising is not None:
        raising(ctypes.c_ulong(thread), None if error is None else ctypes.py_object(error))


def _stack_of(frame: FrameType) -> str:
    """Return the stack of a thread from the handler's own frame on, without ours around it."""
    frames = [*traceback.walk_stack(frame)]  # the innermost first
    names = [one.f_code.co_filename for one, _ in frames]
    with suppress(ValueError):
        del frames[names.index(__file__) :]  # of watched(); what is outside of it is not the handler's
    while len(frames) > 1 and frames[-1][0].f_code.co_filename.startswith(_PACKAGE):
        frames.pop()
    return "".join(traceback.StackSummary.extract(reversed(frames)).format())[-_LONGEST_STACK:]


def _in_words(given: object) -> str:
    """Return what a handler was called with, for a message."""
    event = given.event if is_of(given, Delivery) else given
    if not is_of(event, Event):
        return ""
    where = f", sequence {given.sequence}" if is_of(given, Delivery) else ""
    return f", with {event.event_type} of {short(event.actor_id)}{where}"


def _details(given: object) -> Details:
    """Return the attributes of a log record about what a handler was called with."""
    event = given.event if is_of(given, Delivery) else given
    details: Details = {}
    if is_of(event, Event):
        details = {"event_id": event.id, "event_type": event.event_type, "actor": event.actor_id}
        if event.namespace:
            details["namespace"] = event.namespace
    if is_of(given, Delivery):
        details["consumer"], details["sequence"] = given.consumer, given.sequence
    return details
