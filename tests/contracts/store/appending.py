"""Events that the store gives versions."""

from contextlib import suppress

import pytest

from aether_sync import InvalidEventError
from aether_sync.errors import VersionConflictError
from aether_sync.stores.base import (
    ANY_VERSION,
    NO_EVENTS,
    StoredEvent,
)
from aether_sync.stores.event_store import EventStore
from aether_sync.stores.retrying import retry_on_conflict

from ...support.common import PATIENCE, eventually, run_threads
from ...support.stores import event, fill, versions
from .base import MAX_VERSION, TwoNodes, is_empty


class Account:
    """An aggregate whose events are decided on what it has loaded, as in the README's program."""

    def __init__(self, store: EventStore, actor_id: str) -> None:
        self.store, self.actor_id = store, actor_id

    def add(self, amount: int) -> list[StoredEvent]:
        loaded = self.store.load(self.actor_id)
        balance = loaded.events[-1].data["balance"] if loaded.events and loaded.events[-1].data else 0
        new = event(self.actor_id, amount=amount, balance=balance + amount)
        return self.store.append(self.actor_id, new, expected_version=loaded.version)


class Appending(TwoNodes):
    """Events that the store gives versions."""

    def test_append_numbers_the_events(self, store: EventStore) -> None:
        first, second, third = event("a", n=1), event("a", n=2), event("a", n=3)
        stored = store.append("a", first, second, expected_version=NO_EVENTS)
        assert [one.event for one in stored] == [first.replace(version=1), second.replace(version=2)]
        assert [one.ends_batch for one in stored] == [False, True]
        (stored_third,) = store.append("a", third, expected_version=2)
        assert (stored_third.event, stored_third.ends_batch) == (third.replace(version=3), True)
        assert store.get_events("a") == [one.event for one in (*stored, stored_third)]
        assert first.version == 0

    @pytest.mark.parametrize("expected", [NO_EVENTS, 1, 4, 6, MAX_VERSION - 1])
    def test_append_wants_exactly_the_expected_version(self, store: EventStore, expected: int) -> None:
        fill(store, "a", 1, 5)
        with pytest.raises(VersionConflictError) as caught:
            store.append("a", event("a"), expected_version=expected)
        error = caught.value
        assert (error.actor_id, error.attempted_version, error.current_version) == ("a", expected + 1, 5)
        assert store.append("a", event("a"), expected_version=5)[0].event.version == 6

    def test_append_to_an_actor_that_is_not_there(self, store: EventStore) -> None:
        with pytest.raises(VersionConflictError) as caught:
            store.append("a", event("a"), expected_version=1)
        assert (caught.value.attempted_version, caught.value.current_version) == (2, 0)
        assert is_empty(store)

    def test_append_after_whatever_is_there(self, store: EventStore, other: EventStore) -> None:
        assert versions(
            one.event for one in store.append("a", event("a"), event("a"), expected_version=ANY_VERSION)
        ) == [1, 2]
        fill(other, "a", 7)
        assert versions(one.event for one in store.append("a", event("a"), expected_version=ANY_VERSION)) == [8]

    def test_append_ends_with_the_last_version(self, store: EventStore) -> None:
        fill(store, "a", MAX_VERSION)
        for expected in (ANY_VERSION, MAX_VERSION):
            with pytest.raises(InvalidEventError, match=r"2\*\*63"):
                store.append("a", event("a"), expected_version=expected)
        assert versions(store.get_events("a")) == [MAX_VERSION]

    @pytest.mark.concurrent
    def test_no_racing_append_is_lost(self, store: EventStore, other: EventStore) -> None:
        won: list[int] = []

        def append(node: EventStore, n: int) -> None:
            with suppress(VersionConflictError):
                node.append("a", event("a", n=n), expected_version=NO_EVENTS, timeout=PATIENCE)
                won.append(n)

        run_threads(*[lambda n=n: append((store, other)[n % 2], n) for n in range(8)])
        assert [one.data for one in store.get_events("a")] == [{"n": n} for n in won]
        assert len(won) == 1

    @pytest.mark.concurrent
    def test_increments_of_many_threads_all_succeed(self, store: EventStore, other: EventStore) -> None:
        threads, each = 8, 5

        @retry_on_conflict(attempts=None, timeout=PATIENCE)
        def increment(node: EventStore) -> None:
            Account(node, "account-1").add(1)

        def work(node: EventStore) -> None:
            for _ in range(each):
                increment(node)

        run_threads(*[lambda n=n: work((store, other)[n % 2]) for n in range(threads)])
        for node in (store, other):
            eventually(lambda node=node: node.get_latest_version("account-1") == threads * each)
            balances = [(one.version, one.data and one.data["balance"]) for one in node.get_events("account-1")]
            assert balances == [(n, n) for n in range(1, threads * each + 1)]

    @pytest.mark.concurrent
    def test_appends_that_do_not_mind_all_succeed(self, store: EventStore, other: EventStore) -> None:
        def append(node: EventStore, n: int) -> None:
            for m in range(5):
                node.append("a", event("a", n=[n, m]), expected_version=ANY_VERSION, timeout=PATIENCE)

        run_threads(*[lambda n=n: append((store, other)[n % 2], n) for n in range(4)])
        events = store.get_events("a")
        assert versions(events) == [*range(1, 21)]
        assert sorted(one.data["n"] for one in events if one.data) == [[n, m] for n in range(4) for m in range(5)]
