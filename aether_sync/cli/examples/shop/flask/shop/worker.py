"""What is done about events: rows for the table, and a mail for each order."""

from aether_sync import JetStreamEventStore, Worker

from . import table
from .orders import OrderPlaced, types

store = JetStreamEventStore(stream="shop", types=types, connect="background")
worker = Worker(store=store)

table.create()
orders = worker.project(table.projection(store))


@worker.consume("mailer", event_types={OrderPlaced})
def send_mail(placed: OrderPlaced) -> None:
    print(f"Dear {placed.customer}, we have got your order of {placed.items} {placed.article}.", flush=True)
