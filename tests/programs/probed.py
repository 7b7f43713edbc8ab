"""A WSGI application with probes, whose bus, store and runner are made and used as in a real one."""

import os
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from aether_sync import Delivery, JetStreamEventStore, NATSEventBus, health_app

bus = NATSEventBus(connect="background")
store = JetStreamEventStore(bus.connection, os.environ["AETHER_TEST_PREFIX"])


def handle(delivery: Delivery) -> None:
    """Do nothing with it."""


runner = store.consumer("mailer").run(handle) if os.environ.get("AETHER_TEST_RUNNER") else None
probes = health_app(bus, store, *(() if runner is None else (partial(runner.health, hung_after=600),)))


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer probes; everything else works without a server."""
    if environ["PATH_INFO"] in ("/healthz", "/livez"):
        return probes(environ, start_response)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]
