"""Whose life a local server shares: that of the process that started it, however that ends."""

import gc
import json
import multiprocessing
import os
import re
import signal
import subprocess
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from aether_sync import NATSServer
from aether_sync.server import watcher

from ...support.common import PATIENCE, eventually, first_of, run_threads
from ...support.servers import command_lines, is_alive, parent_of, script, told


@pytest.fixture(params=["pidfd", "polling"])
def kernel(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also a kernel that has no pidfd."""
    if request.param == "polling":
        script = tmp_path / "watcher.py"
        script.write_text(
            "import os, runpy\n"
            "def none(pid): raise OSError(38, 'no pidfd')\n"
            "os.pidfd_open = none\n"
            f"runpy.run_path({watcher.__file__!r}, run_name='__main__')\n"
        )
        monkeypatch.setattr(watcher, "__file__", str(script))
        monkeypatch.setattr(os, "pidfd_open", _no_pidfd, raising=False)
        monkeypatch.setenv("TEST_WATCHER", str(script))
    return request.param


def _no_pidfd(pid: int) -> int:
    raise OSError(38, "no pidfd")


@pytest.mark.parametrize(
    "end",
    first_of(
        [
            "os.kill(os.getpid(), signal.SIGKILL)",
            "os._exit(0)",
            "os.kill(os.getpid(), signal.SIGTERM)",
            "server.kill(); os.kill(os.getpid(), signal.SIGKILL)",
            "server.pause(); os.kill(os.getpid(), signal.SIGKILL)",
            "server.stop(); os.kill(os.getpid(), signal.SIGKILL)",
            "server.restart(); os.kill(os.getpid(), signal.SIGKILL)",
        ]
    ),
)
@pytest.mark.slow
def test_it_ends_with_the_process_that_started_it(kernel: str, end: str, temporary: Path) -> None:
    with script(f"server = NATSServer(); server.start(); tell(server); sys.stdin.readline(); {end}") as process:
        pid = told(process)["pid"]
        assert isinstance(pid, int)
        watcher = parent_of(pid)
        assert parent_of(watcher) == process.pid
        process.communicate("\n", timeout=PATIENCE)
    eventually(lambda: not is_alive(pid), "the server's end")
    eventually(lambda: not is_alive(watcher), "the watcher's end")
    eventually(lambda: os.listdir(temporary) == [], "the removal of the directory")


@pytest.mark.parametrize("moment", first_of([0.02, 0, 0.01, 0.03, 0.04, 0.06]))
def test_it_ends_with_a_process_that_is_killed_while_it_starts_it(moment: float, temporary: Path) -> None:
    with script("print('{}', flush=True); NATSServer().start(); time.sleep(600)") as process:
        told(process)
        with suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
    eventually(lambda: not any(str(temporary) in line for line in command_lines()), "the end of server and watcher")


def test_it_ends_with_its_watcher(temporary: Path) -> None:
    with NATSServer() as server:
        pid = server.pid
        assert pid
        os.kill(parent_of(pid), signal.SIGKILL)
        eventually(lambda: not is_alive(pid))
        eventually(lambda: not server.is_running)
        server.restart()
        pid = server.pid
        assert pid
        os.kill(parent_of(pid), signal.SIGTERM)
        eventually(lambda: not is_alive(pid))
    assert os.listdir(temporary) == []


@pytest.mark.slow
def test_a_fork_that_lives_on_does_not_keep_it(kernel: str, temporary: Path) -> None:
    text = """
        server = NATSServer()
        server.start()
        child = os.fork()
        if not child:
            time.sleep(600)
            os._exit(0)
        tell(server, child=child)
        time.sleep(600)
    """
    with script(text) as process:
        news = told(process)
        pid, child = news["pid"], news["child"]
        assert isinstance(pid, int)
        assert isinstance(child, int)
        process.kill()
        try:
            eventually(lambda: not is_alive(pid))
            eventually(lambda: os.listdir(temporary) == [])
            assert is_alive(child)
        finally:
            os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize(
    "deed",
    first_of(
        [
            "os._exit(0)",
            "sys.exit(0)",
            "server.stop(discard=True); server.kill(); os._exit(0)",
            "server.__exit__(None, None, None); os._exit(0)",
            "del server; gc.collect(); os._exit(0)",
            "del server; gc.collect(); sys.exit(0)",
            "assert server.url and server.is_running and server.pid and server.log(); sys.exit(0)",
        ]
    ),
)
def test_a_forked_child_does_nothing_to_it(deed: str) -> None:
    text = f"""
        server = NATSServer()
        server.start()
        child = os.fork()
        if not child:
            {deed}
        assert os.waitpid(child, 0)[1] == 0, "the child failed"
        server.reload()
        tell(server)
        assert server.is_running
        server.stop(discard=True)
    """
    with script(text) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert errors == ""
    assert process.returncode == 0
    assert json.loads(output)["pid"]


def test_a_forked_child_cannot_command_it() -> None:
    text = """
        with NATSServer() as server:
            child = os.fork()
            if not child:
                refused = 0
                for name in ("start", "restart", "pause", "resume", "reload", "lame_duck"):
                    try:
                        getattr(server, name)()
                    except ServerError as error:
                        refused += "belongs to process" in str(error)
                os._exit(refused)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 6
            assert server.is_running
        child = os.fork()
        if not child:
            server.start()  # stopped, it is nobody's
            server.stop(discard=True)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    """
    with script(text) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors == ""
    assert process.returncode == 0


@pytest.mark.parametrize("method", first_of(multiprocessing.get_all_start_methods()))
def test_a_multiprocessing_child_does_nothing_to_it(method: str) -> None:
    text = f"""
        with NATSServer() as server:
            context = multiprocessing.get_context({method!r})
            child = context.Process(target=gc.collect)
            child.start()
            child.join()
            assert child.exitcode == 0
            assert server.is_running
            server.reload()
    """
    with script(text) as process:
        _, errors = process.communicate(timeout=PATIENCE)
    assert errors == ""
    assert process.returncode == 0


def test_the_end_of_the_starting_thread_means_nothing() -> None:
    server = NATSServer()
    run_threads(server.start)
    assert not any(thread.name.startswith("aether-nats") for thread in threading.enumerate())
    server.reload()  # takes it a moment in which it would have died
    assert server.is_running
    server.restart()
    run_threads(server.stop)


def test_collected_unstopped(temporary: Path) -> None:
    server = NATSServer(name="forgotten")
    server.start()
    pid = server.pid
    assert pid
    owners = [server]
    del server
    with pytest.warns(ResourceWarning, match="NATSServer 'forgotten' was never stopped"):
        owners.clear()
    assert not is_alive(pid)
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("end", first_of([NATSServer.kill, NATSServer.stop, lambda server: server.stop(discard=True)]))
@pytest.mark.slow
def test_collected_not_running(end: Callable[[NATSServer], None], temporary: Path) -> None:
    server = NATSServer()
    server.start()
    end(server)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del server
        gc.collect()
    assert os.listdir(temporary) == []


def test_left_at_interpreter_exit(temporary: Path) -> None:
    with script("server = NATSServer(name='forgotten'); server.start(); tell(server)") as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert "ResourceWarning: NATSServer 'forgotten' was never stopped" in errors
    assert not is_alive(json.loads(output)["pid"])
    assert os.listdir(temporary) == []


@pytest.mark.parametrize("cls", first_of(["NATSServer", "NATSCluster"]))
def test_it_ends_when_a_bus_that_was_left_open_has_been_flushed(cls: str, temporary: Path) -> None:
    program = f"""
        from aether_sync import Event, NATSCluster, NATSEventBus

        server = {cls}()
        server.start()
        tell({"server" if cls == "NATSServer" else "server.servers[0]"})
        bus = NATSEventBus(server.{"url" if cls == "NATSServer" else "urls"})
        bus.flush()
        for n in range(5_000):
            bus.publish("n", Event(event_type="Happened", actor_id="thing-1"))
    """
    with script(program) as process:
        output, errors = process.communicate(timeout=PATIENCE)
    assert "unclosed <Connection" in errors
    assert "was never stopped" in errors
    assert not re.search("lost|broke|undone", errors), errors
    assert not is_alive(json.loads(output)["pid"])
