"""What ``metrics()``, ``stats()`` and ``close()`` return: frozen values, which pickle."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CloseReport", "Metrics", "OTHER_NAMESPACES", "QueueStats", "SubscriptionStats"]

#: The key under which ``published_by_namespace`` counts all namespaces beyond its bound. It is no valid namespace.
OTHER_NAMESPACES = "*"

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a bus did since it was made: a snapshot that does not change any more.

    ``confirmed``, ``uncertain``, ``rejected``, ``reconnects``, ``outbox_events`` and ``outbox_bytes`` belong to the
    connection: buses that share one show the same numbers. Summed over these buses, ``published`` equals ``confirmed +
    uncertain + rejected`` and the events that the server has not answered yet.

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
    pending: int = 0
    active_subscriptions: int = 0
    subscriptions: tuple[SubscriptionStats, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """What a ``close()`` left undone. It is true if nothing was: ``if not bus.close(): ...``.

    Attributes:
        unsent: Events that were accepted and never sent.
        uncertain: Events that were sent and not confirmed, as far as no ``flush()`` has reported them.
        rejected: Events that the server refused, as far as no ``flush()`` has reported them.
        handlers_left: Handlers of a store's runners that still ran when the time was over.
        timed_out: Whether the timeout ran out before everything was done.
    """

    unsent: int = 0
    uncertain: int = 0
    rejected: int = 0
    handlers_left: int = 0
    timed_out: bool = False

    def __bool__(self) -> bool:
        return not (self.unsent or self.uncertain or self.rejected or self.handlers_left or self.timed_out)
