"""``NATSServer``: real processes, started, stopped, killed, and looked for afterwards."""

import os
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from aether_sync import NATSServer
from aether_sync.errors import InvalidOptionError, ServerError, ServerNotFoundError
from aether_sync.server import cluster
from aether_sync.server import server as module
from aether_sync.server.process import find_binary

from ...support.common import PATIENCE, UNIT, eventually, first_of, run_threads
from ...support.servers import children, command_lines, count_stored, greeting, is_alive, script, store_one, told

#: A server that does what the real one does not: deaf (to SIGTERM), mute (says nothing to clients), late (never ready).
FAKE = """\
#!{python} -IS
import re, signal, socket, sys, time
mode = {mode!r}
arguments = dict(zip(sys.argv[1::2], sys.argv[2::2]))
if mode == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if mode == "late":
    time.sleep(600)
name = re.search('server_name: "(.*)"', open(arguments["-c"]).read())[1]
listener = socket.create_server((arguments["-a"], int(arguments["-p"])))
print("Server is ready", file=sys.stderr, flush=True)
while True:
    client, _ = listener.accept()
    if mode == "mute":
        client.recv(100)
    else:
        client.sendall(b'INFO {{"server_name": "%s"}}\\r\\nPONG\\r\\n' % name.encode())
"""


def make_fake(directory: Path, mode: str) -> Path:
    fake = directory / f"fake-{mode}"
    fake.write_text(FAKE.format(python=sys.executable, mode=mode))
    fake.chmod(fake.stat().st_mode | stat.S_IXUSR)
    return fake


# Start, stop, and what is left.


def test_exact_names() -> None:
    assert (cluster.__all__, module.__all__) == (["NATSCluster"], ["NATSServer"])


def test_a_client_can_connect_when_start_returns() -> None:
    with NATSServer() as server:
        assert greeting(server)["server_name"] == server.name
        assert greeting(server)["jetstream"] is True
        assert server.is_running
        assert server.url == f"nats://127.0.0.1:{server.port}"
        assert "Server is ready" in server.log()
        assert server.log_path.read_text() == server.log()
    assert not server.is_running
    assert server.pid is None


def test_without_jetstream() -> None:
    with NATSServer(jetstream=False) as server:
        assert "jetstream" not in greeting(server)


def test_stop_leaves_nothing(temporary: Path) -> None:
    server = NATSServer()
    assert os.listdir(temporary) == []
    before = children()
    server.start()
    pid = server.pid
    assert pid
    assert len(os.listdir(temporary)) == 1
    server.stop(discard=True)
    assert not is_alive(pid)
    assert os.listdir(temporary) == []
    assert children() == before
    server.stop(discard=True)
    server.kill()


def test_start_when_running_does_nothing() -> None:
    with NATSServer() as server:
        pid = server.pid
        server.start()
        assert server.pid == pid


def test_given_store_and_log_are_kept(tmp_path: Path) -> None:
    server = NATSServer(store_dir=tmp_path / "store", log_file=tmp_path / "log")
    with server:
        store_one(server)
    assert "Server Exiting" in server.log()
    with NATSServer(store_dir=tmp_path / "store", log_file=tmp_path / "log") as other:
        assert count_stored(other) == 1
        assert other.log().count("Server is ready") == 2


def test_session_of_its_own() -> None:
    with NATSServer() as server:
        assert server.pid
        assert os.getsid(server.pid) != os.getsid(0)
        assert os.getpgid(server.pid) != os.getpgid(0)


def test_signals_that_the_starting_thread_blocks_reach_the_server(tmp_path: Path) -> None:
    server = NATSServer(log_file=tmp_path / "log")
    old = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
    try:
        server.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, old)
    server.reload()
    server.stop(discard=True)
    assert "Server Exiting" in server.log()


def test_name_and_given_port(free_port: int) -> None:
    with NATSServer(name="me", port=free_port) as server:
        assert server.port == free_port
        assert greeting(server)["server_name"] == "me"


@pytest.mark.parametrize("host", first_of(["::", "localhost", "0.0.0.0", "::1"]))
def test_hosts(host: str) -> None:
    with NATSServer(host=host) as server:
        address = server.url.removeprefix("nats://").rpartition(":")[0].strip("[]")
        socket.create_connection((address, server.port), PATIENCE).close()
        server.restart()


