"""A node that increments one actor with several threads: load, append, and again after a conflict."""

import json
import sys
import threading
import time

from aether_sync import (
    Connection,
    DeadlineExceededError,
    DisconnectedError,
    Event,
    JetStreamEventStore,
    NATSEventBus,
    StoreUnavailableError,
    UnknownOutcomeError,
    VersionConflictError,
)

ACTOR = "counter-1"
AWAY = (DeadlineExceededError, DisconnectedError, StoreUnavailableError)


def increment(url: str, prefix: str, replicas: str, seconds: str) -> None:
    """Count for so long; print the successes; then, told the final version, what the cache ends at."""
    connection = Connection(url.split(","))
    store = JetStreamEventStore(connection, f"{prefix}-store", replicas=int(replicas))
    bus = NATSEventBus(connection, prefix=prefix, store=store, namespace="n")
    store.set_broadcaster(bus, "n")
    bus.start()
    end = time.monotonic() + float(seconds)
    counts = {"successes": 0, "conflicts": 0, "unknown": 0, "away": 0}
    lock = threading.Lock()
    errors: list[BaseException] = []

    def count(what: str) -> None:
        with lock:
            counts[what] += 1

    def is_stored(events: tuple[Event, ...]) -> bool:
        """Resolve an unknown outcome, by saving again."""
        give_up = time.monotonic() + 60
        while True:
            try:
                store.save_events(events)
            except VersionConflictError:
                return False
            except (UnknownOutcomeError, *AWAY):
                if time.monotonic() > give_up:
                    raise
            else:
                return True

    def run() -> None:
        try:
            while time.monotonic() < end:
                try:
                    events = store.get_events(ACTOR, max(0, (store.cached_version(ACTOR) or 0) - 1))
                    version = events[-1].version if events else 0
                    store.append(ACTOR, Event(event_type="Incremented", actor_id=ACTOR), expected_version=version)
                except VersionConflictError:
                    count("conflicts")
                except UnknownOutcomeError as error:
                    count("unknown")
                    if is_stored(error.events):
                        count("successes")
                except AWAY:
                    count("away")
                else:
                    count("successes")
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    print(json.dumps(counts), flush=True)
    final = int(sys.stdin.readline())
    give_up = time.monotonic() + 20
    while store.cached_version(ACTOR) != final and time.monotonic() < give_up:
        time.sleep(0.01)
    print(store.cached_version(ACTOR), flush=True)
    bus.close()
    store.close()
    connection.close()
