"""``get_batch()`` of all that is iterated: an exception of a signal handler loses no batch."""

import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import Event, EventBus, InMemoryEventStore, JetStreamEventStore
from aether_sync._runtime.batches import fill

from ..support.common import PATIENCE, eventually, make_event
from ..support.inside import buffer_of
from ..support.signals import INTERRUPTS, before, hammer

COUNT = 100


class Interrupt(Exception):
    """What a handler raises."""


def interrupt() -> None:
    raise Interrupt


def stored(count: int) -> list[Event]:
    return [make_event(version, version=version) for version in range(1, count + 1)]


@pytest.fixture(params=["subscription", "follower", "follower in memory", "consumption"])
def source(
    request: pytest.FixtureRequest, local_bus: EventBus, make_store: Callable[..., JetStreamEventStore]
) -> Iterator[Any]:
    """Something with events 1 to ``COUNT``, all of them here already."""
    if request.param == "subscription":
        source: Any = local_bus.subscribe("n")
        local_bus.publish_many("n", stored(COUNT))
        yield source
        source.close()
        return
    store: Any = InMemoryEventStore() if "memory" in request.param else make_store()
    with store:
        store.save_events(stored(COUNT), timeout=PATIENCE)
        source = store.consumer("c").iterate(prefetch=COUNT) if request.param == "consumption" else store.follow()
        if hasattr(source, "_buffer"):
            source._requester.request_more()
            eventually(lambda: len(buffer_of(source).arrived) == COUNT, "all events")
        yield source


def versions(batch: list[Any]) -> list[int]:
    return [getattr(one, "event", one).version for one in batch]


def test_an_interrupted_batch_is_taken_by_the_next(source: Any) -> None:
    with pytest.raises(Interrupt), before(fill, "except IndexError", interrupt):
        source.get_batch(COUNT + 1, timeout=PATIENCE)
    assert getattr(source, "sequence", 0) == 0, "a checkpoint behind what nobody has had"
    assert versions(source.get_batch(COUNT + 1, timeout=PATIENCE)) == list(range(1, COUNT + 1))


def test_an_interrupted_batch_is_there_for_who_takes_one(source: Any) -> None:
    with pytest.raises(Interrupt), before(fill, "except IndexError", interrupt):
        source.get_batch(COUNT + 1, timeout=PATIENCE)
    assert versions([source.get(timeout=PATIENCE), next(source)]) == [1, 2]


def test_what_was_discarded_meanwhile_is_not_given_back(local_bus: EventBus) -> None:
    events = local_bus.subscribe("n")
    local_bus.publish_many("n", stored(3))

    def close() -> None:
        events.close(discard=True)
        raise Interrupt

    with pytest.raises(Interrupt), before(fill, "except IndexError", close):
        events.get_batch(COUNT)
    assert list(events) == []
    stats = events.stats()
    assert (stats.delivered, stats.dropped_by_reason) == (0, {"discarded": 3})


@pytest.mark.concurrent
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no setitimer() here")
def test_interrupts_lose_one_event_each_at_most(local_bus: EventBus) -> None:
    got: list[Event] = []
    ready, sizes = stored(1_000), [1] * 1_000
    with local_bus.subscribe("n", maxsize=1_000_000) as events:

        def work() -> None:
            nonlocal got
            events._queue.offer(ready, sizes)
            got += events.get_batch(10_000, timeout=0)  # no handler comes between the two

        hammer(INTERRUPTS, work)
        got += events.get_batch(1_000_000, timeout=0)
        stats = events.stats()
        assert stats.pending == 0
        assert len(got) <= stats.delivered <= len(got) + INTERRUPTS
