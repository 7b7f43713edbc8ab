"""Two clocks: one for time-outs, which nothing stops, and one for timestamps, which a test may.

freezegun replaces the functions and classes of ``time`` and ``datetime`` in every module that has one as an attribute,
asyncio's included. A time-out on a stopped clock never passes: so :func:`monotonic` is none of those functions. What is
stamped with the time, on the other hand, is to have the one that the test has set, and to outlive the test: so
:func:`now` asks whatever stands for ``datetime`` at that moment, and returns a plain one.
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
else:  # the plain classes, also if this is imported while others stand for them
    Datetime = next(one for one in datetime.__mro__ if one.__module__ == "datetime")
    Date = next(one for one in date.__mro__ if one.__module__ == "datetime")

_EPOCH = Datetime(1970, 1, 1, tzinfo=UTC)


def now(plain: type[Datetime] = Datetime) -> Datetime:
    """Return the time in UTC, as a plain datetime.

    Args:
        plain: The plain class, as an argument, which no test replaces.
    """
    moment = datetime.now(UTC)
    return moment if type(moment) is plain else _EPOCH + (moment - _EPOCH)
