"""What a store counts."""

import pickle
import threading
from collections.abc import Callable
from itertools import islice

import pytest

from aether_sync import ANY_VERSION, CallMetrics, InvalidOptionError, Snapshot, StoreClosedError, StoreMetrics
from aether_sync.errors import VersionConflictError
from aether_sync.metrics import BOUNDS
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, eventually, run_threads
from ...support.stores import event, fill, take
from .base import TwoNodes


def called(store: EventStore) -> dict[str, tuple[int, int]]:
    """Return the calls and errors of each method."""
    return {method: (one.calls, one.errors) for method, one in store.metrics().calls.items()}


class Measuring(TwoNodes):
    """What a store counts."""

    def test_a_new_store_has_done_nothing(self, store: EventStore) -> None:
        metrics = store.metrics()
        assert metrics == StoreMetrics(stream=metrics.stream)

    def test_every_call_is_counted_under_the_method_that_was_called(self, store: EventStore) -> None:
        calls: dict[str, Callable[[], object]] = {
            "save_event": lambda: store.save_event(event("a", 1)),
            "save_events": lambda: fill(store, "a", 2, 3),
            "append": lambda: store.append("a", event("a"), expected_version=3),
            "get_events": lambda: store.get_events("a"),
            "get_latest_event": lambda: store.get_latest_event("a"),
            "get_events_with_errors": lambda: store.get_events_with_errors("a"),
            "iter_events": lambda: list(store.iter_events("a")),
            "read_together": lambda: store.read_together("a", "b"),
            "get_latest_version": lambda: store.get_latest_version("a"),
            "read_all": lambda: store.read_all(),
            "last_sequence": lambda: store.last_sequence(),
            "actors": lambda: store.actors(),
            "save_snapshot": lambda: store.save_snapshot(Snapshot(actor_id="a", version=1, state={})),
            "get_snapshots": lambda: store.get_snapshots("a"),
            "get_latest_snapshot": lambda: store.get_latest_snapshot("a"),
            "load": lambda: store.load("a"),
            "follow": lambda: store.follow().close(),
        }
        for done, call in enumerate(calls.values(), 1):
            call()
            assert called(store) == dict.fromkeys(sorted([*calls][:done]), (1, 0))
        assert store.metrics().events_written == 4
        # 4 of each reading, 1 of the latest one, and 3 after the snapshot
        assert store.metrics().events_read == 4 * 5 + 1 + 3

    def test_seconds_are_counted_by_ranges(self, store: EventStore) -> None:
        for n in range(1, 21):
            store.save_event(event("a", n))
        one = store.metrics().calls["save_event"]
        assert one.calls == one.seconds.count == sum(one.seconds.counts) == 20
        assert one.seconds.bounds == BOUNDS
        assert len(one.seconds.counts) == len(BOUNDS) + 1
        assert 0 < one.seconds.sum < 20 * 30
        least = sum(count * low for count, low in zip(one.seconds.counts, (0.0, *one.seconds.bounds), strict=True))
        assert least <= one.seconds.sum

    def test_errors_and_conflicts(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", 1)
        fill(other, "a", 2)
        for _ in range(2):
            with pytest.raises(VersionConflictError):
                store.append("a", event("a"), expected_version=1)
        with pytest.raises(VersionConflictError):
            store.save_event(event("a", 1))
        with pytest.raises(InvalidOptionError):
            store.get_events("a", -1)
        metrics, own = store.metrics(), 2 if store is other else 1
        assert called(store) == {"append": (2, 2), "get_events": (1, 1), "save_event": (1, 1), "save_events": (own, 0)}
        assert (metrics.conflicts, metrics.events_written, metrics.unknown_outcomes) == (3, own, 0)
        assert metrics.calls["get_events"].seconds.count == 1

    def test_an_event_that_is_saved_again_counts(self, store: EventStore) -> None:
        same = event("a", 1)
        store.save_event(same)
        assert store.save_event(same).duplicate
        assert store.metrics().events_written == 2

    def test_an_iteration_counts_with_its_first_event(self, store: EventStore) -> None:
        fill(store, "a", *range(1, 11))
        events = store.iter_events("a")
        assert "iter_events" not in called(store)
        next(events)
        assert called(store)["iter_events"] == (1, 0)
        list(islice(events, 4))
        del events
        eventually(lambda: store.metrics().events_read == 5)
        assert list(store.iter_events("b")) == []
        assert called(store)["iter_events"] == (2, 0)

    def test_an_iteration_that_fails_later_is_an_error(self, store: EventStore) -> None:
        fill(store, "a", *range(1, 601))
        events = store.iter_events("a")
        next(events)
        store.close()
        with pytest.raises(StoreClosedError):
            list(events)
        assert called(store)["iter_events"] == (1, 1)
        with pytest.raises(StoreClosedError):
            store.last_sequence()
        assert called(store)["last_sequence"] == (1, 1)

    def test_open_followers_and_their_lag(self, store: EventStore, other: EventStore) -> None:
        assert store.metrics().followers == ()
        fill(store, "a-1", *range(1, 11))
        with store.follow() as all_of_them, store.follow(actors="a-*", event_types=["T", "Happened"], after=4) as some:
            every = {one.actors: one for one in store.metrics().followers}
            assert every.keys() == {"", "a-*"}
            assert every["a-*"].event_types == ("Happened", "T")
            assert (every["a-*"].lag, every["a-*"].sequence, every["a-*"].is_connected) == (6, 4, True)
            assert every[""].lag == 10
            take(all_of_them, 10)
            take(some, 2)
            assert {one.actors: (one.sequence, one.lag) for one in store.metrics().followers} == {
                "": (10, 0),
                "a-*": (6, 4),
            }
            fill(other, "a-2", 1, 2)
            eventually(lambda: {one.actors: one.lag for one in store.metrics().followers} == {"": 2, "a-*": 6})
        assert store.metrics().followers == ()
        assert store.metrics().events_read >= 12

    def test_a_snapshot_pickles_and_does_not_change(self, store: EventStore) -> None:
        fill(store, "a", 1)
        before = store.metrics()
        copy = pickle.loads(pickle.dumps(before))
        assert copy == before
        fill(store, "a", 2)
        assert copy == before != store.metrics()

    def test_a_closed_store_tells_what_it_did(self, store: EventStore) -> None:
        fill(store, "a", 1)
        store.close()
        assert store.metrics().events_written == 1

    def test_every_snapshot_is_consistent_and_threads_lose_no_count(self, store: EventStore) -> None:
        done = threading.Event()
        seen: list[CallMetrics] = []

        def work(actor_id: str) -> Callable[[], None]:
            def save() -> None:
                for n in range(15):
                    store.append(actor_id, event(actor_id), expected_version=ANY_VERSION, timeout=PATIENCE)
                    with pytest.raises(VersionConflictError):
                        store.save_event(event(actor_id, n + 1), timeout=PATIENCE)

            return save

        def look() -> None:
            while not done.wait(0.001):
                metrics = store.metrics()
                assert metrics.conflicts <= sum(one.errors for one in metrics.calls.values())
                seen.extend(metrics.calls.values())

        looker = threading.Thread(target=look)
        looker.start()
        run_threads(*[work(f"a-{n}") for n in range(4)])
        done.set()
        looker.join()
        assert all(one.calls == one.seconds.count and one.errors <= one.calls for one in seen)
        assert called(store) == {"append": (60, 0), "save_event": (60, 60)}
        assert (store.metrics().conflicts, store.metrics().events_written) == (60, 60)
