"""A link that is slow upwards is not taken for a frozen one, and a frozen one not for a slow one."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aether_sync import DeliveryUncertainError, JetStreamEventStore, NATSEventBus, NATSServer
from aether_sync._nats.uplink import Window

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, numbers
from ..support.credentials import Certificates
from ..support.proxy import Proxy

MakeBus = Callable[..., NATSEventBus]

INTERVAL = 0.5 * UNIT  # seconds: the bus's ping_interval
RATE = 200_000 / UNIT  # bytes a second, upwards
SMALL = 16 * 1024  # bytes: buffers of the proxy's kernel
LARGE = "max_payload: 8MB"
LAME = 'lame_duck_duration: "60s", lame_duck_grace_period: "50s"'


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NATSServer]:
    """A server that takes events of megabytes."""
    with NATSServer(config=LARGE, log_file=tmp_path_factory.mktemp("large") / "nats.log") as server:
        yield server


@pytest.fixture(
    params=[pytest.param(SMALL, marks=pytest.mark.slow, id="small buffers"), pytest.param(0, id="deep buffers")]
)
def slow(large: NATSServer, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    """A slow link to it; who writes hears of that soon, or late."""
    with Proxy(large.port, buffer=request.param) as proxy:
        proxy.slow_down(bytes_per_second=RATE)
        yield proxy


# -- slow


@pytest.mark.both_loops
@pytest.mark.fault
def test_a_slow_link_is_not_a_frozen_one(make_bus: MakeBus, large: NATSServer, slow: Proxy) -> None:
    count = 400  # takes four intervals
    with make_bus(large.url).subscribe("n") as events:
        bus = make_bus(slow.url, ping_interval=INTERVAL)
        bus.publish_many("n", [make_event(n, data={"n": n, "fill": "x" * 800}) for n in range(count)])
        bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE) for _ in range(count)]) == list(range(count))
    metrics = bus.metrics()
    assert (metrics.confirmed, metrics.uncertain, metrics.reconnects) == (count, 0, 0)


@pytest.mark.fault
@pytest.mark.parametrize("count", first_of([1, 2]))
def test_an_event_may_take_longer_than_an_interval(make_bus: MakeBus, large: NATSServer, count: int) -> None:
    with Proxy(large.port, buffer=SMALL) as slow, make_bus(large.url).subscribe("n") as events:
        slow.slow_down(bytes_per_second=RATE)
        bus = make_bus(slow.url, ping_interval=INTERVAL)
        for n in range(count):
            bus.publish("n", make_event(n, data={"n": n, "fill": "x" * 4 * int(RATE * INTERVAL)}))
            bus.flush(PATIENCE)
            assert numbers([events.get(timeout=PATIENCE)]) == [n]
    metrics = bus.metrics()
    assert (metrics.confirmed, metrics.uncertain, metrics.reconnects) == (count, 0, 0)


@pytest.mark.both_loops
@pytest.mark.fault
@pytest.mark.slow
def test_a_slow_link_with_tls(make_bus: MakeBus, tmp_path: Path) -> None:
    ours = Certificates(tmp_path)
    with NATSServer(config=f"{LARGE}\n{ours.config()}") as server, Proxy(server.port, buffer=SMALL) as slow:
        bus = make_bus(f"tls://127.0.0.1:{slow.port}", tls=ours.trusting(), ping_interval=INTERVAL)
        bus.start()
        slow.slow_down(bytes_per_second=RATE)
        bus.publish("n", make_event(data={"fill": os.urandom(int(RATE * INTERVAL * 2)).hex()}))
        bus.publish_many("n", [make_event(n, data={"fill": "x" * 800}) for n in range(200)])
        bus.flush(PATIENCE)
        metrics = bus.metrics()
        assert (metrics.confirmed, metrics.uncertain, metrics.reconnects) == (201, 0, 0)
        bus.close()


@pytest.mark.fault
def test_nothing_waits_behind_megabytes(make_bus: MakeBus, large: NATSServer, slow: Proxy) -> None:
    bus = make_bus(slow.url, ping_interval=INTERVAL)
    bus.publish_many("n", [make_event(n, data={"fill": "x" * 800}) for n in range(4_000)])  # many seconds of it
    eventually(lambda: bus.metrics().confirmed, "events that are confirmed")
    start = time.monotonic()
    with bus.subscribe("other", timeout=PATIENCE) as events:
        assert time.monotonic() - start < 2.5 * UNIT
        make_bus(large.url).publish("other", make_event(7))
        assert numbers([events.get(timeout=PATIENCE)]) == [7]
    assert bus.metrics().reconnects == bus.metrics().uncertain == 0
    bus.close(timeout=0.1)


@pytest.mark.slow
@pytest.mark.fault
def test_a_store_waits_for_what_is_on_its_way(
    make_store: Callable[..., JetStreamEventStore], large: NATSServer
) -> None:
    with Proxy(large.port, buffer=SMALL) as slow:
        store, reader = make_store(slow.url), make_store(slow.url)
        store.start(PATIENCE)
        reader.start(PATIENCE)
        slow.slow_down(bytes_per_second=RATE)
        stored = store.save_events(
            [make_event(actor_id="a", version=1, data={"fill": "x" * int(RATE * 4 * UNIT)})], timeout=PATIENCE
        )
        assert [one.sequence for one in stored] == [1]
        assert [event.version for event in reader.get_events("a", timeout=PATIENCE)] == [1]
        slow.restore()
        assert store.last_sequence(timeout=PATIENCE) == 1
        store.close()
        reader.close()


@pytest.mark.fault
@pytest.mark.slow
def test_a_lame_server_is_left_when_all_went_out(make_bus: MakeBus, free_port: int) -> None:
    with NATSServer(config=f"{LARGE}\n{LAME}") as lame, Proxy(lame.port, buffer=SMALL) as slow:
        bus = make_bus([slow.url, f"nats://127.0.0.1:{free_port}"], ping_interval=INTERVAL)
        bus.start()
        with NATSServer(port=free_port):
            slow.slow_down(bytes_per_second=RATE)
            bus.publish("n", make_event(data={"fill": "x" * 4 * int(RATE * INTERVAL)}))
            eventually(lambda: bus.metrics().outbox_events == 0, "an event on its way")
            lame.lame_duck()
            eventually(lambda: bus.metrics().reconnects == 1, "a link to the other server")
            bus.flush(PATIENCE)
            assert (bus.metrics().confirmed, bus.metrics().uncertain) == (1, 0)
            bus.close()
        lame.kill()


# -- frozen


def noticed(bus: NATSEventBus) -> float:
    """Seconds until a bus is disconnected."""
    start = time.monotonic()
    eventually(lambda: not bus.is_connected, "a frozen server that is noticed")
    return time.monotonic() - start


@pytest.mark.both_loops
@pytest.mark.fault
class TestAFrozenServer:
    @pytest.fixture
    def bus(self, make_bus: MakeBus, frozen: NATSServer) -> NATSEventBus:
        return make_bus(frozen.url, ping_interval=INTERVAL)

    @pytest.fixture
    def frozen(self) -> Iterator[NATSServer]:
        with NATSServer(config=LARGE) as server:
            yield server
            server.resume()

    def test_it_is_noticed_with_nothing_in_flight(self, bus: NATSEventBus, frozen: NATSServer) -> None:
        bus.start()
        frozen.pause()
        assert noticed(bus) < 2 * INTERVAL + 0.2 * UNIT
        bus.close(timeout=0.1)

    @pytest.mark.slow
    def test_it_is_noticed_though_its_kernel_takes_what_is_written(self, bus: NATSEventBus, frozen: NATSServer) -> None:
        bus.start()
        frozen.pause()
        bus.publish_many("n", [make_event(n, data={"fill": "x" * 800}) for n in range(100)])
        assert noticed(bus) < 2 * INTERVAL + 0.2 * UNIT
        with pytest.raises(DeliveryUncertainError):
            frozen.resume()
            bus.flush(PATIENCE)

    def test_it_is_noticed_though_its_buffers_are_full(self, bus: NATSEventBus, frozen: NATSServer) -> None:
        bus.start()
        frozen.pause()
        bus.publish("n", make_event(data={"fill": "x" * 8_000_000}))
        assert noticed(bus) < 2 * INTERVAL + 0.4 * UNIT
        bus.close(timeout=0.1)

    @pytest.mark.slow
    def test_it_is_noticed_though_somebody_goes_on_publishing(self, bus: NATSEventBus, frozen: NATSServer) -> None:
        bus.start()
        frozen.pause()
        start = time.monotonic()
        while bus.is_connected and time.monotonic() - start < PATIENCE:
            bus.publish("n", make_event())
            time.sleep(0.01)
        assert time.monotonic() - start < 2 * INTERVAL + 0.2 * UNIT
        bus.close(timeout=0.1)


_PROGRAM = """
import sys
from aether_sync import NATSEventBus
with NATSEventBus(sys.argv[1], ping_interval=float(sys.argv[2])) as bus:
    print("begun", flush=True)
    sys.stdin.readline()
    print(bus.metrics().reconnects, flush=True)
