"""The options that several commands have, and what they open."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from ..nats_bus import NATSEventBus

__all__ = ["bus_options", "open_bus", "report_troubles", "timeout_option"]

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

_prefix_option = click.option(
    "--prefix",
    default="aether",
    show_default=True,
    metavar="TOKEN",
    help="First token of every subject; all nodes of a cluster use the same.",
)


def _with(command: Function, *options: Callable[[Function], Function]) -> Function:
    for option in reversed(options):
        command = option(command)
    return command


def bus_options(command: Function) -> Function:
    """Add the options of what publishes or subscribes."""
    return _with(command, _url_option, _prefix_option, timeout_option)


@contextmanager
def open_bus(url: str, prefix: str, timeout: float) -> Iterator[NATSEventBus]:
    """Open a bus that connects at its first use, so that what is wrong with that use is said before."""
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=timeout, publish_timeout=timeout)
    try:
        yield bus
    finally:
        bus.close(timeout)


def report_troubles() -> None:
    """Show what the library logs from now on. Until then, what goes wrong is raised."""
    logging.basicConfig(format="aether-sync: %(message)s")
