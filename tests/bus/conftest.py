"""What the tests of buses share."""

from collections.abc import Iterator

import pytest

from aether_sync import NATSServer

from ..support.raw import RawClient


@pytest.fixture
def raw(server: NATSServer) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client
