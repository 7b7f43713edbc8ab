"""What is counted."""

import gc

from aether_sync import EventBus

from ...support.common import Keep, eventually, make_event
from .base import TwoNodes


class Metrics(TwoNodes):
    """What is counted."""

    def test_metrics_add_up(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        small = keep(here.subscribe("a.*", maxsize=5))
        large = keep(here.subscribe("a.*", "b"))
        there.publish_many("a.x", [make_event(n) for n in range(10)])
        there.publish("b", make_event())
        eventually(lambda: large.stats().pending == 11, "11 queued events")  # noqa: F821
        large.get_batch(4)
        metrics, published = here.metrics(), there.metrics()
        assert published.published == 11
        assert published.published_by_namespace == {"a.x": 10, "b": 1}
        assert (metrics.delivered, metrics.dropped, metrics.pending) == (4, 5, 12)
        assert metrics.dropped_by_reason == {"maxsize": 5}
        assert metrics.active_subscriptions == 2
        assert {stats.patterns: stats.offered for stats in metrics.subscriptions} == {("a.*",): 10, ("a.*", "b"): 11}
        small.close()
        assert list(small)
        large.close(discard=True)
        del small, large
        gc.collect()
        metrics = here.metrics()
        assert (metrics.delivered, metrics.dropped, metrics.pending) == (9, 12, 0)
        assert metrics.active_subscriptions == 0

    def test_metrics_are_bounded_in_memory(self, here: EventBus) -> None:
        for n in range(1_500):
            here.publish(f"n.{n}", make_event(n))
        metrics = here.metrics()
        assert metrics.published == 1_500
        assert len(metrics.published_by_namespace) <= 1_001
        assert metrics.published_by_namespace["*"] == 500
