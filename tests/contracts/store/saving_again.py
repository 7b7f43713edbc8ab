"""What was saved before, and is saved once more."""

from collections import Counter
from datetime import timedelta
from typing import Any

import pytest

from aether_sync.errors import DuplicateIdError, VersionConflictError
from aether_sync.stores.base import (
    NO_EVENTS,
    StoredEvent,
)
from aether_sync.stores.event_store import EventStore

from ...support.common import run_threads
from ...support.stores import event, fill, versions
from .base import TwoNodes, is_empty


class SavingAgain(TwoNodes):
    """What was saved before, and is saved once more."""

    def test_saving_again_is_a_duplicate(self, store: EventStore, other: EventStore) -> None:
        new = event("a", 3, x=(1, 2))
        first = store.save_event(new)
        fill(store, "a", 9)
        for node in (store, other):
            again = node.save_event(new)
            assert (again.event, again.sequence, again.duplicate) == (first.event, first.sequence, True)
            assert node.save_event(first.event).duplicate
        assert versions(store.get_events("a")) == [3, 9]

    def test_saving_several_again_is_a_duplicate(self, store: EventStore, other: EventStore) -> None:
        events = [event("a", 1), event("b", 1), event("a", 2)]
        first = store.save_events(events)
        fill(store, "b", 2)
        for node in (store, other):
            again = node.save_events(events)
            assert [one.duplicate for one in again] == [True] * 3
            assert [one.sequence for one in again] == [one.sequence for one in first]
        assert store.save_event(events[1]).duplicate
        assert (versions(store.get_events("a")), versions(store.get_events("b"))) == ([1, 2], [1, 2])

    def test_appending_again_is_a_duplicate(self, store: EventStore) -> None:
        fill(store, "a", 4)
        new = [event("a", n=1), event("a", n=2)]
        first = store.append("a", *new, expected_version=4)
        for later in range(2):
            again = store.append("a", *new, expected_version=4)
            assert [(one.duplicate, one.sequence) for one in again] == [(True, one.sequence) for one in first]
            assert store.save_events([one.event for one in first])[0].duplicate
            store.append("a", event("a"), expected_version=6 + later)
        assert versions(store.get_events("a")) == [4, 5, 6, 7, 8]

    def test_what_is_the_same_fact_when_it_was_written_down_later(self, store: EventStore) -> None:
        new = event("a", 1, n=1)
        store.save_event(new)
        assert store.save_event(new.replace(timestamp=new.timestamp + timedelta(seconds=9))).duplicate

    def test_a_part_that_is_stored_is_a_conflict(self, store: EventStore) -> None:
        events = [event("a", 1), event("b", 1), event("a", 2)]
        store.save_event(events[0])
        with pytest.raises(VersionConflictError) as caught:
            store.save_events(events)
        assert (caught.value.actor_id, caught.value.current_version) == ("a", 1)
        with pytest.raises(VersionConflictError):
            store.append("a", events[0].replace(version=0), event("a"), expected_version=NO_EVENTS)
        assert store.actors() == ["a"]

    @pytest.mark.parametrize("changes", [{"data": {"n": 2}}, {"data": None}, {"event_type": "Other"}])
    def test_something_else_under_the_same_id(self, store: EventStore, changes: dict[str, Any]) -> None:
        new = event("a", 1, n=1)
        store.save_event(new)
        changed = new.replace(**changes)
        with pytest.raises(DuplicateIdError, match="'a'"):
            store.save_event(changed)
        with pytest.raises(DuplicateIdError):
            store.save_events([event("b", 1), changed])
        with pytest.raises(DuplicateIdError):
            store.append("a", changed.replace(version=0), expected_version=NO_EVENTS)
        assert store.get_events("a") == [new]
        assert store.actors() == ["a"]

    def test_the_same_words_under_another_id_are_a_conflict(self, store: EventStore) -> None:
        new = event("a", 1, n=1)
        store.save_event(new)
        for others in (new.replace(id="another"), event("a", 1, n=1)):
            with pytest.raises(VersionConflictError):
                store.save_event(others)
            with pytest.raises(VersionConflictError):
                store.append("a", others.replace(version=0), expected_version=NO_EVENTS)
        assert store.get_events("a") == [new]

    @pytest.mark.parametrize(("actor_id", "version"), [("a", 2), ("b", 1), ("b", 2)])
    def test_the_same_id_elsewhere_is_not_swallowed(self, store: EventStore, actor_id: str, version: int) -> None:
        new = event("a", 1)
        store.save_event(new)
        same_id = new.replace(actor_id=actor_id, version=version)
        try:
            stored = store.save_event(same_id)
        except DuplicateIdError:
            assert same_id not in store.get_events(actor_id)
        else:
            assert not stored.duplicate
            assert store.get_events(actor_id)[-1] == same_id

    def test_one_id_twice_in_one_save(self, store: EventStore) -> None:
        new = event("a", 1)
        for actor_id in ("a", "b"):
            with pytest.raises(DuplicateIdError):
                store.save_events([new, new.replace(actor_id=actor_id, version=2)])
        with pytest.raises(DuplicateIdError):
            store.append("a", event("a"), *[new.replace(version=0)] * 2, expected_version=NO_EVENTS)
        assert is_empty(store)

    @pytest.mark.concurrent
    def test_the_same_save_by_many_threads_is_stored_once(self, store: EventStore, other: EventStore) -> None:
        events = [event("a", 1), event("b", 1), event("a", 2)]
        results: list[list[StoredEvent]] = []
        works = [lambda n=n: results.append((store, other)[n % 2].save_events(events)) for n in range(6)]
        run_threads(*works)
        assert Counter(one.duplicate for result in results for one in result) == {False: 3, True: 15}
        assert len({tuple(one.sequence for one in result) for result in results}) == 1
