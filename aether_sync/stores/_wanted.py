"""``Wanted``: which of an actor's events are wanted, as one checked value, and how they are picked."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple, Self

from .._arguments import MAX_INT, check_count, check_flag
from ..events import MAX_VERSION
from ._checks import check_version
from .base import StoredEvent

__all__ = ["Wanted", "version_of"]

version_of = attrgetter("event.version")  #: the version of a StoredEvent, as a key for bisect()
_sequence_of = attrgetter("sequence")


class Wanted(NamedTuple):
    """Which of an actor's events are wanted. Both ends of each range are included, except ``after``.

    Attributes:
        first: The first version.
        last: The last version.
        after: The sequence after which they are.
        until: The last sequence.
        limit: How many at most: the first of them, or with ``reverse`` the last; None for all.
        reverse: Whether the newest comes first.
    """

    first: int = 0
    last: int = MAX_VERSION
    after: int = 0
    until: int = MAX_INT
    limit: int | None = None
    reverse: bool = False

    @classmethod
    def checked(
        cls,
        from_version: int = 0,
        to_version: int | None = None,
        after: int = 0,
        until: int | None = None,
        limit: int | None = None,
        reverse: bool = False,
    ) -> Self:
        """Return the range that a reader's arguments name.

        Raises:
            InvalidOptionError: One of them is wrong.
        """
        return cls(
            check_version("from_version", from_version),
            MAX_VERSION if to_version is None else check_version("to_version", to_version),
            check_version("after", after),
            MAX_INT if until is None else check_version("until", until),
            None if limit is None else check_count("limit", limit),
            check_flag("reverse", reverse),
        )

    @property
    def is_empty(self) -> bool:
        """Whether no event can be wanted."""
        return self.first > self.last or self.after >= self.until or not self.last

    def pick(self, history: Sequence[StoredEvent]) -> list[StoredEvent]:
        """Return what is wanted of an actor's events, which are given in order, from any place on."""
        first, last, after, until, _, _ = self
        start, end = 0, len(history)
        if first > 0:  # most readers want all: they need no search
            start = bisect_left(history, first, key=version_of)
        if after > 0:
            start = max(start, bisect_right(history, after, key=_sequence_of))
        if last < MAX_VERSION:
            end = bisect_right(history, last, key=version_of)
        if until < MAX_INT:
            end = min(end, bisect_right(history, until, key=_sequence_of))
        if self.limit is not None:
            start, end = (max(start, end - self.limit), end) if self.reverse else (start, min(end, start + self.limit))
        picked = list(history[start:end]) if start < end else []
        return picked[::-1] if self.reverse else picked
