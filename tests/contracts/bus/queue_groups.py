"""Who of a group gets an event."""

import time
from typing import Any

import pytest

from aether_sync import (
    EventBus,
    InvalidOptionError,
    SubscriptionFilter,
)

from ...support.common import PATIENCE, Keep, eventually, make_event, numbers, run_threads
from .base import TwoNodes


class QueueGroups(TwoNodes):
    """Who of a group gets an event."""

    def test_a_group_gets_each_event_once_and_shares_the_work(
        self, here: EventBus, there: EventBus, keep: Keep
    ) -> None:
        members = [keep(bus.subscribe("jobs.*", queue_group="workers")) for bus in (here, here, here, there, there)]
        with here.subscribe("jobs.*") as everything:
            for n in range(200):
                there.publish("jobs.x", make_event(n))
            for _ in range(200):
                everything.get(timeout=PATIENCE)
            got: list[int] = []

            def all_there() -> bool:
                for member in members:
                    got.extend(numbers(member.get_batch(1000, timeout=0)))
                return len(got) >= 200

            eventually(all_there, "200 events in the group")
            assert sorted(got) == list(range(200))
            assert sum(member.stats().delivered > 0 for member in members) >= 2

    def test_a_group_is_known_by_its_name_whichever_patterns_its_members_have(
        self, here: EventBus, there: EventBus, keep: Keep
    ) -> None:
        members = [
            keep(here.subscribe(pattern, queue_group="g")) for pattern in ("jobs.*", "jobs.x", "jobs.>", "other")
        ]
        with here.subscribe("jobs.*") as everything:
            for n in range(100):
                there.publish("jobs.x", make_event(n))
            for _ in range(100):
                everything.get(timeout=PATIENCE)
        eventually(lambda: sum(member.stats().pending for member in members) >= 100, "100 events in the group")
        assert sum(member.stats().pending for member in members) == 100

    def test_turns_are_taken_across_namespaces(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        members = [keep(here.subscribe("jobs.*", queue_group="g")) for _ in range(4)]
        for n in range(40):
            there.publish(f"jobs.{n}", make_event(n))
        eventually(lambda: sum(member.stats().pending for member in members) == 40, "40 queued events")
        # To look takes a queue's lock for a moment, and an event that finds it taken goes to the next member.
        assert all(8 <= member.stats().pending <= 12 for member in members)

    @pytest.mark.concurrent
    def test_members_come_and_go_and_no_event_with_them(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        stays = keep(here.subscribe("jobs", queue_group="g"))
        got: list[int] = []

        def come_and_go() -> None:
            for _ in range(20):
                member = there.subscribe("jobs", queue_group="g")
                got.extend(numbers(member.get_batch(10, timeout=0.01)))
                member.close()
                got.extend(numbers(list(member)))

        def publish() -> None:
            for n in range(1000):
                here.publish("jobs", make_event(n))
                if n % 20 == 0:
                    time.sleep(0.002)

        run_threads(come_and_go, publish)
        here.flush(PATIENCE)
        eventually(lambda: len(got) + stays.stats().pending == 1000, "1,000 events in the group")
        assert sorted(got + numbers(stays.get_batch(2000, timeout=0))) == list(range(1000))

    def test_a_member_that_failed_leaves_the_group(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        failing = keep(here.subscribe("jobs", queue_group="g", maxsize=1, overflow="fail"))
        for n in range(3):
            here.publish("jobs", make_event(n))
        eventually(lambda: failing.closed, "the failure")

        def has_left() -> bool:
            here.publish("other", make_event())
            return here.metrics().active_subscriptions == 0

        eventually(has_left, "its leave")

    def test_a_full_member_passes_to_its_neighbour(self, here: EventBus, there: EventBus, keep: Keep) -> None:
        small = keep(here.subscribe("jobs", queue_group="g", maxsize=1))
        large = keep(here.subscribe("jobs", queue_group="g", maxsize=100))
        for n in range(50):
            there.publish("jobs", make_event(n))
        eventually(lambda: small.stats().pending + large.stats().pending == 50, "50 queued events")
        assert (small.stats().dropped, large.stats().dropped) == (0, 0)

    @pytest.mark.parametrize(
        "options",
        [
            {"filter": SubscriptionFilter(event_types={"X"})},
            {"patterns": ("tenant-*",)},
            {"patterns": ("a.*", "a.b")},
            {"patterns": ("a.>", "*.b")},
            {"queue_group": ""},
            {"queue_group": "a b"},
            {"queue_group": 3},
        ],
    )
    def test_groups_refuse_what_they_cannot_promise(self, here: EventBus, options: dict[str, Any]) -> None:
        options = {"queue_group": "g", "patterns": ("a",)} | options
        with pytest.raises(InvalidOptionError):
            here.subscribe(*options.pop("patterns"), **options)
        assert here.metrics().active_subscriptions == 0
