"""What tests look at inside buses and stores, all of it here: a test asks by what it wants to know.

Whatever a public name can tell is asked by that.
"""

import asyncio
from collections.abc import Callable

import pytest

from aether_sync import (
    Connection,
    Consumption,
    Delivery,
    Follower,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Runner,
)
from aether_sync._bus.queue import EventQueue
from aether_sync._nats.channel import Channel, EngineSlot
from aether_sync._nats.client import NATSClient
from aether_sync._nats.engine import Engine
from aether_sync._nats.link import Link
from aether_sync._nats.outbox import Outbox
from aether_sync.connection import channel_of as _channel_of
from aether_sync.stores._jetstream.api import JetStream
from aether_sync.stores._jetstream.cache import VersionCache
from aether_sync.stores._jetstream.group_commit import Outbound
from aether_sync.stores._jetstream.loader import Loader
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.pull import PullBuffer
from aether_sync.stores.consumers.lanes import LaneScheduler

__all__ = [
    "buffer_of",
    "cache_of",
    "calls_kept",
    "channel_of",
    "client_of",
    "engine_of",
    "event_loop_of",
    "files_of",
    "grouped_by",
    "has_engine",
    "held_by",
    "interests_of",
    "is_read_by_nats_py",
    "is_writing",
    "jetstream_of",
    "knows_another_server",
    "link_of",
    "loader_of",
    "loop_sleeps",
    "names_of",
    "on_write",
    "open_consumptions",
    "outbox_of",
    "prefix_of",
    "pulled_by",
    "reconfigure",
    "scheduler_of",
    "slot_of",
    "transport_of",
    "waiting_flushes",
    "waiting_publishers",
    "waiting_readers",
]

Owner = Connection | NATSEventBus | JetStreamEventStore


def connection_of(owner: Owner) -> Connection:
    return owner if isinstance(owner, Connection) else owner.connection


def channel_of(owner: Owner) -> Channel:
    """A channel of its connection."""
    return _channel_of(connection_of(owner))


def slot_of(owner: Owner) -> EngineSlot:
    """Where its connection has the engine and the outbox."""
    return channel_of(owner).slot


def has_engine(owner: Owner) -> bool:
    """Whether anything was begun."""
    return slot_of(owner).engine is not None


def engine_of(owner: Owner) -> Engine:
    """The loop thread with all that runs on it, of a connection that was begun."""
    engine = slot_of(owner).engine
    assert engine is not None, "nothing was begun"
    return engine


def link_of(owner: Owner) -> Link:
    """What keeps it connected."""
    return engine_of(owner).link


def client_of(owner: Owner) -> NATSClient:
    """The NATS client of now, connected or not."""
    client = link_of(owner)._client
    assert client is not None, "there was no attempt yet"
    return client


def event_loop_of(owner: Owner) -> asyncio.AbstractEventLoop:
    """The event loop that its thread runs."""
    return engine_of(owner).loop._loop


def transport_of(owner: Owner) -> asyncio.WriteTransport:
    """What the client of now writes to."""
    transport = client_of(owner)._writer_transport()
    assert transport is not None, "it is not connected"
    return transport


def on_write(owner: Owner, monkeypatch: pytest.MonkeyPatch, call: Callable[[bytes], object]) -> None:
    """Call something with each command that is written over its connection and that nobody waits for."""
    original, own = Channel.write, slot_of(owner)

    def write(channel: Channel, frame: bytes) -> None:
        if channel.slot is own:
            call(frame)
        original(channel, frame)

    monkeypatch.setattr(Channel, "write", write)


def files_of(engine: Engine) -> set[int]:
    """The numbers of the files that are known of: to be forgotten in a child."""
    clients = list(engine.link._clients)
    others = {client.shortcut.file for client in clients if client.shortcut is not None}
    others |= {ear.number for client in clients if (ear := client._ear) is not None}
    return {*(file.number for file in engine.loop._loop.files()), *others}


def is_read_by_nats_py(owner: Owner) -> bool:
    """Whether what arrives comes by nats-py's own parser."""
    return client_of(owner)._reader is None


def knows_another_server(owner: Owner) -> bool:
    """Whether there is one to go to from that of now."""
    return link_of(owner).connector.servers.has_other(client_of(owner).server)


def is_writing(owner: Owner) -> bool:
    """Whether the pump may write."""
    return link_of(owner).pump._may_write.is_set()


def waiting_flushes(owner: Owner) -> int:
    """How many calls wait for the server to have processed what they published."""
    return len(link_of(owner).pump._flushes)


def interests_of(owner: Owner) -> int:
    """How many subscriptions there are, or are to be, on the server."""
    return len(link_of(owner).subscriber._interests)


def calls_kept(store: JetStreamEventStore) -> int:
    """How many questions are kept that wait for an answer."""
    return len(link_of(store).requests._calls) + len(list(jetstream_of(store)._calls))


def prefix_of(bus: NATSEventBus) -> str:
    """The first token of its subjects."""
    return bus._prefix


def names_of(store: JetStreamEventStore) -> Names:
    """What its stream and its subjects are called."""
    return store._names


def cache_of(store: JetStreamEventStore) -> VersionCache:
    """What it knows of the versions of actors."""
    return store._cache


def loader_of(store: JetStreamEventStore) -> Loader:
    """What loads actors for it, and keeps their events."""
    return store._loader


def grouped_by(store: JetStreamEventStore) -> list[Outbound]:
    """The saves that wait for a batch that is under way."""
    return list(store._writer._group._queue)


def jetstream_of(store: JetStreamEventStore) -> JetStream:
    """What asks the server, for who puts other answers in the place of some."""
    return store._jetstream


def reconfigure(server: NATSServer, config: str) -> None:
    """Change what a server is told at its next start."""
    server._configuration.text = config


def buffer_of(reader: Follower | Consumption) -> PullBuffer:
    """What has arrived for it, and is not taken yet."""
    return reader._buffer  # type: ignore[union-attr, no-any-return]


def pulled_by(follower: Follower) -> str:
    """The name of its consumer on the server."""
    return follower._consumer.decode()  # type: ignore[attr-defined, no-any-return]


def scheduler_of(runner: Runner) -> LaneScheduler:
    """What gives a runner's threads the events they handle."""
    return runner._scheduler


def held_by(runner: Runner) -> dict[int, Delivery]:
    """What a runner has taken and not settled, by sequence."""
    return scheduler_of(runner)._held


def open_consumptions(store: JetStreamEventStore) -> list[Consumption]:
    """What iterates over its consumers, or did."""
    return list(store._consumers.consumptions)


def outbox_of(owner: Owner) -> Outbox:
    """What is accepted and not written yet."""
    return slot_of(owner).outbox


def loop_sleeps(owner: Owner) -> bool:
    """Whether the loop thread has to be woken before it writes more."""
    return outbox_of(owner)._wakeup is not None


def waiting_publishers(outbox: Outbox) -> int:
    """How many threads wait for room."""
    return len(outbox._publishers)


def waiting_readers(queue: EventQueue) -> int:
    """How many threads and coroutines wait for an event."""
    return len(queue._readers)
