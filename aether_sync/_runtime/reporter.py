"""Log messages. A thread of their own logs them, because a log handler is user code: it may block, raise or call us.

The same thread calls the user's callbacks (``listeners``), so they come in order with the records.

Every record has attributes that programs can read: ``kind``, which is one of :class:`Kind`, and where they apply
those of :class:`Details`. ``guide/logs.md`` has every message, with its level. What an operator has to do something
about is a warning, or an error; nothing is logged for each event.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context
from enum import StrEnum
from itertools import count
from math import inf
from queue import Empty, SimpleQueue
from traceback import format_exception
from typing import NamedTuple, TypedDict, Unpack

from .._values.clock import monotonic
from .._values.counting import Count
from ..errors import DeadlineExceededError
from ..metrics import CloseReport
from ..notices import Notice
from .closing import loop_threads
from .deadline import Deadline
from .exit import at_exit, mind_the_exit
from .fork import ForkAware, fork_aware
from .locks import outside_locks
from .registry import WeakRegistry
from .threads import NoThreadError, make_thread, start
from .waits import Reply

__all__ = ["Burst", "Details", "Failures", "Kind", "Recording", "Reporter", "flush_logs", "last_words", "log_close"]

_numbers = count(1)

logger = logging.getLogger("aether_sync")

_QUEUED_AT_MOST = 1_000  # messages, so that a handler that blocks for ever costs no more memory
_CALLS_AT_MOST = 2_000  # messages and calls: a flood of messages leaves room for calls, which tell the state
_BURSTS_KNOWN = 1_000
_BURST_ENDS_AFTER = 5.0  # seconds of quiet; the next message is logged again
_BURST_AGAIN = 60.0  # seconds between two records of a burst that goes on
_CLOSE = 1.0  # seconds that a close waits at most for log handlers that block
_LAST_WORDS = 0.1  # seconds that it waits for them if its deadline is over


class Kind(StrEnum):
    """What a log record is about: its attribute ``kind``, as a plain str. ``guide/logs.md`` has the same list."""

    CALLBACK_FAILED = "callback_failed"  #: a callback that ``on()`` registered has raised
    CLOSE_REPORT = "close_report"  #: closing left something undone
    CONNECT_FAILED = "connect_failed"  #: an attempt to connect failed; others follow
    DECODE_ERROR = "decode_error"  #: a message is not an event, and is skipped
    DISCONNECTED = "disconnected"  #: a connection was lost
    DROPS = "drops"  #: a subscription drops events
    EVENT_LOOP = "event_loop"  #: the installed uvloop is not usable, and asyncio's loop is used
    EXPORT_FAILED = "export_failed"  #: the metrics of an object, or of a process, cannot be exported
    GAVE_UP = "gave_up"  #: a runner, or a close, gives an event up: it goes to the dead-letter stream
    HANDLERS_LEFT = "handlers_left"  #: a runner was closed before its handlers ended
    HANDLER_FAILED = "handler_failed"  #: the handler of a runner raised
    INTERNAL_ERROR = "internal_error"  #: an error in this library
    MALFORMED_RECORD = "malformed_record"  #: a stored record is not an event or snapshot, or points to no event
    NOT_PUBLISHED = "not_published"  #: an event that waited for the success of a task cannot be published
    OBSERVER_FAILED = "observer_failed"  #: an observer of ``instrument()`` has raised, or is lost by a fork
    OVERDUE = "overdue"  #: a handler has run for longer than its time limit
    PROJECTION_ACTIVE = "projection_active"  #: a projection has become the active one of its name
    PROJECTION_RETRIED = "projection_retried"  #: a projection's database or store failed, and it tries again
    PROJECTION_STOPPED = "projection_stopped"  #: a projection has stopped, until somebody acts
    RECONNECTED = "reconnected"  #: there is a connection again, or for the first time after failed attempts
    RELAY_RETRIED = "relay_retried"  #: the database of an outbox, the store or the bus failed, and a relay tries again
    REJECTED = "rejected"  #: the server refused events that were published
    ROWS_LEFT = "rows_left"  #: an outbox has rows for a store or bus that its relay does not have
    RUNNER_ENDED = "runner_ended"  #: a runner, or a relay, ended by an error
    SERVER_ERROR = "server_error"  #: the server reports another error
    SET_ASIDE = "set_aside"  #: a projection or relay goes on without what it could not apply, or send
    SLOW_PATH = "slow_path"  #: this version of nats-py is not known well enough to read it the fast way
    SNAPSHOT_DISCARDED = "snapshot_discarded"  #: a snapshot is ahead of its actor's events
    SNAPSHOT_FAILED = "snapshot_failed"  #: a repository could not save a snapshot
    SNAPSHOT_IGNORED = "snapshot_ignored"  #: a snapshot has another schema version than ``load()`` asks for, or shape
    STREAMS_ENDED = "streams_ended"  #: server-sent events of a store have ended by an error
    SUBSCRIPTION_DENIED = "subscription_denied"  #: the server refused or ended a subscription
    TURN_UNKNOWN = "turn_unknown"  #: it is not known which process does periodic work now
    UNCERTAIN = "uncertain"  #: events were not confirmed when a connection broke
    UNFINISHED_ITERATIONS = "unfinished_iterations"  #: the main thread ended before the threads that iterate
    VERSION_NOT_TAKEN = "version_not_taken"  #: the store of a bus refused an ``EventStored``


class Details(TypedDict, total=False):
    """Further attributes of a record."""

    url: str  # of the servers, without secrets
    stream: str  # of a store: the name of its events' stream on the server
    subject: str  # of a message
    subscription: str  # by its patterns, as its repr shows them
    consumer: str  # its name
    projection: str  # its name
    sequence: int  # of an event
    actor: str  # its id
    event_id: str
    event_type: str
    namespace: str
    correlation_id: str
    counts: dict[str, int]


class Burst:
    """Messages of one kind that come close together: the first is logged, and then one a minute."""

    __slots__ = ("_last", "_opened")

    def __init__(self) -> None:
        self._last = self._opened = float("-inf")

    def opens(self) -> bool:
        """Note one more; return whether to log it: the first after a quiet time, or after a minute of them."""
        now = monotonic()
        opens = now - self._last > _BURST_ENDS_AFTER or now - self._opened > _BURST_AGAIN
        self._last = now
        if opens:
            self._opened = now
        return opens


class Failures(Burst):
    """Failures of the user's code, of which a test has to know each: they are logged one by one as long as it records.

    Otherwise one that follows another closely, also one of an earlier test, would not be logged.
    """

    __slots__ = ()

    def opens(self) -> bool:
        """Note one more; return whether to log it."""
        return any([super().opens(), *(one.allows_failure() for one in list(_recordings))])


class Recording:
    """Has every record, whatever logging is told to do with it, and failures one by one, up to a number of them.

    A program under test may set logging up as it likes, switch it off, or take all handlers away.

    Args:
        take: Gets each record, on a thread that logs.
        most: How many failures are logged one by one.
    """

    def __init__(self, take: Callable[[logging.LogRecord], object], most: int) -> None:
        self.take = take
        self._most = most
        self._failures = Count()

    def begin(self) -> None:
        """Begin. Failures that came before count as well."""
        if self not in _recordings:
            _recordings.append(self)

    def end(self) -> None:
        """End; a second call does nothing."""
        with suppress(ValueError):
            _recordings.remove(self)

    def allows_failure(self) -> bool:
        """Count a failure; return whether it is logged for this."""
        return self._failures.one() < self._most

    @property
    def failures_beyond(self) -> int:
        """How many failures were not allowed, though the first of a burst is logged all the same."""
        return max(0, self._failures.count - self._most)


_recordings: list[Recording] = []  # those that go on; single operations only


class _Message(NamedTuple):
    kind: Kind
    level: int
    text: str
    args: tuple[object, ...]
    details: Details
    error: BaseException | None = None  # whose traceback is logged as well
    context: Context | None = None  # in which it is logged


class _Call(NamedTuple):
    """A call of a user's function; it stands in the queue between the messages."""

    function: Callable[[Notice], object]
    notice: Notice


