"""``NATSCluster``: several local nats-servers with routes between all of them."""

import json
import os
import signal
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Self

from .._arguments import check_absolute, check_count, check_flag, check_seconds, check_text
from .._runtime.closing import Uncopied
from .._runtime.deadline import Deadline
from ..errors import ServerError
from .configuration import LOOPBACK, new_name
from .process import RETRY, Fd, reserve
from .server import NATSServer

__all__ = ["NATSCluster"]
_LARGEST_CLUSTER = 100  # servers: more is a slip


class NATSCluster(Uncopied):
    """Several servers with routes between all of them. ``with`` or :meth:`start` starts them, ready when that returns.

    The servers are :class:`NATSServer` objects, which may be killed, restarted and paused one by one. The methods of
    the cluster itself are for one thread at a time.

    Args:
        size: How many servers.
        name: The name of the cluster, with which the names of its servers begin.
        start_timeout: Seconds until all routes exist and, with JetStream, all servers follow one leader.
        binary: As for :class:`NATSServer`.
        host: The address for clients of all servers. Routes and monitoring always use 127.0.0.1.
        jetstream: As for :class:`NATSServer`.
        config: As for :class:`NATSServer`, for all servers; ``cluster`` and ``http`` in it are overridden.
        store_dir: A directory, in which the data of each server is in a directory of the server's name.

    Attributes:
        name: The name of the cluster.
        servers: The servers, whether they run or not.

    Raises:
        InvalidOptionError: An option is of the wrong type or out of its range.
    """

    def __init__(
        self,
        size: int = 3,
        *,
        name: str | None = None,
        start_timeout: float = 30.0,
        binary: str | os.PathLike[str] | None = None,
        host: str = LOOPBACK,
        jetstream: bool = True,
        config: str = "",
        store_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        size = check_count("size", size, _LARGEST_CLUSTER)
        self.name: str = check_text("name", name) or new_name()
        self._start_timeout = check_seconds("start_timeout", start_timeout)
        self._jetstream = check_flag("jetstream", jetstream)
        directory = None if store_dir is None else check_absolute("store_dir", store_dir)
        self._reserved: list[Fd | None] = []
        self._monitors: list[int] = []
        names = [f"{self.name}-{n}" for n in range(1, size + 1)]
        self.servers: tuple[NATSServer, ...] = tuple(
            NATSServer(
                binary=binary,
                host=host,
                jetstream=jetstream,
                config=config,
                store_dir=None if directory is None else directory / each,
                name=each,
                start_timeout=start_timeout,
            )
            for each in names
        )

    @property
    def urls(self) -> list[str]:
        """Where clients connect: the URL of each server."""
        return [server.url for server in self.servers]

    @property
    def url(self) -> str:
        """All URLs in one text, separated by commas, as ``NATSEventBus`` and ``NATS_URL`` take them."""
        return ",".join(self.urls)

    def start(self) -> None:
        """Start the servers that do not run, and wait until all form one cluster.

        Raises:
            ServerNotFoundError: There is no binary.
            ServerError: A server did not start, or the cluster did not form in time. All servers are stopped.
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
        """Wait until every server has routes to all others and, with JetStream, follows a leader.

        :meth:`start` waits for that; call this after you have restarted a server.

        Args:
            timeout: Seconds to wait; None waits for ever.

        Raises:
            ServerError: That did not happen in time.
        """
        deadline = Deadline(timeout)
        if not self._monitors:
            raise ServerError(f"{self!r} is not started")
        for server, monitor in zip(self.servers, self._monitors, strict=True):
            while not self._is_joined(monitor, deadline):
                run = server._running()
                if run.wait_ended(Deadline(RETRY)) or not deadline.remaining():
                    raise run.error(f"{server!r} is not one of a cluster of {len(self.servers)} within {deadline}")

    def stop(self, timeout: float = 5.0) -> None:
        """End all servers at once, and remove their temporary directories. May be called more than once.

        Args:
            timeout: Seconds until they are ended by force; None waits for ever.

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
        """Reserve two ports for each server, one for routes and one for monitoring, and configure it."""
        routes = [self._take_port() for _ in self.servers]
        monitors = [self._take_port() for _ in self.servers]
        for server, route, monitor in zip(self.servers, routes, monitors, strict=True):
            others = ", ".join(f'"nats://{LOOPBACK}:{other}"' for other in routes if other != route)
            server._configuration.added = (
                f'http: "{LOOPBACK}:{monitor}"\n'
                f'cluster {{ name: "{self.name}", listen: "{LOOPBACK}:{route}", routes: [{others}] }}'
            )
        self._monitors = monitors

    def _take_port(self) -> int:
        port, reserved = reserve(LOOPBACK, 0)
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
        return f"<NATSCluster {self.name!r} of {len(self.servers)}>"


def _stop_by(server: NATSServer, deadline: Deadline) -> None:
    server.stop(deadline.remaining(), discard=True)


def _ask(port: int, path: str, deadline: Deadline) -> dict[str, Any]:
    """Return what the monitoring port of a server answers; an empty dict if it does not."""
    from http import client  # slow to import, and only needed here

    connection = client.HTTPConnection(LOOPBACK, port, timeout=max(RETRY, min(1.0, deadline.remaining())))
    try:
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
    except (OSError, ValueError, client.HTTPException):
        return {}
    finally:
        connection.close()
    return answer if isinstance(answer, dict) else {}
