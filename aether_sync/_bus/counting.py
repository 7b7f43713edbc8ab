"""The counters of a bus, of which ``bus.metrics()`` returns a frozen snapshot."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from .._values.counting import Count
from ..metrics import _NAMESPACES_COUNTED, OTHER_NAMESPACES, QueueStats

__all__ = ["Counters", "Totals"]


class Totals:
    """Sums over the queues of a bus."""

    __slots__ = ("delivered", "dropped", "pending")

    def __init__(self, delivered: int = 0, pending: int = 0, dropped: Mapping[str, int] | None = None) -> None:
        self.delivered = delivered
        self.pending = pending
        self.dropped = Counter(dropped)

    def copy(self) -> "Totals":
        """Return a copy."""
        return Totals(self.delivered, self.pending, self.dropped)

    def add(self, stats: QueueStats) -> None:
        """Add the counts of one queue."""
        self.delivered += stats.delivered
        self.pending += stats.pending
        self.dropped.update(stats.dropped)


class Counters:
    """What a bus counts while it works. Any thread counts, without a lock."""

    def __init__(self) -> None:
        self._tallies: dict[str, Count] = {}  # what was published, by namespace
        self._others = {name: Count() for name in ("received", "publish_errors", "subscribe_errors", "decode_errors")}

    def tally(self, namespace: str) -> Count:
        """Return the counter of what is published under a namespace."""
        tallies = self._tallies
        tally = tallies.get(namespace)
        if tally is None and len(tallies) >= _NAMESPACES_COUNTED:
            namespace = OTHER_NAMESPACES
            tally = tallies.get(namespace)
        return tally or tallies.setdefault(namespace, Count())

    def add(self, name: str, count: int = 1) -> None:
        """Add to another counter, named as its field of :class:`~aether_sync.metrics.Metrics`."""
        self._others[name].many(count)

    def snapshot(self) -> dict[str, Any]:
        """Return the counts as fields of :class:`~aether_sync.metrics.Metrics`."""
        by_namespace = {name: events for name, tally in self._tallies.copy().items() if (events := tally.count)}
        return {
            "published": sum(by_namespace.values()),
            "published_by_namespace": by_namespace,
            **{name: tally.count for name, tally in self._others.items()},
        }
