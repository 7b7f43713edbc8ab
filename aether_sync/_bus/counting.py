"""The counters of a bus, of which ``bus.metrics()`` returns a frozen snapshot."""

from collections import Counter, deque
from collections.abc import Mapping
from typing import Any, Protocol

from .._runtime.locks import signal_safe_lock
from .._runtime.registry import WeakRegistry
from .._values.counting import Count
from ..metrics import _NAMESPACES_COUNTED, OTHER_NAMESPACES, QueueStats

__all__ = ["Counters"]


class _Totals:
    """Sums over the queues of a bus."""

    __slots__ = ("delivered", "dropped", "pending")

    def __init__(self, delivered: int = 0, pending: int = 0, dropped: Mapping[str, int] | None = None) -> None:
        self.delivered = delivered
        self.pending = pending
        self.dropped = Counter(dropped)

    def copy(self) -> "_Totals":
        """Return a copy."""
        return _Totals(self.delivered, self.pending, self.dropped)

    def add(self, stats: QueueStats) -> None:
        """Add the counts of one queue."""
        self.delivered += stats.delivered
        self.pending += stats.pending
        self.dropped.update(stats.dropped)


class _Counted(Protocol):
    """A queue, which knows what went through it."""

    def stats(self) -> QueueStats: ...

    def disown(self) -> None: ...


class Counters:
    """What a bus counts while it works, and what its queues have counted. Any thread counts, without a lock.

    It does not refer to the bus, so that it can be read when the bus is collected.

    Attributes:
        queues: Those of open subscriptions, and of closed ones that are still being read.
        ended: Takes the final counts of a queue that is collected. A finalizer calls it, so it takes no lock.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin with zeros, also in a forked child."""
        self._lock = signal_safe_lock()  # guards the sums of the queues that are collected
        self._ended_totals = _Totals()
        self._ended: deque[QueueStats] = deque()
        self.ended = self._ended.append
        self.queues: WeakRegistry[_Counted] = WeakRegistry()
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

    def fold_ended(self) -> _Totals:
        """Add up what went through queues that are collected; return a copy of these sums."""
        with self._lock:
            while self._ended:
                self._ended_totals.add(self._ended.popleft())
            return self._ended_totals.copy()

    def snapshot(self) -> tuple[dict[str, Any], dict[object, QueueStats]]:
        """Return the counts as fields of :class:`~aether_sync.metrics.Metrics`, and those of each queue."""
        totals = self.fold_ended()
        stats: dict[object, QueueStats] = {queue: queue.stats() for queue in self.queues}
        for one in stats.values():
            totals.add(one)
        by_namespace = {name: events for name, tally in self._tallies.copy().items() if (events := tally.count)}
        fields = {
            "published": sum(by_namespace.values()),
            "published_by_namespace": by_namespace,
            **{name: tally.count for name, tally in self._others.items()},
            "delivered": totals.delivered,
            "dropped": totals.dropped.total(),
            "dropped_by_reason": dict(totals.dropped),
            "pending": totals.pending,
        }
        return fields, stats
