"""Decisions, without a server and without a store."""

import pytest
from aether_sync import Scenarios

from shop.orders import Order, OrderError, OrderPlaced, OrderShipped, actor_of, evolve, place, ship, types

given = Scenarios(initial=Order, evolve=evolve, types=types).given
placed, shipped = OrderPlaced("Ada", 3, "tea"), OrderShipped()


def test_an_order_is_placed_once() -> None:
    given().when(place, "Ada", 3, "tea").then(placed)
    given(placed).when(place, "Ada", 3, "tea").then_raises(OrderError, match="is placed")


@pytest.mark.parametrize(
    ("customer", "items", "article"),
    [("Ada", 0, "tea"), ("Ada", 100, "tea"), ("", 1, "tea"), ("Ada", 1, "t" * 101), ("A\0da", 1, "tea")],
)
def test_what_makes_no_sense_is_refused(customer: str, items: int, article: str) -> None:
    given().when(place, customer, items, article).then_raises(OrderError, match="1 to 99")


@pytest.mark.parametrize("number", [0, 10**9])
def test_a_number_that_has_no_room_is_refused(number: int) -> None:
    with pytest.raises(OrderError, match="from 1 to 999,999,999"):
        actor_of(number)


def test_what_has_room_just_so_is_placed() -> None:
    longest = "ä" * 100
    given().when(place, longest, 99, longest).then(OrderPlaced(longest, 99, longest))
    assert actor_of(999_999_999) == "order-999999999"


def test_an_order_is_shipped_once() -> None:
    given().when(ship).then_raises(OrderError, match="no such order")
    given(placed).when(ship).then(shipped)
    given(placed, shipped).when(ship).then_nothing()
