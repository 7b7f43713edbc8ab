"""What all parts of a run share: the servers, the nodes, the history, the time."""

import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from time import monotonic

from aether_sync import Connection, JetStreamEventStore, NATSEventBus, StoredEvent

from ..support.common import PATIENCE
from ..support.proxy import Proxy
from .history import History, Record
from .networks import Namespaces, Servers

STREAM = "checked"
END = "the end"  # the id of the last event
SETTLE = 6 * PATIENCE  # seconds for all to come to the end once everything is healed


class Node:
    """A store and a bus on one connection, which leads through a proxy for each server."""

    def __init__(self, number: int, servers: Servers, replicas: int) -> None:
        self.name = f"n{number}"
        turned = [*zip(servers.hosts, servers.all, strict=True)] * 2
        near = turned[number % len(servers.all) :][: len(servers.all)]
        self.links = [Proxy(server.port, host=host) for host, server in near]
        self.connection = Connection([link.url for link in self.links], ping_interval=1.0, connect="background")
        self.store = JetStreamEventStore(self.connection, STREAM, replicas=replicas)
        self.bus = NATSEventBus(self.connection, prefix="checker", store=self.store, namespace="checked")
        self.store.set_broadcaster(self.bus, "checked")
        self.bus.start()

    def close(self) -> None:
        self.store.close()
        self.bus.close()
        self.connection.close()
        for link in self.links:
            link.close()


@dataclass
class Run:
    """What all parts of a run share."""

    seed: int
    seconds: float
    servers: Servers
    namespaces: Namespaces | None
    faults: Sequence[str]
    longest: float  # seconds that a fault takes
    history: History = field(default_factory=History)
    nodes: list[Node] = field(default_factory=list)
    replace: dict[str, Callable[[], object]] = field(default_factory=dict)  # by consumer: has another worker
    errors: list[str] = field(default_factory=list)
    begun: float = field(default_factory=monotonic)

    @property
    def replicas(self) -> int:
        return len(self.servers.all)

    @property
    def urls(self) -> list[str]:
        return [server.url for server in self.servers.all]

    def random(self, name: str) -> Random:
        return Random(f"{self.seed} {name}")

    def is_over(self) -> bool:
        return monotonic() > self.begun + self.seconds or bool(self.errors)

    def thread(self, work: Callable[[], object]) -> threading.Thread:
        """Start a thread whose exception ends the run."""

        def guarded() -> None:
            try:
                work()
            except BaseException:
                self.errors.append(traceback.format_exc())

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def join(self, threads: Sequence[threading.Thread], what: str) -> None:
        end = max(monotonic(), self.begun + self.seconds) + SETTLE
        for thread in threads:
            while thread.is_alive() and not self.errors:
                if monotonic() > end:
                    self.errors.append(f"{what} did not come to an end")
                thread.join(0.1)


def record_of(stored: StoredEvent) -> Record:
    event = stored.event
    return Record(
        stored.sequence,
        sys.intern(event.id),
        sys.intern(event.actor_id),
        event.version,
        event.event_type,
        stored.ends_batch,
    )
