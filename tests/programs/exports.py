"""Programs of several processes that share ``PROMETHEUS_MULTIPROC_DIR``."""

import gc
import io
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Literal
from urllib.error import HTTPError
from urllib.request import urlopen

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.parser import text_string_to_metric_families

from aether_sync import EventBus, InMemoryEventStore, InvalidOptionError, NATSEventBus, flush_logs
from aether_sync.contrib.prometheus import _slots, _writer, metrics_app, register, start_http_server

from ..support.common import becomes, eventually, make_event

_NOBODY = 65534

FOLDER = Path(os.environ.get("PROMETHEUS_MULTIPROC_DIR", ""))
registry = CollectorRegistry()
kept: list[EventBus] = []  # until the process ends, as a module keeps its bus


def value(name: str, **labels: str) -> float:
    """What a scrape says, summed over the series that have these labels."""
    families = text_string_to_metric_families(generate_latest(registry).decode())
    found = [one for family in families for one in family.samples if one.name == name]
    return sum(one.value for one in found if labels.items() <= one.labels.items())


def published() -> float:
    return value("aether_sync_bus_published_total")


def subscriptions() -> float:
    return value("aether_sync_bus_subscriptions")


def publish(bus: EventBus, count: int) -> None:
    for n in range(count):
        bus.publish("orders.eu", make_event(n))


def begin() -> EventBus:
    """A bus that is registered before all forks."""
    MultiProcessCollector(registry)
    bus = EventBus()
    register(bus)
    return bus


def in_child(work: object) -> int:
    """Run a function in a forked child that ends as programs do; returns its process id."""
    pid = os.fork()
    if not pid:
        try:
            work()  # type: ignore[operator]
        except BaseException:
            sys.excepthook(*sys.exc_info())
            os._exit(1)
        sys.exit()
    return pid


def files() -> int:
    return len(list(FOLDER.glob("counter_*.db")))


def forked() -> None:
    """Each child counts from zero, loses nothing at its end, and takes its gauges along."""
    bus = begin()
    publish(bus, 3)
    becomes(published, 3)

    def work() -> None:
        with bus.subscribe("orders.*"):
            publish(bus, 2)
            eventually(lambda: subscriptions() >= 1)

    for pid in [in_child(work), in_child(work)]:
        assert os.waitpid(pid, 0)[1] == 0
    assert published() == 7
    assert subscriptions() == 0
    assert files() <= 3
    for pid in [in_child(lambda: publish(bus, 1)) for _ in range(2)]:
        assert os.waitpid(pid, 0)[1] == 0
    assert published() == 9
    assert files() <= 3, "they go on with the files of those before"


def idle() -> None:
    """A child in which nothing happens writes nothing."""
    bus = begin()
    publish(bus, 3)
    becomes(published, 3)
    os.waitpid(in_child(lambda: time.sleep(_writer._INTERVAL * 2)), 0)
    assert files() == 1
    assert published() == 3


def killed() -> None:
    """What a child has written stays when it is killed; its gauges go, and the next one takes its files."""
    bus = begin()

    def work() -> None:
        with bus.subscribe("orders.*"):
            publish(bus, 2)
            signal.pause()

    for round_ in range(1, 4):
        pid = in_child(work)
        becomes(subscriptions, 1)
        assert published() == 2 * round_
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        becomes(subscriptions, 0)
        assert published() == 2 * round_
        assert files() == 2


def unregistered() -> None:
    """What is unregistered is written at once, stays, and is not counted twice when it is registered again."""
    MultiProcessCollector(registry)
    bus, store = EventBus(), InMemoryEventStore()
    registration = register(bus, store)
    publish(bus, 1)
    store.save_event(make_event(version=1))
    becomes(published, 1)
    for _ in range(3):
        pid = os.fork()
        if not pid:
            publish(bus, 2)
            store.save_event(make_event(version=2))
            with bus.subscribe("orders.*"):
                registration.unregister()
            os._exit(0)
        os.waitpid(pid, 0)
    assert published() == 7
    assert value("aether_sync_store_events_written_total") == 4
    assert subscriptions() == 0
    registration.unregister()
    with register(bus, store):
        publish(bus, 3)
        becomes(published, 10)
    with register(bus, store):
        becomes(subscriptions, 0)
    assert published() == 10


