"""The families of metrics: their names, help texts and labels. ``dashboard.json`` and the guide use these names.

Names follow Prometheus (https://prometheus.io/docs/practices/naming/): base units, ``_total`` for counters. Each label
has few values: a namespace is counted by its name only if it is among the first 1,000 of its bus, and nothing is
labelled with the id of an event, an actor or a node. An empty label is left out, which means the same to Prometheus.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

__all__ = ["FAMILIES", "Family", "Series"]


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """All series of one name.

    Attributes:
        name: The name that a query uses; of a histogram without ``_bucket``, ``_sum`` and ``_count``.
        kind: What Prometheus takes it for.
        text: The help text.
        labels: The names of its labels.
        combine: How the gauges of several objects, or processes, that have the same labels become one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    text: str
    labels: tuple[str, ...]
    combine: Literal["sum", "max"] = "sum"


class Series(NamedTuple):
    """One line of a family: it, and a value for each of its labels; ``""`` for one that is left out."""

    family: Family
    labels: tuple[str, ...]


_BUS = ("name", "prefix")
_CONNECTION = ("name",)
_STORE = ("name", "stream")
_RUNNER = ("name", "stream", "consumer", "source")
_CONSUMER = ("name", "stream", "consumer")
_WORKER = ("name", "handler", "kind", "of")
_RELAY = ("name", "outbox")

BUS_PUBLISHED = Family(
    "aether_sync_bus_published_total",
    "counter",
    "Events that publish() accepted, by namespace: the first 1000 by name, all others as *.",
    (*_BUS, "namespace"),
)
BUS_RECEIVED = Family(
    "aether_sync_bus_received_total", "counter", "Events of other nodes that arrived, before filters.", _BUS
)
BUS_DELIVERED = Family(
    "aether_sync_bus_delivered_total", "counter", "Events that threads took from subscriptions.", _BUS
)
BUS_DROPPED = Family(
    "aether_sync_bus_dropped_total",
    "counter",
    "Events that subscriptions lost, by reason: maxsize, max_bytes, discarded, closed.",
    (*_BUS, "reason"),
)
BUS_PUBLISH_ERRORS = Family("aether_sync_bus_publish_errors_total", "counter", "Events that publish() refused.", _BUS)
BUS_SUBSCRIBE_ERRORS = Family(
    "aether_sync_bus_subscribe_errors_total", "counter", "Calls of subscribe() that failed.", _BUS
)
BUS_DECODE_ERRORS = Family(
    "aether_sync_bus_decode_errors_total", "counter", "Messages that were no events, and were skipped.", _BUS
)
BUS_PENDING_EVENTS = Family(
    "aether_sync_bus_pending_events", "gauge", "Events that wait in subscriptions to be taken.", _BUS
)
BUS_PENDING_BYTES = Family(
    "aether_sync_bus_pending_bytes", "gauge", "Bytes of the events that wait in open subscriptions.", _BUS
)
BUS_SUBSCRIPTIONS = Family("aether_sync_bus_subscriptions", "gauge", "Open subscriptions.", _BUS)

CONNECTION_STARTED = Family(
    "aether_sync_connection_started",
    "gauge",
    "Connections that were used and are not closed; that many should be connected.",
    _CONNECTION,
)
CONNECTION_CONNECTED = Family(
    "aether_sync_connection_connected", "gauge", "Connections on which a server answers.", _CONNECTION
)
CONNECTION_RECONNECTS = Family(
    "aether_sync_connection_reconnects_total", "counter", "Connections made again after a loss.", _CONNECTION
)
CONNECTION_CONFIRMED = Family(
    "aether_sync_connection_confirmed_total",
    "counter",
    "Published events that the server has processed and not refused.",
    _CONNECTION,
)
CONNECTION_UNCERTAIN = Family(
    "aether_sync_connection_uncertain_total",
    "counter",
    "Published events that were on their way when a connection broke: they may have arrived or not.",
    _CONNECTION,
)
CONNECTION_REJECTED = Family(
    "aether_sync_connection_rejected_total",
    "counter",
    "Published events that the server refused after publish() had accepted them.",
    _CONNECTION,
)
CONNECTION_OUTBOX_EVENTS = Family(
    "aether_sync_connection_outbox_events", "gauge", "Published events that wait to be sent.", _CONNECTION
)
CONNECTION_OUTBOX_BYTES = Family(
    "aether_sync_connection_outbox_bytes", "gauge", "Bytes of the published events that wait to be sent.", _CONNECTION
)

