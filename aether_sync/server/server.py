"""A local nats-server, or a cluster of them, for demos, tests and development.

::

    with NATSServer() as server:
        bus = NATSEventBus(server.url)

A server ends with the process that started it, however that process ends; ``watcher.py`` sees to it.
"""

import os
import shutil
import signal
import tempfile
import time
import warnings
import weakref
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from types import TracebackType
from typing import Self

from .._arguments import check_absolute, check_flag, check_int, check_path, check_seconds, check_text
from .._runtime.closing import Uncopied
from .._runtime.deadline import Deadline
from .._runtime.exit import after_exit
from .._runtime.registry import WeakRegistry
from ..errors import ServerError
from .configuration import LOOPBACK, Configuration, check_config, check_host, in_url, new_name
from .process import RETRY, Fd, Run, find_binary, is_greeted, reserve

__all__ = ["NATSServer"]


@dataclass
class _Estate:
    """What the finalizer of a server needs to know; it must not know the object itself."""

    name: str
    owner: int = 0  # the process that started the server; 0 before the start
    directory: Path | None = None  # the temporary directory
    reserved: Fd | None = None
    run: Run | None = None

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
        warnings.warn(f"NATSServer {estate.name!r} was never stopped", ResourceWarning, stacklevel=2)


_servers: WeakRegistry["NATSServer"] = WeakRegistry()


@after_exit
def _forsake_all() -> None:
    with ExitStack() as stack:  # all of them, as a warning may be turned into an error
        for server in _servers:
            server._finalizer.detach()  # it would hold the estate until modules are taken apart
            stack.callback(_forsake, server._estate)


