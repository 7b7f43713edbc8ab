"""Counters, and the frozen snapshot that ``bus.metrics()`` returns."""

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["CloseReport", "Metrics", "OTHER_NAMESPACES", "QueueStats", "SubscriptionStats"]

#: The key under which ``published_by_namespace`` counts the namespaces beyond its bound. No namespace is called so.
OTHER_NAMESPACES = "*"

_NAMESPACES_COUNTED = 1_000  # apart; more than a dashboard shows, little enough to copy at every snapshot


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
    """What a bus has done since it was made. It is a snapshot, no part of which changes; it can be pickled.

    ``confirmed``, ``uncertain``, ``rejected``, ``reconnects``, ``outbox_events`` and ``outbox_bytes`` are counts of the
    connection, and so of all buses that share it. For the events that these accepted, ``published`` is the sum of
    ``confirmed``, ``uncertain``, ``rejected`` and the events that the server has not answered yet.

    Attributes:
        node_id: The bus among all nodes of a cluster.
        published: Events that ``publish()`` accepted.
        published_by_namespace: These by their namespace: the first 1,000 namespaces, and all others together as
            ``"*"``.
        received: Events of other nodes that arrived, before filters.
        delivered: Events that threads took from subscriptions, closed ones included.
        dropped: Events that subscriptions dropped.
        dropped_by_reason: These by their reason: ``maxsize``, ``max_bytes``, ``discarded`` by a close, or ``closed``:
            the server had chosen a member of a queue group that ended.
        publish_errors: Events that ``publish()`` refused. The ``rejected`` ones are included unless buses share the
            connection: the server names the subject of what it refuses, and not the bus.
        rejected: Events that the server refused after ``publish()`` had accepted them.
        subscribe_errors: Calls of ``subscribe()`` that failed.
        decode_errors: Messages that were no event, or that an internal error kept from some or all subscriptions.
        confirmed: Published events that the connected server has processed and not refused.
        uncertain: Events that were written to a connection which broke before they were confirmed.
        reconnects: How often the connection was made again.
        outbox_events: Events that wait to be sent.
        outbox_bytes: The encoded size of these, in bytes.
        pending: Events that are queued in subscriptions.
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
    """What closing a bus left undone. It is true in an ``if`` when nothing was.

    Attributes:
        unsent: Events that were accepted and never written.
        uncertain: Events that were written, not confirmed by the server, and not yet reported by a flush.
        rejected: Events that the server refused, and that no flush has reported yet.
        timed_out: Whether the time was over before everything was done.
    """

    unsent: int = 0
    uncertain: int = 0
    rejected: int = 0
    timed_out: bool = False

    def __bool__(self) -> bool:
        return not (self.unsent or self.uncertain or self.rejected or self.timed_out)
