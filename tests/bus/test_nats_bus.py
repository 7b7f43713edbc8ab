"""``NATSEventBus``: what only a bus across nodes can do, or has to do."""

import asyncio
import gc
import json
import logging
import pickle
import queue
import socket
import ssl
import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    BusClosedError,
    ConnectError,
    Connection,
    DeadlineExceededError,
    EventTooLargeError,
    InvalidNamespaceError,
    InvalidOptionError,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    PublishTimeoutError,
    Subscription,
    SubscriptionOverflowError,
    WrongThreadError,
    flush_logs,
)
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync._nats.fast_reader import FastReader

from ..support.common import PATIENCE, UNIT, Keep, Monitor, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import channel_of
from ..support.proxy import Proxy
from ..support.raw import RawClient

MakeBus = Callable[..., NATSEventBus]


pytestmark = pytest.mark.both_loops


# -- life


def test_nothing_happens_before_the_first_use() -> None:
    before = threading.active_count()
    bus = NATSEventBus("nats://127.0.0.1:1")
    assert threading.active_count() == before
    assert not bus.is_connected
    bus.flush()
    assert bus.close()


def test_the_url_comes_from_the_environment(server: NATSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NATS_URL", server.url)
    with NATSEventBus() as bus:
        assert bus.is_connected


def test_a_shared_connection_survives_its_buses(server: NATSServer, prefix: str) -> None:
    with Connection(server.url) as connection:
        with NATSEventBus(connection, prefix=prefix) as one, NATSEventBus(connection, prefix=prefix) as other:
            assert one.node_id != other.node_id
            with other.subscribe("n") as events:
                one.publish("n", make_event(1))
                assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert connection.is_connected
        assert one.closed
        with pytest.raises(InvalidOptionError):
            NATSEventBus(connection, connect_timeout=1)
    assert not connection.is_connected
    assert connection.closed
    with pytest.raises(BusClosedError):
        connection.start()


def test_an_unclosed_bus_says_so_and_sends_what_it_has(make_bus: MakeBus, server: NATSServer, prefix: str) -> None:
    with make_bus().subscribe("n") as events:
        with pytest.warns(ResourceWarning, match="unclosed"):
            _publish_and_forget(server, prefix)
        assert numbers([events.get(timeout=PATIENCE)]) == [1]


def _publish_and_forget(server: NATSServer, prefix: str) -> None:
    import gc

    bus = NATSEventBus(server.url, prefix=prefix)
    bus.publish("n", make_event(1))
    del bus
    gc.collect()


# -- connecting


def test_a_closed_port(free_port: int) -> None:
    bus = NATSEventBus(f"nats://user:secret@127.0.0.1:{free_port}", connect_timeout=0.3 * UNIT)
    with pytest.raises(ConnectError, match="refused") as caught:
        bus.start()
    assert "secret" not in str(caught.value)
    assert "secret" not in repr(bus.connection)
    bus.start()  # the first attempt is over: nobody waits for it again
    bus.publish("n", make_event())
    with pytest.raises(DeadlineExceededError, match="refused"):
        bus.subscribe("n", timeout=0.05)
    with pytest.raises(DeadlineExceededError):
        bus.flush(0.05)
    assert not bus.wait_connected(0.05)
    report = bus.close(0.6 * UNIT)
    assert not report
    assert report.unsent == 1


def test_a_black_hole() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        bus = NATSEventBus(f"127.0.0.1:{silent.getsockname()[1]}", connect_timeout=0.5 * UNIT)
        with pytest.raises(ConnectError, match="no answer"):
            bus.publish("n", make_event())
        assert bus.close(1)


def test_an_http_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as web:

        def answer() -> None:
            while True:
                try:
                    peer, _ = web.accept()
                except OSError:
                    return
                with peer:
                    peer.sendall(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        bus = NATSEventBus(f"127.0.0.1:{web.getsockname()[1]}", connect_timeout=0.5 * UNIT)
        with pytest.raises(ConnectError, match="no NATS server"):
            bus.start()
        assert bus.close(1)
        web.shutdown(socket.SHUT_RDWR)
        web.close()
        thread.join(PATIENCE)


@pytest.mark.parametrize(
    "url", ["http://x:4222", "nats://", "nats://x:99999", "", [], [3], 4222, "nats://x:y", "nats://:4222", "ws://x:80"]
)
def test_bad_urls(url: Any) -> None:
    with pytest.raises(InvalidOptionError):
        NATSEventBus(url)


@pytest.mark.parametrize(
    "options",
    [
        {"connect_timeout": 0}, {"connect_timeout": None}, {"ping_interval": -1}, {"ping_interval": True},
        {"publish_timeout": -1}, {"outbox_events": 0}, {"outbox_bytes": 0.5}, {"on_disconnect": "drop"},
    ],
)  # fmt: skip
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOptionError):
        NATSEventBus("nats://127.0.0.1:1", **options)


@pytest.mark.parametrize("prefix", ["", "a.b", "*", ">", "a b", "a\r\n", 3])
def test_bad_prefixes(prefix: Any) -> None:
    with pytest.raises(InvalidNamespaceError):
        NATSEventBus("nats://127.0.0.1:1", prefix=prefix)


def test_tls_that_was_asked_for_is_not_done_without(server: NATSServer) -> None:
    for bus in (
        NATSEventBus(server.url.replace("nats://", "tls://me:secret@"), connect_timeout=0.5 * UNIT),
        NATSEventBus(server.url, tls=ssl.create_default_context(), connect_timeout=0.5 * UNIT),
    ):
        with pytest.raises(ConnectError, match="TLS"):
            bus.start()
        bus.close(0.5 * UNIT)
    with pytest.raises(InvalidOptionError, match="SSLContext"):
        NATSEventBus(server.url, tls=True)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["credentials", "nkeys_seed"])
