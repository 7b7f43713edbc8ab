"""``Published``: what it finds, what it says when it does not, and what it refuses."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    AetherError,
    Event,
    EventBus,
    EventStored,
    InMemoryEventStore,
    InvalidNamespaceError,
    InvalidOptionError,
    NATSEventBus,
    SubscriptionOverflowError,
)
from aether_sync.testing import Published

from ..support.common import PATIENCE, UNIT
from ..support.typed import Placed, typed


def placed(number: int = 1, **data: Any) -> Event:
    return Event(event_type="OrderPlaced", actor_id=f"order-{number}", data={"qty": 3, **data})


@pytest.fixture
def recorded(local_bus: EventBus) -> Iterator[Published]:
    with Published(local_bus) as published:
        yield published


def said(work: Callable[[], object]) -> list[str]:
    with pytest.raises(AssertionError) as caught:
        work()
    return str(caught.value).splitlines()


class TestExpect:
    def test_returns_the_event(self, local_bus: EventBus, recorded: Published) -> None:
        event = placed()
        local_bus.publish("orders.eu", event)
        found = recorded.expect("OrderPlaced", namespace="orders.*", actor_id="order-*", data={"qty": 3}, within=0)
        assert (found.id, found.namespace) == (event.id, "orders.eu")

    def test_waits_for_it(self, local_bus: EventBus, recorded: Published) -> None:
        timer = threading.Timer(0.1 * UNIT, local_bus.publish, ("orders.eu", placed()))
        timer.start()
        assert recorded.expect(within=PATIENCE).actor_id == "order-1"
        timer.join()

    def test_goes_on_when_another_event_comes(self, local_bus: EventBus, recorded: Published) -> None:
        def work() -> None:
            for number in range(5):
                time.sleep(0.02 * UNIT)
                local_bus.publish("n", placed(number))

        thread = threading.Thread(target=work)
        thread.start()
        assert recorded.expect(actor_id="order-4", within=PATIENCE).actor_id == "order-4"
        thread.join()

    def test_returns_each_event_once(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish_many("n", [placed(1, at=1), placed(1, at=2)])
        assert [recorded.expect(actor_id="order-1", within=0).data for _ in "12"] == [
            {"qty": 3, "at": 1},
            {"qty": 3, "at": 2},
        ]
        said(lambda: recorded.expect(actor_id="order-1", within=0))

    def test_takes_any_order(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish_many("n", [placed(1), placed(2)])
        recorded.expect(actor_id="order-2", within=0)
        recorded.expect(actor_id="order-1", within=0)

    @pytest.mark.parametrize(
        "wanted",
        [
            {"event_type": "OrderPaid"},
            {"namespace": "orders.us"},
            {"actor_id": "order-2"},
            {"actor_id": "invoice-*"},
            {"version": 8},
            {"data": {"qty": 4}},
            {"data": {"address": {"city": "Paris"}}},
            {"data": {"street": None}},
            {"metadata": {"userId": "u-2"}},
        ],
        ids=str,
    )
    def test_takes_no_other_event(self, wanted: dict[str, Any], local_bus: EventBus, recorded: Published) -> None:
        event = placed(address={"city": "Rome", "zip": 1}).replace(version=7).with_metadata(user_id="u-1")
        local_bus.publish("orders.eu", event)
        assert "these were published:" in said(lambda: recorded.expect(**wanted, within=0))
        fits: dict[str, Any] = {
            "event_type": "OrderPlaced",
            "namespace": "orders.eu",
            "actor_id": "order-1",
            "version": 7,
            "data": {"address": {"city": "Rome"}},
            "metadata": {"userId": "u-1"},
        }
        recorded.expect(**fits, within=0)

    def test_says_in_what_the_nearest_differ(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish("orders.eu", Event(event_type="OrderPaid", actor_id="order-9", version=2))
        local_bus.publish("orders.eu", placed(2, address={"city": "Rome"}))
        local_bus.publish("orders.eu", placed(3))
        recorded.expect(actor_id="order-3", within=0)
        wanted = {"qty": 3, "address": {"city": "Paris", "zip": 5}}
        lines = said(lambda: recorded.expect("OrderPlaced", actor_id="order-1", data=wanted, within=0.01))
        asked = "event_type='OrderPlaced', actor_id='order-1', data={'qty': 3, 'address': {'city': 'Paris', 'zip': 5}}"
        assert lines == [
            f"no event was published on {local_bus!r} within 0.01 s with {asked}",
            "besides what earlier calls have expected (1), these were published:",
            "  'OrderPlaced' of 'order-2' in 'orders.eu'",
            "    actor_id is 'order-2', not 'order-1'",
            "    data['address']['city'] is 'Rome', not 'Paris'",
            "    data['address'] has no 'zip'",
            "  'OrderPaid' of 'order-9' version 2 in 'orders.eu'",
            "    event_type is 'OrderPaid', not 'OrderPlaced'",
            "    actor_id is 'order-9', not 'order-1'",
            "    data has no 'qty'",
            "    data has no 'address'",
        ]

    def test_says_that_there_was_nothing(self, recorded: Published) -> None:
        assert said(lambda: recorded.expect("OrderPlaced", within=0))[-1] == "nothing was published at all"

    def test_shows_ten_of_many(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish_many("n", [placed(number) for number in range(30)])
        lines = said(lambda: recorded.expect("OrderPaid", within=0))
        assert len([one for one in lines if one.startswith("  'OrderPlaced'")]) == 10
        assert lines[-1] == "  ... and 20 that differ more"

    def test_knows_the_classes_of_the_bus(self) -> None:
        types = typed()
        with EventBus(types=types) as bus, Published(bus) as published:
            bus.publish("n", types.to_event(Placed(3, "EUR"), actor_id="order-1"))
            assert published.expect(Placed, within=0).value == Placed(3, "EUR")


class TestNothing:
    def test_passes_when_all_is_expected(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish("n", placed())
        recorded.expect("OrderPlaced", within=0)
        recorded.nothing(within=0)

    def test_names_what_was_published(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish("orders.eu", placed())
        assert said(lambda: recorded.nothing(within=PATIENCE)) == [
            f"published on {local_bus!r}, and not expected:",
            "  'OrderPlaced' of 'order-1' in 'orders.eu', data={'qty': 3}",
        ]

    def test_looks_only_at_what_it_is_asked_for(self, local_bus: EventBus, recorded: Published) -> None:
        local_bus.publish("n", placed())
        recorded.nothing("OrderPaid", within=0)
        recorded.nothing(actor_id="order-2", within=0)

    def test_waits_for_what_should_not_come(self, local_bus: EventBus, recorded: Published) -> None:
        timer = threading.Timer(0.05 * UNIT, local_bus.publish, ("n", placed()))
        timer.start()
        assert said(lambda: recorded.nothing(within=PATIENCE))
        timer.join()


def test_what_is_recorded_can_be_looked_at_and_forgotten(local_bus: EventBus, recorded: Published) -> None:
    local_bus.publish_many("n", [placed(1), placed(2)])
    recorded.expect(actor_id="order-1", within=0)
    assert [one.actor_id for one in recorded.events] == ["order-1", "order-2"]
    assert [one.actor_id for one in recorded.unexpected] == ["order-2"]
    recorded.clear()
    assert recorded.events == recorded.unexpected == ()
    assert repr(recorded) == f"<Published of {local_bus!r} with 0 events>"


def test_what_stores_announce_is_recorded(local_bus: EventBus, recorded: Published) -> None:
    with InMemoryEventStore(bus=local_bus, namespace="shop") as store:
        store.append("order-1", placed(), expected_version=0)
        announced = recorded.expect("EventStored", namespace="shop", within=PATIENCE)
        assert announced.data_as(EventStored).version == 1


def test_only_the_namespaces_asked_for_are_recorded(local_bus: EventBus) -> None:
    with Published(local_bus, "orders.*", "refunds.>") as published:
        for namespace in ("orders.eu", "orders.eu.it", "refunds.eu.it", "users"):
            local_bus.publish(namespace, placed())
        assert [one.namespace for one in published.events] == ["orders.eu", "refunds.eu.it"]


def test_what_another_node_publishes_is_recorded(make_bus: Callable[..., NATSEventBus]) -> None:
    here, there = make_bus(), make_bus()
    with Published(here) as published:
        there.publish("n", placed())
        assert published.expect("OrderPlaced", within=PATIENCE).actor_id == "order-1"
        published.nothing(within=0)


@pytest.mark.parametrize("closes", ["the bus", "the recorder"])
def test_what_was_recorded_stays_when_it_is_over(closes: str, local_bus: EventBus, recorded: Published) -> None:
    local_bus.publish("n", placed())
    (local_bus if closes == "the bus" else recorded).close()
    recorded.expect("OrderPlaced", within=0)
    begun = time.monotonic()
    lines = said(lambda: recorded.expect("OrderPlaced", within=PATIENCE))
    assert time.monotonic() - begun < PATIENCE / 2, "nothing more can come"
    assert ("is closed, and publishes no more" in "".join(lines)) == (closes == "the bus")
    recorded.nothing(within=None)


def test_a_recorder_that_loses_events_says_so(local_bus: EventBus, recorded: Published) -> None:
    local_bus.publish_many("n", [placed()] * 65_537)
    with pytest.raises(SubscriptionOverflowError):
        recorded.expect("OrderPaid", within=0)


def test_it_is_started_once(local_bus: EventBus) -> None:
    published = Published(local_bus)
    with pytest.raises(InvalidOptionError, match="does not record yet: call start"):
        published.expect("OrderPlaced")
    with published:
        published.start()
        local_bus.publish("n", placed())
        assert len(published.events) == 1


WRONG: list[tuple[str, Any]] = [
    *(("event_type", one) for one in (5, "", b"T", ["T"], Placed)),
    *(("namespace", one) for one in (5, "", "a b", ">.a", b"n")),
    *(("actor_id", one) for one in (5, b"a", ["a"], "a..b*")),
    *(("version", one) for one in (-1, "1", 1.5, 2**64)),
    *(("data", one) for one in ([], "x", 5, [("qty", 3)])),
    *(("metadata", one) for one in ([], "x", 5)),
    *(("within", one) for one in (-1, "1", float("nan"), [])),
]


@pytest.mark.parametrize(("name", "value"), WRONG, ids=repr)
def test_a_wrong_argument_is_named(name: str, value: Any, recorded: Published) -> None:
    for work in (recorded.expect, recorded.nothing):
        with pytest.raises(AetherError) as caught:
            work(**{"within": 0, name: value})
        assert {"within": "timeout", "actor_id": "actor_pattern", "namespace": "pattern"}.get(name, name) in str(
            caught.value
        )


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("actor", "did you mean actor_id?"),
        ("actr_id", "did you mean actor_id?"),
        ("timeout", "it has event_type, namespace, actor_id, version, data, metadata, within"),
    ],
)
def test_a_misspelt_argument_is_named(name: str, hint: str, recorded: Published) -> None:
    for work in (recorded.expect, recorded.nothing):
        with pytest.raises(InvalidOptionError) as caught:
            work("OrderPlaced", **{name: "x"})  # type: ignore[arg-type]
        assert str(caught.value) == f"an event cannot be asked for by {name!r}: {hint}"


@pytest.mark.parametrize("bus", [None, "nats://127.0.0.1:4222", EventBus, 5])
def test_it_takes_a_bus(bus: Any) -> None:
    with pytest.raises(InvalidOptionError, match="bus must be an EventBus or a NATSEventBus"):
        Published(bus)


def test_its_patterns_are_checked(local_bus: EventBus) -> None:
    with pytest.raises(InvalidNamespaceError):
        Published(local_bus, "orders.*", "a b")
