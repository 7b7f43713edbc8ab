"""The command ``run``: real processes and real signals."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import HTTPError

import pytest
from click.testing import CliRunner

from aether_sync import ANY_VERSION, CloseReport, JetStreamEventStore, NATSServer
from aether_sync.cli._commands import commands
from aether_sync.cli.supervisor import process as process_module
from aether_sync.cli.supervisor.child import _in_words
from aether_sync.cli.supervisor.messages import Program
from aether_sync.cli.supervisor.process import Process, State

from ..docs.test_guide import GUIDE, blocks_of, write_files
from ..support.common import PATIENCE, eventually, first_of, make_event
from ..support.servers import is_alive
from ..support.shell import Running, environment

#: A worker without a server. What it does is steered by files in the current folder, and noted there.
PROGRAM = """
import os
import subprocess
import threading
import time
from pathlib import Path

import aether_sync
from aether_sync import CloseReport, Health


def note(text):
    with open("notes", "a") as file:
        file.write(f"{text} {os.getpid()}\\n")


def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.01)


class Worker(aether_sync.Worker):
    def __init__(self):
        super().__init__()
        self.ended = threading.Event()

    def start(self, timeout=None, *, threads=None):
        while Path("hold").exists():
            time.sleep(0.01)
        note(f"started with {threads}")

    def wait(self, timeout=None):
        return self.ended.wait(timeout)

    def health(self, *, timeout=0.5):
        return Health.of("the worker", ["it is ill"] if Path("ill").exists() else [])

    def drain(self, timeout=25.0):
        note("draining")
        end = time.monotonic() + timeout
        while Path("busy").exists() and time.monotonic() < end:
            time.sleep(0.01)
        note("drained")
        return CloseReport(handlers_left=int(Path("busy").exists()))

    def close(self, timeout=5.0):
        note("closed")
        return CloseReport()


worker = Worker()


def make():
    return worker
