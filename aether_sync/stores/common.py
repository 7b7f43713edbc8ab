"""What every store does the same way: checking what it is given, numbering, loading, telling the bus."""

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import NamedTuple, Never, TypeVar

from .._checks import as_iterator, check_int, is_mapping, is_of
from .._deadline import Deadline
from .._lifetime import Closing
from .._short import short
from .._wire import decode_event, encode_event
from ..bus import EventBus
from ..errors import (
    DeadlineExceededError,
    DuplicateIdError,
    InvalidEventError,
    InvalidOptionError,
    StoreClosedError,
    VersionConflictError,
)
from ..events import MAX_VERSION, Event, EventStored
from ..patterns import SubscriptionFilter, check_namespace
from .base import ANY, AnyVersion, EventStore, LoadedActor, Snapshot, StoredEvent

__all__ = [
    "BATCH_LIMIT",
    "StoreBase",
    "check_actor_id",
    "check_version",
    "check_wanted",
    "copied_snapshot",
    "in_time",
    "is_same",
    "numbered",
    "replaces",
]

T = TypeVar("T")

BATCH_LIMIT = 1_000  #: events in one atomic batch (ADR-50)


class _Broadcaster(NamedTuple):
    bus: EventBus
    namespace: str


class StoreBase(Closing):
    """The common part of all stores. What a store adds is named ``_save`` and so on; its arguments are checked."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        for one in (StoreBase, cls):
            _document(one)

    def __reduce__(self) -> Never:
        raise TypeError("a store has a connection or events of this process: make one in the other process")

    def __init__(self) -> None:
        self._closed = False
        self._namespace: str | None = None  # where it is announced what is stored, unless it is said otherwise
        self._broadcaster: _Broadcaster | None = None  # replaced whole; read by any thread

    # -- saving

    def save_event(self, event: Event, *, timeout: float | None = 5.0) -> StoredEvent:  # noqa: D102
        (stored,) = self.save_events((event,), timeout=timeout)
        return stored

    def save_events(  # noqa: D102
        self, events: Iterable[Event], *, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        checked = _checked(events)
        _check_order(checked)
        return self._told(self._save(checked, deadline)) if checked else []

    def append(  # noqa: D102
        self, actor_id: str, *events: Event, expected_version: int | AnyVersion, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        actor_id = check_actor_id(actor_id)
        if expected_version is not ANY:
            try:
                expected_version = check_version("expected_version", expected_version)
            except InvalidOptionError as error:
                raise InvalidOptionError(f"{error}; or NO_EVENTS, or ANY for whatever is there") from None
        checked = _checked(events)
        for event in checked:
            if event.actor_id != actor_id:
                raise InvalidEventError(
                    f"append({short(actor_id)}, ...) was given an event of actor {short(event.actor_id)}"
                )
            if event.version:
                raise InvalidEventError(
                    f"append() numbers events itself, and was given one of version {event.version}: leave version out, "
                    "or save it with save_event()"
                )
        if not checked:
            return []
        try:
            stored = self._append(actor_id, checked, expected_version, deadline)
        except VersionConflictError as conflict:
            conflict.expected_version = None if expected_version is ANY else expected_version
            raise
        return self._told(stored)

    @abstractmethod
    def _save(self, events: tuple[Event, ...], deadline: Deadline) -> list[StoredEvent]:
        """Store events with versions, all or none."""

    @abstractmethod
    def _append(
        self, actor_id: str, events: tuple[Event, ...], expected: int | AnyVersion, deadline: Deadline
    ) -> list[StoredEvent]:
        """Store an actor's events without versions behind an expected one, all or none."""

    # -- reading

    @abstractmethod
    def get_events(  # noqa: D102
        self,
        actor_id: str,
        from_version: int = 0,
        to_version: int | None = None,
        *,
        until: int | None = None,
        timeout: float | None = 5.0,
    ) -> list[Event]: ...

    @abstractmethod
    def last_sequence(self, *, timeout: float | None = 5.0) -> int: ...  # noqa: D102

    @abstractmethod
    def get_latest_snapshot(  # noqa: D102
        self, actor_id: str, *, timeout: float | None = 5.0
    ) -> Snapshot | None: ...

    def read_together(self, *actor_ids: str, timeout: float | None = 5.0) -> dict[str, list[Event]]:  # noqa: D102
        deadline = Deadline(timeout)
        checked = tuple(map(check_actor_id, actor_ids))
        until = self.last_sequence(timeout=timeout)
        return {one: self.get_events(one, until=until, timeout=deadline.timeout_left()) for one in checked}

    def load(  # noqa: D102
        self, actor_id: str, *, schema_version: int = 1, timeout: float | None = 5.0
    ) -> LoadedActor:
        deadline = Deadline(timeout)
        schema_version = check_version("schema_version", schema_version)
        snapshot = self.get_latest_snapshot(actor_id, timeout=timeout)
        if snapshot is not None and snapshot.schema_version != schema_version:
            snapshot = None
        events = self._events_after(actor_id, snapshot, deadline)
        return LoadedActor(actor_id, snapshot, events)

    def _events_after(self, actor_id: str, snapshot: Snapshot | None, deadline: Deadline) -> list[Event]:
        first = 0 if snapshot is None else snapshot.version + 1
        return self.get_events(actor_id, first, timeout=deadline.timeout_left())

    # -- other nodes

    def set_broadcaster(self, bus: EventBus | None, namespace: str | None = None) -> None:  # noqa: D102
        self._refuse_if_closed()
        if bus is None:
            self._broadcaster = None
            return
        if not is_of(bus, EventBus):
            raise InvalidOptionError(f"a broadcaster is an EventBus or NATSEventBus, not {type(bus).__name__}")
        namespace = self._namespace if namespace is None else namespace
        if namespace is None:
            raise InvalidOptionError("a broadcaster wants a namespace to publish EventStored under: 'tenant-abc'")
        self._check_bus(bus)
        self._broadcaster = _Broadcaster(bus, check_namespace(namespace))

    def _check_bus(self, bus: EventBus) -> None:
        """Refuse a bus that cannot be one for this store."""

    def refuse_prefix(self, prefix: str) -> None:
        """Raise ``InvalidOptionError`` if what a bus with this prefix publishes would be stored."""

    def _told(self, stored: list[StoredEvent]) -> list[StoredEvent]:
        """Tell the bus of what is stored; it has its own troubles, and counts them."""
        broadcaster = self._broadcaster
        if broadcaster is not None:
            for one in stored:
                broadcaster.bus.try_publish(broadcaster.namespace, EventStored.of(one.event, one.sequence))
        return stored

    # -- its end

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @abstractmethod
    def close(self) -> None: ...  # noqa: D102

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError(f"{self!r} is closed")


