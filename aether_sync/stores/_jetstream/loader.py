"""``Loader``: loads an actor's events, from what is kept of them and by the sequences that its records name.

The leader is asked for the actor's last record. If that is the last event that is kept, nothing else is asked.
Otherwise what is missing is read at the sequences that records name (see ``earlier``), from any server of the stream.
Nobody relies on these. What was found is used only if each record was stored on the condition that the one before it
was its actor's last, which the leader checked at that time, and if no event that is wanted can be before or behind
them. Where that is not so, the server is asked to look for the actor's events, as ``Reader`` does.
"""

from collections.abc import Sequence

from ..._runtime.deadline import Deadline
from ...errors import MalformedRecordError
from ...events import MAX_VERSION
from .._checks import in_time
from .._measuring import StoreCounts
from .._wanted import Wanted
from ..base import MalformedRecord, StoredEvent
from .api import JetStream
from .earlier import RUN, ordinal_of
from .kept import Kept, KeptEvents, is_same, memory_of
from .names import Names
from .reader import AskedTail, Reader, Tail, valid
from .walk import Run, Walk, before

__all__ = ["Loader"]

_DENSE = 8  # records of the stream for each of the actor's, up to which a search costs less than asking for each


class Loader:
    """Loads the events of actors of one stream. Any thread may call it.

    Attributes:
        kept: What is kept of actors.
    """

    def __init__(
        self, jetstream: JetStream, names: Names, reader: Reader, kept: KeptEvents, counts: StoreCounts
    ) -> None:
        self._jetstream = jetstream
        self._names = names
        self._reader = reader
        self._saves = reader.saves
        self.kept = kept
        self._counts = counts

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
        if kept is not None and not kept.begins_early_enough(wanted):
            kept = None
        if kept is not None and kept.ends_with(tail.event):
            self._counts.kept_hits()
            return wanted.pick(kept.events)
        self._counts.kept_misses()
        more = None if kept is None else self._read_more(actor_id, kept, tail, deadline)
        if more is not None:
            return wanted.pick(more)
        found = None if _is_quick_to_search(tail, wanted) else self._by_names(actor_id, tail, wanted, deadline)
        return self._by_search(actor_id, wanted, deadline) if found is None else found

    # -- by what records name

    def _by_names(self, actor_id: str, tail: Tail, wanted: Wanted, deadline: Deadline) -> list[StoredEvent] | None:
        run = Walk(self._jetstream, self._names.stream, tail, deadline, self._reader.kind).run(wanted)
        events = None if run is None else self._events(actor_id, run, deadline)
        if run is None or events is None:
            return None
        begin = before(run.records[0])
        kept = Kept(MAX_VERSION if begin is None else begin, events, self._memory_of(run))
        if not (kept.begins_early_enough(wanted) and (run.is_last or _ends_late_enough(events, wanted))):
            return None
        if run.is_last and begin is not None:
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
            run = Walk(self._jetstream, self._names.stream, tail, deadline, self._reader.kind).run(
                Wanted(after=end.sequence)
            )
            if run is None or before(run.records[0]) != end.sequence:
                return None
            there = witness(deadline).get(end.sequence)
        finally:
            witness.forget()
        events = self._events(actor_id, run, deadline)
        found = None if there is None else self._reader.found(there)
        if events is None or not isinstance(found, StoredEvent) or not is_same(found, end):
            return None
        self.kept.add(actor_id, end.sequence, events, self._memory_of(run))
        return known + events

    def _events(self, actor_id: str, run: Run, deadline: Deadline) -> list[StoredEvent] | None:
        """Return events with where they are stored; None if one of them does not count."""
        if self._saves.torn_in_a_row(run.records, deadline):
            return None
        version = 0
        for event in run.events:
            if event.version <= version or event.actor_id != actor_id:
                return None
            version = event.version
        return [record.stored(event) for record, event in zip(run.records, run.events, strict=True)]

    def _memory_of(self, run: Run) -> int:
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


def _is_quick_to_search(tail: Tail, wanted: Wanted) -> bool:
    """Whether all events of an actor are wanted, which has many and hardly any others between them."""
    assert tail.record is not None
    if wanted != Wanted():
        return False
    named = tail.record.named
    if len(named) < 2:
        return False
    longest: int = RUN ** (len(named) - 1)
    events = ordinal_of(named) - longest + 1
    first = named[-1][0]  # the last event of the first of the longest runs
    return tail.record.sequence - first < _DENSE * events


def _ends_late_enough(events: Sequence[StoredEvent], wanted: Wanted) -> bool:
    """Whether no event is wanted that is behind these."""
    end = events[-1]
    if end.event.version >= wanted.last or end.sequence >= wanted.until:
        return True
    return not wanted.reverse and wanted.limit is not None and len(wanted.pick(events)) == wanted.limit
