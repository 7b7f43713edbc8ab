"""What a store is at its beginning and at its end."""

import threading
from collections.abc import Callable

import pytest

from aether_sync import ClosedError, EventBus
from aether_sync.errors import StoreClosedError, UnknownOutcomeError
from aether_sync.stores.base import (
    ANY_VERSION,
    Snapshot,
)
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE, run_threads
from ...support.stores import event, fill
from .base import TwoNodes, is_empty


class Closing(TwoNodes):
    """What a store is at its beginning and at its end."""

    def test_it_is_an_event_store(self, store: EventStore) -> None:
        assert isinstance(store, EventStore)
        assert is_empty(store)
        assert not store.closed

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
            lambda: store.get_latest_event("a"),
            lambda: store.get_latest_version("a"),
            lambda: store.read_all(),
            lambda: store.last_sequence(),
            lambda: store.actors(),
            lambda: store.save_snapshot(Snapshot(actor_id="a", version=1, state={})),
            lambda: store.get_latest_snapshot("a"),
            lambda: store.get_snapshots("a"),
            lambda: store.load("a"),
            lambda: store.follow(),
            lambda: store.cached_version("a"),
            lambda: store.update_version_cache("a", 3),
            lambda: store.set_broadcaster(local_bus, "n"),
            lambda: store.__enter__(),  # type: ignore[attr-defined]
        ]
        for call in calls:
            with pytest.raises(StoreClosedError, match="is closed: make a new one"):
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
            lambda: until_closed(lambda: store.read_all()),
            lambda: until_closed(lambda: store.follow().close()),
            close,
        )
