"""The extension under real web servers: gunicorn with its kinds of workers, and Flask's own with its reloader."""

import json
import re
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import closing
from pathlib import Path

import pytest

from aether_sync import NATSEventBus, NATSServer
from aether_sync.testing import BrokenLink

from ...support.common import PATIENCE, FreePort, eventually, first_of
from ...support.shell import environment
from .conftest import BOOT, ROOT, serving

PROJECTIONS = ROOT / "aether_sync" / "guide" / "projections.md"

GUNICORN = ["gunicorn", "--bind", "127.0.0.1:PORT", "--workers", "2", "--config", "gunicorn.conf.py"]
#: All gunicorns of a user would have one control socket, and each stops its own around every start of a worker.
CONFIG = 'control_socket_disable = True\n"".encode("idna")\n'
APP = "tests.programs.flasked:app"
UWSGI = [
    "uwsgi", "--http-socket", "127.0.0.1:PORT", "--module", APP, "--master", "--processes", "2", "--need-app",
    "--die-on-term", "--virtualenv", sys.prefix,
]  # fmt: skip


@pytest.mark.parametrize(
    "options",
    first_of(
        [
            "--worker-class gthread --threads 4 --preload",
            "--worker-class sync",
            "--worker-class sync --preload",
            "--worker-class gthread --threads 4",
        ]
    ),
)
def test_each_worker_of_gunicorn_publishes(options: str, server: NATSServer, prefix: str, tmp_path: Path) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    environ = {
        "FLASK_AETHER_URL": server.url, "FLASK_AETHER_PREFIX": prefix, "FLASK_AETHER_STREAM": f"{prefix}-s",
        "AETHER_TEST_EARLY": "1", "PYTHONWARNINGS": "always::ResourceWarning",
    }  # fmt: skip
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("web.now", "web.later") as events:
        with serving([*GUNICORN, *options.split(), APP], tmp_path, **environ) as served:
            pids, sent = set(), 0
            while len(pids) < 2 or sent < 20:
                sent += 1
                assert sent < 2_000, f"only {pids} answered\n{served.log}"
                pids.add(served.ask(f"/{'later' if sent % 2 else 'now'}/{sent}", "POST")[1])
            assert served.ask("/store/1", "POST")[0] == 200
            found = [events.get(timeout=BOOT) for _ in range(sent)]
            assert sorted(event.data["n"] for event in found if event.data) == list(range(1, sent + 1))
            assert {str(event.data["pid"]) for event in found if event.data} == pids
            assert served.ask("/healthz")[0] == 200
            assert served.end() == 0
        assert "Traceback" not in served.log
        assert "unclosed <Connection" not in served.log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "is_used_early"),
    [
        ("--threads 4", False),
        ("--threads 4 --import uwsgidecorators", False),
        ("", False),
        ("--enable-threads --lazy-apps", True),
        ("--threads 4 --py-call-uwsgi-fork-hooks", True),
    ],
)
def test_each_worker_of_uwsgi_publishes_and_its_pages_end(
    options: str, is_used_early: bool, server: NATSServer, prefix: str, tmp_path: Path
) -> None:
    environ = {"FLASK_AETHER_URL": server.url, "FLASK_AETHER_PREFIX": prefix, "FLASK_AETHER_STREAM": f"{prefix}-s"}
    if is_used_early:
        environ["AETHER_TEST_EARLY"] = "1"
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("web.now", "web.later") as events:
        with serving([*UWSGI, *options.split()], tmp_path, **environ) as served:
            pids, sent = set(), 0
            while len(pids) < 2 or sent < 20:
                sent += 1
                assert sent < 2_000, f"only {pids} answered\n{served.log}"
                pids.add(served.ask(f"/{'later' if sent % 2 else 'now'}/{sent}", "POST")[1])
            found = [events.get(timeout=BOOT) for _ in range(sent)]
            assert {str(event.data["pid"]) for event in found if event.data} == pids
            assert sorted(event.data["n"] for event in found if event.data) == list(range(1, sent + 1))
            nodes = {served.ask("/node")[1] for _ in range(20)}
            assert len({node.split()[0] for node in nodes}) == len({node.split()[1] for node in nodes}) == len(nodes)
            assert served.ask("/store/1", "POST")[0] == 200
            asked = urllib.request.Request(f"{served.url}/live", headers={"Last-Event-ID": "0"})
            with urllib.request.urlopen(asked, timeout=BOOT) as page:
                assert any(b'"n":1' in line.replace(b" ", b"") for line in page)
                begun = time.monotonic()
                assert served.end() == 0
                assert time.monotonic() - begun < PATIENCE
        assert "Traceback" not in served.log


@pytest.mark.slow
def test_the_process_of_uwsgi_that_forks_does_not_connect(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    environ = environment(FLASK_AETHER_URL=server.url, FLASK_AETHER_PREFIX=prefix, AETHER_TEST_EARLY="1")
    command = [f"{Path(sys.executable).parent}/{UWSGI[0]}", *UWSGI[1:]]
    with closing(FreePort()) as free:
        command = [one.replace("PORT", str(free.number)) for one in command]
        ended = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=BOOT)
    assert ended.returncode != 0
    assert "set py-call-uwsgi-fork-hooks = true, or lazy-apps = true" in ended.stderr


