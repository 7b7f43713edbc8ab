"""What nats-py does when a server or a link misbehaves, each provoked here; the bus goes on.

======  ==============================================================  ===============================================
trap    what nats-py does                                               tested by
======  ==============================================================  ===============================================
0       waits for ever for a server that reads nothing                  test_a_frozen_link_with_full_buffers...,
                                                                        test_the_only_server_freezes_and_comes_back
1       a PING nobody waits for any more ends the reading               test_a_wait_that_timed_out_leaves_no_zombie,
                                                                        test_a_link_that_nobody_reads_is_left
2       PING overtakes SUB and PUB                                      test_sub_and_pub_are_written_before_their_ping
3       most -ERR close the client for good                             test_an_err_that_closes_the_client...,
                                                                        test_credentials_that_expired...,
                                                                        test_an_err_on_a_full_link...
4       header bytes are not counted                                    test_refusals.py
5       a callback that raises ends the reconnecting                    test_a_mistake_in_a_callback...
6       publish() waits without a timeout                               test_publishing_to_a_full_link_has_a_timeout
7, 8    close() and drain() hang                                        test_closing_a_frozen_link_has_a_deadline,
                                                                        test_closing_while_it_connects_again...
9       what was written to a broken connection is lost                 test_accounting.py
10, 13  what timed out may be stored; tried again, it conflicts         test_outcomes.py
11, 12  js.publish_async() hangs; an ordered consumer loses events      neither is used
14      the text of an -ERR is lower-cased                              test_an_err_in_another_case...,
                                                                        test_permissions.py
15      fork                                                            test_fork.py
======  ==============================================================  ===============================================

A PONG cannot be told from another: one that a server sends unasked is only known as such while none is due.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    DeadlineExceededError,
    DeliveryUncertainError,
    EventTooLargeError,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    PublishTimeoutError,
    SubscriptionOverflowError,
    flush_logs,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync._nats.pump import Pump

from ..support.common import PATIENCE, UNIT, Keep, eventually, first_of, make_event, numbers, run_threads
from ..support.fake_server import FakeServer, Peer, polite
from ..support.inside import channel_of, client_of, transport_of
from ..support.proxy import Proxy

pytestmark = [pytest.mark.fault, pytest.mark.both_loops]

MakeBus = Callable[..., NATSEventBus]

FILL = "x" * 100_000  # makes an event large
QUICK = 0.2 * UNIT  # seconds between two questions whether the server answers
NEVER = 60 * UNIT  # the watchdog has no part in it


LARGE = "max_payload: 32MB"


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATSServer]:
    """A server that takes what the kernel's buffers do not."""
    with NATSServer(config=LARGE, log_file=tmp_path_factory.mktemp("large") / "nats.log") as server:
        yield server


@pytest.fixture
def proxy(large: NATSServer) -> Iterator[Proxy]:
    with Proxy(large.port) as proxy:
        yield proxy


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    with FakeServer() as fake:
        yield fake


def fill(bus: NATSEventBus) -> int:
    """Publish until the kernel takes no more, nor the pump; returns how many events it took."""
    transport = transport_of(bus)
    bus.publish("fill", make_event(0, data={"fill": "x" * 16 * 2**20}))
    eventually(lambda: bus.metrics().outbox_events == 0, "the large event to be written")
    assert transport.get_write_buffer_size() > 0 or transport.is_closing(), "the kernel has taken it all"
    bus.publish_many("fill", [make_event(n) for n in range(1, 50)])
    return 50


def message(peer: Peer, subject: str, n: int = 1) -> bytes:
    """A MSG that is an event of another node."""
    payload = EnvelopeWriter("other").write(subject.partition(".events.")[2], encode_event(make_event(n)))
    return f"MSG {subject} {peer.sid_of(subject)} {len(payload)}\r\n".encode() + payload + b"\r\n"


def take(events: Any) -> int:
    (n,) = numbers([events.get(timeout=PATIENCE)])
    return n


# -- 0: frozen