def test_before_the_first_start() -> None:
    server = NATSServer()
    assert (server.port, server.pid, server.is_running, server.log()) == (0, None, False, "")
    with pytest.raises(ServerError, match="before its first start"):
        server.url
    with pytest.raises(ServerError, match="before its first start"):
        server.log_path
    for method in (server.pause, server.resume, server.reload, server.lame_duck):
        with pytest.raises(ServerError, match="not running"):
            method()


@pytest.mark.parametrize(
    "options",
    [
        {"port": -1}, {"port": 65536}, {"port": True}, {"start_timeout": 0}, {"host": ".."}, {"host": "a" * 300},
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, object]) -> None:
    with pytest.raises(InvalidOptionError):
        NATSServer(**options)  # type: ignore[arg-type]


@pytest.mark.concurrent
@pytest.mark.slow
def test_twenty_at_once() -> None:
    servers = [NATSServer(start_timeout=PATIENCE * 3) for _ in range(20)]
    try:
        run_threads(*(server.start for server in servers))
        assert [greeting(server)["server_name"] for server in servers] == [server.name for server in servers]
        assert len({server.port for server in servers}) == 20
    finally:
        run_threads(*(server.stop for server in servers))


@pytest.mark.concurrent
@pytest.mark.slow
def test_one_object_from_many_threads(temporary: Path) -> None:
    server = NATSServer()

    def restart_or_fail() -> None:
        with suppress(ServerError):  # killed before it was ready
            server.restart()

    run_threads(*(server.start for _ in range(4)))
    assert len(os.listdir(temporary)) == 1
    run_threads(server.restart, server.start, server.restart, server.reload)
    assert server.is_running
    run_threads(restart_or_fail, server.kill, restart_or_fail, server.kill)
    run_threads(*(partial(server.stop, discard=True) for _ in range(4)))
    assert os.listdir(temporary) == []


# Ends and new beginnings.


def test_restart_keeps_port_and_data() -> None:
    with NATSServer() as server:
        url, pid = server.url, server.pid
        store_one(server)
        server.restart()
        assert server.pid != pid
        assert server.url == url
        assert count_stored(server) == 1


@pytest.mark.parametrize("again", [NATSServer.start, NATSServer.restart])
@pytest.mark.slow
def test_kill_keeps_port_and_data(again: Callable[[NATSServer], None]) -> None:
    with NATSServer() as server:
        url, pid = server.url, server.pid
        assert pid
        store_one(server)
        server.kill()
        assert not server.is_running
        assert not is_alive(pid)
        server.kill()
        again(server)
        assert server.url == url
        assert count_stored(server) == 1


def test_stop_keeps_the_port_and_on_request_the_data() -> None:
    with NATSServer() as server:
        url = server.url
        store_one(server)
        server.stop()
        server.start()
        assert server.url == url
        assert count_stored(server) == 1
        server.stop(discard=True)
        server.start()
        assert server.url == url
        assert count_stored(server) is None


def test_nobody_gets_the_port_of_a_killed_server() -> None:
    with NATSServer() as server:
        server.kill()
        with socket.socket() as other, pytest.raises(OSError, match="in use"):
            other.bind(("127.0.0.1", server.port))
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


@pytest.fixture
def patient_binary(tmp_path: Path) -> Path:
    """A nats-server that begins only once the file "asked" is there: by itself it can end before anyone looks."""
    script = tmp_path / "patient-nats-server"
    script.write_text(f'#!/bin/sh\nwhile [ ! -e {tmp_path}/asked ]; do sleep 0.01; done\nexec {find_binary()} "$@"\n')
    script.chmod(0o700)
    (tmp_path / "asked").touch()
    return script


def test_restart_waits_for_the_port(tmp_path: Path, patient_binary: Path) -> None:
    with NATSServer(binary=patient_binary, log_file=tmp_path / "log", start_timeout=PATIENCE) as server:
        server.kill()
        (tmp_path / "asked").unlink()
        with socket.socket() as thief:
            thief.settimeout(PATIENCE)
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", server.port))
            thief.listen()
            thread = threading.Thread(target=server.restart)
            thread.start()
            with thief.accept()[0] as client:  # it must not be taken for the server
                client.sendall(b'INFO {"server_name": "thief"}\r\nPONG\r\n')
            (tmp_path / "asked").touch()
            eventually(lambda: "address already in use" in server.log())
            assert thread.is_alive()
        thread.join(PATIENCE)
        assert server.is_running
        assert greeting(server)["server_name"] == server.name


