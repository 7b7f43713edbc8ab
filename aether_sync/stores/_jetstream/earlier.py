"""``Earlier``: the sequences of an actor's earlier events, which each record names in a header.

JetStream has no index of an actor's events: a server that is asked for them goes through the stream. A record at a
known sequence it finds at once. So whoever has the last record of an actor can find all the others, if each record
names some that are before it: the nearest ones, and ever fewer of those that are farther away.

The events of an actor have ordinals, from 0 on. The digits of an event's ordinal, to the base of 16, say what its
record names. The last digit says how many of the events right before it; the digit before that, how many runs of 16
events before these, of which it names the last event; and so on with runs of 256, 4,096, ... events. The last event of
a run in turn names what is in the run. Event 0x3E8 names the 8 events before it, the last events of 14 runs of 16, and
those of 3 runs of 256. So 16 events are read in two round trips, 256 in three, and 4,096 in four::

    Aether-Earlier: 1a2b,c8,d0;9c4,c80

The levels are separated by semicolons, the nearest events first. The sequences of a level increase. They are
hexadecimal numbers, and each but the first one is the difference to the one before it. Records that are stored in one
atomic batch (ADR-50) get their sequences only there: behind a plus sign a level has the places of events in the batch,
which are counted from 1, written in the same way: ``1a2b,c8+5,1``.

The header is a hint. Nodes in Go do not write it, a writer that does not know what the event before its own names
begins anew with that one, and after a restore a record may name those of others. What is found by it is used only where
each record proves to follow the one before it.
"""

from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import NamedTuple

__all__ = ["FIRST", "HEADER", "RUN", "Earlier", "named"]

RUN = 16  #: runs of one level that make one of the next
HEADER = b"Aether-Earlier: "
_BEGINNING = b"\r\n" + HEADER
_LEVELS = 15  # of 2**60 events
_LONGEST = 1_000  # bytes of what a store writes


class _Level(NamedTuple):
    """The ends of runs of the same length, as a header writes them."""

    size: int = 0
    last: int = 0  # the last sequence
    sequences: bytes = b""
    last_place: int = 0
    places: bytes = b""  # in the batch that is about to be stored

    def with_sequence(self, sequence: int) -> "_Level":
        text = b"%b,%x" % (self.sequences, sequence - self.last) if self.sequences else b"%x" % sequence
        return _Level(self.size + 1, sequence, text)

    def with_place(self, place: int) -> "_Level":
        text = b"%b,%x" % (self.places, place - self.last_place) if self.places else b"%x" % place
        return _Level(self.size + 1, self.last, self.sequences, place, text)

    @property
    def text(self) -> bytes:
        return b"%b+%b" % (self.sequences, self.places) if self.places else self.sequences


class Earlier(NamedTuple):
    """What the record of an event names; that of an actor's first event names nothing."""

    levels: tuple[_Level, ...] = ()

    @classmethod
    def of(cls, levels: Iterable[Sequence[int]]) -> "Earlier":
        """Return it for known sequences, by level, each level in order."""
        made = []
        for sequences in levels:
            level = _Level()
            for sequence in sequences:
                level = level.with_sequence(sequence)
            made.append(level)
        return cls(tuple(made))

    @property
    def text(self) -> bytes:
        """The value of the header; b"" if there is nothing to name."""
        return b";".join([level.text for level in self.levels])

    def after(self, sequence: int) -> "Earlier":
        """Return it for the next event, if this is that of the event at a sequence."""
        levels = self.levels
        if levels and levels[0].size < RUN - 1:
            return Earlier((levels[0].with_sequence(sequence), *levels[1:]))
        full, level = self._carried()
        return Earlier((*full, level.with_sequence(sequence), *levels[len(full) + 1 :]))

    def after_place(self, place: int) -> "Earlier":
        """As :meth:`after`, for an event and the next one in the same batch.

        Args:
            place: The place of the event in the batch, 1 or more.
        """
        full, level = self._carried()
        return Earlier((*full, level.with_place(place), *self.levels[len(full) + 1 :]))

    def _carried(self) -> tuple[list[_Level], _Level]:
        """Return empty levels for those that are full, and the next level, as adding 1 carries over digits of 15."""
        full: list[_Level] = []
        for level in self.levels:
            if level.size < RUN - 1:
                return full, level
            full.append(_Level())
        return full, _Level()

    def settled(self, first: int) -> "Earlier":
        """Return it with sequences for places, once the batch is stored.

        Args:
            first: The sequence of the batch's first record.
        """
        return Earlier.of(_read(self.text, first)) if any(level.places for level in self.levels) else self


FIRST = Earlier()  #: what an actor's first event names: nothing


def named(headers: bytes, first: int) -> list[list[int]]:
    """Return the sequences that a record names, by level, each level in order; ``[]`` if it names none.

    Args:
        headers: The headers of the record.
        first: The sequence of the first record of its atomic batch; any number if it was stored alone.
    """
    start = headers.find(_BEGINNING)
    if start < 0:
        return []
    start += len(_BEGINNING)
    try:
        return _read(headers[start : headers.index(b"\r\n", start)], first)
    except ValueError:  # another program has written it
        return []


def _read(text: bytes, first: int) -> list[list[int]]:
    levels = []
    for level in text.split(b";"):
        sequences, _, places = level.partition(b"+")
        levels.append([*_summed(sequences), *[first - 1 + place for place in _summed(places)]])
    if len(text) > _LONGEST or len(levels) > _LEVELS or max(map(len, levels)) >= RUN:
        raise ValueError(text)
    return levels


def _summed(numbers: bytes) -> Iterable[int]:
    return accumulate([int(one, 16) for one in numbers.split(b",")]) if numbers else ()
