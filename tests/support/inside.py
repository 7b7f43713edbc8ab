"""What some tests have to know of the inside of a connection. Whatever reaches in there goes through this module."""

import asyncio
from collections.abc import Callable

import pytest

from aether_sync import Connection, JetStreamEventStore, NATSEventBus
from aether_sync._nats.channel import Channel, EngineSlot
from aether_sync._nats.client import NATSClient
from aether_sync._nats.engine import Engine
from aether_sync.connection import channel_of

Owner = Connection | NATSEventBus | JetStreamEventStore


def channel(owner: Owner) -> Channel:
    """A channel of its connection."""
    return channel_of(owner if isinstance(owner, Connection) else owner.connection)


def slot(owner: Owner) -> EngineSlot:
    """Where its connection has the engine and the outbox."""
    return channel(owner).slot


def engine(owner: Owner) -> Engine:
    """What runs for its connection, which was used already."""
    found = slot(owner).engine
    assert found is not None
    return found


def client(owner: Owner) -> NATSClient:
    """The client that its connection has now, or had last."""
    found = engine(owner).link._client
    assert found is not None
    return found


def transport(owner: Owner) -> asyncio.WriteTransport:
    """The transport of that client."""
    found = client(owner)._writer_transport()
    assert found is not None
    return found


def on_write(owner: Owner, monkeypatch: pytest.MonkeyPatch, call: Callable[[bytes], object]) -> None:
    """Call something with each command that is written over its connection and that nobody waits for."""
    original, own = Channel.write, slot(owner)

    def write(channel: Channel, frame: bytes) -> None:
        if channel.slot is own:
            call(frame)
        original(channel, frame)

    monkeypatch.setattr(Channel, "write", write)