def pool() -> None:
    """Children of multiprocessing, which end without exit handlers of Python's."""
    bus = begin()
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=publish, args=(bus, 5)) for _ in range(3)]
    for child in children:
        child.start()
    for child in children:
        child.join()
        assert child.exitcode == 0
    assert published() == 15


def unclosed(url: str, prefix: str) -> None:
    """What is confirmed only by the flush at exit is written, too."""
    kept.append(bus := NATSEventBus(url, prefix=prefix))
    register(bus)
    bus.flush()
    bus.publish_many("orders.eu", [make_event(n) for n in range(30_000)])


def collected() -> None:
    """What an object counted before it was collected is counted, also if nobody has looked at it since."""
    _writer._INTERVAL = 3_600.0
    MultiProcessCollector(registry)
    bus, store = EventBus(), InMemoryEventStore()
    register(bus, store)
    publish(bus, 1)

    def work() -> None:
        nonlocal bus, store
        with bus.subscribe("orders.*") as events:
            publish(bus, 2)
            events.get(timeout=0)
        store.save_event(make_event(version=1))
        del events, bus, store
        gc.collect()

    for _ in range(2):
        assert os.waitpid(in_child(work), 0)[1] == 0
    assert published() == 4
    assert value("aether_sync_bus_delivered_total") == 2
    assert value("aether_sync_store_events_written_total") == 2
    assert value("aether_sync_store_call_seconds_count", method="save_event") == 2


def fork_while_a_file_grows() -> None:
    """A child does not wait for the lock of a file that a thread of its parent holds."""
    slot = _slots.take_slot(FOLDER)
    slot.add_to("counter", "one", 1.0)
    grows, goes_on = threading.Event(), threading.Event()

    class Slow(io.FileIO):
        def truncate(self, size: int | None = None) -> int:
            grows.set()
            goes_on.wait()
            return super().truncate(size)

    file = slot._files["counter"]
    file._f.close()
    file._f = io.BufferedRandom(Slow(slot._path("counter"), "r+b"))
    thread = threading.Thread(target=file._f.truncate, args=[2 * file._capacity])
    thread.start()
    grows.wait()
    pid = os.fork()
    if not pid:
        signal.alarm(10)
        slot.forget()
        os._exit(0)
    goes_on.set()
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
    slot.free()


def many_forks() -> None:
    """Forks while the parent writes all the time."""
    _writer._INTERVAL = 0.0
    bus = begin()
    pids = []
    for _ in range(60):
        publish(bus, 1)
        pids.append(in_child(lambda: publish(bus, 1)))
    for pid in pids:
        assert os.waitpid(pid, 0)[1] == 0
    becomes(published, 120)


def lost_folder() -> None:
    """The directory is removed while the program runs: it is logged, and harms nothing."""
    _writer._INTERVAL = 0.1
    bus = begin()
    publish(bus, 1)
    becomes(published, 1)
    shutil.rmtree(FOLDER)
    pid = in_child(lambda: (publish(bus, 1), time.sleep(1.5), flush_logs()))
    assert os.waitpid(pid, 0)[1] == 0
    try:
        register(EventBus())
    except InvalidOptionError as error:
        print(error)


def become_another(others_may: Literal["nothing", "read"]) -> None:
    """Let this process be of a user who may do no more than that in the directory."""
    bits = {"nothing": 0, "read": 0o555}[others_may]
    if os.getuid():  # not of root's: then the owner himself may do no more
        FOLDER.chmod(bits)
        return
    FOLDER.chmod(0o700 | bits)
    os.setgroups([])
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)


def refused() -> None:
    """What cannot be shared is said at once."""
    become_another("nothing")
    attempts: list[Callable[[], object]] = [lambda: register(EventBus()), metrics_app, lambda: start_http_server(0)]
    for attempt in attempts:
        try:
            attempt()
        except InvalidOptionError as error:
            print(error)


