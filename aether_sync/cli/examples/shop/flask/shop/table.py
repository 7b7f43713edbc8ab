"""The table of orders, which the worker fills and the web server reads."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from aether_sync import EventStore, Health, Projection, ProjectionStoppedError, RetryableError, SQLite, StoredEvent

from .orders import OrderPlaced, OrderShipped

PATH = Path(__file__).resolve().parents[1] / "shop.db"


def create() -> None:
    with closing(sqlite3.connect(PATH)) as db:
        db.execute(
            "CREATE TABLE IF NOT EXISTS orders (number INTEGER PRIMARY KEY, customer TEXT, items INTEGER, "
            "article TEXT, status TEXT, sequence INTEGER)"
        )


def projection(store: EventStore) -> Projection:
    """Return what fills the table: the worker starts it, and the web server asks it how it is."""
    return store.project("orders", apply, into=SQLite(PATH), actors="order-*")


def apply(db: sqlite3.Cursor, stored: StoredEvent) -> None:
    number = int(stored.event.actor_id.removeprefix("order-"))
    match stored.event.value:
        case OrderPlaced(customer, items, article):
            row = (number, customer, items, article, stored.sequence)
            db.execute("INSERT INTO orders VALUES (?, ?, ?, ?, 'placed', ?)", row)
        case OrderShipped():
            db.execute("UPDATE orders SET status = 'shipped', sequence = ? WHERE number = ?", (stored.sequence, number))


def newest(count: int = 100) -> list[dict[str, Any]]:
    """Return the orders that have changed last, the newest first; ``sequence`` is that of an order's last event."""
    with closing(sqlite3.connect(PATH)) as db:
        db.row_factory = sqlite3.Row
        rows = db.execute("SELECT * FROM orders ORDER BY sequence DESC LIMIT ?", (count,))
        return [dict(row) for row in rows]


def health(orders: Projection, timeout: float | None) -> Health:
    """Return whether the table is filled: not any more when the worker has met an event that has no room there."""
    try:
        orders.wait_for(orders.store.last_sequence(timeout=timeout), timeout=0)
    except ProjectionStoppedError as error:
        return Health(about="the table", reasons=(str(error),))
    except RetryableError:  # it is a little behind, or the store is away
        pass
    return Health(about="the table")
