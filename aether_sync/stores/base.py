"""The event store: its protocol, and the values that go in and come out.

The events of an actor have strictly increasing *versions*, from 1 on; an actor without events is at version 0. All
events of a store, of whatever actors, have strictly increasing *sequences*: the order in which they were stored.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol, Self, runtime_checkable

import msgspec

from .._values.clock import Datetime, now
from ..bus import EventBus
from ..errors import MalformedRecordError
from ..event_types import EventTypes
from ..events import Event
from ..health import Health
from ..metrics import CloseReport, StoreMetrics

__all__ = [
    "ANY_VERSION",
    "AnyVersion",
    "EventStore",
    "Follower",
    "LoadedActor",
    "MalformedRecord",
    "NO_EVENTS",
    "Reading",
    "Snapshot",
    "StoredEvent",
]


class AnyVersion(Enum):
    """The type of :data:`ANY_VERSION`."""

    ANY = "any version"


NO_EVENTS: Final = 0
"""The ``expected_version`` of an actor that has no events yet."""

ANY_VERSION: Final = AnyVersion.ANY
"""The ``expected_version`` that appends at whatever version the actor is."""


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, and where it is stored.

    Attributes:
        event: The event, as any reader gets it.
        sequence: Its place in the store, 1 or more. A follower's checkpoint is such a number.
        duplicate: Whether an earlier attempt had stored the event already; also an attempt of the same call whose
            answer was lost. It is True only in what saving returns.
        ends_batch: Whether this is the last of the events that were saved together by one ``save_events()``. A follower
            with a filter may not be given that last one: it looks for a change of ``batch``.
        batch: The sequence of the first event of those that were saved together, which is the same for all of them; 0
            if the event was saved alone. It may be 0 for a duplicate.
    """

    event: Event
    sequence: int
    duplicate: bool = False
    ends_batch: bool = True
    batch: int = 0


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """A record of the store that is not an event.

    Attributes:
        sequence: Its place in the store.
        data: Its body, in bytes.
        error: What is wrong with it.
    """

    sequence: int
    data: bytes
    error: MalformedRecordError


