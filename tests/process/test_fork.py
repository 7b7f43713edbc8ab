"""Forks, by every way and at every moment: the child is a node of its own, and the parent notices nothing.

The programs are in ``tests/programs/forks.py``; they assert on both sides.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from aether_sync import NATSEventBus, NATSServer

from ..programs import forks
from ..programs.run import ROOT, finish, run, start
from ..support.common import PATIENCE, UNIT, FreePort, Monitor, eventually, first_of

MakeBus = Callable[..., NATSEventBus]

pytestmark = [pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here"), pytest.mark.both_loops]


def test_a_child_is_a_node_of_its_own(server: NATSServer, prefix: str) -> None:
    run(forks.a_node_of_its_own, server.url, prefix)


@pytest.mark.slow
def test_a_shared_connection_is_one_of_its_own_in_the_child(server: NATSServer, prefix: str) -> None:
    run(forks.a_shared_connection, server.url, prefix)


@pytest.mark.parametrize("how", first_of(["reading", "paused"]))
def test_the_inherited_connection_is_let_go_of(
    own_server: NATSServer, own_monitor: Monitor, prefix: str, how: str
) -> None:
    program = start(forks.a_connection_is_let_go_of, own_server.url, prefix, how)
    assert program.stdout is not None
    child = int(program.stdout.readline())
    eventually(lambda: own_monitor.connections() == 0, "the end of the parent's connection, with the child alive")
    os.kill(child, 0)
    finish(program)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
@pytest.mark.parametrize("how", first_of(["connecting", "connected"]))
def test_a_child_keeps_no_file_of_the_parents_loop(server: NATSServer, prefix: str, how: str) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):  # what does not fit into the backlog waits for an answer
            other = stack.enter_context(socket.socket())
            other.setblocking(False)
            other.connect_ex(full.getsockname())
        url = server.url if how == "connected" else f"nats://127.0.0.1:{full.getsockname()[1]}"
        run(forks.what_a_child_keeps, url, prefix, how)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="no /proc here")
def test_a_daemons_own_files_stay_its_own(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    """The numbers of the files that its parent's loop had are those of others by then."""
    run(forks.own_files_after_a_fork, server.url, prefix, tmp_path)


@pytest.mark.both_loops(False)
@pytest.mark.slow
def test_a_daemons_own_files_are_whole_at_its_end(server: NATSServer, prefix: str, tmp_path: Path) -> None:
    run(forks.own_files_at_the_end, server.url, prefix, tmp_path, says=None)


@pytest.mark.slow
def test_a_loop_that_never_ran_is_none_in_the_child(server: NATSServer) -> None:
    run(forks.a_loop_that_never_ran)


@pytest.mark.slow
@pytest.mark.concurrent
@pytest.mark.parametrize("where", ["main", "thread"])
def test_forks_while_threads_publish_and_iterate(server: NATSServer, prefix: str, where: str) -> None:
    run(forks.under_load, server.url, prefix, 15, where, within=PATIENCE * 3)


@pytest.mark.concurrent
@pytest.mark.parametrize("times", first_of([12, 60]))
def test_no_lock_stays_held_in_the_child(server: NATSServer, times: int) -> None:
    run(forks.no_lock_survives, times, within=PATIENCE * 3)


@pytest.mark.slow
def test_a_guard_that_the_forking_thread_holds_is_given_back(server: NATSServer) -> None:
    run(forks.a_fork_within_a_guard)


def test_what_is_inherited_may_be_collected(server: NATSServer, prefix: str) -> None:
    run(forks.what_is_inherited_is_collected, server.url, prefix)


def test_what_waits_to_be_sent_is_sent_by_the_parent_alone(
    own_server: NATSServer, own_monitor: Monitor, prefix: str
) -> None:
    program = start(forks.the_outbox_is_the_parents, own_server.url, prefix)
    assert program.stdout is not None
    assert program.stdin is not None
    program.stdout.readline()
    own_server.stop()
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "forked\n"
    own_server.restart()
    finish(program, within=PATIENCE * 2, says="lost the connection")
    assert own_monitor.messages() == 5 + 1


@pytest.mark.concurrent
@pytest.mark.parametrize(
    ("what", "fault"),
    first_of([("flush", "pause"), ("get", ""), ("publish", ""), ("subscribe", "pause"), ("wait_connected", "kill")]),
)
def test_a_signal_handler_forks_over_a_call(own_server: NATSServer, prefix: str, what: str, fault: str) -> None:
    program = start(forks.a_handler_forks_over, own_server.url, prefix, what)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    if fault:
        getattr(own_server, fault)()
    finish(program, says=None)


@pytest.mark.fault
@pytest.mark.parametrize("what", first_of(["close after another", "close"]))
def test_a_signal_handler_forks_over_a_close_without_a_deadline(own_server: NATSServer, prefix: str, what: str) -> None:
    program = start(forks.a_handler_forks_over, own_server.url, prefix, what)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    own_server.pause()
    assert program.stdin is not None
    program.stdin.write("\n")
    program.stdin.flush()
    assert {program.stdout.readline(), program.stdout.readline()} == {"forked\n", "ended\n"}
    own_server.resume()  # only now does the parent's close() come to its end
    finish(program, says=None)


@pytest.mark.slow
def test_one_object_that_raises_after_a_fork_does_not_stop_the_others(server: NATSServer, prefix: str) -> None:
    run(forks.one_heir_raises, server.url, prefix, says="ZeroDivisionError")


