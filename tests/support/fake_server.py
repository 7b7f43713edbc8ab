"""A NATS server of a few lines over plain sockets: it says what a test tells it to, and records what it was sent."""

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

from .common import PATIENCE, eventually

#: What to say to a line: bytes to send, or nothing. A line is a command without its payload: ``PUB a.b 2``.
Answer = Callable[["Peer", bytes], bytes | None]


def polite(_: "Peer", line: bytes) -> bytes | None:
    """Answer as a server without subscribers does."""
    return b"PONG\r\n" if line == b"PING" else None


def hang_up(peer: "Peer", line: bytes) -> bytes | None:
    """End the connection in place of an answer."""
    if line == b"PING":
        peer.cut()
    return None


class Peer:
    """One connection of a client."""

    def __init__(self, number: int, sock: socket.socket) -> None:
        self.number = number  #: 0 is the first that the server took
        self.lines: list[bytes] = []  #: all commands, in order, without payloads
        self._socket = sock
        self.is_closed = False

    def send(self, data: bytes) -> None:
        with suppress(OSError):
            self._socket.sendall(data)

    def cut(self) -> None:
        """End the connection."""
        self.is_closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def sid_of(self, subject: str) -> int:
        """The sid under which it has subscribed, once it has."""
        wanted = f"SUB {subject} ".encode()
        eventually(lambda: any(line.startswith(wanted) for line in list(self.lines)), f"a SUB of {subject}")
        return int([line for line in list(self.lines) if line.startswith(wanted)][-1].split()[-1])

    def serve(self, answer: Callable[[], Answer]) -> None:
        with suppress(OSError), self._socket, self._socket.makefile("rb") as stream:
            while line := stream.readline():
                command = line.strip()
                if command.startswith(b"PUB "):
                    stream.read(int(command.rpartition(b" ")[2]) + 2)
                self.lines.append(command)
                said = answer()(self, command)
                if said:
                    self._socket.sendall(said)
        self.is_closed = True


class FakeServer:
    """Listens on a port; each connection has a thread.

    Attributes:
        info: What a new connection is greeted with: fields, or bytes in place of their JSON.
        answer: How commands are answered; may be changed at any time.
        silence: Seconds before a new connection is greeted.
        peers: All connections ever, in order.
    """

    def __init__(self, answer: Answer = polite, **info: Any) -> None:
        self.info: dict[str, Any] | bytes = {
            "server_id": "fake", "version": "2.12.0", "max_payload": 2**20, "headers": True, **info,
        }  # fmt: skip
        self.answer = answer
        self.silence = 0.0
        self._closing = threading.Event()
        self.peers: list[Peer] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.url = f"nats://127.0.0.1:{self.port}"
        self._run(self._accept)

    @property
    def last(self) -> Peer:
        """The newest connection."""
        return self.peers[-1]

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="fake-server", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            peer = Peer(len(self.peers), sock)
            info = self.info if isinstance(self.info, bytes) else json.dumps(self.info).encode()
            greeting = b"INFO %b\r\n" % info
            if self.silence:
                self._run(lambda peer=peer, greeting=greeting: self._closing.wait(self.silence) or peer.send(greeting))
            else:
                peer.send(greeting)
            self.peers.append(peer)
            self._run(lambda peer=peer: peer.serve(lambda: self.answer))

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(PATIENCE)
        for peer in self.peers:
            peer.cut()
        for thread in self._threads:
            thread.join(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
