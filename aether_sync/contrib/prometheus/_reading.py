"""What the snapshots of buses, stores, runners, workers and the like say, as series and their values.

The counts of an object never go down, so two readings of it can be merged in any order: of each number the greater one
holds. A histogram is a row of such numbers: how many times are in each range, and their sum.
"""

from typing import TypeVar

from ...bus import EventBus
from ...connection import Connection
from ...metrics import Histogram, Metrics, RunnerMetrics, StoreMetrics
from ...nats_bus import NATSEventBus
from ...outbox.relay import Relay
from ...stores._store_base import StoreBase
from ...stores.consumers.base import ConsumerState
from ...stores.consumers.runner import Runner
from ...worker.worker import Worker, relays_of
from . import _families as families
from ._families import Family, Series

__all__ = [
    "Reading",
    "counts_of_bus",
    "counts_of_runner",
    "counts_of_store",
    "labels_of_runner",
    "named",
    "read_bus",
    "read_connection",
    "read_consumer",
    "read_relay",
    "read_runner",
    "read_store",
    "read_worker",
]

Numbers = tuple[float, ...]

V = TypeVar("V")


class Reading:
    """What an object says at one moment.

    Attributes:
        counts: What never goes down.
        gauges: What does.
        of_connection: What a bus says of its connection; None if it has none. Others may share that, so this has the
            name of the bus until it is taken :meth:`as_` that of the connection.
    """

    def __init__(self, *labels: str) -> None:
        self._labels = labels
        self.counts: dict[Series, Numbers] = {}
        self.gauges: dict[Series, float] = {}
        self.of_connection: Reading | None = None

    def count(self, family: Family, value: float, *labels: str) -> None:
        """Note a counter."""
        self.counts[Series(family, (*self._labels, *labels))] = (value,)

    def histogram(self, family: Family, value: Histogram, *labels: str) -> None:
        """Note a histogram."""
        self.counts[Series(family, (*self._labels, *labels))] = (*value.counts, value.sum)

    def gauge(self, family: Family, value: float, *labels: str) -> None:
        """Note a gauge."""
        self.gauges[Series(family, (*self._labels, *labels))] = value

    def add(self, other: "Reading") -> None:
        """Take over what another object says, whose series are others."""
        self.counts.update(other.counts)
        self.gauges.update(other.gauges)

    def as_(self, name: str) -> "Reading":
        """Return the same under another name."""
        if self._labels[0] == name:
            return self
        other = Reading(name, *self._labels[1:])
        other.counts = named(self.counts, name)
        other.gauges = named(self.gauges, name)
        return other


def named(values: dict[Series, V], name: str) -> dict[Series, V]:
    """Return the same values under another name, which is the first label of every series of an object."""
    return {Series(one.family, (name, *one.labels[1:])): value for one, value in values.items()}


def counts_of_bus(metrics: Metrics, name: str, prefix: str) -> Reading:
    """Return what a bus has counted."""
    found = Reading(name, prefix)
    for namespace, events in metrics.published_by_namespace.items():
        found.count(families.BUS_PUBLISHED, events, namespace)
    found.count(families.BUS_RECEIVED, metrics.received)
    found.count(families.BUS_DELIVERED, metrics.delivered)
    for reason, events in metrics.dropped_by_reason.items():
        found.count(families.BUS_DROPPED, events, reason)
    found.count(families.BUS_PUBLISH_ERRORS, metrics.publish_errors)
    found.count(families.BUS_SUBSCRIBE_ERRORS, metrics.subscribe_errors)
    found.count(families.BUS_DECODE_ERRORS, metrics.decode_errors)
    return found


def read_bus(bus: EventBus, name: str) -> Reading:
    """Read a bus, and what it knows of its connection."""
    metrics = bus.metrics()
    found = counts_of_bus(metrics, name, bus.prefix if isinstance(bus, NATSEventBus) else "")
    found.gauge(families.BUS_PENDING_EVENTS, metrics.pending)
    found.gauge(families.BUS_PENDING_BYTES, sum(one.pending_bytes for one in metrics.subscriptions))
    found.gauge(families.BUS_SUBSCRIPTIONS, metrics.active_subscriptions)
    if isinstance(bus, NATSEventBus):
        found.of_connection = below = Reading(name)
        below.count(families.CONNECTION_CONFIRMED, metrics.confirmed)
        below.count(families.CONNECTION_UNCERTAIN, metrics.uncertain)
        below.count(families.CONNECTION_REJECTED, metrics.rejected)
        below.gauge(families.CONNECTION_OUTBOX_EVENTS, metrics.outbox_events)
        below.gauge(families.CONNECTION_OUTBOX_BYTES, metrics.outbox_bytes)
    return found


def read_connection(connection: Connection, name: str) -> Reading:
    """Read what a connection knows without the buses that use it."""
    found = Reading(name)
    found.count(families.CONNECTION_RECONNECTS, connection.reconnects)
    if not connection.closed:
        is_connected = connection.is_connected  # first: one that is connected has started
        found.gauge(families.CONNECTION_STARTED, connection.started)
        found.gauge(families.CONNECTION_CONNECTED, is_connected)
    return found