@pytest.mark.slow
def test_a_fork_while_connecting(prefix: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        run(forks.while_connecting, f"nats://127.0.0.1:{silent.getsockname()[1]}", prefix, says="no answer")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
@pytest.mark.slow
def test_multiprocessing(server: NATSServer, prefix: str, method: str) -> None:
    """The children close nothing: what they published is flushed at their ends."""
    run(forks.processes, server.url, prefix, method, within=PATIENCE * 2, says=forks.UNCLOSED)


@pytest.mark.parametrize("worker", ["sync", "gthread"])
@pytest.mark.slow
def test_gunicorn_with_preload(server: NATSServer, make_bus: MakeBus, prefix: str, worker: str, tmp_path: Path) -> None:
    free = FreePort()
    port = free.number
    command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", f"127.0.0.1:{port}", "tests.programs.web:app"]
    command += ["--workers", "2", "--worker-class", worker, "--threads", "4", "--graceful-timeout", "5"]
    env = {**os.environ, "NATS_URL": server.url, "AETHER_TEST_PREFIX": prefix}
    with make_bus().subscribe("web.>") as events, open(tmp_path / "log", "w+") as log:
        gunicorn = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            assert events.get(timeout=PATIENCE).event_type == "Loaded"
            eventually(lambda: _answers(port), "gunicorn")
            answers = []
            while len({answer["pid"] for answer in answers}) < 2:
                assert len(answers) < 500, "one worker alone answers"
                answers.append(_ask(port, len(answers)))
        finally:
            gunicorn.send_signal(signal.SIGTERM)
            gunicorn.wait(PATIENCE)
        assert gunicorn.returncode == 0, (tmp_path / "log").read_text()
        assert [answer["saw"] for answer in answers] == [f"web-{n}" for n in range(len(answers))]
        assert len({answer["node"] for answer in answers}) == 2
        assert all(answer["node"] != answer["loaded_as"] for answer in answers)
        got = [events.get(timeout=PATIENCE).actor_id for _ in answers]
        assert sorted(got) == sorted(f"web-{n}" for n in range(len(answers)))


@pytest.mark.both_loops(False)  # slow, and the same on both
@pytest.mark.parametrize("worker", ["sync", "gthread"])
@pytest.mark.slow
def test_gunicorn_ends_while_it_streams(server: NATSServer, prefix: str, tmp_path: Path, worker: str) -> None:
    """At once, with the hook of the guide, and not when its patience is over."""
    grace = 30 * UNIT
    free = FreePort()
    port = free.number
    command = [sys.executable, "-m", "gunicorn", "--preload", "--bind", f"127.0.0.1:{port}", "tests.programs.web:app"]
    command += ["--worker-class", worker, "--threads", "4", "--graceful-timeout", str(int(grace))]
    command += ["--config", "tests/programs/gunicorn_conf.py"]
    env = {**os.environ, "NATS_URL": server.url, "AETHER_TEST_PREFIX": prefix}
    with open(tmp_path / "log", "w+") as log:
        gunicorn = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            eventually(lambda: _answers(port), "gunicorn")
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/stream", timeout=PATIENCE) as stream:
                assert stream.readline() == b"data: ready\n"
                gunicorn.send_signal(signal.SIGTERM)
                begun = time.monotonic()
                rest = stream.read()
                gunicorn.wait(PATIENCE)
        finally:
            gunicorn.kill()
            gunicorn.wait()
    assert time.monotonic() - begun < grace / 2
    assert rest.endswith(b"data: the end\n\n")
    assert "SIGKILL" not in (tmp_path / "log").read_text()


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _ask(port: int, number: int) -> dict[str, str]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/?{number}", timeout=PATIENCE) as answer:
        return json.load(answer)  # type: ignore[no-any-return]


@pytest.mark.both_loops(False)  # slow, and the same on both
@pytest.mark.slow
def test_celery_prefork(server: NATSServer, make_bus: MakeBus, prefix: str, tmp_path: Path) -> None:
    for part in "q", "c":
        (tmp_path / part).mkdir()
    env = {
        **os.environ, "NATS_URL": server.url, "AETHER_TEST_PREFIX": prefix, "AETHER_TEST_FOLDER": str(tmp_path),
        "C_FORCE_ROOT": "1",
    }  # fmt: skip
    celery = [sys.executable, "-m", "celery", "-A", "tests.programs.tasks", "worker", "-P", "prefork", "-c", "2"]
    celery += ["--without-gossip", "--without-mingle", "--without-heartbeat", "-l", "WARNING"]
    send = [sys.executable, "-c", "from tests.programs import tasks; tasks.send(); tasks.bus.close()"]
    with make_bus().subscribe("tasks") as events, open(tmp_path / "log", "w+") as log:
        worker = subprocess.Popen(celery, cwd=ROOT, env=env, stdout=log, stderr=log)
        try:
            subprocess.run(send, cwd=ROOT, env=env, check=True, timeout=PATIENCE)
            got = [events.get(timeout=PATIENCE) for _ in range(11)]
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait(PATIENCE)
        assert worker.returncode == 0, (tmp_path / "log").read_text()
        assert sorted(one.event_type for one in got) == ["Limited"] + ["Worked"] * 10
        assert len({one.actor_id for one in got}) == 2, "two processes, two nodes"
        assert not {one.actor_id for one in got} & {one.data["loaded_as"] for one in got if one.data}
