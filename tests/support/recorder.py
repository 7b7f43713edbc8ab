"""Publishers and an independent witness: what was accepted, and what a raw client at the server saw of it."""

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Self

from aether_sync import CloseReport, Event, Metrics, NATSEventBus

from .common import PATIENCE, UNIT, eventually

#: Events. A server that is killed takes what it has confirmed, but not passed on yet, with it: what it reads at once,
#: and what waits in its buffers while the writers of its routes and clients get no processor.
LAST_WORDS = 4 * 64 * 1024 // 250

_EVENT = re.compile(rb'"actorId":"(p-\d+)","version":(\d+)')


class Recorder:
    """A raw client that keeps what the server sends it. It reads as fast as it can, and looks at it afterwards."""

    def __init__(self, port: int, prefix: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self._chunks: list[bytes] = []
        self._socket.sendall(f'CONNECT {{"verbose":false}}\r\nSUB {prefix}.events.> 1\r\nPING\r\n'.encode())
        while b"PONG\r\n" not in b"".join(self._chunks):
            self._chunks.append(self._socket.recv(65536))
        self._chunks.clear()
        self._socket.settimeout(None)
        self._thread = threading.Thread(target=self._record, name="recorder", daemon=True)
        self._thread.start()

    def _record(self) -> None:
        with suppress(OSError):
            while data := self._socket.recv(1 << 20):
                self._chunks.append(data)

    def finish(self) -> None:
        """Have all that the server has for us, unless it has gone."""
        known = len(self._chunks)
        with suppress(OSError):
            self._socket.sendall(b"PING\r\n")
        eventually(
            lambda: not self._thread.is_alive() or b"PONG\r\n" in b"".join(self._chunks[max(0, known - 1) :]),
            "the last message",
        )

    def events(self) -> list[tuple[str, int]]:
        """Publisher and number of each event, in order."""
        return [(found[1].decode(), int(found[2])) for found in _EVENT.finditer(b"".join(self._chunks))]

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Publishers:
    """Threads that publish events, numbered per thread, at a steady rate.

    Attributes:
        accepted: How many each has had accepted.
        slowest: Seconds that the slowest ``publish()`` took.
        took: Seconds from the first to the last event.
    """

    def __init__(self, bus: NATSEventBus, *, total: int, rate: float = 20_000, threads: int = 4) -> None:
        self._bus = bus
        self._each = total // threads
        self._tick = 0.005 * UNIT
        self._burst = int(rate / threads * self._tick / UNIT)
        self.accepted = Counter[str]()
        self.slowest = 0.0
        self.took = 0.0
        self._start = time.monotonic()
        self._threads = [
            threading.Thread(target=self._run, args=(f"p-{n}", self._tick * n / threads), daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, name: str, offset: float) -> None:
        start = self._start + offset  # not all in step
        fill = {"fill": "x" * 100}
        for n in range(1, self._each + 1):
            if n % self._burst == 1:
                time.sleep(max(0.0, start + n // self._burst * self._tick - time.monotonic()))
            event = Event(event_type="Counted", actor_id=name, version=n, data=fill)
            before = time.monotonic()
            self._bus.publish(name, event)
            self.slowest = max(self.slowest, time.monotonic() - before)
            self.accepted[name] = n
        self.took = time.monotonic() - self._start

    @property
    def total(self) -> int:
        """How many events were accepted in all."""
        return self.accepted.total()

    def await_part(self, part: float) -> None:
        """Wait until a part of all events is accepted."""
        eventually(lambda: self.total >= part * self._each * len(self._threads), f"{part:.0%} of all events")

    def finish(self, meanwhile: Callable[[], object] = lambda: None) -> None:
        """Wait until all events are accepted."""
        meanwhile()
        for thread in self._threads:
            thread.join(PATIENCE)
        self.await_part(1)


def check_sums(publishers: Publishers, metrics: Metrics, report: CloseReport) -> None:
    """Every accepted event is in one place."""
    assert metrics.published == publishers.total
    assert metrics.uncertain == report.uncertain
    assert publishers.total == metrics.confirmed + report.uncertain + report.rejected + report.unsent


def check_order(events: list[tuple[str, int]], *, connections: int = 1) -> None:
    """Nothing twice, and in order for each publisher and connection.

    What a server of a cluster has confirmed is still on its way to the others when its client, having moved, already
    publishes to one of those; so with several connections, each has an order of its own.
    """
    assert len(set(events)) == len(events), "an event came twice"
    ends: dict[str, list[int]] = {}  # the last number of each increasing sequence, the largest first
    for publisher, number in events:
        mine = ends.setdefault(publisher, [])
        at = next((at for at, end in enumerate(mine) if end < number), len(mine))
        mine[at : at + 1] = [number]
        assert len(mine) <= connections, f"event {number} of {publisher} is out of order"
