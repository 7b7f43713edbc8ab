"""Programs that are a worker, and get signals."""

import multiprocessing
import os
import random
import signal
import threading
import time

from aether_sync import ANY_VERSION, Delivery, Event, JetStreamEventStore, NATSEventBus, RetryPolicy, Worker

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


def ends_without_a_word() -> None:
    """Leave a worker whose periodic work takes a moment."""
    worker, begun = Worker(), threading.Event()

    @worker.every(60)
    def work() -> None:
        begun.set()
        threading.Event().wait(0.3)
        print("done", flush=True)

    worker.start()
    begun.wait(PATIENCE)


def handles_what_it_can(url: str, stream: str, ack_wait: str, path: str) -> None:
    """Handle events, of which some fail at random, and some always; each call is noted in a file."""
    worker = Worker(store=JetStreamEventStore(url, stream))
    notes = os.open(path, os.O_WRONLY | os.O_APPEND)
    policy = RetryPolicy((0.01, 0.1), never=(ValueError,))

    @worker.consume("c", threads=4, ack_wait=float(ack_wait), max_deliver=1_000, retry_delay=policy)
    def handle(delivery: Delivery) -> None:
        threading.Event().wait(0.02)
        outcome = "done"
        if delivery.event.data["n"] % 50 == 7:  # type: ignore[index]
            outcome = "never"
        elif random.random() < 0.1:
            outcome = "failed"
        about = os.getpid(), delivery.event.actor_id, delivery.sequence, delivery.attempt, outcome
        os.write(notes, f"{' '.join(map(str, about))}\n".encode())
        if outcome != "done":
            raise ValueError(outcome) if outcome == "never" else ConnectionError(outcome)

    worker.run()


def forks() -> None:
    """Have processes that were forked in a handler end by SIGTERM, as early as may be."""
    worker, context = Worker(), multiprocessing.get_context("fork")

    @worker.every(60)
    def work() -> None:
        codes = set()
        for _ in range(20):
            child = context.Process(target=time.sleep, args=(PATIENCE,))
            child.start()
            child.terminate()
            child.join(PATIENCE / 4)
            codes.add(child.exitcode)
            child.kill()
        print(codes, flush=True)
        with context.Pool(2) as pool:
            print(sum(pool.map(abs, range(5))), flush=True)
        os.kill(os.getpid(), signal.SIGTERM)

    worker.run(grace=PATIENCE)
    print("ended", flush=True)
