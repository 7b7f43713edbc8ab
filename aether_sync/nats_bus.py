"""``NATSEventBus``: an event bus across the nodes of a NATS cluster."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Unpack
from weakref import WeakMethod

from ._arguments import check_choice, check_options, check_timeout
from ._bus.incoming import EventInterest, Incoming
from ._bus.routing import Frame, Route, Target, make_frame
from ._bus.store_watch import StoreWatch, VersionListener
from ._codec.envelope import FIRST_POSITION, EnvelopeWriter
from ._nats.lines import line_of
from ._runtime.deadline import Deadline
from ._runtime.listeners import Listeners
from ._runtime.locks import signal_safe_lock
from ._runtime.reporter import Kind, Reporter, last_words, log_close
from ._values.shown import explained
from .bus import EventBus
from .connection import OPTIONS, Connection, ConnectionOptions, adopt
from .errors import (
    BusClosedError,
    DeadlineExceededError,
    DeliveryUncertainError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
)
from .event_types import EventTypes
from .events import Event
from .health import Health
from .metrics import CloseReport
from .patterns import check_prefix, subject_of

__all__ = ["NATSEventBus"]

_WATCH_CONFIRMED = 5.0  # seconds for the server to confirm the subscription to ``EventStored``


class NATSEventBus(EventBus):
    """Publishes events to the subscriptions of every node of a cluster.

    Nothing happens before the first use, :meth:`start` or ``with``. Events of this node reach its own subscriptions
    directly, and those of all other nodes through the server; none comes twice. Wildcard patterns cross namespaces:
    only the server's permissions keep tenants apart.

    Args:
        connection: A :class:`Connection`, which stays open when the bus is closed; or the URL or URLs for one of the
            bus's own. None means the environment's ``NATS_URL``, else the URL of the context that ``NATS_CONTEXT``
            names, else ``nats://127.0.0.1:4222``.
        prefix: The first token of every subject. Nodes with different prefixes do not hear each other.
        publish_timeout: Seconds that :meth:`publish` waits for room in the outbox.
        on_disconnect: What :meth:`publish` does while disconnected. ``"buffer"`` puts the event into the outbox;
            ``"raise"`` raises ``DisconnectedError``.
        store: An event store whose version cache follows every ``EventStored`` that other nodes publish under
            ``namespace``, from :meth:`start` or the first use on. Nobody has to iterate anything for that.
        namespace: Where the nodes publish them; needs ``store``.
        types: The classes of the events, for ``event.value``, as of an :class:`EventBus`.
        **options: Those of :class:`Connection`, for a connection of the bus's own.

    Raises:
        InvalidOptionError: An option is of the wrong type or out of its range.
        InvalidNamespaceError: The prefix is not a valid token.
    """

    def __init__(
        self,
        connection: Connection | str | Sequence[str] | None = None,
        *,
        prefix: str = "aether",
        publish_timeout: float = 5.0,
        on_disconnect: Literal["buffer", "raise"] = "buffer",
        store: VersionListener | None = None,
        namespace: str | None = None,
        types: EventTypes | None = None,
        **options: Unpack[ConnectionOptions],
    ) -> None:
        check_options(NATSEventBus, options, OPTIONS)
        self._prefix = check_prefix(prefix)
        self._publish_timeout = check_timeout("publish_timeout", publish_timeout)
        self._buffer = check_choice("on_disconnect", on_disconnect, {"buffer": True, "raise": False})
        self._watch = None if store is None and namespace is None else StoreWatch(store, namespace, self._prefix)
        self._connection, self._channel, self._owns_connection = adopt(connection, options)
        super().__init__(types=types)
        if not self._owns_connection:
            self._channel.slot.is_shared = True

    def _begin_to_report(self) -> tuple[Reporter, Listeners]:
        reporter, above = self._channel.reporter, self._channel.slot.listeners
        return reporter, Listeners(reporter, above.url, above)

    def _become_a_node(self) -> None:
        super()._become_a_node()
        self._writer = EnvelopeWriter(self.node_id)
        seen = None if self._watch is None else self._seen
        self._inbox = Incoming(self.node_id, self._counters, _caller(self._abandon), self._listeners, seen, self._kind)
        self._to_watch = [] if self._watch is None else [self._watch.namespace]  # empty once it is subscribed
        # Guards _interests, and that the link hears of their changes in order.
        self._interests_lock = signal_safe_lock()
        self._interests: dict[tuple[str, str | None], EventInterest] = {}  # by subject and queue group

    def _after_fork(self) -> None:
        for interest in list(self._interests.values()):
            interest.disown()
        super()._after_fork()

    @property
    def prefix(self) -> str:
        """The first token of its subjects."""
        return self._prefix

    @property
    def connection(self) -> Connection:
        """The connection it uses."""
        return self._connection

    # -- publishing

    def _subject_of(self, namespace: str) -> str:
        return subject_of(self._prefix, namespace)

    def _frame_of(self, namespace: str) -> Frame:
        subject = self._subject_of(namespace)
        return make_frame(subject, namespace, self._writer, line_of(subject))

    def _accept(self, route: Route, encoded: bytes, wait: bool) -> None:
        if self._closed or self._to_watch:
            self._begin_to_publish()
        assert route.frame is not None
        template, around, position, line = route.frame
        size = around + len(encoded)
        frame = template % (size, position(), encoded)
        self._channel.send(frame, size, line, self._publish_timeout if wait else 0.0, self._buffer, wait)

    def _accept_many(self, route: Route, encoded: Sequence[bytes]) -> None:
        if self._closed or self._to_watch:
            self._begin_to_publish()
        assert route.frame is not None
        template, around, position, line = route.frame
        lengths = list(map(len, encoded))
        largest = around + max(lengths, default=0)
        each = len(template % (largest, FIRST_POSITION, b""))
        size = sum(lengths) + each * len(lengths)

        def make() -> list[bytes]:
            return [template % (around + len(one), position(), one) for one in encoded]

        self._channel.send_many(len(encoded), size, largest, line, make, self._publish_timeout, self._buffer)

    def _begin_to_publish(self) -> None:
        self._refuse_if_closed()
        if self._to_watch:
            self._begin_to_watch()

    # -- subscribing

    def _join(self, target: Target, deadline: Deadline) -> None:
        self._begin_use()
        interests = [self._share_interest(target, pattern) for pattern in target.subject_patterns]
        for interest in interests:
            self._await_confirmation(interest, target, deadline)
        if target.group is None:  # events of this node come directly; the server chooses who of a group gets one
            self._targets.add(target)

    def _await_confirmation(self, interest: EventInterest, target: Target, deadline: Deadline) -> None:
        try:
            self._channel.await_confirmation(interest, deadline)
        except SubscriptionClosedError:
            if not isinstance(target.queue.failure, SubscriptionOverflowError):  # which its readers get
                raise

    def _share_interest(self, target: Target, pattern: str) -> EventInterest:
        """Return the interest in a pattern, which the target now shares; subscribe a new one if there is none."""
        key = (pattern, target.group)
        while True:
            with self._interests_lock:
                interest = self._interests.get(key)
                if interest is not None and interest.ended:
                    self._channel.unsubscribe(interest)  # once more, if an exception kept another call from it
                if interest is None or interest.ended:
                    interest = EventInterest(self._inbox, self._subject_of(pattern), pattern, target.group)
                    interest.is_watched = self._watch is not None and key == (self._watch.namespace, None)
                    self._interests[key] = interest
                interest.add(target)
                if not interest.entered:
                    self._channel.subscribe(interest)
                    interest.entered = True
                if not interest.ended or interest.confirmed.error is not None:
                    return interest
                interest.remove(target)  # a close() in a signal handler has ended it meanwhile

    def _part(self, targets: Sequence[Target], deadline: Deadline) -> None:
        super()._part(targets, deadline)
        left = [interest for target in targets for interest in self._leave_interests(target)]
        # Events that the server has chosen this node for are on their way. Those that come later count as dropped.
        self._channel.await_last([interest for interest in left if interest.group is not None], deadline)

    def _leave_interests(self, target: Target) -> list[EventInterest]:
        """Leave the interests of a target; return those that served nobody else, whose last events it still gets."""
        left = []
        with self._interests_lock:
            for pattern in target.subject_patterns:
                interest = self._interests.get((pattern, target.group))
                if interest is None:
                    continue
                if not interest.serves_only(target):
                    interest.remove(target)
                    continue
                left.append(interest)
                interest.ended = True  # first, wherever an exception may come
                self._channel.unsubscribe(interest)
                if self._interests.get((pattern, target.group)) is interest:
                    self._interests.pop((pattern, target.group), None)
        return left

    def _abandon(self, target: Target) -> None:
        super()._abandon(target)
        self._channel.call_soon(self._reap)

    def _reap_if_free(self) -> None:  # on the loop thread, which may take the locks
        self._channel.call_soon(self._reap)

    # -- state

    def __repr__(self) -> str:
        return f"<NATSEventBus {self.node_id[:8]} {'closed' if self._closed else self._channel.slot.summary}>"

    def start(self) -> None:  # noqa: D102
        self._refuse_if_closed()
        self._connection.start()
        if self._to_watch:
            self._channel.await_confirmation(self._begin_to_watch(), Deadline(_WATCH_CONFIRMED))

    def _begin_use(self) -> None:
        """Begin to connect, as the first use does. Calls that need the server wait for it themselves."""
        if self._channel.slot.is_awaited:
            self.start()
            return
        self._refuse_if_closed()
        self._channel.make_ready()
        if self._to_watch:
            self._begin_to_watch()

    def _begin_to_watch(self) -> EventInterest:
        """Subscribe to the ``EventStored`` of other nodes, for the version cache of the store."""
        assert self._watch is not None
        pattern = self._watch.namespace
        key = (pattern, None)
        with self._interests_lock:
            interest = self._interests.get(key)
            if interest is None:
                interest = EventInterest(self._inbox, self._subject_of(pattern), pattern, None)
                self._interests[key] = interest
            interest.is_watched = True
            if not interest.entered:
                self._channel.subscribe(interest, wait=False)
                interest.entered = True
            self._to_watch.clear()
        return interest

    def _seen(self, namespace: str, events: list[Event]) -> None:
        assert self._watch is not None
        try:
            self._watch.seen(namespace, events)
        except Exception as error:
            self._reporter.burst(Kind.VERSION_NOT_TAKEN, "the store does not take an EventStored: %s", explained(error))

    def flush(self, timeout: float | None = 5.0) -> None:  # noqa: D102
        self._refuse_if_closed()
        self._connection.flush(timeout)

    def _was_refused(self, namespace: str, since: int) -> bool | None:
        refused = self._channel.refused_since(since)
        return None if refused is None else self._subject_of(namespace) in refused

    @property
    def is_connected(self) -> bool:  # noqa: D102
        return not self._closed and self._connection.is_connected

    def wait_connected(self, timeout: float | None = None) -> bool:  # noqa: D102
        self._refuse_if_closed()
        return self._connection.wait_connected(timeout)

    def _healths(self) -> tuple[Health, ...]:
        return (self._connection.health(),)

    def _measure(self) -> dict[str, Any]:
        measured = super()._measure()
        counts = self._channel.counts()
        if not self._channel.slot.is_shared:  # of a shared one nobody knows whose events they were
            measured["publish_errors"] += counts["rejected"]
        return measured | counts

    # -- closing

    def _finish(self, deadline: Deadline) -> CloseReport:
        if self._owns_connection:
            return self._connection.close(deadline.timeout_left())
        report = self._last_flush(deadline)
        log_close(self._reporter, repr(self), report)
        self._listeners.end(report)
        self._reporter.flush(last_words(deadline))
        return report

    def _last_flush(self, deadline: Deadline) -> CloseReport:
        try:
            self._connection.flush(deadline.timeout_left())
        except DeliveryUncertainError as error:
            return CloseReport(uncertain=error.uncertain, rejected=error.rejected)
        except DeadlineExceededError:
            return CloseReport(unsent=self._channel.counts()["outbox_events"], timed_out=True)
        except BusClosedError:  # the connection was closed first, and has reported
            pass
        return CloseReport()


def _caller(method: Callable[[Target], None]) -> Callable[[Target], None]:
    """Return a function that calls a method of a bus as long as the bus lives: the link must not keep it alive."""
    weak = WeakMethod(method)

    def call(target: Target) -> None:
        found = weak()
        if found is not None:
            found(target)

    return call
