"""``NATSEventBus``: a connection that breaks, and the one after it."""

import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    BusClosedError,
    Connection,
    DeadlineExceededError,
    DeliveryUncertainError,
    DisconnectedError,
    NATSEventBus,
    NATSServer,
    PublishTimeoutError,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync._nats.channel import Channel

from ..support.common import PATIENCE, UNIT, Keep, Monitor, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import prefix_of, waiting_flushes
from ..support.raw import RawClient

MakeBus = Callable[..., NATSEventBus]


pytestmark = pytest.mark.both_loops


def test_a_restart_restores_subscriptions_and_sends_what_was_buffered(
    make_bus: MakeBus, own_server: NATSServer, keep: Keep
) -> None:
    here, there = make_bus(own_server.url), make_bus(own_server.url)
    events, group = keep(here.subscribe("n", "x.*")), keep(here.subscribe("jobs", queue_group="g"))
    there.publish("n", make_event(0))
    there.flush(PATIENCE)
    assert numbers([events.get(timeout=PATIENCE)]) == [0]
    own_server.stop()
    eventually(lambda: not (here.is_connected or there.is_connected), "the disconnect")
    there.publish_many("n", [make_event(n) for n in range(1, 50)])
    there.publish("jobs", make_event(50))
    own_server.restart()
    assert here.wait_connected(PATIENCE)
    assert there.wait_connected(PATIENCE)
    there.flush(PATIENCE)
    there.publish("x.y", make_event(51))
    got = numbers([events.get(timeout=PATIENCE)])
    while got[-1] != 51:
        got += numbers([events.get(timeout=PATIENCE)])
    assert got == sorted(set(got)), "twice, or out of order"
    assert here.metrics().reconnects == 1
    there.publish("jobs", make_event(52))
    while numbers([group.get(timeout=PATIENCE)]) != [52]:
        pass


@pytest.mark.fault
@pytest.mark.parametrize("count", first_of([400, 2_000]))
def test_connected_again_means_that_the_subscriptions_are_back(
    make_bus: MakeBus, own_server: NATSServer, count: int
) -> None:
    bus, publisher = make_bus(own_server.url), EnvelopeWriter("another-node")
    subscriptions = [bus.subscribe(f"n.{n}", timeout=PATIENCE) for n in range(count)]
    payloads = [publisher.write(f"n.{n}", encode_event(make_event(n))) for n in range(count)]
    own_server.restart()
    eventually(lambda: bus.metrics().reconnects, "another connection")
    with RawClient(own_server.port) as raw:
        for n, payload in reversed(list(enumerate(payloads))):
            raw.publish(f"{prefix_of(bus)}.events.n.{n}", payload)
        raw.flush()
        for n, events in enumerate(subscriptions):
            assert numbers([events.get(timeout=PATIENCE)]) == [n]
    for events in subscriptions:
        events.close()


def test_subscribing_while_disconnected_waits(
    make_bus: MakeBus, own_server: NATSServer, own_monitor: Monitor, keep: Keep
) -> None:
    here, there = make_bus(own_server.url), make_bus(own_server.url)
    here.start()
    kept, closed = keep(here.subscribe("kept")), keep(here.subscribe("closed"))
    own_server.stop()
    eventually(lambda: not here.is_connected, "the disconnect")
    with pytest.raises(DeadlineExceededError, match="not connected"):
        here.subscribe("n", timeout=0.05)
    closed.close()
    results: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def subscribe() -> None:
        results.put(here.subscribe("late", timeout=PATIENCE))

    def restart() -> None:
        own_server.restart()

    run_threads(subscribe, restart)
    late = keep(results.get())
    there.publish("late", make_event(1))
    assert numbers([late.get(timeout=PATIENCE)]) == [1]
    there.publish("kept", make_event(2))
    assert numbers([kept.get(timeout=PATIENCE)]) == [2]
    eventually(lambda: len(own_monitor.subscriptions_of(here)) == 2, "two subscriptions on the server")


def test_publishing_while_disconnected_can_raise(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url, on_disconnect="raise")
    with bus.subscribe("n") as events:
        bus.publish("n", make_event(1))
        bus.flush(PATIENCE)
        own_server.stop()
        eventually(lambda: not bus.is_connected, "the disconnect")
        with pytest.raises(DisconnectedError):
            bus.publish("n", make_event(2))
        assert numbers(events.get_batch(9, timeout=PATIENCE)) == [1]


