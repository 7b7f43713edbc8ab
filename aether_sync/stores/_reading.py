"""Reading from the stream: from any server of it, checked against what is known here, and against the leader."""

from collections.abc import Iterable, Iterator

from .._deadline import Deadline
from .._wire import decode_stored
from ..errors import DecodingError, MalformedRecordError
from ..events import Event
from ._cache import Known, VersionCache
from ._jetstream import JetStream, Record
from ._names import Names
from .base import MalformedRecord, Reading, StoredEvent
from .common import MAX_VERSION

__all__ = ["Reader"]

_PAGE = 1_000  # events


class Reader:
    """Reads one stream. Any thread."""

    def __init__(self, jetstream: JetStream, names: Names, cache: VersionCache) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache

    def range(
        self, actor_id: str, from_version: int, to_version: int | None, deadline: Deadline, after: int = 0
    ) -> Reading:
        """Read an actor's events of some versions; all of them are behind a sequence."""
        reading = Reading([], [])
        last = to_version if to_version is not None else MAX_VERSION
        for record in self.records(actor_id, from_version, deadline.timeout_left(), after):
            try:
                event = self.decoded(record)
            except MalformedRecordError as error:
                reading.malformed.append(MalformedRecord(record.sequence, record.data, error))
                continue
            if event.version > last:
                break
            if event.version >= from_version:
                reading.events.append(StoredEvent(event, record.sequence, False, record.ends_batch))
        return reading

    def records(self, actor_id: str, from_version: int, timeout: float | None, after: int = 0) -> Iterator[Record]:
        """Yield an actor's records from a version on, and perhaps some before it; up to the leader's last, at least.

        Any server of the stream may answer, and be behind the leader: what it lacks is read from the leader.

        Args:
            actor_id: Whose.
            from_version: Which version is the first that matters.
            timeout: Seconds for each page.
            after: A sequence before the first that matters.
        """
        deadline = Deadline(timeout)
        stream, subject, before = self._names.stream, self._names.subject(actor_id), self._cache.get(actor_id)
        after = max(after, self._cache.before(actor_id, from_version))
        last_of = self._jetstream.begin_last(stream, subject, deadline)
        page = self._jetstream.begin_page(stream, subject, after + 1, _PAGE, deadline)
        last = last_of(deadline)
        self._note(actor_id, last, before)
        if last is None:
            page.forget()
            return
        while True:
            records, pending = page(Deadline(timeout))
            yield from records
            after = records[-1].sequence if records else after
            if not (records and pending):
                break
            page = self._jetstream.begin_page(stream, subject, after + 1, _PAGE, Deadline(timeout))
        while after < last.sequence:
            if last.expected == after:
                yield last
                return
            record = self._jetstream.next(stream, subject, after + 1, Deadline(timeout))
            if record is None:
                return
            yield record
            after = record.sequence

    def _note(self, actor_id: str, last: Record | None, before: Known | None) -> None:
        """Believe the leader's word, unless its last record is no event: who reads it is told."""
        if last is None:
            self._cache.replace(actor_id, 0, 0, before)
            return
        try:
            self._cache.replace(actor_id, self.decoded(last).version, last.sequence, before)
        except MalformedRecordError:
            pass

    def decoded(self, record: Record) -> Event:
        """Return the event that a record is.

        Raises:
            MalformedRecordError: It is none, or not one of the actor's whose subject it has.
        """
        return self.event(record.sequence, record.subject, record.data)

    def event(self, sequence: int, subject: str, data: bytes) -> Event:
        """As :meth:`decoded`, of the parts of a record."""
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
        asked = [
            (
                one,
                self._cache.get(one),
                self._jetstream.begin_last(self._names.stream, self._names.subject(one), deadline),
            )
            for one in actor_ids
        ]
        found = []
        for actor_id, before, last_of in asked:
            last = last_of(deadline)
            version, sequence = (0, 0) if last is None else (self.decoded(last).version, last.sequence)
            found.append(self._cache.replace(actor_id, version, sequence, before))
        return found
