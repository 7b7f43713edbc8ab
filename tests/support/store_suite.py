"""The promises of an event store, written once: every implementation is run through them.

A subclass gives two stores that are empty and have the same events: ``store``, and ``other``, which is another node's.
For a store in memory that is the same object. What one node saved, the other may see a moment later.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from itertools import chain, islice, pairwise
from time import monotonic
from types import MappingProxyType
from typing import Any

import pytest

from aether_sync import (
    ClosedError,
    DeadlineExceededError,
    EncodingError,
    Event,
    EventBus,
    EventStored,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
)
from aether_sync.errors import (
    DuplicateIdError,
    StoreClosedError,
    StreamRegressionError,
    UnknownOutcomeError,
    VersionConflictError,
)
from aether_sync.stores.base import (
    ANY_VERSION,
    NO_EVENTS,
    EventStore,
    Follower,
    MalformedRecord,
    Reading,
    Snapshot,
    StoredEvent,
)
from aether_sync.stores.retrying import retry_on_conflict

from .common import PATIENCE, eventually, run_threads

MAX_VERSION = 2**63 - 1

#: Different actors, whatever their ids look like to a subject, a pattern, a path or a case-insensitive file system.
STRANGE_IDS = [
    "a.b", "a_b", "a b", "a/b", "a-b", "a*b", "a>b", "a%b", "a%2Eb", "a\\b", "a:b", "a$b", "A.B", "a..b", ".a", "a.",
    ".", "..", "-", "-a", "a-", "*", ">", "%", "_", "$", "order-1", "order-1.2", "order.1", "🎉", "žluťoučký-馬", "é",
    "e\u0301", " ", "a ", "a\tb", "a\nb", "a\x00b", "unknown.a", "unknown-a", "None", "0",
]  # fmt: skip


def event(actor_id: str = "a", version: int = 0, **data: Any) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def fill(store: EventStore, actor_id: str, *versions: int) -> list[StoredEvent]:
    return store.save_events([event(actor_id, version, n=version) for version in versions])


def versions(events: Iterable[Event]) -> list[int]:
    return [one.version for one in events]


def total(histories: Iterable[Iterable[Event]], key: str = "amount") -> int:
    return sum(one.data[key] for history in histories for one in history if one.data is not None)


def take(follower: Follower, count: int) -> list[StoredEvent]:
    return [follower.get(timeout=PATIENCE) for _ in range(count)]


def is_empty(store: EventStore) -> bool:
    return store.last_sequence() == 0 and store.actors() == []


class Account:
    """An aggregate whose events are decided on what it has loaded, as in the README's program."""

    def __init__(self, store: EventStore, actor_id: str) -> None:
        self.store, self.actor_id = store, actor_id

    def add(self, amount: int) -> list[StoredEvent]:
        loaded = self.store.load(self.actor_id)
        balance = loaded.events[-1].data["balance"] if loaded.events and loaded.events[-1].data else 0
        new = event(self.actor_id, amount=amount, balance=balance + amount)
        return self.store.append(self.actor_id, new, expected_version=loaded.version)


