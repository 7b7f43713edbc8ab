"""What all themes share: each test gets two nodes of one store with nothing in it.

A subclass gives two stores that are empty and have the same events: ``store``, and ``other``, which is another node's.
For a store in memory that is the same object. What one node saved, the other may see a moment later.
"""

from collections.abc import Iterable

import pytest

from aether_sync import Event
from aether_sync.stores.base import StoredEvent
from aether_sync.stores.event_store import EventStore

MAX_VERSION = 2**63 - 1


def total(histories: Iterable[Iterable[Event]], key: str = "amount") -> int:
    return sum(one.data[key] for history in histories for one in history if one.data is not None)


def is_empty(store: EventStore) -> bool:
    return store.last_sequence() == 0 and store.actors() == []


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


class TwoNodes:
    """Each test gets two nodes of one store with nothing in it."""

    @pytest.fixture
    def store(self) -> EventStore:
        raise NotImplementedError

    @pytest.fixture
    def other(self, store: EventStore) -> EventStore:
        raise NotImplementedError
