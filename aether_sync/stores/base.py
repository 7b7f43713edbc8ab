"""The event store: its protocol, and the values that go in and come out.

The events of an actor have strictly increasing *versions*, from 1 on; an actor without events is at version 0. All
events of a store, of whatever actors, have strictly increasing *sequences*: the order in which they were stored.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import TracebackType
from typing import Any, Final, Protocol, Self

import msgspec

from .._values.clock import Datetime, now
from ..errors import MalformedRecordError
from ..events import Event

__all__ = [
    "ANY_VERSION",
    "AnyVersion",
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
