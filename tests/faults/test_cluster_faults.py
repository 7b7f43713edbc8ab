"""Three servers, of which one goes: publishing goes on, subscriptions come back, what was lost is counted."""

import time
from collections.abc import Callable, Iterator

import pytest

from aether_sync import DeliveryUncertainError, NATSCluster, NATSEventBus, NATSServer, Subscription

from ..support.common import PATIENCE, UNIT, FreePort, Keep, eventually, first_of, make_event, numbers
from ..support.fake_server import FakeServer
from ..support.inside import client_of, is_writing
from ..support.proxy import Proxy
from ..support.recorder import LAST_WORDS, Publishers, Recorder, check_order, check_sums

pytestmark = pytest.mark.fault

MakeBus = Callable[..., NATSEventBus]
QUICK = 0.2 * UNIT

# It goes on for half a minute after it was told to end, so whoever is elsewhere by then has left by himself.
LAME = 'lame_duck_duration: "30s", lame_duck_grace_period: "20s"'


@pytest.fixture
def cluster() -> Iterator[NATSCluster]:
    with NATSCluster(3, jetstream=False, config=LAME) as cluster:
        yield cluster
        for server in cluster.servers:  # one that is lame would take its time
            server.kill()


def port_of(bus: NATSEventBus) -> int:
    """Of the server it is connected to, or was last."""
    return client_of(bus).server.address[1]


def take(events: Subscription) -> int:
    (n,) = numbers([events.get(timeout=PATIENCE)])
    return n


def has_moved(bus: NATSEventBus, server: NATSServer | Proxy) -> bool:
    return bus.is_connected and port_of(bus) != server.port


def received(events: Subscription, bus: NATSEventBus, namespace: str = "last") -> list[tuple[str, int]]:
    """All that it got, to the first event that another bus publishes now; other servers learn of a SUB a bit later."""
    got: list[tuple[str, int]] = []
    for n in range(1, int(PATIENCE / 0.02)):
        bus.publish(namespace, make_event(actor_id="p-last", version=n))
        got += [(event.actor_id, event.version) for event in events.get_batch(1_000_000, timeout=0.02)]
        if got and got[-1][0] == "p-last":
            return got
    raise AssertionError("the subscription did not come back")


@pytest.mark.parametrize(
    "fault", first_of([NATSServer.kill, NATSServer.pause, NATSServer.lame_duck, NATSServer.restart])
)
def test_one_of_three_goes(
    make_bus: MakeBus, cluster: NATSCluster, prefix: str, fault: Callable[[NATSServer], None], keep: Keep
) -> None:
    first, second, _ = cluster.servers
    interval = QUICK if fault is NATSServer.pause else PATIENCE  # what a lame server may take to confirm the last
    bus = make_bus(first.url, ping_interval=interval)  # it learns of the others
    subscriber = make_bus(first.url, ping_interval=interval)
    events = keep(subscriber.subscribe(">"))
    bus.start()
    with Recorder(first.port, prefix) as there, Recorder(second.port, prefix) as witness:
        publishers = Publishers(bus, total=20_000)
        publishers.await_part(0.2)
        fault(first)
        start = time.monotonic()
        eventually(lambda: has_moved(bus, first) and has_moved(subscriber, first), "two links to other servers")
        moved = time.monotonic() - start
        publishers.finish()
        report = bus.close(10 * UNIT)
        witness.finish()
        metrics = bus.metrics()
        check_sums(publishers, metrics, report)
        check_order(witness.events(), connections=2)
        arrived = {*there.events(), *witness.events()}
    check_order(received(events, make_bus(second.url)), connections=2)
    assert moved < 2 * QUICK + UNIT
    assert metrics.confirmed - LAST_WORDS <= len(arrived) <= metrics.confirmed + metrics.uncertain
    assert (metrics.reconnects, subscriber.metrics().reconnects) == (1, 1)
    assert publishers.slowest < UNIT, "publishing stalled"
    if fault is NATSServer.lame_duck:
        assert metrics.uncertain == 0


def at_one_server(make_bus: MakeBus, server: NATSServer, keep: Keep) -> tuple[NATSEventBus, NATSEventBus, Subscription]:
    """A bus that publishes, one that subscribes to everything, and its subscription; they learn of the others there."""
    bus, subscriber = make_bus(server.url), make_bus(server.url)
    events = keep(subscriber.subscribe(">"))
    bus.start()
    return bus, subscriber, events


def test_a_rolling_restart_loses_nothing_that_was_published(
    make_bus: MakeBus, cluster: NATSCluster, prefix: str, keep: Keep
) -> None:
    bus, subscriber, events = at_one_server(make_bus, cluster.servers[0], keep)
    publishers = Publishers(bus, total=20_000, rate=10_000)
    for server in cluster.servers:
        server.lame_duck()
        eventually(lambda server=server: has_moved(bus, server) and has_moved(subscriber, server), "a move")
        server.kill()  # nobody is there
        server.start()
        cluster.wait_ready(PATIENCE)
    publishers.finish()
    bus.flush(PATIENCE)
    metrics = bus.metrics()
    assert (metrics.uncertain, metrics.confirmed) == (0, publishers.total)
    check_order(received(events, bus), connections=4)
    assert 1 <= metrics.reconnects <= 4
    assert publishers.slowest < UNIT, "publishing stalled"


@pytest.mark.slow
def test_a_rolling_restart_without_notice_counts_what_it_loses(
    make_bus: MakeBus, cluster: NATSCluster, prefix: str, keep: Keep
) -> None:
    bus, _, events = at_one_server(make_bus, cluster.servers[0], keep)
    publishers = Publishers(bus, total=30_000)
    for server in cluster.servers:
        server.restart()
        cluster.wait_ready(PATIENCE)
    publishers.finish()
    report = bus.close(10 * UNIT)
    check_sums(publishers, bus.metrics(), report)
    check_order(received(events, make_bus(cluster.url)), connections=4)
    assert publishers.slowest < UNIT, "publishing stalled"


