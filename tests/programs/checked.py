"""Workers whose deliveries a checker records: a line for each event, written before it is acknowledged."""

import json
import logging
import random
import sys
import threading
import time
from contextlib import suppress

from aether_sync import (
    AetherError,
    ConnectionFailedError,
    DeadlineExceededError,
    Delivery,
    JetStreamEventStore,
    StoreUnavailableError,
)

ACK_WAIT = 2.0  # seconds: what a killed worker had in hand comes again soon
MAX_DELIVER = 1_000  # nothing is given up
AWAY = (DeadlineExceededError, ConnectionFailedError, StoreUnavailableError)


#: What is logged of servers and links that fail; whatever else is logged is to be looked at.
OF_FAULTS = {"disconnected", "reconnected", "connect_failed", "uncertain", "close_report"}


def is_explained(record: logging.LogRecord) -> bool:
    """Whether a log record tells only of what the checker has broken."""
    return getattr(record, "kind", "") in OF_FAULTS and "not the NATS protocol" not in record.getMessage()


def work(how: str, url: str, stream: str, replicas: str, consumer: str, event_type: str) -> None:
    """Iterate a consumer, or run a handler on it, until the standard input ends."""
    complaints = logging.StreamHandler()
    complaints.addFilter(lambda record: not is_explained(record))
    logging.getLogger("aether_sync").addHandler(complaints)
    store = JetStreamEventStore(url, stream, replicas=int(replicas), ping_interval=1.0)
    ends = threading.Event()
    begin = {"consume": _consume, "run": _run}[how]

    def end() -> None:
        sys.stdin.read()
        ends.set()
        store.close()

    ender = threading.Thread(target=end, daemon=True)
    ender.start()
    while not ends.is_set():
        try:
            begin(store, consumer, {event_type} - {""})
        except AetherError as error:
            if not isinstance(error, AWAY) and not ends.is_set():
                raise
            time.sleep(0.1)
    ender.join()


def _consume(store: JetStreamEventStore, consumer: str, event_types: set[str]) -> None:
    shared = store.consumer(consumer, event_types=event_types, ack_wait=ACK_WAIT, max_deliver=MAX_DELIVER)
    with shared.iterate(prefetch=16) as deliveries:
        for delivery in deliveries:
            _tell(delivery)
            with suppress(*AWAY):
                delivery.ack(confirm=random.random() < 0.2)


def _run(store: JetStreamEventStore, consumer: str, event_types: set[str]) -> None:
    shared = store.consumer(consumer, event_types=event_types, ack_wait=ACK_WAIT, max_deliver=MAX_DELIVER)
    with shared.run(_tell, threads=2, prefetch=32) as runner:
        runner.wait()


def _tell(delivery: Delivery) -> None:
    line = json.dumps([time.monotonic(), delivery.sequence, delivery.event.id])
    sys.stdout.write(line + "\n")
    sys.stdout.flush()