def _document(store: type) -> None:
    """Give methods the texts of the protocol, for ``help()``."""
    for name, method in vars(store).items():
        told = getattr(EventStore, name, None)
        if told is not None and not name.startswith("_") and inspect.isfunction(method) and not method.__doc__:
            method.__doc__ = told.__doc__


# -- checking


def check_actor_id(actor_id: str) -> str:
    """Refuse what is no actor id, and return it as a plain str."""
    if not is_of(actor_id, str) or not str.__str__(actor_id):
        raise InvalidOptionError(f"an actor id is a non-empty str such as 'order-1', not {short(actor_id)}")
    return str.__str__(actor_id)


def check_wanted(name: str, actors: str | None, event_types: Iterable[str] = ()) -> SubscriptionFilter:
    """Refuse what is no pattern of actors, by the name that the caller has for it, and return it as a filter."""
    if actors is not None and not is_of(actors, str):
        raise InvalidOptionError(f"{name} must be a pattern of actor ids such as 'order-*', not {short(actors)}")
    return SubscriptionFilter(event_types=event_types, actor_pattern=actors)


def check_version(name: str, version: object, least: int = 0) -> int:
    """Refuse what is no version, and return it as a plain int."""
    return check_int(name, version, least, MAX_VERSION)


def _checked(events: Iterable[Event]) -> tuple[Event, ...]:
    iterator = as_iterator(events)
    if iterator is None:
        raise InvalidEventError(f"save_events() takes events, not one {type(events).__name__}")
    checked = tuple(islice(iterator, BATCH_LIMIT + 1))
    for event in checked:
        if type(event) is not Event and not is_of(event, Event):
            if is_of(event, list) or is_of(event, tuple):
                raise InvalidEventError("append() takes events one by one: append(actor_id, *events, ...)")
            raise InvalidEventError(f"a store takes Event(event_type=..., actor_id=...), not {type(event).__name__}")
    if len(checked) > BATCH_LIMIT:
        raise InvalidOptionError(f"more than {BATCH_LIMIT} events in one save: no more are stored at once, all or none")
    ids = set()
    for event in checked:
        if event.id in ids:
            raise DuplicateIdError(f"two of the events to be stored have the id {short(event.id)}: make a new Event")
        ids.add(event.id)
    return checked