def scrape(app: Callable[..., Iterable[bytes]]) -> str:
    """The status and the text of a scrape."""
    begun: list[str] = []
    body = b"".join(app({"REQUEST_METHOD": "GET", "PATH_INFO": "/"}, lambda status, headers: begun.append(status)))
    return f"{begun[0]}: {body.decode()}"


def locked_out() -> None:
    """A child that becomes another user fails scrapes when it cannot read, and when it cannot write."""
    _writer._INTERVAL = 0.1
    bus = begin()
    app = metrics_app()
    publish(bus, 1)
    eventually(lambda: "aether_sync_bus_published_total" in scrape(app))

    def child(others_may: Literal["nothing", "read"]) -> None:
        "".encode("idna")  # loads what the server needs, which the other user may not read
        become_another(others_may)
        publish(bus, 1)
        with start_http_server(0, address="127.0.0.1") if others_may == "read" else nullcontext() as server:
            eventually(lambda: scrape(app).startswith("503 Service Unavailable: the metrics of"))
            print(scrape(app))
            if server is not None:
                try:
                    urlopen(f"http://127.0.0.1:{server.port}/metrics")
                except HTTPError as error:
                    print(error.code, error.read().decode())
        time.sleep(0.5)  # until it is logged

    for others_may in "nothing", "read":
        assert os.waitpid(in_child(partial(child, others_may)), 0)[1] == 0
        FOLDER.chmod(0o700)


def removed_at_the_end() -> None:
    """The program removes the directory as its last deed: nothing is written or logged then."""
    bus = begin()
    with bus.subscribe("orders.*"):
        publish(bus, 1)
        becomes(lambda: (published(), subscriptions()), (1, 1))
    shutil.rmtree(FOLDER)


def emptied(what: str) -> None:
    """Files are removed while processes live, as when a new release starts beside the old one.

    Nobody writes or removes the files of another, and nothing that a living process has counted is lost.
    """
    bus = begin()
    going_on, stop = os.pipe()

    def live(count: int) -> None:
        os.close(stop)
        publish(bus, count)
        with bus.subscribe("orders.*"):
            os.read(going_on, 1)

    old = in_child(lambda: live(1))
    becomes(lambda: (published(), subscriptions()), (1, 1))
    for path in FOLDER.glob(what):
        path.unlink()
    publish(bus, 10)
    with bus.subscribe("orders.*"):
        # It takes the first slot, before others look:
        new = in_child(lambda: (os.close(stop), publish(bus, 100), signal.pause()))
        becomes(lambda: (published(), subscriptions()), (111, 2))
        os.close(stop)
        assert os.waitpid(old, 0)[1] == 0
        until = time.monotonic() + _writer._INTERVAL * 1.5
        while time.monotonic() < until:
            assert (published(), subscriptions()) == (111, 1)
            time.sleep(0.1)
    os.kill(new, signal.SIGKILL)
    os.waitpid(new, 0)
    locks = list(FOLDER.glob("*.lock"))
    assert len(locks) == 3, locks


def partly_removed(what: str) -> None:
    """Some files of a living process are removed: it writes these anew, and counts nothing twice."""
    _writer._INTERVAL = 0.05
    bus, store = begin(), InMemoryEventStore()
    register(store)
    store.save_event(make_event(version=1))

    def shown() -> tuple[float, ...]:
        return published(), value("aether_sync_store_call_seconds_count"), subscriptions()

    with bus.subscribe("orders.*"):
        publish(bus, 1)
        becomes(shown, (1, 1, 1))
        for path in FOLDER.glob(what):
            path.unlink()
        becomes(lambda: len(list(FOLDER.glob(what))), 1)
        publish(bus, 1)
        becomes(shown, (2, 1, 1))
    becomes(shown, (2, 1, 0))


def served() -> None:
    """A server of its own shows all processes, and does not keep its port in children."""
    bus = begin()
    with start_http_server(0, address="127.0.0.1") as server:
        pid = in_child(lambda: (publish(bus, 2), signal.pause()))
        becomes(published, 2)
    with start_http_server(server.port, address="127.0.0.1"):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
