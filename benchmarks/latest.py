"""Reading what a store need not look for: an actor's version, its latest events, and what it has read before."""

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING

from .cases import CannotMeasureError, Goal, Job, Sample
from .stock import FEW, MANY, Stock
from .stores import CONTENDERS, DATABASES, our_store, register_at

if TYPE_CHECKING:
    from aether_sync import JetStreamEventStore

_SHARE = 0.001  # of the events asked for
_FEWEST = 40  # actors
_LAST = 10  # events
_AGAIN = 3  # times that a store reads what it has read before


def _actors(stock: Stock, job: Job) -> list[str]:
    return stock.chosen(job, min(max(_FEWEST, job.events), stock.actors(job)))


def _timed(read: Callable[[str], Sequence[object]], actors: Sequence[str], expected: int) -> list[float]:
    took = []
    for actor_id in actors:
        start = perf_counter()
        found = len(read(actor_id))
        took.append(perf_counter() - start)
        if found != expected:
            raise CannotMeasureError(f"of {expected} events {found} were found")
    return took


def _summed_up(took: list[float]) -> Sample:
    return {"p50": median(took)}


def _version(stock: Stock, job: Job) -> Sample:
    with our_store(job, "r1", stock) as store:

        def ask(actor_id: str) -> Sequence[object]:
            return range(store.get_latest_version(actor_id))

        return _summed_up(_timed(ask, _actors(stock, job), stock.each))


def _last(read: "Callable[[JetStreamEventStore, str], Sequence[object]]", job: Job) -> Sample:
    with our_store(job, "r1", FEW, cache_bytes=0) as store:
        return _summed_up(_timed(partial(read, store), _actors(FEW, job), _LAST))


def _from_version(store: "JetStreamEventStore", actor_id: str) -> Sequence[object]:
    return store.get_events(actor_id, from_version=FEW.each - _LAST + 1)


def _backwards(store: "JetStreamEventStore", actor_id: str) -> Sequence[object]:
    return store.get_events(actor_id, limit=_LAST, reverse=True)


def _last_in_a_database(place: str, job: Job) -> Sample:
    with CONTENDERS["eventsourcing"].open(job, place, FEW) as store:
        return _summed_up(_timed(lambda one: store.load(one, FEW.each - _LAST), _actors(FEW, job), _LAST))


def _warm(stock: Stock, job: Job) -> Sample:
    """Load each actor again while what was read of it is among what a store keeps."""
    took = []
    with our_store(job, "r1", stock) as store:
        for actor_id in _actors(stock, job):
            store.get_events(actor_id)
            took += _timed(store.get_events, [actor_id] * _AGAIN, stock.each)
    return _summed_up(took)


def _register(name: str, title: str, run: Callable[[Job], Sample], says: str, goal: float | None = None) -> None:
    goals = () if goal is None else (Goal(goal),)
    register_at("r1", name, title, run, base="latest-version-aether", says=says, share=_SHARE, goals=goals)


_register(
    "latest-version-aether",
    "aether_sync, `get_latest_version`",
    partial(_version, MANY),
    "`store.get_latest_version()`, one question to the leader, of actors that this store has not heard of.",
)
_register(
    "latest-last-aether",
    "aether_sync, the last 10 of 1,000",
    partial(_last, _from_version),
    "`store.get_events(from_version=991)` of actors that this store has not heard of.",
    3.0,
)
_register(
    "latest-reverse-aether",
    "aether_sync, the last 10 of 1,000, backwards",
    partial(_last, _backwards),
    "`store.get_events(limit=10, reverse=True)`, the same.",
    3.0,
)
_register(
    "latest-10-aether",
    "aether_sync, 10 events, again",
    partial(_warm, MANY),
    "`store.get_events()` of an actor that this store has read just before.",
    2.0,
)
_register(
    "latest-1000-aether",
    "aether_sync, 1,000 events, again",
    partial(_warm, FEW),
    "The same; the events are spread.",
    8.0,
)
for _place in DATABASES:
    register_at(
        _place,
        "latest-last-eventsourcing",
        "eventsourcing, the last 10 of 1,000",
        partial(_last_in_a_database, _place),
        base="latest-version-aether",
        says="`recorder.select_events(gt=990)`.",
        share=_SHARE,
    )