def test_a_frozen_link_with_full_buffers_is_left_for_another_server(make_bus: MakeBus, large: NATSServer) -> None:
    with Proxy(large.port) as one, Proxy(large.port) as other:
        bus = make_bus([one.url, other.url], ping_interval=QUICK)
        with bus.subscribe("n") as events:
            frozen, healthy = (one, other) if one.links else (other, one)
            frozen.stall()
            published = fill(bus)
            start = time.monotonic()
            eventually(lambda: healthy.links, "a link to the other server")
            assert time.monotonic() - start < 2 * QUICK + 0.5 * UNIT
            with pytest.raises(DeliveryUncertainError) as caught:
                bus.flush(PATIENCE)
            make_bus(large.url).publish("n", make_event(1))
            assert take(events) == 1
        metrics = bus.metrics()
        assert 0 < metrics.uncertain == caught.value.uncertain
        assert metrics.confirmed == published - metrics.uncertain
        bus.close()


def test_the_only_server_freezes_and_comes_back(make_bus: MakeBus) -> None:
    with NATSServer(config=LARGE) as server:
        bus = make_bus(server.url, ping_interval=QUICK, connect_timeout=0.1 * UNIT)
        with bus.subscribe("n") as events:
            files = len(os.listdir("/proc/self/fd"))
            server.pause()
            published = fill(bus)
            eventually(lambda: not bus.is_connected, "the disconnect")
            eventually(lambda: failed_attempts(bus) == 2, "attempts that fail")
            assert len(os.listdir("/proc/self/fd")) <= files, "sockets of attempts that failed"
            server.resume()
            assert bus.wait_connected(PATIENCE)
            with pytest.raises(DeliveryUncertainError) as caught:
                bus.flush(PATIENCE)
            assert caught.value.uncertain + bus.metrics().confirmed == published
            make_bus(server.url).publish("n", make_event(1))
            assert take(events) == 1
        bus.close()


def failed_attempts(bus: NATSEventBus) -> int:
    """How often it has tried to connect again, in vain."""
    return client_of(bus).server.failures


# -- 1: zombies


def test_a_wait_that_timed_out_leaves_no_zombie(make_bus: MakeBus, own_server: NATSServer) -> None:
    bus, other = make_bus(own_server.url, ping_interval=NEVER), make_bus(own_server.url, ping_interval=NEVER)
    with bus.subscribe("n") as events:
        other.start()
        own_server.pause()
        bus.publish("n", make_event(0))
        with pytest.raises(DeadlineExceededError):
            bus.flush(0.05)
        with pytest.raises(DeadlineExceededError):
            bus.subscribe("late", timeout=0.05)
        own_server.resume()
        bus.flush(PATIENCE)
        other.publish("n", make_event(1))
        assert [take(events), take(events)] == [0, 1]
        assert (bus.metrics().reconnects, bus.metrics().confirmed) == (0, 1)


def test_a_link_that_nobody_reads_is_left(make_bus: MakeBus) -> None:
    bus = make_bus(ping_interval=QUICK)
    with bus.subscribe("n") as events:
        client = client_of(bus)
        channel_of(bus).call_soon(lambda: client._reading_task.cancel())  # type: ignore[union-attr]
        eventually(lambda: bus.metrics().reconnects == 1, "another connection")
        make_bus().publish("n", make_event(1))
        assert take(events) == 1


def test_a_server_that_freezes_before_the_last_step_of_a_reconnect_is_left(make_bus: MakeBus, fake: FakeServer) -> None:
    bus = make_bus(fake.url, ping_interval=QUICK)
    bus.start()
    fake.answer = lambda peer, line: b"PONG\r\n" if line == b"PING" and peer.lines.count(b"PING") == 1 else None
    fake.last.cut()
    eventually(lambda: len(fake.peers) == 2 and fake.last.lines.count(b"PING") >= 2, "a PING that nobody answers")
    fake.answer = polite
    assert bus.wait_connected(3 * UNIT)  # nats-py would wait for 10 s
    bus.publish("n", make_event())
    bus.flush(PATIENCE)


# -- 2: order


