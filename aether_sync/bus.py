"""``EventBus``: events from thread to thread in one process. ``NATSEventBus`` extends it to many processes."""

import uuid
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import enumerate as enumerate_threads
from threading import main_thread
from typing import Any, Literal, Never

from ._arguments import as_iterator, is_of
from ._bus.counting import Counters
from ._bus.routing import Frame, Route, Target, Targets, failed, log_drops, make_target
from ._codec.encoding import encode_and_copy, encode_event
from ._runtime.closing import Startable
from ._runtime.deadline import Deadline
from ._runtime.exit import before_threads_end, is_ending, main_thread_is_done
from ._runtime.fork import ForkAware, fork_aware
from ._runtime.green import refuse_late_patching
from ._runtime.handler_threads import Hook
from ._runtime.listeners import Listeners
from ._runtime.locks import signal_safe_lock, tries
from ._runtime.registry import WeakRegistry
from ._runtime.reporter import Kind, Reporter, last_words
from ._runtime.waits import SingleFlight
from ._values.counting import Count
from ._values.shown import name_of, short
from .errors import AetherError, BusClosedError, InvalidEventError, InvalidOptionError
from .event_types import EventTypes, class_of_events
from .events import EVENT_STORED, Event
from .handler_arguments import OF_A_BUS, as_called
from .health import Health
from .instrumentation import Operation, observers, sending
from .metrics import CloseReport, Metrics
from .notices import NoticeCallback
from .patterns import SubscriptionFilter
from .subscription import Subscription
from .subscription_runner import EventHandler, SubscriptionRunner, check_running, start_subscription_runner

__all__ = ["EventBus", "lasting_metrics", "was_refused"]

_LAST_EVENTS = 1.0  # seconds: a round trip takes a thousandth of that, and close() must not hang where one is lost


