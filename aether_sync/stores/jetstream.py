"""``JetStreamEventStore``: events in a JetStream stream, one subject for each actor.

A write carries the sequence that its actor's last event is expected to have; the leader of the stream checks it. So
what is known here of versions may be as old as it likes: it costs a refusal and a look, never a lost event. An answer
that does not come is not guessed at: the actor's last event is read from the leader, and known by its id.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Unpack

from .._arguments import check_count
from .._runtime.deadline import Deadline
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.registry import WeakRegistry
from ..bus import EventBus
from ..connection import Connection, ConnectionOptions, adopt
from ..errors import InvalidOptionError, StoreClosedError, VersionConflictError
from ..events import Event
from ..nats_bus import NATSEventBus
from ._checks import check_actor_id, check_version, check_wanted, in_time, numbered
from ._jetstream.api import JetStream
from ._jetstream.cache import VersionCache
from ._jetstream.follower import JetStreamFollower
from ._jetstream.names import Names
from ._jetstream.reader import Reader, valid
from ._jetstream.saves import Saves
from ._jetstream.snapshots import Snapshots
from ._jetstream.stream import Stream, settings
from ._jetstream.writer import Writer
from ._shared import StoreBase
from .base import AnyVersion, Reading, Snapshot, StoredEvent
from .consumers.consumer import MAX_ACK_PENDING, ConsumeOptions, Consumers
from .consumers.consumption import Consumption
from .consumers.dead_letters import DeadLetter
from .consumers.durable import ConsumerState
from .consumers.runner import Handler, Runner

__all__ = ["JetStreamEventStore"]

_CLOSE = 5.0  # seconds for all of it
_LAST = 0.5  # of these for the connection, to send what handlers have said to the last


class JetStreamEventStore(StoreBase, ForkAware):
    """Keeps events in a JetStream stream, for all nodes that use the same stream and namespace.

    Nothing happens before the first use. The stream is made by :meth:`start`, :meth:`consume`, :meth:`run` and what
    saves, if it is not there: on file, with limits on nothing, and such that nobody can delete an event. Reading makes
    none: as long as nobody has made it there are no events, and a follower waits for it. Two stores with different
    pairs of stream and namespace share nothing.

    Args:
        connection: A :class:`Connection`, which closing the store leaves open; or what one is made from: a URL,
            several, or None for the environment's ``NATS_URL``, else ``nats://127.0.0.1:4222``.
        stream: What the stream is called, and its subjects begin with.
        namespace: Whose events they are; also where ``EventStored`` is published if there is a bus.
        bus: Where an ``EventStored`` is published for each event that is stored; see :meth:`set_broadcaster`.
        replicas: How many servers keep the stream if this store makes it: 1, or 3 to survive the loss of one. One that
            fewer keep is refused. What consumers gave up and snapshots are kept by as many servers as the events are.
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
        replicas = check_count("replicas", replicas)
        self._names = Names(stream, namespace)
        self._namespace = namespace
        self._replicas = replicas
        self.refuse_prefix("aether")  # of a bus that is not known here
        self._connection, self._channel, self._owns_connection = adopt(connection, options)
        self._jetstream = JetStream(self._channel)
        self._begin()
        fork_aware.add(self)
        if bus is not None:
            self.set_broadcaster(bus, namespace)

    def _begin(self) -> None:
        self._cache = VersionCache()
        self._saves = Saves(self._jetstream, self._names)
        self._reader = Reader(self._jetstream, self._names, self._cache, self._saves)
        self._writer = Writer(self._jetstream, self._names, self._cache, self._reader, self._saves)
        self._stream = Stream(self._jetstream, settings(self._names, self._replicas), renewed=self._forget)
        self._snapshots = Snapshots(self._jetstream, self._names, self._reader, self._stream)
        self._followers: WeakRegistry[JetStreamFollower] = WeakRegistry()
        self._consumers = Consumers(self._channel, self._jetstream, self._names, self._reader, self._stream)

    def _forget(self, is_another: bool) -> None:
        """Forget what is known of a past that may be another one now."""
        self._cache.forget(is_another)
        self._saves.forget()

    def _after_fork(self) -> None:
        self._begin()

    @property
    def connection(self) -> Connection:
        """The connection it uses."""
        return self._connection

    def start(self, timeout: float | None = 5.0) -> None:
        """Connect and see that the stream is there, now; make it if it is not, as the first save does too.

        Raises:
            StreamMismatchError: There is such a stream with other settings; the error names each.
            StoreUnavailableError: There is no JetStream, or the stream cannot be made; or it was there, and is gone.
            PermissionDeniedError: The user lacks a right; the error names it.
        """
        self._stream.look(self._deadline(timeout))

    def _deadline(self, timeout: float | None) -> Deadline:
        """Refuse if it is closed, and return until when a call may take."""
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        return deadline

    def _has_stream(self, deadline: Deadline) -> bool:
        """Whether there is something to read: who reads makes no stream."""
        return self._stream.find(deadline) is not None

    def _may_have(self, actor_id: str, deadline: Deadline) -> bool:
        """Whether an actor may have events: not as long as there is no stream, whatever others have announced."""
        self._names.subject(actor_id)  # or the id is too long
        known = self._cache.get(actor_id)
        if self._has_stream(deadline):
            return True
        self._cache.replace(actor_id, 0, 0, known)
        return False

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
        self._stream.open(deadline)
        while True:
            known = self._cache.get(actor_id)
            if known is None or known.is_doubtful:
                known = self._reader.look(actor_id, deadline)
            try:
                return self._commit(numbered(events, known.version), known.version, deadline)
            except VersionConflictError:
                if not deadline.remaining():
                    raise

    def _commit(self, events: Sequence[Event], exactly: int | None, deadline: Deadline) -> list[StoredEvent]:
        return self._writer.commit(events, exactly, self._stream.open(deadline), deadline)

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
        actor_id, from_version, to_version = _checked_range(actor_id, from_version, to_version)
        until = None if until is None else check_version("until", until)
        deadline = self._deadline(timeout)
        if not self._may_have(actor_id, deadline):
            return []
        found = in_time(self._reader.read(actor_id, from_version, to_version, lambda: deadline), deadline)
        return [one.event for one in list(map(valid, found)) if until is None or one.sequence <= until]

    def iter_events(  # noqa: D102
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[Event]:
        Deadline(timeout)
        actor_id, from_version, to_version = _checked_range(actor_id, from_version, to_version)
        self._refuse_if_closed()
        return self._iterate(actor_id, from_version, to_version, timeout)

    def _iterate(
        self, actor_id: str, from_version: int, to_version: int | None, timeout: float | None
    ) -> Iterator[Event]:
        if not self._may_have(actor_id, self._deadline(timeout)):
            return
        for found in self._reader.read(actor_id, from_version, to_version, lambda: Deadline(timeout)):
            self._refuse_if_closed()
            yield valid(found).event

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
        return reading

    def get_latest_version(self, actor_id: str, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        deadline = self._deadline(timeout)
        return self._reader.look(actor_id, deadline).version if self._may_have(actor_id, deadline) else 0

    def last_sequence(self, *, timeout: float | None = 5.0) -> int:  # noqa: D102
        deadline = self._deadline(timeout)
        if not self._has_stream(deadline):
            return 0
        record = self._jetstream.last(self._names.stream, self._names.all_events, deadline)
        return 0 if record is None else self._saves.end_of_saves(record, deadline)

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

    def save_snapshot(self, snapshot: Snapshot, *, timeout: float | None = 5.0) -> bool:  # noqa: D102
        return self._snapshots.save(snapshot, self._deadline(timeout))

    def get_latest_snapshot(self, actor_id: str, *, timeout: float | None = 5.0) -> Snapshot | None:  # noqa: D102
        actor_id = check_actor_id(actor_id)
        self._names.subject(actor_id)  # or the id is too long
        return self._snapshots.latest(actor_id, self._deadline(timeout))

    def _events_after(self, actor_id: str, snapshot: Snapshot | None, deadline: Deadline) -> list[Event]:
        actor_id = check_actor_id(actor_id)
        if not self._may_have(actor_id, deadline):
            return []
        first, after = (0, 0) if snapshot is None else (snapshot.version + 1, snapshot.sequence)
        found = self._reader.read(actor_id, first, None, lambda: deadline, after)
        return [valid(one).event for one in in_time(found, deadline)]

    # -- following

    def follow(  # noqa: D102
        self,
        *,
        after: int = 0,
        actors: str | None = None,
        event_types: Iterable[str] = (),
        timeout: float | None = 5.0,
    ) -> JetStreamFollower:
        after = check_version("after", after)
        wanted = check_wanted("actors", actors, event_types)
        deadline = self._deadline(timeout)
        follower = JetStreamFollower(
            self._channel, self._jetstream, self._names, self._stream, self._reader, self._cache, after, wanted
        )
        try:
            follower.admit()
            follower.begin(deadline)
            self._followers.add(follower)
            self._refuse_if_closed()
        except BaseException:
            follower.close()
            raise
        return follower

    # -- consuming

    def consume(self, consumer: str, **options: Unpack[ConsumeOptions]) -> Consumption:
        """Join a durable consumer, or make it: each event goes to one of all processes and threads that iterate it.

        At least once: an event that is not acknowledged in time is delivered again, to any of them; so is one whose
        acknowledgement is lost with a connection. Who works on them notes which ``sequence`` had its effect.

        As long as one process alone consumes, an actor's events come in the order of the store, also across broken
        links: what was lost with one comes again when the ack wait is over, and until then later events of its actors
        wait here. An event that is delivered again because it was not acknowledged, or given back, comes later than
        others. Among several processes no order is kept, nor between one that was killed and the next: an earlier
        sequence than the last is not always a repeat. See :meth:`run` for several threads.

        A delivery counts as an attempt, whether it is worked on or not: what a process had at hand when it was killed
        is nearer to the dead-letter stream than before. ``prefetch`` says how much that may be.

        Args:
            consumer: Its name, for all who share it.
            **options: ``actors``: A pattern of actor ids; by default all.
                ``event_types``: Any of them; by default all types.
                ``start``: Where a new one begins: ``"first"`` (the default), ``"new"`` for what is stored from now on,
                or the sequence to begin after. One that is there goes on where it was.
                ``ack_wait``: Seconds after which an event that is not acknowledged is delivered again; 30 by default.
                What waits here to be taken is kept from that, and has three quarters of it when it is taken.
                ``max_deliver``: Deliveries of an event, before it goes to the dead-letter stream; 5 by default. The
                notices it when somebody asks for more.
                ``max_ack_pending``: Events being worked on, in all processes, those included that wait for an earlier
                one of their actor; 10,000 by default.
                ``prefetch``: Events that wait here to be taken; 64 by default.
                ``timeout``: Seconds for the beginning; 5 by default.

        Raises:
            StreamMismatchError: There is one of that name with other settings; the error names each.
        """
        self._refuse_if_closed()
        return self._consumers.consume(consumer, **options)

    def run(
        self,
        consumer: str,
        handler: Handler,
        *,
        threads: int = 4,
        retry_delay: float = 1.0,
        dead_letters: bool = False,
        **options: Unpack[ConsumeOptions],
    ) -> Runner:
        """Have a handler called with each delivery, on threads of its own, each actor's events one after the other.

        Args:
            consumer: As for :meth:`consume`.
            handler: Called with a :class:`Delivery`; several at a time. It need not acknowledge.
            threads: That many.
            retry_delay: Seconds before an event whose handler failed is tried again; doubled each time, up to 60.
            dead_letters: Handle what the consumer gave up, as :meth:`consume_dead_letters`.
            **options: Those of :meth:`consume`. ``max_deliver`` is also how often a handler is tried before the event
                is given up; ``prefetch``, 256 by default, how many events are here in the lanes of their actors, and
                how many wait to be put there. There are more while all of these wait for a few actors and threads have
                nothing to do.

        Returns:
            A started :class:`Runner`: keep it, and close it.
        """
        self._refuse_if_closed()
        return self._consumers.run(
            consumer, handler, threads=threads, retry_delay=retry_delay, dead_letters=dead_letters, **options
        )

    def dead_letters(self, consumer: str, *, limit: int = 1_000, timeout: float | None = 5.0) -> list[DeadLetter]:
        """Look at what a consumer gave up: events that it rejected, or that came ``max_deliver`` times in vain.

        What came in vain is told by the server once: it is missing here if the dead-letter stream had no leader
        then.

        Args:
            consumer: Its name.
            limit: Events at most.
            timeout: Seconds.

        Returns:
            The events, in the order of the store; they stay where they are.
        """
        self._refuse_if_closed()
        return self._consumers.dead_letters(consumer, limit, Deadline(timeout))

    def consume_dead_letters(
        self,
        consumer: str,
        *,
        ack_wait: float = 30.0,
        max_ack_pending: int = MAX_ACK_PENDING,
        prefetch: int = 64,
        timeout: float | None = 5.0,
    ) -> Consumption:
        """Work once more on what a consumer gave up, shared by processes as with :meth:`consume`.

        An ``ack()`` takes an event from the dead-letter stream for good. What is not acknowledged stays, and comes
        again, as often as it may be; what is rejected comes again after a minute.

        Args:
            consumer: Its name.
            ack_wait: As for :meth:`consume`.
            max_ack_pending: As well.
            prefetch: As well.
            timeout: Seconds for the beginning.
        """
        self._refuse_if_closed()
        return self._consumers.consume_dead_letters(
            consumer, ack_wait=ack_wait, max_ack_pending=max_ack_pending, prefetch=prefetch, timeout=timeout
        )

    def discard_dead_letters(self, consumer: str, sequence: int, *, timeout: float | None = 5.0) -> bool:
        """Take an event from the dead letters of a consumer without working on it; returns whether it was there."""
        self._refuse_if_closed()
        return self._consumers.discard_dead_letters(consumer, sequence, Deadline(timeout))

    def wait_for(self, sequence: int, consumer: str, *, timeout: float | None = 5.0) -> None:
        """Return when a consumer has acknowledged all of its events up to a sequence: what it builds shows them.

        An event that it gave up is not waited for; but one that was delivered ``max_deliver`` times may hold this up
        for as long as the consumer never rests.

        Args:
            sequence: Of an event, as saving it returned.
            consumer: Its name.
            timeout: Seconds.

        Raises:
            DeadlineExceededError: It had not in time; the error says how far it is.
            StoreError: There is no such consumer.
        """
        self._refuse_if_closed()
        self._consumers.wait_for(sequence, consumer, Deadline(timeout))

    def consumers(self, *, timeout: float | None = 5.0) -> list[ConsumerState]:
        """Return how far each durable consumer is, by name."""
        return self._consumers.states(self._deadline(timeout))

    def delete_consumer(self, consumer: str, *, timeout: float | None = 5.0) -> bool:
        """Forget a consumer, and how far it is; returns whether there was one. What it gave up stays."""
        self._refuse_if_closed()
        return self._consumers.forget(consumer, Deadline(timeout))

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

    # -- its end

    def close(self) -> None:  # noqa: D102
        self._closed = True
        deadline = Deadline(_CLOSE)
        for follower in self._followers:
            follower.close()
        self._consumers.close(Deadline(_CLOSE - _LAST))
        self._jetstream.close(StoreClosedError(f"{self!r} is closed"))
        if self._owns_connection:
            self._connection.close(deadline.timeout_left())

    def __repr__(self) -> str:
        return (
            f"<JetStreamEventStore {self._names.stream!r} {'closed' if self._closed else self._channel.slot.summary}>"
        )


def _checked_range(actor_id: str, from_version: int, to_version: int | None) -> tuple[str, int, int | None]:
    first = check_version("from_version", from_version)
    last = None if to_version is None else check_version("to_version", to_version)
    return check_actor_id(actor_id), first, last
