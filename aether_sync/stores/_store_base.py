"""``StoreBase``: what all stores have in common: they check arguments, load actors, and publish ``EventStored``."""

from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, Self, Unpack

from .._arguments import as_whole, check_count, check_seconds, is_of
from .._runtime.closing import Closeable
from .._runtime.deadline import Deadline
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Burst, Details, Kind, Reporter
from .._values.shown import short
from ..bus import EventBus
from ..errors import (
    InvalidEventError,
    InvalidOptionError,
    StoreClosedError,
    VersionConflictError,
)
from ..event_types import EventTypes, class_of_events
from ..events import Event, EventStored
from ..health import Health
from ..instrumentation import Operation, observers, sending
from ..metrics import CloseReport, StoreMetrics
from ..patterns import SubscriptionFilter, check_namespace
from ._checks import check_actor_id, check_events, check_order, check_version, check_wanted, latest_of
from ._jetstream.names import escaped_consumer
from ._measuring import StoreCounts, measured
from ._noticing import written
from ._wanted import Wanted
from .base import ANY_VERSION, AnyVersion, LoadedActor, Snapshot, StoredEvent
from .consumers.base import ConsumerSettings, ConsumerState
from .consumers.context import ConsumerContext
from .event_store import Consumer, EventStore
from .projections.announcing import Announcements, Broadcaster
from .projections.applying import OnError
from .projections.base import Apply, Database
from .projections.projection import Projection, close_projections, make_projection

__all__ = ["StoreBase", "lasting_store_metrics", "note_written", "place_of"]

_SHORTEST_ACK_WAIT = 0.001  # seconds: four times within it a server is told that work goes on
_BURSTS_KEPT = 1_000  # actors of whose snapshots it is known when it was logged last that they are ignored