class EventBus(Startable, ForkAware):
    """Publishes events to the subscriptions of this process, thread to thread.

    A subscriber gets the same as on another node: the event is encoded and decoded once, so tuples become lists, and
    nobody sees the publisher's own dict. Every method may be called from any thread.

    In a forked child the bus is a new node without subscriptions: those made before the fork belong to the parent.

    Args:
        types: The classes of the events, for ``event.value`` of those that subscriptions get. To publish an object,
            make an event of it: ``bus.publish("orders.eu", types.to_event(placed, actor_id="order-1"))``.

    Attributes:
        node_id: Tells this bus from all other nodes of a cluster. A forked child has another one.
    """

    node_id: str

    def __init__(self, *, types: EventTypes | None = None) -> None:
        self._types, self._kind = types, class_of_events(types)
        self._closed = False
        self._reporter, self._listeners = self._begin_to_report()
        self._counters = Counters()
        self._become_a_node()
        fork_aware.add(self)
        _buses.add(self)

    def _begin_to_report(self) -> tuple[Reporter, Listeners]:
        """Return what logs for the bus, and calls the callbacks of :meth:`on`."""
        reporter = Reporter()
        weakref.finalize(self, reporter.end).atexit = False
        return reporter, Listeners(reporter)

    def _become_a_node(self) -> None:
        """Begin with nothing, as a new node."""
        self.node_id = uuid.uuid4().hex
        self._targets = Targets(self._frame_of)
        self._lock = signal_safe_lock()  # guards the fields below
        self._members: set[Target] = set()  # the open subscriptions
        self._closing: SingleFlight[CloseReport] = SingleFlight()
        self._abandoned: deque[Target] = deque()  # appended to by finalizers, which take no lock

    def _after_fork(self) -> None:
        for queue in self._counters.queues:
            queue.disown()
        self._counters.begin()
        self._closing.disown(CloseReport(timed_out=True))
        self._become_a_node()

    @property
    def types(self) -> EventTypes | None:
        """The classes of its events, as it was given them; None if it knows none."""
        return self._types

    # -- subscribing

    def subscribe(
        self,
        *patterns: str,
        filter: SubscriptionFilter | None = None,  # noqa: A002  # the word of the domain
        maxsize: int = 65_536,
        max_bytes: int = 64 * 2**20,
        overflow: Literal["drop_newest", "drop_oldest", "fail"] = "drop_newest",
        queue_group: str | None = None,
        timeout: float | None = 5.0,
    ) -> Subscription:
        """Subscribe to the events of some namespaces. The subscription gets all that is published after the return.

        Args:
            *patterns: One or more namespaces, which may have wildcards: ``*`` is one token, ``>`` one or more tokens at
                the end, ``tenant-*`` a glob within a token. An event that matches several patterns comes once.
            filter: Which of these events to take. It is applied here, so the server sends the others as well.
            maxsize: How many events may be queued; the default holds what a burst of a tenth of a second brings.
            max_bytes: How many encoded bytes may be queued.
            overflow: What happens when the queue is full. ``"drop_newest"`` and ``"drop_oldest"`` drop an event.
                ``"fail"`` ends the subscription: its readers get what is queued, then ``SubscriptionOverflowError``.
                They also get it if the queue overflows before this call returns.
            queue_group: The name of a group whose subscriptions, in the whole cluster, share the events: each event
                goes to one member that it matches. A member takes no filter and no glob, because the server chooses it
                before they are applied.
            timeout: Seconds to wait for the server's confirmation; not used where there is no server.

        Raises:
            InvalidNamespaceError: A pattern is not valid.
            InvalidOptionError: Another argument is of the wrong type or out of its range.
            DeadlineExceededError: No server confirmed the subscription in time.
            ConnectError: There is no connection, and this was the first attempt to connect.
            PermissionDeniedError: The server denies a pattern to this user.
            BusClosedError: The bus is closed.
        """
        self._reap()
        try:
            deadline = Deadline(timeout)
            target = make_target(patterns, filter, maxsize, max_bytes, overflow, queue_group, self._counters.ended)
            subscription = Subscription(target, self._end, self._abandon)
            try:
                self._admit(target)
                self._join(target, deadline)
                self._refuse_if_closed()
                if target.queue.failure is not None:  # it overflowed before it had joined everywhere
                    self._part((target,), deadline)
            except BaseException:
                subscription.close(discard=True)
                self._part((target,), deadline)  # once more: a close() of the bus may have come before the join
                raise
        except AetherError:
            self._counters.add("subscribe_errors")
            raise
        return subscription

    def subscribe_to_event_stored(self, *patterns: str, **options: Any) -> Subscription:
        """Subscribe to the ``EventStored`` events that stores publish; ``event.data_as(EventStored)`` reads one.

        Args:
            *patterns: As for :meth:`subscribe`.
            **options: As for :meth:`subscribe`, except ``filter``.
        """
        return self.subscribe(*patterns, filter=SubscriptionFilter(event_types={EVENT_STORED}), **options)

    def run(
        self,
        pattern: str,
        handler: EventHandler,
        *,
        threads: int = 1,
        filter: SubscriptionFilter | None = None,  # noqa: A002  # the word of the domain
        maxsize: int = 65_536,
        max_bytes: int = 64 * 2**20,
        overflow: Literal["drop_newest", "drop_oldest", "fail"] = "drop_newest",
        queue_group: str | None = None,
        thread_start: Hook | None = None,
        thread_exit: Hook | None = None,
        timeout: float | None = 5.0,
    ) -> SubscriptionRunner:
        """Call a handler with each event of some namespaces, on threads of its own.

        It is the small form of a :class:`Worker`, and a loop over :meth:`subscribe` with what such a loop needs: an
        error of the handler is logged and counted, and ends nothing.

        Args:
            pattern: As for :meth:`subscribe`.
            handler: Called with what its annotations ask for: the :class:`Event`, or its value, of a class that is
                registered in the types of the bus. A single parameter without an annotation gets the event. With more
                than one thread, several calls run at the same time. To return an awaitable or a generator, which nobody
                would run, is a failure.
            threads: How many handlers run at a time. One keeps the order of the events.
            filter: As for :meth:`subscribe`.
            maxsize: As for :meth:`subscribe`.
            max_bytes: As for :meth:`subscribe`.
            overflow: As for :meth:`subscribe`.
            queue_group: As for :meth:`subscribe`.
            thread_start: Called on each thread before its first event; if it raises, the runner ends.
            thread_exit: Called on each thread after its last event.
            timeout: As for :meth:`subscribe`.

        Returns:
            A :class:`SubscriptionRunner` that has started; close it, or use it in a ``with`` statement. Closing the bus
            ends it, too, and does not wait for its handlers.

        Raises:
            InvalidOptionError: An argument is wrong: the handler is an ``async def`` or a generator function, say, or
                asks for something else.
            WorkerError: No thread can be started. Also the errors of :meth:`subscribe`.
        """
        number, hooks = check_running(threads, thread_start, thread_exit)
        name, wanted = name_of(handler), filter.event_types if is_of(filter, SubscriptionFilter) else frozenset()
        call = as_called(handler, f"the handler {name} of {short(pattern)}", OF_A_BUS, self.types, wanted)
        subscription = self.subscribe(
            pattern,
            filter=filter,
            maxsize=maxsize,
            max_bytes=max_bytes,
            overflow=overflow,
            queue_group=queue_group,
            timeout=timeout,
        )
        return start_subscription_runner(subscription, call, number, hooks, self._reporter, name=name)

    def unsubscribe(self, subscription: Subscription) -> None:
        """Close a subscription of this bus. The events that it has queued can still be taken.

        Raises:
            InvalidOptionError: It is not a subscription, or it belongs to another bus.
        """
        if not is_of(subscription, Subscription):
            raise InvalidOptionError(f"unsubscribe() takes what subscribe() returned, not {short(subscription)}")
        if subscription._end != self._end:
            raise InvalidOptionError(f"{subscription!r} is not one of {self!r}: call its close(), or that bus")
        subscription.close()

    # -- publishing

    def publish(self, namespace: str, event: Event) -> None:
        """Publish an event. If an error is raised, nothing was delivered anywhere.

        Args:
            namespace: Tokens between dots, without wildcards, at most 512 bytes.
            event: The event. Its data is encoded before this returns, and may be changed afterwards.

        Raises:
            InvalidNamespaceError: The namespace is not valid, or longer than the server accepts.
            InvalidEventError: It is not an Event.
            EncodingError: Its data holds a value that cannot be written as JSON.
            EventTooLargeError: It is larger than the server accepts.
            PublishTimeoutError: The outbox stayed full.
            DisconnectedError: The bus is disconnected, and has ``on_disconnect="raise"``.
            ConnectError: There is no connection, and this was the first attempt to connect.
            BusClosedError: The bus is closed.
        """
        self._publish(namespace, event, True)

    def try_publish(self, namespace: str, event: Event) -> bool:
        """Publish an event, and wait for nothing, not even for the first attempt to connect.

        Args:
            namespace: As for :meth:`publish`.
            event: As for :meth:`publish`.

        Returns:
            Whether it was accepted. If not, nothing was delivered anywhere, and ``publish_errors`` counts it.
        """
        try:
            self._publish(namespace, event, False)
        except AetherError:
            return False
        return True

    def _publish(self, namespace: str, event: Event, wait: bool, is_observed: bool = False) -> None:
        if observers and not is_observed:
            self._observe_publish(namespace, event, wait)
            return
        if self._abandoned:
            self._reap_if_free()
        try:
            route = self._targets.routes.get(namespace) if type(namespace) is str else None
            if route is None:
                route = self._targets.route(namespace)
            if type(event) is not Event and not is_of(event, Event):
                raise _no_event(event)
            if route.is_wanted:
                encoded, copy = encode_and_copy(event, route.namespace, self._kind)
                self._accept(route, encoded, wait)
                self._deliver(route, (copy,), (len(encoded),))
            else:
                self._accept(route, encode_event(event), wait)
        except AetherError:
            self._counters.add("publish_errors")
            raise
        (route.tally or self._tally(route)).one()

    def _observe_publish(self, namespace: str, event: Event, wait: bool) -> None:
        if not (self._has_route(namespace) and is_of(event, Event)):  # it is refused, and nothing is sent
            self._publish(namespace, event, wait, True)
            return
        operation = Operation(name="publish", kind="send", events=(event,), destination=str.__str__(namespace))
        with sending(operation) as (event,):
            self._publish(namespace, event, wait, True)

    def _has_route(self, namespace: str) -> bool:
        """Whether it is a namespace."""
        try:
            self._targets.route(namespace)
        except AetherError:
            return False
        return True

    def publish_many(self, namespace: str, events: Iterable[Event]) -> None:
        """Publish several events in order. If an error of :meth:`publish` is raised, none was delivered anywhere.

        Args:
            namespace: As for :meth:`publish`.
            events: The events; all are read and encoded before the first is accepted.
        """
        if self._abandoned:
            self._reap_if_free()
        iterator = as_iterator(events)
        if iterator is None:
            raise InvalidEventError(f"publish_many() takes events, not one {type(events).__name__}")
        events = tuple(iterator)
        if observers and self._has_route(namespace) and all(is_of(event, Event) for event in events):
            name = str.__str__(namespace)
            operation = Operation(name="publish", kind="send", events=events, destination=name, is_batch=True)
            with sending(operation) as events:
                self._publish_all(namespace, events)
        else:
            self._publish_all(namespace, events)

    def _publish_all(self, namespace: str, events: tuple[Event, ...]) -> None:
        try:
            route = self._targets.route(namespace)
            for event in events:
                if type(event) is not Event and not is_of(event, Event):
                    raise _no_event(event)
            copies: list[Event] = []
            if route.is_wanted:
                encoded = []
                for event in events:
                    one, copy = encode_and_copy(event, route.namespace, self._kind)
                    encoded.append(one)
                    copies.append(copy)
            else:
                encoded = [encode_event(event) for event in events]
            if len(encoded) == 1:
                self._accept(route, encoded[0], True)
            else:
                self._accept_many(route, encoded)
            if copies:
                self._deliver(route, copies, list(map(len, encoded)))
        except AetherError:
            self._counters.add("publish_errors", len(events))
            raise
        (route.tally or self._tally(route)).many(len(events))

    def _tally(self, route: Route) -> Count:
        route.tally = self._counters.tally(route.namespace)
        return route.tally

    def _deliver(self, route: Route, copies: Sequence[Event], sizes: Sequence[int]) -> None:
        """Put accepted events into the queues of this node."""
        dropping = route.deliver(copies, sizes, self._targets)
        if dropping:
            log_drops(dropping, self._reporter, self._listeners)
            if ended := failed(dropping):
                self._abandoned.extend(ended)
                self._reap_if_free()

    # -- what a bus across nodes overrides

    def _frame_of(self, namespace: str) -> Frame | None:
        """Return how an event of this namespace is written for other nodes; None if there are none."""
        return None

    def _join(self, target: Target, deadline: Deadline) -> None:
        """Let a target have all events that are published after this returns."""
        self._targets.add(target)

    def _part(self, targets: Sequence[Target], deadline: Deadline) -> None:
        """Let targets have no more events, except those that are on their way to a queue group and come in time."""
        for target in targets:
            self._targets.remove(target)

    def _accept(self, route: Route, encoded: bytes, wait: bool) -> None:
        """Accept an encoded event for other nodes, or raise. ``wait`` says whether to wait for room."""
        if self._closed:
            self._refuse_if_closed()

    def _accept_many(self, route: Route, encoded: Sequence[bytes]) -> None:
        """Accept encoded events for other nodes, all of them, or raise."""
        if self._closed:
            self._refuse_if_closed()

    def _finish(self, deadline: Deadline) -> CloseReport:
        """Close what lies below, and end what reports; all subscriptions are closed already."""
        report = CloseReport()
        self._listeners.end(report)
        self._reporter.close(last_words(deadline))
        return report

    # -- state

    def start(self) -> None:
        """Make ready for use; the first use does this as well.

        Raises:
            ConnectError: No server could be reached in time. Further attempts go on in the background.
            BusClosedError: The bus is closed.
        """
        self._refuse_if_closed()

    def flush(self, timeout: float | None = 5.0) -> None:
        """Wait until the connected server has processed everything that any thread published before this call.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Raises:
            DeadlineExceededError: The server had not confirmed everything in time.
            DeliveryUncertainError: Since the last flush, a connection broke before some events were confirmed, or the
                server refused some.
            BusClosedError: The bus is closed.
        """
        Deadline(timeout)
        self._refuse_if_closed()

    @property
    def is_connected(self) -> bool:
        """Whether events reach other nodes now."""
        return not self.closed

    def wait_connected(self, timeout: float | None = None) -> bool:
        """Wait until :attr:`is_connected` is true.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Returns:
            Whether it is.
        """
        Deadline(timeout)
        self._refuse_if_closed()
        return True

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def on(
        self,
        *,
        connected: NoticeCallback | None = None,
        disconnected: NoticeCallback | None = None,
        reconnected: NoticeCallback | None = None,
        uncertain: NoticeCallback | None = None,
        dropped: NoticeCallback | None = None,
        closed: NoticeCallback | None = None,
        **unknown: Never,
    ) -> Callable[[], None]:
        """Have functions called when something happens to the bus, each with a :class:`Notice`.

        All that :meth:`Connection.on` says holds here, too. A bus tells what happens to its connection, shared or not,
        and of subscriptions only what its own drop. ``closed`` is called when the bus is closed, or its connection, if
        that is closed first. An ``EventBus`` has no server: it calls ``dropped`` and ``closed`` alone. Callbacks of a
        bus that is dropped without ``close()`` are dropped with it.

        Args:
            connected: There is a connection, for the first time.
            disconnected: The connection is lost.
            reconnected: There is a connection again.
            uncertain: Events may not have arrived, because a connection broke before they were confirmed.
            dropped: A subscription drops events: called for the first of a burst, as it is logged.
            closed: The bus is closed.
            **unknown: Not used: a name that is not one of these is refused.

        Returns:
            A function that takes these callbacks off again. It waits for no call of them: one that another thread has
            begun or is about to begin as it is called may go on behind its return. All others are left out.

        Raises:
            InvalidOptionError: There is no callback, or none of such a name, or one cannot be called with one argument,
                or is an ``async def``.
        """
        return self._listeners.add(
            connected=connected,
            disconnected=disconnected,
            reconnected=reconnected,
            uncertain=uncertain,
            dropped=dropped,
            closed=closed,
            **unknown,
        )

    def health(self) -> Health:
        """Return whether the bus can do its work now, and if not, why. It never waits.

        An ``EventBus`` is well until it is closed. A ``NATSEventBus`` is well while it is open and its connection is:
        see :meth:`Connection.health`, of which the answer is the only one of ``parts``; it begins to connect if nothing
        has. Full subscriptions do not count, because one slow reader must not take a whole process out of service.

        Returns:
            With ``numbers``: ``subscriptions``, those that are open; ``pending``, the events that wait in them; and
            ``fullest``, how full the fullest of them is, from 0 to 1.
        """
        queues = [target.queue for target in list(self._members)]
        numbers = {
            "subscriptions": len(queues),
            "pending": sum(queue.pending for queue in queues),
            "fullest": max((queue.pending / queue.maxsize for queue in queues), default=0.0),
        }
        name = f"{type(self).__name__} {self.node_id[:8]}"
        if self._closed:
            return Health(about=name, reasons=(f"{name} is closed",), alive=False, numbers=numbers)
        return Health.of(name, numbers=numbers, parts=self._healths())

    def _healths(self) -> tuple[Health, ...]:
        """Return the health of what the bus needs."""
        return ()

    def metrics(self) -> Metrics:
        """Return what the bus has done so far."""
        return Metrics(node_id=self.node_id, **self._measure())

    def _was_refused(self, namespace: str, since: int) -> bool | None:
        """See :func:`was_refused`."""
        return False

    def _measure(self) -> dict[str, Any]:
        """Return the fields of :class:`Metrics`."""
        with self._lock:
            fields, stats = self._counters.snapshot()
            open_ones = [target.stats(stats.get(target.queue)) for target in list(self._members)]
        return {
            **fields,
            "active_subscriptions": len(open_ones),
            "subscriptions": tuple(open_ones),
        }

    # -- leaving and closing

    def _end(self, *targets: Target, discard: bool = False, timeout: float = _LAST_EVENTS) -> None:
        """End the queues of targets; a member of a queue group first gets the last events that it was chosen for."""
        for target in targets:
            if target.group is None or discard:
                target.queue.close(discard=discard)
        self._leave(targets, 0.0 if discard else timeout)  # nobody waits for what is discarded
        for target in targets:
            target.queue.close()

    def _end_all(self, deadline: Deadline) -> None:
        """End all subscriptions."""
        self._reap()
        with self._lock:
            members = list(self._members)
        self._end(*members, timeout=min(_LAST_EVENTS, deadline.remaining() / 2))

    def _admit(self, target: Target) -> None:
        refuse_late_patching()
        with self._lock:
            self._refuse_if_closed()
            if is_ending():
                raise BusClosedError("no subscription any more: this process is about to end")
            self._counters.queues.add(target.queue)  # first, so that a metrics() that interrupts this finds it
            self._members.add(target)
            self._counters.fold_ended()

    def _leave(self, targets: Sequence[Target], timeout: float = _LAST_EVENTS) -> None:
        leaving = [target for target in targets if not target.left]
        if leaving:
            self._part(leaving, Deadline(timeout))
        for target in leaving:
            with self._lock:
                self._members.discard(target)
            target.left = True  # last: if an exception comes before, the next call does it all again

    def _abandon(self, target: Target) -> None:
        """Note a subscription that ended by itself. Takes no lock, as the subscription's finalizer calls it."""
        self._abandoned.append(target)

    def _reap_if_free(self) -> None:
        """Remove subscriptions that ended by themselves, unless that would mean to wait: ``publish()`` calls this."""
        mine = also = False
        try:
            for mine in tries(self._lock):
                break
            try:
                for also in tries(self._targets.lock):
                    break
                if mine and also:
                    self._reap()
            finally:
                if also:
                    self._targets.lock.release()
        finally:
            if mine:
                self._lock.release()

    def _reap(self) -> None:
        """Remove subscriptions that ended by themselves: they were dropped without ``close()``, or failed."""
        while self._abandoned:
            try:
                target = self._abandoned.popleft()
            except IndexError:  # another thread was quicker
                return
            target.queue.close(discard=target.queue.failure is None)
            self._leave((target,))

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise BusClosedError(f"{self!r} is closed: make a new one")

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Close the subscriptions, send what was accepted, and end the bus's own connection.

        Iterators take what is queued, and end. Any thread may call it, more than once, and also a signal handler,
        whatever that has interrupted.

        Args:
            timeout: Seconds for all of it; None waits for ever.

        Returns:
            What was left undone, which is also logged; the report is true if nothing was.
        """
        deadline = Deadline(timeout)
        self._closed = True
        return self._closing.run(lambda: self._close(deadline), deadline, CloseReport(timed_out=True))

    def _close(self, deadline: Deadline) -> CloseReport:
        self._end_all(deadline)
        return self._finish(deadline)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.node_id[:8]}{' closed' if self._closed else ''}>"


def was_refused(bus: EventBus, namespace: str, since: int) -> bool | None:
    """Whether the server has refused any event of a namespace, whoever has published it.

    Args:
        bus: The bus, which was flushed.
        namespace: The namespace.
        since: How many events had been refused before, as :attr:`~aether_sync.NATSMetrics.rejected` counts them.

    Returns:
        None if that is not known, as there were too many refusals, or some that name no subject.
    """
    return bus._was_refused(namespace, since)


def lasting_metrics(bus: EventBus) -> Callable[[], Metrics]:
    """Return a function that says what a bus has counted, also when the bus is collected, which it does not prevent.

    What the bus would ask its connection for is zero there. In a forked child it begins with zeros, as the bus does.
    """
    node_id, counters = bus.node_id, bus._counters
    return lambda: Metrics(node_id=node_id, **counters.snapshot()[0])


_buses: WeakRegistry[EventBus] = WeakRegistry()


@before_threads_end
def _end_iterations() -> None:
    """End every iteration, because Python now waits for the threads that iterate."""
    deadline = Deadline(_LAST_EVENTS * 2)
    waited_for = main_thread_is_done() and any(
        not one.daemon and one is not main_thread() for one in enumerate_threads()
    )
    for bus in _buses:
        if waited_for and bus._members:
            text = "%r: the main thread is done, so iterations end; join() your threads to go on"
            bus._reporter.warning(Kind.UNFINISHED_ITERATIONS, text, bus, counts={"subscriptions": len(bus._members)})
        bus._end_all(deadline)


def _no_event(event: object) -> InvalidEventError:
    return InvalidEventError(
        f"publish() takes an Event(event_type=..., actor_id=..., data={{...}}), not {type(event).__name__}"
    )
