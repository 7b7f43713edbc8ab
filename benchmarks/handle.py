"""What a worker costs over a bare ``run()``: events of a consumer of a store in memory, so that no server hides it."""

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from itertools import count
from threading import Event as Signal
from typing import Any

from aether_sync import Delivery, Event, InMemoryEventStore, Worker

from .cases import WAIT, CannotMeasureError, Goal, Job, Sample, Stopwatch, case

_ACTORS = 100
_AT_ONCE = 1_000  # events of a save
_SHARE = 0.3  # of the events asked for


class _Counter:
    """A handler that says when it was called for the last event."""

    def __init__(self, events: int) -> None:
        self._last, self._numbers = events - 1, count()
        self.done = Signal()

    def handle(self, delivery: Delivery) -> None:
        if next(self._numbers) == self._last:
            self.done.set()

    def handle_event(self, event: Event) -> None:
        if next(self._numbers) == self._last:
            self.done.set()


def _measured(job: Job, begin: Callable[[InMemoryEventStore, _Counter], Any]) -> Sample:
    """Measure from the begin of a runner or a worker to its last event; what is stored is there before."""
    with InMemoryEventStore() as store:
        for first in range(0, job.events, _AT_ONCE):
            store.save_events(
                Event(event_type="Done", actor_id=f"a-{n % _ACTORS}", version=n // _ACTORS + 1, data={"n": n})
                for n in range(first, min(first + _AT_ONCE, job.events))
            )
        counter, watch = _Counter(job.events), Stopwatch()
        with closing(begin(store, counter)):
            if not counter.done.wait(WAIT):
                raise CannotMeasureError("not all events were handled")
            return watch.read(job.events)


@case("handle-run-aether", "aether_sync, `consumer.run()`", share=_SHARE)
def run_alone(job: Job) -> Sample:
    """``store.consumer("c").run(handler)`` with four threads; the handler counts. The store is in memory."""
    return _measured(job, lambda store, counter: store.consumer("c").run(counter.handle))


def _worker(register: Callable[[Worker, _Counter], object], store: InMemoryEventStore, counter: _Counter) -> Worker:
    worker = Worker(store=store)
    register(worker, counter)
    worker.start()
    return worker


@case("handle-worker-aether", "aether_sync, `Worker`", share=_SHARE, goals=(Goal(1.05),))
def run_in_a_worker(job: Job) -> Sample:
    """The same handler, given to a worker by ``consume("c")``."""
    return _measured(job, partial(_worker, lambda worker, counter: worker.consume("c")(counter.handle)))


@case("handle-event-aether", "aether_sync, `Worker`, the event by annotation", share=_SHARE, goals=(Goal(1.05),))
def run_with_the_event(job: Job) -> Sample:
    """The same, with a handler that asks for the event."""
    return _measured(job, partial(_worker, lambda worker, counter: worker.consume("c")(counter.handle_event)))


@contextmanager
def _around() -> Iterator[None]:
    yield


@case("handle-around-aether", "aether_sync, `Worker`, with a context manager and a time limit", share=_SHARE)
def run_with_all(job: Job) -> Sample:
    """The same, with ``around=[...]``, one ``@contextmanager`` that does nothing, and ``time_limit=30``."""
    return _measured(
        job,
        partial(
            _worker,
            lambda worker, counter: worker.consume("c", around=[_around], time_limit=30.0)(counter.handle),
        ),
    )
