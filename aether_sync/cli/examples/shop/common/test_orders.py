"""Decisions, without a server and without a store."""

import pytest
from aether_sync import Scenarios

from shop.orders import Order, OrderError, OrderPlaced, OrderShipped, evolve, place, ship, types

given = Scenarios(initial=Order, evolve=evolve, types=types).given
placed, shipped = OrderPlaced("Ada", 3, "tea"), OrderShipped()


def test_an_order_is_placed_once() -> None:
    given().when(place, "Ada", 3, "tea").then(placed)
    given(placed).when(place, "Ada", 3, "tea").then_raises(OrderError, match="is placed")


@pytest.mark.parametrize("items", [0, 100])
def test_what_makes_no_sense_is_refused(items: int) -> None:
    given().when(place, "Ada", items, "tea").then_raises(OrderError, match="1 to 99")


def test_an_order_is_shipped_once() -> None:
    given().when(ship).then_raises(OrderError, match="no such order")
    given(placed).when(ship).then(shipped)
    given(placed, shipped).when(ship).then_nothing()
