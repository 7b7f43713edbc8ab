"""What is done about events: rows for the table, and a mail for each order."""

from aether_sync import JetStreamEventStore, SQLite, Worker

from . import table
from .orders import OrderPlaced, types

store = JetStreamEventStore(stream="shop", types=types, connect="background")
worker = Worker(store=store)

table.create()
worker.project(store.project("orders", table.apply, into=SQLite(table.PATH), actors="order-*"))


@worker.consume("mailer", event_types={OrderPlaced})
def send_mail(placed: OrderPlaced) -> None:
    print(f"Dear {placed.customer}, we have got your order of {placed.items} {placed.article}.", flush=True)
