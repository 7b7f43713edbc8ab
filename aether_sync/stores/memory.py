"""``InMemoryEventStore``: an event store in this process, for tests and demos."""

import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Never

from .._arguments import check_count, check_flag
from .._runtime.deadline import Deadline
from .._runtime.reporter import Reporter, last_words
from .._values.shown import short
from ..bus import EventBus
from ..errors import DuplicateIdError, InvalidOptionError, StreamRegressionError, UnsupportedError, VersionConflictError
from ..event_types import EventTypes
from ..events import Event
from ..health import Health
from ..metrics import CloseReport, StoreMetrics
from ..patterns import SubscriptionFilter, check_namespace
from ._checks import (
    check_actor_id,
    check_version,
    check_wanted,
    copied_snapshot,
    is_same,
    latest_of,
    numbered,
    refuse_ahead,
    replaces,
)
from ._measuring import measured
from ._memory_consumers import MemoryBackend
from ._memory_log import Log, LogFollower, fresh, off_the_wire, stats_of_followers
from ._store_base import StoreBase
from ._wanted import Wanted
from .base import ANY_VERSION, AnyVersion, Follower, LoadedActor, Reading, Snapshot, StoredEvent
from .consumers.context import ConsumerContext

__all__ = ["InMemoryEventStore"]

_SERVER = "an in-memory store has no server to connect to, and is ready at once"
_NOT_HERE = {  # what a JetStreamEventStore has besides
    "connection": _SERVER,
    "start": _SERVER,
    "stream": _SERVER,
}
_PAGE = 256  # events that iter_events() reads at once


