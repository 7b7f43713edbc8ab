"""``Worker``: the handlers, projections and periodic work of a program, which begin and end together."""

import sys
import uuid
import weakref
from collections.abc import Callable, Iterable
from functools import partial
from threading import Thread
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from .._arguments import (
    check_callback,
    check_count,
    check_flag,
    check_seconds,
    check_text,
    check_timeout,
    is_of,
    refuse_bare,
)
from .._bus.store_watch import check_apart
from .._runtime.again import again
from .._runtime.closing import Startable
from .._runtime.deadline import Deadline
from .._runtime.exit import before_threads_end
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.handler_threads import Hook, ThreadHooks
from .._runtime.locks import outside_locks
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Reporter, last_words
from .._runtime.stop_signals import StopSignals
from .._runtime.threads import NoThreadError, make_thread, start
from .._runtime.waits import Reply
from .._values.shown import name_of, short
from ..bus import EventBus
from ..errors import InvalidOptionError, WorkerError
from ..event_types import EventTypes
from ..handler_arguments import OF_A_BUS, OF_NOTHING, Source, as_called
from ..health import Health
from ..metrics import CloseReport, WorkerMetrics
from ..nats_bus import NATSEventBus
from ..patterns import SubscriptionFilter
from ..stores._checks import check_wanted
from ..stores._jetstream.names import escaped_consumer
from ..stores._store_base import StoreBase
from ..stores.consumers.handlers import OF_A_CONSUMER
from ..stores.consumers.retry_policy import RetryPolicy, check_retry
from ..stores.event_store import EventStore
from ..stores.jetstream import JetStreamEventStore, turns_of
from ..stores.projections.base import Database
from ..stores.projections.projection import Projection, check_database, is_begun
from .calls import Around, ExtraCounts, OnError, check_arounds, reporting, surrounded
from .idempotence import HandledOnce
from .on_bus import BusHandler, Listening, check_listening, passing
from .on_consumer import ConsumerHandler, Running
from .on_projection import ProjectionPart
from .parts import Parts, State
from .periodic import Periodic
from .time_limits import TimeLimits, check_limit
from .turns import Turns

if TYPE_CHECKING:
    from ..outbox.relay import Relay

__all__ = ["Worker", "handlers_of", "relays_of"]

F = TypeVar("F", bound=Callable[..., object])

_MOST_THREADS = 10_000  # of one handler: more is a slip
_ABORT = 5.0  # seconds for the handlers that run when a start has failed
_LAST = 5.0  # seconds for what handlers have published, behind the grace of run()
_AT_EXIT = 5.0  # seconds for the handlers of workers that nobody has closed
_SETTLES = 1.0  # seconds for what is just being begun when a signal comes
_LEFT = 3  # the exit status of run() if something was left undone


def _turns(store: JetStreamEventStore, work: str, seconds: float, counts: ExtraCounts) -> Turns:
    return Turns(turns_of(store), work, seconds, uuid.uuid4().hex, counts.passed_by.one)


def _is_closed(store: EventStore) -> bool:
    return store.closed


