"""Processes that publish for a case: ``python -m benchmarks.feeders NAME URL PREFIX EVENTS``.

A feeder is a generator: it gets ready, yields, and publishes when it is resumed. The moment of sending travels in the
event where latency is measured: the monotonic clock is one for all processes of a machine.
"""

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from urllib.parse import urlsplit

import nats

from aether_sync import Event, NATSEventBus

from .byhand import settle
from .cases import WAIT, Job
from .workload import make_event, make_payload

__all__ = ["PACE", "feeder"]

PACE = 0.001  # seconds between two events whose latency is measured
_PAD = 300  # bytes
_DIFFERENT = 1_000  # events; then they come again


@contextmanager
def feeder(name: str, job: Job) -> Iterator[Callable[[], object]]:
    """Start a feeder and wait until it is ready; yields what sets it going."""
    command = [sys.executable, "-m", __spec__.name, name, job.url, job.prefix, str(job.events)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError(f"feeder {name} did not get ready")
            yield partial(process.stdin.write, b"go\n")
            process.wait(WAIT)
        finally:
            process.kill()


def raw(job: Job) -> Iterator[None]:
    """Send prebuilt frames over a plain socket, in large blocks: next to no work, never the bottleneck."""
    payloads = [make_payload(number, job.namespace) for number in range(min(job.events, _DIFFERENT))]
    frames = [b"PUB %b %d\r\n%b\r\n" % (job.subject.encode(), len(payload), payload) for payload in payloads]
    rounds, rest = divmod(job.events, len(frames))
    block, tail = b"".join(frames), b"".join(frames[:rest])
    address = urlsplit(job.url)
    with socket.create_connection((address.hostname, address.port), timeout=WAIT) as server:
        server.sendall(b'CONNECT {"verbose":false}\r\nPING\r\n')
        _await_pong(server)
        yield
        for _ in range(rounds):
            server.sendall(block)
        server.sendall(tail + b"PING\r\n")
        _await_pong(server)


def _await_pong(server: socket.socket) -> None:
    answer = b""
    while not answer.endswith(b"PONG\r\n"):
        received = server.recv(65_536)
        if not received:
            raise ConnectionError(f"the server closed the connection after {answer!r}")
        answer += received


def nats_py(job: Job) -> Iterator[None]:
    """Publish one prebuilt payload with nats-py alone."""
    payload = make_payload(0, job.namespace)
    with asyncio.Runner() as runner:
        client = runner.run(nats.connect(job.url))
        yield

        async def publish() -> None:
            for _ in range(job.events):
                await client.publish(job.subject, payload)
            await settle(client)
            await client.close()

        runner.run(publish())


def aether(job: Job) -> Iterator[None]:
    """Publish events with the library, one by one."""
    events = [make_event(number) for number in range(job.events)]
    with NATSEventBus(job.url, prefix=job.prefix, publish_timeout=WAIT) as bus:
        yield
        for event in events:
            bus.publish(job.namespace, event)
        bus.flush(WAIT)


def paced_nats_py(job: Job) -> Iterator[None]:
    """Publish the moment of sending with nats-py alone, at an even pace."""

    async def publish(client: nats.NATS) -> None:
        for _ in range(job.events):
            await client.publish(job.subject, str(time.monotonic()).encode().ljust(_PAD))
            await asyncio.sleep(PACE)

    with asyncio.Runner() as runner:
        client = runner.run(nats.connect(job.url))
        yield
        runner.run(publish(client))
        runner.run(client.close())


def paced_aether(job: Job) -> Iterator[None]:
    """Publish the moment of sending with the library, at an even pace."""
    with NATSEventBus(job.url, prefix=job.prefix) as bus:
        yield
        for _ in range(job.events):
            bus.publish(job.namespace, Event(event_type="Tick", actor_id="clock", data={"sent": time.monotonic()}))
            time.sleep(PACE)


if __name__ == "__main__":
    name, url, prefix, events = sys.argv[1:]
    feed = globals()[name](Job(url, prefix, int(events)))
    next(feed)
    print("ready", flush=True)
    sys.stdin.readline()
    next(feed, None)
