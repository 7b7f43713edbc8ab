"""Reading a store that holds many events: those of one actor, and all of them."""

from functools import partial
from itertools import islice
from statistics import median
from time import perf_counter

from nats.js import JetStreamContext

from .cases import CannotMeasureError, Goal, Job, Sample, Stopwatch
from .peers import bare_socket, jetstream, nats_py
from .stock import BARE, FEW, MANY, ROWS, SMALL, Stock
from .stores import CONTENDERS, DATABASES, STREAMS, Contender, in_loop, register_at

__all__ = ["load_ours"]

_SHARE = 0.001  # of the events asked for
_AIMS = {10: 2.0, 1_000: 1.2}
_LOADED = {10: 1.0, 1_000: 0.25}  # of that: actors that are loaded, by the events of each


def _count(stock: Stock, job: Job) -> tuple[int, int]:
    """Say how many actors are loaded, the first of them to warm up."""
    loaded = int(job.events * _LOADED[stock.each])
    return max(5, loaded // 10), loaded


def _summed_up(took: list[float], warmup: int) -> Sample:
    took = took[warmup:]
    return {"loads": len(took) / sum(took), "p50": median(took)}


def _check(found: int, stock: Stock) -> None:
    if found != stock.each:
        raise CannotMeasureError(f"of {stock.each} events of an actor {found} were found")


# -- stores that threads call


def _load(contender: Contender, stock: Stock, place: str, job: Job) -> Sample:
    warmup, loaded = _count(stock, job)
    took = []
    with contender.open(job, place, stock) as store:
        for actor_id in stock.chosen(job, warmup + loaded):
            start = perf_counter()
            events = store.load(actor_id)
            took.append(perf_counter() - start)
            _check(len(events), stock)
    return _summed_up(took, warmup)


load_ours = partial(_load, CONTENDERS["aether"])


def _follow(contender: Contender, stock: Stock, place: str, job: Job) -> Sample:
    with contender.open(job, place, stock) as store:
        watch = Stopwatch()
        count = min(SMALL, job.stock)
        followed = sum(1 for _ in islice(store.follow(), count))
        sample = watch.read(count)
    if followed != count:
        raise CannotMeasureError(f"of {count:,} events {followed:,} came")
    return sample


# -- a bare socket


def _load_by_sequence(stock: Stock, place: str, job: Job) -> Sample:
    warmup, loaded = _count(stock, job)
    actors = stock.chosen(job, warmup + loaded)
    sequences = stock.sequences(job, actors)
    took = []
    with jetstream.made(job, place, stock) as url, bare_socket.BareSocket(url) as client:
        for actor_id in actors:
            subject, earlier = jetstream.subject_of(stock.name, actor_id), sequences[actor_id][:-1]
            start = perf_counter()
            bodies = bare_socket.load(client, stock.name, subject, earlier)
            took.append(perf_counter() - start)
            _check(sum(body.startswith(b"{") for body in bodies), stock)
    return _summed_up(took, warmup)


# -- nats-py


async def _load_async(stock: Stock, js: JetStreamContext, job: Job) -> Sample:
    warmup, loaded = _count(stock, job)
    took = []
    for number, actor_id in enumerate(stock.chosen(job, warmup + loaded)):
        start = perf_counter()
        events = await jetstream.load(js, stock.name, actor_id, f"{job.prefix}-{number}")
        took.append(perf_counter() - start)
        _check(len(events), stock)
    return _summed_up(took, warmup)


async def _follow_async(stock: Stock, js: JetStreamContext, job: Job) -> Sample:
    count = min(SMALL, job.stock)
    watch = Stopwatch()
    await jetstream.follow(js, stock.name, count)
    return watch.read(count)


# -- the cases


def _register_load(name: str, stock: Stock, place: str, what: str, goals: tuple[Goal, ...]) -> None:
    register_at(
        place,
        f"{name}-nats-py",
        f"{what}, nats-py, ordered consumer",
        partial(in_loop, partial(_load_async, stock), place, stock),
        base=f"{name}-nats-py",
        says="A consumer is created, calls back until nothing is pending, and is deleted.",
        share=_SHARE,
    )
    register_at(
        place,
        f"{name}-aether",
        f"{what}, aether_sync, `get_events`",
        partial(load_ours, stock, place),
        base=f"{name}-nats-py",
        says="`store.get_events()` of an actor that this store has not heard of.",
        share=_SHARE,
        goals=goals,
    )


def _register_loads(stock: Stock) -> None:
    """Of a stock that is spread, everywhere."""
    name, what = f"load-{stock.each}", f"{stock.each:,} events"
    ahead = [Goal(1.0, to=(f"{name}-eventsourcing-{database}",)) for database in DATABASES]
    for place in STREAMS:
        by_sequence = Goal(0.5, to=(f"{name}-socket-{place}",), called="a bare socket")
        _register_load(name, stock, place, what, (Goal(_AIMS[stock.each]), by_sequence, *ahead))
        register_at(
            place,
            f"{name}-socket",
            f"{what}, bare socket, by sequence",
            partial(_load_by_sequence, stock, place),
            base=f"{name}-nats-py",
            says="The last record, then all others by sequences that are known, in one write; nothing is decoded.",
            share=_SHARE,
        )
    for place in DATABASES:
        register_at(
            place,
            f"{name}-eventsourcing",
            f"{what}, eventsourcing",
            partial(_load, CONTENDERS["eventsourcing"], stock, place),
            base=f"{name}-nats-py",
            says="`recorder.select_events()`.",
            share=_SHARE,
        )


def _register_follow(name: str, stock: Stock, place: str, more: str, goal: Goal) -> None:
    register_at(
        place,
        f"{name}-nats-py",
        f"nats-py, ordered consumer, nothing decoded{more}",
        partial(in_loop, partial(_follow_async, stock), place, stock),
        base=f"{name}-nats-py",
        says=f"It calls back, and the callback counts{more}.",
    )
    register_at(
        place,
        f"{name}-aether",
        f"aether_sync, `follow`{more}",
        partial(_follow, CONTENDERS["aether"], stock, place),
        base=f"{name}-nats-py",
        says=f"`for stored in store.follow()`{more}.",
        goals=(goal,),
    )


_register_loads(MANY)
_register_loads(FEW)
_register_load("load-rows", ROWS, "r1", "1,000 events in a row", (Goal(_AIMS[1_000]),))
for _place in STREAMS:
    _register_follow("follow", MANY, _place, "", Goal(2.0))
_register_follow("follow-bare", BARE, "r1", ", of events without headers", Goal(None))
register_at(
    "r1",
    "follow-uvloop",
    "nats-py, uvloop, the same",
    partial(in_loop, partial(_follow_async, MANY), "r1", MANY, peer=nats_py.ON_UVLOOP),
    base="follow-nats-py",
    says="On uvloop, which the library uses, too, where it is installed.",
    needs=nats_py.ON_UVLOOP.needs,
)
for _place in DATABASES:
    register_at(
        _place,
        "follow-eventsourcing",
        "eventsourcing",
        partial(_follow, CONTENDERS["eventsourcing"], MANY, _place),
        base="follow-nats-py",
        says="`recorder.select_notifications()`, 1,000 at a time.",
    )
