"""Closing, at every moment: within its deadline, with every waiting thread released, and a report that is true."""

import queue
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    AetherError,
    BusClosedError,
    ClosedError,
    CloseReport,
    Connection,
    DeliveryUncertainError,
    EventBus,
    NATSEventBus,
    NATSServer,
)

from ..support.common import PATIENCE, UNIT, Keep, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import channel_of, connection_of, outbox_of
from ..support.proxy import Proxy

MakeBus = Callable[..., NATSEventBus]

#: Seconds over its deadline that a close may take on a busy machine.
MARGIN = 0.5 * UNIT


def close_in_time(bus: EventBus | Connection, timeout: float) -> CloseReport:
    begun = time.monotonic()
    report = bus.close(timeout)
    took = time.monotonic() - begun
    assert took < timeout + MARGIN, f"close({timeout:g}) took {took:.2f} s"
    return report


class Waiters:
    """Threads that wait in calls without an end, and what became of them."""

    def __init__(self, *calls: Callable[[], object]) -> None:
        self._ends: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._wait, args=(call,), daemon=True) for call in calls]
        for thread in self._threads:
            thread.start()
        time.sleep(0.1 * UNIT)  # there is nothing to see of a thread that has begun to wait
        assert all(thread.is_alive() for thread in self._threads), self._ends.get()

    def _wait(self, call: Callable[[], object]) -> None:
        try:
            self._ends.put(call())
        except BaseException as error:
            self._ends.put(error)

    def assert_released(self) -> None:
        for thread in self._threads:
            thread.join(MARGIN)
        assert not [thread for thread in self._threads if thread.is_alive()]
        ends = [self._ends.get() for _ in self._threads]
        assert not [end for end in ends if not isinstance(end, ClosedError)], ends


