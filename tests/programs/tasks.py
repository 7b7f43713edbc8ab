"""Celery tasks whose bus is made, and used, before the worker forks its pool."""

import os
import time
from pathlib import Path
from typing import Any

from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from celery.signals import worker_process_shutdown

from aether_sync import Event, NATSEventBus

folder = Path(os.environ["AETHER_TEST_FOLDER"])
app = Celery(
    "tasks",
    broker="filesystem://",
    broker_transport_options={
        name: str(folder / part)
        for name, part in [("data_folder_in", "q"), ("data_folder_out", "q"), ("control_folder", "c")]
    },
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
bus = NATSEventBus(prefix=os.environ["AETHER_TEST_PREFIX"])
bus.start()
loaded_as = bus.node_id


@worker_process_shutdown.connect
def close(**_: Any) -> None:
    bus.close()


def tell(event_type: str) -> None:
    bus.publish("tasks", Event(event_type=event_type, actor_id=bus.node_id, data={"loaded_as": loaded_as}))


@app.task
def work(number: int) -> None:
    with bus.subscribe(f"own.{number}") as events:
        bus.publish(f"own.{number}", Event(event_type="X", actor_id="x"))
        assert events.get(timeout=10)
    tell("Worked")
    time.sleep(0.1)  # that both processes get some


@app.task(soft_time_limit=1)
def wait_for_ever() -> None:
    try:
        with bus.subscribe("nothing") as events:
            for _ in events:
                pass
    except SoftTimeLimitExceeded:
        tell("Limited")


def send() -> None:
    """Put the tasks into the queue; run by the test."""
    wait_for_ever.delay()
    for number in range(10):
        work.delay(number)
