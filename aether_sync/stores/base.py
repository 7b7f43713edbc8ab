"""The event store: its protocol, and the values that go in and come out.

The events of an actor have strictly increasing versions, from 1 on; an actor without events has version 0. All events
of a store have strictly increasing *sequences*, whoever's they are: the order in which they were stored.
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
from ..events import Event

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


#: ``expected_version`` of an actor that has no events yet.
NO_EVENTS: Final = 0
#: ``expected_version`` of who does not mind what others have stored meanwhile.
ANY_VERSION: Final = AnyVersion.ANY


class StoredEvent(msgspec.Struct, frozen=True, gc=False):
    """An event, and where it is stored.

    Attributes:
        event: The event, as any reader gets it.
        sequence: Its place in the store, 1 or more: the checkpoint of who follows the store.
        duplicate: Whether an earlier try had stored it already, one of the same call whose answer was lost included;
            only what saving returns says so.
        ends_batch: Whether no event follows in the store that was saved together with this one, in one
            ``save_events()``. Who follows with a filter may never be given the one that does: see ``batch``.
        batch: The same number for all events that were saved together, another one for each save: the sequence of the
            first of them; 0 if it was saved alone. Of a duplicate it may be 0.
    """

    event: Event
    sequence: int
    duplicate: bool = False
    ends_batch: bool = True
    batch: int = 0


@dataclass(frozen=True, slots=True)
class MalformedRecord:
    """What is stored and is no event.

    Attributes:
        sequence: Its place in the store.
        data: Its bytes.
        error: What is wrong with it.
    """

    sequence: int
    data: bytes
    error: MalformedRecordError


@dataclass(frozen=True, slots=True)
class Reading:
    """What ``get_events_with_errors()`` found: all that can be read, and all that cannot."""

    events: list[StoredEvent]
    malformed: list[MalformedRecord]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """The state of an actor at a version, so that not all its events need be read.

    Attributes:
        actor_id: Whose state it is.
        version: The actor's version at that moment, 1 or more.
        state: What JSON can hold; what comes back has lists for tuples, and so on, as ``Event.data``.
        schema_version: Of the state's shape, by your own count: a program that finds another one than its own ignores
            the snapshot and reads all events.
        sequence: Of the event of that version; the store fills it in when it saves.
        timestamp: When it was made, aware; now if left out.
    """

    actor_id: str
    version: int
    state: Mapping[str, Any]
    schema_version: int = 1
    sequence: int = 0
    timestamp: Datetime = field(default_factory=now)


@dataclass(frozen=True, slots=True)
class LoadedActor:
    """What ``load()`` found: a snapshot, if there is one, and the events after it.

    Attributes:
        actor_id: Whose they are.
        snapshot: The latest of the asked for schema version, or None.
        events: Those after it, or all.
    """

    actor_id: str
    snapshot: Snapshot | None
    events: list[Event]

    @property
    def version(self) -> int:
        """The actor's version: what to give to ``append()`` as ``expected_version``; 0 if it has no events."""
        if self.events:
            return self.events[-1].version
        return 0 if self.snapshot is None else self.snapshot.version


