"""What the tests of the store's commands share: a stream for each test."""

from collections.abc import Iterator

import pytest

from aether_sync import JetStreamEventStore, NATSServer


@pytest.fixture
def options(server: NATSServer, prefix: str) -> list[str]:
    """The options that bring a command to the store of the test."""
    return ["--url", server.url, "--stream", prefix]


@pytest.fixture
def other(server: NATSServer, prefix: str) -> list[str]:
    """The options that bring a command to another store."""
    return ["--url", server.url, "--stream", f"{prefix}-other"]


@pytest.fixture
def store(server: NATSServer, prefix: str) -> Iterator[JetStreamEventStore]:
    """The store, beside the command."""
    with JetStreamEventStore(server.url, prefix) as store:
        yield store