"""

#: Appended to that, it has the start raise an error of ours.
RAISES = "Worker.start = lambda *_, **__: wrong()\ndef wrong(): raise aether_sync."


class Command(Running):
    """``aether-sync run`` in a folder with the program ``shop.py``."""

    @property
    def pids(self) -> list[int]:
        """The processes that have started, in this order."""
        return [int(line.split()[-1]) for line in self.notes if line.startswith("started")]

    @property
    def notes(self) -> list[str]:
        path = Path("notes")
        return path.read_text().splitlines() if path.exists() else []

    def wait_until(self, count: int) -> list[int]:
        """Wait until so many processes have begun to run the worker, in all."""
        eventually(lambda: self.err.count(" runs shop:worker") >= count or self.process.poll() is not None, "a start")
        assert self.process.poll() is None, self.err
        return self.pids

    def port_of(self, what: str) -> int:
        path = {"health": "healthz"}.get(what, what)
        self.wait_for(f"/{path}\n")
        found = re.search(rf"{what} at http://127\.0\.0\.1:(\d+)/{path}\n", self.err)
        assert found is not None, self.err
        return int(found[1])

    def wait_for_note(self, text: str, count: int = 1) -> None:
        eventually(lambda: sum(line.startswith(text) for line in self.notes) >= count, f"{text!r} in {self.notes}")

    def probe(self, path: str) -> tuple[int, str]:
        """Return the status and the body of an answer."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port_of('health')}{path}", timeout=PATIENCE) as got:
                return got.status, got.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the program."""
    (tmp_path / "shop.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def begin(folder: Path) -> Iterator[Callable[..., Command]]:
    """Starts the command, and kills what a test leaves of it."""
    begun: list[Command] = []

    def begin(*options: str, where: str = "shop:worker") -> Command:
        directory = folder / f".command-{len(begun)}"
        directory.mkdir()
        patient = () if "--grace" in options else ("--grace", str(PATIENCE * 2))
        begun.append(Command(directory, "run", where, *patient, *options))
        return begun[-1]

    yield begin
    for one in begun:
        one.process.kill()
        one.process.wait()
        for pid in one.pids:
            eventually(lambda pid=pid: not is_alive(pid), "the end of a process whose supervisor was killed")


HEALTH = "--health-port", "127.0.0.1:0"


@pytest.mark.slow
def test_a_day_of_two_processes(begin: Callable[..., Command]) -> None:
    """One is killed, one is ill, and both have work when the day ends."""
    command = begin("--processes", "2", "--threads", "3", *HEALTH)
    first, second = command.wait_until(2)
    assert command.notes[0] == f"started with 3 {first}"
    assert command.probe("/healthz")[0] == 200

    Path("ill").touch()
    status, body = command.probe("/healthz")
    assert (status, json.loads(body)["reasons"]) == (503, ["it is ill"])
    assert command.probe("/livez")[0] == 200
    assert [command.probe(path)[0] for path in ("/", "/healthz/x", "/metrics")] == [404] * 3
    Path("ill").unlink()

    Path("hold").touch()
    os.kill(first, signal.SIGKILL)
    command.wait_for(f"(pid {first}) has ended: killed by SIGKILL; starting it again")
    status, body = command.probe("/healthz")
    assert (status, "is not there: killed by SIGKILL" in body or "is starting" in body) == (503, True)
    assert command.probe("/livez")[0] == 200
    Path("hold").unlink()
    *_, third = command.wait_until(3)
    assert command.probe("/healthz")[0] == 200

    Path("busy").touch()
    command.process.send_signal(signal.SIGTERM)
    command.wait_for_note("draining", 2)
    assert "is ending" in command.probe("/healthz")[1]
    Path("busy").unlink()
    assert command.end() == 0
    assert not is_alive(second)
    assert not is_alive(third)
    assert sorted(line for line in command.notes if "drained" in line) == sorted(
        [f"drained {second}", f"drained {third}"]
    )


@pytest.mark.slow
def test_processes_do_not_outlive_the_supervisor(begin: Callable[..., Command]) -> None:
    command = begin()
    (pid,) = command.wait_until(1)
    command.process.kill()
    eventually(lambda: not is_alive(pid), "its end")
    assert command.notes[-1] == f"drained {pid}", "what runs may come to its end"


@pytest.mark.parametrize(
    ("where", "text", "said"),
    first_of(
        [
            ("shop:worker", "def f(:\n", "'shop:worker' cannot be imported: SyntaxError"),
            (
                "nowhere:worker",
                "",
                "'nowhere:worker' cannot be imported: ModuleNotFoundError: No module named 'nowhere'",
            ),
            ("shop:nothing", "", "has no attribute 'nothing'"),
            ("shop:worker", "worker = 3", "'shop:worker' is 3, and no worker"),
            (
                "shop:make",
                "from aether_sync import Worker\ndef make(): return Worker(bus=3)",
                "'shop:make' cannot start: bus must be an EventBus",
            ),
            (
                "shop:worker",
                f"{PROGRAM}\n{RAISES}StreamMismatchError('other settings')",
                "'shop:worker' cannot start: other settings",
            ),
            (
                "shop:worker",
                f"{PROGRAM}\n{RAISES}PermissionDeniedError('no right')",
                "'shop:worker' cannot start: no right",
            ),
            ("shop:worker", "import sys; sys.exit(7)", "SystemExit: 7"),
            ("shop:worker", "from aether_sync import EventBus; EventBus(maxsize=3)", "cannot be imported: TypeError"),
        ]
    ),
)
@pytest.mark.slow
def test_a_program_without_a_worker(begin: Callable[..., Command], where: str, text: str, said: str) -> None:
    Path("shop.py").write_text(text)
    command = begin("--processes", "2", where=where)
    assert command.process.wait(PATIENCE) == 2
    assert said in command.err
    assert command.err.count("aether-sync: ") == 1, "each says it, and it is told once"
    assert "aether_sync/cli" not in command.err, "the traceback is of the user's code"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["shop"], "'shop' is no MODULE:NAME, such as shop.events:worker"),
        (["shop.py:worker:x"], "is no MODULE:NAME"),
        (["./shop.py:worker"], "is no MODULE:NAME"),
        (["shop:worker", "--processes", "0"], "'--processes': 0 is not in the range x>=1"),
        (["shop:worker", "--threads", "0"], "'--threads': 0 is not in the range x>=1"),
        (["shop:worker", "--grace", "-1"], "'--grace': -1.0 is not in the range"),
        (["shop:worker", "--grace", "nan"], "'--grace': nan is not in the range"),
        (["shop:worker", "--health-port", "http"], "'--health-port': 'http' is no port"),
        (["shop:worker", "--health-port", "70000"], "'--health-port': '70000' is no port"),
        (["shop:worker", "--metrics-port", "-1"], "'--metrics-port': '-1' is no port"),
        (
            ["shop:worker", "--metrics-port", "127.0.0.1:8080", "--health-port", "8080"],
            "--health-port and --metrics-port are both 8080: give each a port of its own",
        ),
    ],
)
def test_wrong_usage(options: list[str], said: str) -> None:
    result = CliRunner().invoke(commands.commands["run"], options)
    assert (result.exit_code, said in result.output) == (2, True), result.output


@pytest.mark.parametrize("option", first_of(["--metrics-port", "--health-port"]))
@pytest.mark.slow
def test_a_port_that_is_taken(option: str, begin: Callable[..., Command]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command = begin(option, f"127.0.0.1:{port}")
        assert command.end() == 1
    assert command.err.startswith(f"aether-sync: {option}: port {port} of 127.0.0.1 is taken")
    assert command.notes == []


# -- what the processes and the system do to it


@pytest.mark.slow
def test_a_stop_while_the_module_is_imported(begin: Callable[..., Command]) -> None:
    Path("shop.py").write_text("import time; open('importing', 'w'); time.sleep(600)")
    command = begin()
    eventually(Path("importing").exists, "the import")
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_stop_while_the_worker_starts(begin: Callable[..., Command]) -> None:
    add_to_program("Worker.start = lambda *_, **__: (note('starting'), time.sleep(600))")
    command = begin("--processes", "2", *HEALTH)
    command.wait_for_note("starting", 2)
    assert "is starting" in command.probe("/healthz")[1]
    assert command.probe("/livez")[0] == 200
    assert command.end(signal.SIGINT) == 0
    assert sum(line.startswith("drained") for line in command.notes) == 2


@pytest.mark.slow
def test_a_start_that_swallows_the_interrupt(begin: Callable[..., Command]) -> None:
    add_to_program(
        """
