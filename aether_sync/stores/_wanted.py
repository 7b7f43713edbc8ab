"""``Wanted``: which of an actor's events a reader wants."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from ..events import MAX_VERSION
from .base import StoredEvent

__all__ = ["Wanted"]


class Wanted(NamedTuple):
    """Which of an actor's events are wanted: versions, sequences, and how many."""

    first: int = 0
    last: int = MAX_VERSION
    after: int = 0
    until: int = MAX_VERSION
    limit: int | None = None
    reverse: bool = False

    @property
    def is_empty(self) -> bool:
        """Whether no event can be wanted."""
        return self.first > self.last or self.after >= self.until or not self.last

    def pick(self, events: Sequence[StoredEvent]) -> list[StoredEvent]:
        """Return those of an actor's events that are wanted, in the order in which they are wanted."""
        start = bisect_left(events, self.first, key=_version)
        end = bisect_right(events, self.last, key=_version)
        if self.after:
            start = max(start, bisect_right(events, self.after, key=_sequence))
        if self.until < MAX_VERSION:
            end = min(end, bisect_right(events, self.until, key=_sequence))
        picked = list(events[start:end])
        if self.reverse:
            picked.reverse()
        return picked if self.limit is None else picked[: self.limit]


_version, _sequence = attrgetter("event.version"), attrgetter("sequence")
