"""What is kept so that not all has to be read."""

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from aether_sync import EncodingError, InvalidOptionError, flush_logs
from aether_sync.errors import VersionConflictError
from aether_sync.stores.base import Snapshot
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, eventually, run_threads
from ...support.stores import event, fill, versions
from .base import TwoNodes


class Snapshots(TwoNodes):
    """What is kept so that not all has to be read."""

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
            assert flush_logs(PATIENCE)
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

    def test_one_snapshot_is_kept(self, store: EventStore) -> None:
        fill(store, "a", 1, 2, 3)
        assert store.get_snapshots("a") == []
        for version in (1, 2):
            store.save_snapshot(Snapshot(actor_id="a", version=version, state={}))
        assert [one.version for one in store.get_snapshots("a")] == [2]
        assert store.get_latest_snapshot("a", to_version=1) is None
        kept = store.get_latest_snapshot("a", to_version=2)
        assert kept == store.get_latest_snapshot("a", to_version=9) == store.get_latest_snapshot("a")


class SnapshotHistory(TwoNodes):
    """Three snapshots of each actor."""

    def test_as_many_as_were_asked_for(self, store: EventStore, other: EventStore) -> None:
        stored = fill(store, "a", *range(1, 10))
        fill(store, "b", 1)
        assert store.save_snapshot(Snapshot(actor_id="b", version=1, state={"n": "b"}))
        kept: list[tuple[int, int]] = []
        for version in (1, 3, 4, 6, 8):
            assert store.save_snapshot(Snapshot(actor_id="a", version=version, state={"n": version}))
            assert store.save_snapshot(Snapshot(actor_id="a", version=version, state={"n": 0})) is False
            kept = [*kept, (version, stored[version - 1].sequence)][-3:]
            for node in (store, other):
                assert [(one.version, one.sequence) for one in node.get_snapshots("a")] == kept
        assert store.save_snapshot(Snapshot(actor_id="a", version=2, state={})) is False
        assert [one.state for one in store.get_snapshots("a")] == [{"n": 4}, {"n": 6}, {"n": 8}]
        assert store.get_snapshots("a")[-1] == store.get_latest_snapshot("a") == other.get_latest_snapshot("a")
        assert [one.version for one in store.get_snapshots("b")] == [1]
        assert store.get_snapshots("c") == []

    def test_the_latest_that_is_not_after_a_version(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", *range(1, 10))
        for version in (2, 5, 6):
            store.save_snapshot(Snapshot(actor_id="a", version=version, state={"n": version}))
        found = {0: None, 1: None, 2: 2, 4: 2, 5: 5, 6: 6, 9: 6, 2**63 - 1: 6}
        for node in (store, other):
            for to_version, version in found.items():
                got = node.get_latest_snapshot("a", to_version=to_version)
                assert (None if got is None else got.version) == version
            assert node.get_latest_snapshot("b", to_version=3) is None

    def test_load_takes_the_latest_of_its_schema(self, store: EventStore, caplog: pytest.LogCaptureFixture) -> None:
        fill(store, "a", *range(1, 6))
        for version, schema_version in ((1, 1), (2, 1), (4, 2)):
            store.save_snapshot(Snapshot(actor_id="a", version=version, state={}, schema_version=schema_version))
        for schema_version, expected in ((1, [3, 4, 5]), (2, [5]), (3, [1, 2, 3, 4, 5])):
            caplog.clear()
            caplog.set_level(logging.INFO)
            loaded = store.load("a", schema_version=schema_version)
            assert versions(loaded.events) == expected
            assert (loaded.snapshot is None) is (schema_version == 3)
            assert loaded.snapshot is None or loaded.snapshot.schema_version == schema_version
            assert flush_logs(PATIENCE)
            assert ("is ignored" in caplog.text) is (schema_version == 3)

    def test_a_snapshot_of_the_history_is_nobodys_own(self, store: EventStore) -> None:
        fill(store, "a", 1, 2)
        for version in (1, 2):
            store.save_snapshot(Snapshot(actor_id="a", version=version, state={"list": [1]}))
        for _ in range(2):
            for one in store.get_snapshots("a"):
                assert one.state == {"list": [1]}
                one.state["list"].append(3)

    @pytest.mark.concurrent
    def test_of_racing_snapshots_the_newest_stay(self, store: EventStore, other: EventStore) -> None:
        fill(store, "a", *range(1, 13))

        def save(node: EventStore, version: int) -> None:
            node.save_snapshot(Snapshot(actor_id="a", version=version, state={"n": version}), timeout=PATIENCE)

        run_threads(*[lambda n=n: save((store, other)[n % 2], n) for n in (3, 12, 7, 1, 11, 5, 9, 2)])
        kept = [one.version for one in store.get_snapshots("a")]
        assert kept == sorted(set(kept))
        assert kept[-1] == 12
        assert len(kept) <= 3
