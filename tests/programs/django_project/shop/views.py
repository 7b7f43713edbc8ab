import os

from django.db import transaction
from django.http import HttpResponse, StreamingHttpResponse

from aether_sync import ANY_VERSION, Event
from aether_sync.contrib.django import bus, get_store, outbox, publish_on_commit, sse
from shop.models import Order


def place(request, number):
    """Store an order in the event store itself."""
    placed = Event(event_type="OrderPlaced", actor_id=f"order-{number}")
    (stored,) = get_store().append(placed.actor_id, placed, expected_version=ANY_VERSION)
    return HttpResponse(f"{stored.sequence}")


def announce(request, number):
    """Write a row, and publish when it is committed."""
    with transaction.atomic():
        Order.objects.create(number=number)
        publish_on_commit("orders", Event(event_type="OrderPlaced", actor_id=f"order-{number}"))
    return HttpResponse("announced")


def process(request):
    return HttpResponse(f"{os.getpid()}")


async def live(request):
    """Stream what is published, from a coroutine."""

    async def events():
        with bus.subscribe("orders") as orders:
            yield b": begin\n\n"
            async for event in orders:
                yield f"data: {event.actor_id}\n\n".encode()

    return StreamingHttpResponse(events(), content_type="text/event-stream")


def events(request):
    """Stream what is stored; a server for ASGI calls this, too."""
    return sse(request, after=request.GET.get("after"), actors="order-*")


def buy(request, number):
    """Write a row, and what is to be stored and published if that is committed."""
    with transaction.atomic():
        Order.objects.create(number=number)
        outbox.append(f"order-{number}", Event(event_type="OrderPlaced", actor_id=f"order-{number}"))
        outbox.publish("orders", Event(event_type="OrderPlaced", actor_id=f"order-{number}"))
    return HttpResponse("bought")
