"""What the fixtures of the plugin and ``AetherTestCase`` both make: a namespace, a connection, a store of one test."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple

from ..connection import Connection
from ..errors import AetherError
from ..event_types import EventTypes
from ..nats_bus import NATSEventBus
from ..stores.admin import StoreAdmin
from ..stores.jetstream import JetStreamEventStore
from ._link import BrokenLink

__all__ = ["Reach", "make_namespace", "opened_bus", "opened_connection", "opened_store", "stream_of"]

_LONGEST = 60  # characters of the name of a test
_CLEANUP = 5.0  # seconds, where a server that answers takes milliseconds


def make_namespace(test: str) -> str:
    """Return a name that no other test has, and that can be a prefix, a namespace and a consumer.

    Args:
        test: The name of the test, which a person finds in it who looks at the server.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", test)[:_LONGEST].strip("-")
    return f"{name or 'test'}-{uuid.uuid4().hex[:12]}"


def stream_of(namespace: str) -> str:
    """Return the name of a stream in which nothing is stored that a bus publishes with the namespace as its prefix.

    The subjects of a stream begin with its name, as those of a bus begin with its prefix.
    """
    return f"{namespace}-events"


class Reach(NamedTuple):
    """How a test reaches its server.

    Attributes:
        url: The URL of the server.
        link: What connections go through; None for nothing.
        trust_env: Whether the environment says how to log in: not at a server that was started for the tests.
    """

    url: str
    link: BrokenLink | None
    trust_env: bool


@contextmanager
def opened_connection(reach: Reach) -> Iterator[Connection]:
    """Give a connection to a server, and close it at the end."""
    url = reach.url if reach.link is None else reach.link.url
    with Connection(url, trust_env=reach.trust_env) as connection, _whole_at_the_end(reach.link):
        yield connection


@contextmanager
def opened_bus(connection: Connection, prefix: str, types: EventTypes | None, reach: Reach) -> Iterator[NATSEventBus]:
    """Give a bus with a connection, and close it at the end."""
    with NATSEventBus(connection, prefix=prefix, types=types) as bus, _whole_at_the_end(reach.link):
        yield bus


@contextmanager
def opened_store(
    connection: Connection, stream: str, types: EventTypes | None, reach: Reach
) -> Iterator[JetStreamEventStore]:
    """Give a store with a connection; at the end close it, and delete what it has stored."""
    with JetStreamEventStore(connection, stream, types=types) as store, _whole_at_the_end(reach.link):
        yield store
    if connection.started:
        with suppress(AetherError):  # the test is over and has its result, whether this can be done or not
            _delete(stream, connection, reach)


def _delete(stream: str, connection: Connection, reach: Reach) -> None:
    """Delete a store, by a connection that is known to work."""
    if reach.link is None and connection.is_connected:
        with JetStreamEventStore(connection, stream) as store:
            StoreAdmin(store).delete(_CLEANUP)
    else:
        with JetStreamEventStore(reach.url, stream, trust_env=reach.trust_env) as store:
            StoreAdmin(store).delete(_CLEANUP)


@contextmanager
def _whole_at_the_end(link: BrokenLink | None) -> Iterator[None]:
    """Restore a link before what goes through it is closed: that says good-bye to the server."""
    yield
    if link is not None:
        link.restore()
