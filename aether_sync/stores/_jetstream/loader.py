"""``Loader``: loads an actor's events, from what is kept of them and by the sequences that its records name.

The leader is asked for the actor's last record. If that is the last event that is kept, nothing else is asked.
Otherwise what is missing is read at the sequences that records name (see ``earlier``), from any server of the stream.
Nobody relies on these. What was found is used only if each record was stored on the condition that the one before it
was its actor's last, which the leader checked at that time, and if no event that is wanted can be before or behind
them. Where that is not so, the server is asked to look for the actor's events, as ``Reader`` does.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

from ..._codec.decoding import decode_stored
from ..._runtime.deadline import Deadline
from ...errors import DecodingError, MalformedRecordError
from ...events import MAX_VERSION
from .._checks import in_time
from .._wanted import Wanted
from ..base import MalformedRecord, StoredEvent
from .api import JetStream
from .earlier import RUN
from .kept import Kept, KeptEvents, memory_of
from .messages import Record
from .names import Names
from .reader import AskedTail, Reader, Tail, valid

__all__ = ["Loader"]

_AT_ONCE = 1_000  # records that are asked for in one write
_BYTES = 4 * 2**20  # that their answers should not exceed, as there is no flow control
_AROUND = 500  # bytes of a record that are not its body
_ANEW = 16  # records of an actor that begin anew; each costs round trips, and a search costs less than more of them
_LACKING = 16  # records that a server may lack which is a bit behind the leader


class _End(NamedTuple):
    """An event that a record names: the end of a run of events.

    Attributes:
        ordinal: How many events of its actor are before it, as far as records lead to them.
        sequence: Its sequence.
        level: Its run has 16 to this power events.
    """

    ordinal: int
    sequence: int
    level: int


class _Run(NamedTuple):
    """Records of an actor, each of which follows the one before.

    Attributes:
        records: The records in order, one at least.
        is_last: Whether the last of them is the actor's last event.
    """

    records: list[Record]
    is_last: bool


class Loader:
    """Loads the events of actors of one stream. Any thread may call it.

    Attributes:
        kept: What is kept of actors.
    """

    def __init__(self, jetstream: JetStream, names: Names, reader: Reader, kept: KeptEvents) -> None:
        self._jetstream = jetstream
        self._names = names
        self._reader = reader
        self._saves = reader.saves
        self.kept = kept

    def load(
        self, actor_id: str, wanted: Wanted, deadline: Deadline, asked: AskedTail | None = None
    ) -> list[StoredEvent]:
        """Return those of an actor's events that are wanted, in the order in which they are wanted.

        Args:
            actor_id: The actor.
            wanted: Which of them.
            deadline: For all requests.
            asked: The question for the end of the actor, if it was sent already.

        Raises:
            MalformedRecordError: A record among them is not an event.
        """
        try:
            tail = self._reader.await_tail(asked or self._reader.ask_tail(actor_id, deadline), deadline)
        except MalformedRecordError:  # those before it can be read all the same
            return self._by_search(actor_id, wanted, deadline)
        if tail.event is None or tail.event.event.version < wanted.first or wanted.is_empty:
            return []
        kept = self.kept.get(actor_id)
        if kept is not None and kept.begins_early_enough(wanted):
            if kept.ends_with(tail.event):
                return wanted.pick(kept.events)
            more = self._read_more(actor_id, kept, tail, deadline)
            if more is not None:
                return wanted.pick(more)
        found = self._by_names(actor_id, tail, wanted, deadline)
        return self._by_search(actor_id, wanted, deadline) if found is None else found

    # -- by what records name

    def _by_names(self, actor_id: str, tail: Tail, wanted: Wanted, deadline: Deadline) -> list[StoredEvent] | None:
        run = self._run(tail, wanted, deadline)
        events = None if run is None else self._events(actor_id, run.records, deadline)
        if run is None or events is None:
            return None
        before = _before(run.records[0])
        kept = Kept(MAX_VERSION if before is None else before, events, self._memory_of(run))
        if not (kept.begins_early_enough(wanted) and (run.is_last or _ends_late_enough(events, wanted))):
            return None
        if run.is_last and before is not None:
            self.kept.keep(actor_id, kept)
        return wanted.pick(events)

    def _read_more(self, actor_id: str, kept: Kept, tail: Tail, deadline: Deadline) -> list[StoredEvent] | None:
        """Return the events that are kept, and those after them; None if these do not follow what is kept.

        The last event that is kept is read again: the stream may have been restored, and written to since then.
        """
        assert tail.record is not None
        known = kept.events[:]
        end = known[-1]  # of these: another thread may add more at any time
        witness = self._jetstream.ask_many(self._names.stream, tail.record.subject, [end.sequence], deadline)
        try:
            run = self._run(tail, Wanted(after=end.sequence), deadline)
            if run is None or _before(run.records[0]) != end.sequence:
                return None
            there = witness(deadline).get(end.sequence)
        finally:
            witness.forget()
        events = self._events(actor_id, run.records, deadline)
        if events is None or there is None or not _is_same(self._reader.found(there), end):
            return None
        self.kept.add(actor_id, end.sequence, events, self._memory_of(run))
        return known + events

    def _run(self, tail: Tail, wanted: Wanted, deadline: Deadline) -> _Run | None:
        """Return the records of the events that are wanted, and perhaps of some around them.

        None if records name no such ones.
        """
        assert tail.record is not None
        assert tail.event is not None
        records: list[Record] = []
        is_last = True
        record, version = tail.record, tail.event.event.version
        for _ in range(_ANEW):
            named = record.named
            last = sum([RUN**level * len(sequences) for level, sequences in enumerate(named)])
            ordinals = _ordinals(version, last, wanted)
            if not ordinals:  # what records name does not fit their versions
                return None
            ends = _ends(named, _End(last, record.sequence, len(named)))
            found = self._fetch(record, ends, ordinals, wanted.after, deadline)
            if found is None:
                return None
            found[last] = record
            if record is tail.record:
                is_last = ordinals[-1] == last
            part = list(_in_a_row(found, reversed(ordinals)))
            records = part[::-1] + records
            if not part or part[-1] is not found.get(0):  # those before are not wanted
                break
            begin = part[-1]  # it may name others in turn: then who stored the next one did not know what it names
            before, version = _before(begin), self._reader.decoded(begin).version
            if before is not None and (before <= wanted.after or version <= wanted.first):
                break
            if before is None or not begin.named or begin.sequence >= record.sequence:
                return None
            record = begin
            del records[0]
        else:
            return None
        return _Run(records, is_last) if records and _is_linked(records) else None

    def _fetch(
        self, record: Record, ends: list[_End], ordinals: range, after: int, deadline: Deadline
    ) -> dict[int, Record] | None:
        """Return records by the ordinals of their events, from those that a record names on.

        None if one of them is not there, or does not name what it should.

        Args:
            record: The record.
            ends: What it names.
            ordinals: Those of the events that are wanted.
            after: A sequence after which they are.
            deadline: For all requests.
        """
        found: dict[int, Record] = {}
        largest = len(record.data)
        while ends := _that_lead_to(ordinals, after, ends):
            records = self._read(record, [end.sequence for end in ends], largest, deadline)
            largest = max([largest, *[len(one.data) for one in records.values()]])
            following: list[_End] = []
            for end in ends:
                there = records.get(end.sequence)
                if there is None:
                    return None
                found[end.ordinal] = there
                if end.level:
                    named = there.named[: end.level]
                    if len(named) < end.level or any(len(one) < RUN - 1 for one in named):
                        return None
                    following += _ends(named, end)
            ends = following
        return found

    def _read(self, record: Record, sequences: Sequence[int], largest: int, deadline: Deadline) -> dict[int, Record]:
        """Return the records at some sequences, as far as they are there, and of the same actor as another one.

        Args:
            record: The other one.
            sequences: The sequences.
            largest: Bytes of the largest body that was read of this actor. If the server had to keep too much for this
                connection, it would end it.
            deadline: For all requests.
        """
        stream, subject = self._names.stream, record.subject
        found: dict[int, Record] = {}
        at = 0
        while at < len(sequences):
            count = max(1, min(_AT_ONCE, _BYTES // (largest + _AROUND)))
            part = self._jetstream.ask_many(stream, subject, sequences[at : at + count], deadline)(deadline)
            largest = max([largest, *[len(one.data) for one in part.values()]])
            found |= part
            at += count
        lacking = [sequence for sequence in sequences if sequence not in found]
        if len(lacking) <= _LACKING:  # else it is not for being behind
            for asked in [self._jetstream.ask_at(stream, sequence, deadline) for sequence in lacking]:
                one = asked(deadline)
                if one is not None and one.subject == subject:
                    found[one.sequence] = one
        return found

    def _events(self, actor_id: str, records: Sequence[Record], deadline: Deadline) -> list[StoredEvent] | None:
        """Return the events that records of an actor's subject are; None if one of them is none."""
        if self._saves.torn_in_a_row(records, deadline):
            return None
        events: list[StoredEvent] = []
        version = 0
        try:
            for record in in_time(records, deadline):
                event = decode_stored(record.data)
                if event.version <= version or event.actor_id != actor_id:
                    return None
                version = event.version
                events.append(record.stored(event))
        except DecodingError:
            return None
        return events

    def _memory_of(self, run: _Run) -> int:
        return memory_of([record.data for record in run.records]) if self.kept.most else 0

    # -- by search

    def _by_search(self, actor_id: str, wanted: Wanted, deadline: Deadline) -> list[StoredEvent]:
        """Have the server look for the events."""
        after = max(wanted.after, self._reader.sequence_before(actor_id, wanted.first, deadline))
        events: list[StoredEvent] = []
        encoded: list[bytes] = []
        for record in in_time(self._reader.records(actor_id, lambda: deadline, after), deadline):
            events.append(valid(record if isinstance(record, MalformedRecord) else self._reader.found(record)))
            encoded.append(record.data)
            if events[-1].event.version > wanted.last:
                break
        else:
            if events and not after:
                self.kept.keep(actor_id, Kept(0, events, memory_of(encoded)))
        return wanted.pick(events)


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


