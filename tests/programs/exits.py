"""Programs that end without closing anything, in each way in which a program can end."""

import asyncio
import atexit
import gc
import multiprocessing
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterable
from typing import Never

from aether_sync import (
    ClosedError,
    ConnectError,
    Event,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    Subscription,
    SubscriptionClosedError,
    connection,
)

PATIENCE = 20 * float(os.environ.get("AETHER_TEST_UNIT", "1"))

kept: list[object] = []  # what lives until the interpreter ends


def event(n: int = 0) -> Event:
    return Event(event_type="Happened", actor_id="exit-1", version=n)


def a_bus(url: str, prefix: str, **options: object) -> NATSEventBus:
    bus = NATSEventBus(url, prefix=prefix, **options)  # type: ignore[arg-type]
    kept.append(bus)
    return bus


def unclosed(url: str, prefix: str) -> None:
    a_bus(url, prefix).publish_many("n", [event(n) for n in range(100)])


def closed_by_atexit(url: str, prefix: str) -> None:
    bus = a_bus(url, prefix)
    atexit.register(bus.close)
    bus.publish_many("n", [event(n) for n in range(100)])


def collected(url: str, prefix: str) -> None:
    """A function makes a bus, publishes and forgets it; the collector comes by, and the program is at its end."""

    def work() -> None:
        bus = NATSEventBus(url, prefix=prefix)
        bus.publish_many("n", [event(n) for n in range(20_000)])

    work()
    gc.collect()


def with_an_exception(url: str, prefix: str) -> Never:
    unclosed(url, prefix)
    raise KeyError("of the program")


def iterating(url: str, prefix: str, kind: str, read: str) -> None:
    """A thread, daemon or normal, or a coroutine in it, waits for an event when the main thread is done."""
    bus: EventBus = a_bus(url, prefix) if url else EventBus()
    kept.append(bus)
    groups = [bus.subscribe("own", queue_group=f"g{n}") for n in range(5)]
    events = bus.subscribe("own")
    kept.append(groups)
    ready = threading.Event()

    def iterate() -> None:
        ready.set()
        for _ in events:
            pass
        print("the iteration ended", flush=True)

    def get() -> None:
        ready.set()
        try:
            events.get(timeout=None)
        except SubscriptionClosedError:
            print("the iteration ended", flush=True)

    async def iterate_in_a_coroutine() -> None:
        ready.set()
        async for _ in events:
            pass
        print("the iteration ended", flush=True)

    works = {"for": iterate, "get": get, "async for": lambda: asyncio.run(iterate_in_a_coroutine())}
    threading.Thread(target=works[read], daemon=kind == "daemon").start()
    ready.wait()
    bus.publish_many("n", [event(n) for n in range(100)])


def a_thread_works_on(url: str, prefix: str) -> None:
    """The main thread is done; a normal thread takes what is queued, publishes for it, and may not subscribe again."""
    bus = a_bus(url, prefix)
    events = bus.subscribe("jobs")
    bus.publish_many("jobs", [event(n) for n in range(100)])

    def work(subscription: Subscription) -> None:
        threading.main_thread().join()
        for job in subscription:
            bus.publish("n", job)
            time.sleep(0.001)
        bus.subscribe("jobs")  # raises, in this thread

    threading.Thread(target=work, args=(events,)).start()


def terminated(url: str, prefix: str, handler: str) -> None:
    """Blocked in an iteration on the main thread, until a SIGTERM comes."""
    bus = a_bus(url, prefix)
    if handler == "close":
        # Not by print(): the signal may come while the main thread is still in one.
        signal.signal(signal.SIGTERM, lambda *_: os.write(1, f"{bool(bus.close())}\n".encode()))
    elif handler == "exit":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    with bus.subscribe("own") as events:
        bus.publish_many("n", [event(n) for n in range(100)])
        print("ready", flush=True)
        for _ in events:
            pass


