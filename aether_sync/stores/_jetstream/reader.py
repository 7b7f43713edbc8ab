"""``Reader``: reads events from any server of the stream, and checks with the leader that none is missing."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from typing import NamedTuple, TypeGuard, cast

from ..._codec.decoding import decode_envelope, decode_stored, decode_stored_run
from ..._nats.interest import Message
from ..._runtime.deadline import Deadline
from ...errors import DecodingError, MalformedRecordError
from ...events import MAX_VERSION, Event
from ..base import MalformedRecord, StoredEvent
from .api import JetStream
from .cache import Known, Torn, VersionCache
from .earlier import Earlier
from .messages import Record
from .names import Names
from .saves import Saves, Verdict, save_of
from .tries import Asked

__all__ = ["AskedTail", "Reader", "Tail", "valid"]

_SEVERAL = 5  # records, whose subjects are compared together in less time than each by itself
_PAGE = 1_000  # records in one answer


class Tail(NamedTuple):
    """The end of an actor, as the leader said.

    Attributes:
        known: What is known of the actor.
        record: The record of its last event; None if it has no events.
        event: That event.
    """

    known: Known
    record: Record | None
    event: StoredEvent | None


class AskedTail(NamedTuple):
    """A question for the end of an actor, which was sent.

    Attributes:
        actor_id: The actor.
        before: What was known of it then.
        last: Waits for its last record.
    """

    actor_id: str
    before: Known | None
    last: Asked[Record | None]

    def forget(self) -> None:
        """Ignore the answer."""
        self.last.forget()


class Reader:
    """Reads one stream. Any thread may call it.

    Attributes:
        saves: Knows which saves are whole.
        kind: The class of the events: it knows the store's types.
    """

    def __init__(
        self, jetstream: JetStream, names: Names, cache: VersionCache, saves: Saves, kind: type[Event] = Event
    ) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache
        self.saves = saves
        self.kind = kind

    def read(
        self,
        actor_id: str,
        from_version: int,
        to_version: int | None,
        deadline: Callable[[], Deadline],
        after: int = 0,
        *,
        torn: bool = False,
    ) -> Iterator[StoredEvent | MalformedRecord]:
        """Yield an actor's events of some versions, and the records between them that are not events.

        Args:
            actor_id: The actor.
            from_version: The first version wanted.
            to_version: The last version wanted; None for no limit.
            deadline: See :meth:`records`.
            after: A sequence before the first wanted event.
            torn: Whether to yield also the records of saves that are not whole, as malformed records.
        """
        last = MAX_VERSION if to_version is None else to_version
        for record in self.records(actor_id, deadline, after, torn=torn):
            if isinstance(record, MalformedRecord):
                yield record
                continue
            found = self.found(record)
            if isinstance(found, StoredEvent):
                if found.event.version > last:
                    return
                if found.event.version < from_version:
                    continue
            yield found

    def sequence_before(self, actor_id: str, version: int, deadline: Deadline) -> int:
        """Return a sequence after which all events of an actor from a version on are, and few of the others.

        The versions of an actor increase, so it is found by bisection. Records that are not events do no harm: their
        versions are greater than that of each event before them.
        """
        if version <= 1:
            return 0
        try:
            known = self.refresh(actor_id, deadline)
        except MalformedRecordError:
            return 0
        if version >= known.version:
            return max(0, known.sequence - 1)
        stream, subject = self._names.stream, self._names.subject(actor_id)
        after, end = 0, known.sequence
        middle = max(after, end - (known.version - version) - 1)  # right if no other actor's events are in between
        while end - after > _PAGE:
            record = self._jetstream.next(stream, subject, middle + 1, deadline)
            there = None if record is None else self.found(record)
            if not isinstance(there, StoredEvent):
                break
            if there.event.version == version:
                return there.sequence - 1
            if there.event.version < version:
                after = there.sequence
            else:
                end = middle
            middle = (after + end) // 2
        return after

    def found(self, record: Record) -> StoredEvent | MalformedRecord:
        """Return the event that a record is, or a malformed record."""
        try:
            return record.stored(self.decoded(record))
        except MalformedRecordError as error:
            return MalformedRecord(record.sequence, record.data, error)

    def records(
        self,
        actor_id: str,
        deadline: Callable[[], Deadline],
        after: int = 0,
        *,
        torn: bool = False,
    ) -> Iterator[Record | MalformedRecord]:
        """Yield an actor's records after a sequence, at least up to the leader's last one.

        Any server of the stream may answer, and it may be behind the leader: the leader is asked for what it lacks.

        Args:
            actor_id: The actor.
            deadline: Returns the deadline of the next page.
            after: A sequence before the first wanted record.
            torn: Whether to yield also the records of saves that are not whole, as malformed records.
        """
        stream, subject = self._names.stream, self._names.subject(actor_id)
        page = self._jetstream.ask_page(stream, subject, after + 1, _PAGE, deadline())
        try:
            before = self._cache.get(actor_id)
            last = self._newest(actor_id, before, self._ask_last(actor_id, deadline())(deadline()), deadline())
            if last is None:
                self._cache.replace(actor_id, 0, 0, before)
                return
            found = page(deadline())
        finally:
            page.forget()
        judged = self._judged(found.records, torn, deadline)
        with suppress(MalformedRecordError):  # it is yielded below
            self._replace(actor_id, before, last, deadline())
        yield from judged
        at = found.records[-1].sequence if found.records else after
        while found.records and found.pending:
            found = self._jetstream.ask_page(stream, subject, at + 1, _PAGE, deadline())(deadline())
            yield from self._judged(found.records, torn, deadline)
            at = found.records[-1].sequence if found.records else at
        for record in self._missing(last, at, deadline):
            yield from self._judged([record], torn, deadline)

    def _judged(
        self, records: Sequence[Record], torn: bool, deadline: Callable[[], Deadline]
    ) -> Sequence[Record | MalformedRecord]:
        """Return the events among adjacent records of an actor; with ``torn``, the others as malformed records, too."""
        there = self.saves.torn_in_a_row(records, deadline())
        if not there:
            return records
        if torn:
            return [_torn(record) if record.sequence in there else record for record in records]
        return [record for record in records if record.sequence not in there]

    def _missing(self, last: Record, at: int, deadline: Callable[[], Deadline]) -> Iterator[Record]:
        """Yield the leader's records after a sequence, up to the one that it said was the last."""
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
            MalformedRecordError: It is not an event, or it is of another actor than its subject.
        """
        return self._event(record.sequence, record.subject, record.data)

    def event(self, sequence: int, subject: bytes, data: bytes) -> Event:
        """As :meth:`decoded`, for a record as it is delivered. Its subject need not be UTF-8."""
        return self._event(sequence, subject.decode(errors="backslashreplace"), data)

    def events(self, sequences: Sequence[int], messages: Sequence[Message]) -> list[Event | MalformedRecordError]:
        """As :meth:`event`, of several records in half of the time; in place of each that is no event is the error."""
        found = decode_stored_run([data for _, _, _, data in messages], self.kind)
        if len(found) >= _SEVERAL:
            actor_ids = [one.actor_id for one in found if isinstance(one, Event) and one.version]
            if self._names.are_subjects([subject for subject, _, _, _ in messages], actor_ids):
                return cast(list[Event | MalformedRecordError], found)
        return [
            one
            if self._is_event(one, text := subject.decode(errors="backslashreplace"))
            else _malformed(sequence, text, data, one)
            for sequence, (subject, _, _, data), one in zip(sequences, messages, found, strict=True)
        ]

    def _event(self, sequence: int, subject: str, data: bytes) -> Event:
        try:
            found: Event | DecodingError = decode_stored(data, self.kind)
        except DecodingError as error:
            found = error
        if self._is_event(found, subject):
            return found
        raise _malformed(sequence, subject, data, found)

    def _is_event(self, found: Event | DecodingError, subject: str) -> TypeGuard[Event]:
        """Whether what was read from a record's body is an event, and one of the actor of its subject."""
        return isinstance(found, Event) and found.version > 0 and self._names.is_subject(subject, found.actor_id)

    def refresh(self, actor_id: str, deadline: Deadline) -> Known:
        """Ask the leader for an actor's last event, note it in the cache, and return what is known then."""
        return self.tail(actor_id, deadline).known

    def refresh_all(self, actor_ids: Iterable[str], deadline: Deadline) -> list[Known]:
        """As :meth:`refresh`, of several actors at once."""
        asked = [self.ask_tail(one, deadline) for one in actor_ids]
        return [tail.known for tail in self._tails(asked, deadline)]

    def tail(self, actor_id: str, deadline: Deadline) -> "Tail":
        """As :meth:`refresh`, but return the event, too."""
        return self.await_tail(self.ask_tail(actor_id, deadline), deadline)

    def ask_tail(self, actor_id: str, deadline: Deadline) -> "AskedTail":
        """Send the question of :meth:`tail`, and return."""
        return AskedTail(actor_id, self._cache.get(actor_id), self._ask_last(actor_id, deadline))

    def await_tail(self, asked: "AskedTail", deadline: Deadline) -> "Tail":
        """Wait for the answer to a question of :meth:`ask_tail`."""
        return self._tails([asked], deadline)[0]

    def _tails(self, asked: Sequence["AskedTail"], deadline: Deadline) -> "list[Tail]":
        try:
            found = [
                (one.actor_id, one.before, self._newest(one.actor_id, one.before, one.last(deadline), deadline))
                for one in asked
            ]
        finally:
            for one in asked:
                one.forget()
        doubtful = [last for _, before, last in found if last is not None and not _is_known(last, before)]
        self.saves.verdicts(doubtful, deadline)  # all at once: below they are known
        return [self._replace(actor_id, before, last, deadline) for actor_id, before, last in found]

    def _ask_last(self, actor_id: str, deadline: Deadline) -> Asked[Record | None]:
        return self._jetstream.ask_last(self._names.stream, self._names.subject(actor_id), deadline)

    def _replace(self, actor_id: str, before: Known | None, last: Record | None, deadline: Deadline) -> "Tail":
        """Note the leader's answer on an actor's last record; return the end of the actor then."""
        torn = None
        if last is not None and not _is_known(last, before):
            last, torn = self._whole(last, deadline)
        if last is None:
            return Tail(self._cache.replace(actor_id, 0, 0, before, torn), None, None)
        stored = last.stored(self.decoded(last))
        if before is not None and before.sequence == last.sequence and before.earlier.levels:
            earlier = before.earlier
        else:
            earlier = Earlier.read(last.headers, last.batch, last.sequence)
        known = self._cache.replace(actor_id, stored.event.version, last.sequence, before, torn, earlier)
        return Tail(known, last, stored)

    def _whole(self, last: Record, deadline: Deadline) -> tuple[Record | None, Torn | None]:
        """Return an actor's last event, as a record, and the part of a save after it.

        Args:
            last: The actor's last record.
            deadline: For all requests.
        """
        record: Record | None = last
        torn = None
        while record is not None:
            save = save_of(record)
            verdict = self.saves.verdict(record, deadline)
            if save is None or verdict is Verdict.WHOLE:
                break
            torn = torn or Torn(save, last.sequence, verdict is Verdict.OPEN)
            record = self._before(record, save.first, deadline)
        return record, torn

    def _before(self, record: Record, first: int, deadline: Deadline) -> Record | None:
        """Return the record of an actor before a save; None if there is none.

        Args:
            record: A record of that save and actor.
            first: The sequence of the save's first record.
            deadline: For all requests.
        """
        stream, subject = self._names.stream, record.subject
        begin = self._jetstream.next(stream, subject, first, deadline) or record
        at = begin.expected if begin.behind is None else begin.behind
        if at is not None:
            return self._jetstream.next(stream, subject, at, deadline) if at else None
        found = None  # another program stored it, without naming the record before it
        following = self._jetstream.next(stream, subject, 1, deadline)
        while following is not None and following.sequence < begin.sequence:
            found = following
            following = self._jetstream.next(stream, subject, found.sequence + 1, deadline)
        return found

    def _newest(self, actor_id: str, before: Known | None, last: Record | None, deadline: Deadline) -> Record | None:
        """Return an actor's last record; a leader that knows less than was known is asked again, and then believed."""
        least = 0 if before is None else before.end
        stream, subject = self._names.stream, self._names.subject(actor_id)
        last = self._jetstream.last_at_least(stream, subject, least, last, deadline)
        if (0 if last is None else last.sequence) < least:
            self._jetstream.doubt(stream)
        return last