def test_a_full_outbox_makes_publishers_wait(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url, outbox_events=5, publish_timeout=0.05)
    with bus.subscribe("n") as events:
        own_server.stop()
        eventually(lambda: not bus.is_connected, "the disconnect")
        bus.publish_many("n", [make_event(n) for n in range(4)])
        with pytest.raises(PublishTimeoutError):
            bus.publish_many("n", [make_event(n) for n in range(2)])
        bus.publish("n", make_event(4))
        with pytest.raises(TimeoutError):
            bus.publish("n", make_event(5))
        assert numbers(events.get_batch(99)) == [0, 1, 2, 3, 4]
        waits = bus.metrics().publish_waits
        assert waits.count == 2
        assert 2 * 0.05 <= waits.sum < PATIENCE
        assert bus.metrics().outbox_events == 5
        own_server.restart()
        bus.flush(PATIENCE)
        bus.publish_many("n", [make_event(n) for n in range(20)])  # more than the bound, into an empty outbox
        bus.flush(PATIENCE)
        assert bus.metrics().outbox_events == 0


def test_what_was_not_confirmed_is_told_to_every_flush_that_waited(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    own_server.pause()
    bus.publish_many("n", [make_event(n) for n in range(10)])
    eventually(lambda: bus.metrics().outbox_events == 0, "an empty outbox")
    errors: list[DeliveryUncertainError] = []

    def flush() -> None:
        with pytest.raises(DeliveryUncertainError, match="10 events") as caught:
            bus.flush(PATIENCE)
        errors.append(caught.value)

    def kill() -> None:
        eventually(lambda: waiting_flushes(bus) == 3, "three waiting flushes")
        own_server.kill()

    run_threads(flush, flush, flush, kill)
    assert [error.uncertain for error in errors] == [10] * 3
    own_server.restart()
    assert bus.wait_connected(PATIENCE)
    bus.flush(PATIENCE)  # told once
    assert bus.metrics().uncertain == 10
    assert bus.close()


def test_what_is_uncertain_stays_so_until_it_was_told(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    own_server.pause()
    bus.publish("n", make_event())
    eventually(lambda: bus.metrics().outbox_events == 0, "that it is sent")
    with pytest.raises(DeadlineExceededError, match="1 event"):
        bus.flush(0.05)
    own_server.kill()
    eventually(lambda: bus.metrics().uncertain == 1, "the loss")
    report = bus.close(0.5 * UNIT)
    assert (report.uncertain, report.unsent) == (1, 0)


def test_a_subscription_that_comes_to_nothing_waits_for_no_last_event(
    make_bus: MakeBus, own_server: NATSServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    waits: list[float] = []
    monkeypatch.setattr(Channel, "await_last", lambda *args: waits.append(args[-1].remaining()))
    own_server.pause()
    with pytest.raises(DeadlineExceededError, match="has not confirmed"):
        bus.subscribe("n", queue_group="g", timeout=0.05)
    assert waits
    assert set(waits) == {0.0}


def test_a_link_that_froze_once_is_left_once(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url, ping_interval=0.2 * UNIT)
    bus.start()
    own_server.pause()
    eventually(lambda: not bus.is_connected, "the disconnect")
    own_server.resume()
    assert bus.wait_connected(PATIENCE)
    with bus.subscribe("n") as events:
        reconnects = bus.metrics().reconnects
        assert events.get_batch(1, timeout=UNIT) == []  # five intervals of quiet
        assert bus.metrics().reconnects == reconnects


def test_closing_a_shared_connection_ends_its_buses(server: NATSServer, prefix: str, keep: Keep) -> None:
    connection = Connection(server.url)
    bus = NATSEventBus(connection, prefix=prefix)
    events = keep(bus.subscribe("n"))

    run_threads(lambda: list(events), connection.close)
    assert events.closed
    with pytest.raises(BusClosedError):
        bus.publish("n", make_event())
    assert bus.close()


def test_a_foreign_message_that_cannot_be_read_is_skipped(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    bus = make_bus()
    with bus.subscribe("*") as events:
        raw.send(f"PUB {prefix}.events.".encode() + b"\xff\xfe 2\r\n{}\r\n")
        raw.send(f"HPUB {prefix}.events.n 5 7\r\n".encode() + b"abcde{}\r\n")
        raw.flush()
        make_bus().publish("n", make_event(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        eventually(lambda: bus.metrics().decode_errors >= 1, "a decode error")
        assert bus.metrics().reconnects == 0


@pytest.mark.parametrize("timeout", [0.3, 0.05])
def test_a_short_close_still_flushes(make_bus: MakeBus, timeout: float) -> None:
    bus = make_bus()
    bus.publish_many("n", [make_event(n) for n in range(200)])
    assert bus.close(timeout * UNIT)


def test_closing_releases_blocked_publishers(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus = make_bus(own_server.url, outbox_events=1, publish_timeout=PATIENCE)
    bus.start()
    own_server.stop()
    eventually(lambda: not bus.is_connected, "the disconnect")
    bus.publish("n", make_event())
    blocked = threading.Barrier(4)

    def publish() -> None:
        blocked.wait(PATIENCE)
        with pytest.raises(BusClosedError):
            bus.publish("n", make_event())

    def close() -> None:
        blocked.wait(PATIENCE)
        assert bus.close(0.7 * UNIT).unsent == 1

    run_threads(publish, publish, publish, close)