class Reporter(ForkAware):
    """Takes messages on any thread without blocking. A thread, which the first message starts, logs them.

    The messages of one thread are logged in order, and calls are made in order with them. What comes after the end is
    logged all the same, by a thread that then ends. In a forked child the reporter begins anew, and what is queued is
    the parent's.

    Args:
        **always: Attributes of every record, unless a message has its own.
    """

    def __init__(self, **always: Unpack[Details]) -> None:
        self._always = always
        self._reset()
        _reporters.add(self)
        fork_aware.add(self)

    def _reset(self) -> None:
        self._messages: SimpleQueue[_Message | _Call | Reply[None] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._to_start = [True]  # taken by the thread that starts it
        self._bursts: dict[tuple[Kind, str], Burst] = {}
        self._mistakes = Failures()
        self._mark: Reply[None] | None = None  # behind all messages that were put so far; None if there is none
        self._ended = False  # the thread logs nothing more

    def _after_fork(self) -> None:
        self._reset()

    def warning(
        self, kind: Kind, text: str, *args: object, context: Context | None = None, **details: Unpack[Details]
    ) -> None:
        """Log a warning soon; see :meth:`error`."""
        self._put(_Message(kind, logging.WARNING, text, args, details, context=context))

    def error(
        self,
        kind: Kind,
        text: str,
        *args: object,
        error: BaseException | None = None,
        context: Context | None = None,
        **details: Unpack[Details],
    ) -> None:
        """Log an error soon.

        Args:
            kind: What happened.
            text: The text, with a placeholder for each of ``args``.
            *args: For the text.
            error: An error whose traceback is logged as well. It is kept, with its frames, until it is logged.
            context: The context of the user's code that it is about, with its ``contextvars``: filters and handlers see
                them, such as the span of a trace. It is kept until it is logged, too, and a copy of it is used.
            **details: Further attributes of the record.
        """
        self._put(_Message(kind, logging.ERROR, text, args, details, error, context))

    def internal_error(self, what: str) -> None:
        """Log an error in this library soon."""
        text = "internal error, please report it: %s"
        self._put(_Message(Kind.INTERNAL_ERROR, logging.ERROR, text, (what,), {}))

    def mistake(self, error: Exception) -> None:
        """Log an error in this library soon, unless one was logged a moment ago: it may come with each message."""
        if self._mistakes.opens():
            self.internal_error("".join(format_exception(error)))

    def info(self, kind: Kind, text: str, *args: object, **details: Unpack[Details]) -> None:
        """Log an information soon."""
        self._put(_Message(kind, logging.INFO, text, args, details))

    def burst(self, kind: Kind, text: str, *args: object, about: str = "", **details: Unpack[Details]) -> None:
        """Log a warning soon, unless one of the same kind about the same came within the last seconds."""
        key = kind, about
        if key not in self._bursts and len(self._bursts) >= _BURSTS_KNOWN:
            self._bursts.clear()
        if self._bursts.setdefault(key, Burst()).opens():
            self.warning(kind, text, *args, **details)

    def call(self, function: Callable[[Notice], object], notice: Notice) -> None:
        """Call a function of the user's with a notice soon, on the thread that logs. An exception in it is logged.

        While a log handler or another call blocks, so many wait at most that it costs no more memory; those beyond are
        left out, except for the end, which comes once.
        """
        self._put(_Call(function, notice), inf if notice.kind == "closed" else _CALLS_AT_MOST)

    def _put(self, message: _Message | _Call, at_most: float = _QUEUED_AT_MOST) -> None:
        if self._messages.qsize() < at_most:
            if isinstance(message, _Message):
                message = message._replace(details={**self._always, **message.details})
            self._mark = None  # before and after, as a signal handler may flush in between
            self._messages.put(message)
            self._mark = None
        if self._to_start:
            self._start()

    def _start(self) -> None:
        """Start the thread. After an exception of a signal handler there may be two, which does no harm."""
        with suppress(IndexError):  # another thread does it
            self._to_start.pop()
            is_started = False
            try:
                mind_the_exit()
                thread = make_thread(self._run, name=f"aether-log-{next(_numbers)}")
                start(thread)
                is_started = True
                self._thread = thread
            except NoThreadError:  # the next message tries again; if there is none, close() logs
                pass
            finally:
                if not is_started:
                    self._to_start.append(True)

    def _run(self) -> None:
        outer = getattr(_own, "logs", False)
        _own.logs, self._ended = True, False
        try:
            while _hand_over(self._messages.get()):  # no name is bound to it: a message is let go when it is logged
                pass
            self._drain()
            self._ended = True
            self._drain()  # messages that came in between
            self._to_start = [True]  # for messages that come after a close
            # A message that came just before that has started no thread. Accepted race: one that comes just after it
            # may be logged by another thread at the same time, out of order, which is harmless at the end.
            self._drain()
        finally:
            _own.logs = outer
        self._messages.put(None)  # for another thread, if a close() in a handler has ended this one before it

    def _drain(self) -> None:
        """Log all messages that are there, without waiting."""
        with suppress(Empty):
            while True:
                _hand_over(self._messages.get_nowait())

    # -- waiting until messages are logged

    def mark(self) -> Reply[None]:
        """Put a mark behind all messages. It is done when they are logged.

        A mark that no message has followed is used again, so that a handler that blocks for ever costs no more memory.
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

    def flush(self, timeout: float) -> bool:
        """Wait until all messages so far are logged; returns whether they are. It waits where flush_logs() does."""
        if _must_not_wait():
            return False
        if not self.is_used:
            return True
        with outside_locks():
            return self.await_mark(self.mark(), Deadline(timeout))

    def await_mark(self, mark: Reply[None], deadline: Deadline) -> bool:
        """Wait until all messages before a mark are logged; returns whether they are."""
        if self._to_start:  # an exception kept another call from starting the thread
            self._start()
        if self._ended:
            self._log_the_rest(deadline)
        try:
            mark.wait(deadline)
        except DeadlineExceededError:
            return False
        return True

    def _log_the_rest(self, deadline: Deadline) -> None:
        """Log what came after the end of the thread, once that has logged all it had taken."""
        if self._thread is not None:
            self._thread.join(deadline.for_lock())
        _own.logs = True
        try:
            self._drain()
        finally:
            _own.logs = False
            self._messages.put(None)  # as in _run()

    @property
    def is_used(self) -> bool:
        """Whether there may be something to wait for."""
        return not (self._to_start and (self._ended or self._messages.empty()))

    # -- its end

    def end(self) -> None:
        """Log what is left, and end the thread."""
        self._messages.put(None)

    def close(self, timeout: float) -> None:
        """End the thread and wait for it, but no longer than ``timeout`` if a log handler blocks it."""
        self.end()
        with outside_locks():  # as in flush_logs()
            if self._thread is None or not self._thread.is_alive():
                self._run()
            elif self._thread is not threading.current_thread():
                self._thread.join(min(timeout, threading.TIMEOUT_MAX))


_reporters: WeakRegistry[Reporter] = WeakRegistry()
_own = threading.local()  # its ``logs`` is true while a reporter may be running a log handler on this thread


def _hand_over(one: _Message | _Call | Reply[None] | None) -> bool:
    """Log a message, make a call, or say that a mark is reached; return False at the end."""
    if isinstance(one, Reply):
        one.set(None)
    elif isinstance(one, _Call):
        _make(one)
    elif one is not None:
        _log(one)
    return one is not None


def _log(one: _Message) -> None:
    if one.context is not None:  # a copy: several messages may have it, and only one thread can be in it, once
        one.context.copy().run(_log, one._replace(context=None))
        return
    try:
        recordings, is_logged = list(_recordings), logger.isEnabledFor(one.level)
        if recordings or is_logged:
            record = _record_of(one)
            for each in recordings:
                each.take(record)
            if is_logged:
                logger.handle(record)
    except BaseException as error:  # of a handler or filter, which must not change what happens
        if _is_of_a_signal_handler(error):
            raise


def _record_of(one: _Message) -> logging.LogRecord:
    """Return a message as a record. A record factory may set attributes of the same names; ours are documented."""
    error = None if one.error is None else (type(one.error), one.error, one.error.__traceback__)
    record = logger.makeRecord(logger.name, one.level, __file__, 0, one.text, one.args, error)
    record.__dict__.update(kind=one.kind.value, **one.details)
    return record


def _make(call: _Call) -> None:
    try:
        call.function(call.notice)
    except BaseException as error:
        if _is_of_a_signal_handler(error):
            raise
        said = "the callback for %r has raised", (call.notice.kind,)
        _log(_Message(Kind.CALLBACK_FAILED, logging.ERROR, *said, {"url": call.notice.url}, error))


def _is_of_a_signal_handler(error: BaseException) -> bool:
    """Whether it ends what the program does: a close() logs and calls itself where no thread can be started.

    Otherwise the thread is ours, and goes on, whatever a handler or callback raises.
    """
    return not isinstance(error, Exception) and threading.current_thread() is threading.main_thread()


def _must_not_wait() -> bool:
    """Whether this thread logs, and would wait for itself, or is a loop thread."""
    return getattr(_own, "logs", False) or threading.get_ident() in loop_threads


def flush_logs(timeout: float | None = 5.0) -> bool:
    """Wait until ``logging`` has got every record of this library whose cause came before this call.

    Threads of their own log the records, some milliseconds after the cause; a test that looks for a record calls this
    first. Any thread may call it, also after a close and in a forked child. It returns False at once in a log handler
    that handles such a record, which cannot wait for itself, and on a loop thread, where finalizers may run.

    Args:
        timeout: Seconds to wait; None waits for ever.

    Returns:
        Whether all records were logged in time.
    """
    deadline = Deadline(timeout)
    if _must_not_wait():
        return False
    marked = [(one, one.mark()) for one in _reporters if one.is_used]
    with outside_locks():  # a log handler may need a lock of the code that a flushing signal handler has interrupted
        return not [one for one, mark in marked if not one.await_mark(mark, deadline)]


def last_words(deadline: Deadline) -> float:
    """Return how many seconds a close waits for log handlers that block: a moment also if its deadline is over."""
    return min(_CLOSE, max(deadline.remaining(), _LAST_WORDS))


@at_exit
def _log_all_last_words() -> None:
    """Log what is left when the process ends. It runs last, when what is closed at the exit has said what it has to."""
    used = [one for one in _reporters if one.is_used]
    for one in used:
        one.end()
    deadline = Deadline(_CLOSE)
    for one in used:
        one.close(last_words(deadline))


def log_close(reporter: Reporter, name: str, report: CloseReport) -> None:
    """Log what closing the object called ``name`` left undone, if anything."""
    if not report:
        counts = {"unsent": report.unsent, "uncertain": report.uncertain, "rejected": report.rejected}
        reporter.warning(Kind.CLOSE_REPORT, "closing %s left something undone: %r", name, report, counts=counts)
