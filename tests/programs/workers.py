"""Programs that are a worker, and get signals."""

import threading

from aether_sync import ANY_VERSION, Delivery, Event, JetStreamEventStore, NATSEventBus, Worker

from ..support.common import PATIENCE


def runs(url: str, stream: str, how: str, grace: str) -> None:
    """Handle an event, which takes a moment, or for ever."""
    bus, store = NATSEventBus(url, prefix=stream), JetStreamEventStore(url, f"{stream}-s")
    worker = Worker(bus=bus, store=store)

    @worker.consume("c", threads=1)
    def handle(delivery: Delivery) -> None:
        print("begun", flush=True)
        threading.Event().wait(0.3 if how == "moment" else None)
        bus.publish("done", Event(event_type="Done", actor_id="a"))
        print("handled", flush=True)

    store.append("a", Event(event_type="T", actor_id="a"), expected_version=ANY_VERSION)
    worker.run(grace=float(grace))
    print("ended", store.closed, bus.closed, flush=True)


def fails(url: str, stream: str) -> None:
    """Have the consumer deleted while it runs."""
    store = JetStreamEventStore(url, stream)
    worker = Worker(store=store)

    @worker.consume("c")
    def handle(delivery: Delivery) -> None:
        delivery.ack(confirm=True)
        store.consumer("c").delete()

    store.append("a", Event(event_type="T", actor_id="a"), expected_version=ANY_VERSION)
    worker.run()


def waits_for_a_server(url: str) -> None:
    """Begin while there is no server."""
    store = JetStreamEventStore(url, "s", connect="background")
    worker = Worker(store=store)
    worker.consume("c")(lambda delivery: None)
    threading.Timer(0.2, print, ["waiting"], {"flush": True}).start()
    worker.run(grace=PATIENCE)
    print("ended", flush=True)
