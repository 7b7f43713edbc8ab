"""What happens to an order, what an order is, and what is decided about it."""

from dataclasses import dataclass, replace
from typing import Any

from aether_sync import EventTypes

types = EventTypes()


# -- what happens to an order


@types.event("OrderPlaced", version=2)
@dataclass(frozen=True)
class OrderPlaced:
    customer: str
    items: int
    article: str


@types.upcast("OrderPlaced", version=1)
def add_article(data: dict[str, Any]) -> dict[str, Any]:
    return {**data, "article": "coffee"}  # the shop had nothing else at first


@types.event("OrderShipped")
@dataclass(frozen=True)
class OrderShipped:
    pass


# -- what an order is


@dataclass(frozen=True)
class Order:
    status: str = "new"


def evolve(order: Order, event: OrderPlaced | OrderShipped) -> Order:
    match event:
        case OrderPlaced():
            return replace(order, status="placed")
        case OrderShipped():
            return replace(order, status="shipped")


# -- what is decided


class OrderError(Exception):
    """The order is not in a state for this, or makes no sense."""


def actor_of(number: int) -> str:
    """Return the id of an order's actor. What is decided here has to have room in the table, which is filled later."""
    if not 1 <= number <= 999_999_999:
        raise OrderError("an order has a number from 1 to 999,999,999")
    return f"order-{number}"


def is_name(text: str) -> bool:
    return 1 <= len(text) <= 100 and "\0" not in text  # which no text in PostgreSQL may have


def place(order: Order, customer: str, items: int, article: str) -> OrderPlaced:
    if order.status != "new":
        raise OrderError(f"the order is {order.status}")
    if not is_name(customer) or not is_name(article) or not 1 <= items <= 99:
        raise OrderError("an order is of a customer, and of 1 to 99 of an article, each a text of up to 100 characters")
    return OrderPlaced(customer, items, article)


def ship(order: Order) -> OrderShipped | None:
    if order.status == "new":
        raise OrderError("there is no such order")
    return OrderShipped() if order.status == "placed" else None  # asked twice, done once
