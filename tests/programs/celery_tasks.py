"""Tasks of Celery that use ``aether_sync.contrib.celery``, for real workers."""

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from billiard.util import set_pdeathsig
from celery import Celery
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_shutdown

from aether_sync import ANY_VERSION, NO_EVENTS, ConnectError, Event, Repository, VersionConflictError
from aether_sync.contrib.celery import RETRYABLE, Aether

from .celery_broker import settings

folder = Path(os.environ["AETHER_TEST_FOLDER"])
app = Celery("tasks", **settings(folder))
aether = Aether(app)
app.conf.update(
    aether_prefix=os.environ["AETHER_TEST_PREFIX"],
    aether_stream=os.environ["AETHER_TEST_PREFIX"] + "-store",
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
)
for pair in os.environ.get("AETHER_TEST_SETTINGS", "").split():
    name, _, value = pair.partition("=")
    app.conf[name] = float(value) if value.replace(".", "").isdigit() else value


def tell(event_type: str, **data: object) -> None:
    """Publish an event that the test waits for."""
    aether.bus.publish("told", Event(event_type=event_type, actor_id=str(os.getpid()), data=data))


def is_first(name: str) -> bool:
    """Whether this is asked for the first time, in any process."""
    try:
        (folder / f"first-{name}").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


@worker_process_shutdown.connect(weak=False)
def say_goodbye(**_: Any) -> None:
    """Publish an event when a process ends."""
    aether.bus.publish("goodbye", Event(event_type="Ended", actor_id=str(os.getpid())))


@worker_init.connect(weak=False)
@worker_process_init.connect(weak=False)
def begin_to_note(**_: Any) -> None:
    """Note the threads that are left behind the closing, which has just been made the last handler."""
    for ended in (worker_process_shutdown, worker_shutdown):
        ended.disconnect(note_threads)
        ended.connect(note_threads, weak=False)


@worker_process_init.connect(weak=False)
def survive_the_supervisor(**_: Any) -> None:
    """Do not let the system kill this process with the thread that has forked it, as Celery asks for.

    Where the pool has no event loop, as with files, that is a thread which ends before its processes do.
    """
    set_pdeathsig(0)


def note_threads(exitcode: int = 0, **_: Any) -> None:
    """Note the threads of the library that are left when a process ends, after it was closed; and its status."""
    left = [thread.name for thread in threading.enumerate() if thread.name.startswith("aether-")]
    (folder / f"threads-{os.getpid()}").write_text(" ".join(left))
    (folder / f"status-{os.getpid()}").write_text(str(exitcode))


# -- tasks


@app.task
def publish(number: int, count: int) -> None:
    """Publish events, and end at once."""
    for n in range(count):
        tell("Counted", number=number, n=n)


@app.task
def publish_and_wait(count: int) -> None:
    """Publish events, and go on for long."""
    publish(0, count)
    time.sleep(60)


@app.task(bind=True, autoretry_for=RETRYABLE, default_retry_delay=0, max_retries=5)
def place(self: Any, order: str, faults: list[str]) -> None:
    """Store what an order consists of, in two appends; come to harm between and behind them."""
    lines = [aether.event("LineAdded", order, {"n": n}, key=str(n)) for n in (0, 1)]
    if self.request.retries or self.request.delivery_info.get("redelivered"):
        lines.reverse()
    aether.append(order, aether.event("OrderPlaced", order), *lines, expected_version=NO_EVENTS)
    harm(order, faults, 0)
    aether.append("stock", aether.event("Reserved", "stock", {"order": order}), expected_version=ANY_VERSION)
    aether.publish_on_success("told", aether.event("Placed", order))
    harm(order, faults, 1)


def harm(order: str, faults: list[str], at: int) -> None:
    """Come to harm, once for each order and place."""
    if at < len(faults) and is_first(f"{order}-{at}"):
        match faults[at]:
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "unreachable":
                raise ConnectError("no server")
            case "conflict":
                raise VersionConflictError(order, 1, 2)


@app.task(bind=True, acks_late=True, reject_on_worker_lost=True)
def place_late(self: Any, order: str, faults: list[str]) -> None:
    """As place(), acknowledged when it is done."""
    lines = [aether.event("LineAdded", order, {"n": n}, key=str(n)) for n in (0, 1)]
    aether.append(order, aether.event("OrderPlaced", order), *lines, expected_version=NO_EVENTS)
    harm(order, faults, 0)
    aether.append("stock", aether.event("Reserved", "stock", {"order": order}), expected_version=ANY_VERSION)
    aether.publish_on_success("told", aether.event("Placed", order))
    harm(order, faults, 1)


@app.task(bind=True, max_retries=1, default_retry_delay=0)
def notify(self: Any, outcome: str) -> None:
    """Publish on success, and end in some way."""
    aether.publish_on_success("told", aether.event("Notified", outcome, {"retries": self.request.retries}))
    match outcome:
        case "fails":
            raise ValueError("of the task's own")
        case "rejected":
            raise Reject("no", requeue=False)
        case "ignored":
            raise Ignore
        case "retried":
            raise self.retry() if not self.request.retries else ValueError("again")
        case "succeeds later":
            if not self.request.retries:
                raise self.retry()


@app.task
def decide(order: str, command_id: str) -> None:
    """Decide by a repository, whose commands take effect once."""
    orders = Repository(aether.store, initial=int, evolve=lambda count, event: count + 1)
    orders.decide(order, lambda count: [Event(event_type="Counted", actor_id=order)], command_id=command_id)


# -- time limits


def iterate(number: int) -> None:
    """Wait for events that never come."""
    with aether.bus.subscribe("nothing") as events:
        for _ in events:
            pass


def publish_on(number: int) -> None:
    """Publish without end."""
    n = 0
    while True:
        aether.bus.publish(f"flood.{number}", Event(event_type="Flooded", actor_id="flood", data={"n": n}))
        n += 1


def append_on(number: int) -> None:
    """Store without end."""
    actor = f"flood-{number}"
    while True:
        aether.store.append(actor, Event(event_type="F", actor_id=actor), expected_version=ANY_VERSION)


def append_once_on(number: int) -> None:
    """Store events of the task without end."""
    actor = f"flood-{number}"
    while True:
        aether.append(actor, aether.event("F", actor), expected_version=ANY_VERSION)


WORK: dict[str, Callable[[int], None]] = {
    "iterate": iterate,
    "publish": publish_on,
    "append": append_on,
    "append_once": append_once_on,
}


@app.task(soft_time_limit=1)
def run_until_limited(work: str, number: int) -> None:
    """Do something without end until the soft time limit, and show that everything works afterwards."""
    try:
        WORK[work](number)
    except SoftTimeLimitExceeded:
        pass
    actor = f"after-{work}-{number}"
    aether.append(actor, aether.event("Limited", actor), expected_version=NO_EVENTS)
    tell("Limited", work=work, number=number)


@app.task(time_limit=5)  # a process that is new connects first, which takes a while on a busy machine
def run_until_killed(number: int) -> None:
    """Publish, and do something without end until the hard time limit."""
    tell("Begun", number=number)
    iterate(number)


@app.task
def run_for_ever(work: str) -> None:
    """Do something without end."""
    tell("Begun", work=work)
    WORK[work](0)
