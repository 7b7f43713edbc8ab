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
        self,
        actor_id: str,
        from_version: int,
        to_version: int | None,
        deadline: Deadline,
        verified: Known | None = None,
        after: int = 0,
    ) -> Reading:
        """Read an actor's events of some versions, behind a sequence; ``verified`` as for :meth:`records`."""
        reading = Reading([], [])
        last = to_version if to_version is not None else MAX_VERSION
        after = max(after, self._cache.before(actor_id, from_version))
        for record in self.records(actor_id, after, deadline.timeout_left(), verified):
            try:
                event = self.decoded(record)
            except MalformedRecordError as error:
                reading.malformed.append(MalformedRecord(record.sequence, record.data, error))
                continue
            if event.version > last:
                break
            if event.version >= from_version:
                reading.events.append(StoredEvent(event, record.sequence, ends_batch=record.ends_batch))
        return reading

    def records(self, actor_id: str, after: int, timeout: float | None, verified: Known | None) -> Iterator[Record]:
        """Yield what is stored of an actor behind a sequence, up to what is known here, and to the leader's last.

        Any server of the stream may answer, and be behind the leader: what it lacks is read from the leader.

        Args:
            actor_id: Whose.
            after: Behind which sequence.
            timeout: Seconds for each page.
            verified: What the leader has just said of the actor; None if it need not be asked, if something is known.
        """
        stream, subject, deadline = self._names.stream, self._names.subject(actor_id), Deadline(timeout)
        known = verified or self._cache.get(actor_id)
        asked = None
        if known is None:
            asked = self._jetstream.begin_last(stream, subject, deadline)
        elif known.is_doubtful:
            known = self.look(actor_id, deadline)
        pending = 1
        while pending:
            page = self._jetstream.page(stream, subject, after + 1, _PAGE, deadline)
            yield from page.records
            pending = page.pending if page.records else 0
            after = page.records[-1].sequence if page.records else after
            deadline = Deadline(timeout)
        if asked is not None:
            last = asked(deadline)
            wanted = 0 if last is None else last.sequence
            if last is not None and last.sequence >= after:
                self._note(actor_id, last)
        else:
            wanted = known.sequence if known is not None else 0
            if after < wanted and verified is None:
                wanted = self.look(actor_id, deadline).sequence
        while after < wanted:
            record = self._jetstream.next(stream, subject, after + 1, deadline)
            if record is None:
                return
            yield record
            after = record.sequence

    def _note(self, actor_id: str, record: Record) -> None:
        """Remember an actor's last record, if it is an event."""
        try:
            self._cache.learn(actor_id, self.decoded(record).version, record.sequence)
        except MalformedRecordError:
            pass  # who reads it is told

    def decoded(self, record: Record) -> Event:
        """Return the event that a record is.

        Raises:
            MalformedRecordError: It is none, or not one of the actor's whose subject it has.
        """
        try:
            event = decode_stored(record.data)
        except DecodingError as error:
            reason: Exception | str = error
        else:
            if event.version > 0 and self._names.subject(event.actor_id) == record.subject:
                return event
            reason = "it has no version" if not event.version else "it is of another actor than its subject"
        raise MalformedRecordError(
            f"record {record.sequence} of {record.subject!r} is no event: {reason}", record.sequence, record.data
        )

    def look(self, actor_id: str, deadline: Deadline) -> Known:
        """Ask the leader for an actor's last event, and believe it."""
        before = self._cache.get(actor_id)
        record = self._jetstream.last(self._names.stream, self._names.subject(actor_id), deadline)
        if record is None:
            return self._cache.replace(actor_id, 0, 0, before)
        return self._cache.replace(actor_id, self.decoded(record).version, record.sequence, before)

    def look_at(self, actor_ids: Iterable[str], deadline: Deadline) -> None:
        """Ask the leader for the last events of several actors."""
        for actor_id in actor_ids:
            self.look(actor_id, deadline)
