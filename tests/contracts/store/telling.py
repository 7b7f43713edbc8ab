"""What a bus is told of what is stored."""

import pytest

from aether_sync import (
    EncodingError,
    EventBus,
    EventStored,
    InvalidNamespaceError,
    InvalidOptionError,
)
from aether_sync.errors import VersionConflictError
from aether_sync.stores.base import ANY_VERSION
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, run_threads
from ...support.stores import event, fill, versions
from .base import TwoNodes


class Telling(TwoNodes):
    """What a bus is told of what is stored."""

    def test_every_stored_event_is_told(self, store: EventStore, local_bus: EventBus) -> None:
        store.save_event(event("a", 1))
        store.set_broadcaster(local_bus, "tenant-a")
        with local_bus.subscribe_to_event_stored("tenant-*") as told:
            stored = [store.save_event(event("a", 4)), *store.save_events([event("b", 1), event("a", 5)])]
            stored += store.append("c", event("c"), event("c"), expected_version=0)
            for one in stored:
                got = told.get(timeout=PATIENCE)
                assert got.data_as(EventStored) == EventStored(
                    event_id=one.event.id,
                    actor_id=one.event.actor_id,
                    version=one.event.version,
                    timestamp=int(one.event.timestamp.timestamp()),
                    sequence=one.sequence,
                )
                assert (got.namespace, got.actor_id, got.version) == ("tenant-a", one.event.actor_id, one.event.version)
            assert told.get_batch(5, timeout=0) == []

    def test_what_is_told_can_be_read(self, store: EventStore, local_bus: EventBus) -> None:
        """It is stored before it is told."""
        store.set_broadcaster(local_bus, "n")
        with local_bus.subscribe_to_event_stored("n") as told:

            def read() -> None:
                for _ in range(20):
                    one = told.get(timeout=PATIENCE)
                    assert one.version in versions(store.get_events(one.actor_id))

            def write() -> None:
                for _ in range(20):
                    store.append("a", event("a"), expected_version=ANY_VERSION)

            run_threads(read, write)

    def test_what_is_refused_is_not_told(self, store: EventStore, local_bus: EventBus) -> None:
        fill(store, "a", 1)
        store.set_broadcaster(local_bus, "n")
        with local_bus.subscribe_to_event_stored("n") as told:
            with pytest.raises(VersionConflictError):
                store.save_events([event("b", 1), event("a", 1)])
            with pytest.raises(EncodingError):
                store.save_events([event("b", 1), event("a", 2, x=object())])
            assert told.get_batch(5, timeout=0) == []

    def test_a_broadcaster_can_be_changed_and_taken_away(self, store: EventStore, local_bus: EventBus) -> None:
        with local_bus.subscribe_to_event_stored(">") as told:
            for version, namespace in enumerate(("a", "b", None, "a"), 1):
                store.set_broadcaster(local_bus if namespace else None, namespace)
                fill(store, "x", version)
            assert [(one.namespace, one.version) for one in told.get_batch(9, timeout=0)] == [
                ("a", 1),
                ("b", 2),
                ("a", 4),
            ]

    def test_a_bus_in_trouble_fails_no_save(self, store: EventStore, local_bus: EventBus) -> None:
        store.set_broadcaster(local_bus, "n")
        with (
            local_bus.subscribe("n", maxsize=1) as full,
            local_bus.subscribe("n", maxsize=1, overflow="fail") as failing,
        ):
            fill(store, "a", 1, 2, 3)
            assert full.stats().dropped == 2
            assert failing.closed
        local_bus.close()
        stored = fill(store, "a", 4, 5)
        assert [one.event.version for one in stored] == [4, 5]
        assert versions(store.get_events("a")) == [1, 2, 3, 4, 5]
        assert local_bus.metrics().publish_errors == 2

    def test_what_is_no_broadcaster(self, store: EventStore, local_bus: EventBus) -> None:
        with pytest.raises(InvalidOptionError, match="namespace"):
            store.set_broadcaster(local_bus)
        for bad in ("a.*", "", "a b", ">"):
            with pytest.raises(InvalidNamespaceError):
                store.set_broadcaster(local_bus, bad)
        with pytest.raises(InvalidOptionError, match="EventBus"):
            store.set_broadcaster(object(), "n")  # type: ignore[arg-type]
        fill(store, "a", 1)
        assert local_bus.metrics().published == 0