@pytest.fixture
def silent() -> Iterator[str]:
    """The URL of something that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"nats://127.0.0.1:{listener.getsockname()[1]}"


def calls_of(bus: NATSEventBus) -> list[Callable[[], object]]:
    """Calls that wait for a connection, for ever."""
    return [
        lambda: bus.wait_connected(None),
        lambda: bus.subscribe("fresh", timeout=None),
        lambda: bus.flush(None),
    ]


# -- before there is a connection


def test_before_the_first_use(make_bus: MakeBus) -> None:
    bus = make_bus()
    assert close_in_time(bus, 0)
    for call in (bus.start, lambda: bus.publish("n", make_event()), lambda: bus.subscribe("n"), bus.flush):
        with pytest.raises(BusClosedError):
            call()


@pytest.mark.parametrize("timeout", [0, 0.3])
def test_while_connecting(silent: str, timeout: float) -> None:
    bus = NATSEventBus(silent, connect_timeout=PATIENCE)
    waiting = Waiters(bus.start, lambda: bus.publish("n", make_event()), *calls_of(bus)[:2])
    assert close_in_time(bus, timeout)
    waiting.assert_released()


def test_while_a_name_is_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()

    def getaddrinfo(*_: object) -> list[Any]:
        answered.wait(PATIENCE)
        raise socket.gaierror("nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    bus = NATSEventBus("nats://nowhere.example", connect_timeout=PATIENCE)
    waiting = Waiters(bus.start)
    try:
        assert close_in_time(bus, 0.3)
        waiting.assert_released()
    finally:
        answered.set()


def test_after_a_first_attempt_that_failed(free_port: int) -> None:
    bus = NATSEventBus(f"nats://127.0.0.1:{free_port}", connect_timeout=0.2 * UNIT)
    with pytest.raises(AetherError):
        bus.start()
    bus.publish("n", make_event())
    waiting = Waiters(*calls_of(bus))
    report = close_in_time(bus, 0.3)
    assert (report.unsent, report.uncertain, report.timed_out) == (1, 0, False)
    waiting.assert_released()


# -- when the server is gone


@pytest.mark.fault
def test_while_reconnecting(make_bus: MakeBus, own_server: NATSServer, keep: Keep) -> None:
    bus = make_bus(own_server.url, outbox_events=5, publish_timeout=PATIENCE)
    events = keep(bus.subscribe("n"))
    own_server.stop()
    eventually(lambda: not bus.is_connected, "the disconnect")
    bus.publish_many("m", [make_event()] * 5)
    waiting = Waiters(
        *calls_of(bus),
        lambda: bus.publish("m", make_event()),
        lambda: events.get(timeout=None),
        lambda: bus.flush(None),
    )
    report = close_in_time(bus, 0.5)
    assert (report.unsent, report.uncertain) == (5, 0)
    waiting.assert_released()


@pytest.mark.fault
@pytest.mark.parametrize("timeout", first_of([0.5, 0]))
def test_a_frozen_server_and_a_full_outbox(make_bus: MakeBus, own_server: NATSServer, timeout: float) -> None:
    """Bytes fill the outbox, asyncio's buffer and the kernel's, and nobody reads."""
    bus = make_bus(own_server.url, outbox_bytes=2**20, publish_timeout=PATIENCE)
    bus.publish("n", make_event())
    bus.flush(PATIENCE)
    own_server.pause()
    accepted = 0

    def fill() -> None:
        nonlocal accepted
        while True:
            bus.publish("n", make_event(data={"fill": "x" * 100_000}))
            accepted += 1

    waiting = Waiters(fill)
    eventually(lambda: bus.metrics().outbox_bytes > 2**19, "an outbox that is full, and not yet half empty")
    report = close_in_time(bus, timeout)
    assert report.unsent + report.uncertain == accepted
    assert bus.metrics().confirmed == 1
    assert report.unsent >= 5
    waiting.assert_released()


@pytest.mark.fault
def test_a_close_whose_turn_never_comes(make_bus: MakeBus, own_server: NATSServer) -> None:
    """Something holds the loop past the deadline: the report is true all the same, and who waits is released."""
    bus = make_bus(own_server.url)
    bus.start()
    own_server.pause()
    bus.publish_many("n", [make_event()] * 10)
    eventually(lambda: bus.metrics().outbox_events == 0, "an empty outbox")
    waiting = Waiters(lambda: bus.subscribe("n", timeout=None))
    channel_of(bus).call_soon(lambda: time.sleep(0.15))
    report = close_in_time(bus, 0.05)
    assert (report.uncertain, report.unsent, report.timed_out) == (10, 0, True)
    waiting.assert_released()


@pytest.mark.fault
@pytest.mark.parametrize("count", first_of([2, 5]))
def test_while_reconnecting_to_a_frozen_server(make_bus: MakeBus, own_server: NATSServer, count: int) -> None:
    """An attempt is under way: the kernel has accepted it, the server says nothing."""
    buses = [make_bus(own_server.url, ping_interval=0.1) for _ in range(count)]
    for bus in buses:
        bus.start()
    own_server.pause()
    for bus in buses:
        eventually(lambda bus=bus: not bus.is_connected, "the disconnect")  # type: ignore[misc]
    for bus in buses:
        time.sleep(random.uniform(0, 0.6))
        assert close_in_time(bus, 0.5)


@pytest.mark.fault
def test_while_a_confirmation_is_due(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    own_server.pause()
    waiting = Waiters(*(lambda n=n: bus.subscribe(f"n.{n}", timeout=None) for n in range(3)))  # type: ignore[misc]
    assert close_in_time(bus, 0.3)
    waiting.assert_released()
    assert bus.metrics().active_subscriptions == 0


@pytest.mark.fault
def test_queue_groups_on_a_frozen_server(make_bus: MakeBus, own_server: NATSServer, keep: Keep) -> None:
    bus = make_bus(own_server.url)
    members = [keep(bus.subscribe("n", queue_group=f"g{n}")) for n in range(5)]
    own_server.pause()
    waiting = Waiters(*(lambda one=one: one.get(timeout=None) for one in members))  # type: ignore[misc]
    close_in_time(bus, 0.5)
    waiting.assert_released()


@pytest.mark.fault
def test_while_the_server_comes_and_goes(make_bus: MakeBus, own_server: NATSServer) -> None:
    for _ in range(5):
        bus = make_bus(own_server.url)
        bus.publish_many("n", [make_event()] * 100)
        restarting = threading.Thread(target=own_server.restart)
        restarting.start()
        time.sleep(random.uniform(0, 0.05))
        close_in_time(bus, 1.0)
        restarting.join()


# -- who closes


def test_from_two_threads(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    own_server.pause()
    bus.publish("n", make_event())
    reports: list[CloseReport] = []
    run_threads(*[lambda: reports.append(close_in_time(bus, 0.5))] * 4)
    assert len(set(reports)) == 1
    assert reports[0].uncertain == 1
    assert bus.close() == reports[0]


def test_from_inside_an_iteration(make_bus: MakeBus) -> None:
    here, there = make_bus(), make_bus()
    events = here.subscribe("n")
    others = threading.Thread(target=lambda: list(events))
    there.publish_many("n", [make_event(n) for n in range(10)])
    eventually(lambda: events.stats().pending == 10, "10 events")
    got = []
    for event in events:
        got.append(event)
        if len(got) == 3:
            others.start()
            assert here.close(PATIENCE)
    others.join(PATIENCE)
    assert numbers(got)[:3] == [0, 1, 2]
    assert events.stats().delivered == 10


@pytest.mark.concurrent
@pytest.mark.parametrize("what", first_of(["flush", "get", "subscribe", "wait", "publish", "close"]))
def test_from_a_signal_handler(make_bus: MakeBus, own_server: NATSServer, what: str) -> None:
    """Over each call that waits, with a server that does not answer."""
    bus = make_bus(own_server.url, outbox_events=1, publish_timeout=PATIENCE)
    events = bus.subscribe("n")
    if what == "wait":
        own_server.stop()
        eventually(lambda: not bus.is_connected, "the disconnect")
    elif what != "get":
        own_server.pause()
        bus.publish("m", make_event())
    calls: dict[str, Callable[[], object]] = {
        "get": lambda: events.get(timeout=PATIENCE),
        "flush": lambda: bus.flush(PATIENCE),
        "subscribe": lambda: bus.subscribe("other", timeout=PATIENCE),
        "wait": lambda: bus.wait_connected(PATIENCE),
        "publish": lambda: [bus.publish("m", make_event(data={"fill": "x" * 900_000})) for _ in range(100)],
        "close": lambda: bus.close(2.0),
    }
    reports: list[CloseReport] = []
    before = signal.signal(signal.SIGALRM, lambda *_: reports.append(bus.close(0.3)))
    begun = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        if what == "close":
            calls[what]()
        else:
            with pytest.raises((ClosedError, DeliveryUncertainError)):
                calls[what]()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert time.monotonic() - begun < 2.0 + 0.5 + MARGIN
    assert len(reports) == 1
    assert events.closed
    bus.close(PATIENCE)


# -- at any moment


def test_a_close_waits_for_what_it_came_upon(server: NATSServer, prefix: str) -> None:
    """A publisher that had passed the check whether the bus is closed puts its events in while the close waits."""
    frame = f"PUB {prefix}.late 2\r\nhi\r\n".encode()
    with Proxy(server.port) as link:
        bus = NATSEventBus(link.url, prefix=prefix)
        bus.start()
        link.stall()
        bus.publish("n", make_event())  # so that the close has something to wait for
        outbox, is_let_in, is_closing = outbox_of(bus), threading.Event(), threading.Event()

        def make() -> list[bytes]:
            is_let_in.set()
            assert is_closing.wait(PATIENCE)
            return [frame] * 7

        def close() -> None:
            assert is_let_in.wait(PATIENCE)
            assert bus.close(PATIENCE), "all of it was confirmed"

        def go_on() -> None:
            eventually(lambda: connection_of(bus).closed, "the close")
            time.sleep(0.05 * UNIT)  # until the loop has seen it, too, which nothing shows
            is_closing.set()
            eventually(lambda: outbox.position() == 8 and not outbox.depth()[0], "the write")
            link.restore()

        run_threads(lambda: outbox.put_many(7, 7 * len(frame), make, PATIENCE), close, go_on)


@pytest.mark.concurrent
@pytest.mark.parametrize("rounds", first_of([5, 20]))
def test_a_close_amid_everything_loses_nothing(make_bus: MakeBus, rounds: int) -> None:
    """What was accepted arrives, whenever the close comes; and every thread comes to its end."""
    there = make_bus()
    for round_ in range(rounds):
        with there.subscribe(f"n{round_}", maxsize=1_000_000) as arriving:
            here = make_bus(outbox_events=random.choice([10, 100_000]))

            def publish(number: int, bus: NATSEventBus = here, namespace: str = f"n{round_}") -> None:
                while True:
                    bus.publish_many(namespace, [make_event(number)] * random.choice([1, 7]))

            def churn(bus: NATSEventBus = here) -> None:
                while True:
                    with bus.subscribe("own.*", timeout=PATIENCE) as events:
                        bus.publish("own.x", make_event())
                        events.get(timeout=PATIENCE)
                        bus.flush(PATIENCE)

            def until_closed(work: Callable[[], None]) -> Callable[[], None]:
                def run() -> None:
                    with pytest.raises(ClosedError):
                        work()

                return run

            def close(bus: NATSEventBus = here) -> None:
                time.sleep(random.uniform(0, 0.03))
                assert bus.close(PATIENCE)

            works: list[Callable[[], None]] = [lambda n=n: publish(n) for n in range(3)]  # type: ignore[misc]
            run_threads(close, *map(until_closed, [*works, churn]))
            published = here.metrics().published_by_namespace.get(f"n{round_}", 0)
            for _ in range(published):
                arriving.get(timeout=PATIENCE)
            there.flush(PATIENCE)
            assert arriving.get_batch(1, timeout=0) == [], "more arrived than was accepted"


def test_a_shared_connection_closes_under_its_buses(server: NATSServer, prefix: str) -> None:
    connection = Connection(server.url)
    buses = [NATSEventBus(connection, prefix=prefix) for _ in range(3)]
    subscriptions = [bus.subscribe("n") for bus in buses]
    waiting = Waiters(*(lambda one=one: one.get(timeout=None) for one in subscriptions))  # type: ignore[misc]
    assert close_in_time(connection, 1.0)
    waiting.assert_released()
    for bus in buses:
        assert close_in_time(bus, 0.5)