class InMemoryEventStore(StoreBase):
    """An event store in this process, for tests and demos: it ends with the process.

    It gives the guarantees of ``JetStreamEventStore`` within one process. Its consumers are durable as long as the
    store: they end with it, and with the process. Readers get events as they come off the wire: an event is encoded and
    decoded once, tuples become lists, and nobody is given the dict of the program that saved it. No call has to wait,
    so ``timeout`` only matters to followers, and to those who wait for a consumer.

    After a fork, the child has a store of its own, with the events that were stored before, and with its consumers,
    each as far as it was: what is worked on in the parent is delivered there again when its ack wait is over.

    Args:
        bus: The bus on which an ``EventStored`` is published for each event; see :meth:`set_broadcaster`.
        namespace: The namespace to publish under.
        snapshots_kept: How many snapshots of each actor are kept, the latest ones.
        types: The classes of the events: ``append()`` takes their objects, and ``event.value`` returns them.

    Raises:
        InvalidOptionError: A bus was given and no namespace, or ``snapshots_kept`` is less than 1.
        InvalidNamespaceError: ``namespace`` is not valid.
    """

    def __init__(
        self,
        *,
        bus: EventBus | None = None,
        namespace: str | None = None,
        snapshots_kept: int = 1,
        types: EventTypes | None = None,
    ) -> None:
        self._snapshots_kept = check_count("snapshots_kept", snapshots_kept)
        namespace = None if namespace is None else check_namespace(namespace)
        super().__init__(Reporter(), types)
        weakref.finalize(self, self._reporter.end).atexit = False
        self._namespace, self._destination = namespace, namespace or ""
        self._log = Log()
        self._backend = MemoryBackend(self._log, self._destination, self._reporter)
        self._consumers = ConsumerContext(self._backend)
        self._snapshots: dict[str, tuple[Snapshot, ...]] = {}  # by actor, the latest last; guarded by the log's lock
        if bus is not None:
            self.set_broadcaster(bus, namespace)

    # -- saving

    def _save(self, events: tuple[Event, ...], deadline: Deadline) -> list[StoredEvent]:
        copies = [off_the_wire(event, self._kind) for event in events]
        return self._store(lambda: copies)

    def _append(
        self, actor_id: str, events: tuple[Event, ...], expected: int | AnyVersion, deadline: Deadline
    ) -> list[StoredEvent]:
        copies = [off_the_wire(event, self._kind) for event in events]

        def number() -> Sequence[Event]:
            current = self._log.version(actor_id)
            if expected is ANY_VERSION:
                return numbered(copies, current)
            if expected > current:
                raise VersionConflictError(actor_id, expected + 1, current)
            return numbered(copies, expected)

        while True:
            try:
                return self._store(number)
            except VersionConflictError:  # with ANY_VERSION: a signal handler has stored one since they were numbered
                if expected is not ANY_VERSION:
                    raise

    def _store(self, number: Callable[[], Sequence[Event]]) -> list[StoredEvent]:
        """Store events, all or none, with the versions that ``number`` gives them under the lock."""
        try:
            while True:
                with self._log.lock:
                    self._refuse_if_closed()
                    first = self._log.end() + 1
                    events = number()
                    stored = self._found_stored(events) or self._log.add(first, events)
                    if stored:
                        return stored
        finally:  # also if an interrupt comes after they are stored
            self._log.waiting.wake_all()

    def _found_stored(self, events: Sequence[Event]) -> list[StoredEvent]:
        """Return the events if an earlier attempt has stored them, ``[]`` if they can be stored; raise otherwise."""
        late = next((event for event in events if event.version <= self._log.version(event.actor_id)), None)
        if late is None:
            return []
        there = [(one, event) for event in events if (one := self._log.find(event.actor_id, event.version)) is not None]
        differing = [(one, event) for one, event in there if not is_same(one.event, event)]
        if len(there) == len(events) and not differing:
            return [StoredEvent(one.event, one.sequence, True, one.ends_batch, one.batch) for one, _ in there]
        for one, event in differing:
            if one.event.id == event.id:
                raise DuplicateIdError(
                    f"version {event.version} of actor {short(event.actor_id)} is stored under the same id, "
                    f"{short(event.id)}, and says something else: make a new Event"
                )
        raise VersionConflictError(late.actor_id, late.version, self._log.version(late.actor_id))

    # -- reading

    def _get_events(self, actor_id: str, wanted: Wanted, deadline: Deadline) -> list[Event]:
        return [off_the_wire(one.event, self._kind) for one in self._pick(actor_id, wanted)]

    def iter_events(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        wanted = Wanted.checked(from_version, to_version, limit=_PAGE)
        actor_id = check_actor_id(actor_id)
        self._deadline(timeout)
        return self._counts.iterated("iter_events", self._pages(actor_id, wanted))

    def _pages(self, actor_id: str, wanted: Wanted) -> Iterator[Event]:
        while page := self._pick(actor_id, wanted):
            for one in page:
                yield off_the_wire(one.event, self._kind)
            wanted = wanted._replace(after=page[-1].sequence)

    @measured
    def get_events_with_errors(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        wanted = Wanted.checked(from_version, to_version)
        self._deadline(timeout)
        stored = self._pick(check_actor_id(actor_id), wanted)
        self._counts.read(len(stored))
        return Reading([fresh(one) for one in stored], [])

    def _pick(self, actor_id: str, wanted: Wanted) -> list[StoredEvent]:
        with self._log.lock:
            self._refuse_if_closed()
            return wanted.pick(self._log.history(actor_id))

    def _read_all(self, page: Wanted, wanted: SubscriptionFilter, deadline: Deadline) -> list[StoredEvent]:
        end = min(page.until, self._end())
        there = (self._log[sequence] for sequence in range(page.after + 1, end + 1))
        return [fresh(one) for one in islice((one for one in there if wanted.matches(one.event)), page.limit)]

    @measured
    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        Deadline(timeout)
        return self._version(actor_id)

    def _version(self, actor_id: str) -> int:
        actor_id = check_actor_id(actor_id)
        with self._log.lock:
            self._refuse_if_closed()
            return self._log.version(actor_id)

    def _last_sequence(self, wanted: SubscriptionFilter, deadline: Deadline) -> int:
        if wanted.is_empty:
            return self._end()
        with self._log.lock:
            self._refuse_if_closed()
            latest = self._log.latest()
        return max((one.sequence for one in latest if wanted.matches(one.event)), default=0)

    def _end(self) -> int:
        """Return the sequence of the last event."""
        with self._log.lock:
            self._refuse_if_closed()
            return self._log.end()

    @measured
    def actors(self, pattern: str | None = None, *, timeout: float | None = 5.0) -> list[str]:  # noqa: D102
        Deadline(timeout)
        wanted = check_wanted("pattern", pattern)
        with self._log.lock:
            self._refuse_if_closed()
            latest = self._log.latest()
        return sorted(one.event.actor_id for one in latest if wanted.matches(one.event))

    # -- snapshots

    @measured
    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:  # noqa: D102
        Deadline(timeout)
        copy = copied_snapshot(snapshot)
        with self._log.lock:  # accepted race: a signal handler may save one in here, and the older one stays: no harm
            self._refuse_if_closed()
            refuse_ahead(copy, self._log.version(copy.actor_id))
            kept = self._snapshots.get(copy.actor_id, ())
            if kept and not replaces(copy, kept[-1]):
                return False
            copy = replace(copy, sequence=self._sequence_of(copy))
            self._snapshots[copy.actor_id] = (*kept, copy)[-self._snapshots_kept :]
            return True

    def _sequence_of(self, snapshot: Snapshot) -> int:
        """Return the sequence of the event of its version."""
        stored = self._log.find(snapshot.actor_id, snapshot.version)
        if stored is None:
            raise InvalidOptionError(
                f"a snapshot of actor {short(snapshot.actor_id)} says version {snapshot.version}, which no event of it "
                "has"
            )
        return stored.sequence

    @measured
    def get_snapshots(self, actor_id: str, *, timeout: float | None = 5.0) -> list[Snapshot]:  # noqa: D102
        Deadline(timeout)
        return list(map(copied_snapshot, self._snapshots_of(check_actor_id(actor_id))))

    @measured
    def get_latest_snapshot(  # noqa: D102
        self, actor_id: str, *, to_version: int | None = None, timeout: float | None = 5.0
    ) -> Snapshot | None:
        Deadline(timeout)
        to_version = None if to_version is None else check_version("to_version", to_version)
        found = latest_of(self._snapshots_of(check_actor_id(actor_id)), to_version)
        return None if found is None else copied_snapshot(found)  # the reader may change the state

    def _snapshots_of(self, actor_id: str) -> tuple[Snapshot, ...]:
        with self._log.lock:
            self._refuse_if_closed()
            return self._snapshots.get(actor_id, ())

    def _load(self, actor_id: str, schema_version: int, deadline: Deadline) -> LoadedActor:
        found = self._chosen(self._snapshots_of(actor_id), schema_version)
        snapshot = None if found is None else copied_snapshot(found)
        wanted = Wanted() if snapshot is None else Wanted(snapshot.version + 1)
        return LoadedActor(actor_id, snapshot, self._get_events(actor_id, wanted, deadline))

    # -- following

    @measured
    def follow(  # noqa: D102
        self,
        *,
        after: int = 0,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        allow_ahead: bool = False,
        timeout: float | None = 5.0,
    ) -> Follower:
        after = check_version("after", after)
        wanted = check_wanted("actors", actors, event_types, self._types)
        allow_ahead = check_flag("allow_ahead", allow_ahead)
        self._deadline(timeout)
        last = self._end()
        if after > last and not allow_ahead:
            raise StreamRegressionError(
                f"{self!r} ends at sequence {last}, and was to be followed after {after}: what was read of it is lost; "
                "begin again, with after=0"
            )
        return LogFollower(self._log, after, wanted, self._counts)

    # -- consuming

    def _open_consumers(self) -> ConsumerContext:
        self._refuse_if_closed()
        return self._consumers

    # -- other nodes

    def cached_version(self, actor_id: str) -> int | None:  # noqa: D102
        return self._version(actor_id) or None

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Check the arguments, and do nothing: this store knows the versions of its actors itself."""
        check_actor_id(actor_id)
        check_version("version", version, 1)
        if sequence is not None:
            check_version("sequence", sequence, 1)
        self._refuse_if_closed()

    # -- what only a JetStreamEventStore has

    if not TYPE_CHECKING:  # for the type checker it has no such attribute

        def __getattr__(self, name: str) -> Never:
            reason = _NOT_HERE.get(name)
            if reason is not None:
                raise UnsupportedError(f"InMemoryEventStore has no {name}: {reason}")
            raise AttributeError(f"'InMemoryEventStore' object has no attribute {name!r}", name=name, obj=self)

    # -- its state

    def health(self, *, timeout: float | None = 0.5) -> Health:  # noqa: D102
        Deadline(timeout)
        about = "the store in memory"
        if self._closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        return Health(about=about, numbers={"events": self._log.size, "last_sequence": self._log.end()})

    def metrics(self) -> StoreMetrics:  # noqa: D102
        return self._counts.snapshot(followers=stats_of_followers(self._log))

    # -- its end

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """End every iteration and every runner. Events that are being stored are stored first.

        Any thread may call it, repeatedly.

        Args:
            timeout: Seconds for the batches of projections that are being applied, for the handlers of runners, and for
                log handlers that are still at work; nothing else takes time.

        Returns:
            What was left undone: batches and handlers that still run.
        """
        deadline = Deadline(timeout)
        self._closed = True
        left = self._end_projections(deadline)
        self._log.close()
        self._backend.close()
        left += self._consumers.close(deadline)
        self._reporter.close(last_words(deadline))
        return CloseReport(handlers_left=left, timed_out=left > 0)

    def __repr__(self) -> str:
        state = " closed" if self._closed else ""
        return f"<InMemoryEventStore {self._log.size} events of {self._log.actor_count} actors{state}>"
