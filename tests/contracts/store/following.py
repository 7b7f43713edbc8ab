"""Everything, in the order in which it was stored."""

import threading
from itertools import chain, pairwise
from time import monotonic
from typing import Any

import pytest

from aether_sync import (
    DeadlineExceededError,
    Event,
    InvalidOptionError,
)
from aether_sync.errors import StoreClosedError, StreamRegressionError
from aether_sync.stores.base import (
    NO_EVENTS,
    Follower,
    StoredEvent,
)
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, eventually, run_threads
from ...support.stores import event, fill, take, versions
from .base import TwoNodes, assert_batches_are_whole


class Following(TwoNodes):
    """Everything, in the order in which it was stored."""

    def test_a_follower_reads_history_and_then_what_comes(self, store: EventStore, other: EventStore) -> None:
        stored = [*fill(store, "a", 1, 2), *fill(store, "b", 1)]
        with store.follow() as follower:
            assert follower.sequence == 0
            assert take(follower, 3) == stored
            assert follower.sequence == stored[-1].sequence
            assert follower.get_batch(10, timeout=0) == []
            live = [*fill(store, "a", 3), *fill(other, "b", 5, 6), *store.append("c", event("c"), expected_version=0)]
            assert take(follower, 4) == live

    def test_what_is_saved_before_the_first_is_taken_is_not_missed(self, store: EventStore) -> None:
        with store.follow() as follower:
            stored = fill(store, "a", 1)
            assert take(follower, 1) == stored

    def test_a_duplicate_is_not_followed_again(self, store: EventStore) -> None:
        new = event("a", 1)
        with store.follow() as follower:
            first = store.save_event(new)
            assert store.save_event(new).duplicate
            (last,) = fill(store, "a", 2)
            assert take(follower, 2) == [first, last]

    def test_following_after_a_sequence(self, store: EventStore) -> None:
        stored = [*fill(store, "a", 1, 2), *fill(store, "b", 1, 2)]
        for place, one in enumerate(stored, 1):
            with store.follow(after=one.sequence) as follower:
                assert follower.sequence == one.sequence
                assert take(follower, len(stored) - place) == stored[place:]
                eventually(lambda follower=follower: follower.is_caught_up)
        with store.follow(after=stored[-1].sequence) as follower:
            (live,) = fill(store, "a", 3)
            assert take(follower, 1) == [live]

    def test_a_checkpoint_that_the_store_does_not_reach(self, store: EventStore) -> None:
        with pytest.raises(StreamRegressionError, match="1"):
            store.follow(after=1)
        (last,) = fill(store, "a", 1)
        with pytest.raises(StreamRegressionError):
            store.follow(after=last.sequence + 1)

    def test_a_checkpoint_that_the_store_is_to_reach(self, store: EventStore, other: EventStore) -> None:
        with other.follow(after=3, allow_ahead=True) as early:
            stored = fill(store, "a", 1, 2)
            with store.follow(after=3, allow_ahead=True) as ahead:
                for follower in (early, ahead):
                    assert follower.sequence == 3
                    eventually(lambda follower=follower: follower.is_caught_up)
                    assert follower.get_batch(5, timeout=0) == []
                    assert follower.sequence == 3
                stored += [*fill(store, "b", 1), *fill(store, "a", 3), *fill(store, "b", 2)]
                assert take(early, 2) == take(ahead, 2) == stored[3:]
                eventually(lambda: ahead.is_caught_up)
                assert ahead.sequence == 5
        with store.follow(after=2, allow_ahead=True, actors="a") as behind:
            assert take(behind, 1) == [stored[3]]

    def test_following_some_actors(self, store: EventStore) -> None:
        with store.follow(actors="order-*") as live:
            for actor_id in ("order-1", "refund-1", "order-2", "order-1.2", "x"):
                fill(store, actor_id, 1)
            fill(store, "order-1", 2)
            fill(store, "x", 2)
            with store.follow(actors="order-*") as history:
                for follower in (live, history):
                    assert [one.event.actor_id for one in take(follower, 3)] == ["order-1", "order-2", "order-1"]
                    eventually(lambda follower=follower: follower.is_caught_up, "the end, behind what is not wanted")
                    assert follower.sequence == store.last_sequence()
                    assert follower.get_batch(5, timeout=0) == []

    def test_following_some_types(self, store: EventStore) -> None:
        kinds = ["A", "B", "C", "A", "B", "C"]
        store.save_events([Event(event_type=kind, actor_id="a", version=n) for n, kind in enumerate(kinds, 1)])
        with store.follow(event_types={"A", "C"}) as follower:
            got = take(follower, 4)
            assert [one.event.event_type for one in got] == ["A", "C", "A", "C"]
        with store.follow(event_types=["B"], actors="*", after=got[0].sequence) as follower:
            assert versions(one.event for one in take(follower, 2)) == [2, 5]
        with store.follow(event_types=["B"], actors="b") as follower:
            eventually(lambda: follower.is_caught_up)
            assert follower.get_batch(5, timeout=0) == []

    @pytest.mark.parametrize("wanted", [{"event_types": {"Never"}}, {"actors": "b"}, {"actors": "b-*"}])
    def test_the_checkpoint_is_behind_what_a_filter_passed_over(
        self, store: EventStore, wanted: dict[str, Any]
    ) -> None:
        fill(store, "a", 1, 2, 3)
        with store.follow(**wanted) as follower:
            assert follower.get_batch(5, timeout=PATIENCE, until_caught_up=True) == []
            assert follower.sequence == store.last_sequence()
            (wanted_one,) = store.append(
                "b-1" if "-" in wanted.get("actors", "") else "b",
                Event(event_type="Never", actor_id="b-1" if "-" in wanted.get("actors", "") else "b"),
                expected_version=NO_EVENTS,
            )
            fill(store, "a", 4)
            assert take(follower, 1) == [wanted_one]
            assert wanted_one.sequence <= follower.sequence <= store.last_sequence()
            eventually(lambda: follower.is_caught_up)
            assert follower.sequence == store.last_sequence()

    def test_what_was_saved_together_is_known_under_a_filter(self, store: EventStore) -> None:
        """Whether or not the event that ends a save is wanted."""
        store.save_events([event("a", 1), event("b", 1), event("c", 1)])
        store.save_event(event("a", 2))
        store.save_events([event("b", 2), event("a", 3), event("a", 4), event("b", 3)])
        with store.follow() as follower:
            everything = take(follower, 8)
        first, second = everything[0].sequence, everything[4].sequence
        assert [one.batch for one in everything] == [first] * 3 + [0] + [second] * 4
        with store.follow(actors="a") as follower:
            assert [(one.batch, one.ends_batch) for one in take(follower, 4)] == [
                (first, False),
                (0, True),
                (second, False),
                (second, False),
            ]
            assert follower.get_batch(5, timeout=PATIENCE, until_caught_up=True) == []  # so that one has ended, too

    def test_a_batch_until_it_is_caught_up_does_not_wait_for_more(self, store: EventStore, other: EventStore) -> None:
        stored = fill(store, "a", *range(1, 21))
        for wanted in ({}, {"event_types": {"Never"}}, {"actors": "nobody"}):
            got: list[StoredEvent] = []
            with store.follow(**wanted) as follower:  # type: ignore[arg-type]
                began = monotonic()
                while not follower.is_caught_up:
                    got += follower.get_batch(7, timeout=PATIENCE, until_caught_up=True)
                assert follower.get_batch(7, timeout=PATIENCE, until_caught_up=True) == []
                assert monotonic() - began < PATIENCE
                assert got == ([] if wanted else stored)
        with other.follow() as follower:
            assert len(follower.get_batch(100, timeout=PATIENCE, until_caught_up=True)) >= 1

    def test_who_follows_what_was_saved_here_sees_all_of_it(self, store: EventStore) -> None:
        for version in range(1, 11):
            (saved,) = fill(store, "a", version)
            got: list[StoredEvent] = []
            with store.follow() as follower:
                while not follower.is_caught_up:
                    got += follower.get_batch(100, timeout=PATIENCE)
                assert got[-1] == saved
                (live,) = fill(store, "b", version)
                assert not follower.is_caught_up
                assert take(follower, 1) == [live]

    def test_what_cannot_be_followed(self, store: EventStore) -> None:
        for types in ("A", [""], [1], 5):
            with pytest.raises(InvalidOptionError, match="event_types"):
                store.follow(event_types=types)  # type: ignore[arg-type]

    def test_a_follower_says_when_it_is_caught_up(self, store: EventStore, other: EventStore) -> None:
        with store.follow() as follower:
            eventually(lambda: follower.is_caught_up, "the end of nothing")
            fill(store, "a", 1, 2)
            take(follower, 1)
            assert not follower.is_caught_up
            take(follower, 1)
            eventually(lambda: follower.is_caught_up)
            fill(other, "a", 3)
            eventually(lambda: not follower.is_caught_up)
            take(follower, 1)
            eventually(lambda: follower.is_caught_up)

    def test_waiting_for_an_event_has_an_end(self, store: EventStore) -> None:
        with store.follow() as follower:
            for timeout in (0, 0.01):
                with pytest.raises(DeadlineExceededError):
                    follower.get(timeout=timeout)
                assert follower.get_batch(5, timeout=timeout) == []
            for bad in (-1, True, "1"):
                with pytest.raises(InvalidOptionError, match="timeout"):
                    follower.get(timeout=bad)  # type: ignore[arg-type]
            for bad in (0, -1, True, "1"):
                with pytest.raises(InvalidOptionError, match="max_events"):
                    follower.get_batch(bad, timeout=0)  # type: ignore[arg-type]

    def test_batches(self, store: EventStore) -> None:
        stored = fill(store, "a", *range(1, 31))
        with store.follow() as follower:
            got: list[StoredEvent] = []
            while len(got) < 30:
                batch = follower.get_batch(7, timeout=PATIENCE)
                assert 1 <= len(batch) <= 7
                got += batch
                assert follower.sequence == got[-1].sequence
            assert got == stored
            assert follower.get_batch(1, timeout=0) == []

    def test_a_follower_tells_where_a_save_ends(self, store: EventStore) -> None:
        store.save_event(event("a", 1))
        store.save_events([event("a", 2), event("b", 1), event("a", 3)])
        store.append("b", event("b"), event("b"), expected_version=1)
        store.append("b", event("b"), expected_version=3)
        with store.follow() as follower:
            assert [one.ends_batch for one in take(follower, 7)] == [True, False, False, True, False, True, True]

    @pytest.mark.concurrent
    def test_a_follower_gets_everything_once_and_in_order(self, store: EventStore, other: EventStore) -> None:
        writers, saves = 4, 8

        def write(n: int) -> None:
            for m in range(saves):
                batch = [event(f"a-{n}", 2 * m + 1, save=[n, m]), event(f"b-{n}", m + 1, save=[n, m])]
                batch.append(event(f"a-{n}", 2 * m + 2, save=[n, m]))
                (store, other)[n % 2].save_events(batch, timeout=PATIENCE)

        got: list[list[StoredEvent]] = [[], []]

        def read(follower: Follower, into: list[StoredEvent]) -> None:
            into += take(follower, writers * saves * 3)

        with store.follow() as early, other.follow() as elsewhere:
            works = [lambda n=n: write(n) for n in range(writers)]
            run_threads(*works, lambda: read(early, got[0]), lambda: read(elsewhere, got[1]))
        with store.follow() as late:
            history = take(late, writers * saves * 3)
        assert got == [history, history]
        assert all(one.sequence < next_.sequence for one, next_ in pairwise(history))
        assert history[-1].sequence == store.last_sequence()
        assert_batches_are_whole(history, 3)
        for n in range(writers):
            assert versions(one.event for one in history if one.event.actor_id == f"a-{n}") == [
                *range(1, 2 * saves + 1)
            ]

    @pytest.mark.concurrent
    def test_two_threads_on_one_follower_share_the_events(self, store: EventStore) -> None:
        got: list[list[int]] = [[], [], []]
        count = 60

        def read(follower: Follower, into: list[int]) -> None:
            for one in follower:
                into.append(one.sequence)

        def write(follower: Follower) -> None:
            for n in range(10, count, 10):
                fill(store, "a", *range(n + 1, n + 11))
            eventually(lambda: sum(map(len, got)) >= count, "all events")
            follower.close()

        fill(store, "a", *range(1, 11))
        with store.follow() as follower:
            run_threads(*[lambda into=into: read(follower, into) for into in got], lambda: write(follower))
            assert follower.sequence == store.last_sequence()
        assert sorted(chain(*got)) == [one.sequence for one in store.get_events_with_errors("a").events]
        assert all(one == sorted(one) for one in got)

    def test_a_closed_follower_is_at_its_end(self, store: EventStore) -> None:
        fill(store, "a", 1, 2, 3)
        follower = store.follow()
        assert not follower.closed
        take(follower, 1)
        follower.close()
        follower.close()
        assert follower.closed
        assert list(follower) == []
        with pytest.raises(StoreClosedError):
            follower.get(timeout=0)
        with pytest.raises(StoreClosedError):
            follower.get_batch(5, timeout=0)
        assert follower.sequence == store.get_events_with_errors("a").events[0].sequence
        with store.follow() as another:
            assert len(take(another, 3)) == 3
            assert another.is_connected
            eventually(lambda: another.is_caught_up)
        assert another.closed
        assert not another.is_connected
        assert not another.is_caught_up

    @pytest.mark.concurrent
    @pytest.mark.parametrize("what", ["follower", "store"])
    def test_closing_releases_who_waits(self, store: EventStore, what: str) -> None:
        fill(store, "a", 1)
        followers = [store.follow() for _ in range(3)]
        began = threading.Semaphore(0)

        def iterate() -> None:
            assert len([began.release() for _ in followers[0]]) == 1

        def get() -> None:
            take(followers[1], 1)
            began.release()
            with pytest.raises(StoreClosedError):
                followers[1].get()

        def get_batch() -> None:
            assert len(followers[2].get_batch(5, PATIENCE)) == 1
            began.release()
            with pytest.raises(StoreClosedError):
                followers[2].get_batch(5)

        def close() -> None:
            for _ in followers:
                assert began.acquire(timeout=PATIENCE)
            for one in followers if what == "follower" else [store]:
                one.close()  # type: ignore[attr-defined]

        run_threads(iterate, get, get_batch, close)
        for follower in followers:
            assert list(follower) == []
            follower.close()

    def test_a_follower_that_another_node_outlives(self, store: EventStore, other: EventStore) -> None:
        """Closing one follower is nothing to the others."""
        with store.follow() as one, other.follow() as two:
            one.close()
            stored = fill(store, "a", 1)
            assert take(two, 1) == stored
