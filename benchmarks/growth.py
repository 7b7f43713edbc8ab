"""What a publish costs by the number of subscriptions, of this namespace and of others.

Timed is the publishing thread; nobody iterates meanwhile. With a server, the time until it has processed everything
counts too.
"""

import gc
from contextlib import ExitStack
from itertools import count, cycle, islice

from aether_sync import EventBus, NATSEventBus, SubscriptionFilter

from .cases import Goal, Job, Sample, Stopwatch, case
from .receive import ROOM
from .workload import make_event

_SHARE = 0.3  # of the events asked for
_FEW = 0.1  # of them, where an event takes long
_DIFFERENT = 1_000  # events; then they come again


def _time(bus: EventBus, job: Job, *, matching: int = 1, others: str = "", is_filtered: bool = False) -> Sample:
    """Time a publish with so many subscriptions that match, and perhaps many others, named by a template."""
    chosen = SubscriptionFilter(event_types={"OrderPlaced"}, actor_pattern="order-*") if is_filtered else None
    with ExitStack() as stack:
        for number in range(job.crowd if others else 0):
            stack.enter_context(bus.subscribe(others.format(number)))
        wanted = [
            bus.subscribe(job.namespace, filter=chosen, maxsize=job.total, max_bytes=ROOM) for _ in range(matching)
        ]
        sample = _publish(bus, job)
        bus.flush(None)
        if any(one.stats().offered != job.total or one.stats().dropped for one in wanted):
            raise RuntimeError("not every event came to every subscription")
        bus.close(0.1)  # all at once
    return sample


def _publish(bus: EventBus, job: Job) -> Sample:
    events = cycle([make_event(number) for number in range(_DIFFERENT)])
    for event in islice(events, job.warmup):
        bus.publish(job.namespace, event)
    bus.flush(None)
    gc.collect()  # else a collection that ten thousand subscriptions made due may fall into the measured time
    watch = Stopwatch()
    for event in islice(events, job.events):
        bus.publish(job.namespace, event)
    bus.flush(None)
    return {"time": 1 / watch.read(job.events)["rate"]}


@case("growth-aether-1", "`EventBus`: 1 subscription", share=_SHARE)
def one(job: Job) -> Sample:
    """``bus.publish()`` in one process, to one subscription."""
    return _time(EventBus(), job)


@case("growth-aether-filter", "`EventBus`: 1, with a filter", share=_SHARE)
def filtered(job: Job) -> Sample:
    """To one subscription with a filter by event type and actor, which lets all pass."""
    return _time(EventBus(), job, is_filtered=True)


@case("growth-aether-10", "`EventBus`: 10 subscriptions", goals=(Goal(10.0),), share=_SHARE)
def ten(job: Job) -> Sample:
    """To ten subscriptions of the namespace."""
    return _time(EventBus(), job, matching=10)


@case("growth-aether-100", "`EventBus`: 100 subscriptions", share=_FEW, goals=(Goal(100.0),))
def hundred(job: Job) -> Sample:
    """To a hundred subscriptions of the namespace."""
    return _time(EventBus(), job, matching=100)


@case("growth-aether-literal", "`EventBus`: 1, and 10,000 of other namespaces", goals=(Goal(1.2),), share=_SHARE)
def literal(job: Job) -> Sample:
    """To one subscription, with ten thousand others, each of a namespace of its own."""
    return _time(EventBus(), job, others="other-{}.eu")


@case("growth-aether-wild", "`EventBus`: 1, and 10,000 of other wildcards", goals=(Goal(1.2),), share=_SHARE)
def wild(job: Job) -> Sample:
    """To one subscription, with ten thousand others, each of a pattern ``other-N.*``."""
    return _time(EventBus(), job, others="other-{}.*")


def _time_new_namespaces(job: Job, others: int) -> Sample:
    """Time a publish to a namespace that was never named before, every time."""
    with EventBus() as bus:
        held = [bus.subscribe(f"other-{number}.*") for number in range(others)]
        events = cycle([make_event(number) for number in range(_DIFFERENT)])
        names = map("orders-{}.eu".format, count())
        for event, name in islice(zip(events, names, strict=False), job.warmup):
            bus.publish(name, event)
        watch = Stopwatch()
        for event, name in islice(zip(events, names, strict=False), job.events):
            bus.publish(name, event)
        sample = watch.read(job.events)
        del held
    return {"time": 1 / sample["rate"]}


@case("growth-aether-new", "`EventBus`, ever new namespaces: 1 wildcard", share=_SHARE, base="growth-aether-new")
def new(job: Job) -> Sample:
    """Every event to a namespace that was never named before, with one subscription, of another pattern."""
    return _time_new_namespaces(job, 1)


@case(
    "growth-aether-new-wild",
    "`EventBus`, ever new namespaces: 10,000 wildcards",
    base="growth-aether-new",
    goals=(Goal(1.2),),
    share=_SHARE,
)
def new_wild(job: Job) -> Sample:
    """The same with ten thousand subscriptions of other patterns ``other-N.*``."""
    return _time_new_namespaces(job, job.crowd)


def _with_server(job: Job, matching: int = 1, others: str = "") -> Sample:
    return _time(NATSEventBus(job.url, prefix=job.prefix), job, matching=matching, others=others)


@case("growth-aether-nats-1", "`NATSEventBus`: 1 subscription", base="growth-aether-nats-1", share=_SHARE)
def nats_one(job: Job) -> Sample:
    """``bus.publish()`` to a server and to one subscription of the same bus, flushed at the end."""
    return _with_server(job)


@case(
    "growth-aether-nats-100",
    "`NATSEventBus`: 100 subscriptions",
    base="growth-aether-nats-1",
    share=_FEW,
    goals=(Goal(100.0),),
)
def nats_hundred(job: Job) -> Sample:
    """To a hundred subscriptions of the namespace."""
    return _with_server(job, 100)


@case(
    "growth-aether-nats-literal",
    "`NATSEventBus`: 1, and 10,000 of other namespaces",
    base="growth-aether-nats-1",
    goals=(Goal(1.2),),
    share=_SHARE,
)
def nats_literal(job: Job) -> Sample:
    """To one subscription, with ten thousand others of the same bus, each of a namespace of its own."""
    return _with_server(job, others="other-{}.eu")


@case(
    "growth-aether-nats-wild",
    "`NATSEventBus`: 1, and 10,000 of other wildcards",
    base="growth-aether-nats-1",
    goals=(Goal(1.2),),
    share=_SHARE,
)
def nats_wild(job: Job) -> Sample:
    """To one subscription, with ten thousand others of the same bus, each of a pattern ``other-N.*``."""
    return _with_server(job, others="other-{}.*")
