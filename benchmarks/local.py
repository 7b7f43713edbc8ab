"""From one thread to another in one process: no server. Timed from the first event put to the last one taken.

The bus encodes, decodes, checks and routes each event; what it is compared with hands over the object itself, unless
its title says otherwise.
"""

import queue
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from threading import Thread
from typing import Any

from aether_sync import Event, EventBus
from aether_sync._bus.bounded import Overflow
from aether_sync._bus.queue import EventQueue
from aether_sync._runtime.deadline import Deadline

from .cases import WAIT, Goal, Job, Sample, Stopwatch, case
from .receive import ROOM
from .workload import decode, encode, make_envelope, make_event

_SIZE = 300  # bytes of an event, as a queue is told

Put = Callable[[list[Any]], object]


def _race(job: Job, put: Put, taken: Iterator[object], make: Callable[[int], object] = make_event) -> Sample:
    """Time the events after the warm-up, from a thread that puts them to this one, which iterates."""
    events = [make(number) for number in range(job.total)]
    _cross(put, taken, events[: job.warmup])
    watch = Stopwatch()
    _cross(put, taken, events[job.warmup :])
    return watch.read(job.events)


def _cross(put: Put, taken: Iterator[object], events: list[object]) -> None:
    thread = Thread(target=put, args=(events,), daemon=True)
    thread.start()
    for _ in islice(taken, len(events)):
        pass
    thread.join(WAIT)


def _each(put: Callable[[Any], object]) -> Put:
    def put_all(events: Iterable[Any]) -> None:
        for event in events:
            put(event)

    return put_all


@case("local-queue", "`queue.Queue`")
def queue_queue(job: Job) -> Sample:
    """``put()`` in one thread, ``get()`` in another; unbounded."""
    shared: queue.Queue[Event] = queue.Queue()
    return _race(job, _each(shared.put), iter(shared.get, None))


@case("local-simple-queue", "`queue.SimpleQueue`")
def simple_queue(job: Job) -> Sample:
    """The same with the queue that is written in C, and has no bound."""
    shared: queue.SimpleQueue[Event] = queue.SimpleQueue()
    return _race(job, _each(shared.put), iter(shared.get, None))


@case("local-queue-coded", "`queue.Queue`, encoded and decoded")
def queue_coded(job: Job) -> Sample:
    """The same with msgspec on both sides, so that the other thread has an object of its own."""
    shared: queue.Queue[bytes] = queue.Queue()
    taken = map(decode, iter(shared.get, None))
    return _race(job, _each(lambda event: shared.put(encode(event))), taken, lambda number: make_envelope(number, ""))


@case("local-blinker", "blinker, into a `queue.Queue`", needs=("blinker",))
def blinker(job: Job) -> Sample:
    """A signal calls its receivers in the sending thread; this one puts the event into a queue for another."""
    from blinker import Signal

    shared: queue.Queue[Event] = queue.Queue()
    signal = Signal()
    signal.connect(shared.put, weak=False)
    return _race(job, _each(signal.send), iter(shared.get, None))


@case("local-pyee", "pyee, into a `queue.Queue`", needs=("pyee",))
def pyee(job: Job) -> Sample:
    """An emitter calls its listeners in the emitting thread; this one puts the event into a queue for another."""
    from pyee import EventEmitter

    shared: queue.Queue[Event] = queue.Queue()
    emitter = EventEmitter()
    emitter.on(job.namespace, shared.put)
    return _race(job, _each(lambda event: emitter.emit(job.namespace, event)), iter(shared.get, None))


@case("local-aether", "`EventBus.publish`, subscription iterated", goals=(Goal(2.0),))
def bus(job: Job) -> Sample:
    """A bus of one process: checked, encoded and decoded as on the wire, routed, queued, iterated."""
    with EventBus() as local, local.subscribe(job.namespace, maxsize=job.total, max_bytes=ROOM) as events:
        return _race(job, _each(lambda event: local.publish(job.namespace, event)), events)


@case("local-aether-many", "`EventBus.publish_many`, 100 at a time")
def bus_many(job: Job) -> Sample:
    """The same, a hundred events to a call; still taken one by one."""
    with EventBus() as local, local.subscribe(job.namespace, maxsize=job.total, max_bytes=ROOM) as taken:

        def put(events: list[Event]) -> None:
            for start in range(0, len(events), 100):
                local.publish_many(job.namespace, events[start : start + 100])

        return _race(job, put, taken)


@case("local-aether-queue", "`EventQueue`, single puts")
def event_queue(job: Job) -> Sample:
    """The queue of a subscription: ``offer()`` of one event in one thread, taken one by one in another."""
    shared = _event_queue(job)
    return _race(job, _each(lambda event: shared.offer((event,), (_SIZE,))), _taken(shared))


@case("local-aether-queue-10", "`EventQueue`, batches of 10")
def event_queue_batches(job: Job) -> Sample:
    """The same with ten events to an ``offer()``; still taken one by one."""
    shared = _event_queue(job)

    def put(events: list[Event]) -> None:
        for start in range(0, len(events), 10):
            batch = events[start : start + 10]
            shared.offer(batch, [_SIZE] * len(batch))

    return _race(job, put, _taken(shared))


def _event_queue(job: Job) -> EventQueue:
    """A queue with room for everything: what is dropped is not measured."""
    return EventQueue(job.total, job.total * _SIZE, Overflow.DROP_NEWEST, "benchmark", lambda _: None)


def _taken(shared: EventQueue) -> Iterator[Event]:
    """Iterate as a subscription does."""
    while True:
        try:
            yield shared.pop()
        except IndexError:
            yield shared.take(Deadline(None))
