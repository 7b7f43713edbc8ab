"""A node process of the demonstration: publishes from some threads, reads from others, and answers its parent."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe

from ...errors import AetherError
from ...events import Event
from ...nats_bus import NATSEventBus
from ...patterns import SubscriptionFilter
from ...subscription import Subscription
from .._access import Access
from .plan import PUBLISHERS, Command, Failure, Kind, Pace, Reading, ReadingReport, Report, Status

__all__ = ["run_node"]

_NAMESPACES = (
    "shop.eu-west.orders",
    "shop.eu-north.orders",
    "shop.us.orders",
    "shop.eu-west.refunds",
    "shop.us.refunds",
    "jobs",
)
_TYPES = ("Placed", "Paid", "Shipped")
_ACTORS = ("order-1", "order-2", "order-3", "customer-1")

_SLOW_QUEUE = 32  # events; the slow reading handles a twentieth of what comes, so this overflows at once
_SLOWNESS = 20
_QUEUE = 1_000_000  # events; the other readings shall lose none, however slow the machine
_QUEUE_BYTES = 1 << 30
_TICK = 0.01  # seconds between two bursts of a publishing thread


def run_node(pipe: Pipe, name: str, access: Access, prefix: str, readings: tuple[Reading, ...], pace: Pace) -> None:
    """Be a node until the parent says ``FINISH`` or is gone.

    Args:
        pipe: Where commands come from and answers go.
        name: Of the node.
        access: Of the server.
        prefix: Of all subjects.
        readings: What to subscribe to.
        pace: What to publish.
    """
    logging.getLogger("aether_sync").setLevel(logging.ERROR)  # drops are wanted here, and in the table
    try:
        try:
            with (
                access.connection(pace.timeout, f"aether-sync {name}") as connection,
                NATSEventBus(connection, prefix=prefix) as bus,
            ):
                _Node(pipe, name, bus, readings, pace).serve()
        except AetherError as error:
            pipe.send(Failure(str(error)))
    except (EOFError, ConnectionError):
        pass  # the parent is gone, or stops everything


class _Node:
    def __init__(self, pipe: Pipe, name: str, bus: NATSEventBus, readings: tuple[Reading, ...], pace: Pace) -> None:
        self._pipe = pipe
        self._bus = bus
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._errors: list[str] = []  # of any thread
        slowness = _SLOWNESS / (pace.rate * PUBLISHERS * 3)
        self._readers = [_Reader(bus, reading, slowness, self._hurry, self._guarded) for reading in readings]
        self._publishers = [
            _Publisher(bus, f"{name}/{number}", pace, self._stop, self._guarded) for number in range(PUBLISHERS)
        ]

    def serve(self) -> None:
        """Answer the parent until it is finished."""
        try:
            self._pipe.send(self._status())
            while (command := self._pipe.recv()) is not Command.FINISH:
                if command is Command.PUBLISH:
                    for publisher in self._publishers:
                        publisher.thread.start()
                elif command is Command.HURRY:
                    self._hurry.set()
                else:
                    self._pipe.send(Failure(self._errors[0]) if self._errors else self._status())
            self._finish()
        finally:
            self._stop.set()
            self._hurry.set()
            for reader in self._readers:
                reader.subscription.close()

    def _guarded(self, work: Callable[[], None]) -> None:
        try:
            work()
        except Exception as error:
            self._errors.append(f"{threading.current_thread().name}: {error}")

    def _published(self) -> Counter[Kind]:
        return sum((publisher.counted() for publisher in self._publishers), Counter[Kind]())

    def _status(self) -> Status:
        stats = [reader.subscription.stats() for reader in self._readers]
        return Status(
            publishing=any(publisher.thread.is_alive() for publisher in self._publishers),
            published=self._published(),
            readings=tuple((one.delivered, one.dropped) for one in stats),
        )

    def _finish(self) -> None:
        self._bus.subscribe("barrier").close()  # what the server sent before it confirmed this, is here
        readings = tuple(reader.finish() for reader in self._readers)
        if self._errors:
            self._pipe.send(Failure(self._errors[0]))
        else:
            accepted = self._bus.metrics().published
            self._pipe.send(Report(published=self._published(), accepted=accepted, readings=readings))


class _Publisher:
    """A publishing thread."""

    def __init__(
        self,
        bus: NATSEventBus,
        name: str,
        pace: Pace,
        stop: threading.Event,
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        self._bus = bus
        self._name = name
        self._pace = pace
        self._stop = stop
        self._count = 0
        self.thread = threading.Thread(target=guarded, args=(self._publish,), name=name, daemon=True)

    def _publish(self) -> None:
        """Publish at the pace, then wait for the confirmation."""
        start = time.monotonic()
        while (spent := time.monotonic() - start) < self._pace.seconds and not self._stop.wait(_TICK):
            while self._count < spent * self._pace.rate:
                namespace, event_type, actor_id = _kind_of(self._count)
                data = {"publisher": self._name, "n": self._count}
                self._bus.publish(namespace, Event(event_type=event_type, actor_id=actor_id, data=data))
                self._count += 1
        self._bus.flush(timeout=10.0)

    def counted(self) -> Counter[Kind]:
        """Return what was published so far."""
        period = len(_NAMESPACES) * len(_TYPES) * len(_ACTORS)
        periods, rest = divmod(self._count, period)
        counts = Counter({_kind_of(n): periods for n in range(period)}) if periods else Counter[Kind]()
        counts.update(_kind_of(n) for n in range(rest))
        return counts


def _kind_of(n: int) -> Kind:
    """The kind of a thread's n-th event: each combination in turn."""
    n, namespace = divmod(n, len(_NAMESPACES))
    n, event_type = divmod(n, len(_TYPES))
    return _NAMESPACES[namespace], _TYPES[event_type], _ACTORS[n % len(_ACTORS)]


