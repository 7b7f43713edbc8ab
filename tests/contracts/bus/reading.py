"""Iterating, getting, and how a subscription ends."""

import gc
import threading
import time

import pytest

from aether_sync import (
    DeadlineExceededError,
    Event,
    EventBus,
    InvalidOptionError,
    SubscriptionClosedError,
)

from ...support.common import PATIENCE, UNIT, Keep, eventually, make_event, numbers, run_threads
from .base import TwoNodes


class Reading(TwoNodes):
    """Iterating, getting, and how a subscription ends."""

    def test_several_threads_share_one_subscription(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        got: list[list[int]] = [[] for _ in range(4)]

        def read(mine: list[int]) -> None:
            for event in events:
                mine.extend(numbers([event]))

        def feed() -> None:
            for n in range(500):
                there.publish("n", make_event(n))
            eventually(lambda: events.stats().delivered == 500, "500 deliveries")
            events.close()

        run_threads(feed, *(lambda mine=mine: read(mine) for mine in got))
        assert sorted(n for mine in got for n in mine) == list(range(500))
        assert all(mine == sorted(mine) for mine in got)

    def test_a_batch_wakes_as_many_threads_as_it_has_events(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        together = threading.Barrier(4)

        def take_one() -> None:
            events.get(timeout=PATIENCE)
            together.wait(PATIENCE)  # passes only if all four have one

        def feed() -> None:
            time.sleep(0.01 * UNIT)  # let them park; right also if they have not
            there.publish_many("n", [make_event(n) for n in range(4)])

        run_threads(feed, *[take_one] * 4)

    def test_timeouts(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        with pytest.raises(DeadlineExceededError, match="'n'"):
            events.get(timeout=0)
        with pytest.raises(TimeoutError):
            events.get(timeout=0.01)
        assert events.get_batch(5, timeout=0.01) == []
        for wrong in (-1, float("nan"), "1", True):
            with pytest.raises(InvalidOptionError):
                events.get(timeout=wrong)  # type: ignore[arg-type]
        for wrong in (0, -1, True, 1.5):
            with pytest.raises(InvalidOptionError):
                events.get_batch(wrong)  # type: ignore[arg-type]

    def test_closing_leaves_what_is_queued(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        events.close()
        there.publish("n", make_event(9))
        assert numbers(list(events)) == [0, 1, 2]
        assert list(events) == []
        with pytest.raises(SubscriptionClosedError):
            events.get(timeout=0)
        with pytest.raises(SubscriptionClosedError):
            events.get_batch(3)

    def test_closing_can_discard(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        events.close(discard=True)
        assert list(events) == []
        assert events.stats().dropped_by_reason == {"discarded": 3}
        assert here.metrics().dropped == 3

    def test_closing_releases_blocked_threads(self, here: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))

        def close() -> None:
            time.sleep(0.01 * UNIT)
            events.close()

        run_threads(*[lambda: list(events)] * 5, close)

    def test_closing_the_bus_ends_iterations(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        got: list[Event] = []

        def close() -> None:
            eventually(lambda: len(got) == 3, "3 read events")
            assert here.close()

        reader = threading.Thread(target=lambda: [got.append(event) for event in events])
        reader.start()
        close()
        reader.join(PATIENCE)
        assert not reader.is_alive()
        assert numbers(got) == [0, 1, 2]

    def test_close_inside_an_iteration(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish_many("n", [make_event(n) for n in range(3)])
        eventually(lambda: events.stats().pending == 3, "3 queued events")
        got = []
        for event in events:
            got.append(event)
            events.close()
        assert numbers(got) == [0, 1, 2]

    def test_close_the_bus_inside_an_iteration(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        events = keep(here.subscribe("n"))
        there.publish("n", make_event(0))
        got = []
        for event in events:
            got.append(event)
            here.close()
        assert numbers(got) == [0]

    def test_publish_inside_an_iteration(self, here: EventBus) -> None:
        with here.subscribe("n") as events:
            here.publish("n", make_event(0))
            for event in events:
                n = numbers([event])[0]
                if n == 100:
                    break
                here.publish("n", make_event(n + 1))

    def test_a_forgotten_subscription_is_collected(self, here: EventBus, there: EventBus) -> None:
        forgotten = here.subscribe("n")
        there.publish("n", make_event())
        eventually(lambda: forgotten.stats().pending == 1, "1 queued event")  # noqa: F821
        with pytest.warns(ResourceWarning, match="'n'"):
            del forgotten
            gc.collect()
        there.publish("n", make_event())
        here.publish("n", make_event())
        eventually(lambda: here.metrics().active_subscriptions == 0, "its leave")

    @pytest.mark.parametrize("how", ["publish", "try_publish", "publish_many"])
    def test_every_way_to_publish_lets_go_of_a_forgotten_subscription(self, here: EventBus, how: str) -> None:
        with pytest.warns(ResourceWarning, match="'n'"):
            here.subscribe("n")
            gc.collect()
        getattr(here, how)("n", [make_event()] if how == "publish_many" else make_event())
        eventually(lambda: here.metrics().active_subscriptions == 0, "its leave")
