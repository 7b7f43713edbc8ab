"""What all tests share: the unit of their waits, events, threads, and what a server says of its clients."""

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aether_sync import Event, NATSEventBus, Subscription
from aether_sync.server.process import reserve

from .inside import client_of

#: Seconds: the one unit of all waits in the tests. A slow machine sets it higher.
UNIT = float(os.environ.get("AETHER_TEST_UNIT", "1"))

#: Where a test that waits for a condition gives up.
PATIENCE = 20 * UNIT


#: What the environment says of the event loop, for all tests.
CHOSEN = os.environ.get("AETHER_SYNC_UVLOOP")


#: What the fixture ``keep`` gives.
Keep = Callable[[Subscription], Subscription]


def first_of(values: Iterable[object], count: int = 1) -> list[object]:
    """Parameters of which the first run each time; the others make sure of the same once more, and are slow."""
    chosen = [*values]
    return [
        *chosen[:count],
        *(pytest.param(*one if isinstance(one, tuple) else (one,), marks=pytest.mark.slow) for one in chosen[count:]),
    ]


def eventually(condition: Callable[[], object], what: str = "the condition") -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end, f"{what} did not come true within {PATIENCE:g} s"
        time.sleep(0.002)


def becomes(value: Callable[[], object], wanted: object) -> None:
    """Wait until something has a value; if it does not get it, say which it has."""
    end = time.monotonic() + PATIENCE
    while (found := value()) != wanted:
        assert time.monotonic() < end, f"still {found!r} after {PATIENCE:g} s, and not {wanted!r}"
        time.sleep(0.002)


def make_event(n: int = 0, **changes: object) -> Event:
    """An event that is told from others by its ``n``."""
    fields: dict[str, object] = {"event_type": "Happened", "actor_id": f"thing-{n}", "data": {"n": n}} | changes
    return Event(**fields)  # type: ignore[arg-type]


def numbers(events: Iterable[Event]) -> list[Any]:
    """By which they are told from others."""
    return [event.data["n"] for event in events if event.data is not None]


def run_threads(*works: Callable[[], object]) -> list[threading.Thread]:
    """Run each in a thread, wait for all, raise the first exception of any."""
    errors: list[BaseException] = []

    def run(work: Callable[[], object]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE * 3)
        assert not thread.is_alive(), f"{thread} did not end"
    if errors:
        raise errors[0]
    return threads


class FreePort:
    """A port that nothing listens on; until it is closed, nobody is given it who does not ask for this very one."""

    def __init__(self) -> None:
        self.number, self._held = reserve("127.0.0.1", 0)

    def close(self) -> None:
        """Let others have it."""
        self._held = None


class Monitor:
    """What a server says of its clients (https://docs.nats.io/running-a-nats-service/nats_admin/monitoring)."""

    def __init__(self) -> None:
        self.free = FreePort()  # kept, or the server takes it as another of its own
        self.port = self.free.number
        self.config = f"http: 127.0.0.1:{self.port}"

    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._ask("connz")["connections"])

    def total_connections(self) -> int:
        """How many clients have connected since it was started."""
        return int(self._ask("varz")["total_connections"])

    def messages(self) -> int:
        """How many messages clients have sent to the server since it was started."""
        return int(self._ask("varz")["in_msgs"])

    def subscriptions_of(self, bus: NATSEventBus) -> list[tuple[str, str]]:
        """Subjects and queue groups that a bus has on the server."""
        found = self._ask(f"connz?subs=detail&limit=10000&cid={client_of(bus).client_id}")["connections"]
        details = [detail for client in found for detail in client.get("subscriptions_list_detail", [])]
        return sorted((detail["subject"], detail.get("qgroup", "")) for detail in details)

    def _ask(self, path: str) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/{path}", timeout=PATIENCE) as answer:
            return json.load(answer)  # type: ignore[no-any-return]


@contextmanager
def tracing() -> Iterator[None]:
    """New threads are traced, so they may be interrupted within what is one step otherwise."""

    def trace(*_: object) -> Any:
        return trace

    before = threading.gettrace()
    threading.settrace(trace)
    try:
        yield
    finally:
        threading.settrace(before)  # type: ignore[arg-type]
