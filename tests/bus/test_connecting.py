"""The way to a server: past an address that swallows everything, past one that says nothing, to one that is slow."""

import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aether_sync import ConnectError, NATSEventBus, NATSServer
from aether_sync._nats.options import LinkOptions
from aether_sync._nats.servers import Server
from aether_sync._nats.settings import Settings

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event
from ..support.credentials import Certificates
from ..support.fake_server import FakeServer, Peer

MakeBus = Callable[..., NATSEventBus]

pytestmark = [pytest.mark.both_loops, pytest.mark.fault]

CONNECT = 2 * UNIT  # seconds, where a server is reached within it
SHORT = 0.3 * UNIT  # where none is
LONG = 100.0  # seconds: longer than any test


@contextmanager
def black_hole() -> Iterator[tuple[str, int]]:
    """An address that answers nobody who wants to connect."""
    with ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # what does not fit into the backlog waits for an answer
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        yield full.getsockname()


@pytest.fixture
def hole() -> Iterator[tuple[str, int]]:
    with black_hole() as address:
        yield address


@pytest.fixture
def silent() -> Iterator[FakeServer]:
    """A server that takes connections, and says nothing."""
    with FakeServer() as server:
        server.silence = LONG
        yield server


@pytest.fixture
def in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers are tried in the order in which they are given."""
    monkeypatch.setattr(random, "shuffle", lambda _: None)


def started(bus: NATSEventBus) -> float:
    """Start it; return how many seconds that took."""
    start = time.monotonic()
    bus.start()
    return time.monotonic() - start


def url(address: tuple[str, int]) -> str:
    return f"nats://{address[0]}:{address[1]}"


# -- addresses of one host


@pytest.fixture
def addresses(free_port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, int]]]:
    """What the name server answers."""
    found: list[tuple[str, int]] = []
    real = socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **options: Any) -> list[Any]:
        if host != "a-name":
            return real(host, *args, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in found]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    return found  # type: ignore[return-value]


def test_what_can_be_no_name_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a server may tell one of another."""

    def getaddrinfo(*_: object, **__: object) -> list[Any]:
        return "..".encode("idna")  # type: ignore[return-value]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    bus = NATSEventBus("nats://a-name:1", connect_timeout=SHORT)
    with pytest.raises(ConnectError, match="the host name is not known"):
        bus.start()
    bus.close()


def test_the_first_address_that_can_be_reached_is_taken(
    addresses: list[tuple[str, int]], make_bus: MakeBus, server: NATSServer, free_port: int
) -> None:
    addresses += [("127.0.0.1", free_port), ("127.0.0.1", server.port)]
    bus = make_bus("nats://a-name:1")
    bus.start()
    bus.flush(PATIENCE)


@pytest.mark.parametrize(
    ("hosts", "reason"),
    [
        (["127.0.0.1"], "connection refused"),
        (["127.0.0.1", "127.0.0.2"], "connection refused"),
        (["127.0.0.1", "::1"], "; "),
        ([], "no address"),
    ],
)
def test_if_none_can_be_reached_the_reason_is_told(
    addresses: list[tuple[str, int]], make_bus: MakeBus, free_port: int, hosts: list[str], reason: str
) -> None:
    addresses += [(host, free_port) for host in hosts]
    with pytest.raises(ConnectError, match=reason):
        make_bus("nats://a-name:1", connect_timeout=SHORT).start()


def test_an_address_that_swallows_everything_is_passed_over(
    addresses: list[tuple[str, int]], make_bus: MakeBus, server: NATSServer, hole: tuple[str, int]
) -> None:
    addresses += [hole, hole, ("127.0.0.1", server.port)]
    bus = make_bus("nats://a-name:1", connect_timeout=CONNECT)
    assert started(bus) < CONNECT / 2
    bus.flush(PATIENCE)


def test_an_address_that_takes_connections_and_says_nothing_is_passed_over(
    addresses: list[tuple[str, int]], make_bus: MakeBus, server: NATSServer, silent: FakeServer
) -> None:
    addresses += [("127.0.0.1", silent.port), ("127.0.0.1", server.port)]
    assert started(make_bus("nats://a-name:1", connect_timeout=CONNECT)) < CONNECT


def test_a_slow_address_does_not_keep_the_loop_from_ending(
    addresses: list[tuple[str, int]], make_bus: MakeBus, hole: tuple[str, int]
) -> None:
    addresses += [hole] * 20
    bus = make_bus("nats://a-name:1", connect_timeout=SHORT)
    with pytest.raises(ConnectError, match="no answer"):
        bus.start()
    start = time.monotonic()
    assert bus.close()
    assert time.monotonic() - start < UNIT


# -- several servers


@pytest.mark.usefixtures("in_order")
@pytest.mark.parametrize("others", first_of([4, 1]))
def test_a_server_is_reached_though_others_are_black_holes(make_bus: MakeBus, server: NATSServer, others: int) -> None:
    with ExitStack() as stack:
        holes = [url(stack.enter_context(black_hole())) for _ in range(others)]
        bus = make_bus([*holes, server.url], connect_timeout=CONNECT)
        assert started(bus) < CONNECT
        bus.flush(PATIENCE)
        bus.close()


