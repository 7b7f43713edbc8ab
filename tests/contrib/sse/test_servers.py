"""Streams under real web servers: gunicorn with threads and without, and uvicorn; read as browsers read them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aether_sync import ANY_VERSION, JetStreamEventStore, NATSEventBus, NATSServer
from aether_sync.testing import BrokenLink

from ...support.common import PATIENCE, UNIT, eventually, make_event
from ...support.pages import Page
from ...support.servers import is_alive

ROOT = Path(__file__).parents[3]
_CONFIG = """
import time
from aether_sync.contrib.gunicorn import post_worker_init

control_socket_disable = True


def worker_exit(server, worker):
    print("left at", time.monotonic(), flush=True)
"""
_GREEN = """
from gevent import monkey

monkey.patch_all()
"""
_GRACE = 30 * UNIT  # seconds of the server, which no end of a worker may take
_BOOT = 3 * PATIENCE

#: What gunicorn's worker for gevent says of a page that comes while it closes its socket.
_COMES_LATE = re.compile(r"Socket error processing request\.\nTraceback.*?\nOSError: \[Errno 9\] [^\n]*\n", re.S)

pytestmark = pytest.mark.both_loops(False)


class Web:
    """A web server with ``tests.programs.streams``."""

    def __init__(self, port: int, folder: Path, command: list[str], **environment: str) -> None:
        self.port = port
        self._log = folder / "log"
        with open(self._log, "w") as log:
            environment = {**os.environ, **environment}
            self.process = subprocess.Popen(
                [sys.executable, "-m", *command], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def about(self) -> dict[str, Any]:
        """What the process says that answers."""
        end = time.monotonic() + _BOOT
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/about", timeout=PATIENCE) as answer:
                    return json.load(answer)  # type: ignore[no-any-return]
            except OSError:  # it is beginning
                assert time.monotonic() < end, self.log()
                time.sleep(0.02)

    def log(self) -> str:
        return self._log.read_text()

    def seconds_to_leave(self, pid: int) -> float:
        """Stop it, and return how long its worker took to come back from all requests.

        That is what streams decide. How long Python takes to end a process after that depends on the machine.
        """
        begun = time.monotonic()
        self.signal(signal.SIGTERM)
        eventually(lambda: not is_alive(pid), "the end of the worker")
        left = re.findall(r"left at ([0-9.]+)", self.log())
        ended = float(left[-1]) if left else time.monotonic()
        return ended - begun

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Stop it; at once, or it is a fault."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        try:
            self.process.wait(_GRACE / 2)
        finally:
            self.process.kill()
            self.process.wait()
        assert self.process.returncode in (0, -signal.SIGTERM), self.log()
        assert "Traceback" not in _COMES_LATE.sub("", self.log()), self.log()


MakeWeb = Callable[..., Web]


@pytest.fixture
def web(server: NATSServer, prefix: str, free_port: int, tmp_path: Path) -> Iterator[MakeWeb]:
    """Starts gunicorn, or uvicorn."""
    with ExitStack() as stack:

        def begin(kind: str = "gthread", *options: str, url: str = server.url) -> Web:
            if kind == "uvicorn":
                command = ["uvicorn", "--factory", "tests.programs.streams:asgi", "--port", str(free_port)]
            else:
                config = tmp_path / "gunicorn.conf.py"
                config.write_text((_GREEN if kind == "gevent" else "") + _CONFIG)
                command = ["gunicorn", "--config", str(config), "--bind", f"127.0.0.1:{free_port}"]
                command += ["--worker-class", kind, "--graceful-timeout", str(int(_GRACE)), *options]
                command += [] if kind == "sync" else ["--threads", "60"]
                command += ["tests.programs.streams:app"]
            made = Web(free_port, tmp_path, command, NATS_URL=url, AETHER_TEST_STREAM=prefix)
            stack.callback(made.end)
            return made

        yield begin


def append(store: JetStreamEventStore, numbers: Iterable[int]) -> None:
    for n in numbers:
        store.append(f"thing-{n % 7}", make_event(n, actor_id=f"thing-{n % 7}"), expected_version=ANY_VERSION)


def seconds_until(condition: Callable[[], object]) -> float:
    begun = time.monotonic()
    eventually(condition)
    return time.monotonic() - begun


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("gthread", ("--preload",)),
        pytest.param("gthread", (), marks=pytest.mark.slow),
        pytest.param("gevent", (), marks=pytest.mark.slow),
        pytest.param("gevent", ("--preload",), marks=pytest.mark.slow),
        pytest.param("uvicorn", (), marks=pytest.mark.slow),
    ],
)
def test_fifty_pages_and_a_worker_that_is_told_to_stop(
    web: MakeWeb, store: JetStreamEventStore, kind: str, options: tuple[str, ...]
) -> None:
    """All have all events, by one follower; the worker is gone within a second."""
    append(store, range(5))
    served = web(kind, *options)
    pid = served.about()["pid"]
    with ExitStack() as stack:
        pages = [stack.enter_context(Page(served.port, "/events?after=0&heartbeat=20")) for _ in range(50)]
        eventually(lambda: served.about()["open"] == 50, "fifty streams")
        append(store, range(5, 20))
        eventually(lambda: all(len(page.got) >= 20 for page in pages), "all events")
        said = served.about()
        assert (said["open"], said["sent"], said["dropped"], said["followers"]) == (50, 1_000, 0, 1)
        assert served.seconds_to_leave(pid) < (1.0 if kind == "gthread" else 5.0) * UNIT
        assert all(page.numbers == list(range(20)) for page in pages)
        if kind == "gthread":  # the others take new connections for a moment more
            assert all(page.opened == 1 for page in pages)


@pytest.mark.slow
def test_a_worker_without_threads(web: MakeWeb, store: JetStreamEventStore) -> None:
    """It has one stream at a time; it too ends at once."""
    append(store, range(3))
    served = web("sync")
    with Page(served.port, "/events?after=0&heartbeat=20") as page:
        eventually(lambda: page.numbers == [0, 1, 2], "the events")
        served.signal(signal.SIGTERM)
        assert seconds_until(lambda: served.process.poll() is not None) < _GRACE / 4


@pytest.mark.slow
def test_a_page_goes_on_after_a_reload(web: MakeWeb, store: JetStreamEventStore) -> None:
    """HUP replaces the worker; each event comes once, in order."""
    served = web("gthread", "--preload")
    pid = served.about()["pid"]
    with Page(served.port, "/events?after=0&heartbeat=20") as page, Page(served.port, "/events?actors=thing-1") as few:
        append(store, range(10))
        eventually(lambda: page.opened == 1 and few.opened == 1 and len(page.got) == 10, "the page")
        served.signal(signal.SIGHUP)
        append(store, range(10, 20))
        assert seconds_until(lambda: not is_alive(pid)) < 5.0 * UNIT
        append(store, range(20, 30))
        eventually(lambda: len(page.got) >= 30 and len(few.got) >= 3, "all events")
        assert served.about()["pid"] != pid
        assert page.numbers == list(range(30))
        assert page.opened >= 2
        assert few.numbers[-3:] == [15, 22, 29]


@pytest.mark.slow
def test_a_worker_that_has_answered_enough(web: MakeWeb, store: JetStreamEventStore) -> None:
    """``max_requests`` does not wait for streams, either."""
    served = web("gthread", "--max-requests", "4")
    pid = served.about()["pid"]
    with Page(served.port, "/events?after=0&heartbeat=20") as page:
        eventually(lambda: page.opened == 1, "the page")
        served.about(), served.about()
        assert seconds_until(lambda: not is_alive(pid)) < _GRACE / 4
        append(store, range(3))
        eventually(lambda: page.numbers == [0, 1, 2], "the events")


@pytest.mark.fault
@pytest.mark.parametrize("kind", ["gthread", pytest.param("uvicorn", marks=pytest.mark.slow)])
def test_a_page_outlives_a_link_that_is_cut_and_servers_that_are_restarted(
    web: MakeWeb, own_server: NATSServer, prefix: str, kind: str
) -> None:
    """That of NATS, and the link to it; each event comes once, in order. What is begun meanwhile gets its events."""
    with BrokenLink(own_server.url) as link, JetStreamEventStore(own_server.url, prefix) as store, ExitStack() as stack:
        append(store, range(5))
        served = web(kind, url=link.url)
        page = stack.enter_context(Page(served.port, "/events?after=0"))
        eventually(lambda: len(page.got) == 5, "the first events")
        link.cut()
        append(store, range(5, 10))
        later = stack.enter_context(Page(served.port, "/events?after=2"))
        eventually(lambda: later.opened == 1, "the answer to a page that comes while the link is cut")
        link.restore()
        eventually(lambda: len(page.got) == 10 and len(later.got) == 8, "what was stored meanwhile")
        own_server.restart()
        append(store, range(10, 15))
        eventually(lambda: len(page.got) >= 15 and len(later.got) >= 13, "all events")
        assert page.numbers == list(range(15))
        assert later.numbers == list(range(2, 15))
        assert page.opened == later.opened == 1, "they were never away"


@pytest.mark.slow
def test_ids_that_a_server_refuses(web: MakeWeb, store: JetStreamEventStore) -> None:
    append(store, range(3))
    served = web()
    for wrong in ("x", "9"):
        request = urllib.request.Request(f"http://127.0.0.1:{served.port}/events", headers={"Last-Event-ID": wrong})
        served.about()
        with pytest.raises(urllib.error.HTTPError, match="400") as raised:
            urllib.request.urlopen(request, timeout=PATIENCE)
        assert b"Last-Event-ID" in raised.value.read()


@pytest.mark.parametrize("kind", ["gthread", pytest.param("uvicorn", marks=pytest.mark.slow)])
def test_a_client_that_leaves(web: MakeWeb, store: JetStreamEventStore, kind: str) -> None:
    """A heartbeat that cannot be sent ends its stream."""
    served = web(kind)
    served.about()
    with Page(served.port, "/events?heartbeat=0.05") as page, Page(served.port, "/bus?heartbeat=0.05") as other:
        eventually(lambda: page.opened == other.opened == 1, "the pages")
        assert served.about()["open"] == 2
    eventually(lambda: served.about()["open"] == 0, "the end of the streams")


@pytest.mark.slow
def test_a_client_that_takes_nothing_does_not_keep_a_worker(web: MakeWeb, store: JetStreamEventStore) -> None:
    """The thread that sends to it is set free when the worker is told to stop."""
    served = web()
    pid = served.about()["pid"]
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        client.connect(("127.0.0.1", served.port))
        client.sendall(b"GET /events?after=0 HTTP/1.1\r\nHost: here\r\n\r\n")
        client.recv(100)
        for _ in range(20):
            append_large(store, 50)
        eventually(lambda: is_stuck(served), "the end of all room for what is sent")
        assert served.seconds_to_leave(pid) < 1.0 * UNIT


def append_large(store: JetStreamEventStore, count: int) -> None:
    events = [make_event(n, actor_id="large", data={"n": n, "text": "x" * 10_000}) for n in range(count)]
    store.append("large", *events, expected_version=ANY_VERSION)


def is_stuck(served: Web) -> bool:
    """Whether nothing is sent any more, though there is more."""
    sent = served.about()["sent"]
    time.sleep(0.5)
    return 0 < sent == served.about()["sent"] < 1_000


@pytest.mark.slow
def test_events_of_a_bus(web: MakeWeb, make_bus: Callable[..., NATSEventBus]) -> None:
    served = web()
    with Page(served.port, "/bus") as page:
        eventually(lambda: page.opened == 1, "the page")
        make_bus().publish_many("shop.eu", [make_event(n) for n in range(5)])
        eventually(lambda: page.numbers == list(range(5)), "the events")
        assert page.last_event_id == ""
