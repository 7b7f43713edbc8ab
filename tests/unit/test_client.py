"""``_nats.wire``: what leaves, in which order, over a transport that only remembers."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from nats.aio.client import Client

from aether_sync._nats import client as room
from aether_sync._nats.client import NATSClient
from aether_sync._nats.login import Login, secrets_of
from aether_sync._nats.servers import Server
from aether_sync._runtime.reporter import Reporter


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data


def a_client(refused: Callable[[str], bool] = lambda text: False) -> Any:
    """A wire that takes itself for connected."""
    client: Any = NATSClient(
        Server("nats://127.0.0.1"),
        Login(()),
        Reporter(),
        refused=refused,
        unreadable=lambda sid: None,
        informed=lambda client, info: None,
    )
    client._transport = Transport()
    client._status = Client.CONNECTED
    return client


def on_a_loop(test: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        asyncio.run(test())

    run.__name__ = test.__name__
    return run


@on_a_loop
async def test_a_ping_never_overtakes_what_was_there_before() -> None:
    client = a_client()
    answered: list[str] = []
    await client.subscribe("a")
    client.ping(lambda: answered.append("first"))
    await client.subscribe("b", queue="q")
    client.write(b"PUB a 0\r\n\r\n")
    client.ping(lambda: answered.append("second"))
    written = b"SUB a  1\r\nPING\r\nSUB b q 2\r\nPUB a 0\r\n\r\nPING\r\n"
    assert client._transport.written == written
    assert (client._pending, client._pending_data_size) == ([], 0)
    await client._ps.parse(b"PONG\r\nPO")
    assert answered == ["first"]
    await client._ps.parse(b"NG\r\nPONG\r\n")
    assert answered == ["first", "second"]
    assert client.received == 6 + 2 + 4 + 6


@on_a_loop
async def test_what_is_abandoned_stays_so_for_its_first_reason() -> None:
    client = a_client()
    client.abandon(KeyError("first"))
    client.abandon(KeyError("second"))
    await client.close()
    client.write(b"PUB a 0\r\n\r\n")
    assert client._transport.written == b""
    assert not client.is_open
    assert client.lost.result().args == ("first",)


@on_a_loop
async def test_an_err_that_closes_tells_why() -> None:
    client = a_client()
    await client._ps.parse(b"-ERR 'maximum connections exceeded'\r\n")
    assert "maximum connections exceeded" in str(await asyncio.wait_for(client.lost, 5))


@on_a_loop
async def test_a_pong_behind_the_err_that_ends_the_connection_is_not_answered() -> None:
    client = a_client()
    answered: list[str] = []
    client.ping(lambda: answered.append("first"))
    client.ping(lambda: answered.append("second"))
    await client._ps.parse(b"PONG\r\n-ERR 'what is this'\r\nPONG\r\n")
    assert answered == ["first"]
    client.ping(lambda: answered.append("third"))  # to a connection that has ended
    await client._ps.parse(b"PONG\r\n")
    assert answered == ["first"]


@pytest.mark.parametrize(
    ("said", "goes_on", "shown"),
    [
        ('Permissions Violation for Publish to "a.pa\\ss"', True, None),
        ('bad line: CONNECT {"pass": "pa\\ss"}', False, "an error that quotes the CONNECT"),
        ('bad line: CONNECT {"pass": "pa\\\\ss"}', False, "an error that quotes the CONNECT"),
        ("user is not allowed", False, "user is not allowed"),
        ("Authorization Violation", False, "Authorization Violation"),
    ],
)
def test_an_err_is_read_before_a_secret_in_it_is_hidden(said: str, goes_on: bool, shown: str | None) -> None:
    @on_a_loop
    async def run() -> None:
        texts: list[str] = []

        def refused(text: str) -> bool:
            texts.append(text)
            return goes_on

        client = a_client(refused)
        client._secrets = secrets_of({"user": "user", "pass": "pa\\ss", "auth_token": "Authorization"})
        await client._ps.parse(f"-ERR '{said}'\r\n".encode())
        assert texts == [said]
        assert client.lost.done() is not goes_on
        assert goes_on or str(client.lost.result()) == shown

    run()


def test_a_nats_py_without_what_it_needs_is_refused() -> None:
    with pytest.raises(ImportError, match=r"_flush_pending.*nats-py>="):
        room._check(object)