@dataclass(frozen=True, slots=True)
class Reading:
    """What ``get_events_with_errors()`` returns.

    Attributes:
        events: The events.
        malformed: The records that are not events.
    """

    events: list[StoredEvent]
    malformed: list[MalformedRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of an actor at a version. With it, only the events after that version have to be read.

    Attributes:
        actor_id: The actor.
        version: The actor's version at that moment, 1 or more.
        state: The state, made of what JSON can hold. What is read back has lists for tuples, and so on, as
            ``Event.data`` has.
        schema_version: The version of the state's shape, which you count yourself: ``load()`` ignores a snapshot of
            another schema version than it is asked for, and reads all events.
        sequence: The sequence of the event of that version. The store sets it when it saves.
        timestamp: When the snapshot was made, an aware ``datetime``; now if left out.
    """

    actor_id: str
    version: int
    state: Mapping[str, Any]
    schema_version: int = 1
    sequence: int = 0
    timestamp: Datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class LoadedActor:
    """What ``load()`` returns: a snapshot, if there is one, and the events after it.

    Attributes:
        actor_id: The actor.
        snapshot: The latest snapshot of the schema version that was asked for; None if there is none.
        events: The events after the snapshot; all events if there is none.
    """

    actor_id: str
    snapshot: Snapshot | None
    events: list[Event]

    @property
    def version(self) -> int:
        """The actor's version, which ``append()`` takes as ``expected_version``; 0 if it has no events."""
        if self.events:
            return self.events[-1].version
        return 0 if self.snapshot is None else self.snapshot.version


class Follower(Protocol):
    """The events of a store from a sequence on, in order: first those that are there, then each as it is stored.

    It is a blocking iterator. It ends when it or its store is closed, which any thread may do. No event is dropped:
    events that are not taken wait in the store. Several threads may iterate it; each event goes to one of them.
    """

    @property
    def sequence(self) -> int:
        """The checkpoint: every wanted event up to this sequence has been taken.

        It is the sequence of the event that was taken last, ``after`` at first, or a later one if the events in between
        are not wanted. When :attr:`is_caught_up`, it is the last sequence of the store.
        """

    @property
    def is_caught_up(self) -> bool:
        """Whether every event that was stored a second ago, or by this store object, has been taken.

        This asks the leader of the stream for the last sequence, once a second at most. It is False while the leader
        cannot be asked, and when the follower is closed.
        """

    @property
    def is_connected(self) -> bool:
        """Whether the server delivers events now. False when the follower is closed."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""

    def __iter__(self) -> Iterator[StoredEvent]: ...

    def __next__(self) -> StoredEvent: ...

    def get(self, timeout: float | None = None) -> StoredEvent:
        """Take the next event; wait for it if there is none.

        Args:
            timeout: Seconds; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: No event came in time.
            StoreClosedError: The follower is closed.
            MalformedRecordError: The next record is not an event. The next call goes on after it.
        """

    def get_batch(
        self, max_events: int, timeout: float | None = None, *, until_caught_up: bool = False
    ) -> list[StoredEvent]:
        """Take the events that are there, up to a number; wait only for the first.

        Args:
            max_events: At most this many events, 1 or more.
            timeout: Seconds, as for :meth:`get`. With a filter it is also how long to look for wanted events.
            until_caught_up: Whether to return ``[]`` as soon as :attr:`is_caught_up`, without waiting for new events.

        Returns:
            1 to ``max_events`` events, or ``[]`` if none came in time. Then nothing new is stored if
            :attr:`is_caught_up`, and nothing can come now if not :attr:`is_connected`; otherwise events are on their
            way, or those that came are not wanted.

        Raises:
            StoreClosedError: The follower is closed.
            MalformedRecordError: The first record is not an event; see :meth:`get`.
        """

    def close(self) -> None:
        """End the iteration and release every thread that waits in it. Any thread may call it, more than once."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class EventStore(Protocol):
    """Append-only events, by actor. Every method may be called from any thread.

    ``timeout`` is in seconds, for the whole call; None waits for ever. Every method raises ``StoreClosedError`` when
    the store is closed, and ``DeadlineExceededError`` when the time is over and nothing was stored. A store on a server
    also raises ``StoreUnavailableError``, ``PermissionDeniedError`` and ``ConnectError``.
    """

    @property
    def types(self) -> EventTypes | None:
        """The classes of its events, as it was given them; None if it knows none."""

    # -- saving

    def save_event(self, event: Event, *, timeout: float | None = 5.0) -> StoredEvent:
        """Store an event with a version that is greater than its actor's. The versions may have gaps.

        This does not protect a read-modify-write. If the event was decided on the state at an earlier version, use
        :meth:`append`, which refuses it when another event has been stored since.

        Args:
            event: The event; its version is 1 or more.
            timeout: Seconds.

        Returns:
            The event as it is read from now on, its sequence, and whether an earlier attempt had stored it.

        Raises:
            VersionConflictError: The actor has this version already, or a greater one.
            UnknownOutcomeError: The event may be stored, or not; saving it again is safe.
            DuplicateIdError: Another event is stored under its id, for this actor and version.
            InvalidEventError: It is not an event, or its version is 0: ``append()`` numbers events for you.
            EncodingError: Its data holds something that JSON does not have, or it is larger than the server takes.
        """

    def save_events(self, events: Iterable[Event], *, timeout: float | None = 5.0) -> list[StoredEvent]:
        """Store up to 1,000 events of one or several actors: all of them or none, and no reader sees a part.

        A server that runs out of space in the middle may keep some of the records, but no reader takes them for events.

        Args:
            events: The events, each as for :meth:`save_event`; the versions of each actor increase.
            timeout: Seconds.

        Raises:
            AtomicAppendUnsupportedError: The server or the stream cannot store several events at once. Also the errors
                of :meth:`save_event`.
        """

    def append(
        self, actor_id: str, *events: object, expected_version: int | AnyVersion, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        """Store an actor's next events, if the actor is still at the version that they were decided on.

        This protects a read-modify-write: load the actor, decide, and append the new events with the version that was
        loaded. If another writer was first, nothing is stored: load again and decide again, which ``retry_on_conflict``
        does for you.

        Args:
            actor_id: The actor.
            *events: The actor's events, without versions: they are numbered from ``expected_version + 1`` on. A store
                with :attr:`types` also takes objects of registered classes, of which it makes events as
                :meth:`EventTypes.to_event` does. Without any, nothing is stored, and nothing is asked: ``[]`` is
                returned, whatever version the actor is at.
            expected_version: The version of the actor that was loaded; ``NO_EVENTS`` (0) if it must have no events;
                ``ANY_VERSION`` to append at whatever version the actor is.
            timeout: Seconds.

        Raises:
            VersionConflictError: The actor is at another version.
            InvalidEventError: An event has a version or another actor; or an object is of no registered class, or does
                not fit its own.
            UnknownOutcomeError: The events may be stored, or not. ``save_events(error.events)`` is safe. Appending them
                again is safe, too, except with ``ANY_VERSION``: they might be stored twice.
        """

    # -- reading

    def get_events(
        self,
        actor_id: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        after: int = 0,
        limit: int | None = None,
        reverse: bool = False,
        until: int | None = None,
        timeout: float | None = 5.0,
    ) -> list[Event]:
        """Return an actor's events, in order; an empty list if it has none.

        An event is never missed if saving it has returned on this node, or if an ``EventStored`` has announced it here.

        Args:
            actor_id: The actor. This is an id and no pattern, because an id may have a ``*`` in it: the events of
                ``order-*`` are those of the one actor of that name. :meth:`read_all` takes a pattern.
            from_version: The first version wanted.
            to_version: The last version wanted; None for no limit.
            after: A sequence: only events that were stored after it.
            limit: At most this many events, 1 or more: the first of those wanted, or with ``reverse`` the last; None
                for all.
            reverse: Whether the newest event comes first.
            until: The last sequence wanted; None for no limit. To read several actors as they were at one moment, give
                each call the same value of :meth:`last_sequence`, or use :meth:`read_together`. That moment is never in
                the middle of a ``save_events()``.
            timeout: Seconds.

        Raises:
            MalformedRecordError: A record is not an event; :meth:`get_events_with_errors` reads on after it.
        """

    def get_latest_event(self, actor_id: str, *, timeout: float | None = 5.0) -> Event | None:
        """Return an actor's last event; None if it has none.

        Raises:
            MalformedRecordError: Its last record is not an event.
        """

    def iter_events(
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        """Return an iterator over an actor's events that reads them page by page; ``timeout`` is for each page.

        Args and errors are those of :meth:`get_events`.
        """

    def get_events_with_errors(
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        """Return an actor's events, and beside them the records that are not events.

        A record without a version is returned whatever versions are wanted, and so is a record of a save of which the
        server has stored a part only. Args are those of :meth:`get_events`.
        """

    def read_together(self, *actor_ids: str, timeout: float | None = 5.0) -> dict[str, list[Event]]:
        """Return the events of several actors as they were at one moment, by actor.

        That moment is never in the middle of a ``save_events()``.

        Args:
            *actor_ids: The actors.
            timeout: Seconds.
        """

    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:
        """Return an actor's version; 0 if it has no events.

        Raises:
            MalformedRecordError: Its last record is not an event.
        """

    def read_all(
        self,
        after: int = 0,
        *,
        limit: int = 100,
        until: int | None = None,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        timeout: float | None = 5.0,
    ) -> list[StoredEvent]:
        """Return events of all actors, in the order in which they were stored: a page of the store.

        Nothing is missed that was stored before the call began, and no page ends in the middle of a ``save_events()``
        that is just being stored. This loop reads the whole store, with or without a filter, and waits for nothing; to
        read on as events are stored, use :meth:`follow`::

            after = 0
            while page := store.read_all(after, limit=1_000):
                after = page[-1].sequence
                ...

        An empty page says that the store has no more such events, up to ``until``. A page of fewer than ``limit``
        events says the same, or that the record behind it is not an event: then the next call raises an error.

        Args:
            after: The sequence of the event that was read last; 0 to begin with the first event.
            limit: At most this many events, 1 or more. Larger pages are quicker for each event: 1,000 fit into one
                answer of the server, unless they have more than 4 MiB. All of a page are in memory at once.
            until: The last sequence wanted; None for the end of the store. It may cut a ``save_events()`` in two, as
                ``limit`` may; :meth:`last_sequence` is never in the middle of one.
            actors: A pattern of actor ids: only events of these; None for all.
            event_types: Only events of these types, names or classes of :attr:`types`; none means all types. The server
                does not choose by type, so all events of these actors travel here. If events of a type are so rare that
                one call does not find ``limit`` of them within ``timeout``, read the store in sections, by ``until``.
            timeout: Seconds.

        Raises:
            MalformedRecordError: The first record is not an event; its ``sequence`` is the ``after`` of the call that
                reads on behind it. It is raised whether or not there is a filter.
        """

    def last_sequence(self, *, actors: str | None = None, timeout: float | None = 5.0) -> int:
        """Return the sequence of the last event of the store, or of some actors; 0 if there is none.

        While a ``save_events()`` is being stored, it is the sequence of the last event before those.

        Args:
            actors: A pattern of actor ids, such as ``"order-*"``; None for all.
            timeout: Seconds.
        """

    def actors(self, pattern: str | None = None, *, timeout: float | None = 5.0) -> list[str]:
        """Return the ids of the actors that have events, sorted.

        An actor may be among them of which the server has only records of a save that it had no space for.

        Args:
            pattern: A pattern of actor ids, such as ``"order-*"``; None for all. It is that of ``SubscriptionFilter``.
            timeout: Seconds.
        """

    # -- snapshots

    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:
        """Keep a snapshot as the actor's latest.

        The store keeps as many snapshots of an actor as its ``snapshots_kept`` says: one, unless you gave it another
        number. The oldest make room for new ones.

        Args:
            snapshot: The snapshot.
            timeout: Seconds.

        Returns:
            Whether it is kept. It is not if there is a snapshot of a later version, or one of the same version whose
            schema version is as high or higher.

        Raises:
            VersionConflictError: Its version is greater than the actor's.
            InvalidOptionError: The actor never had that version, or a value is not one that a snapshot can have.
            EncodingError: Its state holds something that JSON does not have.
        """

    def get_snapshots(self, actor_id: str, *, timeout: float | None = 5.0) -> list[Snapshot]:
        """Return the snapshots of an actor that are kept, the oldest first; an empty list if it has none.

        Snapshots that are ahead of their actor's events are left out, as in :meth:`get_latest_snapshot`.
        """

    def get_latest_snapshot(
        self, actor_id: str, *, to_version: int | None = None, timeout: float | None = 5.0
    ) -> Snapshot | None:
        """Return an actor's latest snapshot; None if it has none.

        A snapshot that is ahead of its actor's events, as after a restore, is ignored, and a warning is logged.

        Args:
            actor_id: The actor.
            to_version: The last version wanted: the latest of the snapshots that are kept and not after it; None for no
                limit.
            timeout: Seconds.
        """

    def load(self, actor_id: str, *, schema_version: int = 1, timeout: float | None = 5.0) -> LoadedActor:
        """Return an actor's latest snapshot and the events after it.

        If none that is kept has this schema version, all events are returned, and a warning is logged.

        Args:
            actor_id: The actor.
            schema_version: The schema version that the program understands.
            timeout: Seconds.
        """

    # -- following

    def follow(
        self,
        *,
        after: int = 0,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        allow_ahead: bool = False,
        timeout: float | None = 5.0,
    ) -> Follower:
        """Return an iterator over the events of all actors, in order and without a gap: first history, then live.

        Args:
            after: The sequence of the event that was read last; 0 to begin with the first event.
            actors: A pattern of actor ids: only events of these; None for all.
            event_types: Only events of these types, names or classes of :attr:`types`; none means all types.
            allow_ahead: Whether the store may end before ``after``. Then the events after that sequence come when they
                are stored, and until then nobody is told if the store has lost events, or is another one: use it if
                ``after`` need not be a sequence that was read.
            timeout: Seconds to begin.

        Raises:
            StreamRegressionError: The store ends before ``after``: events were lost, or it is another store. Not with
                ``allow_ahead``.
        """

    # -- what other nodes store

    def cached_version(self, actor_id: str) -> int | None:
        """Return an actor's version as far as this node knows it, without asking the server; None if it does not."""

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note that an actor has a version. A bus with this store calls it for every ``EventStored``.

        It is a hint: the store asks the server before it relies on it.

        Args:
            actor_id: The actor.
            version: The version, 1 or more. One that is older than the version known here is ignored.
            sequence: The sequence of that event; None if it is not known. An event that is older than the one known
                here is then ignored.
        """

    def set_broadcaster(self, bus: EventBus | None, namespace: str | None = None) -> None:
        """Publish an ``EventStored`` for every event, after it is stored.

        A bus that is full or disconnected neither delays the saving nor makes it fail: the ``EventStored`` is lost, and
        counted in the bus's ``publish_errors``.

        Args:
            bus: The bus to publish on; None to publish no more.
            namespace: The namespace to publish under; None for the store's own, if it has one.

        Raises:
            InvalidOptionError: There is no namespace, or this store would store what the bus publishes.
        """

    # -- its state

    def health(self, *, timeout: float | None = 0.5) -> Health:
        """Return whether the store can do its work now, and if not, why. It raises nothing for a server that is away.

        An ``InMemoryEventStore`` is well until it is closed. A ``JetStreamEventStore`` asks the server for its stream,
        if it is connected: it is well if the stream has a leader that answers in time, and its connection is well; see
        :meth:`Connection.health`, of which the answer is the only one of ``parts``. A stream that was never there is no
        reason: the first save makes it. One that was there and is gone is a reason; so are settings with which every
        call raises ``StreamMismatchError``, and a limit of the stream (``max_msgs``, ``max_bytes``) that is reached.
        That the account or the disk is full shows when something is saved, and not here. A leader that has lost the
        other servers of its cluster notices it after some ten seconds, and this not before.

        Args:
            timeout: Seconds for the question, which takes one round trip; 0 asks nothing, and says what is known here.
                The default leaves time to answer a probe that waits for a second. None waits for ever.

        Returns:
            With ``numbers``: ``events`` and ``last_sequence``; and of a stream on a server ``bytes``,
            ``seconds_round_trip``, ``replicas_missing`` (copies that are offline or not current) and ``replica_lag``
            (events that the slowest copy is behind).

        Raises:
            InvalidOptionError: ``timeout`` is no number of seconds. Nothing else is raised, also if it is closed.
        """

    def metrics(self) -> StoreMetrics:
        """Return what the store has done so far; any thread may ask, also after it was closed."""

    # -- its end

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """End every iteration and every runner, and release what the store uses. Any thread may call it, repeatedly.

        Args:
            timeout: Seconds for all of it, the handlers of runners included; None waits for ever.

        Returns:
            What was left undone. It is true if nothing was.
        """

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
