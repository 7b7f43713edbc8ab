"""Programs whose threads are green. This library is imported in them, before or after the patching."""

import os
import threading
import time
from itertools import pairwise

PATIENCE = 20 * float(os.environ.get("AETHER_TEST_UNIT", "1"))


def with_gevent(url: str, prefix: str) -> None:
    """Greenlets publish, iterate, follow and handle, on one connection, while another one goes on."""
    from gevent import monkey

    monkey.patch_all()
    from aether_sync import ANY_VERSION, AetherError, Connection, Event, JetStreamEventStore, NATSEventBus

    def event(n: int) -> Event:
        return Event(event_type="Happened", actor_id="a", version=n)

    connection = Connection(url)
    bus, store = NATSEventBus(connection, prefix=prefix), JetStreamEventStore(connection, f"{prefix}-store")
    events, follower, seen, handled = bus.subscribe("n"), store.follow(), list[int](), list[int]()
    ticks: list[float] = []

    def tick() -> None:
        while len(ticks) < 20:
            ticks.append(time.monotonic())
            time.sleep(0.01)

    works = [
        lambda: seen.extend(one.version for one in events),
        lambda: handled.extend(one.sequence for one in follower),
        tick,
    ]
    greenlets = [threading.Thread(target=work) for work in works]
    for greenlet in greenlets:
        greenlet.start()
    for n in range(500):
        bus.publish("n", event(n))
    bus.flush(PATIENCE)
    store.append("a", event(0), expected_version=ANY_VERSION)
    runner = store.consumer("c").run(lambda delivery: handled.append(delivery.sequence))
    try:
        NATSEventBus(url).publish("n", event(0))
    except AetherError as error:
        print(error)
    assert not NATSEventBus(url).try_publish("n", event(0))
    greenlets[2].join(PATIENCE)
    store.consumer("c").wait_for(1, timeout=PATIENCE)
    runner.close()
    events.close()
    follower.close()
    for greenlet in greenlets:
        greenlet.join(PATIENCE)
        assert not greenlet.is_alive()
    assert seen == list(range(500))
    assert max(later - before for before, later in pairwise(ticks)) < PATIENCE / 20
    assert connection.close(PATIENCE)
    again = NATSEventBus(url, prefix=prefix)  # the one connection may be another one, once that is closed
    again.publish("n", event(1))
    again.flush(PATIENCE)
    assert again.close(PATIENCE)


def patched_late(url: str, prefix: str) -> None:
    from aether_sync import AetherError, Event, EventBus, NATSEventBus

    bus = NATSEventBus(url, prefix=prefix)
    from gevent import monkey

    monkey.patch_all()
    for use in (
        bus.start,
        lambda: bus.publish("n", Event(event_type="E", actor_id="a")),
        lambda: EventBus().subscribe("n"),
    ):
        try:
            use()
        except AetherError as error:
            print(error)


def with_eventlet(url: str, prefix: str) -> None:
    import eventlet

    eventlet.monkey_patch()
    from aether_sync import AetherError, EventBus, NATSEventBus

    for use in (NATSEventBus(url, prefix=prefix).start, lambda: EventBus().subscribe("n")):
        try:
            use()
        except AetherError as error:
            print(error)
