from aether_sync import Delivery, Event
from aether_sync.contrib.django import handler, on, projection
from shop.models import Balance, Mail

heard = []


@handler("mailer", event_types={"OrderPlaced"}, once=True, retry_delay=0.02)
def send_mail(event: Event, delivery: Delivery):
    if (event.data or {}).get("fails"):
        raise ValueError("there is no address")
    Mail.objects.create(order=event.actor_id)
    if (event.data or {}).get("again") and delivery.attempt == 1:
        delivery.nak()  # as if the acknowledgement were lost


@on("orders")
def hear(event: Event):
    heard.append(event.actor_id)


@projection("balances", models=["shop.Balance"])
def count(db, stored):
    row, _ = Balance.objects.using(db).get_or_create(actor=stored.event.actor_id)
    row.events += 1
    row.save()