@pytest.mark.fault
@pytest.mark.slow
def test_a_server_that_is_absent_at_the_start_delays_no_answer(
    server: NATSServer, prefix: str, tmp_path: Path, broken_link: BrokenLink
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(CONFIG)
    broken_link.cut()
    environ = {"FLASK_AETHER_URL": broken_link.url, "FLASK_AETHER_PREFIX": prefix}
    command = [*GUNICORN, "--timeout", "60", APP]
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("web.*") as events:  # noqa: SIM117
        with serving(command, tmp_path, **environ) as served:
            for number in range(4):
                assert served.ask(f"/{('now', 'later')[number % 2]}/{number}", "POST", timeout=PATIENCE / 5)[0] == 200
            assert served.ask("/healthz")[0] == 503
            assert served.ask("/livez")[0] == 200
            assert events.get_batch(1, timeout=0) == []
            broken_link.restore()
            found = [events.get(timeout=BOOT) for _ in range(4)]
            assert sorted(event.data["n"] for event in found if event.data) == [0, 1, 2, 3]
            eventually(lambda: served.ask("/healthz")[0] == 200, "that it is ready")
            assert served.end() == 0


WEB = """
from readmodel import orders


def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"ready" if orders.health().ok else b"waiting"]
"""


@pytest.mark.fault
@pytest.mark.slow
def test_a_projection_of_the_guide_waits_in_each_worker_for_a_server_that_is_absent(
    server: NATSServer, prefix: str, tmp_path: Path, broken_link: BrokenLink
) -> None:
    broken_link.cut()
    readmodel, config = (
        found[0]
        for name in ("readmodel.py", "gunicorn.conf.py")
        if (found := re.findall(rf"^```python\n(# {name}\n.*?)^```$", PROJECTIONS.read_text(), re.M | re.S))
    )
    readmodel = readmodel.replace("nats://127.0.0.1:8095", broken_link.url).replace("guide-readmodel", prefix)
    for name, text in {"readmodel.py": readmodel, "gunicorn.conf.py": CONFIG + config, "web.py": WEB}.items():
        (tmp_path / name).write_text(text)
    with serving([*GUNICORN, "web:app"], tmp_path) as served:
        assert served.ask("/", timeout=PATIENCE) == (200, "waiting")
        broken_link.restore()
        eventually(lambda: served.ask("/") == (200, "ready"), "that it has begun")
        assert served.end() == 0
        assert "Traceback" not in served.log


@pytest.mark.slow
def test_a_live_page_has_what_is_stored_and_ends_with_the_worker(
    server: NATSServer, prefix: str, tmp_path: Path
) -> None:
    (tmp_path / "gunicorn.conf.py").write_text(f"{CONFIG}from aether_sync.contrib.gunicorn import *\n")
    environ = {"FLASK_AETHER_URL": server.url, "FLASK_AETHER_PREFIX": prefix, "FLASK_AETHER_STREAM": f"{prefix}-s"}
    command = [*GUNICORN, "--worker-class", "gthread", "--threads", "4", "--graceful-timeout", "120", APP]
    with serving(command, tmp_path, **environ) as served:
        for number in range(3):
            assert served.ask(f"/store/{number}", "POST")[0] == 200
        asked = urllib.request.Request(f"{served.url}/live", headers={"Last-Event-ID": "1"})
        with urllib.request.urlopen(asked, timeout=BOOT) as page:
            data = (json.loads(line[6:]) for line in page if line.startswith(b"data: "))
            assert [next(data)["data"]["n"], next(data)["data"]["n"]] == [1, 2]
            begun = time.monotonic()
            assert served.end() == 0
            assert time.monotonic() - begun < PATIENCE
            assert list(data) == []
        assert "Traceback" not in served.log


SHOP = """
from flask import Flask

from aether_sync import Event
from aether_sync.contrib.flask import Aether

app = Flask(__name__)
app.config.from_prefixed_env()
aether = Aether(app)


@app.get("/")
def index():
    return "version 1"


@app.post("/")
def place():
    aether.publish_after_response("shop", Event(event_type="Placed", actor_id="version 1"))
    return ""
"""


@pytest.mark.slow
def test_flask_run_reloads_and_publishes(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    program = tmp_path / "shop.py"
    program.write_text(SHOP)
    environ = {"FLASK_AETHER_URL": server.url, "FLASK_AETHER_PREFIX": prefix, "PYTHONUNBUFFERED": "1"}
    command = ["flask", "--app", "shop", "--debug", "run", "--port", "PORT"]
    with NATSEventBus(server.url, prefix=prefix) as bus, bus.subscribe("shop") as events:
        with serving(command, tmp_path, **environ) as served:
            for version in ("version 1", "version 2"):
                program.write_text(SHOP.replace("version 1", version))
                served.await_answer(version, of=program)
                while not (got := events.get_batch(1, timeout=PATIENCE / 4)):  # it may be restarting once more
                    served.await_answer(version)
                    assert served.ask("/", "POST")[0] == 200
                assert got[0].actor_id == version
            served.end(signal.SIGINT)
        assert "Traceback" not in served.log
        assert events.get_batch(1, timeout=0) == []
