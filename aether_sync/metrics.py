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
    """What went through one subscription: ``offered == delivered + pending + dropped``."""

    patterns: tuple[str, ...]
    queue_group: str | None = None
    offered: int = 0  #: events that matched
    delivered: int = 0  #: events that your threads took
    dropped: int = 0  #: events that overflowed, were discarded by ``close(discard=True)``, or came after the end
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)  #: by the reasons of :class:`Metrics`
    pending: int = 0  #: events queued now
    pending_bytes: int = 0  #: encoded bytes of the events queued now
    high_water: int = 0  #: the most events that were ever queued at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    """What a bus did since it was made: a snapshot that does not change any more.

    ``confirmed``, ``uncertain``, ``rejected``, ``reconnects``, ``outbox_events`` and ``outbox_bytes`` belong to the
    connection: buses that share one show the same numbers. Summed over these buses, ``published`` equals ``confirmed +
    uncertain + rejected`` and the events that the server has not answered yet.
    """

    node_id: str
    published: int = 0  #: events that ``publish()`` accepted
    published_by_namespace: Mapping[str, int] = field(default_factory=dict)  #: the first 1,000; all others as ``"*"``
    received: int = 0  #: events of other nodes that arrived, counted before filters are applied
    delivered: int = 0  #: events that threads took from subscriptions, those of closed ones included
    dropped: int = 0  #: events that subscriptions dropped
    #: ``maxsize`` and ``max_bytes``: the queue was full; ``discarded``: by ``close(discard=True)``; ``closed``: the
    #: server had chosen a member of a queue group that was closed meanwhile
    dropped_by_reason: Mapping[str, int] = field(default_factory=dict)
    #: events that ``publish()`` refused; and, if the connection is the bus's own, the ``rejected`` ones. Of a shared
    #: connection nobody knows whose they were: the server names only the subject of what it refuses
    publish_errors: int = 0
    rejected: int = 0  #: events that the server refused after ``publish()`` had accepted them
    subscribe_errors: int = 0  #: ``subscribe()`` calls that failed
    decode_errors: int = 0  #: messages that were not events, or that an error in this library kept from a subscription
    confirmed: int = 0  #: published events that the server has processed and not refused
    uncertain: int = 0  #: events written to a connection that broke before they were confirmed
    reconnects: int = 0  #: how often the connection was made again after a loss
    outbox_events: int = 0  #: events waiting to be sent
    outbox_bytes: int = 0  #: their bytes
    pending: int = 0  #: events queued in subscriptions
    active_subscriptions: int = 0  #: subscriptions that are open
    subscriptions: tuple[SubscriptionStats, ...] = ()  #: those, one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseReport:
    """What a ``close()`` left undone. It is true if nothing was: ``if not bus.close(): ...``."""

    unsent: int = 0  #: events that were accepted and never sent
    uncertain: int = 0  #: events that were sent and not confirmed, as far as no ``flush()`` has reported them
    rejected: int = 0  #: events that the server refused, as far as no ``flush()`` has reported them
    timed_out: bool = False  #: the timeout ran out before everything was done

    def __bool__(self) -> bool:
        return not (self.unsent or self.uncertain or self.rejected or self.timed_out)
