"""What an idle subscription takes, and what a queued event: bytes of the process, and of Python's objects in it."""

import gc
import os
import queue
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from aether_sync import EventBus, NATSEventBus

from .cases import CannotMeasureError, Job, Sample, case
from .receive import ROOM
from .workload import decode, make_event, make_payload

_SUBSCRIPTIONS = 0.02  # of the events asked for
_EVENTS = 0.2


def _per_one(job: Job, make: Callable[[int], object]) -> Sample:
    """Measure what one more takes: by the process first, since tracing takes memory of its own."""
    held = [make(number) for number in range(job.warmup)]
    before = _resident()
    held += [make(number) for number in range(job.warmup, job.total)]
    resident = _resident() - before
    tracemalloc.start()
    held += [make(number) for number in range(job.total, job.total + job.events)]
    gc.collect()
    traced, _ = tracemalloc.get_traced_memory()
    return {"traced": traced / job.events, "rss": resident / job.events}


def _resident() -> int:
    gc.collect()
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        raise CannotMeasureError("this system does not tell the memory of a process by /proc") from None
    return pages * os.sysconf("SC_PAGE_SIZE")


@case("memory-queue", "a `queue.Queue`", share=_SUBSCRIPTIONS)
def empty_queue(job: Job) -> Sample:
    """An empty queue of the standard library."""
    return _per_one(job, lambda _: queue.Queue())


@case("memory-aether-subscription", "a subscription of an `EventBus`", share=_SUBSCRIPTIONS)
def subscription(job: Job) -> Sample:
    """An idle subscription, each of a namespace of its own."""
    with EventBus() as bus:
        return _per_one(job, lambda number: bus.subscribe(f"orders-{number}.eu"))


@case("memory-aether-nats-subscription", "a subscription of a `NATSEventBus`", share=_SUBSCRIPTIONS)
def nats_subscription(job: Job) -> Sample:
    """The same with a server: what it takes in this process."""
    with NATSEventBus(job.url, prefix=job.prefix) as bus:
        return _per_one(job, lambda number: bus.subscribe(f"orders-{number}.eu"))


@case("memory-decoded", "a decoded event, in a list", share=_EVENTS, base="memory-decoded")
def decoded_event(job: Job) -> Sample:
    """What msgspec makes of the bytes of an event, with its envelope: that much anyone needs who keeps it."""
    return _per_one(job, lambda number: decode(make_payload(number, job.namespace)))


@case("memory-aether-event", "a queued event of an `EventBus`", share=_EVENTS, base="memory-decoded")
def queued_event(job: Job) -> Sample:
    """An event that was published and waits in a subscription."""
    with EventBus() as bus, bus.subscribe(job.namespace, maxsize=10 * job.total, max_bytes=ROOM) as events:
        sample = _per_one(job, lambda number: bus.publish(job.namespace, make_event(number)))
        if events.stats().dropped:
            raise RuntimeError("events were dropped")
        return sample
