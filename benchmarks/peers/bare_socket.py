"""The NATS protocol over a socket and nothing else: how fast a server answers, and how stocks are filled."""

import json
import re
import socket
from collections.abc import Iterable, Sequence
from typing import Self
from urllib.parse import urlsplit

from .faces import PATIENCE

__all__ = ["BareSocket", "frame", "load"]

_HEAD = re.compile(rb"H?MSG [^ ]+ 1 (?:(\d+) )?(\d+)|([A-Z+-]+)[^\r]*")
_READ = 2**20  # bytes at once
_INBOX = b"_INBOX.bare"


def frame(subject: str, headers: bytes, data: bytes, *, is_answered: bool = False) -> bytes:
    """Return the command that publishes a message, to be answered or not."""
    reply = b" " + _INBOX if is_answered else b""
    if not headers:
        return b"PUB %b%b %d\r\n%b\r\n" % (subject.encode(), reply, len(data), data)
    sizes = len(headers), len(headers) + len(data)
    return b"HPUB %b%b %d %d\r\n%b%b\r\n" % (subject.encode(), reply, *sizes, headers, data)


class BareSocket:
    """A connection whose answers all come to one inbox."""

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._socket = socket.create_connection((address.hostname, address.port), PATIENCE)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""
        options = {"verbose": False, "pedantic": False, "headers": True, "no_responders": True, "lang": "bare"}
        self.send(b"CONNECT %b\r\nSUB %b 1\r\n" % (json.dumps(options).encode(), _INBOX))

    def send(self, frames: bytes) -> None:
        self._socket.sendall(frames)

    def receive(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return the headers and the bodies of so many answers."""
        answers: list[tuple[bytes, bytes]] = []
        data, at = self._rest, 0
        while len(answers) < count:
            end = data.find(b"\r\n", at)
            head = _HEAD.match(data, at) if end >= 0 else None
            start = end + 2
            if head is not None and head[2]:
                body, stop = start + int(head[1] or 0), start + int(head[2])
                if stop + 2 <= len(data):
                    answers.append((data[start:body], data[body:stop]))
                    at = stop + 2
                    continue
            elif head is not None:
                if head[3] == b"PING":
                    self.send(b"PONG\r\n")
                elif head[3] == b"-ERR":
                    raise OSError(f"the server says {data[at:end]!r}")
                at = start
                continue
            more = self._socket.recv(_READ)
            if not more:
                raise ConnectionResetError("the server has closed the connection")
            data, at = data[at:] + more, 0
        self._rest = data[at:]
        return answers

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def load(client: BareSocket, stream: str, subject: str, earlier: Sequence[int]) -> list[bytes]:
    """Read an actor's last record from the leader, and the others from anywhere, by their sequences, in one write."""
    client.send(_asking(f"STREAM.MSG.GET.{stream}", [b'{"last_by_subj":"%b"}' % subject.encode()]))
    last = client.receive(1)
    client.send(_asking(f"DIRECT.GET.{stream}", [b'{"seq":%d}' % sequence for sequence in earlier]))
    return [body for _, body in client.receive(len(earlier)) + last]


def _asking(what: str, bodies: Iterable[bytes]) -> bytes:
    command = f"PUB $JS.API.{what} ".encode() + _INBOX
    return b"".join([b"%b %d\r\n%b\r\n" % (command, len(body), body) for body in bodies])
