"""One event, or several events of one actor, with versions of their own."""

from datetime import UTC, datetime
from enum import Enum
from types import MappingProxyType
from typing import Any

import pytest

from aether_sync import Event
from aether_sync.errors import VersionConflictError
from aether_sync.stores.event_store import EventStore

from ...support.common import eventually
from ...support.stores import event, fill, versions
from .base import MAX_VERSION, TwoNodes


class Saving(TwoNodes):
    """One event, or several events of one actor, with versions of their own."""

    def test_a_saved_event_is_read_as_it_was(self, store: EventStore, other: EventStore) -> None:
        new = Event(
            event_type="OrderPlaced",
            actor_id="order-1",
            version=7,
            data={"qty": 3, "name": "Žluťoučký 馬", "big": 2**60, "none": None, "deep": [{"a": [1.5, True]}]},
            command_id="c-1",
            metadata={"correlationId": "x"},
            timestamp=datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC),
        )
        stored = store.save_event(new)
        assert (stored.event, stored.duplicate, stored.ends_batch) == (new, False, True)
        assert stored.sequence >= 1
        assert store.get_events("order-1") == [new]
        assert other.get_events("order-1") == [new]

    def test_what_is_read_came_off_the_wire(self, store: EventStore) -> None:
        data = {"tuple": (1, 2), "mapping": MappingProxyType({"a": 1}), "enum": Enum("E", {"A": "x"}).A}  # type: ignore[attr-defined]
        read = {"tuple": [1, 2], "mapping": {"a": 1}, "enum": "x"}
        stored = store.save_event(event("a", 1, **data))
        (appended,) = store.append("a", event("a", **data), expected_version=1)
        assert [stored.event.data, appended.event.data] == [read, read]
        assert [one.data for one in store.get_events("a")] == [read, read]

    def test_nobody_reads_the_savers_own_data(self, store: EventStore) -> None:
        data: dict[str, Any] = {"list": [1]}
        stored = store.save_event(Event(event_type="T", actor_id="a", version=1, data=data))
        data["list"].append(2)
        data["more"] = 1
        assert stored.event.data == {"list": [1]}
        assert store.get_events("a")[0].data == {"list": [1]}

    def test_the_namespace_in_which_an_event_was_received_is_not_stored(self, store: EventStore) -> None:
        received = event("a", 1).replace(namespace="tenant-a.orders")
        stored = store.save_event(received)
        (appended,) = store.append("a", event("a").replace(namespace="x"), expected_version=1)
        assert [one.namespace for one in (stored.event, appended.event, *store.get_events("a"))] == [""] * 4

    def test_sequences_go_up_over_all_actors(self, store: EventStore, other: EventStore) -> None:
        stored = [
            store.save_event(event("a", 1)),
            other.save_event(event("b", 1)),
            *store.save_events([event("c", 1), event("a", 2), event("c", 2)]),
            *other.append("b", event("b"), event("b"), expected_version=1),
        ]
        sequences = [one.sequence for one in stored]
        assert sequences == sorted(set(sequences))
        assert sequences[0] > 0
        eventually(lambda: store.last_sequence() == sequences[-1])
        eventually(lambda: other.last_sequence() == sequences[-1])

    def test_gaps_are_legal(self, store: EventStore) -> None:
        for version in (3, 4, 10, MAX_VERSION):
            store.save_event(event("a", version))
            assert store.get_latest_version("a") == version
        assert versions(store.get_events("a")) == [3, 4, 10, MAX_VERSION]

    @pytest.mark.parametrize("version", [1, 4, 5])
    def test_a_version_that_its_actor_has_left_behind_is_refused(self, store: EventStore, version: int) -> None:
        fill(store, "a", 2, 5)
        with pytest.raises(VersionConflictError) as caught:
            store.save_event(event("a", version))
        error = caught.value
        assert (error.actor_id, error.attempted_version, error.current_version) == ("a", version, 5)
        assert versions(store.get_events("a")) == [2, 5]

    def test_a_conflict_with_another_node(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", 1)
        fill(other, "a", 2, 3)
        with pytest.raises(VersionConflictError) as caught:
            store.save_event(event("a", 2))
        assert caught.value.current_version == 3
        with pytest.raises(VersionConflictError) as caught:
            store.append("a", event("a"), expected_version=1)
        assert (caught.value.attempted_version, caught.value.current_version) == (2, 3)
        store.save_event(event("a", 4))
        assert versions(store.get_events("a")) == [1, 2, 3, 4]

    def test_a_version_that_is_still_greater_is_saved_whatever_others_did(
        self, store: EventStore, other: EventStore
    ) -> None:
        fill(store, "a", 1)
        fill(other, "a", 2, 5)
        store.save_event(event("a", 6))
        fill(other, "b", 1)
        store.save_events([event("b", 4), event("a", 9)])
        assert (versions(store.get_events("a")), versions(store.get_events("b"))) == ([1, 2, 5, 6, 9], [1, 4])