@pytest.mark.usefixtures("in_order")
def test_a_server_is_reached_though_another_says_nothing(
    make_bus: MakeBus, server: NATSServer, silent: FakeServer
) -> None:
    bus = make_bus([silent.url, server.url], connect_timeout=CONNECT)
    assert started(bus) < CONNECT
    eventually(lambda: silent.last.is_closed, "the end of the other attempt")
    bus.close()


@pytest.mark.slow
@pytest.mark.usefixtures("in_order")
def test_a_slow_server_is_reached_beside_one_that_refuses(
    make_bus: MakeBus, silent: FakeServer, free_port: int
) -> None:
    silent.silence = CONNECT * 0.6
    bus = make_bus([silent.url, f"nats://127.0.0.1:{free_port}"], connect_timeout=CONNECT)
    assert started(bus) < CONNECT
    bus.close()


def refusing(_: Peer, line: bytes) -> bytes | None:
    return b"-ERR 'Authorization Violation'\r\n" if line.startswith(b"CONNECT") else b""


@pytest.mark.slow
@pytest.mark.usefixtures("in_order")
def test_one_that_refuses_again_and_again_is_not_all_of_them(make_bus: MakeBus, silent: FakeServer) -> None:
    silent.silence = 2.0 * UNIT  # the other is asked several times meanwhile
    with FakeServer(refusing) as other:
        assert started(make_bus([other.url, silent.url], connect_timeout=2 * CONNECT)) < 2 * CONNECT


def test_a_server_that_quotes_what_it_was_shown_is_not_quoted(make_bus: MakeBus) -> None:
    def quoting(_: Peer, line: bytes) -> bytes | None:
        return b"-ERR 'Unknown Protocol Operation " + line.strip() + b"'\r\n" if line.startswith(b"CONNECT") else b""

    with FakeServer(quoting) as server:
        bus = make_bus(server.url, user="me", password="a-secret", connect_timeout=SHORT)
        with pytest.raises(ConnectError) as caught:
            bus.start()
    assert "a-secret" not in str(caught.value)
    assert "quotes the CONNECT" in str(caught.value)


@pytest.mark.usefixtures("in_order")
def test_a_handshake_that_does_not_go_on(make_bus: MakeBus, tmp_path: Path) -> None:
    ours = Certificates(tmp_path)
    config = ours.config(more="handshake_first: true")
    with NATSServer(config=config) as frozen, NATSServer(config=config) as healthy:
        bus = make_bus(
            [frozen.url, healthy.url], tls=ours.trusting(), tls_handshake_first=True, connect_timeout=CONNECT
        )
        frozen.pause()
        assert started(bus) < CONNECT
        bus.close()
        frozen.resume()


@pytest.mark.usefixtures("in_order")
def test_a_lost_connection_is_replaced_at_once_beside_a_black_hole(
    make_bus: MakeBus, server: NATSServer, own_server: NATSServer, hole: tuple[str, int]
) -> None:
    bus = make_bus([own_server.url, url(hole), server.url], connect_timeout=CONNECT)
    bus.start()
    start = time.monotonic()
    own_server.kill()
    eventually(lambda: bus.metrics().reconnects == 1, "another connection")
    assert time.monotonic() - start < CONNECT


# -- a slow one


def test_a_server_may_take_most_of_the_time_to_greet(make_bus: MakeBus, silent: FakeServer) -> None:
    silent.silence = CONNECT * 0.8
    bus = make_bus(silent.url, connect_timeout=CONNECT)
    assert CONNECT * 0.7 < started(bus) < CONNECT
    bus.close()


def test_one_that_takes_longer_is_reached_in_the_background(make_bus: MakeBus, silent: FakeServer) -> None:
    silent.silence = SHORT * 3
    bus = make_bus(silent.url, connect_timeout=SHORT)
    with pytest.raises(ConnectError, match="no answer"):
        bus.start()
    bus.publish("n", make_event())  # at once
    assert bus.wait_connected(PATIENCE)
    bus.flush(PATIENCE)
    assert len(silent.peers) == 3  # after 1, 2 and 4 times that
    bus.close()


@pytest.mark.both_loops(False)
def test_patience_grows_with_silence() -> None:
    def patience(connect_timeout: float, silences: int) -> float:
        options = LinkOptions(
            settings=Settings(servers=("nats://h",)), name=None, connect_timeout=connect_timeout, ping_interval=1.0
        )
        return options.patience(Server("nats://h", silences=silences))

    assert [patience(2.0, silences) for silences in (0, 1, 2, 3, 4_000)] == [2.0, 4.0, 8.0, 10.0, 10.0]
    assert [patience(30.0, silences) for silences in (0, 1)] == [30.0, 30.0]


def test_a_close_amid_all_attempts_leaves_nothing(make_bus: MakeBus, silent: FakeServer) -> None:
    with ExitStack() as stack:
        holes = [url(stack.enter_context(black_hole())) for _ in range(3)]
        bus = make_bus([*holes, silent.url], connect_timeout=SHORT)
        with pytest.raises(ConnectError):
            bus.start()
        eventually(lambda: silent.peers, "an attempt")
        start = time.monotonic()
        bus.close()
        assert time.monotonic() - start < UNIT
        eventually(lambda: silent.last.is_closed, "its end")