def start(self, timeout=None, *, threads=None):
    try:
        note("starting")
        time.sleep(600)
    except BaseException:
        time.sleep(600)
Worker.start = start
"""
    )
    command = begin()
    command.wait_for_note("starting")
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_handlers_that_do_not_end_within_the_grace(begin: Callable[..., Command]) -> None:
    command = begin("--grace", "0.2", "--processes", "2")
    command.wait_until(2)
    Path("busy").touch()
    assert command.end(signal.SIGTERM) == 3
    assert command.err.count("did not come to its end: ") == 2


@pytest.mark.slow
def test_a_drain_that_never_ends(begin: Callable[..., Command]) -> None:
    add_to_program("Worker.drain = lambda self, timeout: time.sleep(600)")
    command = begin("--grace", "0.2")
    command.wait_until(1)
    began = time.monotonic()
    assert command.end(signal.SIGTERM) == 3
    assert time.monotonic() - began < 0.2 + 4 + PATIENCE / 4


@pytest.mark.slow
def test_a_process_that_does_nothing_more_is_killed(begin: Callable[..., Command]) -> None:
    command = begin("--grace", "0.2", *HEALTH)
    (pid,) = command.wait_until(1)
    os.kill(pid, signal.SIGSTOP)
    status, body = command.probe("/healthz")
    assert (status, f"(pid {pid}) does not answer" in body) == (503, True)
    assert command.probe("/livez")[0] == 200, "for a minute"
    assert command.end(signal.SIGTERM) == 3
    assert "did not come to its end: killed by SIGKILL" in command.err


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal(begin: Callable[..., Command], first: int, second: int) -> None:
    command = begin("--processes", "2")
    command.wait_until(2)
    Path("busy").touch()
    command.process.send_signal(first)
    command.process.send_signal(first)  # within half a second it is the same one
    command.wait_for_note("draining", 2)
    time.sleep(0.6)
    began = time.monotonic()
    assert command.end(second) == 128 + second
    assert time.monotonic() - began < PATIENCE, "half the grace"
    assert sum(line.startswith("closed") for line in command.notes) == 2, "what can be given back at once is"


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes(begin: Callable[..., Command], sent: int) -> None:
    """As a terminal does at Ctrl-C, and systemd by default: no process takes it for the second one."""
    command = begin("--processes", "2")
    command.wait_until(2)
    Path("busy").touch()
    os.killpg(command.process.pid, sent)
    command.wait_for_note("draining", 2)
    os.killpg(command.process.pid, sent)
    Path("busy").unlink()
    assert command.end() == 0
    assert sum(line.startswith("drained") for line in command.notes) == 2


@pytest.mark.slow
def test_a_process_that_is_told_to_end_is_replaced(begin: Callable[..., Command]) -> None:
    command = begin()
    (pid,) = command.wait_until(1)
    os.kill(pid, signal.SIGTERM)
    command.wait_until(2)
    assert f"drained {pid}" in command.notes
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_worker_that_ends_again_and_again(begin: Callable[..., Command]) -> None:
    add_to_program("Worker.start = lambda *_, **__: 1 / 0")
    command = begin(*HEALTH)
    command.wait_for("starting it again in 2 s")
    pauses = [line.rpartition("again in ")[2] for line in command.err.splitlines() if "starting it again" in line]
    assert pauses == ["0.5 s", "1 s", "2 s"]
    assert command.err.count("Traceback") == 1, "it is told once"
    assert command.err.count("'shop:worker' has failed: ZeroDivisionError: division by zero") == 3
    status, body = command.probe("/healthz")
    assert (status, "ZeroDivisionError" in body) == (503, True)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(PATIENCE) == 0, "during the pause, too"


@pytest.mark.parametrize(
    ("where", "text", "said"),
    first_of(
        [
            (
                "shop:make",
                "def make(): raise RuntimeError('no database yet')",
                "'shop:make' has failed: RuntimeError: no database yet",
            ),
            (
                "shop:worker",
                f"{PROGRAM}\n{RAISES}StoreUnavailableError('no leader')",
                "'shop:worker' cannot start: no leader",
            ),
            (
                "shop:worker",
                "from aether_sync import ConnectError\nraise ConnectError('nobody listens')",
                "'shop:worker' cannot start: nobody listens",
            ),
        ]
    ),
)
@pytest.mark.slow
def test_what_may_pass_is_tried_again(begin: Callable[..., Command], where: str, text: str, said: str) -> None:
    Path("shop.py").write_text(text)
    command = begin(where=where)
    command.wait_for(f"{said}; starting it again in 0.5 s")
    Path("shop.py").write_text(PROGRAM)
    command.wait_for(f" runs {where}")
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_one_that_has_failed_before_it_is_told_to_end(begin: Callable[..., Command]) -> None:
    add_to_program("Worker.start = lambda *_, **__: 1 / 0")
    Path("busy").touch()
    command = begin()
    command.wait_for_note("draining")
    command.process.send_signal(signal.SIGTERM)
    command.wait_for("SIGTERM: ending")
    Path("busy").unlink()
    assert command.end() == 3
    assert ") has ended: 'shop:worker' has failed: ZeroDivisionError" in command.err
    assert "did not come to its end" not in command.err


@pytest.mark.slow
def test_a_worker_that_ends_by_itself(begin: Callable[..., Command]) -> None:
    command = begin()
    add_to_program("worker.ended.set()")
    command = begin()
    command.wait_for("has ended: 'shop:worker' has ended by itself; starting it again")
    assert any(line.startswith("drained") for line in command.notes)


@pytest.mark.slow
def test_a_program_that_breaks_later_goes_on_in_the_other_processes(begin: Callable[..., Command]) -> None:
    command = begin("--processes", "2")
    first, second = command.wait_until(2)
    Path("shop.py").write_text("def f(:\n")
    os.kill(first, signal.SIGKILL)
    command.wait_for("cannot be imported: SyntaxError")
    assert is_alive(second)
    Path("shop.py").write_text(PROGRAM)
    command.wait_until(3)
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_a_process_that_closes_all_files(begin: Callable[..., Command]) -> None:
    """Then it can say nothing any more, and ends as it should."""
    add_to_program("os.closerange(3, 256)")
    command = begin(*HEALTH)
    command.wait_for_note("started")
    assert "is starting" in command.probe("/healthz")[1]
    assert command.end(signal.SIGTERM) == 0
    assert command.notes[-1].startswith("drained")


_AS_THE_FIRST = """
import ctypes, os, sys
assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER, which survives execv()
os.execv(sys.executable, [sys.executable, "-m", "aether_sync", "run", "shop:worker", *sys.argv[1:]])
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody but the first process gets orphans")
def test_it_reaps_what_others_leave_behind(folder: Path) -> None:
    """As the first process of a container has to."""
    add_to_program("""os.system("sh -c 'sleep 0.01 & echo orphan $! >> notes'")""")
    with open("err", "wb") as err:
        process = subprocess.Popen(
            [sys.executable, "-c", _AS_THE_FIRST, "--grace", str(PATIENCE)], env=environment(), stderr=err
        )
    try:
        eventually(lambda: "runs shop:worker" in Path("err").read_text(), "the start")
        (orphan,) = [int(line.split()[1]) for line in Path("notes").read_text().splitlines() if "orphan" in line]
        eventually(lambda: not Path(f"/proc/{orphan}").exists(), "the end of the orphan")
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
    finally:
        process.kill()
        process.wait()