def counts_of_store(metrics: StoreMetrics, name: str, stream: str) -> Reading:
    """Return what a store has counted."""
    found = Reading(name, stream)
    for method, calls in metrics.calls.items():
        found.histogram(families.STORE_CALL_SECONDS, calls.seconds, method)
        found.count(families.STORE_CALL_ERRORS, calls.errors, method)
    found.count(families.STORE_CONFLICTS, metrics.conflicts)
    found.count(families.STORE_RETRIES, metrics.retries)
    found.count(families.STORE_UNKNOWN_OUTCOMES, metrics.unknown_outcomes)
    found.count(families.STORE_EVENTS_WRITTEN, metrics.events_written)
    found.count(families.STORE_EVENTS_READ, metrics.events_read)
    found.count(families.STORE_VERSION_HITS, metrics.version_hits)
    found.count(families.STORE_VERSION_MISSES, metrics.version_misses)
    found.count(families.STORE_KEPT_HITS, metrics.kept_hits)
    found.count(families.STORE_KEPT_MISSES, metrics.kept_misses)
    return found


def read_store(store: StoreBase, name: str) -> Reading:
    """Read a store."""
    metrics = store.metrics()
    found = counts_of_store(metrics, name, metrics.stream)
    found.gauge(families.STORE_KEPT_BYTES, metrics.kept_bytes)
    found.gauge(families.STORE_FOLLOWERS, len(metrics.followers))
    found.gauge(families.STORE_FOLLOWERS_CONNECTED, sum(one.is_connected for one in metrics.followers))
    lags = [one.lag for one in metrics.followers if one.lag is not None]
    if lags:
        found.gauge(families.STORE_FOLLOWER_LAG, max(lags))
    return found


def labels_of_runner(metrics: RunnerMetrics) -> tuple[str, str, str]:
    """Return the stream and the consumer of a runner, and which events it handles."""
    return metrics.stream, metrics.consumer, "dead_letters" if metrics.of_dead_letters else "events"


def counts_of_runner(metrics: RunnerMetrics, name: str, stream: str, consumer: str, source: str) -> Reading:
    """Return what a runner has counted."""
    found = Reading(name, stream, consumer, source)
    found.histogram(families.RUNNER_HANDLER_SECONDS, metrics.seconds)
    found.count(families.RUNNER_HANDLED, metrics.handled)
    found.count(families.RUNNER_FAILED, metrics.failed)
    found.count(families.RUNNER_REDELIVERED, metrics.redelivered)
    found.count(families.RUNNER_DEAD_LETTERS, metrics.dead_letters)
    return found


def read_runner(runner: Runner, name: str) -> Reading:
    """Read a runner."""
    return _reading_of_runner(runner.metrics(), name, is_open=not runner.closed)


def _reading_of_runner(metrics: RunnerMetrics, name: str, *, is_open: bool) -> Reading:
    """Return what a runner says. What a closed one had in hand is no longer its own."""
    found = counts_of_runner(metrics, name, *labels_of_runner(metrics))
    if is_open:
        found.gauge(families.RUNNER_THREADS, metrics.threads)
        found.gauge(families.RUNNER_BUSY, metrics.busy)
        found.gauge(families.RUNNER_IN_HAND, metrics.in_hand)
        found.gauge(families.RUNNER_OLDEST_SECONDS, metrics.oldest_seconds)
        found.gauge(families.RUNNER_LAG, metrics.lag)
    return found


def read_consumer(state: ConsumerState | None, name: str, stream: str, consumer: str) -> Reading:
    """Read what the server said of a durable consumer; nothing if it has not said anything."""
    found = Reading(name, stream, consumer)
    if state is not None:
        found.gauge(families.CONSUMER_WAITING, state.waiting)
        found.gauge(families.CONSUMER_UNACKNOWLEDGED, state.unacknowledged)
        found.gauge(families.CONSUMER_REDELIVERED, state.redelivered)
    return found


def read_worker(worker: Worker, name: str) -> Reading:
    """Read the handlers of a worker, the runners of its consumers, and its relays."""
    metrics, is_open = worker.metrics(), not worker.closed
    found = Reading(name)
    for one in metrics.handlers:
        labels = one.name, one.kind, one.of
        found.histogram(families.WORKER_HANDLER_SECONDS, one.seconds, *labels)
        found.count(families.WORKER_HANDLED, one.handled, *labels)
        found.count(families.WORKER_FAILED, one.failed, *labels)
        found.count(families.WORKER_PASSED_BY, one.passed_by, *labels)
        found.count(families.WORKER_OVERDUE, one.overdue, *labels)
        found.count(families.WORKER_DROPPED, one.dropped, *labels)
        found.count(families.WORKER_DEAD_LETTERS, one.dead_letters, *labels)
        if is_open:
            found.gauge(families.WORKER_THREADS, one.threads, *labels)
            found.gauge(families.WORKER_BUSY, one.busy, *labels)
            found.gauge(families.WORKER_WAITING, one.waiting, *labels)
    for runner in metrics.runners:
        if runner.threads:  # it has begun
            found.add(_reading_of_runner(runner, name, is_open=is_open))
    for relay in relays_of(worker):
        found.add(read_relay(relay, name))
    return found


def read_relay(relay: Relay, name: str) -> Reading:
    """Read a relay. What waits in its table is shown while it works."""
    metrics, health = relay.metrics(), relay.health()
    found = Reading(name, metrics.outbox)
    found.histogram(families.RELAY_SECONDS, metrics.seconds)
    found.count(families.RELAY_STORED, metrics.stored)
    found.count(families.RELAY_PUBLISHED, metrics.published)
    found.count(families.RELAY_SET_ASIDE, metrics.set_aside)
    found.count(families.RELAY_FAILURES, metrics.failures)
    if health.numbers:
        found.gauge(families.RELAY_WAITING_ROWS, health.numbers["waiting"])
        found.gauge(families.RELAY_ASIDE_ROWS, health.numbers["set_aside"])
        found.gauge(families.RELAY_OLDEST_SECONDS, health.numbers["seconds_oldest"])
    return found