"""


@pytest.mark.fault
@pytest.mark.slow
def test_a_process_that_was_stopped_does_not_take_its_server_for_frozen(server: NATSServer) -> None:
    command = [sys.executable, "-c", _PROGRAM, server.url, str(INTERVAL)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as program:
        assert program.stdin is not None
        assert program.stdout is not None
        assert program.stdout.readline() == "begun\n"
        for _ in range(2):
            program.send_signal(signal.SIGSTOP)
            time.sleep(3 * INTERVAL)  # the fault itself
            program.send_signal(signal.SIGCONT)
            time.sleep(INTERVAL / 7)
        program.stdin.write("\n")
        program.stdin.flush()
        assert program.stdout.readline() == "0\n"
        assert program.wait(PATIENCE) == 0


# -- how much may be on the way


def after(*pongs: tuple[int, float]) -> int:
    """The size of a window of a second, after PONGs for so many bytes in so many seconds."""
    window = Window(1.0)
    for size, seconds in pongs:
        window.confirmed(size, seconds)
    return window.size


LEAST, MOST = after(), 2 * 2**20


def test_what_is_in_flight_is_what_the_link_carries() -> None:
    assert after((LEAST, 0.5)) == 2 * LEAST
    assert after((LEAST, 0.5), (LEAST, 1.0)) == 2 * LEAST  # in time
    assert after((LEAST, 0.5), (2 * LEAST, 1.25)) == int(1.6 * LEAST)  # it has become slower
    assert after((LEAST, 0.5), (LEAST, 30.0)) == LEAST
    assert after(*[(2**20, 0.001)] * 3) == MOST


def test_a_few_bytes_that_are_through_at_once_say_little() -> None:
    assert after((100, 0.0), (2_000, 1e-6)) == LEAST
    assert after((LEAST, 0.0)) == 8 * LEAST


def test_a_window_takes_several_writes() -> None:
    window = Window(1.0)
    assert window.slice * 2 == window.size
    for _ in range(3):
        window.confirmed(window.size, 0.001)
    assert window.slice * 4 == window.size == MOST
    window.begin()
    assert window.size == LEAST