class StoreBase(Closeable, EventStore):
    """The common part of all stores.

    It checks what is given, counts the calls, and calls ``_save``, ``_append`` and so on, which a store implements.

    Args:
        reporter: Logs for the store.
        types: The classes of its events, if it knows them.
        **logged: Attributes of its log records.
    """

    def __init__(self, reporter: Reporter, types: EventTypes | None, **logged: Unpack[Details]) -> None:
        self._reporter = reporter
        self._types, self._kind = types, class_of_events(types)
        self._logged = logged
        self._closed = False
        self._counts = StoreCounts()
        self._destination = ""  # how observers call it
        self._place: object = object()  # equal for all stores with the same events: replaced where these are shared
        self._namespace: str | None = None  # where EventStored is published unless set_broadcaster() names another
        self._broadcaster: Broadcaster | None = None  # replaced whole; read by any thread
        self._announcements = Announcements()  # of its projections
        self._projections: WeakRegistry[Projection] = WeakRegistry()  # which end with the store
        self._ignored: dict[str, Burst] = {}  # by actor: snapshots that load() did not use; single operations only

    @property
    def types(self) -> EventTypes | None:
        """The classes of its events, as it was given them; None if it knows none."""
        return self._types

    # -- saving

    @measured
    def save_event(self, event: Event, *, timeout: float | None = 5.0) -> StoredEvent:
        (stored,) = self._save_checked((event,), timeout)
        return stored

    @measured
    def save_events(self, events: Iterable[Event], *, timeout: float | None = 5.0) -> list[StoredEvent]:
        return self._save_checked(events, timeout)

    def _save_checked(self, events: Iterable[Event], timeout: float | None) -> list[StoredEvent]:
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        checked = check_events(events)
        check_order(checked)
        return self._observed("save", checked, lambda events: self._save(events, deadline)) if checked else []

    @measured
    def append(
        self, actor_id: str, *events: object, expected_version: int | AnyVersion, timeout: float | None = 5.0
    ) -> list[StoredEvent]:
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        actor_id = check_actor_id(actor_id)
        if expected_version is not ANY_VERSION:
            try:
                expected_version = check_version("expected_version", expected_version)
            except InvalidOptionError as error:
                raise InvalidOptionError(f"{error}; or NO_EVENTS, or ANY_VERSION for whatever is there") from None
        checked = check_events(events if self._types is None else self._as_events(actor_id, events, self._types))
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
        expected = expected_version
        try:
            return self._observed("append", checked, lambda events: self._append(actor_id, events, expected, deadline))
        except VersionConflictError as conflict:
            conflict.expected_version = None if expected is ANY_VERSION else expected
            raise

    @staticmethod
    def _as_events(actor_id: str, given: tuple[object, ...], types: EventTypes) -> list[object]:
        """Make events of typed values; what is none of both is left to be refused."""
        return [
            one if issubclass(type(one), (Event, list, tuple)) else types.to_event(one, actor_id=actor_id)
            for one in given
        ]

    def _observed(
        self, name: str, events: tuple[Event, ...], save: Callable[[tuple[Event, ...]], list[StoredEvent]]
    ) -> list[StoredEvent]:
        """Store events and announce them; observers see that. All attempts of a save store the same bytes."""
        if not observers:
            return self._announced(save(events))
        is_batch = len(events) > 1
        operation = Operation(name=name, kind="send", events=events, destination=self._destination, is_batch=is_batch)
        with sending(operation) as stamped:
            return self._announced(save(stamped))

    @abstractmethod
    def _save(self, events: tuple[Event, ...], deadline: Deadline) -> list[StoredEvent]:
        """Store events with versions, all or none."""

    @abstractmethod
    def _append(
        self, actor_id: str, events: tuple[Event, ...], expected: int | AnyVersion, deadline: Deadline
    ) -> list[StoredEvent]:
        """Store an actor's events after an expected version, all or none. They have no versions yet."""

    # -- reading

    @measured
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
        actor_id = check_actor_id(actor_id)
        wanted = Wanted.checked(from_version, to_version, after, until, limit, reverse)
        return self._read(actor_id, wanted, self._deadline(timeout))

    @measured
    def get_latest_event(self, actor_id: str, *, timeout: float | None = 5.0) -> Event | None:
        wanted = Wanted.checked(limit=1, reverse=True)
        return next(iter(self._read(check_actor_id(actor_id), wanted, self._deadline(timeout))), None)

    def _read(self, actor_id: str, wanted: Wanted, deadline: Deadline) -> list[Event]:
        """Return an actor's wanted events, and count them."""
        events = self._get_events(actor_id, wanted, deadline)
        self._counts.read(len(events))
        return events

    @abstractmethod
    def _get_events(self, actor_id: str, wanted: Wanted, deadline: Deadline) -> list[Event]:
        """Return an actor's wanted events."""

    @measured
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
        page = Wanted.checked(after=after, until=until, limit=check_count("limit", limit))
        wanted = check_wanted("actors", actors, event_types, self._types)
        found = self._read_all(page, wanted, self._deadline(timeout))
        self._counts.read(len(found))
        return found

    @abstractmethod
    def _read_all(self, page: Wanted, wanted: SubscriptionFilter, deadline: Deadline) -> list[StoredEvent]:
        """Return a page of the events of all actors."""

    @measured
    def last_sequence(self, *, actors: str | None = None, timeout: float | None = 5.0) -> int:
        return self._last_sequence(check_wanted("actors", actors), self._deadline(timeout))

    @abstractmethod
    def _last_sequence(self, wanted: SubscriptionFilter, deadline: Deadline) -> int:
        """Return the sequence of the last wanted event."""

    @measured
    def read_together(self, *actor_ids: str, timeout: float | None = 5.0) -> dict[str, list[Event]]:
        deadline = self._deadline(timeout)
        checked = tuple(map(check_actor_id, actor_ids))
        wanted = Wanted.checked(until=self._last_sequence(SubscriptionFilter(), deadline))
        return {one: self._read(one, wanted, deadline) for one in checked}

    @measured
    def load(self, actor_id: str, *, schema_version: int = 1, timeout: float | None = 5.0) -> LoadedActor:
        deadline = Deadline(timeout)
        schema_version = check_version("schema_version", schema_version)
        loaded = self._load(check_actor_id(actor_id), schema_version, deadline)
        self._counts.read(len(loaded.events))
        return loaded

    @abstractmethod
    def _load(self, actor_id: str, schema_version: int, deadline: Deadline) -> LoadedActor:
        """Read the latest snapshot of a schema version and the events after it."""

    def _chosen(self, kept: Sequence[Snapshot], schema_version: int) -> Snapshot | None:
        """Return the latest snapshot of a schema version; if there are only others, log that they are ignored."""
        found = latest_of(kept, schema_version=schema_version)
        if found is None and kept:
            self._report_ignored(kept[-1], schema_version)
        return found

    def _report_ignored(self, snapshot: Snapshot, schema_version: int) -> None:
        """Log, once an actor and burst, that a snapshot is not used: reading all events instead may take long."""
        if len(self._ignored) >= _BURSTS_KEPT:
            self._ignored = {}
        if self._ignored.setdefault(snapshot.actor_id, Burst()).opens():
            text = (
                "the snapshot of actor %r at version %d has schema_version %d, and load() was asked for %d: it is "
                "ignored, and all events are read"
            )
            about = snapshot.actor_id, snapshot.version, snapshot.schema_version, schema_version
            details: Details = {**self._logged, "actor": snapshot.actor_id}
            self._reporter.info(Kind.SNAPSHOT_IGNORED, text, *about, **details)

    # -- consuming

    def consumer(
        self,
        name: str,
        *,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        start: Literal["first", "new"] | int = "first",
        ack_wait: float = 30.0,
        max_deliver: int = 5,
        max_ack_pending: int = 10_000,
    ) -> Consumer:
        self._refuse_if_closed()
        settings = ConsumerSettings(
            name=escaped_consumer(name),
            wanted=check_wanted("actors", actors, event_types, self._types),
            start=_checked_start(start),
            ack_wait=check_seconds("ack_wait", ack_wait, _SHORTEST_ACK_WAIT),
            max_deliver=check_count("max_deliver", max_deliver),
            max_ack_pending=check_count("max_ack_pending", max_ack_pending),
        )
        return Consumer(str.__str__(name), settings, self, self._open_consumers)

    @abstractmethod
    def _open_consumers(self) -> ConsumerContext:
        """Refuse if the store is closed, and return what its consumers share."""

    @measured
    def consumers(self, *, timeout: float | None = 5.0) -> list[ConsumerState]:
        deadline = self._deadline(timeout)
        return self._open_consumers().backend.states(deadline)

    # -- projecting

    def project(
        self,
        name: str,
        apply: Apply,
        *,
        into: Database,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        batch: int = 500,
        on_error: OnError = "stop",
    ) -> Projection:
        self._refuse_if_closed()
        projection = make_projection(
            self,
            self._reporter,
            self._announcements,
            self._destination,
            name=name,
            apply=apply,
            into=into,
            wanted=check_wanted("actors", actors, event_types, self._types),
            batch=batch,
            on_error=on_error,
        )
        self._projections.add(projection)
        return projection

    # -- other nodes

    def set_broadcaster(self, bus: EventBus | None, namespace: str | None = None) -> None:
        self._refuse_if_closed()
        if bus is None:
            self._broadcaster = None
            self._announcements.use(None)
            return
        if not is_of(bus, EventBus):
            raise InvalidOptionError(f"a broadcaster is an EventBus or NATSEventBus, not {type(bus).__name__}")
        namespace = self._namespace if namespace is None else namespace
        if namespace is None:
            raise InvalidOptionError("a broadcaster wants a namespace to publish EventStored under: 'tenant-abc'")
        self._check_bus(bus)
        self._broadcaster = Broadcaster(bus, check_namespace(namespace))
        self._announcements.use(self._broadcaster)

    def _check_bus(self, bus: EventBus) -> None:
        """Refuse a bus that cannot be one for this store."""

    def _announced(self, stored: list[StoredEvent]) -> list[StoredEvent]:
        """Count stored events, publish an ``EventStored`` for each, and return them.

        A bus that cannot publish counts that itself.
        """
        number = len(stored)
        if number == 1:
            self._counts.wrote_one()
        else:
            self._counts.wrote(number)
        note_written(self, stored[-1].sequence)
        broadcaster = self._broadcaster
        if broadcaster is not None:
            for each in stored:
                broadcaster.bus.try_publish(broadcaster.namespace, EventStored.of(each.event, each.sequence))
        return stored

    # -- how it is

    @abstractmethod
    def health(self, *, timeout: float | None = 0.5) -> Health: ...

    # -- its end

    def _end_projections(self, deadline: Deadline) -> int:
        """Close all projections; return how many batches are left behind."""
        left = close_projections(self._projections, deadline)
        self._announcements.end(deadline)
        return left

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @abstractmethod
    def close(self, timeout: float | None = 5.0) -> CloseReport: ...

    def _deadline(self, timeout: float | None) -> Deadline:
        """Refuse if the store is closed, and return the deadline of a call."""
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        return deadline

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise self._closed_error()

    def _closed_error(self) -> StoreClosedError:
        return StoreClosedError(f"{self!r} is closed: make a new one")

    def __enter__(self) -> Self:
        self._refuse_if_closed()
        return self


def _checked_start(start: object) -> int | None:
    """Return the sequence after which a consumer begins; None for the end of the store."""
    word = str.__str__(start) if is_of(start, str) else None
    if word == "first":
        return 0
    if word == "new":
        return None
    if as_whole(start) is None:
        raise InvalidOptionError(f'start must be "first", "new", or the sequence to begin after, not {short(start)}')
    return check_version("start", start)


def place_of(store: object) -> object:
    """Return what all stores with the same events have in common, and no others."""
    return store._place if isinstance(store, StoreBase) else store


def note_written(store: object, sequence: int) -> None:
    """Tell those who notice it that this thread or task has stored events, which may have been done before.

    Args:
        store: Where.
        sequence: That of the last one.
    """
    noticed = written.get()
    if noticed:
        place = place_of(store)
        for one in noticed:
            one.note(place, sequence)


def lasting_store_metrics(store: StoreBase) -> Callable[[], StoreMetrics]:
    """Return a function that says what a store has counted, also when it is collected, which it does not prevent."""
    return store._counts.snapshot
