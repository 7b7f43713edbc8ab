"""Appending to a store: one event after the other, from many threads, and in batches."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from threading import Thread
from time import perf_counter
from typing import Any

from nats.js import JetStreamContext

from .cases import WAIT, Goal, Job, Sample, Stopwatch
from .peers import jetstream, nats_py
from .receive import uvloop_off
from .roundtrip import quantiles_of
from .stock import make_stored
from .stores import CONTENDERS, DATABASES, STREAMS, SYNCED, Contender, in_loop, register_at
from .workload import WireEvent

_THREADS = 16
_OWN = 5  # actors of each of them
_ACTORS = 20  # of the one thread
_BATCH = 100  # events
_SAVERS = 8  # threads that save batches
_SHARES = {"append": 0.01, "threads": 0.03, "batch": 0.03}  # of the events asked for: each waits for an answer

Numbers = list[tuple[int, int]]  # actors and versions


def _numbers(total: int, actors: int, first: int = 0) -> Numbers:
    """Number events of some actors, which take turns."""
    return [(first + at % actors, at // actors + 1) for at in range(total)]


def _shared(job: Job) -> list[Numbers]:
    """Number the events of each thread: of actors that no other has."""
    return [_numbers(job.total // _THREADS, _OWN, thread * _OWN) for thread in range(_THREADS)]


def _batched(batches: int) -> Iterator[Numbers]:
    """Number batches of one actor's events each; the actors take turns."""
    for actor, turn in _numbers(batches, _ACTORS):
        first = (turn - 1) * _BATCH + 1
        yield [(actor, version) for version in range(first, first + _BATCH)]


def _batched_apart(batches: int) -> Iterator[Numbers]:
    """Number batches of as many actors, so that any thread may store any of them."""
    for actor in range(batches):
        yield [(actor, version) for version in range(1, _BATCH + 1)]


def _summed_up(took: list[float], job: Job) -> Sample:
    return quantiles_of(took, job) | {"rate": job.events / sum(took[job.warmup :])}


# -- stores that threads call


def _one_by_one(contender: Contender, place: str, job: Job, *, is_new: bool = False) -> Sample:
    took = []
    with contender.open(job, place, None) as store:
        for event in [contender.make(*one) for one in _numbers(job.total, job.total if is_new else _ACTORS)]:
            start = perf_counter()
            store.append((event,))
            took.append(perf_counter() - start)
    return _summed_up(took, job)


def _without_uvloop(
    measure: Callable[[Contender, str, Job], Sample], contender: Contender, place: str, job: Job
) -> Sample:
    uvloop_off()
    return measure(contender, place, job)


def _from_threads(contender: Contender, place: str, job: Job) -> Sample:
    shares = [[contender.make(*one) for one in numbers] for numbers in _shared(job)]
    warmup = job.warmup // _THREADS
    with contender.open(job, place, None) as store:

        def append(events: Sequence[Any]) -> None:
            for event in events:
                store.append((event,))

        _in_threads(append, [share[:warmup] for share in shares])
        watch = Stopwatch()
        _in_threads(append, [share[warmup:] for share in shares])
        return watch.read(sum(map(len, shares)) - warmup * _THREADS)


def _in_threads(work: Callable[[Sequence[Any]], None], shares: list[list[Any]]) -> None:
    failures: list[BaseException] = []

    def run(share: list[Any]) -> None:
        try:
            work(share)
        except BaseException as failure:
            failures.append(failure)

    threads = [Thread(target=run, args=(share,), daemon=True) for share in shares]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT)
    if failures:
        raise failures[0]


