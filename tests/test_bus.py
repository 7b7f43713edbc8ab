"""``EventBus``: the promises of a bus, in one process."""

from collections.abc import Iterator

import pytest

from aether_sync import EventBus, InvalidOptionError

from .suites import BusPromises, Nodes


class TestEventBus(BusPromises):
    @pytest.fixture
    def nodes(self) -> Iterator[Nodes]:
        with EventBus() as bus:
            yield bus, bus


def test_nothing_to_wait_for(local_bus: EventBus) -> None:
    assert local_bus.is_connected
    assert local_bus.wait_connected(0)
    local_bus.start()
    local_bus.flush()
    with pytest.raises(InvalidOptionError):
        local_bus.flush(timeout=-1)


def test_node_ids_differ() -> None:
    assert EventBus().node_id != EventBus().node_id
