"""What is done about events: rows for the table, and a mail for each order."""

from aether_sync import StoredEvent
from aether_sync.contrib.django import handler, projection

from .models import Order
from .orders import OrderPlaced, OrderShipped


@projection("orders", models=[Order], actors="order-*")
def apply(db: str, stored: StoredEvent) -> None:
    number = int(stored.event.actor_id.removeprefix("order-"))
    match stored.event.value:
        case OrderPlaced(customer, items, article):
            row = {"customer": customer, "items": items, "article": article, "status": "placed"}
            Order.objects.using(db).create(number=number, sequence=stored.sequence, **row)
        case OrderShipped():
            Order.objects.using(db).filter(number=number).update(status="shipped", sequence=stored.sequence)


@handler("mailer", event_types={OrderPlaced})
def send_mail(placed: OrderPlaced) -> None:
    print(f"Dear {placed.customer}, we have got your order of {placed.items} {placed.article}.", flush=True)
