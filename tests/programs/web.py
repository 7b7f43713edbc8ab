"""A WSGI application whose bus is made, and used, before gunicorn forks its workers."""

import json
import os
from collections.abc import Callable, Iterable
from typing import Any

from aether_sync import Event, NATSEventBus

bus = NATSEventBus(prefix=os.environ["AETHER_TEST_PREFIX"])
bus.publish("web.loaded", Event(event_type="Loaded", actor_id="web-1"))
loaded_as = bus.node_id


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Publish, and see what comes back here; or stream what comes."""
    if environ["PATH_INFO"] == "/stream":
        start_response("200 OK", [("Content-Type", "text/event-stream")])
        return stream()
    number = environ["QUERY_STRING"]
    with bus.subscribe(f"web.{number}") as events:
        bus.publish(f"web.{number}", Event(event_type="Requested", actor_id=f"web-{number}"))
        event = events.get(timeout=10)
    body = {"node": bus.node_id, "loaded_as": loaded_as, "pid": os.getpid(), "saw": event.actor_id}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]


def stream() -> Iterable[bytes]:
    """What comes, until the process is about to end."""
    with bus.subscribe("web.stream") as events:
        yield b"data: ready\n\n"
        for event in events:
            yield b"data: %b\n\n" % event.actor_id.encode()
    yield b"data: the end\n\n"
