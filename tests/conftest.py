"""A server for all tests, a prefix of its own for each, and guards that fail a test which leaves something behind.

The tests run in several processes at once, each with a server of its own: see ``addopts`` in ``setup.cfg``.

What is marked ``both_loops`` runs on asyncio's event loop and on uvloop's, all else on asyncio's: that is what who
installs no extra gets. With ``AETHER_SYNC_UVLOOP`` in the environment everything runs on the one that it chooses.
"""

import gc
import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import hypothesis
import pytest

from aether_sync import JetStreamEventStore, NATSEventBus, NATSServer, Subscription
from aether_sync._runtime.event_loop import new_loop
from aether_sync._runtime.loop_thread import LoopThread

from .support.common import CHOSEN, UNIT, FreePort, Monitor, eventually

pytest_plugins = ["pytest_aether_sync", "pytester"]

# What a developer's shell says of his own servers is not about those of the tests.
for _name in [name for name in os.environ if name.startswith("NATS_")]:
    del os.environ[_name]
os.environ["XDG_CONFIG_HOME"] = "/nowhere"  # nor are his contexts

# Without compiled files each process that a test starts compiles the whole package, and a run takes twice as long.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# However long an example takes: the other processes of a run want the processors too.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run what is marked so on both event loops."""
    mark = metafunc.definition.get_closest_marker("both_loops")
    if CHOSEN is None and mark is not None and mark.args != (False,):
        loops = ["asyncio", pytest.param("uvloop", marks=pytest.mark.slow)]
        metafunc.parametrize("_event_loop", loops, indirect=True)


@pytest.fixture(autouse=True)
def _event_loop(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Choose the event loop, for the test and the programs that it starts."""
    if CHOSEN == "1":
        __import__("uvloop")
    elif CHOSEN is None:
        wanted = getattr(request, "param", "asyncio")
        __import__(wanted)  # the library would do without uvloop
        monkeypatch.setenv("AETHER_SYNC_UVLOOP", str(int(wanted == "uvloop")))


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that nothing listens on."""
    with closing(FreePort()) as port:
        yield port.number


@pytest.fixture(scope="session")
def monitor() -> Monitor:
    """Monitors the server of all tests."""
    return Monitor()


@pytest.fixture(scope="session")
def aether_server_config(monitor: Monitor) -> str:
    """The server of all tests is monitored."""
    return monitor.config


@pytest.fixture(scope="session")
def server(nats_server: NATSServer) -> NATSServer:
    """One server for all tests that do not harm theirs."""
    return nats_server


@pytest.fixture
def own_monitor() -> Iterator[Monitor]:
    """Monitors the server of one test."""
    monitor = Monitor()
    with closing(monitor.free):
        yield monitor


@pytest.fixture
def own_server(tmp_path: Path, own_monitor: Monitor) -> Iterator[NATSServer]:
    """A server that a test may stop, kill and start again."""
    with NATSServer(log_file=tmp_path / "nats.log", config=own_monitor.config) as server:
        yield server


@pytest.fixture
def prefix() -> str:
    """A subject prefix that no other test uses; a stream, a table and a file may have this name, too."""
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def make_bus(server: NATSServer, prefix: str) -> Iterator[Callable[..., NATSEventBus]]:
    """Makes buses, all nodes of one cluster, and closes them."""
    buses: list[NATSEventBus] = []

    def make(url: object = None, **options: object) -> NATSEventBus:
        bus = NATSEventBus(url or server.url, **{"prefix": prefix, **options})  # type: ignore[arg-type]
        buses.append(bus)
        return bus

    yield make
    for bus in buses:
        bus.close()


@pytest.fixture
def make_store(server: NATSServer, prefix: str) -> Iterator[Callable[..., JetStreamEventStore]]:
    """Makes stores, all of one stream, and closes them."""
    stores: list[JetStreamEventStore] = []

    def make(url: object = None, stream: str = prefix, **options: object) -> JetStreamEventStore:
        store = JetStreamEventStore(url or server.url, stream, **options)  # type: ignore[arg-type]
        stores.append(store)
        return store

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store: Callable[..., JetStreamEventStore]) -> JetStreamEventStore:
    """A store of its own."""
    return make_store()


@pytest.fixture
def keep() -> Iterator[Callable[[Subscription], Subscription]]:
    """Keeps a subscription until the test is over, and closes it then."""
    kept: list[Subscription] = []

    def keep(subscription: Subscription) -> Subscription:
        kept.append(subscription)
        return subscription

    yield keep
    for subscription in kept:
        subscription.close()


@pytest.fixture
def fast_switching() -> Iterator[None]:
    """Threads take turns after a microsecond."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


def pytest_collection_finish() -> None:
    """Keep the collector from walking through pytest's own objects, on whatever thread it happens to run."""
    gc.freeze()


def _ours() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("aether-")}


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


@pytest.fixture(scope="session", autouse=True)
def _libuv_is_begun() -> None:
    """With the first loop libuv opens a pipe, which it keeps."""
    new_loop(True, print).close()


@pytest.fixture(scope="session", autouse=True)
def _commands_are_imported() -> None:
    """If a test may run commands, the process that they are forked from is there before files are counted."""
    if shell := sys.modules.get(f"{__package__}.support.shell"):
        shell.import_commands()


@pytest.fixture(autouse=True)
def aether_guard(server: NATSServer) -> Iterator[None]:
    """Fail a test that leaves a thread of ours, a file or a socket; a handler may fail, as many tests want it to."""
    threads, files = _ours(), _open_files()
    yield
    if _ours() - threads or _open_files() > files:
        gc.collect()
    eventually(lambda: not (_ours() - threads), f"the end of {_ours() - threads}")
    eventually(lambda: _open_files() <= files, "the end of all files and sockets")


@pytest.fixture(autouse=True)
def _loop_not_blocked(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail a test in which something holds a loop thread: uses the processor for long while a timer is due."""
    held: list[str] = []
    original = LoopThread._run

    def watched(self: LoopThread) -> None:
        def tick(last: float) -> None:
            now = time.thread_time()
            if now - last > 2 * UNIT:  # two threads that share a core take up to twice the time of one
                held.append(f"{self.name}: {now - last:.2f} s")
            self._loop.call_later(0.05, tick, now)

        with suppress(RuntimeError):  # it is closed
            self._loop.call_soon_threadsafe(lambda: tick(time.thread_time()))
        original(self)

    monkeypatch.setattr(LoopThread, "_run", watched)
    yield
    assert not held, f"the loop thread was held: {held}"