def _ends(named: Sequence[Sequence[int]], end: _End) -> list[_End]:
    """Return the ends of runs that the record of an end names."""
    ends = []
    for level, sequences in enumerate(named):
        run = RUN**level
        latest = end.ordinal - end.ordinal % run - 1
        ends += [_End(latest - back * run, one, level) for back, one in enumerate(reversed(sequences))]
    return ends


def _that_lead_to(ordinals: range, after: int, ends: Iterable[_End]) -> list[_End]:
    """Return the ends of runs in which there are events that are wanted."""
    return [
        end
        for end in ends
        if end.ordinal >= ordinals.start and end.ordinal - RUN**end.level + 1 < ordinals.stop and end.sequence > after
    ]


def _in_a_row(found: dict[int, Record], ordinals: Iterable[int]) -> Iterator[Record]:
    """Yield records until one is missing."""
    for ordinal in ordinals:
        if ordinal not in found:
            return
        yield found[ordinal]


def _is_linked(records: Sequence[Record]) -> bool:
    """Whether each record is the actor's next event after the one before."""
    return all(_follows(one, before) for before, one in pairwise(records))


def _follows(record: Record, before: Record) -> bool:
    """Whether a record is its actor's next event after another one.

    The leader has checked the condition on which it was stored. In a batch only an actor's first record has one, but
    the places in a batch do not change.
    """
    if record.expects(before.sequence):
        return record.behind is None
    ours, theirs = record.member, before.member
    if ours is not None and theirs is not None and ours.batch == theirs.batch and ours.number == theirs.number + 1:
        return True
    return _before(record) == before.sequence


def _before(record: Record) -> int | None:
    """Return the sequence of the event before a record's; 0 if there is none, None if the record does not tell."""
    if record.before is not None:
        return record.before
    first = record.batch
    named = max((level[-1] for level in record.named if level), default=0)
    return named if first and first <= named < record.sequence else None


def _ends_late_enough(events: Sequence[StoredEvent], wanted: Wanted) -> bool:
    """Whether no event is wanted that is behind these."""
    end = events[-1]
    if end.event.version >= wanted.last or end.sequence >= wanted.until:
        return True
    return not wanted.reverse and wanted.limit is not None and len(wanted.pick(events)) == wanted.limit


def _is_same(found: StoredEvent | MalformedRecord, event: StoredEvent) -> bool:
    return isinstance(found, StoredEvent) and (found.sequence, found.event.id) == (event.sequence, event.event.id)
