"""Several events, all or none."""

import threading

import pytest

from aether_sync import EncodingError, Event
from aether_sync.errors import VersionConflictError
from aether_sync.stores.base import ANY_VERSION
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, run_threads
from ...support.stores import event, fill, versions
from .base import TwoNodes, is_empty


class SavingTogether(TwoNodes):
    """Several events, all or none."""

    def test_several_are_saved_in_order(self, store: EventStore) -> None:
        events = [event("a", 1), event("b", 4), event("a", 3), event("c", 1), event("b", 5)]
        stored = store.save_events(iter(events))
        assert [one.event for one in stored] == events
        assert [one.sequence for one in stored] == list(range(stored[0].sequence, stored[0].sequence + 5))
        assert [one.ends_batch for one in stored] == [False] * 4 + [True]
        assert {id_: versions(store.get_events(id_)) for id_ in "abc"} == {"a": [1, 3], "b": [4, 5], "c": [1]}

    def test_none_is_none(self, store: EventStore) -> None:
        assert store.save_events([]) == []
        assert store.append("a", expected_version=7) == []
        assert is_empty(store)

    @pytest.mark.parametrize("conflict", [0, 1, 2])
    def test_one_conflict_refuses_all(self, store: EventStore, conflict: int) -> None:
        fill(store, f"actor-{conflict}", 1, 2)
        with pytest.raises(VersionConflictError) as caught:
            store.save_events([event(f"actor-{n}", version) for n in range(3) for version in (2, 3)])
        assert (caught.value.actor_id, caught.value.attempted_version) == (f"actor-{conflict}", 2)
        assert caught.value.current_version == 2
        assert store.actors() == [f"actor-{conflict}"]
        assert store.get_latest_version(f"actor-{conflict}") == 2

    def test_one_that_cannot_be_encoded_refuses_all(self, store: EventStore) -> None:
        for bad in ({"x": object()}, {"x": float("nan")}, {"x": b""}, {"x": "\ud800"}, {1: 2}):
            worse = Event(event_type="T", actor_id="a", version=2, data=bad)  # type: ignore[arg-type]
            with pytest.raises(EncodingError):
                store.save_events([event("a", 1), worse, event("b", 1)])
            with pytest.raises(EncodingError):
                store.append("a", event("a"), worse.replace(version=0), expected_version=ANY_VERSION)
        assert is_empty(store)

    def test_a_thousand_at_once(self, store: EventStore) -> None:
        stored = store.save_events([event(f"a-{n % 3}", n + 1, n=n) for n in range(1000)], timeout=PATIENCE)
        assert [one.ends_batch for one in stored] == [False] * 999 + [True]
        assert sorted(version for n in range(3) for version in versions(store.get_events(f"a-{n}"))) == [
            *range(1, 1001)
        ]

    @pytest.mark.concurrent
    def test_of_racing_saves_over_several_actors_one_wins_whole(self, store: EventStore, other: EventStore) -> None:
        rounds, savers, actors = 8, 4, ["a", "b", "c"]
        winners: dict[int, list[int]] = {n: [] for n in range(1, rounds + 1)}
        ready = threading.Barrier(savers)

        def save(saver: int) -> None:
            node, order = (store, actors) if saver % 2 else (other, actors[::-1])
            for version in range(1, rounds + 1):
                ready.wait(PATIENCE)
                try:
                    node.save_events([event(actor, version, saver=saver) for actor in order], timeout=PATIENCE)
                    winners[version].append(saver)
                except VersionConflictError as error:
                    assert error.attempted_version == version  # noqa: PT017
                    assert error.current_version >= version  # noqa: PT017

        run_threads(*[lambda saver=saver: save(saver) for saver in range(savers)])
        assert [len(one) for one in winners.values()] == [1] * rounds
        for actor in actors:
            saved = [(one.version, one.data and one.data["saver"]) for one in store.get_events(actor)]
            assert saved == [(version, saver) for version, (saver,) in winners.items()]
