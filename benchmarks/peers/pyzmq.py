"""pyzmq: PUB to SUB over TCP, from process to process, with no server between and no bound on what is queued."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from urllib.parse import urlsplit

from ..cases import Job, Sample, Stopwatch
from ..feeders import payloads, send_again_and_again
from ..listening import held_port
from ..partner import partner
from ..workload import decode, encode, make_envelope
from .faces import PATIENCE, lost

__all__ = ["answer", "asking", "drain", "feed", "publish", "receive"]

_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\x00") + bytes(32)
_READY = b"\x04\x19\x05READY\x0bSocket-Type\x00\x00\x00\x03PUB"
_SUBSCRIPTION = b"\x00\x01\x01"  # to everything


@contextmanager
def _sockets(*kinds: str) -> Iterator[list[Any]]:
    """Open sockets that drop nothing and wait for no one for ever."""
    import zmq

    with zmq.Context() as context:
        sockets = [context.socket(getattr(zmq, kind)) for kind in kinds]
        for one in sockets:
            one.set_hwm(0)
            one.rcvtimeo = int(PATIENCE * 1000)
            one.linger = 0
            if one.type == zmq.SUB:
                one.subscribe(b"")
        try:
            yield sockets
        finally:
            for one in sockets:
                one.close()


@contextmanager
def _endpoint() -> Iterator[str]:
    """Choose where a PUB socket will be bound: a SUB that is bound says what it wants too late."""
    with held_port() as port:
        yield f"tcp://127.0.0.1:{port}"


def receive(job: Job) -> Sample:
    """``recv()`` in a loop of the main thread; another process sends prebuilt messages."""
    with _endpoint() as endpoint, _sockets("SUB") as (heard,):
        heard.connect(endpoint)
        with partner(feed, replace(job, url=endpoint)) as sender:
            sender.go()
            _take(heard, job.warmup)
            sender.await_ready()
            watch = Stopwatch()
            sender.go()
            _take(heard, job.events)
            return watch.read(job.events)


def _take(heard: Any, count: int) -> None:
    import zmq

    for number in range(count):
        try:
            decode(heard.recv())
        except zmq.Again:
            raise lost(number, count) from None


def feed(job: Job) -> Iterator[None]:
    """Send the warm-up, then the events, as a PUB socket would (ZMTP 3.0), but in prebuilt blocks."""
    frames = [b"\x02" + len(payload).to_bytes(8) + payload for payload in payloads(job)]
    address = urlsplit(job.url)
    with socket.create_server((address.hostname or "", address.port or 0)) as server:
        subscriber, _ = server.accept()
        with subscriber:
            subscriber.settimeout(PATIENCE)
            subscriber.sendall(_GREETING + _READY)
            received = b""
            while not received.endswith(_SUBSCRIPTION):
                received += subscriber.recv(4_096)
            for count in (job.warmup, job.events):
                yield
                send_again_and_again(subscriber, frames, count)
            yield


def publish(job: Job) -> Sample:
    """``send()`` in a loop of the main thread; done when another process has received all, not decoding it."""
    envelopes = [make_envelope(number, job.namespace) for number in range(job.total)]
    with (
        _endpoint() as endpoint,
        _sockets("XPUB") as (out,),
        partner(drain, replace(job, url=endpoint)) as receiver,
    ):
        out.bind(endpoint)
        out.recv()
        receiver.go()
        for envelope in envelopes[: job.warmup]:
            out.send(encode(envelope))
        receiver.await_ready()
        receiver.go()
        watch = Stopwatch()
        for envelope in envelopes[job.warmup :]:
            out.send(encode(envelope))
        receiver.await_ready()
        return watch.read(job.events)


def drain(job: Job) -> Iterator[None]:
    """Receive the warm-up, then the events."""
    with _sockets("SUB") as (heard,):
        heard.connect(job.url)
        for count in (job.warmup, job.events):
            yield
            for _ in range(count):
                heard.recv()
        yield


@contextmanager
def asking(job: Job) -> Iterator[list[Any]]:
    """Open a socket to send by and one to hear answers by, from a process that answers."""
    with _endpoint() as there, _endpoint() as here, _sockets("XPUB", "SUB") as (out, back):
        out.bind(there)
        back.connect(here)
        with partner(answer, replace(job, url=f"{there} {here}")) as other:
            out.recv()
            other.go()
            yield [out, back]


def answer(job: Job) -> Iterator[None]:
    """Send again what comes."""
    with _sockets("SUB", "XPUB") as (heard, out):
        there, back = job.url.split()
        heard.connect(there)
        out.bind(back)
        out.recv()
        yield
        for _ in range(job.total):
            out.send(encode(decode(heard.recv())))
        yield
