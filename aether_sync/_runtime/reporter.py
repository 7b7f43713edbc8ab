"""Log messages, logged on a thread of their own: a log handler is user code, and may block, raise, or call us.

Every record has attributes that say what happened, for who reads it by program: ``kind``, one of :class:`Kind`, and
where it applies ``url``, ``subscription`` and ``counts``.
"""

import logging
import os
import threading
from contextlib import suppress
from enum import StrEnum
from itertools import count
from queue import Empty, SimpleQueue
from traceback import format_exception
from typing import NamedTuple, TypedDict, Unpack

from .._values.clock import monotonic
from ..errors import DeadlineExceededError
from ..metrics import CloseReport
from .closing import loop_threads
from .deadline import Deadline
from .locks import outside_locks
from .registry import WeakRegistry
from .threads import NoThreadError, make_thread, start
from .waits import Reply

__all__ = ["Burst", "Details", "Kind", "Reporter", "flush_logs", "log", "log_close"]

_numbers = count(1)

logger = logging.getLogger("aether_sync")

_QUEUED_AT_MOST = 1_000  # messages; a handler that blocks for ever costs no more memory than that
_BURSTS_KNOWN = 1_000
_BURST_ENDS_AFTER = 5.0  # seconds of quiet; what comes then is logged again
_BURST_AGAIN = 60.0  # seconds; of what goes on and on there is a record now and then, with its count


class Kind(StrEnum):
    """What a log record tells of: its attribute ``kind``, as a plain str. ``guide/metrics.md`` has the same list."""

    CLOSE_REPORT = "close_report"  #: closing left something undone
    CONNECT_FAILED = "connect_failed"  #: an attempt to connect failed; others follow
    DECODE_ERROR = "decode_error"  #: a message is no event, and is skipped
    DISCONNECTED = "disconnected"  #: a connection was lost
    DROPS = "drops"  #: a subscription drops events
    EVENT_LOOP = "event_loop"  #: the installed uvloop is not fit, and asyncio's loop is used
    GAVE_UP = "gave_up"  #: a runner gives an event up: it goes to the dead-letter stream
    HANDLERS_LEFT = "handlers_left"  #: a runner was closed before its handlers ended
    HANDLER_FAILED = "handler_failed"  #: the handler of a runner raised
    INTERNAL_ERROR = "internal_error"  #: a mistake of this library
    MALFORMED_RECORD = "malformed_record"  #: what is stored is no event, no snapshot, or points to no event
    RECONNECTED = "reconnected"  #: there is a connection again, or at last
    REJECTED = "rejected"  #: the server refused events that were published
    RUNNER_ENDED = "runner_ended"  #: a runner ended by an error
    SERVER_ERROR = "server_error"  #: the server reports something else
    SLOW_PATH = "slow_path"  #: this nats-py is not read the fast way
    SNAPSHOT_DISCARDED = "snapshot_discarded"  #: a snapshot is ahead of its actor's events
    SNAPSHOT_IGNORED = "snapshot_ignored"  #: a snapshot has another schema version than ``load()`` asks for
    SUBSCRIPTION_DENIED = "subscription_denied"  #: the server refuses a subscription, or ended one
    UNCERTAIN = "uncertain"  #: events were on their way when a connection broke
    UNFINISHED_ITERATIONS = "unfinished_iterations"  #: the main thread ended before the threads that iterate
    VERSION_NOT_TAKEN = "version_not_taken"  #: the store of a bus does not take an ``EventStored``


class Details(TypedDict, total=False):
    """What else a record has as attributes."""

    url: str  # of the servers, without secrets
    subscription: str  # by its patterns, as its repr shows them
    counts: dict[str, int]


class Burst:
    """Things of one kind that come close together: the first is worth a log record, and then one a minute."""

    __slots__ = ("_last", "_opened")

    def __init__(self) -> None:
        self._last = self._opened = float("-inf")

    def opens(self) -> bool:
        """Note one more; True if it is the first after a quiet time, or after a minute of them."""
        now = monotonic()
        opens = now - self._last > _BURST_ENDS_AFTER or now - self._opened > _BURST_AGAIN
        self._last = now
        if opens:
            self._opened = now
        return opens


def log(
    kind: Kind, level: int, text: str, *args: object, error: BaseException | None = None, **details: Unpack[Details]
) -> None:
    """Log at once, on a thread of the user's and under no lock: a log handler is user code.

    Args:
        kind: What happened.
        level: As of ``logging``.
        text: With a place for each of ``args``.
        *args: For the text.
        error: Whose trace is shown.
        **details: More attributes of the record.
    """
    with suppress(Exception):  # of a handler or filter: what is logged happens all the same
        logger.log(level, text, *args, exc_info=error, extra={"kind": kind.value, **details})


class _Message(NamedTuple):
    kind: Kind
    level: int
    text: str
    args: tuple[object, ...]
    details: Details


