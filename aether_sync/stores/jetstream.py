"""``JetStreamEventStore``: events in a JetStream stream, one subject for each actor.

A write carries the sequence that its actor's last event is expected to have; the leader of the stream checks it. So
what is known here of versions may be as old as it likes: it costs a refusal and a look, never a lost event. An answer
that does not come is not guessed at: the actor's last event is read from the leader, and known by its id.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Unpack

from .._checks import check_count
from .._deadline import Deadline
from .._fork import Heir, heirs
from .._wire import decode_stored, encode_and_copy
from ..bus import EventBus
from ..connection import Connection, ConnectionOptions
from ..errors import (
    AtomicAppendUnsupportedError,
    DeadlineExceededError,
    DecodingError,
    DisconnectedError,
    DuplicateIdError,
    InvalidOptionError,
    MalformedRecordError,
    StoreUnavailableError,
    UnknownOutcomeError,
    VersionConflictError,
)
from ..events import Event
from ..nats_bus import NATSEventBus
from ..patterns import actor_matcher
from ._cache import Known, VersionCache
from ._jetstream import BusyError, JetStream, Outgoing, Pause, Record, RefusedError, UnknownError
from ._names import Names
from ._stream import open_stream, settings
from .base import AnyVersion, MalformedRecord, Reading, StoredEvent
from .common import MAX_VERSION, StoreBase, check_actor_id, check_version, is_same, numbered

__all__ = ["JetStreamEventStore"]

_PAGE = 1_000  # events


@dataclass(slots=True)
class _Part:
    """What one actor has in a save."""

    actor_id: str
    subject: str
    events: list[Event]
    exactly: int | None  # the version that the actor must have; None for any that is less than the first event's

    def fits(self, version: int) -> bool:
        """Whether it may be stored behind a version."""
        return version < self.events[0].version if self.exactly is None else version == self.exactly


class JetStreamEventStore(StoreBase, Heir):
    """Keeps events in a JetStream stream, for all nodes that use the same stream and namespace.

    Nothing happens before the first use. The stream is made if it is not there: on file, with limits on nothing, and
    such that nobody can delete an event. Two stores with different pairs of stream and namespace share nothing.

    Args:
        connection: A :class:`Connection`, which closing the store leaves open; or what one is made from: a URL,
            several, or None for the environment's ``NATS_URL``, else ``nats://127.0.0.1:4222``.
        stream: What the stream is called, and its subjects begin with.
        namespace: Whose events they are; also where ``EventStored`` is published if there is a bus.
        bus: Where an ``EventStored`` is published for each event that is stored; see :meth:`set_broadcaster`.
        replicas: How many servers keep the stream: 1, or 3 to survive the loss of one.
        **options: Those of :class:`Connection`, for one of its own.

    Raises:
        InvalidOptionError: An option is wrong.
    """

    def __init__(
        self,
        connection: Connection | str | Sequence[str] | None = None,
        stream: str = "events",
        *,
        namespace: str | None = None,
        bus: EventBus | None = None,
        replicas: int = 1,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        super().__init__()
        check_count("replicas", replicas)
        self._names = Names(stream, namespace)
        self._replicas = replicas
        self._refuse_prefix("aether")  # of a bus that is not known here
        self._owns_connection = not isinstance(connection, Connection)
        if isinstance(connection, Connection):
            if options:
                raise InvalidOptionError(f"{', '.join(options)}: give that to the Connection, which is shared")
            self._connection = connection
        else:
            self._connection = Connection(connection, **options)
        self._jetstream = JetStream(self._connection)
        self._begin()
        heirs.add(self)
        if bus is not None:
            self.set_broadcaster(bus, namespace)

    def _begin(self) -> None:
        self._cache = VersionCache()
        self._config: dict[str, Any] | None = None  # the stream's, once it is known; written by any thread, all alike

    def _after_fork(self) -> None:
        self._begin()

    @property
    def connection(self) -> Connection:
        """The connection it uses."""
        return self._connection

    def start(self, timeout: float | None = 5.0) -> None:
        """Connect and see that the stream is there; the first use does it too.

        Raises:
            StreamMismatchError: There is such a stream with other settings; the error names each.
            StoreUnavailableError: There is no JetStream, or the stream cannot be made.
            PermissionDeniedError: The user lacks a right; the error names it.
        """
        self._refuse_if_closed()
        self._open(Deadline(timeout))

    def _open(self, deadline: Deadline) -> dict[str, Any]:
        config = self._config
        if config is None:
            config = open_stream(self._jetstream, settings(self._names, self._replicas), deadline)
            self._config = config
        return config

    def _check_bus(self, bus: EventBus) -> None:
        if isinstance(bus, NATSEventBus):
            self._refuse_prefix(bus.prefix)

    def _refuse_prefix(self, prefix: str) -> None:
        if prefix == self._names.stream:
            raise InvalidOptionError(
                f"a store of stream {prefix!r} would keep what a bus with prefix {prefix!r} publishes: give one of them"
                " another name"
            )

    # -- saving

    def _save(self, events: tuple[Event, ...], deadline: Deadline) -> list[StoredEvent]:
        return self._commit(events, None, deadline)

    def _append(
        self, actor_id: str, events: tuple[Event, ...], expected: int | AnyVersion, deadline: Deadline
    ) -> list[StoredEvent]:
        if isinstance(expected, int):
            return self._commit(numbered(events, expected), expected, deadline)
        self._open(deadline)
        while True:
            known = self._cache.get(actor_id) or self._look(actor_id, deadline)
            try:
                return self._commit(numbered(events, known.version), known.version, deadline)
            except VersionConflictError:
                if not deadline.remaining():
                    raise

    def _commit(self, events: Sequence[Event], exactly: int | None, deadline: Deadline) -> list[StoredEvent]:
        """Store events with versions, all or none; try until they are, or cannot be, or the time is over."""
        encoded = [encode_and_copy(event, "") for event in events]
        copies = [copy for _, copy in encoded]
        parts = self._parts(copies, exactly)
        config = self._open(deadline)
        if len(events) > 1 and not config.get("allow_atomic"):
            raise AtomicAppendUnsupportedError(
                f"stream {self._names.stream!r} has no allow_atomic, which {len(events)} events at once need: set it "
                "(nats-server 2.12), or save one event at a time"
            )
        pause = Pause(deadline)
        in_doubt = False  # something was sent, and no answer came
        try:
            while True:
                _check_time(deadline)
                tails = {part.actor_id: self._tail(part, deadline) for part in parts}
                if not all(part.fits(tails[part.actor_id].version) for part in parts):
                    return self._found(copies, parts, tails, in_doubt, deadline)
                try:
                    return self._publish(encoded, parts, tails, in_doubt, deadline)
                except RefusedError:
                    self._look_at(parts, deadline)
                except UnknownError:
                    in_doubt = True
                    self._look_at(parts, deadline)
                except BusyError as error:
                    if not pause.take():
                        raise StoreUnavailableError(f"nothing was stored within {deadline}: {error}") from error
        except (DeadlineExceededError, DisconnectedError, StoreUnavailableError) as error:
            if not in_doubt:
                raise
            raise UnknownOutcomeError(
                f"{_counted(events)} may be stored, or not: no answer within {deadline}, and {error}. "
                "save_events(error.events) is safe",
                tuple(copies),
            ) from error

    def _parts(self, events: Sequence[Event], exactly: int | None) -> list[_Part]:
        parts: dict[str, _Part] = {}
        for event in events:
            part = parts.get(event.actor_id)
            if part is None:
                subject = self._names.subject(event.actor_id)
                parts[event.actor_id] = _Part(event.actor_id, subject, [event], exactly)
            else:
                part.events.append(event)
        return list(parts.values())

    def _tail(self, part: _Part, deadline: Deadline) -> Known:
        """Return what is known of an actor; from the leader, if what is known here would forbid to store."""
        known = self._cache.get(part.actor_id)
        if known is None and part.events[0].version == 1:
            return Known()  # most likely; if not, the server refuses
        if known is None or known.is_doubtful or not part.fits(known.version):
            return self._look(part.actor_id, deadline)
        return known

    def _publish(
        self,
        encoded: Sequence[tuple[bytes, Event]],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        in_doubt: bool,
        deadline: Deadline,
    ) -> list[StoredEvent]:
        subjects = {part.actor_id: part.subject for part in parts}
        expected: dict[str, int | None] = {actor_id: known.sequence for actor_id, known in tails.items()}
        messages = []
        for data, event in encoded:
            subject = subjects[event.actor_id]
            messages.append(Outgoing(subject, _message_id(subject, event), expected[event.actor_id], data))
            expected[event.actor_id] = None  # only the first of each actor in a batch may have one
        ack = self._jetstream.publish(self._names.stream, messages, deadline)
        copies = [copy for _, copy in encoded]
        if ack.duplicate:
            return self._duplicates(copies[0], ack.seq, in_doubt, deadline)
        first = ack.seq - len(copies) + 1
        return self._stored(copies, range(first, ack.seq + 1), duplicate=False)

    def _stored(self, events: Sequence[Event], sequences: Iterable[int], *, duplicate: bool) -> list[StoredEvent]:
        stored = [
            StoredEvent(event, sequence, duplicate, place == len(events))
            for place, (event, sequence) in enumerate(zip(events, sequences, strict=True), 1)
        ]
        for one in stored:
            self._cache.learn(one.event.actor_id, one.event.version, one.sequence)
        return stored

    def _duplicates(self, event: Event, sequence: int, in_doubt: bool, deadline: Deadline) -> list[StoredEvent]:
        """The server knows the message id: see what it has stored under it."""
        record = self._jetstream.next(self._names.stream, self._names.subject(event.actor_id), sequence, deadline)
        there = None if record is None or record.sequence != sequence else self._decoded(record)
        if there is None or not is_same(there, event):
            raise DuplicateIdError(
                f"event {event.id!r:.80} is to be stored, and something else is under its id: {there!r}"
            )
        return self._stored([there], [sequence], duplicate=not in_doubt)

    def _found(
        self,
        events: Sequence[Event],
        parts: Sequence[_Part],
        tails: dict[str, Known],
        in_doubt: bool,
        deadline: Deadline,
    ) -> list[StoredEvent]:
        """Return events that an earlier try has stored.

        Raises:
            VersionConflictError: It has not.
            DuplicateIdError: Under their ids something else is stored.
        """
        places: dict[str, tuple[Event, int]] = {}
        for part in parts:
            wanted = {event.version: event for event in part.events}
            first, last = part.events[0].version, part.events[-1].version
            for one in self._range(part.actor_id, first, last, deadline, verified=tails[part.actor_id]).events:
                same = wanted.get(one.event.version)
                if same is not None and same.id == one.event.id:
                    if not is_same(same, one.event):
                        raise DuplicateIdError(
                            f"event {same.id!r:.80} is stored already, with other content: {one.event!r}"
                        )
                    places[same.id] = one.event, one.sequence
        if len(places) < len(events):
            part = next(part for part in parts if not part.fits(tails[part.actor_id].version))
            raise VersionConflictError(part.actor_id, part.events[0].version, tails[part.actor_id].version)
        there = [places[event.id] for event in events]
        return self._stored([event for event, _ in there], [at for _, at in there], duplicate=not in_doubt)

    # -- reading

    def get_events(  # noqa: D102
        self,
        actor_id: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        until: int | None = None,
        timeout: float | None = 5.0,
    ) -> list[Event]:
        deadline = Deadline(timeout)
        _check_range(actor_id, from_version, to_version)
        if until is not None:
            check_version("until", until)
        self._refuse_if_closed()
        self._open(deadline)
        verified = None if until is None else self._look(actor_id, deadline)  # a server behind might lack some
        reading = self._range(actor_id, from_version, to_version, deadline, verified=verified)
        if reading.malformed:
            raise reading.malformed[0].error
        return [one.event for one in reading.events if until is None or one.sequence <= until]

    def iter_events(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        _check_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        return self._iterate(actor_id, from_version, to_version, timeout)

    def _iterate(
        self, actor_id: str, from_version: int, to_version: int | None, timeout: float | None
    ) -> Iterator[Event]:
        last = to_version if to_version is not None else MAX_VERSION
        self._open(Deadline(timeout))
        for record in self._records(actor_id, self._cache.before(actor_id, from_version), timeout, None):
            self._refuse_if_closed()
            event = self._decoded(record)
            if event.version > last:
                return
            if event.version >= from_version:
                yield event

    def get_events_with_errors(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        deadline = Deadline(timeout)
        _check_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        self._open(deadline)
        return self._range(actor_id, from_version, to_version, deadline)

    def _range(
        self,
        actor_id: str,
        from_version: int,
        to_version: int | None,
        deadline: Deadline,
        verified: Known | None = None,
    ) -> Reading:
        reading = Reading([], [])
        last = to_version if to_version is not None else MAX_VERSION
        after = self._cache.before(actor_id, from_version)
        for record in self._records(actor_id, after, deadline.timeout_left(), verified):
            try:
                event = self._decoded(record)
            except MalformedRecordError as error:
                reading.malformed.append(MalformedRecord(record.sequence, record.data, error))
                continue
            if event.version > last:
                break
            if event.version >= from_version:
                reading.events.append(StoredEvent(event, record.sequence, ends_batch=record.ends_batch))
        return reading

    def _records(self, actor_id: str, after: int, timeout: float | None, verified: Known | None) -> Iterator[Record]:
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
            known = self._look(actor_id, deadline)
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
                wanted = self._look(actor_id, deadline).sequence
        while after < wanted:
            record = self._jetstream.next(stream, subject, after + 1, deadline)
            if record is None:
                return
            yield record
            after = record.sequence

    def _note(self, actor_id: str, record: Record) -> None:
        """Remember an actor's last record, if it is an event."""
        try:
            self._cache.learn(actor_id, self._decoded(record).version, record.sequence)
        except MalformedRecordError:
            pass  # who reads it is told

    def _decoded(self, record: Record) -> Event:
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

    def _look(self, actor_id: str, deadline: Deadline) -> Known:
        """Ask the leader for an actor's last event, and believe it."""
        before = self._cache.get(actor_id)
        record = self._jetstream.last(self._names.stream, self._names.subject(actor_id), deadline)
        if record is None:
            return self._cache.replace(actor_id, 0, 0, before)
        return self._cache.replace(actor_id, self._decoded(record).version, record.sequence, before)

    def _look_at(self, parts: Iterable[_Part], deadline: Deadline) -> None:
        for part in parts:
            self._look(part.actor_id, deadline)

    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        deadline = Deadline(timeout)
        check_actor_id(actor_id)
        self._refuse_if_closed()
        self._open(deadline)
        return self._look(actor_id, deadline).version

    def last_sequence(self, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        self._open(deadline)
        record = self._jetstream.last(self._names.stream, self._names.all_events, deadline)
        if record is None:
            return 0
        return record.sequence if record.ends_batch else record.sequence - record.place_in_batch

    def actors(self, pattern: str | None = None, *, timeout: float | None = 5.0) -> list[str]:  # noqa: D102
        deadline = Deadline(timeout)
        matches = actor_matcher(pattern)
        self._refuse_if_closed()
        self._open(deadline)
        subjects = self._jetstream.subjects(self._names.stream, self._names.wanted(pattern), deadline)
        return sorted(one for one in map(self._names.actor_id, subjects) if matches(one))

    # -- what other nodes store

    def cached_version(self, actor_id: str) -> int | None:  # noqa: D102
        check_actor_id(actor_id)
        known = self._cache.get(actor_id)
        return None if known is None else max(known.version, known.announced)

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:  # noqa: D102
        check_actor_id(actor_id)
        check_version("version", version, least=1)
        if sequence is None:
            self._cache.announce(actor_id, version)
        else:
            check_version("sequence", sequence, least=1)
            self._cache.learn(actor_id, version, sequence)

    # -- its end

    def close(self) -> None:  # noqa: D102
        self._closed = True
        if self._owns_connection:
            self._connection.close()

    def __repr__(self) -> str:
        return f"<JetStreamEventStore {self._names.stream!r} {'closed' if self._closed else self._connection.summary}>"


def _check_time(deadline: Deadline) -> None:
    if not deadline.remaining():
        raise DeadlineExceededError(f"nothing was stored within {deadline}")


def _check_range(actor_id: str, from_version: int, to_version: int | None) -> None:
    check_actor_id(actor_id)
    check_version("from_version", from_version)
    if to_version is not None:
        check_version("to_version", to_version)


def _message_id(subject: str, event: Event) -> str:
    """By which the server knows a second try: message ids are per stream, so it is of the actor and version, too."""
    return blake2b(f"{subject}\n{event.version}\n{event.id}".encode(), digest_size=16).hexdigest()


def _counted(events: Sequence[Event]) -> str:
    return "the event" if len(events) == 1 else f"the {len(events)} events"
