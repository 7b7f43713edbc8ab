"""The events of all actors, page by page, and where they end."""

import threading
from typing import Any

import pytest

from aether_sync import Event, InvalidNamespaceError, InvalidOptionError
from aether_sync.stores.base import StoredEvent
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, first_of, run_threads
from ...support.stores import event, fill, take
from .base import MAX_VERSION, TwoNodes, total


def walk(store: EventStore, limit: int, **wanted: Any) -> list[StoredEvent]:
    """Read all pages, as the documentation says."""
    after, found = 0, []
    while page := store.read_all(after, limit=limit, **wanted):
        assert len(page) <= limit
        after = page[-1].sequence
        found += page
    return found


def mixed(store: EventStore) -> list[StoredEvent]:
    """Store events of several actors and types, alone and together."""
    stored = [*fill(store, "order-1", 1), *fill(store, "refund-1", 1, 2, 3)]
    stored += store.save_events(
        [
            Event(event_type=kind, actor_id=actor_id, version=version)
            for kind, actor_id, version in (
                ("Placed", "order-1", 2),
                ("Placed", "order-2", 1),
                ("Paid", "order-1", 3),
                ("Placed", "order-1.2", 1),
                ("Paid", "refund-1", 4),
            )
        ]
    )
    return [*stored, *fill(store, "order-2", 2), *fill(store, "x", 1, 7)]


