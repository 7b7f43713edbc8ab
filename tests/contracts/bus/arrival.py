"""What arrives of what is published, where, and how often."""

from types import MappingProxyType
from typing import Any

import pytest

from aether_sync import (
    Event,
    EventBus,
    EventStored,
    SubscriptionFilter,
)

from ...support.common import PATIENCE, make_event, numbers
from .base import TwoNodes


class Arrival(TwoNodes):
    """What arrives of what is published, where, and how often."""

    def test_an_event_arrives_as_it_was_published(self, here: EventBus, there: EventBus) -> None:
        event = Event(
            event_type="OrderPlaced",
            actor_id="order-1",
            version=7,
            data={"qty": 3, "name": "Žluťoučký 馬", "big": 2**60, "none": None, "deep": [{"a": [1.5, True]}]},
            command_id="c-1",
            metadata={"correlationId": "x"},
        )
        with here.subscribe("orders.eu") as events:
            there.publish("orders.eu", event)
            got = events.get(timeout=PATIENCE)
        assert got == event
        assert (got.namespace, event.namespace) == ("orders.eu", "")

    def test_what_json_does_not_know_arrives_in_its_form_everywhere(self, here: EventBus, there: EventBus) -> None:
        data = {"tuple": (1, 2), "mapping": MappingProxyType({"a": 1})}
        with here.subscribe("n") as events, there.subscribe("n") as own:
            there.publish("n", make_event(data=data))
            for subscription in (events, own):
                assert subscription.get(timeout=PATIENCE).data == {"tuple": [1, 2], "mapping": {"a": 1}}

    def test_a_subscriber_never_holds_the_publishers_own_data(self, here: EventBus) -> None:
        data: dict[str, Any] = {"list": [1]}
        with here.subscribe("n") as events:
            here.publish("n", make_event(data=data))
            data["list"].append(2)
            got = events.get(timeout=PATIENCE)
        assert got.data == {"list": [1]}

    def test_one_event_is_shared_by_the_subscribers_of_a_node(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("a.b") as one, here.subscribe("a.*") as two:
            there.publish("a.b", make_event())
            assert one.get(timeout=PATIENCE) is two.get(timeout=PATIENCE)

    @pytest.mark.parametrize(
        ("pattern", "matching", "other"),
        [
            ("a.b", "a.b", "a.c"),
            ("a.*", "a.b", "a.b.c"),
            ("a.>", "a.b.c", "a"),
            (">", "x.y.z", None),
            ("*.b", "a.b", "a.c"),
            ("tenant-*", "tenant-a", "other-a"),
            ("tenant-*.orders", "tenant-a.orders", "ten.orders"),
            ("a.*-eu.>", "a.x-eu.y", "a.x-us.y"),
            ("ž.*", "ž.馬", "z.馬"),
        ],
    )
    def test_patterns(self, here: EventBus, there: EventBus, pattern: str, matching: str, other: str | None) -> None:
        with here.subscribe(pattern) as events:
            if other is not None:
                there.publish(other, make_event(0))
            there.publish(matching, make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]
            assert events.get_batch(10, timeout=0) == []

    def test_overlapping_patterns_bring_an_event_once(self, here: EventBus, there: EventBus) -> None:
        patterns = ("orders.eu", "orders.*", "orders.>", "*.eu", "ord*.eu", "orders.e*", ">")
        with here.subscribe(*patterns) as all_of_them, here.subscribe("orders.>") as one:
            for n in range(100):
                there.publish("orders.eu", make_event(n))
            there.publish("end", make_event(100))
            got = [all_of_them.get(timeout=PATIENCE) for _ in range(101)]
            assert numbers(got) == list(range(101))
            assert all_of_them.get_batch(10, timeout=0) == []
            assert numbers([one.get(timeout=PATIENCE) for _ in range(100)]) == list(range(100))
            assert one.get_batch(10, timeout=0) == []

    def test_a_nodes_own_events_come_once(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("n", ">") as events, there.subscribe("n") as elsewhere:
            here.publish_many("n", [make_event(n) for n in range(50)])
            assert numbers([elsewhere.get(timeout=PATIENCE) for _ in range(50)]) == list(range(50))
            here.flush(PATIENCE)
            there.publish("n", make_event(50))
            assert numbers([events.get(timeout=PATIENCE) for _ in range(51)]) == list(range(51))
            assert events.get_batch(10, timeout=0) == []

    @pytest.mark.parametrize(
        ("filter_", "expected"),
        [
            (SubscriptionFilter(event_types={"Placed"}), [0, 2]),
            (SubscriptionFilter(event_types={"Placed", "Paid"}), [0, 1, 2]),
            (SubscriptionFilter(actor_pattern="order-*"), [0, 1]),
            (SubscriptionFilter(event_types={"Placed"}, actor_pattern="order-*"), [0]),
            (SubscriptionFilter(), [0, 1, 2, 3]),
        ],
    )
    def test_filters(self, here: EventBus, there: EventBus, filter_: SubscriptionFilter, expected: list[int]) -> None:
        with here.subscribe("n", filter=filter_) as events, here.subscribe("n") as everything:
            kinds = [("Placed", "order-1"), ("Paid", "order-2"), ("Placed", "cart-1"), ("Sent", "cart-2")]
            for n, (event_type, actor_id) in enumerate(kinds):
                there.publish("n", make_event(n, event_type=event_type, actor_id=actor_id))
            for _ in range(4):
                everything.get(timeout=PATIENCE)
            assert numbers(events.get_batch(10, timeout=0)) == expected

    def test_event_stored(self, here: EventBus, there: EventBus) -> None:
        stored = make_event(actor_id="order-1", version=4)
        with here.subscribe_to_event_stored("tenant-*") as events:
            there.publish("tenant-a", stored)
            there.publish("tenant-a", EventStored.of(stored, sequence=9))
            got = events.get(timeout=PATIENCE)
            assert (got.actor_id, got.version) == ("order-1", 4)
            payload = got.data_as(EventStored)
            assert (payload.event_id, payload.version, payload.sequence) == (stored.id, 4, 9)
            assert events.get_batch(1, timeout=0) == []

    def test_publish_many_keeps_the_order(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe("n") as events:
            there.publish_many("n", (make_event(n) for n in range(1000)))
            there.publish_many("n", [])
            assert numbers([events.get(timeout=PATIENCE) for _ in range(1000)]) == list(range(1000))
