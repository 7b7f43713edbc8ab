"""``failures_told``: what was logged as an error during a test, for who reads why it has failed."""

import traceback
from collections.abc import Iterable
from logging import LogRecord

from .._values.shown import explained

__all__ = ["failures_told"]


def failures_told(records: Iterable[LogRecord], beyond: int) -> list[str]:
    """Return a text for each error, with the traceback of the function that raised.

    Those that are raised at the same place by the same kind of error have a text together: the traceback of the first,
    and a line for each of the others.

    Args:
        records: What was logged.
        beyond: How many failures of handlers besides were too many to be recorded.
    """
    alike: dict[object, list[LogRecord]] = {}
    for record in records:
        alike.setdefault(_kind_of(record), []).append(record)
    told = [_told(first, others) for first, *others in alike.values()]
    return [*told, f"and {beyond} failures more, which are not recorded"] if told and beyond else told


def _raised_by(record: LogRecord) -> BaseException | None:
    return record.exc_info[1] if record.exc_info else None


def _kind_of(record: LogRecord) -> object:
    """Return what is equal for records of the same fault."""
    raised = _raised_by(record)
    if raised is None:
        return record.msg, record.args
    places = [(frame.f_code, line) for frame, line in traceback.walk_tb(raised.__traceback__)]
    return record.msg, type(raised), places[-1] if places else None


def _told(record: LogRecord, others: list[LogRecord]) -> str:
    raised = _raised_by(record)
    trace = "" if raised is None else "\n" + "".join(traceback.format_exception(raised)).rstrip()
    more = [f"  - {_line(one)}" for one in others]
    if more:
        more.insert(0, f"and {len(others)} more that were raised there:")
    kind = getattr(record, "kind", "")
    hint = f"If that is what the test is about, call aether_logs.expect({kind!r}) in it."
    return "\n".join([f"while this test ran: {record.getMessage()}{trace}", *more, hint])


def _line(record: LogRecord) -> str:
    raised = _raised_by(record)
    return record.getMessage() if raised is None else f"{record.getMessage()}: {explained(raised)}"