def test_sub_and_pub_are_written_before_their_ping(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    for n in range(20):
        with bus.subscribe(f"n.{n}"):
            bus.publish(f"n.{n}", make_event(n))
            bus.flush(PATIENCE)
    kinds = [line.split()[0] for line in fake.last.lines if not line.startswith(b"UNSUB")]
    assert kinds == [b"CONNECT"] + [b"PING"] * 3 + [b"SUB", b"PING", b"PUB", b"PING"] * 20


# -- 3: -ERR

CLOSING = [
    "User Authentication Expired", "Account Authentication Expired", "User Authentication Revoked",
    "Authorization Violation", "Maximum Payload Violation", "maximum connections exceeded",
    "maximum subscriptions exceeded", "maximum control line exceeded", "Invalid Subject", "Slow Consumer",
    "Server Shutdown", "Unknown Protocol Operation", "Stale Connection", "something new", "",
]  # fmt: skip


def test_an_err_that_closes_the_client_brings_a_new_one(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    def provoke(text: str) -> None:
        with (
            FakeServer() as fake,
            NATSEventBus(fake.url, prefix=prefix, ping_interval=NEVER) as bus,
            bus.subscribe("n") as events,
        ):
            bus.publish("n", make_event(0))
            assert take(events) == 0, text
            bus.flush(PATIENCE)
            fake.last.send(f"-ERR '{text}'\r\n".encode())
            eventually(lambda: bus.metrics().reconnects == 1, f"a new connection after {text!r}")
            fake.last.send(message(fake.last, f"{prefix}.events.n"))
            assert take(events) == 1, text
            bus.publish("n", make_event(2))
            bus.flush(PATIENCE)
            assert (bus.metrics().uncertain, bus.metrics().confirmed) == (0, 2), text

    run_threads(*(lambda text=text: provoke(text) for text in CLOSING))
    said = caplog.text.lower().replace("authorization failed", "authorization violation")  # nats-py's word for it
    assert [text for text in CLOSING if text.lower() not in said] == []
    assert "not connected yet" not in said
    assert "internal error" not in caplog.text


def test_credentials_that_expired_are_tried_again_until_they_are_good(make_bus: MakeBus, fake: FakeServer) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    with bus.subscribe("n") as events:
        fake.answer = lambda _, line: b"-ERR 'Authorization Violation'\r\n" if line == b"PING" else None
        fake.last.send(b"-ERR 'User Authentication Expired'\r\n")
        eventually(lambda: len(fake.peers) >= 3, "two attempts that are refused")
        assert not bus.is_connected
        bus.publish("n", make_event(1))  # waits for better times
        fake.answer = polite
        bus.flush(PATIENCE)
        assert take(events) == 1
        assert (bus.metrics().confirmed, bus.metrics().uncertain, bus.metrics().reconnects) == (1, 0, 1)


def test_an_err_on_a_full_link_holds_nothing_up(make_bus: MakeBus, proxy: Proxy, large: NATSServer, keep: Keep) -> None:
    bus = make_bus(proxy.url, ping_interval=NEVER)
    kept = keep(bus.subscribe("kept"))
    others = [[bus.subscribe(f"n.{n}.{m}", timeout=PATIENCE) for n in range(20)] for m in range(1)]
    run_threads(*(lambda m=m: others.append([bus.subscribe(f"n.{n}.{m}") for n in range(150)]) for m in range(1, 8)))
    proxy.stall()
    published = fill(bus)
    for group in others:
        for sub in group:
            sub.close()  # more commands than nats-py's flusher queue holds
    proxy.inject(b"-ERR 'User Authentication Expired'\r\n")
    eventually(lambda: not bus.is_connected, "the disconnect")
    proxy.restore()
    with pytest.raises(DeliveryUncertainError) as caught:
        bus.flush(PATIENCE)
    assert bus.metrics().confirmed + caught.value.uncertain == published
    make_bus(large.url).publish("kept", make_event(1))
    assert take(kept) == 1


# -- 5: callbacks


def test_a_mistake_in_a_callback_is_logged_and_harms_nothing(
    make_bus: MakeBus, fake: FakeServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    bus.start()
    right = Pump.pause

    def wrong(self: Pump) -> None:
        monkeypatch.setattr(Pump, "pause", right)
        raise ZeroDivisionError

    monkeypatch.setattr(Pump, "pause", wrong)
    fake.last.cut()
    eventually(lambda: bus.metrics().reconnects == 1, "another connection")
    bus.publish("n", make_event())
    bus.flush(PATIENCE)
    assert flush_logs(PATIENCE)
    assert "ZeroDivisionError" in caplog.text


# -- 6, 7, 8: what must not hang


def test_publishing_to_a_full_link_has_a_timeout(make_bus: MakeBus, proxy: Proxy) -> None:
    bus = make_bus(proxy.url, ping_interval=NEVER, outbox_events=49, publish_timeout=0.1 * UNIT)
    bus.start()
    proxy.stall()
    fill(bus)
    start = time.monotonic()
    with pytest.raises(PublishTimeoutError):
        bus.publish("n", make_event())
    assert 0.1 * UNIT <= time.monotonic() - start < UNIT
    proxy.restore()
    bus.flush(PATIENCE)
    assert bus.metrics().uncertain == 0


@pytest.mark.parametrize("timeout", first_of([0.2, 0.5]))
def test_closing_a_frozen_link_has_a_deadline(make_bus: MakeBus, proxy: Proxy, timeout: float) -> None:
    bus = make_bus(proxy.url, ping_interval=NEVER)
    with bus.subscribe("n"):
        proxy.stall()
        published = fill(bus)
        start = time.monotonic()
        report = bus.close(timeout * UNIT)
        assert time.monotonic() - start < timeout * UNIT + UNIT
    assert report.uncertain > 0
    assert report.unsent + report.uncertain + bus.metrics().confirmed == published


@pytest.mark.parametrize("count", first_of([10, 40]))
def test_closing_while_it_connects_again_ends_all_attempts(make_bus: MakeBus, count: int) -> None:
    with FakeServer() as other, FakeServer(connect_urls=[f"127.0.0.1:{other.port}"]) as first:
        for turn in range(count):
            bus = make_bus(first.url, ping_interval=NEVER)
            bus.start()
            first.last.cut()
            time.sleep(turn / count * 0.004 * UNIT)  # a moment of each kind
            bus.close(UNIT)
        eventually(lambda: all(peer.is_closed for peer in first.peers + other.peers), "the end of all connections")
        assert len(first.peers) == count


# -- 14: case


def test_an_err_in_another_case_is_about_the_one_it_is_about(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    def strict(_: Peer, line: bytes) -> bytes | None:
        if b".events.Secret.Thing" in line:
            kind = "Publish" if line.startswith(b"PUB") else "Subscription"
            return f"-ERR 'Permissions Violation for {kind} to \"{prefix}.events.Secret.Thing\"'\r\n".encode()
        return polite(_, line)

    fake.answer = strict
    bus = make_bus(fake.url, ping_interval=NEVER)
    with bus.subscribe("secret.thing") as events:
        with pytest.raises(PermissionDeniedError, match=r"Secret\.Thing"):
            bus.subscribe("Secret.Thing")
        for namespace in ("secret.thing", "Secret.Thing", "other"):
            bus.publish(namespace, make_event(1))
        with pytest.raises(DeliveryUncertainError, match=r"Secret\.Thing") as caught:
            bus.flush(PATIENCE)
        assert (caught.value.rejected, caught.value.uncertain, bus.metrics().confirmed) == (1, 0, 2)
        assert not events.closed
        assert len(fake.peers) == 1


# -- servers that say what they should not


GARBAGE = [
    b"HELLO WORLD\r\n", b"x\r\n" * 5_000, b"\x00" * 3_000_000, b"MSG\r\n", b"MSG a.b x y\r\n", b"INFO {\r\n",
    b"INFO []\r\n", b"-ERR\r\n", b"-ERR without quotes\r\n", b"MSG nobody 999 2\r\nfar more than that\r\n",
    b"\xff\xfe\r\n",
]  # fmt: skip


def test_garbage_ends_the_connection_at_once(prefix: str, caplog: pytest.LogCaptureFixture) -> None:
    def provoke(garbage: bytes) -> None:
        with (
            FakeServer() as fake,
            NATSEventBus(fake.url, prefix=prefix, ping_interval=NEVER) as bus,
            bus.subscribe("n") as events,
        ):
            fake.last.send(garbage)
            eventually(lambda: bus.metrics().reconnects == 1, f"another connection after {garbage[:30]!r}")
            fake.last.send(message(fake.last, f"{prefix}.events.n"))
            assert take(events) == 1

    run_threads(*(lambda garbage=garbage: provoke(garbage) for garbage in GARBAGE))
    assert {record.name for record in caplog.records} <= {"aether_sync"}, "nats-py logs on the loop thread"


def test_a_torn_message_is_no_message(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    with bus.subscribe("n") as events:
        whole = message(fake.last, f"{prefix}.events.n")
        fake.last.send(whole[:-20])
        fake.last.cut()
        eventually(lambda: bus.metrics().reconnects == 1, "another connection")
        fake.last.send(message(fake.last, f"{prefix}.events.n", 2))
        assert take(events) == 2
    assert (bus.metrics().received, bus.metrics().decode_errors) == (1, 0)


def test_a_message_that_never_ends_is_a_frozen_link(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    bus = make_bus(fake.url, ping_interval=QUICK)
    with bus.subscribe("n") as events:
        fake.last.send(f"MSG {prefix}.events.n {fake.last.sid_of(f'{prefix}.events.n')} 999999999\r\n".encode())
        fake.answer = lambda peer, line: polite(peer, line) if peer.number else None
        eventually(lambda: bus.metrics().reconnects == 1, "another connection")
        fake.last.send(message(fake.last, f"{prefix}.events.n"))
        assert take(events) == 1


@pytest.mark.slow
def test_a_large_message_on_a_slow_link_is_not_a_frozen_link(
    make_bus: MakeBus, proxy: Proxy, large: NATSServer
) -> None:
    bus = make_bus(proxy.url, ping_interval=0.3 * UNIT)
    with bus.subscribe("n") as events:
        proxy.slow_down(bytes_per_second=600_000 / UNIT)
        make_bus(large.url).publish("n", make_event(data={"n": 1, "fill": "x" * 800_000}))
        assert take(events) == 1
    assert bus.metrics().reconnects == 0


def test_what_was_not_asked_for_is_ignored(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    with bus.subscribe("n") as events:
        fake.last.send(b"MSG nobody 999 2\r\n{}\r\n" + b"PONG\r\n" * 1_000 + b"+OK\r\n" + b"PING\r\n")
        eventually(lambda: b"PONG" in fake.last.lines, "the answer to the server's PING")
        fake.answer = lambda *_: None
        bus.publish("n", make_event(0))
        with pytest.raises(DeadlineExceededError):  # none of those PONGs was for this
            bus.flush(0.05)
        assert bus.metrics().confirmed == 0
        fake.last.send(b"PONG\r\n")
        bus.flush(PATIENCE)
        fake.last.send(message(fake.last, f"{prefix}.events.n"))
        assert [take(events), take(events)] == [0, 1]
        assert bus.metrics().reconnects == 0


def test_thousands_of_errors_are_logged_once(
    make_bus: MakeBus, fake: FakeServer, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    with bus.subscribe("n") as events:
        for kind in ("Publish", "Subscription"):
            fake.last.send(f"-ERR 'Permissions Violation for {kind} to \"x\"'\r\n".encode() * 5_000)
        fake.last.send(message(fake.last, f"{prefix}.events.n"))
        assert take(events) == 1
        bus.subscribe("m", timeout=PATIENCE).close()  # its PONG comes behind all of those
        bus.publish("n", make_event(2))
        bus.flush(PATIENCE)
    metrics = bus.metrics()
    assert (metrics.confirmed, metrics.publish_errors, metrics.reconnects) == (1, 0, 0)
    assert len(caplog.records) < 10


def test_a_pong_that_is_late_is_not_taken_for_another(make_bus: MakeBus, fake: FakeServer) -> None:
    info = b'INFO {"server_id":"fake"}\r\n'
    fake.answer = lambda peer, line: (info if peer.number == 0 else b"") + b"PONG\r\n" if line == b"PING" else None
    bus = make_bus(fake.url, ping_interval=NEVER)
    bus.publish("n", make_event())
    bus.flush(PATIENCE)
    assert len(fake.peers) == 2


def test_max_payload_may_change(make_bus: MakeBus, fake: FakeServer) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    bus.start()
    fake.last.send(b'INFO {"max_payload":1000}\r\nINFO {"max_payload":"no number"}\r\nPING\r\n')
    eventually(lambda: b"PONG" in fake.last.lines, "an answer")
    with pytest.raises(EventTooLargeError, match="1000"):
        bus.publish("n", make_event(data={"fill": FILL}))
    fake.last.send(b'INFO {"max_payload":1000000}\r\nPING\r\n')
    eventually(lambda: fake.last.lines.count(b"PONG") == 2, "an answer")
    bus.publish("n", make_event(data={"fill": FILL}))
    bus.flush(PATIENCE)


def test_the_next_server_takes_less(make_bus: MakeBus, fake: FakeServer, caplog: pytest.LogCaptureFixture) -> None:
    bus = make_bus(fake.url, ping_interval=NEVER)
    bus.start()
    fake.info["max_payload"] = 1_000
    fake.last.cut()
    eventually(lambda: not bus.is_connected, "the disconnect")
    for n in range(3):
        bus.publish("n", make_event(n))
        bus.publish("n", make_event(n, data={"fill": FILL}))
    with pytest.raises(DeliveryUncertainError, match="max_payload of 1000") as caught:
        bus.flush(PATIENCE)
    assert (caught.value.rejected, caught.value.uncertain) == (3, 0)
    metrics = bus.metrics()
    assert (metrics.confirmed, metrics.publish_errors) == (3, 3)
    assert len([line for line in fake.last.lines if line.startswith(b"PUB")]) == 3
    with pytest.raises(EventTooLargeError):
        bus.publish("n", make_event(data={"fill": FILL}))
    assert flush_logs(PATIENCE)
    assert "refused" in caplog.text


def test_refused_and_uncertain_are_not_counted_twice(make_bus: MakeBus, fake: FakeServer, prefix: str) -> None:
    denied = f"-ERR 'Permissions Violation for Publish to \"{prefix}.events.no\"'\r\n".encode()
    fake.answer = lambda peer, line: polite(peer, line) if len(peer.lines) <= 4 else denied if b".no" in line else None
    bus = make_bus(fake.url, ping_interval=NEVER)
    bus.start()
    bus.publish_many("no", [make_event()] * 2)
    bus.publish("yes", make_event())
    eventually(lambda: bus.metrics().publish_errors == 2, "two refusals")
    fake.answer = polite
    fake.last.cut()
    eventually(lambda: bus.metrics().reconnects == 1, "another connection")
    bus.publish("yes", make_event())
    with pytest.raises(DeliveryUncertainError) as caught:
        bus.flush(PATIENCE)
    assert (caught.value.rejected, caught.value.uncertain, bus.metrics().confirmed) == (2, 1, 1)


def test_what_overflows_before_subscribe_returns_is_told_to_who_reads_it(
    make_bus: MakeBus, fake: FakeServer, prefix: str
) -> None:
    dropped: list[int] = []

    def busy(peer: Peer, line: bytes) -> bytes | None:
        if line.startswith(b"SUB ") and b"events.n" in line:
            dropped.append(bus.metrics().dropped)
            return message(peer, f"{prefix}.events.n") * 3
        if dropped and peer.lines[-2].startswith(b"SUB "):
            eventually(lambda: bus.metrics().dropped > dropped[-1], "the overflow")
            bus.publish("other", make_event())  # whoever uses the bus lets go of what has ended
        return polite(peer, line)

    fake.answer = busy
    bus = make_bus(fake.url, ping_interval=NEVER)
    for patterns in (("n",), ("n", "m"), ("m", "n")):
        with bus.subscribe(*patterns, overflow="fail", maxsize=2, timeout=PATIENCE) as events:
            assert [take(events), take(events)] == [1, 1]
            with pytest.raises(SubscriptionOverflowError):
                events.get(timeout=PATIENCE)
    left = {line for line in fake.last.lines if line.startswith(b"UNSUB")}
    eventually(
        lambda: len({line for line in fake.last.lines if line.startswith(b"UNSUB")}) == 5, f"every UNSUB: {left}"
    )
    assert (bus.metrics().active_subscriptions, bus.metrics().subscribe_errors) == (0, 0)