STORE_CALL_SECONDS = Family(
    "aether_sync_store_call_seconds",
    "histogram",
    "How long the calls of a store took, by method.",
    (*_STORE, "method"),
)
STORE_CALL_ERRORS = Family(
    "aether_sync_store_call_errors_total",
    "counter",
    "Calls of a store that raised an error, conflicts included, by method.",
    (*_STORE, "method"),
)
STORE_CONFLICTS = Family(
    "aether_sync_store_conflicts_total",
    "counter",
    "Calls that ended with a VersionConflictError, as another writer was first.",
    _STORE,
)
STORE_RETRIES = Family(
    "aether_sync_store_retries_total", "counter", "Attempts to store that were made again within a call.", _STORE
)
STORE_UNKNOWN_OUTCOMES = Family(
    "aether_sync_store_unknown_outcomes_total",
    "counter",
    "Calls that ended with an UnknownOutcomeError: their events may be stored or not.",
    _STORE,
)
STORE_EVENTS_WRITTEN = Family("aether_sync_store_events_written_total", "counter", "Events that were stored.", _STORE)
STORE_EVENTS_READ = Family(
    "aether_sync_store_events_read_total", "counter", "Events that calls returned and followers handed out.", _STORE
)
STORE_VERSION_HITS = Family(
    "aether_sync_store_version_hits_total", "counter", "Versions that were wanted and remembered.", _STORE
)
STORE_VERSION_MISSES = Family(
    "aether_sync_store_version_misses_total", "counter", "Versions that were wanted and not remembered.", _STORE
)
STORE_KEPT_HITS = Family(
    "aether_sync_store_kept_hits_total", "counter", "Reads of actors whose events were kept in memory.", _STORE
)
STORE_KEPT_MISSES = Family(
    "aether_sync_store_kept_misses_total", "counter", "Reads of actors whose events had to be fetched.", _STORE
)
STORE_KEPT_BYTES = Family(
    "aether_sync_store_kept_bytes", "gauge", "Bytes of memory that kept events take, estimated.", _STORE
)
STORE_FOLLOWERS = Family("aether_sync_store_followers", "gauge", "Open followers.", _STORE)
STORE_FOLLOWERS_CONNECTED = Family(
    "aether_sync_store_followers_connected", "gauge", "Open followers to which the server delivers.", _STORE
)
STORE_FOLLOWER_LAG = Family(
    "aether_sync_store_follower_lag_events",
    "gauge",
    "Events that are stored and not taken yet by the follower that is furthest behind, as far as is known here.",
    _STORE,
    "max",
)

RUNNER_HANDLER_SECONDS = Family(
    "aether_sync_runner_handler_seconds", "histogram", "How long the calls of a handler took.", _RUNNER
)
RUNNER_HANDLED = Family("aether_sync_runner_handled_total", "counter", "Calls of a handler that returned.", _RUNNER)
RUNNER_FAILED = Family("aether_sync_runner_failed_total", "counter", "Calls of a handler that raised.", _RUNNER)
RUNNER_REDELIVERED = Family(
    "aether_sync_runner_redelivered_total", "counter", "Deliveries that were not the first of their event.", _RUNNER
)
RUNNER_DEAD_LETTERS = Family(
    "aether_sync_runner_dead_letters_total", "counter", "Events that became dead letters.", _RUNNER
)
RUNNER_THREADS = Family("aether_sync_runner_threads", "gauge", "Handlers that may run at a time.", _RUNNER)
RUNNER_BUSY = Family("aether_sync_runner_busy_threads", "gauge", "Handlers that run now.", _RUNNER)
RUNNER_IN_HAND = Family(
    "aether_sync_runner_in_hand_events", "gauge", "Events that were delivered here and are not settled.", _RUNNER
)
RUNNER_OLDEST_SECONDS = Family(
    "aether_sync_runner_oldest_seconds",
    "gauge",
    "Seconds since the oldest event in hand was stored.",
    _RUNNER,
    "max",
)
RUNNER_LAG = Family(
    "aether_sync_runner_lag_events",
    "gauge",
    "Events that were not delivered to any process when the last one arrived here, and those that wait here.",
    _RUNNER,
    "max",
)

