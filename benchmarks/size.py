"""What grows with a store: the same with 200,000 events in it, and with as many as are asked for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import islice
from statistics import median
from time import perf_counter

from .cases import CannotMeasureError, Goal, Job, Sample
from .load import load_ours
from .peers import jetstream
from .stock import FEW, FEW_SMALL, MANY, MANY_SMALL, SMALL, Stock, actor_name, make_unstored
from .stores import our_store, register_at

_SHARE = 0.001  # of the events asked for
_NEW = 1_000_000_000  # the first actor that is in no stock
_ROUND = 10_000  # more than one run appends
_TIMES = 5  # that a store is opened, or asked for its actors
_FOLLOWED = 50_000  # events


class _Times:
    """How long each of several calls took."""

    def __init__(self) -> None:
        self._took: list[float] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self._took.append(perf_counter() - start)

    def read(self) -> Sample:
        return {"p50": median(self._took)}


def _append(stock: Stock, job: Job) -> Sample:
    """Append to actors that are new in each run; as they come late, what others read stays the same."""
    first = _NEW + int(job.prefix.rpartition("-")[2]) * _ROUND
    events = [make_unstored(first + at, 1) for at in range(10 * job.events)]
    times = _Times()
    with our_store(job, "r1", stock) as store:
        store.get_latest_version(actor_name(first))
        for event in events:
            with times.one():
                store.save_event(event)
    return times.read()


def _actors(stock: Stock, job: Job) -> Sample:
    times = _Times()
    with our_store(job, "r1", stock) as store:
        for _ in range(_TIMES):
            with times.one():
                found = len(store.actors(timeout=None))
            if found < stock.actors(job):
                raise CannotMeasureError(f"of {stock.actors(job):,} actors {found:,} were found")
    return times.read()


def _start(stock: Stock, job: Job) -> Sample:
    from aether_sync import JetStreamEventStore

    times = _Times()
    with jetstream.made(job, "r1", stock) as url:
        for _ in range(_TIMES):
            with JetStreamEventStore(url, stream=stock.name) as store, times.one():
                store.start()
    return times.read()


def _middle(stock: Stock, job: Job) -> Sample:
    middle = stock.events(job) // 2
    count = min(_FOLLOWED, middle)
    with our_store(job, "r1", stock) as store:
        store.start()
        start = perf_counter()
        with store.follow(after=middle) as stored:
            sequences = [one.sequence for one in islice(stored, count)]
        took = perf_counter() - start
    if sequences != list(range(middle + 1, middle + 1 + count)):
        raise CannotMeasureError(f"what came is not what follows {middle:,}")
    return {"p50": took / count}


def _register(
    name: str,
    what: str,
    measure: Callable[[Stock, Job], Sample],
    says: str,
    bound: float | None = None,
    stocks: tuple[Stock, Stock] = (MANY_SMALL, MANY),
) -> None:
    for stock in stocks:
        more, held, goals = ("", "all", (Goal(bound),))
        if stock.is_small:
            more, held, goals = "-small", f"{SMALL:,}", ()
        register_at(
            "r1",
            f"size-{name}{more}-aether",
            f"{what}, {held}",
            partial(measure, stock),
            base=f"size-{name}-small-aether",
            says=says,
            share=_SHARE,
            goals=goals,
        )


def _load(stock: Stock, job: Job) -> Sample:
    return load_ours(stock, "r1", job)


_register("load10", "load 10 events", _load, "`store.get_events()`, cold.", 1.5)
_register("load1000", "load 1,000 events", _load, "`store.get_events()`, cold.", 1.5, (FEW_SMALL, FEW))
_register("append", "append", _append, "`store.save_event()`, each event of a new actor.")
_register("actors", "`actors`", _actors, "`store.actors()`: every tenth event is of another actor.")
_register(
    "start", "open the store", _start, "`store.start()` of a new store object: it connects, and finds the stream."
)
_register("middle", "follow from the middle", _middle, "`store.follow(after=...)`: the time of each of 50,000 events.")