def _check_order(events: Sequence[Event]) -> None:
    """See that all have versions, and that those of each actor increase."""
    versions: dict[str, int] = {}
    for event in events:
        before = versions.get(event.actor_id, 0)
        if not event.version:
            raise InvalidEventError(
                f"event {short(event.event_type)} of actor {short(event.actor_id)} has no version: give it one, 1 or "
                "more, or let append() number it"
            )
        if event.version <= before:
            raise InvalidEventError(
                f"the versions of actor {short(event.actor_id)} do not increase: {event.version} comes after {before}"
            )
        versions[event.actor_id] = event.version


def copied_snapshot(snapshot: Snapshot) -> Snapshot:
    """Check a snapshot, and copy it as a reader gets it: its state came off the wire, and is nobody else's."""
    if not is_of(snapshot, Snapshot):
        raise InvalidOptionError(f"save_snapshot() takes Snapshot(actor_id=..., ...), not {type(snapshot).__name__}")
    if not is_mapping(snapshot.state):
        raise InvalidOptionError(
            f"a snapshot's state is a dict or another Mapping, not {type(snapshot.state).__name__}"
        )
    actor_id = check_actor_id(snapshot.actor_id)
    version = check_version("a snapshot's version", snapshot.version, 1)
    schema_version = check_version("a snapshot's schema_version", snapshot.schema_version)
    sequence = check_version("a snapshot's sequence", snapshot.sequence)
    try:
        event = Event(event_type="Snapshot", actor_id=actor_id, data=snapshot.state, timestamp=snapshot.timestamp)
    except InvalidEventError as error:
        raise InvalidOptionError(f"a snapshot of actor {short(actor_id)}: {error}") from None
    copy = decode_event(encode_event(event), "")
    return Snapshot(
        actor_id=actor_id,
        version=version,
        state=copy.data or {},
        schema_version=schema_version,
        sequence=sequence,
        timestamp=copy.timestamp,
    )


def in_time(found: Iterable[T], deadline: Deadline) -> Iterator[T]:
    """Yield what is found as long as there is time, which is looked at with every sixteenth."""
    for number, one in enumerate(found):
        if number % 16 == 15 and not deadline.remaining():
            raise DeadlineExceededError(f"not all of it was read within {deadline}")
        yield one


def replaces(snapshot: Snapshot, kept: Snapshot) -> bool:
    """Whether a snapshot is newer than the one that is kept: of a later version, or of the same in a later schema."""
    return (snapshot.version, snapshot.schema_version) > (kept.version, kept.schema_version)


def numbered(events: Sequence[Event], version: int) -> tuple[Event, ...]:
    """Give events the versions after this one."""
    if version + len(events) > MAX_VERSION:
        raise InvalidEventError(f"there are no versions after 2**63 - 1, and {len(events)} were to follow {version}")
    return tuple(event.replace(version=version + place, namespace="") for place, event in enumerate(events, 1))


def is_same(one: Event, other: Event) -> bool:
    """Whether two events, as they are read, are one fact; when it was written down, and by whom, is no part of it."""
    return _identity(one) == _identity(other)


_identity = attrgetter("id", "actor_id", "version", "event_type", "data")
