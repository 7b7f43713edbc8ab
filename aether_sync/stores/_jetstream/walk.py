"""``Walk``: reads an actor's records from its last one back, at the sequences that records name (see ``earlier``)."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, TypeAlias

from ..._codec.decoding import decode_stored_run
from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError, DecodingError
from ...events import MAX_VERSION, Event
from .._wanted import Wanted
from .api import JetStream
from .earlier import ALSO, RUN, ordinal_of
from .messages import Record
from .reader import Tail

__all__ = ["Run", "Walk", "before"]

_AT_ONCE = 1_000  # records that are asked for in one write
_BYTES = 4 * 2**20  # that their answers should not exceed, as there is no flow control
_AROUND = 500  # bytes of a record that are not its body
_ANEW = 16  # records of an actor that begin anew; each costs round trips, and a search costs less than more of them
_LACKING = 16  # records that a server may lack which is a bit behind the leader

#: The last event of a run of events, which a record names: its sequence, its ordinal, as far as records lead to events
#: before it, and its level: the run has 16 to the power of it events.
_End: TypeAlias = tuple[int, int, int]


class Run(NamedTuple):
    """Events of an actor, each of which follows the one before.

    Attributes:
        records: Their records in order, one at least.
        events: The events.
        is_last: Whether the last of them is the actor's last one.
    """

    records: list[Record]
    events: list[Event]
    is_last: bool


class Walk:
    """One way from the end of an actor back to the events that are wanted.

    Args:
        jetstream: Puts requests to the server.
        stream: The name of the stream.
        tail: The end of the actor, which has events.
        deadline: For all requests.
        kind: The class of the events.
    """

    def __init__(
        self, jetstream: JetStream, stream: str, tail: Tail, deadline: Deadline, kind: type[Event] = Event
    ) -> None:
        assert tail.record is not None
        assert tail.event is not None
        self._jetstream = jetstream
        self._stream = stream
        self._last = tail.record
        self._deadline = deadline
        self._kind = kind
        self._largest = len(tail.record.data)  # bytes of a body that was read
        self._events: dict[int, Event | DecodingError] = {tail.record.sequence: tail.event.event}

    def run(self, wanted: Wanted) -> Run | None:
        """Return the events that are wanted, and perhaps some around them.

        None if records name no such ones.
        """
        records: list[Record] = []
        is_last = True
        record = self._last
        for _ in range(_ANEW):
            event = self._events[record.sequence]
            if isinstance(event, DecodingError):
                return None
            named = record.named
            last = ordinal_of(named)
            ordinals = _ordinals(event.version, last, wanted)
            if not ordinals:  # what records name does not fit their versions
                return None
            ends = _ends(named, last, ALSO if len(named) > 1 else 0)
            found = self._fetch(ends, ordinals, wanted.after)
            if found is None:
                return None
            found[last] = record
            if record is self._last:
                is_last = ordinals[-1] == last
            part = list(_in_a_row(found, reversed(ordinals)))
            records = part[::-1] + records
            if not part or part[-1] is not found.get(0):  # those before are not wanted
                break
            begin = part[-1]  # it may name others in turn: then who stored the next one did not know what it names
            there = before(begin)
            if there is not None and (there <= wanted.after or self._is_early(begin, wanted)):
                break
            if there is None or not begin.named or begin.sequence >= record.sequence:
                return None
            record = begin
            del records[0]
        else:
            return None
        return self._checked(records, is_last)

    def _is_early(self, record: Record, wanted: Wanted) -> bool:
        """Whether no event before a record's is wanted."""
        event = self._events[record.sequence]
        return isinstance(event, Event) and event.version <= wanted.first

    def _checked(self, records: list[Record], is_last: bool) -> Run | None:
        """Return the events of records, if each of them follows the one before."""
        if not records or not all(_follows(one, other) for other, one in pairwise(records)):
            return None
        events = [self._events[record.sequence] for record in records]
        found = [event for event in events if isinstance(event, Event)]
        return Run(records, found, is_last) if len(found) == len(records) else None

    def _fetch(self, ends: list[_End], ordinals: range, after: int) -> dict[int, Record] | None:
        """Return records by the ordinals of their events, from some ends of runs on.

        None if one of them is not there, or does not name what it should.

        Args:
            ends: The ends.
            ordinals: Those of the events that are wanted.
            after: A sequence after which they are.
        """
        found: dict[int, Record] = {}
        while ends := _that_lead_to(ordinals, after, ends):
            records = self._read([sequence for sequence, _, _ in ends])
            following: list[_End] = []
            for sequence, ordinal, level in ends:
                there = records.get(sequence)
                if there is None:
                    return None
                found[ordinal] = there
                if level:
                    named = there.named[:level]
                    if len(named) < level or any(len(one) < RUN - 1 for one in named):
                        return None
                    named[0] = named[0][1 - RUN :]
                    following += _ends(named, ordinal)
            ends = [end for end in following if end[1] not in found]
        return found

    def _read(self, sequences: Sequence[int]) -> dict[int, Record]:
        """Return the actor's records at some sequences, as far as they are there, and decode them."""
        found: dict[int, Record] = {}
        at = 0
        while at < len(sequences):  # if the server had to keep too much for this connection, it would end it
            end = at + max(1, min(_AT_ONCE, _BYTES // (self._largest + _AROUND)))
            asked = self._jetstream.ask_many(self._stream, self._last.subject, sequences[at:end], self._deadline)
            self._take(asked(self._deadline), found)
            at = end
        self._read_lacking([sequence for sequence in sequences if sequence not in found], found)
        return found

    def _read_lacking(self, sequences: Sequence[int], found: dict[int, Record]) -> None:
        """Read from the leader what another server lacks."""
        if len(sequences) > _LACKING:  # it is not for being behind
            return
        for asked in [self._jetstream.ask_at(self._stream, one, self._deadline) for one in sequences]:
            record = asked(self._deadline)
            if record is not None and record.subject == self._last.subject:
                self._take({record.sequence: record}, found)

    def _take(self, records: dict[int, Record], found: dict[int, Record]) -> None:
        if not self._deadline.remaining():
            raise DeadlineExceededError(f"not all of it was read within {self._deadline}")
        encoded = [record.data for record in records.values()]
        self._events.update(zip(records, decode_stored_run(encoded, self._kind), strict=True))
        self._largest = max([self._largest, *map(len, encoded)])
        found |= records


def _ordinals(version: int, ordinal: int, wanted: Wanted) -> range:
    """Return the ordinals of the events to read: of those that are wanted, and of their neighbours.

    Versions increase by 1 at least. So that of an event is greater than its ordinal, and at least as much less than a
    later one as the ordinals are apart.

    Args:
        version: The version of the last event.
        ordinal: Its ordinal.
        wanted: What is wanted.
    """
    first, last = wanted.first - (version - ordinal), wanted.last - 1
    if wanted.limit is not None and wanted.reverse and wanted.until == MAX_VERSION:
        first = max(first, min(ordinal, wanted.last - (version - ordinal)) - wanted.limit + 1)
    if wanted.limit is not None and not wanted.reverse and not wanted.after:
        last = min(last, max(0, wanted.first - 1) + wanted.limit - 1)
    return range(max(0, first - 1), min(ordinal, last + 1) + 1)


def _ends(named: Sequence[Sequence[int]], ordinal: int, also: int = 0) -> list[_End]:
    """Return the ends of runs that the record of an event names.

    Args:
        named: What it names.
        ordinal: That of the event.
        also: How many of the lowest level are of the last whole run, before its last event.
    """
    begin = ordinal - ordinal % RUN  # of the run of 16 that it is in
    ends: list[_End] = [(one, begin - 1 - also + place, 0) for place, one in enumerate(named[0][:also] if also else ())]
    for level, sequences in enumerate(named):
        own = sequences[also:] if not level else sequences
        run = RUN**level
        first = ordinal - ordinal % run - 1 - (len(own) - 1) * run
        ends += [(one, first + place * run, level) for place, one in enumerate(own)]
    return ends


def _that_lead_to(ordinals: range, after: int, ends: Iterable[_End]) -> list[_End]:
    """Return the ends of runs in which there are events that are wanted."""
    first, stop = ordinals.start, ordinals.stop
    return [
        (sequence, ordinal, level)
        for sequence, ordinal, level in ends
        if ordinal >= first and ordinal - (RUN**level if level else 1) + 1 < stop and sequence > after
    ]


def _in_a_row(found: dict[int, Record], ordinals: Iterable[int]) -> Iterator[Record]:
    """Yield records until one is missing."""
    for ordinal in ordinals:
        if ordinal not in found:
            return
        yield found[ordinal]


def _follows(record: Record, other: Record) -> bool:
    """Whether a record is its actor's next event after another one.

    The leader has checked the condition on which it was stored. In a batch only an actor's first record has one, but
    the places in a batch do not change.
    """
    if record.expects(other.sequence):
        return record.behind is None
    ours, theirs = record.member, other.member
    if ours is not None and theirs is not None and ours.batch == theirs.batch and ours.number == theirs.number + 1:
        return True
    return before(record) == other.sequence


def before(record: Record) -> int | None:
    """Return the sequence of the event before a record's; 0 if there is none, None if the record does not tell."""
    if record.before is not None:
        return record.before
    first = record.batch
    named = max((level[-1] for level in record.named if level), default=0)
    return named if first and first <= named < record.sequence else None
