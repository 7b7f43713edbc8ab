"""Options that several commands have, and the bus or store that they open."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..nats_bus import NATSEventBus
from ..stores.jetstream import JetStreamEventStore

__all__ = [
    "bus_options",
    "making_options",
    "open_bus",
    "open_store",
    "prefix_option",
    "report_troubles",
    "store_options",
    "timeout_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])

timeout_option = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the server.",
)

_url_option = click.option(
    "--url",
    envvar="NATS_URL",
    show_envvar=True,
    default="nats://127.0.0.1:4222",
    show_default=True,
    metavar="URL",
    help="The server; several of one cluster with commas between.",
)

prefix_option = click.option(
    "--prefix",
    default="aether",
    show_default=True,
    metavar="TOKEN",
    help="First token of every subject; all nodes of a cluster use the same.",
)

_stream_option = click.option(
    "--stream", default="events", show_default=True, metavar="NAME", help="The store's stream."
)

_namespace_option = click.option("--namespace", metavar="NAME", help="The store's namespace; none by default.")

_replicas_option = click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many servers keep the stream, if it has to be made.",
)


def _with(command: Function, *options: Callable[[Function], Function]) -> Function:
    for option in reversed(options):
        command = option(command)
    return command


def bus_options(command: Function) -> Function:
    """Add the options of commands that publish or subscribe."""
    return _with(command, _url_option, prefix_option, timeout_option)


def store_options(command: Function) -> Function:
    """Add the options of commands that read a store."""
    return _with(command, _stream_option, _namespace_option, _url_option, timeout_option)


def making_options(command: Function) -> Function:
    """Add the options of commands that write to a store, which may have to make it."""
    return _with(command, _stream_option, _namespace_option, _replicas_option, _url_option, timeout_option)


@contextmanager
def open_bus(url: str, prefix: str, timeout: float) -> Iterator[NATSEventBus]:
    """Make a bus that connects at its first use: wrong arguments of that use are then reported first."""
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=timeout, publish_timeout=timeout)
    try:
        yield bus
    finally:
        bus.close(timeout)


@contextmanager
def open_store(
    url: str, stream: str, namespace: str | None, timeout: float, replicas: int = 1, cached_actors: int = 16_384
) -> Iterator[JetStreamEventStore]:
    """Make a store that connects at its first use."""
    with JetStreamEventStore(
        url, stream, namespace=namespace, replicas=replicas, cached_actors=cached_actors, connect_timeout=timeout
    ) as store:
        yield store


def report_troubles() -> None:
    """Show from now on what the library logs. Before, errors are raised, and need not be logged."""
    logging.basicConfig(format="aether-sync: %(message)s")