CONSUMER_WAITING = Family(
    "aether_sync_consumer_waiting_events",
    "gauge",
    "Events of a durable consumer that were not delivered yet, as the server said within the last seconds.",
    _CONSUMER,
    "max",
)
CONSUMER_UNACKNOWLEDGED = Family(
    "aether_sync_consumer_unacknowledged_events",
    "gauge",
    "Events of a durable consumer that were delivered and are being worked on.",
    _CONSUMER,
    "max",
)
CONSUMER_REDELIVERED = Family(
    "aether_sync_consumer_redelivered_events",
    "gauge",
    "Events of a durable consumer that were delivered more than once and are not acknowledged.",
    _CONSUMER,
    "max",
)

WORKER_HANDLER_SECONDS = Family(
    "aether_sync_worker_handler_seconds", "histogram", "How long the calls of a handler of a worker took.", _WORKER
)
WORKER_HANDLED = Family("aether_sync_worker_handled_total", "counter", "Calls of a handler that returned.", _WORKER)
WORKER_FAILED = Family("aether_sync_worker_failed_total", "counter", "Calls of a handler that raised.", _WORKER)
WORKER_PASSED_BY = Family(
    "aether_sync_worker_passed_by_total",
    "counter",
    "Events and turns for which a handler was not called: handled before, filtered out, or taken by another process.",
    _WORKER,
)
WORKER_OVERDUE = Family(
    "aether_sync_worker_overdue_total", "counter", "Calls that took longer than their time limit.", _WORKER
)
WORKER_DROPPED = Family(
    "aether_sync_worker_dropped_total", "counter", "Events of a bus that were lost before they were handled.", _WORKER
)
WORKER_DEAD_LETTERS = Family(
    "aether_sync_worker_dead_letters_total", "counter", "Events of a consumer that became dead letters.", _WORKER
)
WORKER_THREADS = Family("aether_sync_worker_threads", "gauge", "Calls of a handler that may run at a time.", _WORKER)
WORKER_BUSY = Family("aether_sync_worker_busy_threads", "gauge", "Calls of a handler that run now.", _WORKER)
WORKER_WAITING = Family(
    "aether_sync_worker_waiting_events", "gauge", "Events that wait in this process to be handled.", _WORKER
)

RELAY_SECONDS = Family(
    "aether_sync_relay_seconds", "histogram", "From the making of a row of an outbox to its being sent.", _RELAY
)
RELAY_STORED = Family("aether_sync_relay_stored_total", "counter", "Events of an outbox that were stored.", _RELAY)
RELAY_PUBLISHED = Family(
    "aether_sync_relay_published_total", "counter", "Events of an outbox that the bus has confirmed.", _RELAY
)
RELAY_SET_ASIDE = Family(
    "aether_sync_relay_set_aside_total", "counter", "Rows of an outbox that a relay has set aside.", _RELAY
)
RELAY_FAILURES = Family(
    "aether_sync_relay_failures_total",
    "counter",
    "Times that a relay had to try again, as the database, the store or the bus was away.",
    _RELAY,
)
RELAY_WAITING_ROWS = Family(
    "aether_sync_relay_waiting_rows", "gauge", "Rows of an outbox that wait to be sent.", _RELAY, "max"
)
RELAY_ASIDE_ROWS = Family(
    "aether_sync_relay_set_aside_rows", "gauge", "Rows of an outbox that are set aside.", _RELAY, "max"
)
RELAY_OLDEST_SECONDS = Family(
    "aether_sync_relay_oldest_seconds", "gauge", "How long the oldest row that waits has waited.", _RELAY, "max"
)

EXPORT_ERRORS = Family(
    "aether_sync_export_errors_total",
    "counter",
    "Times that the metrics of a registered object could not be read, by kind of object; the log says why.",
    ("object",),
)

#: All of them, in the order in which they are shown.
FAMILIES: tuple[Family, ...] = tuple(one for one in list(globals().values()) if isinstance(one, Family))