# -- reload


@pytest.mark.slow
def test_reload(begin: Callable[..., Command]) -> None:
    command = begin("--reload", "--processes", "2", *HEALTH)
    first = command.wait_until(2)
    Path("shop.py").write_text(PROGRAM + "\n# changed\n")
    command.wait_for("shop.py: starting anew")
    second = command.wait_until(4)[2:]
    assert not any(map(is_alive, first))
    assert sum(line.startswith("drained") for line in command.notes) == 2

    Path("shop.py").write_text("def f(:\n")
    command.wait_for("'shop:worker' cannot be imported: SyntaxError: invalid syntax (shop.py, line 1); waiting for a")
    eventually(lambda: not any(map(is_alive, second)), "the end of what ran")
    assert command.err.count("SyntaxError: invalid syntax (shop.py, line 1)") == 1, "and not by each"
    status, body = command.probe("/healthz")
    assert (status, "SyntaxError" in body) == (503, True)

    Path("shop.py").write_text(PROGRAM)
    command.wait_until(6)
    eventually(lambda: command.probe("/healthz")[0] == 200, "that all processes are ready")
    command.process.send_signal(signal.SIGTERM)
    assert command.process.wait(PATIENCE) == 0


@pytest.mark.slow
def test_reload_of_a_package_elsewhere(
    folder: Path, begin: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder is watched, too; a change of what is no Python file is none."""
    package = folder / "source" / "shop"
    package.mkdir(parents=True)
    (folder / "shop.py").rename(package / "__init__.py")
    (folder / "here").mkdir()
    monkeypatch.chdir(folder / "here")
    monkeypatch.setenv("PYTHONPATH", str(folder / "source"))
    command = begin("--reload")
    command.wait_until(1)
    (package / "notes.txt").write_text("x")
    (package / "other.py").write_text("x = 1")
    command.wait_for("other.py: starting anew")
    command.wait_until(2)
    assert "notes.txt" not in command.err
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_worker_that_is_not_there_yet(begin: Callable[..., Command]) -> None:
    Path("shop.py").unlink()
    command = begin("--reload")
    command.wait_for("No module named 'shop'; waiting for a change")
    Path("shop.py").write_text(PROGRAM)
    command.wait_until(1)
    assert command.end(signal.SIGTERM) == 0


def add_to_program(text: str) -> None:
    Path("shop.py").write_text(f"{PROGRAM}\n{text}\n")


# -- a worker of the store


@pytest.fixture
def shop(server: NATSServer, folder: Path, prefix: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The stream of a program whose handler waits for a file; in this folder, and for this server."""
    monkeypatch.setenv("NATS_URL", server.url)
    Path("shop.py").write_text(
        f"""
import time
from pathlib import Path
from aether_sync import JetStreamEventStore, Worker

store = JetStreamEventStore(stream={prefix!r}, connect="background")
worker = Worker(store=store)

@worker.consume("mailer", ack_wait=600)
def send_mail(delivery):
    with open("notes", "a") as file:
        file.write(f"begun {{delivery.event.actor_id}}\\n")
    while not Path("done").exists():
        time.sleep(0.01)
    with open("notes", "a") as file:
        file.write(f"sent {{delivery.event.actor_id}}\\n")
"""
    )
    return prefix


def place(store: JetStreamEventStore, *names: str) -> None:
    for name in names:
        store.append(name, make_event(actor_id=name), expected_version=ANY_VERSION)


def metric(command: Command, name: str) -> float:
    """What a scrape says, summed over all series of a name."""
    with urllib.request.urlopen(f"http://127.0.0.1:{command.port_of('metrics')}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_what_runs_ends_and_the_rest_is_given_back_at_once(
    shop: str, begin: Callable[..., Command], make_store: Callable[..., JetStreamEventStore]
) -> None:
    store = make_store()
    command = begin("--threads", "1", "--health-port", "127.0.0.1:0", "--metrics-port", "127.0.0.1:0")
    place(store, "order-1", "order-2")
    command.wait_for_note("begun order-1")
    eventually(lambda: command.probe("/healthz")[0] == 200, "its health")
    command.process.send_signal(signal.SIGTERM)
    command.wait_for("SIGTERM: ending")
    with store.consumer("mailer", ack_wait=600).iterate() as others:
        assert next(others).event.actor_id == "order-2", "long before its ack_wait is over"
    Path("done").touch()
    assert command.end() == 0
    assert command.notes == ["begun order-1", "sent order-1"]
    state = store.consumer("mailer").state()
    assert state is not None
    assert state.acknowledged == 1


@pytest.mark.slow
def test_a_handler_that_takes_longer_than_the_grace(
    shop: str, begin: Callable[..., Command], make_store: Callable[..., JetStreamEventStore]
) -> None:
    command = begin("--grace", "0.2")
    place(make_store(), "order-1")
    command.wait_for_note("begun order-1")
    assert command.end(signal.SIGTERM) == 3
    assert "did not come to its end: " in command.err


@pytest.mark.slow
def test_metrics_of_several_processes_never_go_down(
    shop: str,
    begin: Callable[..., Command],
    make_store: Callable[..., JetStreamEventStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporary = Path("temporary").absolute()
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    handled = "aether_sync_runner_handled_total{"
    store = make_store()
    Path("done").touch()
    command = begin("--processes", "2", "--metrics-port", "127.0.0.1:0")
    command.wait_until(2)
    place(store, *(f"order-{n}" for n in range(20)))
    eventually(lambda: metric(command, handled) == 20, "that all are counted")
    assert metric(command, "aether_sync_runner_threads") == 8
    assert len(list(temporary.iterdir())) == 1, "the directory that they share"
    os.kill(children_of(command.process.pid)[0], signal.SIGKILL)
    command.wait_until(3)
    place(store, *(f"order-{n}" for n in range(20, 30)))
    eventually(lambda: metric(command, handled) == 30, "that no count is lost")
    assert command.end(signal.SIGTERM) == 0
    assert list(temporary.iterdir()) == []


@pytest.mark.slow
def test_health_while_the_server_is_away(
    own_server: NATSServer, shop: str, begin: Callable[..., Command], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NATS_URL", own_server.url)
    command = begin(*HEALTH)
    command.wait_until(1)
    eventually(lambda: command.probe("/healthz")[0] == 200, "that it is green")
    own_server.stop()
    eventually(lambda: command.probe("/healthz")[0] == 503, "that it is red")
    assert command.probe("/livez")[0] == 200
    own_server.start()
    eventually(lambda: command.probe("/healthz")[0] == 200, "that it is green again")
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_a_consumer_that_is_deleted_ends_its_process(
    shop: str, begin: Callable[..., Command], make_store: Callable[..., JetStreamEventStore]
) -> None:
    command = begin()
    command.wait_until(1)
    make_store().consumer("mailer").delete()
    command.wait_for("starting it again")
    command.wait_until(2)
    assert command.end(signal.SIGTERM) == 0


@pytest.mark.slow
def test_the_program_of_the_guide(
    server: NATSServer,
    begin: Callable[..., Command],
    make_store: Callable[..., JetStreamEventStore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (program,) = [one for one in blocks_of(GUIDE / "running.md") if one.language == "python"]
    write_files(program, Path())
    monkeypatch.setenv("NATS_URL", server.url)
    command = begin("--processes", "2")
    place(make_store(stream="running-shop"), f"order-{os.getpid()}")
    command.wait_for(f"mail about order-{os.getpid()}")
    command.wait_until(2)
    assert command.end(signal.SIGTERM) == 0


def children_of(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


# -- a process alone


@pytest.mark.slow
def test_what_is_left_undone_in_words() -> None:
    left, closed = CloseReport(handlers_left=2), [CloseReport(handlers_left=2, unsent=1), CloseReport(unsent=3)]
    assert _in_words(left, closed) == "handlers left: 2, unsent: 4"
    assert _in_words(CloseReport(), [CloseReport(timed_out=True)]) == "its time was over"


@pytest.mark.slow
def test_a_process_that_hangs_is_not_alive(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = Process(1, Program("shop:worker", 0, 1.0, False))
    assert "it has not been started" in process.health(0).reasons[0]
    done = threading.Event()

    def take_messages() -> None:
        while not done.wait(0.001):
            process.take_messages()

    process.start()
    taking = threading.Thread(target=take_messages)  # as the supervisor does
    taking.start()
    assert process.pid is not None
    try:
        eventually(lambda: process.state is State.READY, "the start")
        os.kill(process.pid, signal.SIGSTOP)
        began = time.monotonic()
        found = [process.health(0) for _ in range(100)]
        assert time.monotonic() - began < PATIENCE / 4, "they wait for a moment, once"
        assert not any(found)
        assert all(one.alive for one in found), "for a minute"
        monkeypatch.setattr(process_module, "_HUNG", 0.0)
        assert not process.health(0).alive
        os.kill(process.pid, signal.SIGCONT)
        eventually(lambda: process.health(0).ok, "its health")
    finally:
        done.set()
        taking.join()
        process.kill()
        _, status = os.waitpid(process.pid, 0)
        assert process.end(os.waitstatus_to_exitcode(status)) == "killed by SIGKILL"
    assert process.health(0).reasons == (f"{process.about} is not there: killed by SIGKILL",)