class Reporter:
    """Takes messages on any thread, never blocking, and logs them on a thread started for the first one."""

    def __init__(self) -> None:
        self._messages: SimpleQueue[_Message | Reply[None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._to_start = [True]  # taken by who starts the thread
        self._bursts: dict[tuple[Kind, str], Burst] = {}
        self._mistakes = Burst()
        self._mark: Reply[None] | None = None  # put behind all messages that there are; None if it is not known
        self._ended = False  # the thread logs nothing more
        self._process = os.getpid()
        _reporters.add(self)

    def warning(self, kind: Kind, text: str, *args: object, **details: Unpack[Details]) -> None:
        """Log a warning, soon."""
        self._put(_Message(kind, logging.WARNING, text, args, details))

    def internal_error(self, what: str) -> None:
        """Log a mistake of ours, soon."""
        text = "internal error, please report it: %s"
        self._put(_Message(Kind.INTERNAL_ERROR, logging.ERROR, text, (what,), {}))

    def mistake(self, error: Exception) -> None:
        """Log a mistake of ours that may be made for each message, soon, unless one came within the last seconds."""
        if self._mistakes.opens():
            self.internal_error("".join(format_exception(error)))

    def info(self, kind: Kind, text: str, *args: object, **details: Unpack[Details]) -> None:
        """Log an information, soon."""
        self._put(_Message(kind, logging.INFO, text, args, details))

    def burst(self, kind: Kind, text: str, *args: object, about: str = "", **details: Unpack[Details]) -> None:
        """Log a warning unless one of its kind, about the same, came within the last seconds."""
        key = kind, about
        if key not in self._bursts and len(self._bursts) >= _BURSTS_KNOWN:
            self._bursts.clear()
        if self._bursts.setdefault(key, Burst()).opens():
            self.warning(kind, text, *args, **details)

    def _put(self, message: _Message) -> None:
        if self._messages.qsize() < _QUEUED_AT_MOST:
            self._mark = None  # before and after: a signal handler that flushes in between marks what it finds
            self._messages.put(message)
            self._mark = None
        if self._to_start:
            self._start()

    def _start(self) -> None:
        """Start the thread; one too many, after an interrupt, does no harm."""
        with suppress(IndexError):  # another does it
            self._to_start.pop()
            is_started = False
            try:
                thread = make_thread(self._run, name=f"aether-log-{next(_numbers)}")
                start(thread)
                is_started = True
                self._thread = thread
            except NoThreadError:  # the next message brings another try; if there is none, close() logs
                pass
            finally:
                if not is_started:
                    self._to_start.append(True)

    def _run(self) -> None:
        outer = getattr(_own, "logs", False)
        _own.logs, self._ended = True, False
        try:
            while (one := self._messages.get()) is not None:
                _hand_over(one)
            self._drain()
            self._ended = True
            self._drain()  # what came in between
            self._to_start = [True]  # for what comes after a close
        finally:
            _own.logs = outer
        self._messages.put(None)  # for another: a thread that a handler's close() came before

    def _drain(self) -> None:
        """Log what is there, waiting for nothing."""
        with suppress(Empty):
            while True:
                _hand_over(self._messages.get_nowait())

    # -- waiting for what was put

    def mark(self) -> Reply[None]:
        """Put a mark behind all messages that there are: it is done when they are logged.

        One that nothing was put behind serves again, so that a handler that blocks for ever costs no more memory.
        """
        mark = self._mark
        if mark is None:
            try:
                mark = self._mark = Reply()
                self._messages.put(mark)
            except BaseException:
                self._mark = None
                raise
        return mark

    def await_mark(self, mark: Reply[None], deadline: Deadline) -> bool:
        """Wait until what is before a mark is logged; returns whether that came in time."""
        if self._to_start:  # an interrupt kept who put something from starting the thread
            self._start()
        if self._ended:
            self._log_the_rest(deadline)
        try:
            mark.wait(deadline)
        except DeadlineExceededError:
            return False
        return True

    def _log_the_rest(self, deadline: Deadline) -> None:
        """Log what came when the thread had ended; that is done with what it had in hand before."""
        if self._thread is not None:
            self._thread.join(deadline.for_lock())
        _own.logs = True
        try:
            self._drain()
        finally:
            _own.logs = False
            self._messages.put(None)  # as _run()

    @property
    def is_used(self) -> bool:
        """Whether there may be something to wait for; not in a fork, where its thread did not survive."""
        return self._process == os.getpid() and not (self._to_start and (self._ended or self._messages.empty()))

    # -- its end

    def end(self) -> None:
        """Log what is left, and end the thread."""
        self._messages.put(None)

    def close(self, timeout: float) -> None:
        """End the thread and wait for it; one that a handler holds for longer than ``timeout`` is left behind."""
        self.end()
        if self._thread is None or not self._thread.is_alive():
            self._run()
        elif self._thread is not threading.current_thread():
            self._thread.join(min(timeout, threading.TIMEOUT_MAX))


_reporters: WeakRegistry[Reporter] = WeakRegistry()
_own = threading.local()  # its ``logs`` is true where a handler may run, called by one of them


def _hand_over(one: _Message | Reply[None] | None) -> None:
    if isinstance(one, Reply):
        one.set(None)
    elif one is not None:
        log(one.kind, one.level, one.text, *one.args, **one.details)


def flush_logs(timeout: float | None = 5.0) -> bool:
    """Return when ``logging`` was given every record of this library whose cause was before this call.

    Records are logged by threads of their own, some milliseconds after their cause; a test that looks for one calls
    this first. Any thread may, also after a close or in a forked child. A log handler that is being given such a record
    cannot wait for itself: there, and on a thread of the event loop (a finalizer), it returns False at once.

    Args:
        timeout: Seconds; None waits for ever.

    Returns:
        Whether all were in time.
    """
    deadline = Deadline(timeout)
    if getattr(_own, "logs", False) or threading.get_ident() in loop_threads:
        return False
    marked = [(one, one.mark()) for one in _reporters if one.is_used]
    with outside_locks():  # a log handler may want one that a signal handler, which flushes, has interrupted
        return not [one for one, mark in marked if not one.await_mark(mark, deadline)]


def log_close(reporter: Reporter, name: str, report: CloseReport) -> None:
    """Log what closing left undone of what is called ``name``, if anything was."""
    if not report:
        counts = {"unsent": report.unsent, "uncertain": report.uncertain, "rejected": report.rejected}
        reporter.warning(Kind.CLOSE_REPORT, "closing %s left something undone: %r", name, report, counts=counts)
