"""A handler gets the same wherever it is given: to a worker, a bus, a consumer or ``assert_survives()``."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import MagicMock, Mock

import pytest

from aether_sync import (
    Delivery,
    Event,
    EventBus,
    EventTypes,
    InMemoryEventStore,
    InvalidOptionError,
    NATSServer,
    SubscriptionFilter,
    Worker,
)
from aether_sync.testing import assert_survives

from ..support.common import eventually

types = EventTypes()


@types.event("Placed")
@dataclass
class Placed:
    qty: int


EVENT = types.to_event(Placed(3), actor_id="order-1").replace(version=1)

Give = Callable[[Callable[..., object]], object]


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore(types=types) as store:
        store.save_event(EVENT)
        yield store


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus(types=types) as bus:
        yield bus


def given_to_a_worker(store: InMemoryEventStore, handler: Callable[..., object], got: list[Any]) -> None:
    worker = Worker(store=store)
    worker.consume("c", event_types={Placed})(handler)
    with worker:
        eventually(lambda: got)


def given_to_a_runner(store: InMemoryEventStore, handler: Callable[..., object], got: list[Any]) -> None:
    with store.consumer("c", event_types={Placed}).run(handler):
        eventually(lambda: got)


def given_to_drain(store: InMemoryEventStore, handler: Callable[..., object], got: list[Any]) -> None:
    assert store.consumer("c", event_types={Placed}).drain(handler) == 1


def tried(store: InMemoryEventStore, handler: Callable[..., object], got: list[Any]) -> None:
    assert_survives(handler, [EVENT], state=lambda: len(got) > 0, reset=got.clear, types=types, histories=1)


WAYS = [given_to_a_worker, given_to_a_runner, given_to_drain, tried]


@pytest.mark.parametrize("make", [Mock, MagicMock])
def test_a_mock_of_a_function_gets_what_is_natural(make: Callable[..., Any], bus: EventBus) -> None:
    def send(event: Event) -> None: ...

    handler = make(spec=send)
    with bus.run("orders", handler):
        bus.publish("orders", EVENT)
        eventually(lambda: handler.called)
    assert handler.call_args[0][0].id == EVENT.id


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("asks", [Event, Placed, Delivery, None, "by name", "of both"], ids=str)
def test_what_a_consumer_gives(way: Callable[..., None], asks: Any, store: InMemoryEventStore) -> None:
    got: list[Any] = []

    def of_event(one: Event) -> None:
        got.append(one)

    def of_value(event: Placed) -> None:  # the name says nothing
        got.append(event)

    def of_delivery(event: Delivery) -> None:
        got.append(event)

    def bare(event) -> None:  # type: ignore[no-untyped-def]
        got.append(event)

    def by_name(*, event: Event) -> None:
        got.append(event)

    def of_both(placed: Placed, delivery: Delivery) -> None:
        got.append(placed)
        assert delivery.event.value == placed

    handlers = {Event: of_event, Placed: of_value, Delivery: of_delivery, None: bare, "by name": by_name}
    way(store, handlers.get(asks, of_both), got)
    wanted = {None: Delivery, "by name": Event, "of both": Placed}.get(asks, asks)
    assert got
    assert all(isinstance(one, wanted) for one in got)


@pytest.mark.parametrize("asks", [Event, Placed, None], ids=str)
@pytest.mark.parametrize("by_worker", [False, True])
def test_what_a_bus_gives(bus: EventBus, asks: Any, by_worker: bool) -> None:
    got: list[Any] = []

    def of_event(one: Event) -> None:
        got.append(one)

    def of_value(one: Placed) -> None:
        got.append(one)

    handler = {Event: of_event, Placed: of_value}.get(asks, got.append)
    if by_worker:
        worker = Worker(bus=bus)
        worker.on("orders", event_types={Placed})(handler)
        worker.start()
    else:
        bus.run("orders", handler, filter=SubscriptionFilter(event_types={"Placed"}))
    bus.publish("orders", EVENT)
    eventually(lambda: got)
    assert isinstance(got[0], asks or Event)
    if by_worker:
        worker.close()


@pytest.mark.parametrize("way", WAYS)
def test_a_consumer_refuses_the_same_everywhere(way: Callable[..., None], store: InMemoryEventStore) -> None:
    def handle(n: int) -> None: ...

    with pytest.raises(
        InvalidOptionError, match="'n' is annotated with int: it may be a Delivery or an Event or a reg"
    ):
        way(store, handle, [])


def test_a_bus_refuses_the_same_everywhere(bus: EventBus) -> None:
    def handle(one: Delivery) -> None: ...

    says = "'one' is annotated with Delivery: it may be an Event or a registered class"
    with pytest.raises(InvalidOptionError, match=says):
        bus.run("n", handle)
    with pytest.raises(InvalidOptionError, match=says):
        Worker(bus=bus).on("n")(handle)


def test_a_value_where_all_types_come_is_refused_before_anything_begins(bus: EventBus, server: NATSServer) -> None:
    def handle(one: Placed) -> None: ...

    with pytest.raises(InvalidOptionError, match=r"say event_types=\{Placed\}"):
        bus.run("n", handle)
    assert bus.metrics().active_subscriptions == 0


def test_a_wrong_filter_is_told_of_and_not_its_attributes(bus: EventBus) -> None:
    with pytest.raises(InvalidOptionError, match="filter must be a SubscriptionFilter"):
        bus.run("n", print, filter={"event_types": "Placed"})  # type: ignore[arg-type]
