"""From one thread to another in one process: no server. Timed from the first event put to the last one taken."""

import queue
from collections.abc import Callable, Iterator
from itertools import islice
from threading import Thread

from aether_sync import Event, EventBus
from aether_sync._deadline import Deadline
from aether_sync._queues import EventQueue, Overflow

from .cases import WAIT, Job, Sample, Stopwatch, case
from .workload import make_event

_SIZE = 300  # bytes of an event, as a queue is told


@case("threads-queue", "`queue.Queue`, single puts")
def queue_queue(job: Job) -> Sample:
    """``put()`` in one thread, ``get()`` in another; unbounded, nothing is encoded."""
    shared: queue.Queue[Event] = queue.Queue()

    def put(events: list[Event]) -> None:
        for event in events:
            shared.put(event)

    return _race(job, put, lambda: iter(shared.get, None))


@case("threads-event-queue", "`EventQueue`, single puts")
def event_queue(job: Job) -> Sample:
    """The queue of a subscription: ``offer()`` of one event in one thread, taken one by one in another."""
    shared = _event_queue(job)

    def put(events: list[Event]) -> None:
        for event in events:
            shared.offer((event,), (_SIZE,))

    return _race(job, put, lambda: _taken(shared))


@case("threads-event-queue-10", "`EventQueue`, batches of 10")
def event_queue_batches(job: Job) -> Sample:
    """The same with ten events to an ``offer()``; still taken one by one."""
    shared = _event_queue(job)
    sizes = [_SIZE] * 10

    def put(events: list[Event]) -> None:
        for start in range(0, len(events), 10):
            batch = events[start : start + 10]
            shared.offer(batch, sizes[: len(batch)])

    return _race(job, put, lambda: _taken(shared))


@case("threads-bus", "`EventBus.publish`, subscription iterated")
def bus(job: Job) -> Sample:
    """A bus of one process: checked, encoded and decoded as on the wire, routed, queued, iterated."""
    with EventBus() as local, local.subscribe(job.namespace, maxsize=job.events) as subscription:

        def put(events: list[Event]) -> None:
            for event in events:
                local.publish(job.namespace, event)

        return _race(job, put, lambda: subscription)


def _event_queue(job: Job) -> EventQueue:
    """A queue with room for everything: what is dropped is not measured."""
    return EventQueue(job.events, job.events * _SIZE, Overflow.DROP_NEWEST, "benchmark", lambda _: None)


def _taken(shared: EventQueue) -> Iterator[Event]:
    """Iterate as a subscription does."""
    while True:
        try:
            yield shared.pop()
        except IndexError:
            yield shared.take(Deadline(None))


def _race(job: Job, put: Callable[[list[Event]], None], take: Callable[[], Iterator[Event]]) -> Sample:
    events = [make_event(number) for number in range(job.events)]
    thread = Thread(target=put, args=(events,), daemon=True)
    watch = Stopwatch()
    thread.start()
    for _ in islice(take(), job.events):
        pass
    sample = watch.read(job.events)
    thread.join(WAIT)
    return sample
