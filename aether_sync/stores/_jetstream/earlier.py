"""``Earlier``: the sequences of an actor's earlier events, which each record names in a header.

JetStream has no index of an actor's events: a server that is asked for them goes through the stream. A record at a
known sequence it finds at once. So whoever has the last record of an actor can find all the others, if each record
names some that are before it: the nearest ones, and ever fewer of those that are farther away.

The events of an actor have ordinals, from 0 on. The digits of an event's ordinal, to the base of 16, say what its
record names. The last digit says how many of the events right before it; the digit before that, how many runs of 16
events before these, of which it names the last event; and so on with runs of 256, 4,096, ... events. The last event of
a run in turn names what is in the run. Event 0x3E8 names the 8 events before it, the last events of 14 runs of 16, and
those of 3 runs of 256. So 16 events are read in two round trips, 256 in three, and 4,096 in four. Where there are whole
runs, the 9 events before the end of the last run of 16 are named as well, so that the last ten events of any actor are
read in two round trips::

    Aether-Earlier: gsRGIGQ;cuEdCK

The levels are separated by semicolons, the nearest events first. The sequences of a level increase, and each but the
first one is written as the difference to the one before it. A number is written to the base of 32, with the letters a
to z and the figures 0 to 5 as digits; its last digit is written with A to Z, 6 to 9, a hyphen and an underscore.
Records that are stored in one atomic batch (ADR-50) get their sequences only there: behind a plus sign a level has the
places of events in the batch, which are counted from 1, written in the same way.

The header is a hint. Nodes in Go do not write it, a writer that does not know what the event before its own names
begins anew with that one, and after a restore a record may name those of others. What is found by it is used only where
each record proves to follow the one before it.
"""

from collections.abc import Iterable, Sequence
from operator import ge
from typing import NamedTuple

__all__ = ["ALSO", "FIRST", "HEADER", "RUN", "Earlier", "named", "ordinal_of"]

RUN = 16  #: runs of one level that make one of the next
ALSO = 9  #: events of the last whole run of 16, before its last one, that are named beside those that are after it
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
        return _Level(self.size + 1, sequence, self.sequences + _written(sequence - self.last))

    def with_place(self, place: int) -> "_Level":
        places = self.places + _written(place - self.last_place)
        return _Level(self.size + 1, self.last, self.sequences, place, places)

    def end(self, size: int) -> "_Level":
        """Return a level with the last of these alone, so many."""
        sequences, places = _summed(self.sequences), _summed(self.places)[-size:]
        level = _Level()
        for sequence in sequences[max(0, len(sequences) + len(places) - size) :]:
            level = level.with_sequence(sequence)
        for place in places:
            level = level.with_place(place)
        return level

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

    @classmethod
    def read(cls, headers: bytes, first: int, sequence: int) -> "Earlier":
        """Return what a record names; the arguments are those of :func:`named`."""
        levels = named(headers, first, sequence)
        texts = _text_of(headers).split(b";") if levels else []
        if any(b"+" in text for text in texts):
            return cls.of(levels)
        return cls(
            tuple(_Level(len(one), one[-1] if one else 0, text) for one, text in zip(levels, texts, strict=True))
        )

    @property
    def text(self) -> bytes:
        """The value of the header; b"" if there is nothing to name."""
        return b";".join([level.text if level.places else level.sequences for level in self.levels])

    def after(self, sequence: int) -> "Earlier":
        """Return it for the next event, if this is that of the event at a sequence.

        It begins anew if that one is before what it names, which then is of a past that was undone.
        """
        levels = self.levels
        for level in levels:
            if level.last >= sequence:
                return FIRST.after(sequence)
        if levels and levels[0].size < _most(0, len(levels)):
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
        """Return what is left of the levels that are full, and the next, as adding 1 carries over digits of 15."""
        full: list[_Level] = []
        for number, level in enumerate(self.levels):
            if level.size < _most(number, len(self.levels)):
                return full, level
            full.append(_Level() if number else level.end(ALSO))
        return full, _Level()

    def settled(self, first: int) -> "Earlier":
        """Return it with sequences for places, once the batch is stored.

        Args:
            first: The sequence of the batch's first record.
        """
        return Earlier.of(_read(self.text, first)) if any(level.places for level in self.levels) else self


FIRST = Earlier()  #: what an actor's first event names: nothing


def _most(level: int, levels: int) -> int:
    """Return how many a level names at most, of so many levels."""
    return RUN - 1 if level or levels == 1 else RUN - 1 + ALSO


def named(headers: bytes, first: int, sequence: int) -> list[list[int]]:
    """Return the sequences that a record names, by level, each level in order; ``[]`` if it names none.

    If there is more than one level, the first ``ALSO`` of the lowest one are of the last whole run.

    Args:
        headers: The headers of the record.
        first: The sequence of the first record of its atomic batch; any number if it was stored alone.
        sequence: That of the record. All that it names are before it: else whoever follows them might never end.
    """
    text = _text_of(headers)
    try:
        levels = _read(text, first) if text else []
    except ValueError:  # another program has written it
        return []
    ends = [(level[0], level[-1]) for level in levels if level]
    return levels if ends and all(start > 0 and end < sequence for start, end in ends) else []


def ordinal_of(levels: Sequence[Sequence[int]]) -> int:
    """Return the ordinal of an event, from what its record names."""
    also = ALSO if len(levels) > 1 else 0
    ordinal: int = sum([RUN**level * len(sequences) for level, sequences in enumerate(levels)]) - also
    return ordinal


def _text_of(headers: bytes) -> bytes:
    start = headers.find(_BEGINNING)
    return headers[start + len(_BEGINNING) :].partition(b"\r\n")[0] if start >= 0 else b""


def _read(text: bytes, first: int) -> list[list[int]]:
    parts = text.split(b";")
    if len(text) > _LONGEST or len(parts) > _LEVELS:
        raise ValueError(text)
    levels: list[list[int]] = []
    for part in parts:
        sequences, plus, places = part.partition(b"+")
        level = _summed(sequences)
        if plus:
            level += [first - 1 + place for place in _summed(places)]
        if len(level) > _most(len(levels), len(parts)) or any(map(ge, level, level[1:])):
            raise ValueError(text)
        levels.append(level)
    if len(levels) > 1 and len(levels[0]) < ALSO:
        raise ValueError(text)
    return levels


def _written(number: int) -> bytes:
    text = _LAST[number & 31]
    while number := number >> 5:
        text = _OTHERS[number & 31] + text
    return text


def _summed(text: bytes) -> list[int]:
    """Return the sums of numbers, from each to the next."""
    found = []
    total = number = 0
    for digit in text.translate(_VALUES):
        if digit < 32:
            total += number << 5 | digit
            found.append(total)
            number = 0
        elif digit < 64:
            number = number << 5 | digit - 32
        else:
            raise ValueError(text)
    return found


_DIGITS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ6789-_abcdefghijklmnopqrstuvwxyz012345"
_LAST = [_DIGITS[value : value + 1] for value in range(32)]
_OTHERS = [_DIGITS[value : value + 1] for value in range(32, 64)]
_VALUES = bytes(_DIGITS.index(one) if one in _DIGITS else 64 for one in range(256))