def test_secrets_in_files_are_looked_for_at_once(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {name: "/no/such/file"}
    monkeypatch.setattr("aether_sync._nats.checks.find_spec", lambda module: None)
    with pytest.raises(InvalidOptionError, match="extra 'nkeys'"):
        NATSEventBus(**options)
    monkeypatch.setattr("aether_sync._nats.checks.find_spec", lambda module: module)
    with pytest.raises(InvalidOptionError, match="/no/such/file"):
        NATSEventBus(**options)


def test_a_bus_is_not_pickled() -> None:
    with pytest.raises(TypeError, match="in the other process"):
        pickle.dumps(NATSEventBus("nats://127.0.0.1:1"))


def test_wrong_passwords_fail_at_once() -> None:
    with NATSServer(config='authorization: {user: "u", password: "right"}') as server:
        address = server.url.removeprefix("nats://").rpartition("@")[2]
        bus = NATSEventBus(f"nats://{address}", user="u", password="wrong", connect_timeout=PATIENCE)
        with pytest.raises(ConnectError, match=r"(?i)authorization violation") as caught:
            bus.start()
        assert "wrong" not in str(caught.value)
        bus.close(1)
        with NATSEventBus(f"nats://u:right@{address}") as good:
            assert good.is_connected


def test_an_unknown_nats_py_is_read_by_its_public_path(
    make_bus: MakeBus, own_server: NATSServer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Reader(asyncio.BaseProtocol):
        """It takes what the socket gives in another way."""

    def unknown(stock: object, *arguments: Any, **more: Any) -> FastReader:
        return FastReader(Reader(), *arguments, **more)

    monkeypatch.setattr("aether_sync._nats.client.FastReader", unknown)
    here, there = make_bus(own_server.url), make_bus(own_server.url)
    with here.subscribe("n") as events:
        there.publish("n", make_event(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        own_server.restart()
        for bus in here, there:
            eventually(lambda bus=bus: bus.metrics().reconnects == 1)  # type: ignore[misc]
            assert bus.wait_connected(PATIENCE)
        there.publish("n", make_event(2))
        assert numbers([events.get(timeout=PATIENCE)]) == [2]
    here.close()
    there.close()
    records = [record.getMessage() for record in caplog.records if "not known well enough" in record.getMessage()]
    assert len(records) == 2, "one for each connection"


def test_where_no_thread_can_be_started(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    bus = make_bus()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(ConnectError, match="can't start new thread"):
            bus.publish("n", make_event())
        bus.flush(0.1)
    bus.publish("n", make_event())
    bus.flush(PATIENCE)
    assert bus.metrics().confirmed == 1


# -- routing


def test_one_server_subscription_per_subject_and_group(make_bus: MakeBus, monitor: Monitor, prefix: str) -> None:
    bus = make_bus()
    subs = [
        bus.subscribe("a.*"),
        bus.subscribe("a.*", "b"),
        bus.subscribe("x-*", "y*"),
        bus.subscribe("a.*", queue_group="g"),
    ]
    assert sorted(monitor.subscriptions_of(bus)) == sorted(
        [
            (f"{prefix}.events.a.*", ""),
            (f"{prefix}.events.b", ""),
            (f"{prefix}.events.*", ""),
            (f"{prefix}.events.a.*", "g"),
        ]
    )
    for sub in subs[1:]:
        sub.close()
    eventually(lambda: monitor.subscriptions_of(bus) == [(f"{prefix}.events.a.*", "")])
    subs[0].close()
    eventually(lambda: monitor.subscriptions_of(bus) == [])


def test_resubscribing_brings_nothing_twice(make_bus: MakeBus) -> None:
    here, there = make_bus(), make_bus()
    for n in range(20):
        with here.subscribe("n") as events:
            there.publish("n", make_event(n))
            assert numbers([events.get(timeout=PATIENCE)]) == [n]
            there.flush(PATIENCE)
            assert events.get_batch(9, timeout=0) == []


def test_prefixes_keep_buses_apart(make_bus: MakeBus, prefix: str) -> None:
    here, there = make_bus(), make_bus(prefix=f"{prefix}x")
    with here.subscribe(">") as events:
        there.publish("n", make_event(1))
        there.flush(PATIENCE)
        make_bus().publish("n", make_event(2))
        assert numbers([events.get(timeout=PATIENCE)]) == [2]


# -- the wire


def test_what_is_on_the_wire(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    raw.subscribe(f"{prefix}.events.>")
    bus = make_bus()
    event = make_event(1, version=2, command_id="c", metadata={"correlationId": "x"})
    bus.publish("a.b", event)
    subject, payload = raw.next_message()
    assert subject == f"{prefix}.events.a.b"
    assert json.loads(payload) == {
        "node_id": bus.node_id,
        "position": 10**15,
        "namespace_id": "a.b",
        "event": {
            "id": event.id,
            "eventType": "Happened",
            "actorId": "thing-1",
            "commandId": "c",
            "version": 2,
            "data": {"n": 1},
            "metadata": {"correlationId": "x"},
            "timestamp": event.timestamp.isoformat().replace("+00:00", "Z"),
        },
    }


def test_a_go_node_is_understood(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    with make_bus().subscribe("a.b") as events:
        raw.publish(
            f"{prefix}.events.a.b",
            b'{"node_id":"go-1","namespace_id":"a.b","event":{"id":"1","eventType":"T","actorId":"x-1","version":1,'
            b'"data":{"n":9007199254740993,"html":"\\u003cb\\u003e"},"timestamp":"2026-01-02T03:04:05.123456789+02:00","new":1}}',
        )
        event = events.get(timeout=PATIENCE)
    assert event.data == {"n": 9007199254740993, "html": "<b>"}
    assert event.timestamp.isoformat() == "2026-01-02T01:04:05.123456+00:00"


@pytest.mark.parametrize(
    "payload",
    [
        b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"node_id":"x"}',
        b'{"node_id":"x","namespace_id":"n","event":{}}',
        b'{"node_id":"x","namespace_id":"other","event":{"id":"1","eventType":"T","actorId":"a","timestamp":"2026-01-01T00:00:00Z"}}',
        b"[" * 900_000, b'{"node_id":' * 80_000,
    ],
    ids=lambda payload: payload[:12],
)  # fmt: skip
def test_what_is_no_event_is_counted_logged_and_skipped(
    make_bus: MakeBus, raw: RawClient, prefix: str, payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    with bus.subscribe("n") as events, caplog.at_level(logging.INFO):
        for _ in range(3):
            raw.publish(f"{prefix}.events.n", payload)
        make_bus().publish("n", make_event(1))
        raw.flush()
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        eventually(lambda: bus.metrics().decode_errors == 3, "3 decode errors")
        assert flush_logs(PATIENCE)
    assert caplog.text.count("is no event") == 1
    assert f"{prefix}.events.n" in caplog.text
    assert len(caplog.text) < 2_000


def test_eight_megabytes_of_nesting(make_bus: MakeBus, prefix: str) -> None:
    with NATSServer(config="max_payload: 16MB") as server, RawClient(server.port) as raw:
        bus = make_bus(server.url)
        with bus.subscribe("n") as events:
            raw.publish(f"{prefix}.events.n", b'{"node_id":"x","namespace_id":"n","event":' + b'{"a":' * 1_600_000)
            raw.publish(f"{prefix}.events.n", b'{"node_id":"x","namespace_id":"n","event":' + b"[" * 8_000_000)
            make_bus(server.url).publish("n", make_event(1))
            eventually(lambda: bus.metrics().decode_errors == 2, "2 decode errors")
            assert numbers([events.get(timeout=PATIENCE)]) == [1]
        bus.close()


def test_an_event_larger_than_the_server_takes(make_bus: MakeBus) -> None:
    here, there = make_bus(), make_bus()
    with here.subscribe("n") as events, there.subscribe("n") as own:
        with pytest.raises(EventTooLargeError, match="1048576"):
            there.publish("n", make_event(data={"fill": "x" * 2**20}))
        with pytest.raises(EventTooLargeError):
            there.publish_many("n", [make_event(1), make_event(data={"fill": "x" * 2**20})])
        there.publish("n", make_event(2, data={"n": 2, "fill": "x" * (2**20 - 500)}))
        assert numbers([events.get(timeout=PATIENCE)]) == [2]
        assert numbers(own.get_batch(9, timeout=PATIENCE)) == [2]
    assert there.metrics().publish_errors == 3


# -- threads


def test_a_finalizer_publishes_wherever_the_collector_runs(make_bus: MakeBus, own_server: NATSServer) -> None:
    """On the loop thread, too: there nothing waits, neither for the first connection nor for room."""
    here, there, away = make_bus(), make_bus(), make_bus("nats://127.0.0.1:1", outbox_events=1)
    said: queue.SimpleQueue[object] = queue.SimpleQueue()

    class Thing:
        def __init__(self, bus: NATSEventBus) -> None:
            self.bus, self.me = bus, self

        def __del__(self) -> None:
            try:
                said.put((self.bus.publish("freed", make_event(1)), threading.current_thread().name))
            except Exception as error:
                said.put(error)

    def collect(*buses: NATSEventBus) -> None:
        for bus in buses:
            Thing(bus)
        gc.collect()

    here.start()
    with there.subscribe("freed") as events:
        channel_of(here).call_soon(lambda: collect(here, away, away))
        outcomes = [said.get(timeout=PATIENCE) for _ in range(3)]
        assert sorted(str(one).partition("-")[0] for one in outcomes)[:2] == ["(None, 'aether"] * 2, outcomes
        assert sum(isinstance(one, PublishTimeoutError) for one in outcomes) == 1
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
    away.close(0)


def test_a_call_from_the_loop_thread(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    caught: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()

    def on_the_loop(call: Callable[[], object]) -> None:
        try:
            call()
        except BaseException as error:
            caught.put(error)
        else:
            caught.put(None)

    calls: list[Callable[[], object]] = [
        lambda: bus.subscribe("n"),
        bus.flush,
        lambda: bus.wait_connected(1),
        bus.connection.close,
    ]
    for call in calls:
        channel_of(bus).call_soon(lambda call=call: on_the_loop(call))
        assert isinstance(caught.get(timeout=PATIENCE), WrongThreadError)
    bus.publish("n", make_event())


def test_no_warning_is_shown_on_the_loop_thread(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    bus = make_bus()
    shown: list[str] = []
    monkeypatch.setattr("warnings.showwarning", lambda *_, **__: shown.append(threading.current_thread().name))
    held = [bus.subscribe("n")]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        channel_of(bus).call_soon(held.clear)  # the last reference goes there
        eventually(lambda: bus.metrics().active_subscriptions == 0, "its leave")
    assert not shown


@pytest.mark.concurrent
def test_flush_means_that_the_server_has_it(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    bus = make_bus()
    raw.subscribe(f"{prefix}.events.n")
    raw.flush()
    for round_ in range(20):
        for n in range(50):
            bus.publish("n", make_event(n))
        bus.flush(PATIENCE)
        assert raw.drain() == 50, f"round {round_}: a PING answered after flush() overtook events"


@pytest.mark.concurrent
def test_subscribe_means_that_the_server_has_it(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    here, there = make_bus(), make_bus()
    head = EnvelopeWriter(there.node_id)
    for n in range(200):
        payload = head.write(f"n.{n}", encode_event(make_event(n)))
        with here.subscribe(f"n.{n}") as events:
            raw.publish(f"{prefix}.events.n.{n}", payload)  # at once, by nobody's loop
            assert numbers([events.get(timeout=PATIENCE)]) == [n]


@pytest.mark.parametrize("count", first_of([200, 1_000]))
def test_a_storm_of_subscriptions(make_bus: MakeBus, count: int) -> None:
    here, there = make_bus(), make_bus()
    subs: list[Any] = []

    def storm(part: int) -> None:
        for n in range(part, count, 4):
            subs.append((n, here.subscribe(f"s.{n}", timeout=PATIENCE)))

    run_threads(*(lambda part=part: storm(part) for part in range(4)))
    there.publish(f"s.{count - 1}", make_event(1))
    assert numbers([dict(subs)[count - 1].get(timeout=PATIENCE)]) == [1]
    run_threads(*(lambda part=part: [sub.close() for _, sub in subs[part::4]] for part in range(4)))
    assert here.metrics().active_subscriptions == 0


# -- what ends leaves the server at once, and what that had chosen it for on the way is counted


def chosen(*members: Subscription) -> int:
    """How many events the server has sent to the members of a group."""
    return sum(member.stats().offered for member in members)


@pytest.mark.concurrent
def test_a_member_that_overflowed_is_chosen_no_more(make_bus: MakeBus, keep: Keep, monitor: Monitor) -> None:
    weak, strong, there = make_bus(), make_bus(), make_bus()
    failing = keep(weak.subscribe("jobs", "more.*", queue_group="g", overflow="fail", maxsize=10))
    other = keep(strong.subscribe("jobs", queue_group="g"))
    for n in range(3_000):
        there.publish("jobs", make_event(n))
    there.flush(PATIENCE)
    eventually(lambda: chosen(failing, other) == 3_000, "a count of every event")
    eventually(lambda: monitor.subscriptions_of(weak) == [], "its leave, though nobody has used that bus")
    assert weak.metrics().active_subscriptions == 0
    stats = failing.stats()
    assert (stats.pending, stats.dropped) == (10, stats.offered - 10)
    assert weak.metrics().dropped == stats.dropped
    before = chosen(other)
    for n in range(100):
        there.publish("jobs", make_event(n))
    eventually(lambda: chosen(other) == before + 100, "all of them with the other member")
    assert len(failing.get_batch(99, timeout=PATIENCE)) == 10
    with pytest.raises(SubscriptionOverflowError):
        failing.get(timeout=PATIENCE)


@pytest.mark.concurrent
def test_a_member_that_was_dropped_counts_what_it_was_chosen_for(make_bus: MakeBus, keep: Keep) -> None:
    weak, strong, there = make_bus(), make_bus(), make_bus()
    other = keep(strong.subscribe("jobs", queue_group="g"))
    for round_ in range(5):
        before = chosen(other) + weak.metrics().dropped
        forgotten: Any = weak.subscribe("jobs", queue_group="g", timeout=PATIENCE)
        for n in range(300):
            there.publish("jobs", make_event(n))
            if n == 150:
                with pytest.warns(ResourceWarning, match="unclosed"):
                    del forgotten
        there.flush(PATIENCE)
        eventually(lambda: chosen(other) + weak.metrics().dropped == before + 300, f"a count of all, round {round_}")  # noqa: B023
        eventually(lambda: weak.metrics().active_subscriptions == 0, "its leave")


@pytest.mark.fault
def test_a_subscription_whose_right_was_revoked_leaves_its_other_patterns(own_monitor: Monitor) -> None:
    users = 'authorization { users: [{user: u, password: p, permissions: {subscribe: {allow: ">", deny: [%s]}}}] }\n'
    with (
        NATSServer(config=users % "t.no" + own_monitor.config) as server,
        NATSEventBus(server.url, user="u", password="p", prefix="t") as bus,
    ):
        events = bus.subscribe("a", "b", queue_group="g", timeout=PATIENCE)
        alone = bus.subscribe("c", timeout=PATIENCE)
        server.reload(users % '"t.events.a"' + own_monitor.config)
        with pytest.raises(PermissionDeniedError):
            events.get(timeout=PATIENCE)
        eventually(lambda: own_monitor.subscriptions_of(bus) == [("t.events.c", "")], "the leave of both")
        assert not alone.closed


@pytest.mark.fault
def test_a_shared_subscription_is_confirmed_by_the_server_of_now(
    make_bus: MakeBus, server: NATSServer, keep: Keep
) -> None:
    with Proxy(server.port) as proxy:
        bus, there = make_bus(proxy.url), make_bus()
        first = keep(bus.subscribe("n", timeout=PATIENCE))
        there.start()
        proxy.cut()
        eventually(lambda: not bus.is_connected, "the disconnect")
        with pytest.raises(DeadlineExceededError, match="not connected"):
            bus.subscribe("n", timeout=0.1 * UNIT)

        def subscribe() -> None:
            second = keep(bus.subscribe("n", timeout=PATIENCE))
            there.publish("n", make_event(1))
            assert numbers([second.get(timeout=PATIENCE), first.get(timeout=PATIENCE)]) == [1, 1]

        run_threads(subscribe, proxy.restore)
        assert bus.metrics().active_subscriptions == 2


@pytest.mark.fault
def test_closing_ends_the_wait_for_that_server(make_bus: MakeBus, server: NATSServer, keep: Keep) -> None:
    with Proxy(server.port) as proxy:
        bus = make_bus(proxy.url)
        keep(bus.subscribe("n", timeout=PATIENCE))
        proxy.cut()
        eventually(lambda: not bus.is_connected, "the disconnect")

        def subscribe() -> None:
            with pytest.raises(BusClosedError):
                bus.subscribe("n", timeout=None)

        def close() -> None:
            eventually(lambda: bus.metrics().active_subscriptions == 2, "the subscription")
            bus.close(UNIT)

        run_threads(subscribe, close)


@pytest.mark.parametrize("times", first_of([2, 10]))
def test_a_server_that_is_full_says_so(times: int) -> None:
    with (
        NATSServer(config="max_connections: 2") as server,
        NATSEventBus(server.url) as one,
        NATSEventBus(server.url) as other,
    ):
        for bus in (one, other):
            assert bus.wait_connected(PATIENCE)
        for _ in range(times):
            bus = NATSEventBus(server.url, connect_timeout=0.2 * UNIT)
            with pytest.raises(ConnectError, match="maximum connections exceeded"):
                bus.start()
            bus.close()
