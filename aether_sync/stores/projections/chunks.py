"""Chunks of events: what is applied in one transaction. A chunk ends where an atomic save ends."""

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from ...errors import MalformedRecordError
from ..base import Follower, StoredEvent
from .checkpoints import Place

__all__ = ["Chunk", "ChunkReader", "Found", "begin_of_save", "mark_of"]

Found: TypeAlias = StoredEvent | MalformedRecordError  #: what is at a sequence of the store


class Chunk(NamedTuple):
    """What is applied in one transaction.

    Attributes:
        found: The events, and records that are none.
        there: How far the projection is afterwards.
    """

    found: Sequence[Found]
    there: Place


class ChunkReader:
    """Reads chunks from a follower. One thread.

    A follower gives the events of a save one after the other, and all of them are stored when it gives the first. With
    a filter it may not give the last one. Then the save ends where another one begins, or where nothing more is there.

    Args:
        follower: Where events come from.
        here: How far the projection is.
        size: How many events a chunk has; more, if a save has more.
    """

    def __init__(self, follower: Follower, here: Place, size: int) -> None:
        self._follower = follower
        self._here = here
        self._size = size
        self._kept: list[Found] = []  # that begin the next chunk

    def next(self, timeout: float, *, until_caught_up: bool = False) -> Chunk:
        """Return the next chunk; it may have no events, and only be further on.

        Args:
            timeout: Seconds to wait for the first event.
            until_caught_up: Whether not to wait for events that are not stored yet.
        """
        found, self._kept = self._kept, []
        if not found:
            found = self._take(self._size, timeout, until_caught_up=until_caught_up)
        while _is_open(found):
            more = self._take(self._size, timeout, until_caught_up=True)
            if not more:
                if self._follower.is_caught_up:
                    break
                self._kept = found  # its server is away, or slow
                return Chunk([], self._here)
            end = next((at for at, one in enumerate(more) if not _is_same_save(found[-1], one)), len(more))
            found += more[:end]
            self._kept = more[end:]
            if self._kept:
                break
        if not found and not self._follower.is_caught_up:  # asked, the follower passes over what is not wanted
            return Chunk([], self._here)
        sequence = found[-1].sequence if found else max(self._here.sequence, self._follower.sequence)
        self._here = mark_of(found, Place(sequence, *self._here[1:]))
        return Chunk(found, self._here)

    def _take(self, count: int, timeout: float, *, until_caught_up: bool) -> list[Found]:
        try:
            return list(self._follower.get_batch(count, timeout, until_caught_up=until_caught_up))
        except MalformedRecordError as error:
            return [error]


def mark_of(found: Sequence[Found], place: Place) -> Place:
    """Return a place, recognised by the last event of those."""
    last = next((one for one in reversed(found) if isinstance(one, StoredEvent)), None)
    return place if last is None else Place(place.sequence, last.sequence, last.event.id)


def _is_open(found: Sequence[Found]) -> bool:
    """Whether more events of the last one's save may follow."""
    return bool(found) and isinstance(found[-1], StoredEvent) and not found[-1].ends_batch


def _is_same_save(one: Found, other: Found) -> bool:
    if not (isinstance(one, StoredEvent) and isinstance(other, StoredEvent)):
        return False
    return bool(one.batch) and one.batch == other.batch


def begin_of_save(found: Sequence[Found], at: int) -> int:
    """Return where the save begins, among those, that one of them is of."""
    while at and _is_same_save(found[at - 1], found[at]):
        at -= 1
    return at
