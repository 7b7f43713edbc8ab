"""``JetStreamEventStore``: events in a JetStream stream, one subject for each actor.

A write names the sequence that its actor's last event has to have, and the leader of the stream checks it. So a cached
version may be out of date: the write is refused and the version is read again, but no event is lost. When no answer
comes, the outcome is not guessed: the actor's last event is read from the leader and recognised by its id.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Unpack

from .._arguments import check_count, check_flag, check_int, check_options, is_of
from .._bus.store_watch import check_apart
from .._runtime.deadline import Deadline
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import last_words
from ..bus import EventBus
from ..connection import OPTIONS, Connection, ConnectionOptions, adopt
from ..errors import VersionConflictError
from ..event_types import EventTypes
from ..events import MAX_VERSION, Event
from ..health import Health
from ..metrics import CloseReport, StoreMetrics
from ..nats_bus import NATSEventBus
from ..patterns import SubscriptionFilter
from ._checks import check_actor_id, check_version, check_wanted, in_time, numbered
from ._jetstream.api import JetStream
from ._jetstream.cache import VersionCache
from ._jetstream.follower import JetStreamFollower, begin_following, stats_of
from ._jetstream.history import History
from ._jetstream.kept import KeptEvents
from ._jetstream.loader import Loader
from ._jetstream.names import Names
from ._jetstream.parts import StoreParts
from ._jetstream.reader import Reader, valid
from ._jetstream.saves import Saves
from ._jetstream.snapshots import Snapshots
from ._jetstream.stream import MAX_REPLICAS, Stream, settings, snapshot_settings
from ._jetstream.turns import TurnStream
from ._jetstream.vitals import ask_for_vitals
from ._jetstream.writer import Writer
from ._measuring import measured
from ._store_base import StoreBase
from ._wanted import Wanted
from .base import AnyVersion, LoadedActor, Reading, Snapshot, StoredEvent
from .consumers.context import ConsumerContext
from .consumers.server_backend import ServerBackend

__all__ = ["JetStreamEventStore", "turns_of"]

_LAST = 0.1  # of the time to close, for the connection to send the last acknowledgements of handlers


class JetStreamEventStore(StoreBase, ForkAware):
    """Keeps events in a JetStream stream. All nodes that use the same stream and namespace share them.

    Nothing happens before the first use. If the stream is not there, saving, :meth:`start`, and the ``iterate()`` and
    ``run()`` of a consumer make it: on file, without limits, and so that nobody can delete an event. Reading does not
    make it: until somebody has made it there are no events, and a follower waits for it. Two stores with different
    pairs of stream and namespace share nothing.

    Args:
        connection: A :class:`Connection`, which closing the store leaves open; or what one is made from: a URL,
            several, or None for the environment's ``NATS_URL``, else the URL of the context that ``NATS_CONTEXT``
            names, else ``nats://127.0.0.1:4222``.
        stream: The name of the stream, with which its subjects begin.
        namespace: The namespace of the events, which becomes a part of the stream's name. ``EventStored`` is published
            under it, too.
        bus: The bus on which an ``EventStored`` is published for each event that is stored; see
            :meth:`set_broadcaster`.
        replicas: How many servers keep the stream if this store makes it: 1, or 3 to survive the loss of one; at
            most 5. A stream that fewer servers keep is refused. Dead letters and snapshots are kept by as many servers
            as the events.
        cache_bytes: Bytes of memory for the events of actors that were read or written lately, as far as that can be
            estimated; 0 keeps none. An actor that is kept is loaded again in one round trip, however long it is. The
            default is 64 MiB, about 50,000 events of 300 bytes.
        snapshots_kept: How many snapshots of each actor are kept, the latest ones. A stream of snapshots that keeps
            fewer is refused; one that keeps more is used as it is.
        cached_actors: Of how many actors the store remembers the version, those that were used last; each takes up to
            1 KB. A save first asks the server for the versions of actors that are not among them, for all of them at
            once.
        types: The classes of the events: ``append()`` takes their objects, and ``event.value`` returns them.
        **options: Those of :class:`Connection`, if the store makes its own.

    Raises:
        InvalidOptionError: An option is wrong; or the connection is of a context that wants another JetStream than the
            account's own (``jetstream_domain``, ``jetstream_api_prefix``), or answers elsewhere (``inbox_prefix``).
    """

    def __init__(
        self,
        connection: Connection | str | Sequence[str] | None = None,
        stream: str = "events",
        *,
        namespace: str | None = None,
        bus: EventBus | None = None,
        replicas: int = 1,
        cache_bytes: int = 64 * 2**20,
        snapshots_kept: int = 1,
        cached_actors: int = 16_384,
        types: EventTypes | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        check_options(JetStreamEventStore, options, OPTIONS)
        replicas = check_count("replicas", replicas, MAX_REPLICAS)
        self._cached_actors = check_count("cached_actors", cached_actors)
        self._names = Names(stream, namespace)
        self._replicas = replicas
        self._cache_bytes = check_int("cache_bytes", cache_bytes, 0, MAX_VERSION)
        self._snapshots_kept = check_count("snapshots_kept", snapshots_kept)
        check_apart(self.stream, "aether")  # that of most buses, which this store need not know
        self._connection, self._channel, self._owns_connection = adopt(
            connection, options, _perhaps_a_stream(connection), for_store=True
        )
        super().__init__(self._channel.reporter, types, stream=self._names.stream)
        self._destination = self._place = self.stream
        self._namespace = namespace
        self._jetstream = JetStream(self._channel)
        self._make_parts()
        fork_aware.add(self)
        if bus is not None:
            self.set_broadcaster(bus, namespace)

    def _make_parts(self) -> None:
        self._cache = VersionCache(self._cached_actors)
        self._saves = Saves(self._jetstream, self._names)
        self._reader = Reader(self._jetstream, self._names, self._cache, self._saves, self._kind)
        self._kept = KeptEvents(self._cache_bytes)
        self._loader = Loader(self._jetstream, self._names, self._reader, self._kept, self._counts)
        self._writer = Writer(self._jetstream, self._names, self._cache, self._reader, self._loader, self._counts)
        self._stream = Stream(self._jetstream, settings(self._names, self._replicas), renewed=self._forget)
        self._history = History(self._jetstream, self._names, self._cache, self._reader)
        kept = Stream(self._jetstream, snapshot_settings(self._names, self._snapshots_kept), self._stream)
        self._snapshots = Snapshots(
            self._jetstream, self._names, self._reader, self._loader, self._stream, kept, self._reporter
        )
        self._followers: WeakRegistry[JetStreamFollower] = WeakRegistry()
        self._parts = StoreParts(
            self._channel,
            self._reporter,
            self._jetstream,
            self._names,
            self._stream,
            self._cache,
            self._reader,
            self._counts,
        )
        self._consumers = ConsumerContext(ServerBackend(self._parts))

    def _forget(self, is_another: bool) -> None:
        """Forget what was read, as the stream may be another one now."""
        self._cache.forget(is_another)
        self._saves.forget()
        self._kept.forget()

    def _after_fork(self) -> None:
        self._make_parts()

    @property
    def connection(self) -> Connection:
        """The connection it uses."""
        return self._connection

    @property
    def stream(self) -> str:
        """The name of the stream that has its events."""
        return self._names.stream

    @measured
    def start(self, timeout: float | None = 5.0) -> None:
        """Connect, and make the stream if it is not there. Without it, the first use does so.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            StreamMismatchError: The stream is there with other settings, or that of the snapshots keeps fewer than
                ``snapshots_kept``; the error names each.
            StoreUnavailableError: The server has no JetStream, or cannot make the stream; or the stream was there and
                is gone.
            PermissionDeniedError: The user lacks a right; the error names it.
        """
        deadline = self._deadline(timeout)
        self._stream.verify(deadline)
        if self._snapshots_kept > 1:  # else any stream of snapshots keeps enough, and the user may have no right to ask
            self._snapshots.check(deadline)

    def _has_stream(self, deadline: Deadline) -> bool:
        """Whether the stream is there. Reading does not make it."""
        return self._stream.find(deadline) is not None

    def _may_have(self, actor_id: str, deadline: Deadline) -> bool:
        """Whether an actor may have events: not while there is no stream, whatever others have announced."""
        self._names.subject(actor_id)  # or the id is too long
        known = self._cache.get(actor_id)
        if self._has_stream(deadline):
            return True
        self._cache.replace(actor_id, 0, 0, known)
        return False

    def _check_bus(self, bus: EventBus) -> None:
        if isinstance(bus, NATSEventBus):
            check_apart(self.stream, bus.prefix)

    # -- saving

    def _save(self, events: tuple[Event, ...], deadline: Deadline) -> list[StoredEvent]:
        return self._writer.commit(events, None, self._stream.open(deadline), deadline)

    def _append(
        self, actor_id: str, events: tuple[Event, ...], expected: int | AnyVersion, deadline: Deadline
    ) -> list[StoredEvent]:
        if isinstance(expected, int):
            return self._commit(numbered(events, expected), expected, deadline)
        self._stream.open(deadline)
        while True:
            known = self._cache.get(actor_id)
            is_asked = known is None or known.is_doubtful
            if known is None or known.is_doubtful:
                self._counts.version_misses()
                known = self._reader.refresh(actor_id, deadline)
            try:
                return self._commit(numbered(events, known.version), known.version, deadline, is_asked=is_asked)
            except VersionConflictError:
                if not deadline.remaining():
                    raise
                self._counts.retries()

    def _commit(
        self, events: Sequence[Event], exactly: int | None, deadline: Deadline, *, is_asked: bool = False
    ) -> list[StoredEvent]:
        return self._writer.commit(events, exactly, self._stream.open(deadline), deadline, is_asked=is_asked)

    # -- reading

    def _get_events(self, actor_id: str, wanted: Wanted, deadline: Deadline) -> list[Event]:
        if not self._may_have(actor_id, deadline):
            return []
        return [one.event for one in self._loader.load(actor_id, wanted, deadline)]

    def iter_events(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        Deadline(timeout)
        actor_id, from_version, to_version = _checked_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        return self._counts.iterated("iter_events", self._iterate(actor_id, from_version, to_version, timeout))

    def _iterate(
        self, actor_id: str, from_version: int, to_version: int | None, timeout: float | None
    ) -> Iterator[Event]:
        deadline = self._deadline(timeout)
        if not self._may_have(actor_id, deadline):
            return
        after = self._reader.sequence_before(actor_id, from_version, deadline)
        for found in self._reader.read(actor_id, from_version, to_version, lambda: Deadline(timeout), after):
            self._refuse_if_closed()
            yield valid(found).event

    @measured
    def get_events_with_errors(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Reading:
        actor_id, from_version, to_version = _checked_range(actor_id, from_version, to_version)
        deadline = self._deadline(timeout)
        reading = Reading([], [])
        if not self._may_have(actor_id, deadline):
            return reading
        found_all = self._reader.read(actor_id, from_version, to_version, lambda: deadline, torn=True)
        for found in in_time(found_all, deadline):
            if isinstance(found, StoredEvent):
                reading.events.append(found)
            else:
                reading.malformed.append(found)
        self._counts.read(len(reading.events))
        return reading

    @measured
    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        deadline = self._deadline(timeout)
        return self._reader.refresh(actor_id, deadline).version if self._may_have(actor_id, deadline) else 0

    def _read_all(self, page: Wanted, wanted: SubscriptionFilter, deadline: Deadline) -> list[StoredEvent]:
        return self._history.read(page, wanted, deadline) if self._has_stream(deadline) else []

    def _last_sequence(self, wanted: SubscriptionFilter, deadline: Deadline) -> int:
        return self._history.last_sequence(wanted, deadline) if self._has_stream(deadline) else 0

    @measured
    def actors(self, pattern: str | None = None, *, timeout: float | None = 5.0) -> list[str]:  # noqa: D102
        wanted = check_wanted("pattern", pattern)
        deadline = self._deadline(timeout)
        if not self._has_stream(deadline):
            return []
        subjects = self._jetstream.counts(
            self._names.stream, self._names.wanted(wanted.actor_pattern or None), deadline
        )
        ids = map(self._names.actor_id_of, in_time(subjects, deadline))
        return sorted(one for one in ids if one is not None and wanted.matches_actor(one))

    # -- snapshots

    @measured
    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:  # noqa: D102
        return self._snapshots.save(snapshot, self._deadline(timeout))

    @measured
    def get_snapshots(self, actor_id: str, *, timeout: float | None = 5.0) -> list[Snapshot]:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        self._names.subject(actor_id)  # or the id is too long
        return self._snapshots.all(actor_id, self._deadline(timeout))

    @measured
    def get_latest_snapshot(  # noqa: D102
        self, actor_id: str, *, to_version: int | None = None, timeout: float | None = 5.0
    ) -> Snapshot | None:
        actor_id = check_actor_id(actor_id)
        to_version = None if to_version is None else check_version("to_version", to_version)
        self._names.subject(actor_id)  # or the id is too long
        return self._snapshots.latest(actor_id, to_version, self._deadline(timeout))

    def _load(self, actor_id: str, schema_version: int, deadline: Deadline) -> LoadedActor:
        self._refuse_if_closed()
        if not self._may_have(actor_id, deadline):
            return LoadedActor(actor_id, None, [])
        ending = self._reader.ask_tail(actor_id, deadline)  # in one go with the question for the snapshot
        try:
            last = self._snapshots.last_record(actor_id, deadline)
            snapshot = None if last is None else self._snapshots.parsed(last)
            if isinstance(snapshot, Snapshot) and snapshot.schema_version == schema_version:
                wanted = Wanted(snapshot.version, after=max(0, snapshot.sequence - 1))  # with the event of its version
                found = self._loader.load(actor_id, wanted, deadline, ending)
                if found and (found[0].event.version, found[0].sequence) == (snapshot.version, snapshot.sequence):
                    return LoadedActor(actor_id, snapshot, [one.event for one in found[1:]])
        finally:
            ending.forget()
        chosen = self._chosen([] if last is None else self._snapshots.all(actor_id, deadline), schema_version)
        wanted = Wanted() if chosen is None else Wanted(chosen.version + 1, after=chosen.sequence)
        return LoadedActor(actor_id, chosen, [one.event for one in self._loader.load(actor_id, wanted, deadline)])

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
    ) -> JetStreamFollower:
        after = check_version("after", after)
        wanted = check_wanted("actors", actors, event_types, self._types)
        allow_ahead = check_flag("allow_ahead", allow_ahead)
        deadline = self._deadline(timeout)
        follower = JetStreamFollower(self._parts, after, wanted, allow_ahead=allow_ahead)
        try:
            begin_following(follower, deadline)
            self._followers.add(follower)
            self._refuse_if_closed()
        except BaseException:
            follower.close()
            raise
        return follower

    # -- consuming

    def _open_consumers(self) -> ConsumerContext:
        self._refuse_if_closed()
        return self._consumers

    # -- what other nodes store

    def cached_version(self, actor_id: str) -> int | None:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        self._refuse_if_closed()
        known = self._cache.get(actor_id)
        return None if known is None else max(known.version, known.announced)

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        version = check_version("version", version, least=1)
        self._refuse_if_closed()
        sequence = None if sequence is None else check_version("sequence", sequence, least=1)
        self._names.subject(actor_id)  # or the id is too long
        self._cache.announce(actor_id, version, sequence)

    # -- its state

    def health(self, *, timeout: float | None = 0.5) -> Health:  # noqa: D102
        deadline, about = Deadline(timeout), f"the store of stream {self.stream!r}"
        if self._closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        parts = (self._connection.health(),)
        if not self._channel.is_connected or deadline.timeout == 0:
            return Health.of(about, parts=parts)
        reasons, numbers = ask_for_vitals(self._stream, deadline)
        return Health.of(about, reasons, numbers=numbers, parts=parts)

    def metrics(self) -> StoreMetrics:  # noqa: D102
        followers = [stats_of(one) for one in self._followers if not one.closed]
        return self._counts.snapshot(stream=self.stream, kept_bytes=self._kept.size, followers=tuple(followers))

    # -- its end

    def close(self, timeout: float | None = 5.0) -> CloseReport:  # noqa: D102
        deadline = Deadline(timeout)
        self._closed = True
        left = self._end_projections(_all_but_the_last_of(deadline))
        for follower in self._followers:
            follower.close()
        left += self._consumers.close(_all_but_the_last_of(deadline))
        self._jetstream.close(self._closed_error())
        report = CloseReport()
        if self._owns_connection:
            report = self._connection.close(deadline.timeout_left())
        else:
            self._reporter.flush(last_words(deadline))
        return replace(report, handlers_left=left, timed_out=report.timed_out or left > 0)

    def __repr__(self) -> str:
        return (
            f"<JetStreamEventStore {self._names.stream!r} {'closed' if self._closed else self._channel.slot.summary}>"
        )


def turns_of(store: JetStreamEventStore) -> TurnStream:
    """Return where it is written which process of a store does periodic work."""
    return TurnStream(store._jetstream, store._names, store._stream)


def _all_but_the_last_of(deadline: Deadline) -> Deadline:
    timeout = deadline.timeout_left()
    return Deadline(None if timeout is None else timeout * (1 - _LAST))


def _perhaps_a_stream(connection: object) -> str:
    """Return a question for whoever gave the name of a stream in place of a URL; an empty text for anything else.

    A host may have such a name, too, so the question is put only when no host has it. A text with other characters
    than those of a name may have a secret in it.
    """
    text = str.__str__(connection) if is_of(connection, str) else ""
    is_name = re.fullmatch(r"[\w-]+", text) is not None and text != "localhost"
    return f"; did you mean stream={text!r}?" if is_name else ""


def _checked_range(actor_id: str, from_version: int, to_version: int | None) -> tuple[str, int, int | None]:
    first = check_version("from_version", from_version)
    last = None if to_version is None else check_version("to_version", to_version)
    return check_actor_id(actor_id), first, last
