"""What fits into a subscription's queue, and what is dropped when it is full.

One thread at a time puts events here; the queue sees to that. Any thread takes events meanwhile, in one step of a deque
and without a lock, so events may disappear between any two lines below. For that reason the sizes of events are
forgotten later than the events: until then the queue counts as fuller than it is, and only where that would matter are
the sizes brought up to date.
"""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from enum import Enum
from itertools import repeat, starmap

from ..events import Event

__all__ = ["BoundedEvents", "Overflow"]

_TRIM_AFTER = 2**16  # bytes put, until the sizes of events that were taken are forgotten
_NO_SIZES: deque[int] = deque(maxlen=0)  # of a queue that never had an event: a deque of its own takes 750 bytes


class Overflow(Enum):
    """What a full queue does with one more event."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    FAIL = "fail"


class BoundedEvents:
    """Events in order, bounded in number and in bytes, with counts of what was offered and what was dropped.

    Args:
        maxsize: The largest number of events.
        max_bytes: The largest sum of their encoded sizes, in bytes. A larger event goes in when nothing else is there.
        overflow: What happens to an event that does not fit.
    """

    __slots__ = (
        "_bytes",
        "_dropped",
        "_events",
        "_high_water",
        "_offered",
        "_sizes",
        "_trim_above",
        "closed",
        "max_bytes",
        "maxsize",
        "overflow",
        "pop",
    )

    def __init__(self, maxsize: int, max_bytes: int, overflow: Overflow) -> None:
        self.maxsize = maxsize
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.closed = False  #: whether nothing more is put; what is there can still be taken
        self._events: deque[Event] = deque()
        self._sizes = _NO_SIZES  # of the events, in order, behind those of some that were taken
        self._bytes = 0  # the sum of _sizes: at least what is queued
        # While _bytes does not exceed this, it need not be exact. An event that is put first exceeds it.
        self._trim_above = -1
        self._offered = 0
        self._high_water = 0
        self._dropped: Counter[str] = Counter()  # by reason
        self.pop = self._events.popleft  #: take the next event, or raise IndexError; any thread, no lock

    @property
    def pending(self) -> int:
        """How many events are queued."""
        return len(self._events)

    def _fail(self, reason: str) -> None:
        """Close because of an overflow, as the policy ``FAIL`` demands."""
        raise NotImplementedError

    # -- putting

    def _put_events(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put events, and apply the policy where they do not fit; returns how many were dropped, these or others."""
        size = sum(sizes)
        pending = len(self._events) + len(events)
        if (pending > self.maxsize or self._bytes + size > self._trim_above) and not self._has_room(len(events), size):
            return self._put_by_policy(events, sizes)
        self._offered += len(events)  # as _extend() does, without that call
        self._events.extend(events)
        self._bytes += size
        self._sizes.extend(sizes)
        if pending > self._high_water:
            self._high_water = pending
        return 0

    def _put_if_room(self, event: Event, size: int) -> bool:
        """Put one event, if it fits; returns whether it did."""
        if not self._has_room(1, size):
            return False
        self._extend((event,), (size,), size)
        return True

    def _extend(self, events: Iterable[Event], sizes: Sequence[int], size: int) -> None:
        """Put events that fit.

        The events come first: should an exception cut this off, the sizes still count from the end.
        """
        self._offered += len(sizes)
        self._events.extend(events)
        self._bytes += size
        self._sizes.extend(sizes)
        pending = len(self._events)
        if pending > self._high_water:
            self._high_water = pending

    def _put_by_policy(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put events that do not all fit, one by one; returns how many were dropped, these or others."""
        self._keep_sizes()
        if self.overflow is Overflow.DROP_OLDEST:
            return sum(map(self._put_and_drop_oldest, events, sizes))
        return self._put_while_room(events, sizes)

    def _put_and_drop_oldest(self, event: Event, size: int) -> int:
        """Put an event, and drop the oldest ones until it fits; returns how many were dropped."""
        self._offered += 1
        self._events.append(event)
        self._bytes += size
        self._sizes.append(size)
        dropped = 0
        while (reason := self._exceeded_limit()) is not None:
            try:
                self.pop()
            except IndexError:  # a reader was quicker
                continue
            self._dropped[reason] += 1
            dropped += 1
        self._high_water = max(self._high_water, len(self._events))
        return dropped

    def _exceeded_limit(self) -> str | None:
        """The limit that what is queued exceeds, if any."""
        if len(self._events) > self.maxsize:
            return "maxsize"
        if self._bytes > self._trim_above and self._trim() > 1 and self._bytes > self.max_bytes:
            return "max_bytes"
        return None

    def _put_while_room(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put those events that fit, and drop the others; returns how many were dropped."""
        dropped = 0
        for number, (event, size) in enumerate(zip(events, sizes, strict=True)):
            if self._put_if_room(event, size):
                continue
            reason = "maxsize" if len(self._events) >= self.maxsize else "max_bytes"
            if self.overflow is Overflow.FAIL:
                self._fail(reason)
            if self.closed or reason == "maxsize":  # none of the others fits
                return dropped + self._count_dropped(reason, len(events) - number)
            dropped += self._count_dropped(reason, 1)  # a smaller one may fit
        return dropped

    def _count_dropped(self, reason: str, count: int) -> int:
        """Count events that were offered and not put."""
        self._offered += count
        self._dropped[reason] += count
        return count

    # -- what fits

    def _has_room(self, count: int, size: int) -> bool:
        """Whether so many events, of so many bytes in all, fit."""
        if len(self._events) + count > self.maxsize:
            return False
        if self._bytes + size <= self._trim_above:
            return True
        self._keep_sizes()
        is_alone = not self._trim() and count == 1
        return is_alone or self._bytes + size <= self.max_bytes

    def _keep_sizes(self) -> None:
        if self._sizes is _NO_SIZES:
            self._sizes = deque()

    def _trim(self) -> int:
        """Forget the sizes of events that were taken; returns how many events are queued."""
        pending = len(self._events)
        if pending:
            gone = sum(starmap(self._sizes.popleft, repeat((), len(self._sizes) - pending)))
            self._bytes -= gone
        else:  # this also mends what an interrupted put left
            self._sizes.clear()
            self._bytes = 0
        if self._sizes is not _NO_SIZES:
            self._trim_above = min(self.max_bytes, self._bytes + _TRIM_AFTER)
        return pending
