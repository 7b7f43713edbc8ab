"""A NATS client of a few lines over a plain socket, so that what a test sees does not come through the library."""

import re
import socket
from typing import Any, Self

from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter

from .common import PATIENCE, make_event

_PROTOCOL = re.compile(rb"MSG (\S+) \d+ (?:\S+ )?(\d+)\r\n|(PONG|PING|\+OK|INFO|-ERR)([^\r\n]*)\r\n")


class RawClient:
    """Publishes and subscribes by writing the protocol (https://docs.nats.io/reference/reference-protocols/nats-protocol)."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._buffer = b""
        self._messages: list[tuple[str, bytes]] = []
        self._socket.sendall(b'CONNECT {"verbose":false,"headers":true}\r\n')
        self.flush()

    def publish(self, subject: str, payload: bytes) -> None:
        self._socket.sendall(f"PUB {subject} {len(payload)}\r\n".encode() + payload + b"\r\n")

    def send(self, protocol: bytes) -> None:
        self._socket.sendall(protocol)

    def subscribe(self, subject: str) -> None:
        self._socket.sendall(f"SUB {subject} 1\r\n".encode())

    def flush(self) -> None:
        """Return when the server has processed all that was sent, and all it sent before is read."""
        self._socket.sendall(b"PING\r\n")
        while self._read_one() != b"PONG":
            pass

    def next_message(self) -> tuple[str, bytes]:
        while not self._messages:
            self._read_one()
        return self._messages.pop(0)

    def drain(self) -> int:
        """How many messages the server has sent until now."""
        self.flush()
        count = len(self._messages)
        self._messages.clear()
        return count

    def _read_one(self) -> bytes:
        while (found := _PROTOCOL.match(self._buffer)) is None:
            self._receive()
        end = found.end()
        if found[1] is None:
            self._buffer = self._buffer[end:]
            return found[3]
        size = int(found[2])
        while len(self._buffer) < end + size + 2:
            self._receive()
        self._messages.append((found[1].decode(), self._buffer[end : end + size]))
        self._buffer = self._buffer[end + size + 2 :]
        return b"MSG"

    def _receive(self) -> None:
        data = self._socket.recv(1 << 20)
        assert data, "the server closed the connection"
        self._buffer += data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def forged(n: int, namespace: str = "n", node_id: str = "stranger", **changes: Any) -> bytes:
    """An event as another node publishes it, or somebody who says so."""
    return EnvelopeWriter(node_id).write(namespace, encode_event(make_event(n, **changes)))
