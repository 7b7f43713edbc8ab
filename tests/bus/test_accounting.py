"""What became of each event when links and servers break, at 20,000 a second from 4 threads.

A witness at the server, on a link that does not break, says what arrived: at least what is confirmed, at most what was
written, nothing twice, and in order for each thread (and, where the bus moves to another server, for each connection).
"""

import time
from collections.abc import Callable, Iterator

import pytest

from aether_sync import NATSCluster, NATSEventBus, NATSServer

from ..support.common import UNIT, eventually, first_of
from ..support.proxy import Proxy
from ..support.recorder import LAST_WORDS, Publishers, Recorder, check_order, check_sums

pytestmark = pytest.mark.fault

MakeBus = Callable[..., NATSEventBus]
TOTAL = 20_000
MOST_IN_FLIGHT = 2 * 2**20 // 350  # events


def cut(proxy: Proxy) -> None:
    proxy.cut()
    time.sleep(0.1 * UNIT)
    proxy.restore()


def end(proxy: Proxy) -> None:
    proxy.drop(reset=False)


def stall_and_cut(proxy: Proxy) -> None:
    proxy.stall()
    time.sleep(0.3 * UNIT)
    cut(proxy)


def slow_down(proxy: Proxy) -> None:
    proxy.slow_down(bytes_per_second=2_000_000 / UNIT)
    time.sleep(0.7 * UNIT)
    proxy.restore()


def slow_down_and_cut(proxy: Proxy) -> None:
    proxy.slow_down(bytes_per_second=2_000_000 / UNIT)
    time.sleep(0.5 * UNIT)
    cut(proxy)


def delay(proxy: Proxy) -> None:
    proxy.slow_down(delay=0.02 * UNIT)
    time.sleep(0.5 * UNIT)
    proxy.restore()


@pytest.mark.parametrize(
    ("fault", "may_lose"),
    first_of(
        [
            (slow_down_and_cut, True),
            (delay, False),
            (cut, True),
            (end, True),
            (stall_and_cut, True),
            (slow_down, False),
        ],
        2,
    ),
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_link_that_breaks(
    make_bus: MakeBus, server: NATSServer, prefix: str, fault: Callable[[Proxy], None], may_lose: bool
) -> None:
    with Proxy(server.port) as proxy, Recorder(server.port, prefix) as witness:
        bus = make_bus(proxy.url, ping_interval=UNIT)
        bus.start()
        publishers = Publishers(bus, total=TOTAL)
        publishers.await_part(0.2)
        publishers.finish(lambda: fault(proxy))
        report = bus.close(10 * UNIT)
        witness.finish()
    metrics = bus.metrics()
    check_sums(publishers, metrics, report)
    check_order(witness.events())
    arrived = len(witness.events())
    assert metrics.confirmed <= arrived <= metrics.confirmed + metrics.uncertain
    assert (report.unsent, metrics.reconnects) == (0, int(may_lose))
    assert bool(metrics.uncertain) <= may_lose
    assert metrics.uncertain <= MOST_IN_FLIGHT + 64 * 1024 // 350
    assert publishers.slowest < UNIT, "publishing stalled"


@pytest.fixture
def pair() -> Iterator[NATSCluster]:
    with NATSCluster(2, jetstream=False) as cluster:
        yield cluster


def stop(server: NATSServer) -> None:
    server.stop()


def kill(server: NATSServer) -> None:
    server.kill()


def freeze_and_kill(server: NATSServer) -> None:
    server.pause()
    time.sleep(0.2 * UNIT)
    server.kill()


@pytest.mark.parametrize("fault", first_of([freeze_and_kill, kill, stop]))
def test_a_server_that_goes(
    make_bus: MakeBus, pair: NATSCluster, prefix: str, fault: Callable[[NATSServer], None]
) -> None:
    first, second = pair.servers
    with Recorder(first.port, prefix) as there, Recorder(second.port, prefix) as witness:
        bus = make_bus(first.url, ping_interval=UNIT)  # it learns of the other one
        bus.start()
        publishers = Publishers(bus, total=TOTAL)
        publishers.await_part(0.2)
        publishers.finish(lambda: fault(first))
        report = bus.close(10 * UNIT)
        there.finish()
        witness.finish()
    metrics = bus.metrics()
    check_sums(publishers, metrics, report)
    check_order(there.events(), connections=2)
    check_order(witness.events(), connections=2)
    arrived = len({*there.events(), *witness.events()})
    assert metrics.confirmed - LAST_WORDS <= arrived <= metrics.confirmed + metrics.uncertain
    assert (report.unsent, metrics.reconnects) == (0, 1)


def test_a_server_that_goes_for_good(make_bus: MakeBus, own_server: NATSServer, prefix: str) -> None:
    bus = make_bus(own_server.url)
    bus.start()
    with Recorder(own_server.port, prefix) as witness:
        publishers = Publishers(bus, total=TOTAL // 2)
        publishers.await_part(0.2)
        publishers.finish(own_server.stop)
        eventually(lambda: not bus.is_connected, "the disconnect")
        report = bus.close(0.5 * UNIT)
        witness.finish()
    metrics = bus.metrics()
    check_sums(publishers, metrics, report)
    check_order(witness.events())
    assert report.timed_out is False
    assert metrics.confirmed - LAST_WORDS <= len(witness.events()) <= metrics.confirmed + metrics.uncertain
    assert report.unsent > TOTAL // 4
