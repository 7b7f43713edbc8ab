"""Many threads at once."""

import random
import threading
import time
from collections.abc import Callable

import pytest

from aether_sync import (
    BusClosedError,
    Event,
    EventBus,
    SubscriptionClosedError,
)

from ...support.common import PATIENCE, make_event, numbers, run_threads
from .base import TwoNodes


class Threads(TwoNodes):
    """Many threads at once."""

    @pytest.mark.concurrent
    def test_none_lost_none_twice_in_order_per_thread(self, here: EventBus, there: EventBus) -> None:
        threads, each = 4, 500
        with here.subscribe("n.*", maxsize=threads * each) as events:
            got: list[Event] = []

            def publish(thread: int) -> None:
                for n in range(each):
                    there.publish(f"n.{thread}", make_event(n, version=thread))

            def read() -> None:
                while len(got) < threads * each:
                    got.append(events.get(timeout=PATIENCE))

            run_threads(read, *(lambda t=t: publish(t) for t in range(threads)))
            assert events.get_batch(1, timeout=0) == []
        for thread in range(threads):
            assert numbers([event for event in got if event.version == thread]) == list(range(each))

    @pytest.mark.concurrent
    def test_subscriptions_come_and_go_under_traffic(self, here: EventBus, there: EventBus) -> None:
        stop = threading.Event()

        def publish() -> None:
            n = 0
            while not stop.is_set():
                there.publish("n", make_event(n))
                n += 1
                time.sleep(0.0005)

        def come_and_go(seed: int) -> None:
            choice = random.Random(seed)
            for _ in range(15):
                patterns = choice.sample(["n", "*", ">", "n*", "other"], choice.randint(1, 3))
                with here.subscribe(*patterns, maxsize=100_000) as events:
                    if patterns == ["other"]:
                        continue
                    got = [events.get(timeout=PATIENCE) for _ in range(3)]
                    first = numbers(got)[0]
                    assert numbers(got) == [first, first + 1, first + 2], "lost, or twice"

        def all_of_them() -> None:
            try:
                run_threads(*(lambda seed=seed: come_and_go(seed) for seed in range(4)))
            finally:
                stop.set()

        run_threads(publish, all_of_them)
        assert here.metrics().active_subscriptions == 0

    @pytest.mark.concurrent
    def test_close_races_with_everything(self, here: EventBus, there: EventBus) -> None:
        started = threading.Barrier(4)

        def until_closed(work: Callable[[], object]) -> None:
            started.wait(PATIENCE)
            try:
                while True:
                    work()
            except (BusClosedError, SubscriptionClosedError):
                pass

        def subscribe() -> None:
            with here.subscribe("n") as events:
                events.get_batch(5, timeout=0.001)

        def close() -> None:
            started.wait(PATIENCE)
            time.sleep(0.005)
            here.close()

        run_threads(
            lambda: until_closed(lambda: here.publish("n", make_event())),
            lambda: until_closed(lambda: here.publish_many("n", [make_event()] * 5)),
            lambda: until_closed(subscribe),
            close,
        )
