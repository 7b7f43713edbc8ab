"""What the fixtures of the plugin and ``AetherTestCase`` both make: a namespace, a connection, a store of one test."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from ..connection import Connection
from ..errors import AetherError
from ..event_types import EventTypes
from ..nats_bus import NATSEventBus
from ..stores.admin import StoreAdmin
from ..stores.jetstream import JetStreamEventStore
from ._link import BrokenLink

__all__ = ["make_namespace", "opened_bus", "opened_connection", "opened_store"]

_LONGEST = 60  # characters of the name of a test
_CLEANUP = 5.0  # seconds, where a server that answers takes milliseconds


def make_namespace(test: str) -> str:
    """Return a name that no other test has, and that can be a prefix, a namespace, a stream and a consumer.

    Args:
        test: The name of the test, which a person finds in it who looks at the server.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", test)[:_LONGEST].strip("-")
    return f"{name or 'test'}-{uuid.uuid4().hex[:12]}"


@contextmanager
def opened_connection(url: str, link: BrokenLink | None) -> Iterator[Connection]:
    """Give a connection to a server, and close it at the end.

    Args:
        url: The URL of the server.
        link: What the connection goes through; None for nothing.
    """
    with Connection(url if link is None else link.url) as connection, _whole_at_the_end(link):
        yield connection


@contextmanager
def opened_bus(
    connection: Connection, prefix: str, types: EventTypes | None, link: BrokenLink | None
) -> Iterator[NATSEventBus]:
    """Give a bus, and close it at the end.

    Args:
        connection: Its connection.
        prefix: Its prefix.
        types: The classes of its events.
        link: As for :func:`opened_connection`.
    """
    with NATSEventBus(connection, prefix=prefix, types=types) as bus, _whole_at_the_end(link):
        yield bus


@contextmanager
def opened_store(
    connection: Connection, stream: str, types: EventTypes | None, link: BrokenLink | None, url: str
) -> Iterator[JetStreamEventStore]:
    """Give a store; at the end close it, and delete what it has stored.

    Args:
        connection: Its connection.
        stream: Its stream.
        types: The classes of its events.
        link: As for :func:`opened_connection`.
        url: The URL of the server.
    """
    with JetStreamEventStore(connection, stream, types=types) as store, _whole_at_the_end(link):
        yield store
    if connection.started:
        is_usable = link is None and connection.is_connected
        # The test is over and has its result, whether this can be done or not.
        with suppress(AetherError), JetStreamEventStore(connection if is_usable else url, stream) as other:
            StoreAdmin(other).delete(_CLEANUP)


@contextmanager
def _whole_at_the_end(link: BrokenLink | None) -> Iterator[None]:
    """Restore a link before what goes through it is closed: that says good-bye to the server."""
    yield
    if link is not None:
        link.restore()