class ReadingAll(TwoNodes):
    """The events of all actors, page by page, and where they end."""

    def test_a_store_without_events(self, store: EventStore) -> None:
        assert store.read_all() == store.read_all(7, limit=1, until=3, actors="a", event_types={"A"}) == []

    @pytest.mark.parametrize("limit", [1, 2, 3, 5, 12, 13, 100_000])
    def test_all_pages_are_the_whole_store(self, store: EventStore, other: EventStore, limit: int) -> None:
        stored = mixed(store)
        with store.follow() as follower:
            followed = take(follower, len(stored))
        assert walk(store, limit) == walk(other, limit) == followed == stored

    @pytest.mark.parametrize("limit", first_of([2, 1, 100]))
    @pytest.mark.parametrize(
        "wanted",
        [
            {"actors": "order-1"},
            {"actors": "order-*"},
            {"actors": "order-*.*"},
            {"actors": "*-1"},
            {"actors": "x"},
            {"actors": "nobody"},
            {"actors": ">"},
            {"event_types": {"Placed"}},
            {"event_types": ["Placed", "Paid"], "actors": "order-*"},
            {"event_types": {"Never"}},
        ],
        ids=str,
    )
    def test_a_filter_is_that_of_a_follower(self, store: EventStore, wanted: dict[str, Any], limit: int) -> None:
        mixed(store)
        followed: list[StoredEvent] = []
        with store.follow(**wanted) as follower:
            while not follower.is_caught_up:
                followed += follower.get_batch(100, timeout=PATIENCE, until_caught_up=True)
        assert walk(store, limit, **wanted) == followed
        assert store.read_all(**wanted) == followed

    def test_a_page(self, store: EventStore) -> None:
        stored = mixed(store)
        at = [one.sequence for one in stored]
        assert store.read_all(limit=3) == stored[:3]
        assert store.read_all(at[2], limit=3) == stored[3:6]
        assert store.read_all(after=at[2], limit=3, until=at[4]) == stored[3:5]
        assert store.read_all(at[2], until=at[2]) == store.read_all(at[5], until=at[2]) == []
        assert store.read_all(until=at[-1]) == stored == store.read_all(until=MAX_VERSION)
        assert store.read_all(at[-1]) == store.read_all(MAX_VERSION) == []
        assert store.read_all(at[0], limit=1, actors="order-1") == [stored[4]]
        assert not any(one.duplicate for one in store.read_all())

    def test_many_events(self, store: EventStore) -> None:
        for start in range(1, 2_501, 500):
            fill(store, f"a-{start % 3}", *range(start, start + 500))
            fill(store, "b", start)
        everything = store.read_all(limit=10_000)
        assert [one.sequence for one in everything] == list(range(1, 2_506))
        assert walk(store, 999) == walk(store, 1_000) == everything
        assert store.read_all(1_234, limit=1_000) == everything[1_234:2_234]
        few = [one for one in everything if one.event.actor_id == "b"]
        assert walk(store, 2, actors="b") == few == walk(store, 2, actors="b*", event_types={"Happened"})

    def test_what_was_stored_before_is_read(self, store: EventStore) -> None:
        after = 0
        for n in range(1, 31):
            stored = store.append("a-1", event("a-1"), expected_version=n - 1)
            page = store.read_all(after, actors=(None, "a-1", "a-*")[n % 3])
            assert page == stored
            assert store.last_sequence(actors="a-*") == stored[0].sequence
            after = stored[0].sequence

    @pytest.mark.concurrent
    def test_no_page_ends_amid_what_is_being_stored(self, store: EventStore, other: EventStore) -> None:
        """Moves between actors: what all have together is always nothing, and the next page goes on without a gap."""
        done = threading.Event()
        saves = 40

        def write() -> None:
            try:
                for n in range(1, saves + 1):
                    moved = [event(f"a-{m}", n, amount=amount) for m, amount in enumerate((n, -3 * n, 2 * n))]
                    store.save_events(moved, timeout=PATIENCE)
            finally:
                done.set()

        def read(**wanted: Any) -> None:
            after, got = 0, list[StoredEvent]()
            while not done.is_set() or len(got) < 3 * saves:
                page = other.read_all(after, limit=100_000, **wanted)
                assert total([[one.event for one in page]]) == 0
                got += page
                after = page[-1].sequence if page else after
            assert got == store.read_all(limit=100_000)

        run_threads(write, read, lambda: read(actors="a-*"), lambda: read(event_types={"Happened"}))

    def test_what_is_read_is_the_readers(self, store: EventStore) -> None:
        fill(store, "a", 1)
        for _ in range(2):
            (one,) = store.read_all()
            assert one.event.data == {"n": 1}
            one.event.data["n"] = 2  # type: ignore[index]

    def test_the_last_sequence_of_some_actors(self, store: EventStore, other: EventStore) -> None:
        stored = {(one.event.actor_id, one.event.version): one.sequence for one in mixed(store)}
        for node in (store, other):
            for actors, last in {
                None: ("x", 7),
                ">": ("x", 7),
                "x": ("x", 7),
                "order-*": ("order-2", 2),
                "order-1": ("order-1", 3),
                "order-1*": ("order-1", 3),
                "order-*.*": ("order-1.2", 1),
                "*-1": ("refund-1", 4),
                "refund-*": ("refund-1", 4),
            }.items():
                assert node.last_sequence(actors=actors) == stored[last], actors
            for nobody in ("y", "order-3", "order-*3", "*.*.*"):
                assert node.last_sequence(actors=nobody) == 0

    def test_the_last_sequence_of_an_actor_far_behind(self, store: EventStore) -> None:
        (first,) = fill(store, "order-a-1", 1)
        fill(store, "order-c-1", 1)
        for start in range(1, 2_001, 500):
            fill(store, "order-b-1", *range(start, start + 500))
        assert store.last_sequence(actors="order-a-*") == first.sequence
        assert store.last_sequence(actors="order-z-*") == 0

    @pytest.mark.parametrize("bad", [0, -1, True, 1.5, "1", None, 2**63])
    def test_what_is_no_page(self, store: EventStore, bad: Any) -> None:
        with pytest.raises(InvalidOptionError, match="limit"):
            store.read_all(limit=bad)
        if bad != 0:
            with pytest.raises(InvalidOptionError, match="after"):
                store.read_all(bad)
        if bad not in (0, None):
            with pytest.raises(InvalidOptionError, match="until"):
                store.read_all(until=bad)

    def test_what_is_no_filter(self, store: EventStore) -> None:
        for types in ("A", [""], [1], 5):
            with pytest.raises(InvalidOptionError, match="event_types"):
                store.read_all(event_types=types)  # type: ignore[arg-type]
        for bad in ("a..b", ">.a"):
            with pytest.raises(InvalidNamespaceError, match=r"^actors '.*order-"):
                store.read_all(actors=bad)
            with pytest.raises(InvalidNamespaceError, match=r"^actors '.*order-"):
                store.last_sequence(actors=bad)
        for not_text in (1, ["a"]):
            with pytest.raises(InvalidOptionError):
                store.read_all(actors=not_text)  # type: ignore[arg-type]
