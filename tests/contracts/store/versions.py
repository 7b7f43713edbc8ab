"""What a node knows of what others store."""

import pytest

from aether_sync import InvalidOptionError
from aether_sync.errors import VersionConflictError
from aether_sync.stores.event_store import EventStore

from ...support.stores import event, fill, versions
from .base import TwoNodes


class CachedVersions(TwoNodes):
    """What a node knows of what others store."""

    def test_the_cached_version(self, store: EventStore) -> None:
        assert store.cached_version("a") is None
        fill(store, "a", 2, 3)
        assert store.cached_version("a") == 3
        store.append("a", event("a"), expected_version=3)
        assert store.cached_version("a") == 4
        assert store.cached_version("b") is None

    def test_the_cache_learns_what_others_store(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", 1)
        (stored,) = fill(other, "a", 5)
        store.update_version_cache("a", 5, stored.sequence)
        assert store.cached_version("a") == 5
        store.update_version_cache("a", 1, stored.sequence - 1)
        assert store.cached_version("a") == 5
        assert versions(store.get_events("a")) == [1, 5]

    @pytest.mark.parametrize("sequence", [None, 1, 1_000_000])
    def test_a_cache_that_was_told_lies_costs_no_wrong_answer(self, store: EventStore, sequence: int | None) -> None:
        fill(store, "a", 1, 2)
        for actor_id, current in (("a", 2), ("b", 0)):
            store.update_version_cache(actor_id, 99, sequence)
            assert store.get_latest_version(actor_id) == current
            store.update_version_cache(actor_id, 99, sequence)
            assert len(store.get_events(actor_id)) == current
            store.update_version_cache(actor_id, 99, sequence)
            assert store.append(actor_id, event(actor_id), expected_version=current)[0].event.version == current + 1
            store.update_version_cache(actor_id, 99, sequence)
            assert store.save_event(event(actor_id, 50)).event.version == 50
            with pytest.raises(VersionConflictError) as caught:
                store.append(actor_id, event(actor_id), expected_version=99)
            assert caught.value.current_version == 50

    def test_version_0_is_none_to_learn(self, store: EventStore) -> None:
        with pytest.raises(InvalidOptionError, match="version"):
            store.update_version_cache("a", 0)
