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
    """What went through one subscription: ``offered == delivered + pending + dropped``."""

    patterns: tuple[str, ...]
    queue_group: str | None = None
    offered: int = 0  #: events that matched
    delivered: int = 0  #: events that your threads took
    dropped: int = 0  #: events lost to overflow, discarded by ``close(discard=True)``, or on their way at the end
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)  #: as in :class:`Metrics`
    pending: int = 0  #: events queued now
    pending_bytes: int = 0  #: their encoded size
    high_water: int = 0  #: the most events that were queued at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a bus did since it was made: a snapshot, no part of which changes any more. It pickles.

    ``confirmed``, ``uncertain``, ``rejected``, ``reconnects``, ``outbox_events`` and ``outbox_bytes`` are of the
    connection, and so of all buses that share it. Of what these accepted, ``published == confirmed + uncertain +
    rejected`` + what is not answered yet.
    """

    node_id: str
    published: int = 0  #: events that ``publish()`` accepted
    published_by_namespace: Mapping[str, int] = field(default_factory=dict)  #: the first 1,000; the rest as ``"*"``
    received: int = 0  #: events of other nodes that arrived, before filters
    delivered: int = 0  #: events that threads took from subscriptions, closed ones included
    dropped: int = 0  #: events that subscriptions dropped
    #: ``maxsize``, ``max_bytes``, ``discarded``; ``closed``: the server had chosen a member of a queue group that ended
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)
    #: events that ``publish()`` refused, and the ``rejected`` ones, unless buses share the connection: the server says
    #: the subject of what it refuses, not whose it was
    publish_errors: int = 0
    rejected: int = 0  #: events that the server refused after ``publish()`` had accepted them
    subscribe_errors: int = 0  #: ``subscribe()`` calls that failed
    decode_errors: int = 0  #: messages that were no event, or that a mistake of ours kept from everyone or from some
    confirmed: int = 0  #: published events that the connected server has processed and not refused
    uncertain: int = 0  #: events written to a connection that broke before they were confirmed
    reconnects: int = 0
    outbox_events: int = 0  #: events waiting to be sent
    outbox_bytes: int = 0
    pending: int = 0  #: events queued in subscriptions
    active_subscriptions: int = 0
    subscriptions: tuple[SubscriptionStats, ...] = ()  #: the open ones


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """What closing a bus left undone. It is false if anything was."""

    unsent: int = 0  #: events that were accepted and never written
    uncertain: int = 0  #: events written, but not confirmed by the server, and not yet reported by a flush
    rejected: int = 0  #: events that the server refused, and not yet reported by a flush
    timed_out: bool = False  #: the deadline came before everything was done

    def __bool__(self) -> bool:
        return not (self.unsent or self.uncertain or self.rejected or self.timed_out)
