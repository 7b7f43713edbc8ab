"""Counters, and the frozen snapshot that ``bus.metrics()`` returns."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

__all__ = ["OTHER_NAMESPACES", "Counters", "Metrics", "QueueStats", "SubscriptionStats", "Tally", "Totals"]

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


class Totals:
    """Sums over queues."""

    __slots__ = ("delivered", "dropped", "pending")

    def __init__(self, delivered: int = 0, pending: int = 0, dropped: Mapping[str, int] | None = None) -> None:
        self.delivered = delivered
        self.pending = pending
        self.dropped = Counter(dropped)

    def copy(self) -> "Totals":
        """Return others with the same sums."""
        return Totals(self.delivered, self.pending, self.dropped)

    def add(self, stats: QueueStats) -> None:
        """Add one of them."""
        self.delivered += stats.delivered
        self.pending += stats.pending
        self.dropped.update(stats.dropped)


class Tally:
    """What was published under one namespace.

    Publishers count without a lock, each by a single step in C, within which no other thread and no signal handler
    runs: ``count += n`` is several, between which a tracer lets others run.

    Attributes:
        one: Counts one event.
    """

    __slots__ = ("_steps", "one")

    def __init__(self) -> None:
        self._steps = {0: count()}  # how often 1, 2, 4 ... events were counted at once, by the power of 2
        self.one = self._steps[0].__next__

    def many(self, events: int) -> None:
        """Count several events."""
        for power in range(events.bit_length()):
            if events >> power & 1:
                next(self._steps.get(power) or self._steps.setdefault(power, count()))

    @property
    def count(self) -> int:
        """How many events were counted."""
        steps = [(power, repr(taken)) for power, taken in self._steps.copy().items()]
        return sum(int(taken.removeprefix("count(").removesuffix(")")) << power for power, taken in steps)


class Counters:
    """What a bus counts as it goes; any thread, without a lock."""

    def __init__(self) -> None:
        self._tallies: dict[str, Tally] = {}  # of what is published, by namespace
        self._others = {name: Tally() for name in ("received", "publish_errors", "subscribe_errors", "decode_errors")}

    def tally(self, namespace: str) -> Tally:
        """Where what is published under a namespace is counted."""
        if namespace not in self._tallies and len(self._tallies) >= _NAMESPACES_COUNTED:
            namespace = OTHER_NAMESPACES
        return self._tallies.setdefault(namespace, Tally())

    def add(self, name: str, count: int = 1) -> None:
        """Count anything else, by the name of its field."""
        self._others[name].many(count)

    def snapshot(self) -> dict[str, Any]:
        """Return them as fields of :class:`Metrics`."""
        by_namespace = {name: events for name, tally in self._tallies.copy().items() if (events := tally.count)}
        return {
            "published": sum(by_namespace.values()),
            "published_by_namespace": by_namespace,
            **{name: tally.count for name, tally in self._others.items()},
        }
