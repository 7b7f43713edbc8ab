"""What is refused, and that nothing comes of it."""

from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    EncodingError,
    Event,
    InvalidEventError,
    InvalidNamespaceError,
    InvalidOptionError,
)
from aether_sync.stores.base import (
    ANY_VERSION,
    NO_EVENTS,
    Snapshot,
    StoredEvent,
)
from aether_sync.stores.event_store import EventStore

from ...support.stores import event, take
from .base import TwoNodes, is_empty

#: Different actors, whatever their ids look like to a subject, a pattern, a path or a case-insensitive file system.
STRANGE_IDS = [
    "a.b", "a_b", "a b", "a/b", "a-b", "a*b", "a>b", "a%b", "a%2Eb", "a\\b", "a:b", "a$b", "A.B", "a..b", ".a", "a.",
    ".", "..", "-", "-a", "a-", "*", ">", "%", "_", "$", "order-1", "order-1.2", "order.1", "🎉", "žluťoučký-馬", "é",
    "e\u0301", " ", "a ", "a\tb", "a\nb", "a\x00b", "unknown.a", "unknown-a", "None", "0",
]  # fmt: skip


class BadInput(TwoNodes):
    """What is refused, and that nothing comes of it."""

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
            lambda: store.get_latest_event(bad),
            lambda: store.get_latest_version(bad),
            lambda: store.get_latest_snapshot(bad),
            lambda: store.get_snapshots(bad),
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
            lambda: store.get_events("a", after=bad),
            lambda: store.get_events("a", limit=bad),
            lambda: store.get_latest_snapshot("a", to_version=bad),
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

    def test_a_limit_of_nothing(self, store: EventStore) -> None:
        with pytest.raises(InvalidOptionError, match="limit must be a whole number, 1 or more"):
            store.get_events("a", limit=0)

    def test_what_is_neither_true_nor_false(self, store: EventStore) -> None:
        class Neither:
            def __bool__(self) -> bool:
                raise ValueError

        with pytest.raises(InvalidOptionError, match="reverse"):
            store.get_events("a", reverse=Neither())  # type: ignore[arg-type]
        with pytest.raises(InvalidOptionError, match="allow_ahead"):
            store.follow(allow_ahead=Neither())  # type: ignore[arg-type]

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
            lambda: store.get_latest_event("a", timeout=bad),
            lambda: store.get_latest_version("a", timeout=bad),
            lambda: store.read_all(timeout=bad),
            lambda: store.last_sequence(timeout=bad),
            lambda: store.actors(timeout=bad),
            lambda: store.save_snapshot(Snapshot(actor_id="a", version=1, state={}), timeout=bad),
            lambda: store.get_latest_snapshot("a", timeout=bad),
            lambda: store.get_snapshots("a", timeout=bad),
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