class Worker(Startable, ForkAware):
    """Handlers of events of a bus and of a store, projections and periodic work, which begin and end together.

    Handlers are plain functions, which :meth:`on`, :meth:`consume` and :meth:`every` give to the worker, as decorators
    that return them unchanged. A handler gets what its annotations ask for: an :class:`Event`, the :class:`Delivery` of
    a consumer, or the event's value, of a class that is registered in the types of the bus or store. A single parameter
    without an annotation gets the event of a bus, or the delivery of a consumer. All of this is checked when the
    handler is given to the worker, and nothing is asked of a server before :meth:`start`.

    :meth:`run` is all that a program needs: it works until SIGTERM or SIGINT, and ends in order. :meth:`start` and
    :meth:`drain` do the same beside other things; so does a ``with`` statement, which ends by :meth:`close`.

    An error of a handler ends nothing: it is counted, and logged with its event; while one fails again and again, once
    a minute. What then becomes of the event is said by :meth:`on` and :meth:`consume`. If a handler cannot go on, as
    its consumer was deleted or a right revoked, :meth:`wait` and ``run()`` raise that error.

    Any thread may call its methods. A worker that has ended cannot be started again. In a forked child it is not
    started, and may be started there.

    Args:
        bus: Whose events :meth:`on` is about. Only :meth:`run` closes it.
        store: Whose consumers :meth:`consume` is about. Only :meth:`run` closes it.
        around: Functions that return a context manager, within which each handler is called: ``[app.app_context]``.
            They may ask for what handlers do. The first one is the outermost.
        thread_start: Called on each thread that calls handlers, before the first call. If it raises, that handler ends.
        thread_exit: Called on each of these threads after the last call.
        on_error: Called with a :class:`Failure` for each call of a handler that raises, on the same thread and in the
            same context, for a service that collects errors.

    Raises:
        InvalidOptionError: An argument is wrong.
    """

    def __init__(
        self,
        *,
        bus: EventBus | None = None,
        store: EventStore | None = None,
        around: Iterable[Around] = (),
        thread_start: Hook | None = None,
        thread_exit: Hook | None = None,
        on_error: OnError | None = None,
    ) -> None:
        if bus is not None and not is_of(bus, EventBus):
            raise InvalidOptionError(f"bus must be an EventBus or a NATSEventBus, not {short(bus)}")
        if store is not None and not issubclass(type(store), StoreBase):
            raise InvalidOptionError(
                f"store must be a JetStreamEventStore or an InMemoryEventStore, not {short(store)}"
            )
        if is_of(bus, NATSEventBus) and is_of(store, JetStreamEventStore):
            check_apart(store.stream, bus.prefix)
        self._bus, self._store = bus, store
        self._arounds = check_arounds(around)
        self._hooks = ThreadHooks.checked(thread_start, thread_exit)
        if on_error is not None:
            check_callback("on_error", on_error, "a Failure")
        self._on_error = on_error
        self._reporter = Reporter()
        weakref.finalize(self, self._reporter.end).atexit = False
        self._limits = TimeLimits(self._reporter)
        self._parts = Parts()
        fork_aware.add(self)
        _workers.add(self)

    def _after_fork(self) -> None:
        self._parts.begin_anew()
        self._limits.forget()

    @property
    def bus(self) -> EventBus | None:
        """The bus that it was given."""
        return self._bus

    @property
    def store(self) -> EventStore | None:
        """The store that it was given."""
        return self._store

    @property
    def closed(self) -> bool:
        """Whether it takes nothing new any more."""
        return self._parts.closed

    # -- what it does

    def on(
        self,
        pattern: str,
        *,
        event_types: Iterable[str | type] = (),
        actors: str | None = None,
        queue_group: str | None = None,
        threads: int = 1,
        maxsize: int = 65_536,
        max_bytes: int = 64 * 2**20,
        overflow: Literal["drop_newest", "drop_oldest", "fail"] = "drop_newest",
        around: Iterable[Around] = (),
        time_limit: float | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator for a handler of events of the bus: each at most once, as they are published.

        An event is lost if its handler raises, if the process ends before its turn, or while this node is disconnected.

        Args:
            pattern: A namespace, which may have wildcards; as for :meth:`EventBus.subscribe`.
            event_types: Only events of these types, names or classes of the bus's types; none means all types.
            actors: A pattern of actor ids, such as ``"order-*"``: only events of these; None for all.
            queue_group: The name of a group that shares the events among all its members in the cluster. The server
                chooses the member before these filters are applied, so all members should have the same ones: what
                reaches a member that does not want it is lost.
            threads: How many handlers run at a time. One keeps the order of the events.
            maxsize: How many events may be queued.
            max_bytes: How many encoded bytes may be queued.
            overflow: What happens when the queue is full; as for :meth:`EventBus.subscribe`.
            around: Further context managers, within those of the worker.
            time_limit: Seconds that a call may take; None for no limit. A call that takes longer is logged with the
                stack of its thread, counted, and named by :meth:`health`. It is interrupted only in the blocks in which
                the handler allows that: see :func:`interruptible`.

        Raises:
            InvalidOptionError: An argument is wrong, or the handler cannot be called; the error names the handler.
            InvalidNamespaceError: The pattern is not valid.
            WorkerError: The worker has begun already.
        """
        refuse_bare(pattern, "@worker.on", "'orders'")
        bus = self._bus
        if bus is None:
            raise InvalidOptionError("on() is about events of a bus, and this worker has none: Worker(bus=...)")
        listening = Listening(
            pattern=pattern,
            wanted=check_wanted("actors", actors, event_types, bus.types),
            threads=check_count("threads", threads, _MOST_THREADS),
            queue_group=queue_group,
            maxsize=maxsize,
            max_bytes=max_bytes,
            overflow=overflow,
        )
        check_listening(listening)
        arounds, limit = check_arounds(around), check_limit(time_limit)

        def register(handler: F) -> F:
            name, counts = name_of(handler), ExtraCounts()
            about = f"the handler {name} of {pattern!r}"
            call, _ = self._call(handler, name, about, OF_A_BUS, bus.types, listening.wanted, arounds, limit, counts)
            call = passing(call, listening, counts.passed_by.one)
            self._parts.add(BusHandler(name, bus, listening, call, counts, self._reporter))
            return handler

        return register

    def consume(
        self,
        name: str,
        *,
        event_types: Iterable[str | type] = (),
        actors: str | None = None,
        start: Literal["first", "new"] | int = "first",
        ack_wait: float = 30.0,
        max_deliver: int = 5,
        max_ack_pending: int = 10_000,
        threads: int = 4,
        retry_delay: float | RetryPolicy = 1.0,
        prefetch: int = 256,
        around: Iterable[Around] = (),
        time_limit: float | None = None,
        idempotent: Database | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator for a handler of a durable consumer of the store: each event at least once.

        The events of one actor are handled one after the other within a process. One whose handler raises is tried
        again after a pause, and becomes a dead letter after ``max_deliver`` attempts: see :class:`Consumer`.

        Args:
            name: The consumer's name, by which all processes share its events. A worker has one handler for it.
            event_types: As for :meth:`EventStore.consumer`, and the same in all processes.
            actors: The same.
            start: As for :meth:`EventStore.consumer`.
            ack_wait: As for :meth:`EventStore.consumer`, and the same in all processes.
            max_deliver: The same.
            max_ack_pending: The same.
            threads: How many handlers run at a time; as for :meth:`Consumer.run`.
            retry_delay: As for :meth:`Consumer.run`: seconds, or a :class:`RetryPolicy`.
            prefetch: As for :meth:`Consumer.run`.
            around: Further context managers, within those of the worker.
            time_limit: Seconds that a call may take; None for no limit. A call that takes longer is logged with the
                stack of its thread, counted, and named by :meth:`health`. It is interrupted only in the blocks in which
                the handler allows that: see :func:`interruptible`.
            idempotent: A database of yours, :class:`SQLite` or :class:`DBAPI` say, in which each event takes effect
                once. The handler gets it as its first argument, as ``apply`` of a projection does, in a transaction
                that also notes the event in the table ``aether_handled``; an event that has a note is acknowledged
                without a call. The handler must neither commit nor roll back: then the event becomes a dead letter.
                Each thread has a connection of its own.

        Raises:
            InvalidOptionError: An argument is wrong, the handler cannot be called, or there is one for this consumer;
                the error names the handler.
            WorkerError: The worker has begun already.
        """
        refuse_bare(name, "@worker.consume", "'mailer'")
        store = self._store
        if store is None:
            raise InvalidOptionError(
                "consume() is about events of a store, and this worker has none: Worker(store=...)"
            )
        consumer = store.consumer(
            name,
            actors=actors,
            event_types=event_types,
            start=start,
            ack_wait=ack_wait,
            max_deliver=max_deliver,
            max_ack_pending=max_ack_pending,
        )
        wanted = check_wanted("actors", actors, event_types, store.types)
        running = Running(
            threads=check_count("threads", threads, _MOST_THREADS),
            retry=check_retry(retry_delay),
            prefetch=check_count("prefetch", prefetch),
        )
        arounds, limit = check_arounds(around), check_limit(time_limit)
        database = None if idempotent is None else check_database("idempotent", idempotent)

        def register(handler: F) -> F:
            called, counts = name_of(handler), ExtraCounts()
            about = f"the handler {called} of consumer {name!r}"
            within = None if database is None else partial(HandledOnce, database, repeated=counts.passed_by.one)
            call, once = self._call(
                handler, called, about, OF_A_CONSUMER, store.types, wanted, arounds, limit, counts, within
            )
            release = None if once is None else once.disconnect
            self._parts.add(ConsumerHandler(called, consumer, running, call, counts, release))
            return handler

        return register

    def every(
        self,
        seconds: float,
        *,
        name: str | None = None,
        once_per_cluster: bool = False,
        around: Iterable[Around] = (),
        time_limit: float | None = None,
    ) -> Callable[[F], F]:
        """Return a decorator for periodic work: a function that is called every so many seconds, without an event.

        The first turn is at the start, and a turn begins so many seconds after the last one has begun. One that takes
        longer delays the next one: within a process no two run at a time, and a turn that was missed meanwhile is left
        out. An error is logged and counted, and the next turn comes when it is due.

        With ``once_per_cluster``, of all processes with the same store and name one has the turn, whichever asks first
        when it is due; the first one at a start only if none was within this time. This is kept in the stream
        ``<stream>~turns`` beside that of the store. What it promises, and what not:

        - Two processes never begin the same turn. If their clocks differ, the first turn of one that has just started
          may begin earlier by so much.
        - Two turns do not run at the same time, as long as the process that has the turn reaches the server. If it does
          not for 20 seconds, or lets no other thread run, another one may begin the next turn, when that is due.
        - A turn whose process dies is not made up for: the next one comes when it is due, and 20 seconds have passed.
        - While the server is away, no turn begins.

        So work that must not be done twice at a time has to see to that itself, by a lock of the database, say.

        Args:
            seconds: From the begin of a turn to that of the next one.
            name: Of the work, by which all processes know it; None for the name of the function with its module.
            once_per_cluster: Whether one process of the cluster has each turn. This needs a ``JetStreamEventStore``; an
                ``InMemoryEventStore`` has one process alone.
            around: Further context managers, within those of the worker.
            time_limit: Seconds that a call may take; None for no limit. A call that takes longer is logged with the
                stack of its thread, counted, and named by :meth:`health`. It is interrupted only in the blocks in which
                the handler allows that: see :func:`interruptible`.

        Raises:
            InvalidOptionError: An argument is wrong, the function takes arguments, or there is work of that name; the
                error names the function.
            WorkerError: The worker has begun already.
        """
        refuse_bare(seconds, "@worker.every", "60")
        pause, given = check_seconds("seconds", seconds), check_text("name", name)
        arounds, limit = check_arounds(around), check_limit(time_limit)
        store = self._store
        if check_flag("once_per_cluster", once_per_cluster) and store is None:
            raise InvalidOptionError("once_per_cluster needs a store, which keeps whose turn it is: Worker(store=...)")

        def register(handler: F) -> F:
            called, counts = name_of(handler), ExtraCounts()
            work = called if given is None else given
            about = f"the handler {called} every {pause:g} s"
            call, _ = self._call(handler, called, about, OF_NOTHING, None, SubscriptionFilter(), arounds, limit, counts)
            turns: Callable[[], Turns] | None = None
            if once_per_cluster and is_of(store, JetStreamEventStore):
                escaped_consumer(work)  # or it cannot be written under that name
                turns = partial(_turns, store, work, pause, counts)
            has_closed = partial(_is_closed, store) if once_per_cluster and store is not None else None
            self._parts.add(Periodic(work, called, pause, call, turns, has_closed, counts, self._reporter))
            return handler

        return register

    def project(self, projection: Projection) -> Projection:
        """Let a projection run with the worker; returns it.

        Of all processes with a projection of this name one applies events, and the others stand by. One that stops at
        an event does not end the worker: :meth:`health` is neither ok nor alive then.

        Args:
            projection: What ``store.project()`` has returned, not started; of the worker's store, which :meth:`run`
                closes.

        Raises:
            InvalidOptionError: It is no projection, of another store, or started; or there is one of that name.
            WorkerError: The worker has begun already.
        """
        if not is_of(projection, Projection):
            raise InvalidOptionError(f"project() takes what store.project() has returned, not {short(projection)}")
        if projection.store is not self._store:
            whose = "has none" if self._store is None else "has another one"
            of = f"projection {projection.name!r} is of a store"
            raise InvalidOptionError(f"{of} that is not the worker's, which {whose}: Worker(store=...)")
        if is_begun(projection):
            raise InvalidOptionError(f"projection {projection.name!r} is started already: the worker starts it")
        self._parts.add(ProjectionPart(projection))
        return projection

    def relay(self, relay: "Relay") -> "Relay":
        """Let the relay of an outbox run with the worker; returns it.

        It may run in any number of processes. One that stops, as its table is gone, does not end the worker:
        :meth:`health` is neither ok nor alive then.

        Args:
            relay: The relay, not started, such as ``outbox.relay(engine, store=store)``.

        Raises:
            InvalidOptionError: It is no relay, or is here already.
            WorkerError: The worker has begun already.
        """
        from .on_relay import RelayPart  # here, so that programs without an outbox need not import it

        self._parts.add(RelayPart(relay))
        return relay

    def _call(
        self,
        handler: Callable[..., object],
        name: str,
        about: str,
        source: Source,
        types: EventTypes | None,
        wanted: SubscriptionFilter,
        arounds: Iterable[Around],
        limit: float | None,
        counts: ExtraCounts,
        within: Callable[..., HandledOnce] | None = None,
    ) -> tuple[Callable[[Any], object], HandledOnce | None]:
        """Return how a handler is called, within all that is around it, and what opens a transaction for it."""
        before = "the database" if within is not None else ""
        call = as_called(handler, about, source, types, wanted.event_types, before=before)
        once = None if within is None else within(call=call)
        all_arounds = (*self._arounds, *arounds)
        call = surrounded(once or call, all_arounds, about, source, types, wanted.event_types)
        if limit is not None:
            call = self._limits.limited(call, name, limit, counts.overdue.one)
        return reporting(call, name, self._on_error, self._reporter), once

    # -- its life

    def start(self, timeout: float | None = None, *, threads: int | None = None) -> None:
        """Begin everything, and return; handlers are called from now on.

        Projections are begun first, as most mistakes of settings show there before anything is handled.

        Args:
            timeout: Seconds; None waits as long as it takes for a server that is away, if the bus and the store have
                ``connect="background"``; otherwise their ``connect_timeout`` ends the first attempt.
            threads: How many handlers of each consumer run at a time, in place of what :meth:`consume` has said; None
                for that. Handlers of the bus keep their number: one thread keeps the order of their events.

        Raises:
            InvalidOptionError: An argument is wrong.
            WorkerError: It has begun already, or was closed; it has nothing to do; or a thread cannot be started. Also
                the errors of :meth:`EventBus.subscribe`, :meth:`Consumer.run` and :meth:`Projection.start`: then what
                has begun is ended, and the worker is closed.
        """
        deadline = Deadline(timeout)
        if threads is not None:
            threads = check_count("threads", threads, _MOST_THREADS)
        self._parts.claim()
        try:
            for part in self._parts:
                if threads is not None and isinstance(part, ConsumerHandler):
                    part.use_threads(threads)
            self._begin_all(deadline)
        except BaseException:
            self._end(Deadline(_ABORT), discard=True)
            raise

    def _begin_all(self, deadline: Deadline) -> None:
        self._limits.begin()
        self._parts.begin(self._hooks, self._wake, deadline)

    def _wake(self) -> None:
        self._parts.wake()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the worker has ended: it was closed, or the bus and the store of all its handlers were.

        Projections, and periodic work without ``once_per_cluster``, go on as long as handlers do.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            AetherError: The error by which a handler cannot go on: its consumer was deleted, the connection was closed
                for good, or a right was revoked. The others go on, until the worker is closed. A ``WorkerError`` if it
                is not started.
        """
        deadline = Deadline(timeout)
        if self._parts.state is State.NEW:
            raise WorkerError("the worker is not started, so there is nothing to wait for")
        has_ended = self._parts.wait(lambda: self._parts.is_over, deadline)
        failure = self._parts.failure
        if failure is not None:
            raise again(failure)
        return has_ended

    def drain(self, timeout: float | None = 25.0) -> CloseReport:
        """Take nothing new, let what runs come to its end, and end.

        What consumers have in hand and no handler has begun is given back at once, and other processes get it. Events
        of the bus cannot be given back: those that are queued are handled, as far as the time allows, and the rest is
        dropped and counted. The bus and the store stay open.

        Any thread may call it, more than once. A handler may call it, too: that handler is not waited for. Two
        different handlers that do so at once wait for each other until the time is over.

        Args:
            timeout: Seconds for the handlers that run; None waits for ever. A handler that takes longer is left behind:
                its event is delivered to another process when the ack wait is over. The default suits Kubernetes, which
                kills a container 30 seconds after its SIGTERM.

        Returns:
            What was left undone. It is true if all handlers have ended, but for one that calls this itself.
        """
        return self._close(timeout, discard=False)

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """As :meth:`drain`, but drop what is queued of the bus at once.

        Args:
            timeout: Seconds for the handlers that run; 0 waits for none, None waits for ever.

        Returns:
            What was left undone. It is true if all handlers have ended, but for one that calls this itself.
        """
        return self._close(timeout, discard=True)

    def _close(self, timeout: float | None, *, discard: bool) -> CloseReport:
        deadline = Deadline(timeout)
        left = self._end(deadline, discard=discard)
        self._reporter.close(last_words(deadline))
        return CloseReport(handlers_left=left, timed_out=bool(left))

    def _end(self, deadline: Deadline, *, discard: bool) -> int:
        """As :meth:`close`, without waiting for the log; returns how many handlers still run."""
        self._parts.close()
        with outside_locks():
            left = self._parts.end(deadline, discard=discard)
            self._limits.end(deadline)
        return left

    def run(self, grace: float | None = 25.0) -> None:
        """Work until SIGTERM or SIGINT, then end in order: the last line of a program.

        This starts the worker, waits for a signal, and drains. Then it closes the store and the bus, which takes up to
        5 seconds more. A second signal ends the process at once, with the status 128 and the signal's number; within
        half a second it counts as the same one, as a terminal sends Ctrl-C to a whole group of processes.

        If all has ended well it returns, so the program ends with the status 0. The status 3 says that something was
        left undone when the grace was over, and 1 that an error was raised.

        Args:
            grace: Seconds for the handlers that run; None waits for ever.

        Raises:
            SystemExit: Something was left undone; its code is 3. The log says what.
            WorkerError: This is not the main thread, where alone Python handles signals. Also the errors of
                :meth:`start` and :meth:`wait`.
        """
        check_timeout("grace", grace)
        started: Reply[None] = Reply()
        thread = make_thread(self._begin_for, started, name="aether-start")
        with StopSignals(self._wake) as signals:
            self._parts.claim()
            try:
                start(thread)
            except NoThreadError as error:
                self.close(0)
                raise WorkerError(f"no thread to start the worker: {error}") from error
            try:
                self._parts.wait(
                    lambda: signals.first is not None or started.error is not None or self._parts.is_over,
                    Deadline(None),
                )
            finally:
                failure = started.error or self._parts.failure
                report = self._close_all(grace, thread)
        if failure is not None:
            raise again(failure)
        if not report:
            sys.exit(_LEFT)

    def _begin_for(self, started: "Reply[None]") -> None:
        """Begin everything, on a thread of its own: the main thread waits for signals meanwhile."""
        try:
            self._begin_all(Deadline(None))
        except Exception as error:
            started.fail(error)
        else:
            started.set(None)
        finally:
            self._wake()

    def _close_all(self, grace: float | None, starting: Thread) -> CloseReport:
        """Drain, and close the store and then the bus, on which the store may publish.

        Args:
            grace: Seconds for the handlers that run.
            starting: The thread that begins everything. If it waits for a server, closing the store and the bus ends
                that; otherwise what it is just beginning is drained as well.
        """
        graceful = Deadline(grace)
        self._parts.close()
        starting.join(min(_SETTLES, graceful.for_lock()))
        drained, deadline = self.drain(graceful.timeout_left()), Deadline(_LAST)
        others = [one for one in (self._store, self._bus) if one is not None]
        reports = [drained, *(one.close(deadline.timeout_left()) for one in others)]
        starting.join(deadline.for_lock())
        return CloseReport(
            unsent=sum(one.unsent for one in reports),
            uncertain=sum(one.uncertain for one in reports),
            rejected=sum(one.rejected for one in reports),
            handlers_left=drained.handlers_left,
            timed_out=any(one.timed_out for one in reports),
        )

    # -- how it is

    def health(self, *, timeout: float | None = 0.5) -> Health:
        """Return whether the worker can do its work now, and if not, why. It raises nothing for a server that is away.

        It is ok while it runs, no handler runs for longer than its time limit, and its bus, its store, all handlers and
        projections are ok: each is one of ``parts``.

        Args:
            timeout: Seconds for the questions to the server, all together; 0 asks nothing, and says what is known here.
                None waits for ever.

        Returns:
            With ``numbers``: ``handlers``, how many calls run now.

        Raises:
            InvalidOptionError: ``timeout`` is no number of seconds.
        """
        deadline = Deadline(timeout)
        state = self._parts.state
        if state is not State.STARTED:
            reason = f"the worker is {state.value}"
            return Health(about="the worker", reasons=(reason,), alive=state is State.NEW)
        parts = [] if self._bus is None else [self._bus.health()]
        if self._store is not None:
            parts.append(self._store.health(timeout=deadline.timeout_left()))
        parts += [part.health(deadline) for part in self._parts]
        busy = sum(one.busy for one in self.metrics().handlers)
        return Health.of("the worker", self._limits.reasons(), numbers={"handlers": busy}, parts=parts)

    def metrics(self) -> WorkerMetrics:
        """Return what the handlers have done since the start; any thread may ask, also after the end."""
        found = [part.metrics() for part in self._parts]
        runners = [part.runner_metrics() for part in self._parts if isinstance(part, ConsumerHandler)]
        return WorkerMetrics(handlers=tuple(one for one in found if one is not None), runners=tuple(runners))

    def __repr__(self) -> str:
        labels = [part.label for part in self._parts]
        more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
        return f"<Worker with {', '.join(labels[:3]) or 'nothing'}{more}, {self._parts.state.value}>"


def handlers_of(worker: Worker) -> list[BusHandler | ConsumerHandler]:
    """Return the handlers of a worker, for who calls them on a thread of its own, as a test does."""
    return [part for part in worker._parts if isinstance(part, BusHandler | ConsumerHandler)]


def relays_of(worker: Worker) -> list["Relay"]:
    """Return the relays of a worker, for who shows what they do."""
    from .on_relay import RelayPart

    return [part.relay for part in worker._parts if isinstance(part, RelayPart)]


_workers: WeakRegistry[Worker] = WeakRegistry()


@before_threads_end
def _end_working() -> None:
    """End all workers when the main thread has ended, so that their handlers can end."""
    deadline = Deadline(_AT_EXIT)
    for worker in _workers:
        if worker._parts.begun:
            worker._end(deadline, discard=False)
