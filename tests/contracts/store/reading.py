"""The events of an actor."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from aether_sync import (
    EventBus,
    EventStored,
    InvalidNamespaceError,
    InvalidOptionError,
)
from aether_sync.stores.base import (
    MalformedRecord,
    Reading,
)
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, run_threads
from ...support.stores import event, fill, versions
from .base import MAX_VERSION, TwoNodes


class ReadingActors(TwoNodes):
    """The events of an actor."""

    @pytest.mark.parametrize(
        ("range_", "expected"),
        [
            ((), [1, 2, 5, 6, 9]),
            ((0,), [1, 2, 5, 6, 9]),
            ((2,), [2, 5, 6, 9]),
            ((3,), [5, 6, 9]),
            ((9,), [9]),
            ((10,), []),
            ((0, None), [1, 2, 5, 6, 9]),
            ((0, 0), []),
            ((0, 5), [1, 2, 5]),
            ((2, 8), [2, 5, 6]),
            ((3, 4), []),
            ((5, 5), [5]),
            ((6, 2), []),
            ((0, MAX_VERSION), [1, 2, 5, 6, 9]),
        ],
    )
    def test_a_range_of_versions(self, store: EventStore, range_: tuple[int, ...], expected: list[int]) -> None:
        fill(store, "b", 1, 2, 3)
        fill(store, "a", 1, 2, 5, 6, 9)
        assert versions(store.get_events("a", *range_)) == expected
        assert versions(store.iter_events("a", *range_)) == expected
        reading = store.get_events_with_errors("a", *range_)
        assert (versions(one.event for one in reading.events), reading.malformed) == (expected, [])

    def test_an_actor_that_is_not_there(self, store: EventStore) -> None:
        fill(store, "a", 1)
        assert store.get_events("b") == []
        assert list(store.iter_events("b")) == []
        assert store.get_events_with_errors("b") == Reading([], list[MalformedRecord]())
        assert store.get_latest_version("b") == 0
        assert store.cached_version("b") is None
        assert store.get_latest_snapshot("b") is None
        loaded = store.load("b")
        assert (loaded.actor_id, loaded.snapshot, loaded.events, loaded.version) == ("b", None, [], 0)
        assert store.actors("b") == []

    def test_what_is_read_with_its_sequences(self, store: EventStore) -> None:
        stored = store.save_events([event("a", 1), event("b", 1), event("a", 2)])
        (last,) = fill(store, "a", 3)
        got = store.get_events_with_errors("a").events
        assert [(one.event, one.sequence) for one in got] == [
            (one.event, one.sequence) for one in (stored[0], stored[2], last)
        ]
        assert not any(one.duplicate for one in got)

    def test_reading_until_a_sequence(self, store: EventStore) -> None:
        first = fill(store, "a", 1, 2)
        fill(store, "b", 1)
        second = fill(store, "a", 3)
        for until, expected in ((0, []), (first[0].sequence, [1]), (first[1].sequence, [1, 2])):
            assert versions(store.get_events("a", until=until)) == expected
        assert versions(store.get_events("a", until=second[0].sequence - 1)) == [1, 2]
        assert versions(store.get_events("a", until=second[0].sequence)) == [1, 2, 3]
        assert versions(store.get_events("a", 2, 9, until=second[0].sequence - 1)) == [2]

    @pytest.mark.parametrize(
        ("wanted", "expected"),
        [
            ({"limit": 2}, [1, 2]),
            ({"limit": 5}, [1, 2, 5, 6, 9]),
            ({"limit": 9}, [1, 2, 5, 6, 9]),
            ({"reverse": True}, [9, 6, 5, 2, 1]),
            ({"limit": 1, "reverse": True}, [9]),
            ({"limit": 2, "reverse": True}, [9, 6]),
            ({"limit": 9, "reverse": True}, [9, 6, 5, 2, 1]),
            ({"from_version": 2, "limit": 2}, [2, 5]),
            ({"from_version": 3, "to_version": 8, "limit": 1}, [5]),
            ({"from_version": 3, "to_version": 8, "limit": 1, "reverse": True}, [6]),
            ({"to_version": 5, "limit": 2, "reverse": True}, [5, 2]),
            ({"to_version": 5, "reverse": True}, [5, 2, 1]),
            ({"from_version": 10, "limit": 1, "reverse": True}, []),
            ({"from_version": 6, "to_version": 2, "limit": 3, "reverse": True}, []),
        ],
        ids=str,
    )
    def test_some_of_the_events(self, store: EventStore, wanted: dict[str, Any], expected: list[int]) -> None:
        fill(store, "b", 1, 2, 3)
        fill(store, "a", 1, 2, 5, 6, 9)
        assert versions(store.get_events("a", **wanted)) == expected

    def test_events_between_sequences(self, store: EventStore, other: EventStore) -> None:
        stored = []
        for version in range(1, 7):
            stored += fill(store, "a", version)
            fill(store, "b", version)
        at = [0, *(one.sequence for one in stored)]
        for node in (store, other):
            for first in range(7):
                assert versions(node.get_events("a", after=at[first])) == [*range(first + 1, 7)]
                assert versions(node.get_events("a", after=at[first], reverse=True, limit=2)) == [
                    *range(6, max(first, 4), -1)
                ]
            assert versions(node.get_events("a", after=at[2], until=at[5])) == [3, 4, 5]
            assert versions(node.get_events("a", after=at[2], until=at[5], limit=1, reverse=True)) == [5]
            assert versions(node.get_events("a", after=at[2] + 1, until=at[5] + 1, limit=2)) == [3, 4]
            assert versions(node.get_events("a", 4, after=at[2], until=at[5] - 1)) == [4]
            assert node.get_events("a", after=at[4], until=at[3]) == []
            assert node.get_events("a", after=at[6] + 1) == node.get_events("a", after=MAX_VERSION) == []

    def test_the_latest_event(self, store: EventStore, other: EventStore) -> None:
        assert store.get_latest_event("a") is None
        fill(store, "a", 1, 2)
        (last,) = fill(store, "a", 7)
        fill(store, "b", 1)
        assert store.get_latest_event("a") == other.get_latest_event("a") == last.event
        assert store.get_latest_event("c") is None
        for n in range(7, 20):
            (stored,) = store.append("a", event("a"), expected_version=n)
            assert store.get_latest_event("a") == stored.event

    def test_an_actor_of_many_events_is_read_whole_and_in_order(self, store: EventStore) -> None:
        for start in range(1, 1500, 300):
            fill(store, "a", *range(start, start + 300))
        assert versions(store.get_events("a")) == [*range(1, 1501)]
        assert versions(store.iter_events("a")) == [*range(1, 1501)]
        assert versions(store.get_events("a", 700, 1100)) == [*range(700, 1101)]
        assert versions(islice(store.iter_events("a", 700), 3)) == [700, 701, 702]
        assert versions(store.get_events("a", limit=1_100)) == [*range(1, 1_101)]
        assert versions(store.get_events("a", limit=1_100, reverse=True)) == [*range(1_500, 400, -1)]

    def test_iterators_are_independent(self, store: EventStore) -> None:
        fill(store, "a", 1, 2, 3)
        one, two = store.iter_events("a"), store.iter_events("a", 2)
        assert isinstance(one, Iterator)
        got = [next(one).version, next(two).version, next(one).version, next(two).version, next(one).version]
        assert got == [1, 2, 2, 3, 3]
        assert next(one, None) is None
        assert next(two, None) is None

    def test_every_save_is_read_at_once(self, store: EventStore) -> None:
        for n in range(1, 31):
            stored = store.append("a", event("a"), expected_version=n - 1)
            assert versions(store.get_events("a")) == [*range(1, n + 1)]
            assert versions(store.iter_events("a", n)) == [n]
            assert store.get_latest_version("a") == n
            assert store.last_sequence() == stored[0].sequence

    @pytest.mark.concurrent
    def test_every_save_is_read_at_once_by_every_thread(self, store: EventStore) -> None:
        def work(actor_id: str) -> None:
            for n in range(1, 11):
                stored = store.append(actor_id, event(actor_id), expected_version=n - 1, timeout=PATIENCE)
                assert versions(store.get_events(actor_id)) == [*range(1, n + 1)]
                assert store.last_sequence() >= stored[0].sequence

        run_threads(*[lambda n=n: work(f"a-{n}") for n in range(4)])

    def test_what_an_event_stored_announced_is_read(
        self, store: EventStore, other: EventStore, local_bus: EventBus
    ) -> None:
        other.set_broadcaster(local_bus, "tenant-a")
        with local_bus.subscribe_to_event_stored("tenant-a") as announced:
            for n in range(1, 11):
                other.append("a", event("a"), expected_version=n - 1)
                told = announced.get(timeout=PATIENCE).data_as(EventStored)
                store.update_version_cache(told.actor_id, told.version, told.sequence)
                assert store.cached_version("a") == n
                assert versions(store.get_events("a")) == [*range(1, n + 1)]
                assert store.get_latest_version("a") == n

    def test_actors(self, store: EventStore) -> None:
        for actor_id in ("order-2", "order-1", "refund-1", "order-1.2", "x"):
            fill(store, actor_id, 1, 2)
        assert store.actors() == store.actors(None) == ["order-1", "order-1.2", "order-2", "refund-1", "x"]
        assert store.actors("*") == ["order-1", "order-2", "refund-1", "x"]
        assert store.actors("order-*") == ["order-1", "order-2"]
        assert store.actors("*-1") == ["order-1", "refund-1"]
        assert store.actors("order-*.*") == ["order-1.2"]
        assert store.actors(">") == store.actors()
        assert store.actors("x") == ["x"]
        assert store.actors("nobody") == []

    def test_what_is_no_pattern_of_actors(self, store: EventStore) -> None:
        for bad in ("a..b", ">.a"):
            with pytest.raises(InvalidNamespaceError, match=r"^pattern '.*order-"):
                store.actors(bad)
            with pytest.raises(InvalidNamespaceError, match=r"^actors '.*order-"):
                store.follow(actors=bad)
        for bad in (1, ["a"]):
            with pytest.raises(InvalidOptionError):
                store.actors(bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidOptionError):
                store.follow(actors=bad)  # type: ignore[arg-type]