def without_a_server(url: str, prefix: str, count: str, noticed: str = "", at_exit: str = "5") -> None:
    """The test breaks the server; then this ends, with as many connections and events that wait, in so many seconds."""
    connection._AT_EXIT = float(at_exit)
    buses = [a_bus(url, prefix, connect_timeout=0.2) for _ in range(int(count))]
    for bus in buses:
        bus.start()
    print("connected", flush=True)
    sys.stdin.readline()
    while noticed and any(bus.is_connected for bus in buses):  # what is written before would be uncertain
        time.sleep(0.002)
    for bus in buses:
        bus.publish("n", event())
    print("published", flush=True)


def never_connected(url: str, prefix: str) -> None:
    bus = a_bus(url, prefix, connect_timeout=0.3)
    try:
        bus.publish("n", event())
    except ConnectError:
        bus.publish("n", event())  # waits in the outbox


def names_are_never_answered(prefix: str, seconds: str) -> None:
    looked_up: list[object] = []

    def getaddrinfo(*question: object) -> Never:
        looked_up.append(question)
        threading.Event().wait()
        raise AssertionError

    socket.getaddrinfo = getaddrinfo
    bus = a_bus("nats://nowhere.example:4222", prefix, connect_timeout=0.3)
    for _ in range(2):
        try:
            bus.start()
        except ConnectError as error:
            print(error, flush=True)
    time.sleep(float(seconds))  # several attempts
    assert len(looked_up) == 1, looked_up


def _in_a_process(url: str, prefix: str) -> None:
    iterating(url, prefix, "normal", "for")


def processes(url: str, prefix: str, method: str) -> None:
    child = multiprocessing.get_context(method).Process(target=_in_a_process, args=(url, prefix))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0, child.exitcode


def a_pool_iterates(url: str, prefix: str, what: str, when: str) -> None:
    """The threads of a pool, of a module that is imported after this library, iterate when the main thread is done."""
    from concurrent.futures import ThreadPoolExecutor

    def begin() -> Iterable[object]:
        if what == "memory":
            return memory.follow()
        if what == "subscription":
            return a_bus(url, prefix).subscribe("own")
        store = JetStreamEventStore(url, prefix)
        kept.append(store)
        if what == "follower":
            return store.follow()
        if what == "consumption":
            return store.consumer("c").iterate()
        runner = store.consumer("c").run(print)
        return iter(runner.wait, True)

    def iterate() -> None:
        if when == "late":
            while not threading._SHUTTING_DOWN:  # type: ignore[attr-defined]
                time.sleep(0.002)
            time.sleep(0.2)
        try:
            for _ in begun or begin():
                pass
        except ClosedError as error:
            print(f"{type(error).__name__}: {error}", flush=True)
        print("the iteration ended", flush=True)

    memory = InMemoryEventStore()
    begun = begin() if when == "before" else None
    kept.append(begun)
    ready = threading.Event()
    pool = ThreadPoolExecutor()
    kept.append(pool)
    pool.submit(ready.set)
    pool.submit(iterate)
    ready.wait()
    time.sleep(0.2)


def a_pool_in_a_process(url: str, prefix: str, what: str, method: str) -> None:
    child = multiprocessing.get_context(method).Process(target=a_pool_iterates, args=(url, prefix, what, "before"))
    child.start()
    child.join(PATIENCE)
    assert child.exitcode == 0, child.exitcode


def a_first_use_at_the_end(url: str, prefix: str) -> None:
    """A normal thread uses a bus for the first time when the main thread is done."""
    bus = a_bus(url, prefix)

    def work() -> None:
        threading.main_thread().join()
        time.sleep(0.2)
        try:
            bus.publish_many("n", [event(n) for n in range(100)])
            bus.flush()
        except ClosedError as error:
            print(f"refused: {error}", flush=True)
        except BaseException:
            traceback.print_exc()
        else:
            print("published", flush=True)

    threading.Thread(target=work).start()
