"""``Worker.start(threads=)``: as many for each consumer, and none for the bus."""

import pytest

from aether_sync import Delivery, Event, EventBus, InMemoryEventStore, InvalidOptionError, Worker


@pytest.mark.parametrize(("wanted", "found"), [(None, {"c": 2, "orders": 3}), (7, {"c": 7, "orders": 3})])
def test_the_threads_of_consumers(wanted: int | None, found: dict[str, int], local_bus: EventBus) -> None:
    with InMemoryEventStore() as store:
        worker = Worker(bus=local_bus, store=store)

        @worker.consume("c", threads=2)
        def one(delivery: Delivery) -> None: ...

        @worker.on("orders", threads=3)
        def another(event: Event) -> None: ...

        worker.start(threads=wanted)
        assert {handler.of: handler.threads for handler in worker.metrics().handlers} == found
        assert store.consumer("c").state() is not None
        worker.close()


def test_no_thread_at_all() -> None:
    with InMemoryEventStore() as store:
        worker = Worker(store=store)
        worker.consume("c")(lambda delivery: None)
        with pytest.raises(InvalidOptionError, match="threads must be a whole number, 1 or more"):
            worker.start(threads=0)
        worker.start()
        worker.close()
