"""``_nats.wire``: what leaves, in which order, over a transport that only remembers."""

from typing import Any

import pytest
from nats.aio.client import Client

from aether_sync._nats.wire import Wire


class Transport:
    def __init__(self) -> None:
        self.written = b""

    def write(self, data: bytes) -> None:
        self.written += data

    def writelines(self, lines: list[bytes]) -> None:
        self.written += b"".join(lines)


@pytest.fixture
def client() -> Any:
    client: Any = Client()
    client._transport = Transport()
    return client


def test_a_ping_never_overtakes_what_was_there_before(client: Any) -> None:
    client._pending, client._pending_data_size = [b"SUB a  1\r\n"], 10
    answered: list[str] = []
    wire = Wire(client)
    wire.ping(lambda: answered.append("first"))
    client._pending, client._pending_data_size = [b"SUB b  2\r\n"], 10
    wire.write(b"PUB a 0\r\n\r\n")
    wire.ping(lambda: answered.append("second"))
    assert client._transport.written == b"SUB a  1\r\nPING\r\nSUB b  2\r\nPUB a 0\r\n\r\nPING\r\n"
    assert (client._pending, client._pending_data_size) == ([], 0)
    for pong in client._pongs:  # as nats-py does it
        pong.set_result(True)
    assert answered == ["first", "second"]


def test_a_nats_py_without_what_it_needs_is_refused() -> None:
    with pytest.raises(RuntimeError, match="_pongs"):
        Wire(object())  # type: ignore[arg-type]
