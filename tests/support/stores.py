"""What tests put into stores, and what only the server can be asked or told of their streams."""

import os
import time
from collections.abc import Iterable
from typing import Any

from aether_sync import Consumption, Delivery, Event, JetStreamEventStore, NATSCluster, NATSServer
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores._jetstream.messages import Outgoing
from aether_sync.stores.base import Follower, StoredEvent
from aether_sync.stores.event_store import EventStore

from .common import PATIENCE, UNIT
from .inside import jetstream_of, names_of

#: Seconds after which what a consumer has not acknowledged is delivered again.
ACK_WAIT = 0.3 * UNIT


def event(actor_id: str = "a", version: int = 0, **data: Any) -> Event:
    return Event(event_type="Happened", actor_id=actor_id, version=version, data=data)


def fill(store: EventStore, actor_id: str, *versions: int) -> list[StoredEvent]:
    """Save events of these versions, all together."""
    return store.save_events([event(actor_id, version, n=version) for version in versions])


def take(follower: Follower, count: int) -> list[StoredEvent]:
    """Take so many events, as they come."""
    return [follower.get(timeout=PATIENCE) for _ in range(count)]


def take_batches(reader: Any, count: int) -> list[Any]:
    """Take so many by get_batch(), each call of which gives what has come by then."""
    taken: list[Any] = []
    while len(taken) < count:
        batch = reader.get_batch(count - len(taken), timeout=PATIENCE)
        assert batch, f"{len(taken)} of {count} came"
        taken += batch
    return taken


def versions(events: Iterable[Event]) -> list[int]:
    return [one.version for one in events]


def save(store: EventStore, count: int, actors: int = 10, **changes: Any) -> None:
    """Store events 1 to count, of some actors in turn."""
    events = [
        Event(**{"event_type": "Done", "actor_id": f"a-{n % actors}", "version": n // actors + 1} | changes)
        for n in range(count)
    ]
    for begin in range(0, count, 1_000):
        store.save_events(events[begin : begin + 1_000], timeout=PATIENCE)


def take_all(events: Consumption, count: int) -> list[Delivery]:
    """Take and acknowledge so many."""
    taken = []
    for _ in range(count):
        taken.append(events.get(timeout=PATIENCE))
        taken[-1].ack()
    return taken


def put(store: JetStreamEventStore, data: bytes, *, actor_id: str = "a-bad", subject: str = "") -> int:
    """Store bytes that may be no event, as those of an actor; returns their sequence."""
    message = Outgoing(subject or names_of(store).subject(actor_id), os.urandom(8).hex(), None, data)
    return jetstream_of(store).publish(names_of(store).stream, [message], Deadline(PATIENCE)).seq


def ask(
    store: JetStreamEventStore, subject: str, body: dict[str, Any] | None = None, timeout: float = PATIENCE
) -> dict[str, Any]:
    """Ask the server by its JetStream API; the answer may be an error.

    (https://docs.nats.io/reference/reference-protocols/nats_api_reference)
    """
    return jetstream_of(store).request(subject, body or {}, Deadline(timeout))


def leader_of(store: JetStreamEventStore, cluster: NATSCluster) -> NATSServer:
    """Wait until a store's stream has a leader, which it may lack for a moment at any time, and return that."""
    end = time.monotonic() + PATIENCE
    while True:
        told = ask(store, f"STREAM.INFO.{names_of(store).stream}").get("cluster", {}).get("leader")
        for server in cluster.servers:
            if server.name == told:
                return server
        assert time.monotonic() < end, f"the stream has no leader, but {told!r}"
        time.sleep(0.05)
