"""What ``metrics()``, ``stats()`` and ``close()`` return: frozen values, which pickle."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add

from ._arguments import as_seconds
from ._values.counting import Times
from ._values.shown import short
from .errors import InvalidOptionError

__all__ = [
    "BOUNDS",
    "CallMetrics",
    "CloseReport",
    "FollowerStats",
    "HandlerMetrics",
    "Histogram",
    "Metrics",
    "OTHER_NAMESPACES",
    "QueueStats",
    "RunnerMetrics",
    "StoreMetrics",
    "SubscriptionStats",
    "WorkerMetrics",
    "histogram_of",
    "histogram_of_both",
]

#: The key under which ``published_by_namespace`` counts all namespaces beyond its bound. It is no valid namespace.
OTHER_NAMESPACES = "*"

BOUNDS = (
    0.000_1,
    0.000_25,
    0.000_5,
    0.001,
    0.002_5,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
"""The bounds of every histogram of this library, in seconds.

They are the same for all methods and in all releases of one major version, so that histograms of several processes can
be added. A call that is answered from memory takes about 0.1 ms, a round trip to a server nearby about 0.3 ms, one
between continents 0.3 s; 5 s is the default time-out of a call, and 30 s the default ack wait of a consumer. Three
bounds a decade tell times apart that differ by a factor of 2.5, which is enough to see a change.
"""

_NAMESPACES_COUNTED = 1_000  # one by one: more than a dashboard shows, and few enough to copy for every snapshot


@dataclass(frozen=True, slots=True)
class QueueStats:
    """What went through a queue: ``offered == delivered + pending + sum(dropped.values())``."""

    offered: int
    delivered: int
    pending: int
    pending_bytes: int
    high_water: int
    dropped: dict[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SubscriptionStats:
    """What went through one subscription: ``offered == delivered + pending + dropped``.

    Attributes:
        patterns: The patterns that it was made with.
        queue_group: The queue group that it is a member of, or None.
        offered: Events that matched.
        delivered: Events that your threads took.
        dropped: Events that were lost to overflow, discarded by ``close(discard=True)``, or on their way when the
            subscription ended.
        dropped_by_reason: These by their reason; :class:`Metrics` has the list of reasons.
        pending: Events that are queued now.
        pending_bytes: The encoded size of these, in bytes.
        high_water: The most events that were queued at once.
    """

    patterns: tuple[str, ...]
    queue_group: str | None = None
    offered: int = 0
    delivered: int = 0
    dropped: int = 0
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)
    pending: int = 0
    pending_bytes: int = 0
    high_water: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Histogram:
    """How long something took, each time.

    Attributes:
        bounds: The upper bounds of the ranges in seconds, rising: :data:`BOUNDS`. A time that equals a bound is in the
            range that ends there.
        counts: How many times are in each range; the last number is of those above the last bound, so there is one more
            than there are bounds. They are not cumulative, as the ``le`` of Prometheus is.
        sum: The sum of all times, in seconds. A snapshot that is taken while a call ends may have that call in
            ``counts`` and not yet in ``sum``.
    """

    bounds: tuple[float, ...] = BOUNDS
    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    sum: float = 0.0

    @property
    def count(self) -> int:
        """How many times there are."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """The mean of all times, in seconds; 0 if there are none."""
        count = self.count
        return self.sum / count if count else 0.0

    def quantile(self, q: float) -> float:
        """Return the time that a share of all times does not exceed: ``quantile(0.99)`` is that of 99 %.

        It is an estimate: the range in which the time lies is exact, and within it the times are taken to be spread
        evenly, as Prometheus does in ``histogram_quantile()``. With :data:`BOUNDS` the true time is at most three
        times less or more, except below the first bound. A time above the last bound is given as that bound.

        Args:
            q: The share, from 0 to 1; 0.5 is the median.

        Returns:
            Seconds; 0 if there are no times.

        Raises:
            InvalidOptionError: ``q`` is no number from 0 to 1.
        """
        share = as_seconds(q)
        if share is None or not 0 <= share <= 1:
            raise InvalidOptionError(f"q must be a number from 0 to 1, not {short(q)}")
        wanted = share * self.count
        below, lower = 0, 0.0
        for upper, times in zip(self.bounds, self.counts, strict=False):  # what is above the last bound has no end
            if times and below + times >= wanted:
                return lower + (upper - lower) * (wanted - below) / times
            below, lower = below + times, upper
        return lower if self.count else 0.0

    def __repr__(self) -> str:
        if not self.count:
            return "Histogram(count=0)"
        half, most = self.quantile(0.5), self.quantile(0.99)
        return f"Histogram(count={self.count}, mean={self.mean:.3g}, p50={half:.3g}, p99={most:.3g})"


def histogram_of(times: Times) -> Histogram:
    """Return the times that were counted. A time is counted before it is added, so the sum is read first."""
    total = times.total
    return Histogram(counts=times.counts, sum=float(total))


def histogram_of_both(returned: Times, raised: Times) -> tuple[Histogram, int, int]:
    """Return the times of calls that have returned and of those that have raised, and how many there are of each."""
    first, second = histogram_of(returned), histogram_of(raised)
    counts = tuple(map(add, first.counts, second.counts))
    return Histogram(counts=counts, sum=first.sum + second.sum), first.count, second.count


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a bus did since it was made: a snapshot that does not change any more.

    ``confirmed``, ``uncertain``, ``rejected``, ``reconnects``, ``outbox_events``, ``outbox_bytes`` and
    ``publish_waits`` belong to the connection: buses that share one show the same numbers. Summed over these buses,
    ``published`` equals ``confirmed + uncertain + rejected`` and the events that the server has not answered yet.

    Attributes:
        node_id: The bus among all nodes of a cluster.
        published: Events that ``publish()`` accepted.
        published_by_namespace: These by their namespaces: the first 1,000; all others together as ``"*"``.
        received: Events of other nodes that arrived, counted before filters are applied.
        delivered: Events that threads took from subscriptions, those of closed ones included.
        dropped: Events that subscriptions dropped.
        dropped_by_reason: These by their reasons. ``maxsize`` and ``max_bytes``: the queue was full; ``discarded``: by
            ``close(discard=True)``; ``closed``: the server had chosen a member of a queue group that was closed
            meanwhile.
        publish_errors: Events that ``publish()`` refused; and, if the connection is the bus's own, the ``rejected``
            ones. Of a shared connection nobody knows whose they were: the server names only the subject of what it
            refuses.
        rejected: Events that the server refused after ``publish()`` had accepted them.
        subscribe_errors: Calls of ``subscribe()`` that failed.
        decode_errors: Messages that were not events, or that an error in this library kept from a subscription.
        confirmed: Published events that the server has processed and not refused.
        uncertain: Events written to a connection that broke before they were confirmed.
        reconnects: How often the connection was made again after a loss.
        outbox_events: Events waiting to be sent.
        outbox_bytes: Their bytes.
        publish_waits: How long ``publish()`` waited for room in the outbox, each time that it had to, in vain or not.
        pending: Events queued in subscriptions.
        active_subscriptions: Subscriptions that are open.
        subscriptions: What went through each of these.
    """

    node_id: str
    published: int = 0
    published_by_namespace: Mapping[str, int] = field(default_factory=dict)
    received: int = 0
    delivered: int = 0
    dropped: int = 0
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)
    publish_errors: int = 0
    rejected: int = 0
    subscribe_errors: int = 0
    decode_errors: int = 0
    confirmed: int = 0
    uncertain: int = 0
    reconnects: int = 0
    outbox_events: int = 0
    outbox_bytes: int = 0
    publish_waits: Histogram = field(default_factory=Histogram)
    pending: int = 0
    active_subscriptions: int = 0
    subscriptions: tuple[SubscriptionStats, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CallMetrics:
    """The calls of one method. ``calls == seconds.count`` and ``errors <= calls`` hold in every snapshot.

    A call counts when it ends. A method that calls another one counts itself alone.

    Attributes:
        calls: Calls that have ended, by an error or not.
        errors: Calls that raised an error, ``VersionConflictError`` included.
        seconds: How long each took, those that raised an error included.
    """

    calls: int = 0
    errors: int = 0
    seconds: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowerStats:
    """How far an open follower is.

    Attributes:
        actors: The pattern of actor ids that it was begun with; ``""`` for all.
        event_types: The event types that it was begun with, sorted; none for all.
        sequence: Its checkpoint: every wanted event up to this sequence has been taken.
        lag: Events that are stored and not taken yet, as far as this is known without asking the server: those that
            wait in this process, and those that the server had left when it sent the last of them. A follower of all
            actors also knows of what its store has saved. What else is stored while the server cannot reach the
            follower, or sends it no more because 4,096 events wait to be taken, is not known here. Events that the
            follower's filter passes by may be among them.
        is_connected: Whether the server delivers events now.
    """

    actors: str = ""
    event_types: tuple[str, ...] = ()
    sequence: int = 0
    lag: int = 0
    is_connected: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreMetrics:
    """What a store did since it was made, or in a forked child since the fork: a snapshot that does not change.

    Attributes:
        stream: The name of the stream; ``""`` of an in-memory store.
        calls: The calls by the name of the method: ``save_event``, ``append``, ``load``, and so on. A method that was
            not called is not among them. A call of ``iter_events`` takes as long as its first event, and one of
            ``follow`` as long as it takes to begin.
        conflicts: Calls that ended with a ``VersionConflictError``, because another writer was first.
        retries: Attempts to store that were made again within a call, because another writer was first, or the server
            had not answered, or was busy.
        unknown_outcomes: Calls that ended with an ``UnknownOutcomeError``: their events may be stored, or not.
        events_written: Events that were stored, those included that an earlier attempt had stored already.
        events_read: Events that calls have returned, and that followers have read; not those of consumers.
        version_hits: Actors whose version a save needed, and did not have to ask the server for.
        version_misses: Actors whose version a save had to ask the server for.
        kept_hits: How often an actor was read whose wanted events were kept in memory.
        kept_misses: How often an actor was read of whose events some had to be read from the server.
        kept_bytes: Bytes of memory that kept events take now, as far as that can be estimated; ``cache_bytes`` bounds
            it.
        followers: The open followers.
    """

    stream: str = ""
    calls: Mapping[str, CallMetrics] = field(default_factory=dict)
    conflicts: int = 0
    retries: int = 0
    unknown_outcomes: int = 0
    events_written: int = 0
    events_read: int = 0
    version_hits: int = 0
    version_misses: int = 0
    kept_hits: int = 0
    kept_misses: int = 0
    kept_bytes: int = 0
    followers: tuple[FollowerStats, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerMetrics:
    """What a runner did since it was made: a snapshot that does not change.

    ``handled + failed == seconds.count`` holds in every snapshot.

    Attributes:
        stream: The name of the stream whose events it handles: another stream may have a consumer of the same name.
        consumer: The consumer's name.
        of_dead_letters: Whether the runner handles the consumer's dead letters instead of its new events.
        threads: How many handlers may run at a time.
        busy: How many handlers run now.
        in_hand: Events that were delivered to this runner and are not settled: those that are handled now, wait for
            their turn, or pause before they are tried again.
        oldest_seconds: Seconds since the oldest event in hand was stored, by the clocks of the server and of this
            machine; 0 if there is none.
        handled: Calls of the handler that returned.
        failed: Calls of the handler that raised an error.
        redelivered: Deliveries that were not the first of their event.
        dead_letters: Events that this runner made dead letters, or its handler rejected; and those whose last delivery
            was here, and was given back by a close, or could not be acknowledged because the server denies that.
        lag: Events that the server had not delivered to any process of the consumer when it sent the last event that
            arrived here, and those that wait in this process and are not in hand. All processes that share a consumer
            say about the same: take the greatest, not the sum. While nothing arrives here, it does not change;
            ``consumer.state()`` asks the server.
        seconds: How long the handler took, each time.
    """

    stream: str = ""
    consumer: str = ""
    of_dead_letters: bool = False
    threads: int = 0
    busy: int = 0
    in_hand: int = 0
    oldest_seconds: float = 0.0
    handled: int = 0
    failed: int = 0
    redelivered: int = 0
    dead_letters: int = 0
    lag: int = 0
    seconds: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandlerMetrics:
    """What a handler did since it was begun: a snapshot that does not change.

    ``handled + failed == seconds.count`` holds in every snapshot.

    Attributes:
        name: The function, with its module: ``"shop.mails.send"``.
        kind: ``"on"`` of events of a bus, ``"consume"`` of a durable consumer, ``"every"`` of periodic work.
        of: The pattern, the name of the consumer, or the name of the periodic work.
        threads: How many calls may run at a time.
        busy: How many run now.
        waiting: Events that wait in this process to be handled.
        handled: Calls that returned.
        failed: Calls that raised an error.
        passed_by: Events or turns for which the handler was not called: those that it had handled already
            (``idempotent``), those that the filter of a queue group left out, and the turns of periodic work that
            another process took.
        overdue: Calls that took longer than their time limit.
        dropped: Events of a bus that were lost before they were handled, as the queue was full or was discarded.
        dead_letters: Events of a consumer that became dead letters here.
        seconds: How long the handler took, each time.
    """

    name: str = ""
    kind: str = ""
    of: str = ""
    threads: int = 0
    busy: int = 0
    waiting: int = 0
    handled: int = 0
    failed: int = 0
    passed_by: int = 0
    overdue: int = 0
    dropped: int = 0
    dead_letters: int = 0
    seconds: Histogram = field(default_factory=Histogram)


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerMetrics:
    """What the handlers of a worker did since it was started. Its projections are in ``health()``.

    Attributes:
        handlers: One for each handler, in the order in which they were given to the worker.
        runners: What the runners of its durable consumers have counted besides.
    """

    handlers: tuple[HandlerMetrics, ...] = ()
    runners: tuple[RunnerMetrics, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """What a ``close()`` left undone. It is true if nothing was: ``if not bus.close(): ...``.

    Attributes:
        unsent: Events that were accepted and never sent.
        uncertain: Events that were sent and not confirmed, as far as no ``flush()`` has reported them.
        rejected: Events that the server refused, as far as no ``flush()`` has reported them.
        handlers_left: Handlers that still ran when the time was over.
        timed_out: Whether the timeout ran out before everything was done.
    """

    unsent: int = 0
    uncertain: int = 0
    rejected: int = 0
    handlers_left: int = 0
    timed_out: bool = False

    def __bool__(self) -> bool:
        return not (self.unsent or self.uncertain or self.rejected or self.handlers_left or self.timed_out)
