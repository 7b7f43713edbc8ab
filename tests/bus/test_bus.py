"""``EventBus``: the promises of a bus, in one process."""

from collections.abc import Iterator

import pytest

from aether_sync import EncodingError, Event, EventBus, EventTypes, InvalidOptionError

from ..contracts import bus as contract
from ..support.common import PATIENCE, make_event


class InOneProcess:
    @pytest.fixture
    def nodes(self) -> Iterator[contract.Nodes]:
        with EventBus() as bus:
            yield bus, bus


class TestArrival(InOneProcess, contract.Arrival): ...


class TestBadInput(InOneProcess, contract.BadInput): ...


class TestClosing(InOneProcess, contract.Closing): ...


class TestMetrics(InOneProcess, contract.Metrics): ...


class TestOverflow(InOneProcess, contract.Overflow): ...


class TestQueueGroups(InOneProcess, contract.QueueGroups): ...


class TestReading(InOneProcess, contract.Reading): ...


class TestThreads(InOneProcess, contract.Threads): ...


class TestTyped(contract.Typed):
    @pytest.fixture
    def nodes(self, types: EventTypes) -> Iterator[contract.Nodes]:
        with EventBus(types=types) as bus:
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


def test_namespaces_under_which_nothing_was_accepted_are_not_counted(local_bus: EventBus) -> None:
    for n in range(1_001):
        with pytest.raises(EncodingError):
            local_bus.publish(f"refused.{n}", Event(event_type="T", actor_id="a", data={"x": object()}))
    local_bus.publish("good", make_event())
    assert local_bus.metrics().published_by_namespace == {"good": 1}


@pytest.mark.parametrize("data", [None, {"a": 1}, {"a": [1]}])
def test_metadata_that_was_changed_into_something_else_is_refused(local_bus: EventBus, data: object) -> None:
    changed = Event(event_type="T", actor_id="a", data=data, metadata={"a": "b"})  # type: ignore[arg-type]
    changed.metadata["n"] = 1  # type: ignore[index]
    with local_bus.subscribe("n") as events:
        with pytest.raises(EncodingError, match="metadata 'n' must be a str"):
            local_bus.publish("n", changed)
        assert events.stats().offered == 0
    with pytest.raises(EncodingError, match="metadata 'n' must be a str"):
        local_bus.publish("n", changed)


def test_what_is_published_is_no_longer_the_publishers(local_bus: EventBus) -> None:
    mine = {"a": "b"}
    data = {"qty": 3, "lines": [1]}
    for content in (data, {"qty": 3}, {}, None):
        with local_bus.subscribe("n") as events:
            published = Event(event_type="T", actor_id="a", data=content, metadata=mine)
            local_bus.publish("n", published)
            received = events.get(timeout=PATIENCE)
            assert received == published
            assert received is not published
            assert received.metadata is not published.metadata
            assert content is None or received.data is not content
