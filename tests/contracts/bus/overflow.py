"""What happens when a queue is full."""

from typing import Any

import pytest

from aether_sync import (
    EventBus,
    SubscriptionOverflowError,
    flush_logs,
)

from ...support.common import PATIENCE, Keep, make_event, numbers
from .base import TwoNodes


class Overflow(TwoNodes):
    """What happens when a queue is full."""

    def fill(self, here: EventBus, there: EventBus, keep: Keep, **options: Any) -> Any:
        """Ten events for a queue of three."""
        events = keep(here.subscribe("n", maxsize=3, **options))
        with here.subscribe("n") as everything:
            for n in range(10):
                there.publish("n", make_event(n))
            for _ in range(10):
                everything.get(timeout=PATIENCE)
        return events

    def test_drop_newest(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep)
        stats = events.stats()
        assert numbers(events.get_batch(10)) == [0, 1, 2]
        assert (stats.offered, stats.dropped, stats.pending, stats.high_water) == (10, 7, 3, 3)
        assert stats.dropped_by_reason == {"maxsize": 7}
        assert events.stats().delivered == 3

    def test_drop_oldest(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep, overflow="drop_oldest")
        assert events.stats().dropped == 7
        assert numbers(events.get_batch(10)) == [7, 8, 9]

    def test_overflow_fails_after_what_was_queued(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = self.fill(here, there, keep, overflow="fail")
        got = []
        with pytest.raises(SubscriptionOverflowError, match="'n'"):
            for event in events:
                got.append(event)
        assert numbers(got) == [0, 1, 2]
        with pytest.raises(SubscriptionOverflowError):
            events.get(timeout=0)
        events.close()

    def test_bytes_are_bounded_too(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n", max_bytes=5_000))
        with here.subscribe("n") as everything:
            for n in range(10):
                there.publish("n", make_event(n, data={"n": n, "fill": "x" * 2000}))
            for _ in range(10):
                everything.get(timeout=PATIENCE)
        stats = events.stats()
        assert (stats.pending, stats.dropped_by_reason) == (2, {"max_bytes": 8})
        assert 4_000 < stats.pending_bytes < 5_000
        assert len(events.get_batch(10)) == 2
        there.publish("n", make_event(11, data={"n": 11, "fill": "x" * 20_000}))  # alone, it may be larger
        assert numbers([events.get(timeout=PATIENCE)]) == [11]
        assert events.stats().pending_bytes == 0

    def test_drops_are_logged_once_per_burst(
        self, here: EventBus, there: EventBus, keep: Keep, caplog: pytest.LogCaptureFixture
    ) -> None:
        self.fill(here, there, keep)

        assert flush_logs(PATIENCE)
        (said,) = [record.getMessage() for record in caplog.records if "drops events" in record.getMessage()]
        assert "'n'" in said