def test_a_restart_whose_port_stays_taken_says_so(tmp_path: Path) -> None:
    with NATSServer(log_file=tmp_path / "log", start_timeout=PATIENCE) as server:
        server.kill()
        server._start_timeout = 0.3 * UNIT
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            thief.bind(("127.0.0.1", server.port))
            thief.listen()
            with pytest.raises(ServerError, match=r"somebody else|address already in use"):
                server.restart()


def test_stop_of_a_paused_server(temporary: Path, tmp_path: Path) -> None:
    server = NATSServer(log_file=tmp_path / "log")
    server.start()
    pid = server.pid
    server.pause()
    assert server.is_running
    assert pid
    server.stop(PATIENCE, discard=True)
    assert not is_alive(pid)
    assert os.listdir(temporary) == []
    assert "Server Exiting" in server.log()


def test_pause_and_resume() -> None:
    with NATSServer() as server:
        server.pause()
        eventually(lambda: Path(f"/proc/{server.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        with pytest.raises(TimeoutError):
            greeting(server, 0.05)
        server.resume()
        assert greeting(server)["server_name"] == server.name


def test_stop_by_force(tmp_path: Path) -> None:
    server = NATSServer(binary=make_fake(tmp_path, "deaf"), start_timeout=PATIENCE)
    server.start()
    pid = server.pid
    assert pid
    server.stop(0.05, discard=True)
    assert not is_alive(pid)


def test_lame_duck_ends_the_server() -> None:
    with NATSServer(config='lame_duck_grace_period: "10ms"') as server:  # else 10 s, if it still has a client
        server.lame_duck()
        eventually(lambda: not server.is_running)
        server.start()
        assert server.is_running


@pytest.mark.parametrize("end", [NATSServer.kill, NATSServer.stop])
def test_an_end_during_a_start(tmp_path: Path, end: Callable[[NATSServer], None], temporary: Path) -> None:
    timeout = PATIENCE if end is NATSServer.kill else 0.5
    server = NATSServer(binary=make_fake(tmp_path, "late"), start_timeout=timeout)
    errors: list[ServerError] = []

    def start() -> None:
        with pytest.raises(ServerError) as caught:
            server.start()
        errors.append(caught.value)

    thread = threading.Thread(target=start)
    thread.start()
    eventually(lambda: server.is_running or errors)
    end(server)
    thread.join(PATIENCE)
    assert len(errors) == 1
    assert not server.is_running
    assert os.listdir(temporary) == []


def test_an_interrupted_start_leaves_nothing(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python drops what is raised in a finalizer, so what that was to close stays: one round of three is enough."""
    text = """
        def interrupt(*_):
            raise KeyboardInterrupt
        signal.signal(signal.SIGALRM, interrupt)
        server = NATSServer(binary=sys.argv[1], start_timeout=2)
        for delay in (0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1):
            try:
                signal.setitimer(signal.ITIMER_REAL, delay)
                server.start()
            except (KeyboardInterrupt, ServerError):
                assert not server.is_running
        print("{}", flush=True)
        sys.stdin.readline()
    """
    fake = str(make_fake(tmp_path, "late"))
    for is_last in (False, False, True):
        place = Path(tempfile.mkdtemp(dir=temporary))
        monkeypatch.setenv("TMPDIR", str(place))
        with script(text, fake) as process, suppress(*() if is_last else (AssertionError,)):
            told(process)
            eventually(partial(_is_left, place), "the end of all processes and directories")
            break


def _is_left(place: Path) -> bool:
    """Whether no process and no file is there any more."""
    return not os.listdir(place) and not any(str(place) in line for line in command_lines())


# Configuration.


def test_configuration_is_used_and_not_shown() -> None:
    config = 'authorization { user: u, password: "hidden" }\nmax_payload: 5000\nlog_file: "/nonexistent/log"'
    with NATSServer(config=config) as server:
        assert greeting(server)["auth_required"] is True
        assert greeting(server)["max_payload"] == 5000
        assert "hidden" not in repr(server)
        assert str(server.port) in repr(server)
        assert "Server is ready" in server.log()
        mode = (server.log_path.parent).stat().st_mode
        assert stat.S_IMODE(mode) == 0o700
    assert "hidden" not in repr(server)


def test_jetstream_limits_in_the_configuration() -> None:
    with NATSServer(config="jetstream { max_memory_store: 64MB, max_file_store: 1GB }") as server:
        assert "Max Memory:      64.00 MB" in server.log()
        assert str(server.log_path.parent) in server.log()


def test_reload() -> None:
    with NATSServer() as server:
        server.reload("max_payload: 5000")
        assert greeting(server)["max_payload"] == 5000
        with pytest.raises(ServerError, match="goes on with its old configuration"):
            server.reload("max_payload: {")
        assert greeting(server)["max_payload"] == 5000
        server.reload()
        server.restart()
        assert greeting(server)["max_payload"] == 5000


def test_a_server_that_says_nothing_until_tls(tmp_path: Path) -> None:
    server = NATSServer(binary=make_fake(tmp_path, "mute"), start_timeout=PATIENCE)
    with server:
        assert server.is_running


# A start that fails.


def test_bad_configuration(temporary: Path) -> None:
    server = NATSServer(config="max_payload: {")
    for _ in range(2):
        with pytest.raises(ServerError, match=r"ended before it was ready(.|\n)*Parse error"):
            server.start()
        assert not server.is_running
        assert server.port == 0
        assert os.listdir(temporary) == []
    server.stop(discard=True)


def test_port_taken(temporary: Path, free_port: int) -> None:
    other = socket.create_server(("127.0.0.1", free_port))
    with other, pytest.raises(ServerError, match=f"{free_port}.*in use"), NATSServer(port=free_port):
        pass
    assert os.listdir(temporary) == []
    with NATSServer(port=free_port):
        pass


def test_port_taken_by_another_nats_server(own_server: NATSServer) -> None:
    with pytest.raises(ServerError, match="in use"), NATSServer(port=own_server.port, name=own_server.name):
        pass
    assert own_server.is_running


def test_another_port_of_the_configuration_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        config = f'http: "127.0.0.1:{other.getsockname()[1]}"'
        with pytest.raises(ServerError, match=r"ended before it was ready(.|\n)*in use"), NATSServer(config=config):
            pass


def test_not_ready_in_time(tmp_path: Path, temporary: Path) -> None:
    server = NATSServer(binary=make_fake(tmp_path, "late"), start_timeout=0.3)
    with pytest.raises(ServerError, match=r"0\.3 s"):
        server.start()
    assert os.listdir(temporary) == []


def test_not_a_program(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\0\1\2")
    binary.chmod(0o755)
    with pytest.raises(ServerError, match="Exec format error"):
        NATSServer(binary=binary).start()


def test_no_place_for_the_log(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(ServerError, match="No such file"):
        NATSServer(log_file=tmp_path / "no" / "log").start()
    assert os.listdir(temporary) == []


def test_missing_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(ServerNotFoundError, match="/nowhere/nats-server"):
        NATSServer(binary="/nowhere/nats-server").start()
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ServerNotFoundError, match="install the extra 'server' of aether-sync"):
        NATSServer().start()
    assert os.listdir(temporary) == []


def test_where_the_binary_is_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from_wheel = find_binary()
    assert Path(from_wheel).name == "nats-server"
    for place in ("scripts", "path"):
        (tmp_path / place).mkdir()
        make_fake(tmp_path / place, "late").rename(tmp_path / place / "nats-server")
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path / "scripts"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert find_binary() == from_wheel
    monkeypatch.setattr("importlib.metadata.files", lambda name: None)
    assert find_binary() == str(tmp_path / "scripts" / "nats-server")
    (tmp_path / "scripts" / "nats-server").unlink()
    assert find_binary() == str(tmp_path / "path" / "nats-server")
    assert find_binary("nats-server") == str(tmp_path / "path" / "nats-server")
    assert find_binary(Path(from_wheel)) == from_wheel
