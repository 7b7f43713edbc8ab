"""``LogRecorder``: what this library logs during a test, and waiting for it."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging import LogRecord
from threading import Condition
from typing import get_type_hints

from .._arguments import check_known, is_of
from .._runtime.closing import Startable
from .._runtime.deadline import Deadline
from .._runtime.reporter import Details, Kind, Recording, flush_logs, logger
from .._values.shown import short
from ..errors import InvalidOptionError

__all__ = ["LogRecorder"]

_MOST_FAILURES = 100  # of handlers that are recorded one by one, though they belong to a burst
_SHOWN = 20  # records that a message lists
_ATTRIBUTES = get_type_hints(Details).keys()


class LogRecorder(Startable):
    """Keeps the records that this library logs, from :meth:`start`, or the start of a ``with`` block, to the end of it.

    A record comes some milliseconds after its cause, on a thread of the library's own; the methods here wait for it.
    Of handlers that fail, each failure is logged meanwhile, up to a hundred, and not only the first of a burst.
    It has the records also if the program under test sets logging up, or switches it off. Any thread may call them.
    """

    def __init__(self) -> None:
        self._changed = Condition()  # guards the fields below
        self._records: list[LogRecord] = []
        self._taken: list[LogRecord] = []  # those that expect() has returned
        self._expected: set[str] = set()  # the kinds that expect() was asked for
        self._level = logging.WARNING
        self._recording = Recording(self._add, _MOST_FAILURES)

    def start(self) -> None:
        """Begin to record."""
        self._recording.begin()

    def close(self) -> None:
        """Wait for what was caused so far, and record nothing more."""
        flush_logs(1.0)
        self._recording.end()

    @contextmanager
    def at_info(self) -> Iterator[None]:
        """Have records of level INFO as well, which a program does not have logged by default."""
        with self._changed:
            level, self._level = self._level, logging.INFO
        try:
            yield
        finally:
            flush_logs(1.0)
            with self._changed:
                self._level = level

    def _add(self, record: LogRecord) -> None:
        with self._changed:
            if record.levelno < self._level and not logger.isEnabledFor(record.levelno):
                return
            self._records.append(record)
            self._changed.notify_all()

    # -- what a test asks

    @property
    def records(self) -> tuple[LogRecord, ...]:
        """All records so far, in order."""
        flush_logs()
        with self._changed:
            return tuple(self._records)

    def expect(self, kind: str, *, text: str = "", within: float | None = 5.0, **attributes: object) -> LogRecord:
        """Wait for a record, unless it is there already. Each record is returned once.

        A test says by this that it expects records of this kind, so those at level ERROR do not fail it.

        Args:
            kind: What it is about, such as ``"disconnected"`` or ``"handler_failed"``: one of those in the guide's page
                on logs.
            text: A part of its message; "" for any.
            within: Seconds to wait; 0 does not wait for what has not happened yet, None waits for ever.
            **attributes: Values of attributes of the record, such as ``consumer="mailer"`` or ``actor="order-1"``.

        Returns:
            The record.

        Raises:
            AssertionError: There was none in time; it lists those that there are.
            InvalidOptionError: There is no such kind or attribute, or another argument is wrong.
        """
        __tracebackhide__ = True
        wanted = _Wanted(kind or None, text, attributes)
        deadline = Deadline(within)
        with self._changed:
            self._expected.add(wanted.kind)
        flush_logs()
        found = self._await(wanted, deadline)
        if found is None:
            raise AssertionError(f"no record {wanted} was logged within {deadline}\n{self._told(wanted)}")
        return found

    def nothing(self, kind: str = "", *, text: str = "", within: float | None = 0.0, **attributes: object) -> None:
        """Check that there is no record that :meth:`expect` has not returned.

        Args:
            kind: As for :meth:`expect`; "" for any record of level WARNING or above.
            text: As for :meth:`expect`.
            within: Seconds in which none may come. All that was caused before the call is waited for in any case.
            **attributes: As for :meth:`expect`.

        Raises:
            AssertionError: There is such a record.
            InvalidOptionError: As for :meth:`expect`.
        """
        __tracebackhide__ = True
        wanted = _Wanted(kind, text, attributes)
        deadline = Deadline(within)
        flush_logs()
        if (found := self._await(wanted, deadline, take=False)) is not None:
            raise AssertionError(f"logged, and not expected: {wanted.line(found)}\n{self._told(wanted)}")

    def unexpected_errors(self) -> list[LogRecord]:
        """Return the records of level ERROR and above whose kind :meth:`expect` was not asked for."""
        flush_logs()
        with self._changed:
            return [
                one
                for one in self._records
                if one.levelno >= logging.ERROR and getattr(one, "kind", "") not in self._expected
            ]

    @property
    def errors_beyond(self) -> int:
        """How many failures of handlers were not recorded, because they were too many."""
        return 0 if Kind.HANDLER_FAILED.value in self._expected else self._recording.failures_beyond

    def _await(self, wanted: "_Wanted", deadline: Deadline, *, take: bool = True) -> LogRecord | None:
        known = 0
        found = self._take(wanted, take=take)
        while found is None and (left := deadline.for_lock()):
            with self._changed:
                if len(self._records) == known:
                    self._changed.wait(left)
                known = len(self._records)
            found = self._take(wanted, take=take)
        return found

    def _take(self, wanted: "_Wanted", *, take: bool = True) -> LogRecord | None:
        with self._changed:
            for one in self._records:
                if not any(one is other for other in self._taken) and wanted.matches(one):
                    if take:
                        self._taken.append(one)
                    return one
        return None

    def _told(self, wanted: "_Wanted") -> str:
        with self._changed:
            lines = [f"  {wanted.line(one)}" for one in self._records]
        if not lines:
            return "nothing was logged"
        more = [f"  ... and {len(lines) - _SHOWN} before"] if len(lines) > _SHOWN else []
        return "\n".join(["logged so far:", *more, *lines[-_SHOWN:]])

    def __repr__(self) -> str:
        with self._changed:
            return f"<LogRecorder with {len(self._records)} records>"


class _Wanted:
    """Which record is asked for."""

    def __init__(self, kind: object, text: object, attributes: Mapping[str, object]) -> None:
        known = {one.value for one in Kind}
        if not is_of(kind, str) or (kind and str.__str__(kind) not in known):
            raise InvalidOptionError(f"kind must be one of {', '.join(sorted(known))}, not {short(kind)}")
        if not is_of(text, str):
            raise InvalidOptionError(f"text must be a str, not {short(text)}")
        check_known("a record has no attribute", attributes, _ATTRIBUTES)
        self.kind, self._text = str.__str__(kind), str.__str__(text)
        self._attributes = dict(attributes)

    def matches(self, record: LogRecord) -> bool:
        return (
            (getattr(record, "kind", "") == self.kind if self.kind else record.levelno >= logging.WARNING)
            and self._text in record.getMessage()
            and all(getattr(record, name, None) == value for name, value in self._attributes.items())
        )

    def line(self, record: LogRecord) -> str:
        """Return a record as messages show it, with its values of the attributes that are asked for."""
        kind = short(getattr(record, "kind", record.name))
        has = ", ".join(f"{name}={short(getattr(record, name, None))}" for name in self._attributes)
        return f"{record.levelname} {kind}{f' ({has})' if has else ''}: {record.getMessage()}"

    def __str__(self) -> str:
        values = {"text": self._text} if self._text else {}
        named = ", ".join(f"{name}={short(value)}" for name, value in {**values, **self._attributes}.items())
        return f"{short(self.kind)}{f' ({named})' if named else ''}"
