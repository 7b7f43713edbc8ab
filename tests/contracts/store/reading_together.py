"""Several actors, as they were at one moment."""

import threading

import pytest

from aether_sync.stores.event_store import EventStore
from aether_sync.stores.retrying import retry_on_conflict

from ...support.common import PATIENCE, eventually, run_threads
from ...support.stores import event, take, versions
from .base import TwoNodes, assert_batches_are_whole, total


class ReadingTogether(TwoNodes):
    """Several actors, as they were at one moment."""

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
