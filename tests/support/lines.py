"""Events as lines of JSON, and in a store, for tests of its commands."""

import json
from collections.abc import Iterable
from typing import Any

from aether_sync import Event, JetStreamEventStore
from aether_sync.stores._jetstream.stream import settings

from .common import PATIENCE
from .inside import names_of
from .stores import ask, put


def line_of(n: int, **more: object) -> str:
    return json.dumps({"eventType": "Paid", "data": {"n": n}} | more)


def text_of(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def events_of(count: int, actors: int = 7, start: int = 0) -> list[Event]:
    """Events of several actors, in turns."""
    return [
        Event(
            id=f"id-{n}",
            event_type="Paid" if n % 3 else "Opened",
            actor_id=f"order-{n % actors}",
            version=n // actors + 1,
            data={"n": n, "stadt": "Zürich"},
        )
        for n in range(start, start + count)
    ]


def fill(store: JetStreamEventStore, events: list[Event]) -> list[Event]:
    for place in range(0, len(events), 1_000):
        store.save_events(events[place : place + 1_000], timeout=PATIENCE)
    return events


def put_garbage(store: JetStreamEventStore, actor_id: str = "order-1", data: bytes = b"garbage") -> int:
    """Store a record that is no event; returns its sequence."""
    return put(store, data, actor_id=actor_id)


def all_of(store: JetStreamEventStore) -> list[Event]:
    """All events of a store, in order."""
    last, found = store.last_sequence(), []
    with store.follow() as follower:
        while follower.sequence < last:
            found.append(follower.get(PATIENCE).event)
    return found


def make_with(store: JetStreamEventStore, **more: object) -> None:
    """Make the stream as somebody else might, who sets limits."""
    body = settings(names_of(store), 1) | more
    assert "error" not in ask(store, f"STREAM.CREATE.{body['name']}", body)