class Follower(Protocol):
    """The events of a store, from a place on: first those that are there, then each as it is stored; in order.

    A blocking iterator, which ends when it or its store is closed, from any thread. Nothing is dropped: what is not
    taken waits in the store.
    """

    @property
    def sequence(self) -> int:
        """The checkpoint: up to here every wanted event has been taken.

        That is the sequence of the event that was taken last, or ``after``; or a later one, if what lies in between was
        looked at and is not wanted. Where :attr:`is_caught_up`, it is the end of the store.
        """

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was stored a second ago has been taken, and what this store object has saved, too.

        The end of the store is known from the leader of the stream, which this asks, once a second at most. While it
        cannot be asked, and once the follower is closed, this is False.
        """

    @property
    def is_connected(self) -> bool:
        """Whether what is stored can come here now: the server answers, and delivers. False once it is closed."""

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""

    def __iter__(self) -> Iterator[StoredEvent]: ...

    def __next__(self) -> StoredEvent: ...

    def get(self, timeout: float | None = None) -> StoredEvent:
        """Take the next event, waiting for it if need be.

        Args:
            timeout: Seconds; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: None came in time.
            StoreClosedError: It is closed.
            MalformedRecordError: The next record is no event. The one after it is taken next.
        """

    def get_batch(
        self, max_events: int, timeout: float | None = None, *, until_caught_up: bool = False
    ) -> list[StoredEvent]:
        """Take what is there, up to a number of events, waiting only for the first; ``[]`` if none came in time.

        An empty list says nothing of the reason: nothing new is stored if :attr:`is_caught_up`; nothing can come just
        now if not :attr:`is_connected`; else more is on its way, or what came was not wanted.

        Args:
            max_events: That many at most.
            timeout: Seconds, as for :meth:`get`. With a filter it is also how long to look for what is wanted.
            until_caught_up: Whether to return ``[]`` as soon as :attr:`is_caught_up`, without waiting for what comes.

        Raises:
            StoreClosedError: It is closed.
            MalformedRecordError: As :meth:`get`, if the first record is none.
        """

    def close(self) -> None:
        """End, and release every thread that waits here. Idempotent, from any thread."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class EventStore(Protocol):
    """Append-only events by actor. Every method may be called from any thread.

    ``timeout`` is in seconds, for all of a call; None waits for ever. Every method raises ``StoreClosedError`` once the
    store is closed; ``DeadlineExceededError`` when the time is over and nothing was stored; ``StoreUnavailableError``,
    ``PermissionDeniedError`` and ``ConnectError`` where a server has to do with it.
    """

    # -- saving

    def save_event(self, event: Event, *, timeout: float | None = 5.0) -> StoredEvent:
        """Store an event whose version is greater than its actor's. Gaps are legal.

        This alone protects no read-modify-write: if what the event says was decided on an earlier version, use
        :meth:`append`, which refuses it when another event has come in between.

        Args:
            event: Its version is 1 or more.
            timeout: Seconds.

        Returns:
            The event as it is read from now on, its sequence, and whether an earlier try had stored it.

        Raises:
            VersionConflictError: The actor has this version already, or a greater one.
            UnknownOutcomeError: It may be stored, or not; saving it again is safe.
            DuplicateIdError: Under its id, for this actor and version, something else is stored.
            InvalidEventError: It is no event, or its version is 0: ``append()`` numbers events for you.
            EncodingError: Its data holds what JSON does not have, or it is larger than the server takes.
        """

    def save_events(self, events: Iterable[Event], *, timeout: float | None = 5.0) -> list[StoredEvent]:
        """Store up to 1,000 events, of one actor or several: all of them or none, and no reader sees a part.

        A server whose room ends in the middle may keep a part, which is no events to anybody.

        As :meth:`save_event`; the events of each actor in increasing versions.

        Raises:
            AtomicAppendUnsupportedError: The server or stream cannot store several events at once.
        """

    def append(
        self, actor_id: str, *events: Event, expected_version: int | AnyVersion, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        """Store events as an actor's next ones, if it is still at the version that they were decided on.

        This is what protects a read-modify-write: load the actor, decide, append what follows with the version loaded.
        If another writer was first, nothing is stored; load again, decide again: ``retry_on_conflict`` does that.

        Args:
            actor_id: Whose events they are.
            *events: Of this actor, with version 0: they are numbered from ``expected_version + 1`` on.
            expected_version: The version of the actor that was loaded; ``NO_EVENTS`` (0) if it must have none;
                ``ANY_VERSION``
                to store them after whatever is there.
            timeout: Seconds.

        Raises:
            VersionConflictError: The actor is at another version.
            UnknownOutcomeError: They may be stored, or not: ``save_events(error.events)`` is safe. To append them once
                more is, too, but not with ``ANY_VERSION``: they might be stored twice.
        """

    # -- reading

    def get_events(
        self,
        actor_id: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        until: int | None = None,
        timeout: float | None = 5.0,
    ) -> list[Event]:
        """Return an actor's events, in order; none if it has none.

        It never misses an event whose saving returned before on this node, or that an ``EventStored`` has announced.

        Args:
            actor_id: Whose.
            from_version: The first version wanted.
            to_version: The last version wanted; None for all.
            until: The last sequence wanted. With what :meth:`last_sequence` returned, several actors are read as they
                were at one moment, which is never in the middle of a ``save_events()``.
            timeout: Seconds.

        Raises:
            MalformedRecordError: A record is no event; :meth:`get_events_with_errors` reads past it.
        """

    def iter_events(
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        """As :meth:`get_events`, read page by page while it is iterated; ``timeout`` is for each page."""

    def get_events_with_errors(
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        """As :meth:`get_events`, with what cannot be read beside what can.

        What has no version is always in it, and so is what is of a save that the server has stored a part of only.
        """

    def read_together(self, *actor_ids: str, timeout: float | None = 5.0) -> dict[str, list[Event]]:
        """Return the events of several actors, as they were at one moment: no part of a ``save_events()``."""

    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:
        """Return an actor's version, 0 if it has no events.

        Raises:
            MalformedRecordError: Its last record is no event.
        """

    def last_sequence(self, *, timeout: float | None = 5.0) -> int:
        """Return the sequence of the last event of all, or of the last before a batch that is just being stored."""

    def actors(self, pattern: str | None = None, *, timeout: float | None = 5.0) -> list[str]:
        """Return the ids of the actors that have events, sorted.

        One may be among them of which there is only a part of a save that the server had no room for.

        Args:
            pattern: As ``SubscriptionFilter``'s ``actor_pattern``: ``"order-*"``; None for all.
            timeout: Seconds.
        """

    # -- snapshots

    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:
        """Keep a snapshot as the actor's latest; returns False if there is one of a later version, or of the same.

        Of the same version, one of a later schema is kept in place of the other.

        Raises:
            VersionConflictError: Its version is greater than the actor's.
            InvalidOptionError: It is of a version that the actor never had, or its values are none of a snapshot's.
        """

    def get_latest_snapshot(self, actor_id: str, *, timeout: float | None = 5.0) -> Snapshot | None:
        """Return an actor's latest snapshot, if there is one. One ahead of its events is discarded, with a warning."""

    def load(self, actor_id: str, *, schema_version: int = 1, timeout: float | None = 5.0) -> LoadedActor:
        """Return an actor's latest snapshot and the events after it; all events if there is none of this schema."""

    # -- following

    def follow(
        self,
        *,
        after: int = 0,
        actors: str | None = None,
        event_types: Iterable[str] = (),
        timeout: float | None = 5.0,
    ) -> Follower:
        """Read events as they were and are stored, of all actors, in order, without a gap: first history, then live.

        Args:
            after: The sequence of the event that was read last; 0 for all.
            actors: A pattern of actor ids; None for all.
            event_types: Any of them; none means all types.
            timeout: Seconds for the beginning.

        Raises:
            StreamRegressionError: The store ends before ``after``.
        """

    # -- what other nodes store

    def cached_version(self, actor_id: str) -> int | None:
        """Return the version that this node knows of, without asking anybody; None if it knows of none."""

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note that an actor has a version: what a bus with this store does on every ``EventStored``.

        Args:
            actor_id: Whose.
            version: 1 or more. An older one than is known is ignored.
            sequence: Of that event, if it is known: what is older than what is known here is then ignored. The version
                is a hint to look, in any case.
        """

    def set_broadcaster(self, bus: EventBus | None, namespace: str | None = None) -> None:
        """Publish an ``EventStored`` for every event, after it is stored. None ends that.

        A bus that is full or away neither delays nor fails the saving: the ``EventStored`` is then lost, and counted in
        the bus's ``publish_errors``.

        Args:
            bus: Where to.
            namespace: Under which; by default the store's own, if it has one.

        Raises:
            InvalidOptionError: There is no namespace, or the bus's subjects would be stored in this store.
        """

    # -- its end

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""

    def close(self) -> None:
        """Let go of everything; whoever iterates comes to an end. Idempotent, from any thread."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
