"""``NATSEventBus``: the promises of a bus, between two nodes."""

from collections.abc import Callable, Iterator

import pytest

from aether_sync import Connection, EventTypes, NATSEventBus, NATSServer

from ..contracts import bus as contract
from ..support.inside import is_read_by_nats_py

MakeBus = Callable[..., NATSEventBus]

pytestmark = pytest.mark.both_loops


class AcrossNodes:
    """Each with a connection of its own, or with one for both; and read by nats-py, where the faster reader is off."""

    @pytest.fixture(params=["two connections", "one connection", pytest.param("nats-py", marks=pytest.mark.slow)])
    def nodes(self, request: pytest.FixtureRequest) -> contract.Nodes:
        fixture: contract.Nodes = request.getfixturevalue(request.param.replace(" ", "_").replace("-", "_"))
        return fixture

    @pytest.fixture
    def two_connections(self, make_bus: MakeBus) -> contract.Nodes:
        return make_bus(), make_bus()

    @pytest.fixture
    def one_connection(self, server: NATSServer, prefix: str) -> Iterator[contract.Nodes]:
        with (
            Connection(server.url) as connection,
            NATSEventBus(connection, prefix=prefix) as one,
            NATSEventBus(connection, prefix=prefix) as other,
        ):
            yield one, other

    @pytest.fixture
    def nats_py(self, make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> contract.Nodes:
        monkeypatch.setenv("AETHER_SYNC_LEAN", "0")
        here, there = make_bus(), make_bus()
        here.start()
        assert is_read_by_nats_py(here)
        return here, there


class TestArrival(AcrossNodes, contract.Arrival): ...


class TestBadInput(AcrossNodes, contract.BadInput): ...


class TestClosing(AcrossNodes, contract.Closing): ...


class TestMetrics(AcrossNodes, contract.Metrics): ...


class TestOverflow(AcrossNodes, contract.Overflow): ...


class TestQueueGroups(AcrossNodes, contract.QueueGroups): ...


class TestReading(AcrossNodes, contract.Reading): ...


class TestThreads(AcrossNodes, contract.Threads): ...


class TestTyped(contract.Typed):
    @pytest.fixture
    def nodes(self, make_bus: MakeBus, types: EventTypes) -> contract.Nodes:
        return make_bus(types=types), make_bus()
