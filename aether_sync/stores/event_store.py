"""``EventStore``: what every store does; and ``Consumer``, a durable consumer of one, by its name.

They stand in one module as each of them names the other.
"""

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Literal, Protocol, Self, runtime_checkable

from .._arguments import check_count, check_flag
from .._runtime.deadline import Deadline
from .._runtime.handler_threads import Hook, ThreadHooks
from .._values.shown import name_of, short
from ..bus import EventBus
from ..errors import StoreClosedError
from ..event_types import EventTypes
from ..events import Event
from ..handler_arguments import as_called
from ..health import Health
from ..metrics import CloseReport, StoreMetrics
from ._checks import check_version
from .base import AnyVersion, Follower, LoadedActor, Reading, Snapshot, StoredEvent
from .consumers.base import ConsumerSettings, ConsumerState, DeadLetter
from .consumers.consumption import Consumption, take_left
from .consumers.context import ConsumerContext
from .consumers.delivery import Delivery
from .consumers.draining import handle_now
from .consumers.handlers import OF_A_CONSUMER, Handler
from .consumers.lanes import Handling
from .consumers.retry_policy import RetryPolicy, check_retry
from .consumers.runner import Runner, start_runner
from .projections.applying import OnError
from .projections.base import Apply, Database
from .projections.projection import Projection

__all__ = ["Consumer", "EventStore"]

_MOST_THREADS = 10_000  # of one runner: more is a slip
_HUNG_AFTER = 10  # ack waits: five minutes by default, longer than nearly all handlers take


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

    # -- projections

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
        """Return a projection: rows in a database of yours, made of the store's events. Start it, where it shall run.

        Nothing is asked or written yet. All instances of one name and database must have the same filters, and all
        should have the same ``apply``.

        Args:
            name: Its name, by which its checkpoint is found again: 1 to 200 printable characters.
            apply: Called with the database and a :class:`StoredEvent`, for each event in the order of the store. It
                writes rows, and must not commit or roll back. What the database is depends on ``into``: an
                ``sqlite3.Cursor`` for :class:`SQLite`, a cursor of the driver for :class:`DBAPI`. It should do nothing
                else that others can see: a batch that fails is applied again from its begin.
            into: The database: :class:`SQLite`, :class:`DBAPI`, or what has the methods of :class:`Database`.
            actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
            event_types: Only events of these types, names or classes of :attr:`types`; none means all types. A class
                also stands for the names that it had before, and adding one is a change of this argument.
            batch: How many events are applied in one transaction, at most; more, if a ``save_events()`` had more, as
                its events are applied together. Larger batches are quicker, and hold locks of the database longer.
            on_error: What becomes of an event that ``apply`` cannot take, as it raises an error: with ``"stop"``, the
                projection applies what was stored before it, and stops; with ``"set_aside"``, it writes the event and
                the error into the table ``aether_set_aside``, and goes on.

        Raises:
            InvalidOptionError: An argument is wrong.
            StoreClosedError: The store is closed.
        """

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
    ) -> "Consumer":
        """Return a durable consumer, which shares the store's events out among all processes that use its name.

        That of an ``InMemoryEventStore`` shares them out among the threads of its process, and ends with the store.

        Nothing is asked or made yet: :meth:`Consumer.iterate`, :meth:`Consumer.run` and :meth:`Consumer.drain` join the
        consumer, or make it.
        All processes must give the same arguments, but for ``start``; one that gives others is refused there. To look
        at a consumer (``state``, ``wait_for``, ``dead_letters``, ``delete``), its name is enough.

        Args:
            name: The consumer's name.
            actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
            event_types: Only events of these types, names or classes of :attr:`types`; none means all types. A class
                also stands for the names that it had before, and adding one is a change of this argument.
            start: Where a new consumer begins: ``"first"``, with the first event of the store, so that nothing is
                missed; ``"new"``, with what is stored from then on; or the sequence to begin after. A consumer that is
                there goes on where it was, whatever this says: so processes may give different ones.
            ack_wait: Seconds after which an event that is not acknowledged is delivered again. The default is the
                server's, 30: it is how long the events of a process that was killed wait. Handlers may take longer:
                a runner tells the server that work goes on. What waits in a process to be taken does not use it up,
                and has three quarters of it left when it is taken.
            max_deliver: How often an event is delivered before it becomes a dead letter, and how often a handler is
                tried. 5 outlast a short failure of what a handler needs. The server notices that the last delivery
                was in vain only when a process asks it for more.
            max_ack_pending: How many events may be delivered and not acknowledged, in all processes together. Events
                that wait for an earlier one of their actor count: 10,000, so that those of one actor whose handler
                fails are seldom all of them.

        Raises:
            InvalidOptionError: An argument is wrong.
            StoreClosedError: The store is closed.
        """

    def consumers(self, *, timeout: float | None = 5.0) -> list[ConsumerState]:
        """Return how far each durable consumer is, sorted by name.

        Args:
            timeout: Seconds; None waits for ever.
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
        """Publish an ``EventStored`` for every event, after it is stored, and a ``ProjectionAdvanced`` by projections.

        Whoever waits for a projection of this store listens on this bus, too; see :meth:`Projection.wait_for`. A bus
        that is full or disconnected neither delays the saving nor makes it fail: what is not published is lost, and
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


