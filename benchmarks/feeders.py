"""Roles that send: prebuilt frames over a plain socket, in large blocks. They are never the bottleneck."""

import socket
from collections.abc import Iterator
from urllib.parse import urlsplit

from .cases import WAIT, Job
from .workload import make_payload

__all__ = ["feed_nats", "feed_redis", "payloads", "send_again_and_again"]

_DIFFERENT = 1_000  # events; then they come again


def payloads(job: Job) -> list[bytes]:
    """Make the events that are sent, again and again."""
    return [make_payload(number, job.namespace) for number in range(_DIFFERENT)]


def feed_nats(job: Job) -> Iterator[None]:
    """Publish the warm-up, then the events, on a NATS server."""
    subject = job.subject.encode()
    frames = [b"PUB %b %d\r\n%b\r\n" % (subject, len(payload), payload) for payload in payloads(job)]
    yield from _send(job, job.url, frames, b'CONNECT {"verbose":false}\r\n', b"PING\r\n", b"PONG\r\n")


def feed_redis(job: Job) -> Iterator[None]:
    """Publish the warm-up, then the events, on a Redis server."""
    publish = [_command(b"PUBLISH", job.subject.encode(), payload) for payload in payloads(job)]
    quiet, loud = _command(b"CLIENT", b"REPLY", b"OFF"), _command(b"CLIENT", b"REPLY", b"ON")
    yield from _send(job, job.redis, publish, quiet, loud + quiet, b"+OK\r\n")


def _command(*words: bytes) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def _send(job: Job, url: str, frames: list[bytes], hello: bytes, ask: bytes, answer: bytes) -> Iterator[None]:
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=WAIT) as server:
        server.sendall(hello + ask)
        _await(server, answer)
        for count in (job.warmup, job.events):
            yield
            send_again_and_again(server, frames, count)
            server.sendall(ask)
            _await(server, answer)
    yield


def send_again_and_again(to: socket.socket, frames: list[bytes], count: int) -> None:
    """Send so many frames, in blocks of all there are."""
    rounds, rest = divmod(count, len(frames))
    block = b"".join(frames)
    for _ in range(rounds):
        to.sendall(block)
    to.sendall(b"".join(frames[:rest]))


def _await(server: socket.socket, answer: bytes) -> None:
    received = b""
    while not received.endswith(answer):
        part = server.recv(65_536)
        if not part:
            raise ConnectionError(f"the server closed the connection after {received!r}")
        received += part