def test_what_is_in_flight_is_confirmed_before_a_lame_server_is_left(make_bus: MakeBus) -> None:
    with FakeServer() as other, FakeServer(connect_urls=[f"127.0.0.1:{other.port}"]) as lame:
        bus = make_bus(lame.url)
        with bus.subscribe("n") as events:
            lame.answer = lambda *_: None
            bus.publish("n", make_event(1))
            eventually(lambda: lame.last.lines[-1:] == [b"PING"] and b"PUB" in lame.last.lines[-2], "a PING")
            lame.last.send(b'INFO {"ldm":true}\r\nINFO {"ldm":true}\r\n')
            eventually(lambda: not is_writing(bus), "the end of writing")
            bus.publish("n", make_event(2))
            lame.last.send(b"PONG\r\n")
            eventually(lambda: other.peers, "a link to the other server")
            bus.flush(PATIENCE)
            assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 2]
        metrics = bus.metrics()
        assert (metrics.confirmed, metrics.uncertain, metrics.reconnects) == (2, 0, 1)
        assert [sum(line.startswith(b"PUB") for line in fake.last.lines) for fake in (lame, other)] == [1, 1]
        bus.close()


def test_a_lame_server_that_confirms_nothing_is_left_all_the_same(make_bus: MakeBus) -> None:
    with FakeServer() as other, FakeServer(connect_urls=[f"127.0.0.1:{other.port}"]) as lame:
        bus = make_bus(lame.url, ping_interval=QUICK)
        bus.start()
        lame.answer = lambda *_: b"+OK\r\n"  # it is not frozen
        bus.publish("n", make_event(1))
        lame.last.send(b'INFO {"ldm":true}\r\n')
        with pytest.raises(DeliveryUncertainError):
            bus.flush(PATIENCE)
        bus.publish("n", make_event(2))
        bus.flush(PATIENCE)
        assert (bus.metrics().confirmed, bus.metrics().uncertain) == (1, 1)
        bus.close()


def test_the_only_server_is_not_left_because_it_is_lame(make_bus: MakeBus) -> None:
    with FakeServer() as lame:
        bus = make_bus(lame.url)
        bus.start()
        lame.last.send(b'INFO {"ldm":true}\r\n')
        end = time.monotonic() + 0.3 * UNIT
        while time.monotonic() < end:
            bus.publish("n", make_event())
            bus.flush(PATIENCE)
        assert bus.metrics().reconnects == 0
        bus.close()


def test_the_server_that_was_left_comes_last(make_bus: MakeBus) -> None:
    with FakeServer() as other, FakeServer(connect_urls=[f"127.0.0.1:{other.port}"]) as first:
        for turn in range(1, 7):
            bus = make_bus([first.url, f"{first.url}/"], ping_interval=60)  # one server under two names
            bus.start()
            if turn % 3:
                first.last.cut()
            else:
                first.last.send(b"-ERR 'Server Shutdown'\r\n")
            eventually(lambda turn=turn: len(other.peers) == turn, "a link to the other server")
            assert len(first.peers) == turn
            bus.close()


@pytest.mark.parametrize("is_late", first_of([True, False]))
def test_an_event_that_comes_again_through_another_server_is_known(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    monkeypatch.setattr("random.shuffle", lambda _: None)  # so the first server is the first
    if is_late:
        monkeypatch.setattr("aether_sync._bus.recent_payloads._SECONDS", QUICK / 4)
    free = [FreePort(), FreePort()]
    ports = [port.number for port in free]
    config = 'cluster {{name: c, listen: "127.0.0.1:{}", no_advertise: true, routes: [{}]}}'
    with (
        Proxy(ports[0]) as route,
        NATSServer(jetstream=False, config=config.format(ports[0], "")) as first,
        NATSServer(jetstream=False, config=config.format(ports[1], f'"nats://127.0.0.1:{route.port}"')) as second,
        Proxy(first.port) as link,
    ):
        bus, there, publisher = make_bus([link.url, second.url]), make_bus(second.url), make_bus(first.url)
        with bus.subscribe("n") as events, bus.subscribe("*") as all_of_them, there.subscribe("n", "a.b") as other:
            received(other, publisher, "a.b")  # the servers know each other
            route.stall()
            publisher.publish_many("n", [make_event(n) for n in range(10)])
            for sub in (events, all_of_them):
                assert [take(sub) for _ in range(10)] == list(range(10))
            if is_late:
                late = time.monotonic() + QUICK / 2
                eventually(lambda: time.monotonic() > late, "the end of what is remembered as it is")
            link.cut()
            eventually(lambda: has_moved(bus, link), "a link to the other server")
            route.restore()
            assert [take(other) for _ in range(10)] == list(range(10))  # now they are at the second one
            there.publish("n", make_event(10))
            assert [take(sub) for sub in (events, all_of_them)] == [10, 10]
        for one in (bus, there, publisher):
            one.close()


def test_credentials_in_a_url_are_good_for_the_whole_cluster(make_bus: MakeBus, prefix: str, keep: Keep) -> None:
    config = 'authorization {user: "u", password: "p"}'
    with NATSCluster(2, jetstream=False, config=config) as pair:
        first, second = pair.servers
        bus = make_bus(first.url.replace("nats://", "nats://u:p@"))
        events = keep(bus.subscribe("n"))
        first.kill()
        eventually(lambda: has_moved(bus, first), "a link to the other server")
        make_bus(second.url.replace("nats://", "nats://u:p@")).publish("n", make_event(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