class _Reader:
    """A subscription and the threads that read it."""

    def __init__(
        self,
        bus: NATSEventBus,
        reading: Reading,
        slowness: float,
        hurry: threading.Event,
        guarded: Callable[[Callable[[], None]], None],
    ) -> None:
        self._reading = reading
        self._slowness = slowness if reading.slow else 0.0
        self._hurry = hurry
        self.subscription = _subscribe(bus, reading)
        self._tallies = [_Tally() for _ in range(reading.threads)]
        self._threads = [
            threading.Thread(target=guarded, args=(lambda tally=tally: self._read(tally),), daemon=True)
            for tally in self._tallies
        ]
        for thread in self._threads:
            thread.start()

    def _read(self, tally: "_Tally") -> None:
        for event in self.subscription:
            tally.add(event)
            if self._slowness:
                self._hurry.wait(self._slowness)

    def finish(self) -> ReadingReport:
        """Close the subscription, wait until its threads have read what it holds, and return the report."""
        self.subscription.close()
        for thread in self._threads:
            thread.join()
        received = sum(tally.received for tally in self._tallies)
        ids = frozenset[tuple[str, int]]().union(*(tally.ids for tally in self._tallies))
        return ReadingReport(
            received=received,
            dropped=self.subscription.stats().dropped,
            kinds=sum((tally.kinds for tally in self._tallies), Counter[Kind]()),
            duplicates=received - len(ids),
            disordered=sum(tally.disordered for tally in self._tallies),
            ids=ids if self._reading.group else frozenset(),
        )


def _subscribe(bus: NATSEventBus, reading: Reading) -> Subscription:
    wanted = SubscriptionFilter(event_types=reading.event_types, actor_pattern=reading.actor_pattern)
    return bus.subscribe(
        *reading.patterns,
        filter=wanted,
        maxsize=_SLOW_QUEUE if reading.slow else _QUEUE,
        max_bytes=_QUEUE_BYTES,
        queue_group=reading.group,
    )


class _Tally:
    """What one thread received."""

    def __init__(self) -> None:
        self.received = 0
        self.disordered = 0
        self.kinds = Counter[Kind]()
        self.ids: set[tuple[str, int]] = set()
        self._last: dict[str, int] = {}  # by publishing thread

    def add(self, event: Event) -> None:
        """Count an event. A thread gets the events of a publisher in order, even if other threads get some of them."""
        assert event.data is not None
        publisher, n = event.data["publisher"], event.data["n"]
        self.received += 1
        self.kinds[event.namespace, event.event_type, event.actor_id] += 1
        self.ids.add((publisher, n))
        self.disordered += n < self._last.get(publisher, -1)
        self._last[publisher] = n
