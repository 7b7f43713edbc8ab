"""What belongs to a process is not copied."""

import copy
import gc
import pickle
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    Connection,
    EventBus,
    EventTypes,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    Worker,
)

from ..support.common import make_event


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_and_pickles_are_refused(
    way: Callable[[Any], object], local_bus: EventBus, store: JetStreamEventStore
) -> None:
    memory = InMemoryEventStore()
    with (
        local_bus.subscribe("n") as events,
        memory.follow() as followed,
        store.follow() as follower,
        store.consumer("c").iterate() as consumption,
        local_bus.run("n", print) as bus_runner,
        memory.consumer("c").run(print) as runner,
    ):
        own = (
            events, followed, follower, consumption, bus_runner, runner, local_bus, memory, store, EventTypes(),
            NATSServer(), NATSCluster(), Connection(), NATSEventBus("nats://127.0.0.1:1"), Worker(bus=local_bus),
        )  # fmt: skip
        for one in own:
            with pytest.raises(TypeError, match=f"a {type(one).__name__} belongs to its process, and is not copied"):
                way(one)


def test_who_tries_to_copy_a_subscription_keeps_it(local_bus: EventBus) -> None:
    with local_bus.subscribe("n") as events:
        with pytest.raises(TypeError):
            copy.copy(events)
        gc.collect()
        local_bus.publish("n", make_event(1))
        assert events.get(timeout=0)
