"""Typical uses, for the type checker: this file is checked in strict mode, never run."""

from dataclasses import dataclass
from typing import TypedDict, assert_type

import msgspec

from aether_sync import (
    AetherError,
    CloseReport,
    Connection,
    Event,
    EventBus,
    EventStored,
    Metrics,
    NATSEventBus,
    NatsServer,
    Subscription,
    SubscriptionFilter,
    SubscriptionStats,
)


@dataclass
class Order:
    qty: int


class Refund(TypedDict):
    amount: int


class Shipment(msgspec.Struct):
    weight: float


def handle(bus: EventBus) -> None:
    with bus.subscribe("orders.*", "refunds.>") as events:
        for event in events:
            assert_type(event, Event)
            assert_type(event.data_as(Order), Order)
            assert_type(event.data_as(Refund), Refund)
            assert_type(event.data_as(Shipment), Shipment)
            bus.publish("seen", event.following(event_type="Seen", actor_id=event.actor_id))
            print(event.namespace, event.correlation_id, event.data["qty"] if event.data else None)


def batches(subscription: Subscription) -> int:
    assert_type(subscription.get(timeout=1.0), Event)
    assert_type(subscription.get_batch(100, timeout=0.1), list[Event])
    assert_type(subscription.stats(), SubscriptionStats)
    return subscription.stats().dropped


def main() -> None:
    with NatsServer() as server, Connection(server.url, connect_timeout=2.0) as connection:
        one = NATSEventBus(connection, prefix="aether", publish_timeout=1.0, on_disconnect="raise")
        two = NATSEventBus(server.url, user="me", password="secret", ping_interval=2.0)
        events: list[EventBus] = [EventBus(), one, two]
        for bus in events:
            bus.publish("orders.eu", Event(event_type="OrderPlaced", actor_id="order-1", data={"qty": 3}))
            bus.publish_many("orders.eu", (Event(event_type="X", actor_id=f"x-{n}") for n in range(3)))
            subscription = bus.subscribe(
                "orders.*",
                filter=SubscriptionFilter(event_types={"OrderPlaced"}, actor_pattern="order-*"),
                maxsize=100,
                overflow="drop_oldest",
                timeout=None,
            )
            stored = bus.subscribe_to_event_stored("tenant-*", maxsize=10)
            assert_type(stored.get().data_as(EventStored), EventStored)
            bus.unsubscribe(subscription)
            assert_type(bus.metrics(), Metrics)
            try:
                bus.flush(timeout=5.0)
            except AetherError as error:
                print(error)
            assert_type(bus.close(timeout=5.0), CloseReport)