class Consumer:
    """A durable consumer of a store: each event goes to one of all processes and threads that share its name.

    ``store.consumer(name)`` returns one. The server keeps the consumer, and how far it is, or the
    ``InMemoryEventStore`` itself does, as long as it is there. :meth:`iterate`, :meth:`run` and :meth:`drain` make it
    if it is not there, and nothing happens before. This object holds no resource and need not be
    closed: what it has begun ends when that, or the store, is closed. It may be used by any thread, and after a fork.

    **Delivery is at least once.** An event that is not acknowledged in time is delivered again, to any process. So is
    one whose acknowledgement is lost with a connection. Therefore a handler records, together with its effect, the
    ``sequence`` of each event that had its effect, and skips those.

    **Order.** As long as one process alone consumes, the events of an actor come in the order of the store, also across
    lost connections: what was lost with one is delivered again when its ack wait is over, and until then later events
    of its actor wait here. An event that is delivered again because it was given back, or not acknowledged, comes later
    than others. Among several processes no order is kept, nor between a process that was killed and the next one. So an
    event with an earlier sequence than the last is not always a repeat.

    **Attempts.** Each delivery counts as an attempt, whether the event is worked on or not: what a process held when it
    was killed, or when it closed the iteration or the runner, has one attempt less. After ``max_deliver`` attempts the
    event becomes a dead letter. So the fewer events wait in a process (``prefetch``), the less a restart costs; with a
    ``max_deliver`` of 1, all that wait when it is closed become dead letters.
    """

    def __init__(
        self, name: str, settings: ConsumerSettings, store: EventStore, context: Callable[[], ConsumerContext]
    ) -> None:
        self._name = name
        self._store = store
        self._settings = settings
        self._context = context  # of the store as it is now: a fork renews it, and a closed store raises

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    @property
    def store(self) -> EventStore:
        """The store whose consumer it is."""
        return self._store

    # -- working

    def iterate(self, *, prefetch: int = 64, dead_letters: bool = False, timeout: float | None = 5.0) -> Consumption:
        """Begin to take deliveries: join the consumer on the server, or make it.

        Args:
            prefetch: How many events wait in this process to be taken. 64 keep a thread busy while more are on their
                way; what waits here counts as delivered if the process is killed, or the iteration is closed. Each
                process may use its own.
            dead_letters: Whether to take the consumer's dead letters instead of its new events. An ``ack()`` removes an
                event from the dead letters for good. One that is not acknowledged stays, and is delivered again, as
                often as needed; one that is rejected is delivered again after a minute. ``actors`` and ``event_types``
                of this consumer hold here, too: other dead letters stay where they are, and count as unacknowledged
                meanwhile, so as many as ``max_ack_pending`` of them hold up the rest. ``start`` and ``max_deliver``
                have no meaning for dead letters, which are all delivered, as often as needed.
            timeout: Seconds to begin. None waits for ever.

        Returns:
            A blocking iterator of :class:`Delivery`; close it, or use it in a ``with`` statement.

        Raises:
            StreamMismatchError: The consumer is there with other settings; the error names each.
            InvalidOptionError: An argument is wrong.
            StoreClosedError: The store is closed.
            DeadlineExceededError: The server did not answer in time.
            StoreUnavailableError: The server cannot make the consumer, or a stream.
            PermissionDeniedError: The user lacks a right.
        """
        context, deadline = self._context(), Deadline(timeout)
        prefetch, dead_letters = check_count("prefetch", prefetch), check_flag("dead_letters", dead_letters)
        return self._begin_iteration(context, prefetch, dead_letters, deadline)

    def run(
        self,
        handler: Handler,
        *,
        threads: int = 4,
        retry_delay: float | RetryPolicy = 1.0,
        prefetch: int = 256,
        dead_letters: bool = False,
        thread_start: Hook | None = None,
        thread_exit: Hook | None = None,
        timeout: float | None = 5.0,
    ) -> Runner:
        """Call a handler with each delivery, on threads of its own, the events of each actor one after the other.

        No argument has to be the same in all processes.

        Args:
            handler: Called with what its annotations ask for: the :class:`Delivery`, the :class:`Event`, or the event's
                value, of a class that is registered in the types of the store. A single parameter without an annotation
                gets the delivery. Several calls run at the same time. When it returns, the event is acknowledged; when
                it raises, it is called again after a pause. After ``max_deliver`` attempts the event becomes a dead
                letter; at once if the handler lets the ``EventTypeError`` of its own event through. To return an
                awaitable or a generator, which nobody would run, is a failure, too.
            threads: How many handlers run at a time. 4 hide the waiting of handlers that use a network or a database.
            retry_delay: Seconds before an event whose handler failed is tried again, doubled each time, up to 60; more
                than 60 stay as they are. Or a :class:`RetryPolicy`, which also says after which errors it is given up
                at once.
            prefetch: How many events are sorted by actor in this process at most, and how many more wait to be. 256 are
                enough that they are usually of several actors, so that all threads have work; there are more for a
                while when all are of a few actors and threads have nothing to do. A runner begins with two for each
                thread, and takes more while it handles all of them within half a second, or threads have nothing to do:
                each event that waits here when the runner is closed, or its process dies, has used up one of its
                ``max_deliver`` deliveries.
            dead_letters: Whether to handle the consumer's dead letters instead of its new events; see :meth:`iterate`.
                A dead letter is tried ``max_deliver`` times in a row, then it stays, and is handed out again after a
                minute.
            thread_start: Called on each thread of handlers before its first event; if it raises, the runner ends.
            thread_exit: Called on each of these threads after its last event.
            timeout: Seconds to begin. None waits for ever.

        Returns:
            A :class:`Runner` that has started; close it, or use it in a ``with`` statement.

        Raises:
            InvalidOptionError: An argument is wrong: the handler is an ``async def`` or a generator function, say, or
                asks for something else.
            StoreError: No thread can be started. Also the errors of :meth:`iterate`.
        """
        context, deadline = self._context(), Deadline(timeout)
        call = self._called(handler)
        threads = check_count("threads", threads, _MOST_THREADS)
        retry, hooks = check_retry(retry_delay), ThreadHooks.checked(thread_start, thread_exit)
        prefetch, dead_letters = check_count("prefetch", prefetch), check_flag("dead_letters", dead_letters)
        attempts = self._settings.max_deliver
        first = min(prefetch, 2 * threads)  # for each thread one to be handled, and one that waits
        handling = Handling(
            context.backend.stream,
            self._name,
            call,
            retry,
            attempts,
            counts_deliveries=not dead_letters,
            first=first,
            capacity=prefetch,
            hung_after=_HUNG_AFTER * self._settings.ack_wait,
            hooks=hooks,
        )
        consumption = self._begin_iteration(context, first, dead_letters, deadline)
        try:
            runner = start_runner(consumption, handling, threads, context.backend.reporter)
            context.runners.add(runner)
            self._refuse_if_closed(runner)
        except BaseException:  # of a signal handler, perhaps: nobody else would give back what comes
            consumption.close()
            raise
        return runner

    def drain(self, handler: Handler, *, dead_letters: bool = False, timeout: float | None = 5.0) -> int:
        """Call a handler with each delivery that is there, on this thread, and return when nothing is left.

        It is meant for tests, and for scripts that do what there is to do and end. It begins nothing that goes on: no
        thread, and nothing is taken before its turn. What the handler itself stores is handled as well, if this
        consumer wants it. Events that others are working on, or that were given back with a delay, are not waited for.

        When the handler returns, the event is acknowledged, and the acknowledgement is confirmed. **When it raises, so
        does this call, with the handler's own error**: the event is given back first, and counts one attempt; it comes
        again in the next call, before the events that were never delivered. After ``max_deliver`` attempts, or at once
        if the error is the ``EventTypeError`` of its own event, it becomes a dead letter; the error is raised that
        time, too, and the next call goes on behind it. To have failures tried again and logged, use :meth:`run`. The
        handler may settle the delivery itself, as in :meth:`run`; what it gives back by :meth:`Delivery.nak` without a
        delay comes again, as a rule during the same call.

        Args:
            handler: Called as by :meth:`run`. To return an awaitable or a generator, which nobody would run, is
                an error.
            dead_letters: Whether to handle the consumer's dead letters instead of its new events; see :meth:`iterate`.
                One whose handler raises stays among them.
            timeout: Seconds to begin, and then for each answer of the server; the handler may take as long as it likes.
                None waits for ever.

        Returns:
            How many times the handler returned.

        Raises:
            InvalidOptionError: An argument is wrong; see :meth:`run`.
            DeadlineExceededError: The server did not answer in time; or it has events for this consumer and delivers
                none, as ``max_ack_pending`` of them are being worked on elsewhere.
            StoreClosedError: The store is closed.
            StoreError: The consumer was deleted meanwhile. Also the errors of :meth:`iterate`, and those of the
                handler.
        """
        context, deadline = self._context(), Deadline(timeout)
        call = self._called(handler)
        dead_letters = check_flag("dead_letters", dead_letters)
        attempts = None if dead_letters else self._settings.max_deliver
        handled = 0
        with self._begin_iteration(context, 1, dead_letters, deadline, takes_ahead=False) as consumption:
            while (delivery := take_left(consumption, timeout)) is not None:
                handle_now(call, delivery, attempts, timeout)
                handled += 1
        return handled

    def _called(self, handler: Handler) -> Callable[[Delivery], object]:
        """Return what calls a handler with what it asks for."""
        about = f"the handler {name_of(handler)} of consumer {self._name!r}"
        return as_called(handler, about, OF_A_CONSUMER, self._store.types, self._settings.wanted.event_types)

    def _refuse_if_closed(self, runner: Runner) -> None:
        """Close a runner that a store which was closed meanwhile does not know of, and say so."""
        try:
            self._context()
        except StoreClosedError:
            runner.close()
            raise

    def _begin_iteration(
        self,
        context: ConsumerContext,
        prefetch: int,
        dead_letters: bool,
        deadline: Deadline,
        *,
        takes_ahead: bool = True,
    ) -> Consumption:
        begin = context.backend.begin
        consumption = begin(
            self._name, self._settings, prefetch, deadline, dead_letters=dead_letters, takes_ahead=takes_ahead
        )
        try:
            context.consumptions.add(consumption)
            self._context()  # a store that was closed meanwhile does not know of it
        except BaseException:
            consumption.close()
            raise
        return consumption

    # -- how far it is

    def wait_for(self, sequence: int, *, timeout: float | None = 5.0) -> None:
        """Return when the consumer has acknowledged all of its events up to a sequence: what it builds shows them.

        An event that was given up is not waited for. One that was delivered ``max_deliver`` times without an answer may
        hold this up for as long as other events are always being worked on.

        Args:
            sequence: Of an event, as saving it returned.
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceededError: It had not in time; the error says how far it is.
            StoreError: There is no such consumer.
        """
        context, deadline = self._context(), Deadline(timeout)
        context.backend.wait_for(self._settings, check_version("sequence", sequence), deadline)

    def state(self, *, timeout: float | None = 5.0) -> ConsumerState | None:
        """Return how far the consumer is; None if it is not there.

        A server that has just been started may say for a moment that it is not.

        Args:
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.state(self._settings.name, deadline)

    def delete(self, *, timeout: float | None = 5.0) -> bool:
        """Delete the consumer and how far it is; returns whether it was there. Its dead letters stay.

        Args:
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.delete(self._settings.name, deadline)

    # -- dead letters

    def dead_letters(self, *, limit: int = 1_000, timeout: float | None = 5.0) -> list[DeadLetter]:
        """Return what the consumer gave up: events that were rejected, or delivered ``max_deliver`` times in vain.

        They stay where they are. All dead letters of this name are returned, whatever ``actors`` and ``event_types``
        of this consumer are, and also after its ``delete()``. The server announces once that an event was delivered in
        vain: it is missing here if the dead-letter stream had no leader at that moment.

        Args:
            limit: How many at most. 1,000 are read in well under a second.
            timeout: Seconds; None waits for ever.

        Returns:
            The dead letters, in the order of the store. ``[]`` as well if no consumer has ever had this name: a program
            that watches a consumer also asks for its :meth:`state`, which is None then.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.dead_letters(self._settings.name, check_count("limit", limit), deadline)

    def discard_dead_letter(self, sequence: int, *, timeout: float | None = 5.0) -> bool:
        """Remove an event from the dead letters without working on it; returns whether it was there.

        Args:
            sequence: Of the event.
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        sequence = check_version("sequence", sequence, least=1)
        return context.backend.discard(self._settings.name, sequence, deadline)

    def __repr__(self) -> str:
        return f"<Consumer {short(self._name)}>"
