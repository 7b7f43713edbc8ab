"""Reading from the stream: from any server of it, checked against what is known here, and against the leader."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from .._deadline import Deadline
from .._wire import decode_stored
from ..errors import DecodingError, MalformedRecordError
from ..events import MAX_VERSION, Event
from ._cache import Known, VersionCache
from ._jetstream import Asked, JetStream, Pause, Record
from ._names import Names
from .base import MalformedRecord, StoredEvent

__all__ = ["Reader", "valid"]

_PAGE = 1_000  # events
_DOUBT = 1.0  # seconds in which a leader that knows less than it should is not believed


class Reader:
    """Reads one stream. Any thread."""

    def __init__(self, jetstream: JetStream, names: Names, cache: VersionCache) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache

    def read(
        self,
        actor_id: str,
        from_version: int,
        to_version: int | None,
        deadline: Callable[[], Deadline],
        after: int = 0,
    ) -> Iterator[StoredEvent | MalformedRecord]:
        """Yield an actor's events of some versions, and what is no event in between.

        Args:
            actor_id: Whose.
            from_version: The first version wanted.
            to_version: The last version wanted; None for all.
            deadline: As for :meth:`records`, like the last.
            after: A sequence before the first of them.
        """
        last = MAX_VERSION if to_version is None else to_version
        for record in self.records(actor_id, from_version, deadline, after):
            found = self.found(record)
            if isinstance(found, StoredEvent):
                if found.event.version > last:
                    return
                if found.event.version < from_version:
                    continue
            yield found

    def found(self, record: Record) -> StoredEvent | MalformedRecord:
        """Return what a record is."""
        try:
            return StoredEvent(self.decoded(record), record.sequence, False, record.ends_batch, record.batch)
        except MalformedRecordError as error:
            return MalformedRecord(record.sequence, record.data, error)

    def records(
        self, actor_id: str, from_version: int, deadline: Callable[[], Deadline], after: int = 0
    ) -> Iterator[Record]:
        """Yield an actor's records from a version on, and perhaps some before it; up to the leader's last, at least.

        Any server of the stream may answer, and be behind the leader: what it lacks is read from the leader.

        Args:
            actor_id: Whose.
            from_version: Which version is the first that matters.
            deadline: Returns that of the next page.
            after: A sequence before the first that matters.
        """
        stream, subject = self._names.stream, self._names.subject(actor_id)
        begin = max(after, self._cache.before(actor_id, from_version))
        page = self._jetstream.begin_page(stream, subject, begin + 1, _PAGE, deadline())
        try:
            last = self._last_of(actor_id, deadline())
            if last is None:
                return
            found = page(deadline())
        finally:
            page.forget()
        if begin > after and not _follows(found.records, begin, last):  # what is known here is of another past
            begin = after
            found = self._jetstream.begin_page(stream, subject, begin + 1, _PAGE, deadline())(deadline())
        yield from found.records
        at = found.records[-1].sequence if found.records else begin
        while found.records and found.pending:
            found = self._jetstream.begin_page(stream, subject, at + 1, _PAGE, deadline())(deadline())
            yield from found.records
            at = found.records[-1].sequence if found.records else at
        yield from self._missing(last, at, deadline)

    def _missing(self, last: Record, at: int, deadline: Callable[[], Deadline]) -> Iterator[Record]:
        """Yield what the leader has behind a sequence, up to what it said was the last."""
        while at < last.sequence:
            if last.expected == at:
                yield last
                return
            record = self._jetstream.next(self._names.stream, last.subject, at + 1, deadline())
            if record is None:
                return
            yield record
            at = record.sequence

    def decoded(self, record: Record) -> Event:
        """Return the event that a record is.

        Raises:
            MalformedRecordError: It is none, or not one of the actor's whose subject it has.
        """
        return self._event(record.sequence, record.subject, record.data)

    def event(self, sequence: int, subject: bytes, data: bytes) -> Event:
        """As :meth:`decoded`, of a record as it is delivered: its subject may be no text."""
        return self._event(sequence, subject.decode(errors="backslashreplace"), data)

    def _event(self, sequence: int, subject: str, data: bytes) -> Event:
        try:
            event = decode_stored(data)
        except DecodingError as error:
            reason: Exception | str = error
        else:
            if event.version > 0 and self._names.is_subject(subject, event.actor_id):
                return event
            reason = "it has no version" if not event.version else "it is of another actor than its subject"
        raise MalformedRecordError(f"record {sequence} of {subject!r} is no event: {reason}", sequence, data)

    def look(self, actor_id: str, deadline: Deadline) -> Known:
        """Ask the leader for an actor's last event, and believe it."""
        return self.look_at((actor_id,), deadline)[0]

    def look_at(self, actor_ids: Iterable[str], deadline: Deadline) -> list[Known]:
        """Ask the leader for the last events of several actors, and believe it."""
        asked = [(one, self._cache.get(one), self._begin_last(one, deadline)) for one in actor_ids]
        try:
            return [self._believed(one, known, answer(deadline), deadline) for one, known, answer in asked]
        finally:
            for _, _, answer in asked:
                answer.forget()

    def _last_of(self, actor_id: str, deadline: Deadline) -> Record | None:
        """Return an actor's last record, by the leader's word; whether it is an event is for who reads it."""
        before = self._cache.get(actor_id)
        last = self._newest(actor_id, before, self._begin_last(actor_id, deadline)(deadline), deadline)
        try:
            self._replace(actor_id, before, last)
        except MalformedRecordError:
            pass
        return last

    def _begin_last(self, actor_id: str, deadline: Deadline) -> Asked[Record | None]:
        return self._jetstream.begin_last(self._names.stream, self._names.subject(actor_id), deadline)

    def _believed(self, actor_id: str, before: Known | None, last: Record | None, deadline: Deadline) -> Known:
        return self._replace(actor_id, before, self._newest(actor_id, before, last, deadline))

    def _replace(self, actor_id: str, before: Known | None, last: Record | None) -> Known:
        version, sequence = (0, 0) if last is None else (self.decoded(last).version, last.sequence)
        return self._cache.replace(actor_id, version, sequence, before)

    def _newest(self, actor_id: str, before: Known | None, last: Record | None, deadline: Deadline) -> Record | None:
        """Ask again for a moment if a leader knows less than was known: it may be new, or about to lose its office."""
        pause = Pause(Deadline(min(_DOUBT, deadline.remaining() / 2)))
        while before is not None and (0 if last is None else last.sequence) < before.sequence and pause.take():
            last = self._begin_last(actor_id, deadline)(deadline)
        return last


def valid(found: StoredEvent | MalformedRecord) -> StoredEvent:
    """Return what was read if it is an event, and raise its error if it is none."""
    if isinstance(found, MalformedRecord):
        raise found.error
    return found


def _follows(records: Sequence[Record], begin: int, last: Record) -> bool:
    """Whether records are the next behind a sequence of the same actor, and that is not of a past that was undone."""
    if last.sequence <= begin:
        return last.sequence == begin
    return bool(records) and records[0].expected == begin