def valid(found: StoredEvent | MalformedRecord) -> StoredEvent:
    """Return an event; raise the error of a malformed record."""
    if isinstance(found, MalformedRecord):
        raise found.error
    return found


def _torn(record: Record) -> MalformedRecord:
    """Return a record of a save that is not whole as a malformed record."""
    error = MalformedRecordError(
        f"record {record.sequence} of {record.subject!r} is no event: it is of a save of which the server has stored "
        "a part only",
        record.sequence,
        record.data,
    )
    return MalformedRecord(record.sequence, record.data, error)


def _is_known(last: Record, before: Known | None) -> bool:
    """Whether it is known already that a record is an event."""
    return before is not None and before.torn is None and before.sequence == last.sequence


def _malformed(sequence: int, subject: str, data: bytes, found: Event | DecodingError) -> MalformedRecordError:
    if isinstance(found, DecodingError):
        reason = str(found)
    else:
        reason = "it is of another actor than its subject" if found.version else "it has no version"
    if _is_of_a_bus(subject, data):
        prefix = subject.partition(".")[0]
        reason = (
            f"a bus with the prefix {prefix!r}, which is the name of the stream as well, has published it. Give one of "
            "them another name"
        )
    return MalformedRecordError(f"record {sequence} of {subject!r} is no event: {reason}", sequence, data)


def _is_of_a_bus(subject: str, data: bytes) -> bool:
    """Whether a bus has published a record, under the namespace that its subject ends with."""
    try:
        decode_envelope(data, subject.partition(".events.")[2])
    except DecodingError:
        return False
    return True
