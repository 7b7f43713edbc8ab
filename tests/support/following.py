"""What tests of followers share."""

from collections.abc import Callable

from aether_sync import Event, JetStreamEventStore
from aether_sync.stores._jetstream.follower import JetStreamFollower

from .common import PATIENCE
from .inside import names_of
from .stores import ask

MakeStore = Callable[..., JetStreamEventStore]


def event(actor_id: str = "a-1", version: int = 0, **data: object) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def fill(store: JetStreamEventStore, count: int, actor_id: str = "a-1") -> None:
    """Store so many events, in batches."""
    first = store.get_latest_version(actor_id, timeout=PATIENCE) + 1
    for start in range(first, first + count, 500):
        end = min(start + 500, first + count)
        store.save_events([event(actor_id, version) for version in range(start, end)], timeout=PATIENCE)


def sequences(follower: JetStreamFollower, count: int) -> list[int]:
    return [follower.get(timeout=PATIENCE).sequence for _ in range(count)]


def consumers(store: JetStreamEventStore) -> int:
    stream = names_of(store).stream
    answer = ask(store, f"STREAM.INFO.{stream}")
    return int(answer["state"]["consumer_count"])
