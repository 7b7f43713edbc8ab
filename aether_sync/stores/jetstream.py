"""``JetStreamEventStore``: events in a JetStream stream, one subject for each actor.

A write carries the sequence that its actor's last event is expected to have; the leader of the stream checks it. So
what is known here of versions may be as old as it likes: it costs a refusal and a look, never a lost event. An answer
that does not come is not guessed at: the actor's last event is read from the leader, and known by its id.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Unpack

from .._checks import check_count
from .._deadline import Deadline
from .._fork import Heir, heirs
from .._waiting import Living
from ..bus import EventBus
from ..connection import Connection, ConnectionOptions
from ..errors import InvalidOptionError, VersionConflictError
from ..events import Event
from ..nats_bus import NATSEventBus
from ..patterns import SubscriptionFilter, actor_matcher
from ._cache import VersionCache
from ._jetstream import JetStream
from ._names import Names
from ._reading import Reader
from ._snapshots import Snapshots
from ._stream import open_stream, settings
from ._writing import Writer
from .base import AnyVersion, Reading, Snapshot, StoredEvent
from .common import MAX_VERSION, StoreBase, check_actor_id, check_version, numbered
from .follow import JetStreamFollower

__all__ = ["JetStreamEventStore"]


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
        self.refuse_prefix("aether")  # of a bus that is not known here
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
        self._reader = Reader(self._jetstream, self._names, self._cache)
        self._writer = Writer(self._jetstream, self._names, self._cache, self._reader)
        self._snapshots = Snapshots(self._jetstream, self._names, self._cache, self._reader, self._replicas)
        self._followers: Living[JetStreamFollower] = Living()
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
            self.refuse_prefix(bus.prefix)

    def refuse_prefix(self, prefix: str) -> None:
        """Refuse to keep what a bus with this prefix publishes."""
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
            known = self._cache.get(actor_id) or self._reader.look(actor_id, deadline)
            try:
                return self._commit(numbered(events, known.version), known.version, deadline)
            except VersionConflictError:
                if not deadline.remaining():
                    raise

    def _commit(self, events: Sequence[Event], exactly: int | None, deadline: Deadline) -> list[StoredEvent]:
        atomic = self._open(deadline).get("allow_atomic", False)
        return self._writer.commit(events, exactly, atomic, deadline)

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
        actor_id = _check_range(actor_id, from_version, to_version)
        if until is not None:
            check_version("until", until)
        self._refuse_if_closed()
        self._open(deadline)
        reading = self._reader.range(actor_id, from_version, to_version, deadline)
        if reading.malformed:
            raise reading.malformed[0].error
        return [one.event for one in reading.events if until is None or one.sequence <= until]

    def iter_events(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        Deadline(timeout)
        actor_id = _check_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        return self._iterate(actor_id, from_version, to_version, timeout)

    def _iterate(
        self, actor_id: str, from_version: int, to_version: int | None, timeout: float | None
    ) -> Iterator[Event]:
        last = to_version if to_version is not None else MAX_VERSION
        self._open(Deadline(timeout))
        for record in self._reader.records(actor_id, from_version, timeout):
            self._refuse_if_closed()
            event = self._reader.decoded(record)
            if event.version > last:
                return
            if event.version >= from_version:
                yield event

    def get_events_with_errors(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        deadline = Deadline(timeout)
        actor_id = _check_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        self._open(deadline)
        return self._reader.range(actor_id, from_version, to_version, deadline)

    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        deadline = Deadline(timeout)
        actor_id = check_actor_id(actor_id)
        self._refuse_if_closed()
        self._open(deadline)
        return self._reader.look(actor_id, deadline).version

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

    # -- snapshots

    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:  # noqa: D102
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        self._open(deadline)
        return self._snapshots.save(snapshot, deadline)

    def get_latest_snapshot(self, actor_id: str, *, timeout: float | None = 5.0) -> Snapshot | None:  # noqa: D102
        deadline = Deadline(timeout)
        actor_id = check_actor_id(actor_id)
        self._refuse_if_closed()
        self._open(deadline)
        return self._snapshots.latest(actor_id, deadline)

    def _events_after(self, actor_id: str, snapshot: Snapshot | None, deadline: Deadline) -> list[Event]:
        if snapshot is None:
            return self.get_events(actor_id, timeout=deadline.timeout_left())
        reading = self._reader.range(actor_id, snapshot.version + 1, None, deadline, after=snapshot.sequence)
        if reading.malformed:
            raise reading.malformed[0].error
        return [one.event for one in reading.events]

    # -- following

    def follow(  # noqa: D102
        self,
        *,
        after: int = 0,
        actors: str | None = None,
        event_types: Iterable[str] = (),
        timeout: float | None = 5.0,
    ) -> JetStreamFollower:
        deadline = Deadline(timeout)
        check_version("after", after)
        wanted = SubscriptionFilter(event_types=event_types, actor_pattern=actors)
        self._refuse_if_closed()
        self._open(deadline)
        follower = JetStreamFollower(self._connection, self._jetstream, self._names, self._reader, after, wanted)
        try:
            follower.begin(deadline)
            self._followers.add(follower)
            self._refuse_if_closed()
        except BaseException:
            follower.close()
            raise
        return follower

    # -- what other nodes store

    def cached_version(self, actor_id: str) -> int | None:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        self._refuse_if_closed()
        known = self._cache.get(actor_id)
        return None if known is None else max(known.version, known.announced)

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        check_version("version", version, least=1)
        self._refuse_if_closed()
        if sequence is None:
            self._cache.announce(actor_id, version)
        else:
            check_version("sequence", sequence, least=1)
            self._cache.learn(actor_id, version, sequence)

    # -- its end

    def close(self) -> None:  # noqa: D102
        self._closed = True
        for follower in self._followers:
            follower.close()
        if self._owns_connection:
            self._connection.close()

    def __repr__(self) -> str:
        return f"<JetStreamEventStore {self._names.stream!r} {'closed' if self._closed else self._connection.summary}>"


def _check_range(actor_id: str, from_version: int, to_version: int | None) -> str:
    check_version("from_version", from_version)
    if to_version is not None:
        check_version("to_version", to_version)
    return check_actor_id(actor_id)
