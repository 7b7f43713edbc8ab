"""Orders are placed and shipped here, and the page shows them while that happens."""

from collections.abc import Callable

from aether_sync import Health, ProjectionStoppedError, Repository, RetryableError, UnknownOutcomeError
from aether_sync.contrib.django import get_projection, get_store, sse
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.http.response import HttpResponseBase
from django.views.decorators.http import require_GET, require_POST

from . import orders
from .models import Order


@require_GET
def newest(request: HttpRequest) -> HttpResponse:
    found = Order.newest()
    return JsonResponse({"orders": found, "after": found[0]["sequence"] if found else 0})


@require_GET
def events(request: HttpRequest) -> HttpResponseBase:
    return sse(request, after=request.GET.get("after"), actors="order-*")


@require_POST
def place(request: HttpRequest, number: int) -> HttpResponse:
    form = request.POST
    items = form.get("items", "")
    number_of_items = int(items) if items.isdecimal() and len(items) < 3 else 0
    return decide(request, number, orders.place, form.get("customer", ""), number_of_items, form.get("article", ""))


@require_POST
def ship(request: HttpRequest, number: int) -> HttpResponse:
    return decide(request, number, orders.ship)


def decide(request: HttpRequest, number: int, decision: Callable[..., object], *args: object) -> HttpResponse:
    repository = Repository(get_store(), initial=orders.Order, evolve=orders.evolve)
    key = request.headers.get("Idempotency-Key", "")  # a request that is sent again has no further effect
    try:
        repository.decide(orders.actor_of(number), decision, *args, command_id=key, timeout=2.0)
    except orders.OrderError as error:
        return HttpResponse(str(error), status=409)
    except (RetryableError, UnknownOutcomeError):
        return HttpResponse("The shop cannot be reached. Try again.", status=503)
    return HttpResponse(status=204)


@require_GET
def health(request: HttpRequest) -> HttpResponse:
    found = Health.of("the shop", parts=[get_store().health(timeout=0.5), health_of_table()])
    return JsonResponse(found.to_dict(), status=200 if found.ok else 503)


def health_of_table() -> Health:
    """Return whether the table is filled: not any more when the worker has met an event that has no room there."""
    try:
        get_projection("orders").wait_for(get_store().last_sequence(timeout=0.5), timeout=0)
    except ProjectionStoppedError as error:
        return Health(about="the table", reasons=(str(error),))
    except RetryableError:  # it is a little behind, or the store is away
        pass
    return Health(about="the table")
