"""Consumers of a store in memory: interrupts, signal handlers that use it, forks, the end, and threads at once."""

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress

import pytest

from aether_sync import (
    ANY_VERSION,
    Delivery,
    Event,
    InMemoryEventStore,
    StoreClosedError,
    StreamMismatchError,
)
from aether_sync.stores._memory_queue import DeliveryQueue, EventQueue

from ..programs import memory_consumers as programs
from ..programs.run import run
from ..support.common import PATIENCE, UNIT, eventually, run_threads
from ..support.signals import before
from ..support.stores import ACK_WAIT, save, take_all

is_posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no signals and forks as of POSIX here")


@pytest.fixture
def store() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore(namespace="shop") as store:
        yield store


def append(store: InMemoryEventStore) -> None:
    store.append("late", Event(event_type="Late", actor_id="late"), expected_version=ANY_VERSION)


PLACES = [
    (DeliveryQueue._deliver, "self._open["),
    (DeliveryQueue._deliver, "self._put("),
    (DeliveryQueue._put, "heappush"),
    (DeliveryQueue._put, "self._claims["),
    (EventQueue._deliver, "if attempt == 1"),
    (DeliveryQueue._settle, "self._open.pop"),
]


@pytest.mark.parametrize(("function", "line"), PLACES)
def test_an_interrupt_loses_no_event(store: InMemoryEventStore, function: object, line: str) -> None:
    save(store, 5)

    def interrupt() -> None:
        raise KeyboardInterrupt

    consumer = store.consumer("c", ack_wait=ACK_WAIT)
    with consumer.iterate() as events:
        with pytest.raises(KeyboardInterrupt), before(function, line, interrupt):  # type: ignore[arg-type]
            take_all(events, 1)
        seen: set[int] = set()
        while len(seen) < (4 if "pop" in line else 5):
            seen |= {one.sequence for one in take_all(events, 1)}
        consumer.wait_for(5, timeout=PATIENCE)
    state = consumer.state()
    assert state is not None
    assert (state.acknowledged, state.waiting, state.unacknowledged) == (5, 0, 0)


@pytest.mark.parametrize(("function", "line"), PLACES)
def test_a_signal_handler_may_save_and_take(store: InMemoryEventStore, function: object, line: str) -> None:
    save(store, 5)
    consumer, had = store.consumer("c"), Counter[int]()
    with consumer.iterate() as events, store.consumer("c").iterate() as inner:

        def use_it() -> None:
            append(store)
            for delivery in inner.get_batch(2, timeout=0):
                had[delivery.sequence] += 1
                delivery.ack()

        with before(function, line, use_it):  # type: ignore[arg-type]
            for delivery in take_all(events, 1):
                had[delivery.sequence] += 1
        while set(had) != set(range(1, 7)):
            for delivery in take_all(events, 1):
                had[delivery.sequence] += 1
    state = consumer.state()
    assert state is not None
    assert (state.waiting, state.unacknowledged) == (0, 0)


@is_posix
def test_a_signal_handler_that_saves_while_others_consume_ends(store: InMemoryEventStore) -> None:
    had: Counter[int] = Counter()

    def handle(delivery: Delivery) -> None:
        had[delivery.sequence] += 1

    previous = signal.signal(signal.SIGALRM, lambda *_: append(store))
    try:
        with store.consumer("c").run(handle, threads=2), store.consumer("other").iterate() as events:
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
            end = time.monotonic() + 0.3 * UNIT
            while time.monotonic() < end:
                append(store)
                with suppress(IndexError):
                    take_all(events, 1)
            signal.setitimer(signal.ITIMER_REAL, 0)
            last = store.last_sequence()
            store.consumer("c").wait_for(last, timeout=PATIENCE)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert had == Counter(range(1, last + 1))


@pytest.mark.concurrent
def test_threads_that_save_take_and_give_back_lose_nothing(store: InMemoryEventStore) -> None:
    done: Counter[int] = Counter()
    consumer = store.consumer("c", max_deliver=50, max_ack_pending=3)

    def work() -> None:
        with consumer.iterate() as events:
            while sum(done.values()) < 600:
                for delivery in events.get_batch(2, timeout=0.01 * UNIT):
                    if delivery.sequence % 3 == 0 and delivery.attempt == 1:
                        delivery.nak()
                    else:
                        done[delivery.sequence] += 1
                        delivery.ack()

    def write() -> None:
        for _ in range(300):
            append(store)

    run_threads(work, work, work, write, write)
    assert set(done) == set(range(1, 601))


def test_the_scan_for_what_is_wanted_goes_on_over_many(store: InMemoryEventStore) -> None:
    save(store, 2_500)
    append(store)
    consumer = store.consumer("c", event_types={"Late"})
    state = consumer.state()
    assert state is None
    with consumer.iterate() as events:
        assert events.get(timeout=PATIENCE).sequence == 2_501
    assert store.consumer("none", event_types={"No"}).drain(print) == 0


def test_other_settings_are_refused_by_name(store: InMemoryEventStore) -> None:
    store.consumer("c").iterate(dead_letters=True).close()
    with pytest.raises(StreamMismatchError, match="ack_wait is 30 s, not 60 s") as caught:
        store.consumer("c", ack_wait=60).iterate(dead_letters=True)
    assert "delete" not in str(caught.value)


def test_a_delivery_says_where_it_is_from(store: InMemoryEventStore) -> None:
    save(store, 1)
    with store.consumer("c").iterate() as events:
        delivery = events.get(timeout=0)
        assert (delivery.consumer, delivery.stream, delivery.namespace) == ("c", "", "shop")
        delivery.event.data


def test_numbers_of_a_runner(store: InMemoryEventStore) -> None:
    go_on = threading.Event()
    save(store, 30, actors=30)
    with store.consumer("c").run(lambda _: go_on.wait(PATIENCE), threads=2) as runner:
        eventually(lambda: runner.metrics().in_hand == 4)
        metrics, health = runner.metrics(), runner.health()
        assert (metrics.lag, metrics.busy) == (26, 2)
        assert 0 <= metrics.oldest_seconds < PATIENCE
        assert health.ok
        assert (health.numbers["lag"], health.numbers["unacknowledged"], health.parts) == (26, 4, ())
        go_on.set()


def test_who_waits_for_a_consumer_is_told_of_the_end(store: InMemoryEventStore) -> None:
    save(store, 1)
    store.consumer("c").iterate().close()

    def wait() -> None:
        with pytest.raises(StoreClosedError):
            store.consumer("c").wait_for(1, timeout=PATIENCE)

    run_threads(wait, store.close)


@pytest.mark.slow
@is_posix
def test_a_child_has_a_copy_of_the_consumers() -> None:
    run(programs.forks)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["iterates", "runs"])
def test_the_process_ends(how: str) -> None:
    assert "ended" in run(programs.ends, how)
