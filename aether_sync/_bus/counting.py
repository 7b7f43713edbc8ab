"""The counters of a bus, of which ``bus.metrics()`` returns a frozen snapshot."""

from collections import Counter
from collections.abc import Mapping
from itertools import count
from typing import Any

from ..metrics import _NAMESPACES_COUNTED, OTHER_NAMESPACES, QueueStats

__all__ = ["Counters", "NamespaceCount", "Totals"]


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


class NamespaceCount:
    """How many events were published under one namespace.

    Publishers count without a lock. Each counts by a single step in C, during which no other thread and no signal
    handler runs; ``count += n`` would be several steps.

    Attributes:
        one: Counts one event.
    """

    __slots__ = ("_steps", "one")

    def __init__(self) -> None:
        self._steps = {0: count()}  # by the power of 2, how often 1, 2, 4 ... events were counted at once
        self.one = self._steps[0].__next__

    def many(self, events: int) -> None:
        """Count several events."""
        for power in range(events.bit_length()):
            if events >> power & 1:
                next(self._steps.get(power) or self._steps.setdefault(power, count()))

    @property
    def count(self) -> int:
        """The number of events that were counted."""
        steps = [(power, repr(taken)) for power, taken in self._steps.copy().items()]
        return sum(int(taken.removeprefix("count(").removesuffix(")")) << power for power, taken in steps)


class Counters:
    """What a bus counts while it works. Any thread counts, without a lock."""

    def __init__(self) -> None:
        self._tallies: dict[str, NamespaceCount] = {}  # what was published, by namespace
        self._others = {
            name: NamespaceCount() for name in ("received", "publish_errors", "subscribe_errors", "decode_errors")
        }

    def tally(self, namespace: str) -> NamespaceCount:
        """Return the counter of what is published under a namespace."""
        tallies = self._tallies
        tally = tallies.get(namespace)
        if tally is None and len(tallies) >= _NAMESPACES_COUNTED:
            namespace = OTHER_NAMESPACES
            tally = tallies.get(namespace)
        return tally or tallies.setdefault(namespace, NamespaceCount())

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
