"""Many events, with queues large enough: none is lost, none comes twice, each thread's come in order."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from aether_sync import Event, EventBus, NATSEventBus, NATSServer, Subscription

from ..support.common import PATIENCE

#: The promise is made for 1; a slow machine may try a part of it.
PART = float(os.environ.get("AETHER_TEST_VOLUME", "1"))
PUBLISHERS = 4

pytestmark = pytest.mark.slow


def publish(bus: EventBus, publisher: int, count: int) -> None:
    """One thread's share, by single events and by batches in turn."""
    events = [Event(event_type="Counted", actor_id=f"p-{publisher}", version=n) for n in range(count)]
    for start in range(0, count, 200):
        for event in events[start : start + 100]:
            bus.publish(f"volume.{publisher}", event)
        bus.publish_many(f"volume.{publisher}", events[start + 100 : start + 200])


def check(subscription: Subscription, total: int) -> None:
    """Read everything, on this thread."""
    expected = dict.fromkeys((f"p-{publisher}" for publisher in range(PUBLISHERS)), 0)
    for _ in range(total):
        event = subscription.get(timeout=PATIENCE)
        assert event.version == expected[event.actor_id], "lost, twice or out of order"
        expected[event.actor_id] += 1
    assert subscription.get_batch(1, timeout=0) == []
    assert subscription.stats().dropped == 0


def publish_all(bus: EventBus, count: int) -> list[threading.Thread]:
    threads = [
        threading.Thread(target=publish, args=(bus, publisher, count // PUBLISHERS)) for publisher in range(PUBLISHERS)
    ]
    for thread in threads:
        thread.start()
    return threads


@pytest.mark.timeout(600)
def test_a_million_events_in_one_process(local_bus: EventBus) -> None:
    total = int(1_000_000 * PART)
    with local_bus.subscribe("volume.*", maxsize=total, max_bytes=2**40) as subscription:
        threads = publish_all(local_bus, total)
        check(subscription, total)
    for thread in threads:
        thread.join(PATIENCE)


@pytest.mark.timeout(600)
def test_300_000_events_across_two_processes(server: NATSServer, prefix: str) -> None:
    total = int(300_000 * PART)
    with (
        NATSEventBus(server.url, prefix=prefix) as bus,
        bus.subscribe("volume.*", maxsize=total, max_bytes=2**40) as subscription,
    ):
        command = [sys.executable, "-m", "tests.bus.test_volume", server.url, prefix, str(total)]
        publisher = subprocess.Popen(command, cwd=Path(__file__).parents[2])
        try:
            check(subscription, total)
            assert publisher.wait(PATIENCE) == 0
        finally:
            publisher.kill()
            publisher.wait()


def main(url: str, prefix: str, total: str) -> None:
    """The other process."""
    with NATSEventBus(url, prefix=prefix, publish_timeout=PATIENCE) as bus:
        for thread in publish_all(bus, int(total)):
            thread.join()
        bus.flush(PATIENCE)


if __name__ == "__main__":
    main(*sys.argv[1:])
