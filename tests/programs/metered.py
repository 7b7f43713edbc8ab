"""A WSGI application that shows the metrics of all its processes, as the guide says."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from aether_sync import Event, InMemoryEventStore, NATSEventBus, Subscription
from aether_sync.contrib.prometheus import metrics_app, register

bus = NATSEventBus(prefix=os.environ["AETHER_TEST_PREFIX"])
store = InMemoryEventStore()
register(bus, store)

metrics = metrics_app()

subscriptions: list[Subscription] = []  # one in each process that has answered


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Publish and store an event; or show the metrics; or what this process has published itself."""
    if environ["PATH_INFO"] == "/metrics":
        return metrics(environ, start_response)
    if not subscriptions:
        subscriptions.append(bus.subscribe("nothing"))
    bus.publish("web.order", Event(event_type="Requested", actor_id="web-1"))
    store.save_event(Event(event_type="Requested", actor_id="web-1", version=store.load("web-1").version + 1))
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({"pid": os.getpid()}).encode()]