class StorePromises:
    """Each test gets two nodes of one store with nothing in it."""

    @pytest.fixture
    def store(self) -> EventStore:
        raise NotImplementedError

    @pytest.fixture
    def other(self, store: EventStore) -> EventStore:
        raise NotImplementedError

    def test_it_is_an_event_store(self, store: EventStore) -> None:
        assert isinstance(store, EventStore)
        assert is_empty(store)
        assert not store.closed

    # -- saving

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

    # -- several at once

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

    # -- appending

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

    # -- saving again

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

    # -- bad input

    def test_what_is_no_event(self, store: EventStore) -> None:
        for bad in (None, "event", {"actor_id": "a"}, event("a", 1).replace, StoredEvent(event("a", 1), 1)):
            with pytest.raises(InvalidEventError):
                store.save_event(bad)  # type: ignore[arg-type]
            with pytest.raises(InvalidEventError):
                store.save_events([event("a", 1), bad])  # type: ignore[list-item]
            with pytest.raises(InvalidEventError):
                store.append("a", event("a"), bad, expected_version=ANY_VERSION)  # type: ignore[arg-type]
        for bad in (None, 1, event("a", 1), "ab"):
            with pytest.raises(InvalidEventError):
                store.save_events(bad)  # type: ignore[arg-type]
        assert is_empty(store)

    def test_an_event_without_a_version(self, store: EventStore) -> None:
        with pytest.raises(InvalidEventError, match="'a' has no version"):
            store.save_event(event("a"))
        with pytest.raises(InvalidEventError, match="'b' has no version"):
            store.save_events([event("a", 1), event("b")])
        assert is_empty(store)

    @pytest.mark.parametrize("version", [-1, True, 1.0, "1", 2**63, None])
    def test_a_version_that_no_event_has(self, version: Any) -> None:
        with pytest.raises(InvalidEventError, match="version"):
            event("a", version)

    @pytest.mark.parametrize("twice", [[1, 1], [1, 2, 2], [2, 1], [1, 3, 2]])
    def test_versions_in_one_save_go_up(self, store: EventStore, twice: list[int]) -> None:
        with pytest.raises(InvalidEventError, match="'a' do not increase"):
            store.save_events([event("b", 1), *[event("a", version) for version in twice]])
        assert is_empty(store)

    def test_more_than_a_thousand_at_once(self, store: EventStore) -> None:
        with pytest.raises(InvalidOptionError, match=r"more than 1,000 .*: store them in several saves"):
            store.save_events([event("a", n) for n in range(1, 1002)])
        with pytest.raises(InvalidOptionError, match="more than 1,000"):
            store.append("a", *[event("a") for _ in range(1001)], expected_version=ANY_VERSION)
        assert is_empty(store)

    def test_what_append_refuses(self, store: EventStore) -> None:
        with pytest.raises(InvalidEventError, match="'b'"):
            store.append("a", event("a"), event("b"), expected_version=ANY_VERSION)
        with pytest.raises(InvalidEventError, match="version 3"):
            store.append("a", event("a"), event("a", 3), expected_version=ANY_VERSION)
        for bad in (-1, True, 1.0, "0", None, 2**63):
            with pytest.raises(InvalidOptionError, match=r"expected_version .* NO_EVENTS, or ANY"):
                store.append("a", event("a"), expected_version=bad)  # type: ignore[arg-type]
        with pytest.raises(TypeError):
            store.append("a", event("a"))  # type: ignore[call-arg]
        assert is_empty(store)

    @pytest.mark.parametrize("bad", ["", None, 1, b"a", ["a"]])
    def test_what_is_no_actor_id(self, store: EventStore, bad: Any) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.append(bad, event("a"), expected_version=ANY_VERSION),
            lambda: store.get_events(bad),
            lambda: store.iter_events(bad),
            lambda: store.get_events_with_errors(bad),
            lambda: store.read_together("a", bad),
            lambda: store.get_latest_version(bad),
            lambda: store.get_latest_snapshot(bad),
            lambda: store.load(bad),
            lambda: store.cached_version(bad),
            lambda: store.update_version_cache(bad, 1),
            lambda: store.save_snapshot(Snapshot(actor_id=bad, version=1, state={})),
        ]
        for call in calls:
            with pytest.raises(InvalidOptionError, match="actor id"):
                call()
        with pytest.raises(InvalidEventError, match="actor_id"):
            event(bad, 1)

    @pytest.mark.parametrize("bad", [-1, True, 1.0, "1", 2**63])
    def test_what_is_no_version_to_read(self, store: EventStore, bad: Any) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.get_events("a", bad),
            lambda: store.get_events("a", 0, bad),
            lambda: store.get_events("a", until=bad),
            lambda: store.iter_events("a", bad),
            lambda: store.iter_events("a", 0, bad),
            lambda: store.get_events_with_errors("a", bad),
            lambda: store.get_events_with_errors("a", 0, bad),
            lambda: store.load("a", schema_version=bad),
            lambda: store.update_version_cache("a", bad),
            lambda: store.update_version_cache("a", 1, bad),
            lambda: store.follow(after=bad),
        ]
        for call in calls:
            with pytest.raises(InvalidOptionError):
                call()

    @pytest.mark.parametrize("bad", [-1, True, "1", float("nan")])
    def test_what_is_no_timeout(self, store: EventStore, bad: Any) -> None:
        calls: list[Callable[[], object]] = [
            lambda: store.save_event(event("a", 1), timeout=bad),
            lambda: store.save_events([event("a", 1)], timeout=bad),
            lambda: store.append("a", event("a"), expected_version=ANY_VERSION, timeout=bad),
            lambda: store.get_events("a", timeout=bad),
            lambda: store.iter_events("a", timeout=bad),
            lambda: store.get_events_with_errors("a", timeout=bad),
            lambda: store.read_together("a", timeout=bad),
            lambda: store.get_latest_version("a", timeout=bad),
            lambda: store.last_sequence(timeout=bad),
            lambda: store.actors(timeout=bad),
            lambda: store.save_snapshot(Snapshot(actor_id="a", version=1, state={}), timeout=bad),
            lambda: store.get_latest_snapshot("a", timeout=bad),
            lambda: store.load("a", timeout=bad),
            lambda: store.follow(timeout=bad),
        ]
        for call in calls:
            with pytest.raises(InvalidOptionError, match="timeout"):
                call()
        assert is_empty(store)

    def test_strange_actor_ids_are_different_actors(self, store: EventStore, other: EventStore) -> None:
        stored = [
            store.append(actor_id, event(actor_id, id=actor_id), expected_version=NO_EVENTS) for actor_id in STRANGE_IDS
        ]
        for actor_id, (one,) in zip(STRANGE_IDS, stored, strict=True):
            assert [got.data for got in store.get_events(actor_id)] == [{"id": actor_id}]
            assert store.get_latest_version(actor_id) == 1
            assert store.save_snapshot(Snapshot(actor_id=actor_id, version=1, state={"id": actor_id}))
            assert one.event.actor_id == actor_id
        for actor_id in STRANGE_IDS:
            loaded = other.load(actor_id)
            assert loaded.snapshot is not None
            assert (loaded.snapshot.actor_id, loaded.snapshot.state, loaded.version) == (actor_id, {"id": actor_id}, 1)
        assert store.actors() == sorted(STRANGE_IDS)
        with store.follow() as follower:
            assert [one.event.actor_id for one in take(follower, len(STRANGE_IDS))] == STRANGE_IDS

    def test_strange_event_types(self, store: EventStore) -> None:
        kinds = ["Order Placed", "order.placed", "*", ">", "žluť 🎉", "a\nb", "x" * 1000]
        for version, kind in enumerate(kinds, 1):
            store.save_event(Event(event_type=kind, actor_id="a", version=version))
        assert [one.event_type for one in store.get_events("a")] == kinds
        with store.follow(event_types=kinds[1:3]) as follower:
            assert [one.event.event_type for one in take(follower, 2)] == kinds[1:3]

    @pytest.mark.parametrize("actor_id", ["a" * 10_000, "🎉" * 10_000, "a." * 5_000])
    def test_a_huge_actor_id_is_stored_or_refused(self, store: EventStore, actor_id: str) -> None:
        try:
            store.save_events([event("a", 1), event(actor_id, 1)])
        except (InvalidEventError, InvalidOptionError):
            assert is_empty(store)
            with pytest.raises((InvalidEventError, InvalidOptionError)):
                store.append(actor_id, event(actor_id), expected_version=ANY_VERSION)
        else:
            assert store.get_events(actor_id)[0].actor_id == actor_id
            assert store.actors() == sorted(["a", actor_id])

    def test_an_actor_id_with_a_lone_surrogate_is_refused(self, store: EventStore) -> None:
        with pytest.raises((EncodingError, InvalidEventError, InvalidOptionError, InvalidNamespaceError)):
            store.save_events([event("a", 1), event("\ud800", 1)])
        assert is_empty(store)

    # -- reading

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

    def test_an_actor_of_many_events_is_read_whole_and_in_order(self, store: EventStore) -> None:
        for start in range(1, 1500, 300):
            fill(store, "a", *range(start, start + 300))
        assert versions(store.get_events("a")) == [*range(1, 1501)]
        assert versions(store.iter_events("a")) == [*range(1, 1501)]
        assert versions(store.get_events("a", 700, 1100)) == [*range(700, 1101)]
        assert versions(islice(store.iter_events("a", 700), 3)) == [700, 701, 702]

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

    # -- several actors at one moment

    def test_actors_read_together(self, store: EventStore) -> None:
        store.save_events([event("a", 1), event("b", 1), event("b", 2)])
        read = store.read_together("b", "a", "nobody")
        assert {actor: versions(events) for actor, events in read.items()} == {"b": [1, 2], "a": [1], "nobody": []}
        assert store.read_together() == {}

    @pytest.mark.concurrent
    def test_a_part_of_a_save_is_never_seen(self, store: EventStore, other: EventStore) -> None:
        """Transfers between three accounts: what all have together is always nothing."""
        accounts, transfers = ["a", "b", "c"], 12
        done = threading.Event()
        saved: list[int] = []

        def transfer(node: EventStore, n: int) -> None:
            source, target = accounts[n % 3], accounts[(n + 1) % 3]
            moved = {source: -n - 1, target: n + 1}
            save_moves(node, moved)
            saved.append(n)

        @retry_on_conflict(attempts=None, timeout=PATIENCE)
        def save_moves(node: EventStore, moved: dict[str, int]) -> None:
            current = {actor: node.get_latest_version(actor) for actor in moved}
            node.save_events([event(actor, current[actor] + 1, amount=amount) for actor, amount in moved.items()])

        def write() -> None:
            try:
                works = [
                    (lambda n=n: [transfer((store, other)[n % 2], m) for m in range(n, transfers, 3)]) for n in range(3)
                ]
                run_threads(*works)
            finally:
                done.set()

        def read(node: EventStore) -> None:
            while not done.is_set():
                assert total(node.read_together(*accounts).values()) == 0
                until = node.last_sequence()
                assert total(node.get_events(account, until=until) for account in accounts) == 0

        run_threads(write, lambda: read(store), lambda: read(other))
        assert len(saved) == transfers
        for node in (store, other):
            eventually(lambda node=node: sum(map(len, node.read_together(*accounts).values())) == transfers * 2)
        with store.follow() as follower:
            assert_batches_are_whole(take(follower, transfers * 2), 2)

    # -- snapshots

    def test_a_snapshot(self, store: EventStore, other: EventStore) -> None:
        stored = fill(store, "a", 1, 2, 3)
        made = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=timezone(timedelta(hours=2)))
        state = {"balance": 5, "list": (1, 2), "deep": {"a": [None, True, "馬"]}}
        snapshot = Snapshot(actor_id="a", version=2, state=state, schema_version=4, timestamp=made)
        assert store.save_snapshot(snapshot) is True
        kept = Snapshot(
            actor_id="a",
            version=2,
            state={**state, "list": [1, 2]},
            schema_version=4,
            sequence=stored[1].sequence,
            timestamp=made,
        )
        assert store.get_latest_snapshot("a") == kept
        eventually(lambda: other.get_latest_snapshot("a") == kept, "the snapshot on the other node")

    def test_a_snapshot_is_nobodys_own(self, store: EventStore) -> None:
        fill(store, "a", 1)
        state: dict[str, Any] = {"list": [1]}
        store.save_snapshot(Snapshot(actor_id="a", version=1, state=state))
        state["list"].append(2)
        for _ in range(2):
            got = store.get_latest_snapshot("a")
            assert got is not None
            assert got.state == {"list": [1]}
            got.state["list"].append(3)  # as who goes on with it may

    def test_an_older_snapshot_is_refused(self, store: EventStore) -> None:
        fill(store, "a", 1, 2, 3)
        assert store.save_snapshot(Snapshot(actor_id="a", version=2, state={"n": 1}))
        for version, schema_version in ((2, 1), (1, 1), (1, 7)):
            again = Snapshot(actor_id="a", version=version, state={"n": 2}, schema_version=schema_version)
            assert store.save_snapshot(again) is False
        kept = store.get_latest_snapshot("a")
        assert kept is not None
        assert (kept.version, kept.state) == (2, {"n": 1})
        assert store.save_snapshot(Snapshot(actor_id="a", version=3, state={"n": 3}))
        kept = store.get_latest_snapshot("a")
        assert kept is not None
        assert (kept.version, kept.state) == (3, {"n": 3})

    def test_a_snapshot_of_no_version_behind_a_later_one_is_refused_like_any(self, store: EventStore) -> None:
        store.save_events([event("a", version) for version in (1, 3, 5)])
        assert store.save_snapshot(Snapshot(actor_id="a", version=5, state={}))
        assert store.save_snapshot(Snapshot(actor_id="a", version=4, state={})) is False

    def test_a_later_schema_replaces_a_snapshot_of_the_same_version(self, store: EventStore) -> None:
        fill(store, "a", 1, 2)
        for version, schema_version, is_kept in ((2, 1, True), (2, 3, True), (2, 2, False), (1, 9, False)):
            new = Snapshot(actor_id="a", version=version, state={"n": schema_version}, schema_version=schema_version)
            assert store.save_snapshot(new) is is_kept
        assert store.load("a", schema_version=3).snapshot is not None

    @pytest.mark.concurrent
    def test_of_racing_snapshots_the_newest_stays(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", *range(1, 13))

        def save(node: EventStore, version: int) -> None:
            node.save_snapshot(Snapshot(actor_id="a", version=version, state={"n": version}), timeout=PATIENCE)

        run_threads(*[lambda n=n: save((store, other)[n % 2], n) for n in (3, 12, 7, 1, 11, 5, 9, 2)])
        kept = store.get_latest_snapshot("a")
        assert kept is not None
        assert (kept.version, kept.state) == (12, {"n": 12})

    def test_a_snapshot_ahead_of_its_actor_is_refused(self, store: EventStore) -> None:
        for current, ahead in ((0, 1), (2, 3)):
            if current:
                fill(store, "a", current)
            with pytest.raises(VersionConflictError, match="save its events first") as caught:
                store.save_snapshot(Snapshot(actor_id="a", version=ahead, state={}))
            error = caught.value
            assert error.is_of_snapshot
            assert (error.actor_id, error.attempted_version, error.current_version) == ("a", ahead, current)
        assert store.get_latest_snapshot("a") is None

    def test_a_snapshot_of_a_version_that_never_was_is_refused(self, store: EventStore) -> None:
        fill(store, "a", 1, 4)
        for version in (2, 3):
            with pytest.raises(InvalidOptionError, match="version"):
                store.save_snapshot(Snapshot(actor_id="a", version=version, state={}))
        assert store.get_latest_snapshot("a") is None

    @pytest.mark.parametrize(
        "wrong",
        [
            {"version": 0}, {"version": -1}, {"version": True}, {"version": "1"}, {"version": 2**63},
            {"schema_version": -1}, {"schema_version": True}, {"schema_version": "1"},
            {"state": None}, {"state": [1]}, {"state": "x"}, {"sequence": -1},
            {"timestamp": datetime(2024, 1, 1)}, {"timestamp": 5},
        ],
        ids=str,
    )  # fmt: skip
    def test_what_is_no_snapshot(self, store: EventStore, wrong: dict[str, Any]) -> None:
        fill(store, "a", 1)
        fields: dict[str, Any] = {"actor_id": "a", "version": 1, "state": {}} | wrong
        with pytest.raises(InvalidOptionError):
            store.save_snapshot(Snapshot(**fields))
        with pytest.raises(InvalidOptionError):
            store.save_snapshot(fields)  # type: ignore[arg-type]
        assert store.get_latest_snapshot("a") is None

    def test_a_state_that_cannot_be_encoded(self, store: EventStore) -> None:
        fill(store, "a", 1)
        for state in ({"x": object()}, {"x": float("inf")}, {1: 2}):
            with pytest.raises(EncodingError, match=r"^a snapshot of actor 'a': state\b"):
                store.save_snapshot(Snapshot(actor_id="a", version=1, state=state))  # type: ignore[arg-type]
        assert store.get_latest_snapshot("a") is None

    def test_snapshots_are_no_events(self, store: EventStore) -> None:
        (stored,) = fill(store, "a", 1)
        store.save_snapshot(Snapshot(actor_id="a", version=1, state={}))
        assert store.last_sequence() == stored.sequence
        assert store.get_events("a") == [stored.event]
        assert store.actors() == ["a"]
        assert store.append("a", event("a"), expected_version=1)[0].event.version == 2

    def test_load(self, store: EventStore) -> None:
        fill(store, "a", 1, 2, 4, 7)
        assert store.load("a").version == 7
        assert versions(store.load("a").events) == [1, 2, 4, 7]
        store.save_snapshot(Snapshot(actor_id="a", version=2, state={"n": 2}))
        loaded = store.load("a")
        assert loaded.snapshot == store.get_latest_snapshot("a")
        assert (loaded.actor_id, versions(loaded.events), loaded.version) == ("a", [4, 7], 7)
        store.save_snapshot(Snapshot(actor_id="a", version=7, state={"n": 7}))
        loaded = store.load("a")
        assert (loaded.events, loaded.version) == ([], 7)
        store.append("a", event("a"), expected_version=loaded.version)
        assert versions(store.load("a").events) == [8]

    def test_an_ignored_snapshot_is_logged_once_an_actor_and_burst(
        self, store: EventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        for actor_id in ("a", "b"):
            fill(store, actor_id, 1)
            store.save_snapshot(Snapshot(actor_id=actor_id, version=1, state={}, schema_version=2))
        with caplog.at_level(logging.INFO):
            for _ in range(3):
                store.load("a", schema_version=2)
                store.load("a")
                store.load("b")
        ignored = [one for one in caplog.records if getattr(one, "kind", "") == "snapshot_ignored"]
        assert [one.args[0] for one in ignored if isinstance(one.args, tuple)] == ["a", "b"]
        assert "schema_version 2, and load() was asked for 1" in caplog.text

    def test_load_ignores_a_snapshot_of_another_schema(self, store: EventStore) -> None:
        fill(store, "a", 1, 2)
        store.save_snapshot(Snapshot(actor_id="a", version=1, state={}, schema_version=2))
        for schema_version, expected in ((1, [1, 2]), (2, [2]), (3, [1, 2])):
            loaded = store.load("a", schema_version=schema_version)
            assert versions(loaded.events) == expected
            assert (loaded.snapshot is None) is (schema_version != 2)
        assert store.load("a").version == 2

    # -- following

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

    # -- what other nodes store

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

    # -- telling a bus

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

    # -- the end

    def test_a_closed_store(self, store: EventStore, local_bus: EventBus) -> None:
        fill(store, "a", 1, 2)
        with store.follow() as follower:
            store.close()
            store.close()
            assert store.closed
            assert list(follower) == []
        calls: list[Callable[[], object]] = [
            lambda: store.save_event(event("a", 3)),
            lambda: store.save_events([event("a", 3)]),
            lambda: store.save_events([]),
            lambda: store.append("a", event("a"), expected_version=2),
            lambda: store.get_events("a"),
            lambda: list(store.iter_events("a")),
            lambda: store.get_events_with_errors("a"),
            lambda: store.read_together("a", "b"),
            lambda: store.get_latest_version("a"),
            lambda: store.last_sequence(),
            lambda: store.actors(),
            lambda: store.save_snapshot(Snapshot(actor_id="a", version=1, state={})),
            lambda: store.get_latest_snapshot("a"),
            lambda: store.load("a"),
            lambda: store.follow(),
            lambda: store.cached_version("a"),
            lambda: store.update_version_cache("a", 3),
            lambda: store.set_broadcaster(local_bus, "n"),
        ]
        for call in calls:
            with pytest.raises(StoreClosedError, match="closed"):
                call()

    def test_with_closes(self, store: EventStore) -> None:
        with store as same:
            assert same is store
        assert store.closed

    @pytest.mark.concurrent
    def test_closing_while_others_save_and_read(self, store: EventStore) -> None:
        """Each call does its work, or says that the store is closed."""
        began = threading.Semaphore(0)

        def until_closed(work: Callable[[], object]) -> None:
            with pytest.raises((ClosedError, UnknownOutcomeError)):  # a save over which it is closed may be stored
                while True:
                    work()
                    began.release()

        def close() -> None:
            for _ in range(20):
                assert began.acquire(timeout=PATIENCE)
            store.close()

        run_threads(
            lambda: until_closed(lambda: store.append("a", event("a"), expected_version=ANY_VERSION)),
            lambda: until_closed(lambda: store.get_events("a")),
            lambda: until_closed(lambda: store.follow().close()),
            close,
        )


def assert_batches_are_whole(history: list[StoredEvent], size: int) -> None:
    """See that the events of each save follow one another, of as many as it had, the last marked as the last."""
    assert [one.ends_batch for one in history] == ([False] * (size - 1) + [True]) * (len(history) // size)
    for start in range(0, len(history), size):
        batch = history[start : start + size]
        assert [one.sequence for one in batch] == [*range(batch[0].sequence, batch[0].sequence + size)]
        if batch[0].event.data and "save" in batch[0].event.data:
            assert len({tuple(one.event.data["save"]) for one in batch if one.event.data}) == 1
        else:
            assert total([[one.event] for one in batch]) == 0