def _in_batches(contender: Contender, place: str, job: Job) -> Sample:
    warmup, batches = max(1, job.warmup // _BATCH), max(1, job.events // _BATCH)
    made = [[contender.make(*one) for one in numbers] for numbers in _batched(warmup + batches)]
    with contender.open(job, place, None) as store:
        for batch in made[:warmup]:
            store.append(batch)
        watch = Stopwatch()
        for batch in made[warmup:]:
            store.append(batch)
        return watch.read(batches * _BATCH)


def _in_batches_from_threads(contender: Contender, place: str, job: Job) -> Sample:
    warmup, batches = max(_SAVERS, job.warmup // _BATCH), max(_SAVERS, job.events // _BATCH)
    made = [[contender.make(*one) for one in numbers] for numbers in _batched_apart(warmup + batches)]
    with contender.open(job, place, None) as store:

        def append(saves: Sequence[Any]) -> None:
            for events in saves:
                store.append(events)

        _in_threads(append, [made[:warmup][thread::_SAVERS] for thread in range(_SAVERS)])
        watch = Stopwatch()
        _in_threads(append, [made[warmup:][thread::_SAVERS] for thread in range(_SAVERS)])
        return watch.read(batches * _BATCH)


# -- nats-py


Way = Callable[[JetStreamContext, str], Callable[[WireEvent], Awaitable[object]]]


async def _one_by_one_async(way: Way, js: JetStreamContext, job: Job) -> Sample:
    append = way(js, job.prefix)
    took = []
    for event in [make_stored(*one) for one in _numbers(job.total, _ACTORS)]:
        start = perf_counter()
        await append(event)
        took.append(perf_counter() - start)
    return _summed_up(took, job)


async def _in_tasks(js: JetStreamContext, job: Job) -> Sample:
    append = jetstream.bare(js, job.prefix)
    shares = [[make_stored(*one) for one in numbers] for numbers in _shared(job)]
    warmup = job.warmup // _THREADS

    async def append_all(events: Sequence[Any]) -> None:
        for event in events:
            await append(event)

    await asyncio.gather(*(append_all(share[:warmup]) for share in shares))
    watch = Stopwatch()
    await asyncio.gather(*(append_all(share[warmup:]) for share in shares))
    return watch.read(sum(map(len, shares)) - warmup * _THREADS)


async def _unbatched(js: JetStreamContext, job: Job) -> Sample:
    append = jetstream.bare(js, job.prefix)
    events = [make_stored(*one) for one in _numbers(job.total, _ACTORS)]
    for event in events[: job.warmup]:
        await append(event)
    watch = Stopwatch()
    for event in events[job.warmup :]:
        await append(event)
    return watch.read(job.events)


async def _pipelined(js: JetStreamContext, job: Job) -> Sample:
    events = [make_stored(*one) for one in _numbers(job.total, _ACTORS)]
    await jetstream.pipelined(js, job.prefix, events[: job.warmup], _BATCH)
    watch = Stopwatch()
    await jetstream.pipelined(js, job.prefix, events[job.warmup :], _BATCH)
    return watch.read(job.events)


# -- the cases


def _register(
    place: str, name: str, title: str, run: Callable[[Job], Sample], says: str, *, share: float = 0, **options: Any
) -> None:
    question = name.partition("-")[0]
    share = share or _SHARES[question]
    register_at(place, name, title, run, base=f"{question}-nats-py", says=says, share=share, **options)


def _register_append(place: str) -> None:
    _register(
        place,
        "append-nats-py",
        "nats-py, `js.publish`",
        partial(in_loop, partial(_one_by_one_async, jetstream.bare), place, None),
        "`await js.publish(subject, payload)`.",
    )
    _register(
        place,
        "append-checked",
        "nats-py, `js.publish`, checked",
        partial(in_loop, partial(_one_by_one_async, jetstream.checked), place, None),
        "With the headers by which the server refuses what would come between, or is there already.",
    )
    _register(
        place,
        "append-aether",
        "aether_sync, `save_event`",
        partial(_one_by_one, _OURS, place),
        "`store.save_event()`; the events are of 20 actors, which take turns.",
        goals=(Goal(1.15), Goal(None, to=(f"append-checked-{place}",))),
    )


def _register_threads(place: str) -> None:
    _register(
        place,
        "threads-nats-py",
        "nats-py, 16 tasks",
        partial(in_loop, _in_tasks, place, None),
        "`await js.publish()` in 16 tasks of one loop.",
        goals=(Goal(None), Goal(None, to=(f"append-nats-py-{place}",), called="1 task")),
    )
    _register(
        place,
        "threads-aether",
        "aether_sync, 16 threads",
        partial(_from_threads, _OURS, place),
        "`store.save_event()` in 16 threads, by one store.",
        goals=(Goal(0.8), Goal(2.0, to=(f"append-aether-{place}",), called="1 thread")),
    )


def _register_batch(place: str) -> None:
    _register(
        place,
        "batch-nats-py",
        "nats-py, one by one",
        partial(in_loop, _unbatched, place, None),
        "`await js.publish()`, one event after the other: each is stored by itself, or not.",
        share=_SHARES["append"],
    )
    _register(
        place,
        "batch-pipelined",
        "nats-py, `publish_async`",
        partial(in_loop, _pipelined, place, None),
        "`js.publish_async()` 100 times, then all answers: still, each is stored by itself, or not.",
    )
    _register(
        place,
        "batch-aether",
        "aether_sync, `save_events`",
        partial(_in_batches, _OURS, place),
        "`store.save_events()` of 100 events of an actor.",
        goals=(Goal(None), Goal(None, to=(f"batch-pipelined-{place}",))),
    )
    _register(
        place,
        "batch-aether-threads",
        "aether_sync, 8 threads",
        partial(_in_batches_from_threads, _OURS, place),
        "`store.save_events()` of 100 events of an actor, in 8 threads, by one store.",
        goals=(Goal(None), Goal(1.0 if place == "r1" else None, to=(f"batch-pipelined-{place}",))),
    )


def _register_database(place: str) -> None:
    _register(
        place,
        "append-eventsourcing",
        "eventsourcing",
        partial(_one_by_one, _THEIRS, place),
        "`recorder.insert_events()` of one event.",
    )
    _register(
        place,
        "threads-eventsourcing",
        "eventsourcing, 16 threads",
        partial(_from_threads, _THEIRS, place),
        "`recorder.insert_events()` of one event, in 16 threads.",
        goals=(Goal(None), Goal(None, to=(f"append-eventsourcing-{place}",), called="1 thread")),
    )
    _register(
        place,
        "batch-eventsourcing",
        "eventsourcing",
        partial(_in_batches, _THEIRS, place),
        "`recorder.insert_events()` of 100 events of an actor.",
    )


_OURS, _THEIRS = CONTENDERS["aether"], CONTENDERS["eventsourcing"]

for _place in STREAMS:
    _register_append(_place)
    _register_threads(_place)
    _register_batch(_place)
_register_append(SYNCED)
_register(
    "r1",
    "append-uvloop",
    "nats-py, uvloop, `js.publish`",
    partial(in_loop, partial(_one_by_one_async, jetstream.bare), "r1", None, peer=nats_py.ON_UVLOOP),
    "The first on uvloop, which the library uses, too, where it is installed.",
    needs=nats_py.ON_UVLOOP.needs,
)
_register(
    "r1",
    "append-aether-asyncio",
    "aether_sync, without uvloop",
    partial(_without_uvloop, _one_by_one, _OURS, "r1"),
    "`store.save_event()` with `AETHER_SYNC_UVLOOP=0`, where uvloop is installed.",
    needs=nats_py.ON_UVLOOP.needs,
)
_register(
    "r1",
    "append-aether-new",
    "aether_sync, new actors",
    partial(_one_by_one, _OURS, "r1", is_new=True),
    "`store.save_event()`, each event of an actor that the store has not heard of.",
)
for _place in DATABASES:
    _register_database(_place)
