"""Puts events that arrive from the server into the queues of subscriptions, a batch for each turn of the loop.

One NATS subscription, an *interest*, serves all local subscriptions with its subject. Interests that overlap bring
copies of an event. A local subscription takes the copy that arrives through the first of its patterns that matches, so
it gets the event once, whichever copies arrive. Messages are routed by the sid of their NATS subscription and by the
client that it was made with, never by their subject.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from .._codec.decoding import decode_run
from .._codec.envelope import EnvelopeWriter
from .._nats.interest import Interest
from .._runtime.listeners import Listeners
from .._runtime.locks import signal_safe_lock
from .._runtime.reporter import Kind, Reporter
from ..errors import AetherError
from ..events import Event
from .counting import Counters
from .recent_payloads import RecentPayloads
from .routing import Deliveries, Group, Route, Target, failed, log_drops

__all__ = ["EventInterest", "Incoming", "Run"]

_ROUTES_KEPT = 4_096  # subjects of an interest; beyond that all are forgotten, and computed again when needed


#: Messages that arrived in a row: the interest, the subject, and one or more payloads.
Run = tuple["EventInterest", str, list[bytes]]


class EventInterest(Interest):
    """A NATS subscription of a bus, which serves all its local subscriptions with the subject and queue group."""

    whole = False

    def __init__(self, inbox: "Incoming", subject: str, pattern: str, group: str | None) -> None:
        super().__init__(subject, group)
        self.inbox: Incoming = inbox
        self.pattern = pattern  # the subject without the prefix
        self.is_watched = False  # whether a store needs it, even with no local subscription
        self._lock = signal_safe_lock()  # guards the fields below; _routes is read without it
        self._turns = count()  # whose turn it is, of the group's members
        self._members: dict[Target, None] = {}
        self._routes: dict[str, Route] = {}

    def add(self, target: Target) -> None:
        """Add a local subscription: it gets the events that arrive from now on."""
        with self._lock:
            self._members[target] = None
            self._routes = {}

    def remove(self, target: Target) -> None:
        """Remove a local subscription: it gets no more events."""
        with self._lock:
            self._members.pop(target, None)
            self._routes = {}

    def serves_only(self, target: Target) -> bool:
        """Whether no other subscription and no store needs it."""
        if self.is_watched:
            return False
        return not self._members or (len(self._members) == 1 and target in self._members)

    def conclude(self) -> None:
        """Serve nobody any more. Until now the last member of a group got the events that the server chose it for.

        If that member was closed already, its events were counted.
        """
        super().conclude()
        with self._lock:
            self._members.clear()
            self._routes = {}

    def _end(self, error: AetherError, failure: AetherError | None) -> None:
        super()._end(error, failure)
        with self._lock:
            members = list(self._members)
        for target in members:
            target.queue.close(failure=failure)
            if failure is not None:  # it may have other patterns, which have to be left
                self.inbox.failed(target)

    def route(self, subject: str) -> Route:
        """Find the route of a subject. Loop thread only."""
        route = self._routes.get(subject)
        if route is None:
            with self._lock:
                route = self._compute(subject)
                if len(self._routes) >= _ROUTES_KEPT:
                    self._routes = {}
                self._routes[subject] = route
        return route

    def _compute(self, subject: str) -> Route:
        namespace = subject[len(self.subject) - len(self.pattern) :]
        targets = tuple(target for target in self._members if self._serves(target, namespace))
        if self.group is None:
            return Route(namespace, targets=targets)
        return Route(namespace, groups=(Group(self.group, targets, self._turns),) if targets else ())

    def _serves(self, target: Target, namespace: str) -> bool:
        pattern = target.first_match(namespace)
        return pattern is not None and pattern.subject_pattern == self.pattern


class Incoming:
    """Gathers what arrives for a bus in one turn of the loop, and delivers it at the end. Loop thread only.

    Args:
        node_id: The id of the bus's node. Its own events, which the server sends back, are left out.
        counters: The bus's.
        failed: Called with a subscription that ended by a failure; on any thread.
        listeners: The bus's, which are told of drops.
        seen: Called with the events of a namespace before they are delivered.
        kind: The class of the events: it knows the bus's types.
    """

    def __init__(
        self,
        node_id: str,
        counters: Counters,
        failed: Callable[[Target], None],
        listeners: Listeners,
        seen: Callable[[str, list[Event]], None] | None = None,
        kind: type[Event] = Event,
    ) -> None:
        self._node_id = node_id
        self._counters = counters
        self.failed = failed
        self._listeners = listeners
        self._seen = seen
        self._kind = kind
        self.arrived: list[Run] = []  #: what has arrived in this turn, in order
        # Not asked for queue groups: there each event is sent to one member, once.
        self._recent = RecentPayloads(EnvelopeWriter(node_id).own_mark)
        # The event that was decoded last. Its copies arrive directly after it, but perhaps in another turn of the loop.
        self._last: tuple[str, bytes, Event, EventInterest] | None = None

    def arrive(self, interest: EventInterest, subject: str, payload: bytes, reporter: Reporter) -> None:
        """Take one message, to be delivered at the end of this turn."""
        if self.arrived:
            by, at, payloads = self.arrived[-1]
            if by is interest and at == subject:
                payloads.append(payload)
                return
        else:
            asyncio.get_running_loop().call_soon(self.deliver, reporter)
        self.arrived.append((interest, subject, [payload]))

    def move(self) -> None:
        """Note that what arrives from now on comes through another connection, perhaps from another server."""
        self._recent.move()
        self._last = None  # a payload that is the same from now on is not a copy of it

    def refuse(self, subject: str, reason: str, reporter: Reporter) -> None:
        """Count a message that is not an event, and log the first one of a burst, without its content."""
        self._counters.add("decode_errors")
        text = "a message on %r is no event, and is skipped: %s"
        reporter.burst(Kind.DECODE_ERROR, text, subject, reason, subject=subject)

    def deliver(self, reporter: Reporter) -> None:
        """Decode what has arrived, each event once, and put the events into the queues."""
        arrived, self.arrived = self.arrived, []
        try:
            self._deliver(arrived, reporter)
        except Exception as mistake:  # a bug, or no memory; other buses have to get their messages of this turn
            self._counters.add("decode_errors", sum(len(payloads) for _, _, payloads in arrived))
            reporter.mistake(mistake)

    def _deliver(self, arrived: list[Run], reporter: Reporter) -> None:
        deliveries = Deliveries()
        received = 0
        for interest, subject, payloads in arrived:
            find = partial(interest.route, subject)
            route = find()
            if interest.group is None:
                payloads = self._recent.new(payloads)  # noqa: PLW2901
            copy = self._copy(interest, subject, payloads)
            if copy is not None:
                deliveries.add(route, find, (copy,), (len(payloads[0]),))
                payloads = payloads[1:]  # noqa: PLW2901
            events, kept = decode_run(
                payloads,
                route.namespace,
                self._node_id if interest.group is None else None,
                lambda error, subject=subject: self.refuse(subject, str(error), reporter),  # type: ignore[misc]
                self._kind,
            )
            if events:
                if self._seen is not None:
                    self._seen(route.namespace, events)
                self._last = subject, kept[-1], events[-1], interest
                deliveries.add(route, find, events, list(map(len, kept)))
                received += len(events)
        if received:  # before the readers are woken, so that they find the count
            self._counters.add("received", received)
        dropping = deliveries.hand_over()
        if dropping:
            log_drops(dropping, reporter, self._listeners)
            for target in failed(dropping):
                self.failed(target)

    def _copy(self, interest: EventInterest, subject: str, payloads: Sequence[bytes]) -> Event | None:
        """Return the event that was decoded last, if the first payload is a copy of it from another interest."""
        if self._last is not None and payloads:
            at, last, event, by = self._last
            if interest is not by and payloads[0] == last and subject == at:
                return event
        return None
