"""Two clocks: one for time-outs, which nothing freezes, and one for timestamps, which a test may freeze.

freezegun replaces the functions and classes of ``time`` and ``datetime`` in every module that has one as an attribute,
also in asyncio. On a frozen clock no time-out ever passes, so :func:`monotonic` is not one of these functions. A
timestamp, however, should have the time that the test has set, and be valid after the test. So :func:`now` asks
whatever stands for ``datetime`` at that moment, and returns a plain one.
"""

import time
from datetime import UTC, date, datetime
from functools import partial
from typing import TYPE_CHECKING

__all__ = ["Date", "Datetime", "monotonic", "now"]

#: Seconds, on the clock of all time-outs.
monotonic = partial(time.clock_gettime, time.CLOCK_MONOTONIC)

if TYPE_CHECKING:
    from datetime import date as Date
    from datetime import datetime as Datetime
else:  # the plain classes, also if this module is imported while they are replaced
    Datetime = next(one for one in datetime.__mro__ if one.__module__ == "datetime")
    Date = next(one for one in date.__mro__ if one.__module__ == "datetime")

_EPOCH = Datetime(1970, 1, 1, tzinfo=UTC)


def now(plain: type[Datetime] = Datetime) -> Datetime:
    """Return the time in UTC, as a plain datetime.

    Args:
        plain: The plain class. It is a default argument, which freezegun does not replace.
    """
    moment = datetime.now(UTC)
    return moment if type(moment) is plain else _EPOCH + (moment - _EPOCH)
