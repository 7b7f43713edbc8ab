"""``_nats.wire``: what leaves, in which order, over a transport that only remembers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from nats.aio.client import Client

from aether_sync._nats import wire as room
from aether_sync._nats.login import Login
from aether_sync._nats.servers import Server
from aether_sync._nats.wire import Wire
from aether_sync._reporter import Reporter


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def a_wire() -> Any:
    """A wire that takes itself for connected."""
    wire: Any = Wire(
        Server("nats://127.0.0.1"),
        Login(()),
        Reporter(),
        refused=lambda error: None,
        unreadable=lambda sid: None,
        informed=lambda wire, info: None,
    )
    wire._transport = Transport()
    wire._status = Client.CONNECTED
    return wire


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_a_ping_never_overtakes_what_was_there_before() -> None:
    wire = a_wire()
    answered: list[str] = []
    await wire.subscribe("a")
    wire.ping(lambda: answered.append("first"))
    await wire.subscribe("b", queue="q")
    wire.write(b"PUB a 0\r\n\r\n")
    wire.ping(lambda: answered.append("second"))
    written = b"SUB a  1\r\nPING\r\nSUB b q 2\r\nPUB a 0\r\n\r\nPING\r\n"
    assert wire._transport.written == written
    assert (wire._pending, wire._pending_data_size) == ([], 0)
    await wire._ps.parse(b"PONG\r\nPO")
    assert answered == ["first"]
    await wire._ps.parse(b"NG\r\nPONG\r\n")
    assert answered == ["first", "second"]
    assert wire.received == 6 + 2 + 4 + 6


@on_a_loop
async def test_what_is_abandoned_stays_so_for_its_first_reason() -> None:
    wire = a_wire()
    wire.abandon(KeyError("first"))
    wire.abandon(KeyError("second"))
    await wire.close()
    wire.write(b"PUB a 0\r\n\r\n")
    assert wire._transport.written == b""
    assert not wire.is_open
    assert wire.lost.result().args == ("first",)


@on_a_loop
async def test_an_err_that_closes_tells_why() -> None:
    wire = a_wire()
    await wire._ps.parse(b"-ERR 'maximum connections exceeded'\r\n")
    assert "maximum connections exceeded" in str(await asyncio.wait_for(wire.lost, 5))


def test_a_nats_py_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ImportError, match=r"_flush_pending.*nats-py>="):
        room._check(object)
