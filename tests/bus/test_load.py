"""Under load: many threads and subscriptions, busy processors, hostile log handlers: nothing hangs or leaks."""

import asyncio
import gc
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aether_sync import (
    BusClosedError,
    DeadlineExceededError,
    DeliveryUncertainError,
    Event,
    NATSEventBus,
    NATSServer,
    PublishTimeoutError,
    Subscription,
    SubscriptionClosedError,
)

from ..support.common import PATIENCE, UNIT, Monitor, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import channel_of, client_of, prefix_of

MakeBus = Callable[..., NATSEventBus]

#: The promise is made for 1; a slow machine may try a part of it.
PART = float(os.environ.get("AETHER_TEST_LOAD", "1"))
MARGIN = 3 * UNIT  # seconds: how late a call may end when everybody is busy


# -- many threads, many subscriptions


@pytest.mark.slow
@pytest.mark.concurrent
def test_200_threads_publish_iterate_subscribe_and_close_at_once(make_bus: MakeBus, monitor: Monitor) -> None:
    one, other = make_bus(), make_bus()
    each = 25
    shared = other.subscribe("load.>", "load.*")
    got: list[Counter[tuple[str, int]]] = []

    def publish(k: int) -> None:
        for n in range(each):
            one.publish(f"load.{k}", make_event(n))

    def iterate() -> None:
        seen = Counter((event.namespace, event.data["n"]) for event in shared)
        got.append(seen)

    def come_and_go(k: int) -> None:
        for n in range(each // 5):
            with one.subscribe(f"load.{k}", "load.*"), other.subscribe(f"load.{n}.>", f"load.{k}"):
                pass

    def close_under_a_reader(k: int) -> None:
        subscription = other.subscribe(f"load.{k}")
        closer = threading.Thread(target=subscription.close)
        closer.start()
        last = -1
        for event in subscription:
            assert event.data["n"] > last
            last = event.data["n"]
        closer.join(PATIENCE)

    def close_when_all_is_there() -> None:
        eventually(lambda: shared.stats().offered == 50 * each, "all events")
        shared.close()

    works: list[Callable[[], None]] = [close_when_all_is_there, *[iterate] * 49]
    for k in range(50):
        works += [lambda k=k: publish(k), lambda k=k: come_and_go(k), lambda k=k: close_under_a_reader(k)]  # type: ignore[misc]
    run_threads(*works)
    assert sum(got, Counter()) == Counter((f"load.{k}", n) for k in range(50) for n in range(each))
    for bus in (one, other):
        assert bus.metrics().active_subscriptions == 0
        eventually(lambda bus=bus: monitor.subscriptions_of(bus) == [], "no subscription")  # type: ignore[misc]
        assert bus.metrics().reconnects == 0


@pytest.mark.slow
@pytest.mark.concurrent
def test_10_000_subscriptions_leave_nothing(make_bus: MakeBus, monitor: Monitor) -> None:
    bus, total, threads = make_bus(), int(10_000 * PART), 10

    def open_and_close(thread: int, count: int) -> None:
        held: list[Subscription] = []
        for n in range(count):
            name = f"many.{thread}.{n % 100}"  # each comes in the first round: what is kept by namespace is bounded
            held.append(bus.subscribe(name, "many.*.shared"))
            bus.publish(name, make_event(n))
            if len(held) == 50:
                assert numbers(one.get(timeout=PATIENCE) for one in held) == list(range(n - 49, n + 1))
                for one in held:
                    one.close()
                held.clear()
        for one in held:
            one.close()

    def round_of(count: int) -> int:
        run_threads(*(lambda t=t: open_and_close(t, count // threads) for t in range(threads)))  # type: ignore[misc]
        bus.flush(PATIENCE)
        eventually(lambda: monitor.subscriptions_of(bus) == [], "no subscription")
        gc.collect()
        bus.metrics()  # takes in what finalizers have left
        return sys.getallocatedblocks()

    before = round_of(total // 5)
    after = round_of(total - total // 5)
    assert after - before < total / 2, "blocks of memory that are still there"  # one object each would be more
    metrics = bus.metrics()
    assert (metrics.active_subscriptions, metrics.subscriptions, metrics.pending) == (0, (), 0)
    assert (metrics.delivered, metrics.dropped, metrics.reconnects) == (total, 0, 0)


@pytest.mark.slow
def test_an_event_that_comes_by_several_patterns_is_counted_once(make_bus: MakeBus) -> None:
    bus, other, total = make_bus(), make_bus(), int(20_000 * PART)
    with bus.subscribe("a.*", maxsize=total) as one, bus.subscribe("a.>", "a.b", maxsize=total) as two:
        for start in range(0, total, 1_000):
            other.publish_many("a.b", [make_event(start + n) for n in range(1_000)])
        eventually(lambda: one.stats().offered == two.stats().offered == total, "all events")
        assert bus.metrics().received == total


def outcome_of(subscribe: Callable[[], Subscription], timeout: float) -> Subscription | None:
    """A subscription, or None after an error that says why; in time in either case."""
    start = time.monotonic()
    try:
        return subscribe()
    except DeadlineExceededError as error:
        assert re.search("not connected to .*: .|has not confirmed it", str(error))  # noqa: PT017  # either may come
        return None
    finally:
        assert time.monotonic() - start < timeout + MARGIN


def check_wanted(bus: NATSEventBus, monitor: Monitor, server: NATSServer, opened: dict[str, Subscription]) -> None:
    """The server has the subscriptions that were opened, and no other; each gets its events, and once."""
    subjects = sorted((f"{prefix_of(bus)}.events.{name}", "") for name in opened)
    eventually(lambda: monitor.subscriptions_of(bus) == subjects, "exactly the wanted subscriptions")
    with NATSEventBus(server.url, prefix=prefix_of(bus)) as other:
        for n, name in enumerate(opened):
            other.publish(name, make_event(n))
        other.flush(PATIENCE)
        for n, subscription in enumerate(opened.values()):
            assert numbers([subscription.get(timeout=PATIENCE)]) == [n]
        bus.publish("over", make_event())
        bus.flush(PATIENCE)
    for subscription in opened.values():
        assert subscription.get_batch(1, timeout=0) == []
        subscription.close()
    eventually(lambda: monitor.subscriptions_of(bus) == [], "no subscription")


@pytest.mark.fault
@pytest.mark.concurrent
def test_a_subscription_storm_during_restarts_ends_as_wanted(
    make_bus: MakeBus, own_server: NATSServer, own_monitor: Monitor
) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    opened: dict[str, Subscription] = {}
    over = threading.Event()

    def storm(k: int) -> None:
        for n in range(8):
            timeout = PATIENCE if n % 2 else 0.05 * UNIT
            name = f"storm.{k}.{n}"
            subscription = outcome_of(lambda name=name, timeout=timeout: bus.subscribe(name, timeout=timeout), timeout)  # type: ignore[misc]
            assert subscription is not None or not n % 2, "there was time enough"
            if subscription is not None and n % 4 == 1:
                subscription.close()
            elif subscription is not None:
                opened[name] = subscription

    def break_it() -> None:
        while not over.is_set():
            own_server.restart()
            over.wait(0.3 * UNIT)
            own_server.kill()
            own_server.start()
            over.wait(0.7 * UNIT)

    breaker = threading.Thread(target=break_it)
    breaker.start()
    try:
        run_threads(*(lambda k=k: storm(k) for k in range(40)))  # type: ignore[misc]
    finally:
        over.set()
        breaker.join(PATIENCE)
    assert len(opened) >= 40 * 2
    check_wanted(bus, own_monitor, own_server, opened)


def have_it_given_up(bus: NATSEventBus) -> None:
    """Have nats-py close its client for good, as it does when it reads this error."""
    client = client_of(bus)
    channel_of(bus).call_soon(lambda: asyncio.ensure_future(client._process_err("'user authentication expired'")))


@pytest.mark.fault
@pytest.mark.parametrize("by_another_client", first_of([True, False]), ids=["another client", "the same client"])
def test_a_subscription_storm_on_a_frozen_server_leaves_nothing(
    make_bus: MakeBus, own_server: NATSServer, own_monitor: Monitor, by_another_client: bool
) -> None:
    """More commands than nats-py's own queue holds, and nobody to take them."""
    bus = make_bus(own_server.url, ping_interval=PATIENCE, outbox_bytes=2**23, publish_timeout=0.0)
    opened = {"kept": bus.subscribe("kept")}
    own_server.pause()
    payload = make_event(data={"text": "x" * 60_000})
    with pytest.raises(PublishTimeoutError):  # fills what the kernel takes, and the transport's buffer
        for _ in range(1_000):
            bus.publish("nobody", payload)
    eventually(lambda: bus.metrics().outbox_events < bus.metrics().published, "something in flight")
    for n in range(int(1_500 * PART)):
        assert outcome_of(lambda n=n: bus.subscribe(f"frozen.{n}", timeout=0.0), 0.0) is None  # type: ignore[misc]
    if by_another_client:
        have_it_given_up(bus)
    own_server.kill()
    own_server.start()
    eventually(lambda: bus.metrics().reconnects, "a reconnect")
    with pytest.raises(DeliveryUncertainError):
        bus.flush(PATIENCE)
    opened["new"] = bus.subscribe("new", timeout=PATIENCE)
    check_wanted(bus, own_monitor, own_server, opened)


# -- log handlers are user code


@contextmanager
def logging_to(emit: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            emit(record)

    handler, logger = Handler(), logging.getLogger("aether_sync")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


@pytest.mark.fault
def test_nobody_waits_for_a_log_handler_that_blocks(own_server: NATSServer, prefix: str) -> None:
    release, blocked = threading.Event(), threading.Event()

    def block(_: logging.LogRecord) -> None:
        blocked.set()
        release.wait()

    try:
        with logging_to(block), NATSEventBus(own_server.url, prefix=prefix) as other:
            bus = NATSEventBus(own_server.url, prefix=prefix)
            small, large = bus.subscribe("n", maxsize=1), bus.subscribe("n")
            other.publish_many("n", [make_event(n) for n in range(10)])
            assert blocked.wait(PATIENCE)
            assert numbers(large.get(timeout=PATIENCE) for _ in range(10)) == list(range(10))
            other.flush(PATIENCE)
            own_server.restart()
            eventually(lambda: bus.metrics().reconnects and other.metrics().reconnects, "two reconnects")
            other.publish("n", make_event(10))
            assert numbers([large.get(timeout=PATIENCE)]) == [10]
            other.flush(PATIENCE)
            with bus.subscribe("more", timeout=PATIENCE):
                bus.publish("n", make_event(11))
                bus.flush(PATIENCE)
            start = time.monotonic()
            assert bus.close(0.3 * UNIT)
            assert time.monotonic() - start < 0.3 * UNIT + MARGIN
            assert (small.stats().offered, small.stats().dropped) == (12, 11)
            assert other.close(0.3 * UNIT)
    finally:
        release.set()


@pytest.mark.fault
def test_a_log_handler_may_publish_to_the_bus_that_logs(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus, other = make_bus(own_server.url), make_bus(own_server.url)
    logged: list[str] = []

    def publish(record: logging.LogRecord) -> None:
        logged.append(record.getMessage())
        with suppress(BusClosedError):  # it logs once more when it has closed with something left undone
            bus.publish("log", Event(event_type="Logged", actor_id="log", data={"text": record.getMessage()}))

    with other.subscribe("log") as log, bus.subscribe("n", "log", maxsize=1) as small, logging_to(publish):
        other.publish_many("n", [make_event(n) for n in range(10)])  # logged by the thread that logs for the loop
        assert "drops events" in log.get(timeout=PATIENCE).data["text"]
        own_server.restart()
        eventually(lambda: any("again" in text for text in logged), "a reconnect in the log")
        with bus.subscribe("n", maxsize=1):
            bus.publish_many("n", [make_event(n) for n in range(10)])  # logged by this thread
        assert not bus.close(PATIENCE).timed_out
        assert small.stats().offered >= 20


@pytest.mark.fault
def test_a_log_handler_that_raises_harms_nobody(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus, other = make_bus(own_server.url), make_bus(own_server.url)
    logged: list[str] = []

    def fail(record: logging.LogRecord) -> None:
        logged.append(record.getMessage())
        raise RuntimeError("disk full")

    with bus.subscribe("n", maxsize=1) as small, bus.subscribe("n") as large, logging_to(fail):
        other.publish_many("n", [make_event(n) for n in range(10)])
        assert numbers(large.get(timeout=PATIENCE) for _ in range(10)) == list(range(10))
        own_server.restart()
        eventually(lambda: any("again" in text for text in logged), "a reconnect in the log")
        eventually(lambda: other.is_connected and bus.is_connected, "both connected")
        other.publish("n", make_event(10))
        assert numbers([large.get(timeout=PATIENCE)]) == [10]
        assert small.stats().dropped == 10


# -- busy processors


@pytest.mark.parametrize("bursts", first_of([10, int(20 * PART)]))
def test_a_consumer_that_burns_cpu_disconnects_nobody(make_bus: MakeBus, bursts: int) -> None:
    each, over, reading = 100, threading.Event(), threading.Event()
    busy, bus, publisher = (make_bus(ping_interval=0.4 * UNIT) for _ in range(3))
    burning = busy.subscribe("n", maxsize=each // 2)

    def burn() -> None:
        for _ in burning:
            end = time.thread_time() + 0.002
            while time.thread_time() < end and not over.is_set():
                pass

    def publish() -> None:
        assert reading.wait(PATIENCE)
        for burst in range(bursts):
            publisher.publish_many("n", [make_event(burst * each + n) for n in range(each)])
            over.wait(0.1 * UNIT)  # so that it takes several times the ping interval
        publisher.flush(PATIENCE)

    def read() -> None:
        try:
            with bus.subscribe("n") as events:
                reading.set()
                assert numbers(events.get(timeout=PATIENCE) for _ in range(bursts * each)) == list(range(bursts * each))
            eventually(lambda: burning.stats().offered == bursts * each, "all events at the other bus")
        finally:
            over.set()
            burning.close()

    run_threads(burn, burn, publish, read)
    stats = burning.stats()
    assert stats.offered == bursts * each == stats.delivered + stats.dropped
    assert stats.dropped_by_reason["maxsize"] > 0, "it was not slow"
    assert [one.metrics().reconnects for one in (busy, bus, publisher)] == [0, 0, 0]


def work(url: str, prefix: str, interval: str = "") -> None:
    """What a process under test does: two nodes, threads that publish, read, come and go; it prints what it counted."""
    if interval:
        sys.setswitchinterval(float(interval))
    each = int(250 * PART)
    with NATSEventBus(url, prefix=prefix, ping_interval=UNIT) as one, NATSEventBus(url, prefix=prefix) as other:
        subscription = other.subscribe("work.>", "work.*")
        group = [bus.subscribe("work.*", queue_group="g") for bus in (one, other)]
        counted: list[int] = []

        def publish(k: int) -> None:
            for n in range(each):
                one.publish(f"work.{k}", make_event(n))
            one.publish_many(f"work.{k}", [make_event(n) for n in range(each)])
            one.flush(PATIENCE)

        def read() -> None:
            counted.append(sum(1 for _ in subscription))

        def come_and_go() -> None:
            for n in range(10):
                with other.subscribe(f"work.{n}.>", timeout=PATIENCE), one.subscribe("work.*", timeout=PATIENCE):
                    pass

        def close() -> None:
            eventually(lambda: subscription.stats().offered == 8 * each, "all events")
            subscription.close()

        run_threads(*(lambda k=k: publish(k) for k in range(4)), *[read] * 4, *[come_and_go] * 4, close)  # type: ignore[misc]
        eventually(lambda: sum(one.stats().offered for one in group) == 8 * each, "each event for the group once")
        for one_of in group:
            one_of.close()
        reconnects = one.metrics().reconnects + other.metrics().reconnects
    try:
        subscription.get(timeout=0)
    except SubscriptionClosedError:
        print(sum(counted), reconnects)


@pytest.mark.parametrize(
    ("flags", "variables", "arguments"),
    [
        pytest.param([], {}, ["1e-6"], id="threads switched every microsecond"),
        pytest.param([], {}, ["1.0"], id="threads switched every second"),
        pytest.param(["-X", "dev", "-W", "error"], {}, [], id="-X dev"),
        pytest.param(["-W", "error"], {"PYTHONASYNCIODEBUG": "1"}, [], id="PYTHONASYNCIODEBUG=1"),
    ],
)
@pytest.mark.slow
def test_another_interpreter_works_as_well(
    server: NATSServer, prefix: str, flags: list[str], variables: dict[str, str], arguments: list[str]
) -> None:
    command = [sys.executable, *flags, "-m", "tests.bus.test_load", server.url, prefix, *arguments]
    done = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=os.environ | variables,
        capture_output=True,
        text=True,
        timeout=PATIENCE * 3,
        check=False,
    )
    # asyncio's debug mode tells of a callback that took 0.1 s by the clock: on a busy machine that means nothing.
    told = [line for line in done.stderr.splitlines() if not ("Executing <" in line and " took " in line)]
    assert told == []
    assert done.returncode == 0
    assert done.stdout.split() == [str(8 * int(250 * PART)), "0"]


if __name__ == "__main__":
    work(*sys.argv[1:])