class NATSServer(Uncopied):
    """A nats-server process. ``with`` or :meth:`start` starts it, and it is ready when that returns.

    The server runs in a session of its own, so Ctrl-C in the terminal does not end it while a bus still flushes. It
    ends with the process that started it, even if that is killed, but not with the thread that started it. In a forked
    child ``url`` and ``log()`` can be read, ``stop()``, ``kill()`` and the end of a ``with`` do nothing, and all other
    methods raise. A server whose object is collected, or that still runs when the interpreter exits, is stopped with a
    ``ResourceWarning``.

    Any thread may call any method. ``start()``, ``stop()``, ``restart()`` and ``reload()`` take turns; ``kill()``,
    ``pause()``, ``resume()`` and ``lame_duck()`` do not wait for them.

    Args:
        binary: Path of the binary, or its name on PATH. By default the binary that the extra ``server`` brings, else
            one next to this Python, else one on PATH.
        port: The port for clients. 0 takes a free one, which this object then keeps.
        host: The address to listen on. By default only this machine can reach the server, which needs no password.
        jetstream: Whether JetStream is on.
        config: The text of a nats-server configuration file: authorization, TLS, limits. It is never shown in a repr.
            Paths in it should be absolute. The other options given here take precedence over it.
        store_dir: The directory for the data of JetStream, which is kept. By default the data is in a temporary
            directory, which is removed at the end.
        log_file: The file that the server's output is appended to, which is kept. By default it is in the temporary
            directory.
        name: The server's name. The default is unique, so a server that answers is known to be this one.
        start_timeout: Seconds from start to ready. Usually it takes milliseconds; the default is for a busy machine.

    Attributes:
        name: The server's name.

    Raises:
        InvalidOptionError: An option is of the wrong type or out of its range.
    """

    def __init__(
        self,
        *,
        binary: str | os.PathLike[str] | None = None,
        port: int = 0,
        host: str = LOOPBACK,
        jetstream: bool = True,
        config: str = "",
        store_dir: str | os.PathLike[str] | None = None,
        log_file: str | os.PathLike[str] | None = None,
        name: str | None = None,
        start_timeout: float = 10.0,
    ) -> None:
        self._binary = None if binary is None else check_path("binary", binary)
        self._configuration = Configuration(
            port=check_int("port", port, 0, 65535),
            host=check_host(host),
            jetstream=check_flag("jetstream", jetstream),
            text=check_config(config),
            store_dir=None if store_dir is None else check_absolute("store_dir", store_dir),
            name=check_text("name", name) or new_name(),
        )
        self._log_path = None if log_file is None else check_absolute("log_file", log_file)
        self._has_own_log = log_file is None
        self._start_timeout = check_seconds("start_timeout", start_timeout)
        self._was_ready = False
        self.name: str = self._configuration.name
        self._turn = RLock()  # guards all that changes. Held while waiting, but never by what only sends a signal
        self._estate = _Estate(self.name)
        self._finalizer = weakref.finalize(self, _forsake, self._estate)
        self._finalizer.atexit = False  # which would come before what is open is flushed
        _servers.add(self)

    @property
    def port(self) -> int:
        """The port for clients. It is 0 until one is chosen, and stays the same from the first start on."""
        return self._configuration.port

    @property
    def url(self) -> str:
        """Where clients connect.

        Raises:
            ServerError: It was never started, so the port is not known.
        """
        if not self.port:
            raise ServerError(f"{self!r} has no URL before its first start")
        return self._configuration.url

    @property
    def pid(self) -> int | None:
        """The server's process id while it runs."""
        run = self._estate.run
        return None if run is None or run.has_ended() else run.pid

    @property
    def is_running(self) -> bool:
        """Whether the process runs; a paused one does."""
        return self.pid is not None

    @property
    def log_path(self) -> Path:
        """The file with the server's output.

        Raises:
            ServerError: It was never started, so its temporary directory does not exist.
        """
        if self._log_path is None:
            raise ServerError(f"{self!r} has no log before its first start")
        return self._log_path

    def log(self) -> str:
        """Return all that the server has written; "" before the start, and when its temporary directory is removed."""
        with suppress(OSError):
            return "" if self._log_path is None else self._log_path.read_text(errors="replace")
        return ""

    def start(self) -> None:
        """Start the server and wait until a client can connect. Does nothing if it runs.

        After a :meth:`stop`, a :meth:`kill` or a crash it has the same data and the same port as before.

        Raises:
            ServerNotFoundError: There is no binary.
            ServerError: It did not start, or not in time; the message has the end of its log. Nothing is left behind.
        """
        self._refuse_foreign()
        with self._turn:
            if not self.is_running:
                self._launch()

    def stop(self, timeout: float = 5.0, *, discard: bool = False) -> None:
        """End the server, also a paused one. Its data and port are kept for another :meth:`start`.

        Does nothing if it has ended. It waits for a start in another thread, which :meth:`kill` does not. The end of a
        ``with`` calls it with ``discard=True``.

        Args:
            timeout: Seconds until the server is ended by force; None waits for ever.
            discard: Whether to remove the temporary directory and release the port at once. Otherwise that is done when
                this object is collected, or this process ends.

        Raises:
            ServerError: It survived SIGKILL.
        """
        deadline, discard = Deadline(timeout), check_flag("discard", discard)
        if self._estate.is_foreign():
            return
        with self._turn:
            if self._estate.run is not None:
                self._estate.run.end(deadline)
            if discard:
                self._discard()

    def kill(self) -> None:
        """End the server by SIGKILL, as in a crash. Its data and port are kept for another :meth:`start`.

        Raises:
            ServerError: It survived SIGKILL.
        """
        run = self._estate.run
        if run is not None and not self._estate.is_foreign():
            run.kill()

    def restart(self, timeout: float = 5.0) -> None:
        """Stop the server, if it runs, and start it on the same port and data.

        Args:
            timeout: Seconds until the running server is ended by force; None waits for ever.

        Raises:
            ServerError: As for :meth:`start`.
        """
        self._refuse_foreign()
        with self._turn:
            self.stop(timeout)
            self._launch()

    def pause(self) -> None:
        """Freeze the server by SIGSTOP: its connections stay open, but it does not answer any more.

        Raises:
            ServerError: It is not running.
        """
        self._running().freeze()

    def resume(self) -> None:
        """Let a paused server continue.

        Raises:
            ServerError: It is not running.
        """
        self._running().signal(signal.SIGCONT)

    def lame_duck(self) -> None:
        """Tell the server by SIGUSR2 to send its clients away one by one, within its ``lame_duck_duration``, and end.

        Raises:
            ServerError: It is not running.
        """
        self._running().signal(signal.SIGUSR2)

    def reload(self, config: str | None = None, timeout: float = 5.0) -> None:
        """Have the running server read its configuration again, and wait until it has done so.

        Args:
            config: The new text. The default is the old one, for the case that files which it names have changed, such
                as certificates.
            timeout: Seconds to wait; None waits for ever.

        Raises:
            ServerError: The server refused the configuration and keeps the old one; or it did not confirm it in time.
        """
        deadline = Deadline(timeout)
        config = None if config is None else check_config(config)
        self._refuse_foreign()
        with self._turn:
            run, directory, old = self._running(), self._estate.directory, self._configuration.text
            assert directory is not None
            self._configuration.text = old if config is None else config
            before = len(run.log())
            try:
                self._configuration.write(directory)
                run.signal(signal.SIGHUP)
                self._await_reload(run, before, deadline)
            except BaseException:
                self._configuration.text = old
                self._configuration.write(directory)
                raise

    def _await_reload(self, run: Run, before: int, deadline: Deadline) -> None:
        while True:
            for line in run.log()[before:].splitlines(keepends=True):
                if "] Reloaded server configuration" in line and line.endswith("\n"):
                    return
                if "] Failed to reload server configuration" in line and line.endswith("\n"):
                    raise ServerError(f"{self!r} goes on with its old configuration: {line.strip()}")
            if run.wait_ended(Deadline(RETRY)) or not deadline.remaining():
                raise run.error(f"{self!r} did not reload its configuration within {deadline}")

    def _refuse_foreign(self) -> None:
        if self._estate.is_foreign():
            raise ServerError(f"{self!r} belongs to process {self._estate.owner}, of which this one is a fork")

    def _running(self) -> Run:
        self._refuse_foreign()
        run = self._estate.run
        if run is None or run.has_ended():
            raise ServerError(f"{self!r} is not running")
        return run

    def _launch(self) -> None:
        deadline = Deadline(self._start_timeout)
        chosen, was_taken = self.port, False
        try:
            binary = find_binary(self._binary)
            while not self._try_launch(binary, deadline):
                was_taken = True
                self._configuration.port = chosen  # if that is 0, another one is taken
                time.sleep(RETRY)
        except BaseException as error:
            if self._estate.run is not None:
                self._estate.run.kill()
            self._discard()
            self._configuration.port = chosen
            if isinstance(error, OSError):
                raise ServerError(f"{self!r} could not be started: {error}") from error
            if was_taken and isinstance(error, ServerError):  # whose log is that of the last attempt, cut short
                raise ServerError(f"{self!r} could not be started: somebody else had its port\n{error}") from error
            raise
        self._was_ready = True

    def _try_launch(self, binary: str, deadline: Deadline) -> bool:
        """Start the server and wait until it is ready; return False if its port is taken, perhaps only for a moment."""
        if not self._prepare(deadline):
            return False
        run = self._spawn(binary, deadline)
        while deadline.remaining() and not run.wait_ended(Deadline(RETRY)):
            greeted = is_greeted(self._configuration.reachable_host, self.port, self.name)
            if greeted or (greeted is None and "Server is ready" in run.log()):
                return True
        if not run.has_ended():
            raise run.error(f"{self!r} was not ready within {deadline}")
        may_retry = self._was_ready or self._estate.reserved is None
        if may_retry and deadline.remaining() and "address already in use" in run.log():
            return False
        raise run.error(f"{self!r} ended before it was ready")

    def _prepare(self, deadline: Deadline) -> bool:
        """Make the directory and the configuration, and reserve the port; return False if the port is taken."""
        estate = self._estate
        estate.owner = os.getpid()
        if estate.directory is None:
            estate.directory = Path(tempfile.gettempdir(), f"aether-nats-{os.getpid()}-{os.urandom(8).hex()}")
            estate.directory.mkdir(0o700)
        if self._has_own_log:
            self._log_path = estate.directory / "server.log"
        self._configuration.write(estate.directory)
        if estate.reserved is None:
            try:
                self._configuration.port, estate.reserved = reserve(self._configuration.host, self.port)
            except OSError:
                if self._was_ready and deadline.remaining():
                    return False
                raise
        return True

    def _spawn(self, binary: str, deadline: Deadline) -> Run:
        directory = self._estate.directory
        assert directory is not None
        command = self._configuration.command(binary, directory, self.log_path)
        old = self._estate.run
        self._estate.run = run = Run(command, self.log_path, directory, deadline)
        if old is not None:
            old.release()
        return run

    def _discard(self) -> None:
        """Remove what an ended server leaves. The watcher goes last: it does the same if we are killed here."""
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
        self.stop(discard=True)

    def __repr__(self) -> str:
        state = f"running, process {self.pid}" if self.is_running else "not running"
        return f"<NATSServer {self.name!r} on {in_url(self._configuration.host)}:{self.port or '?'}, {state}>"
