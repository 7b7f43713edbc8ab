"""What holds when a bus is closed."""

from typing import Any

import pytest

from aether_sync import BusClosedError, EventBus

from ...support.common import Keep, make_event, run_threads
from .base import TwoNodes


class Closing(TwoNodes):
    """What holds when a bus is closed."""

    def test_use_after_close(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        report = here.close()
        assert report
        assert here.close() == report
        assert here.closed
        assert not here.is_connected
        for use in (
            lambda: here.publish("n", make_event()),
            lambda: here.publish_many("n", [make_event()]),
            lambda: here.subscribe("n"),
            lambda: here.flush(),
            lambda: here.start(),
            lambda: here.wait_connected(1),
            lambda: here.__enter__(),
        ):
            with pytest.raises(BusClosedError, match="is closed: make a new one"):
                use()
        events.close()
        here.unsubscribe(events)
        assert here.metrics().active_subscriptions == 0

    def test_closing_from_many_threads(self, here: EventBus, keep: Keep) -> None:
        keep(here.subscribe("n"))
        reports: list[Any] = []
        run_threads(*[lambda: reports.append(here.close())] * 5)
        assert len(reports) == 5
        assert all(reports)
