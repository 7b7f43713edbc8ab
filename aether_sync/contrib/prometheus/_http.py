"""Who answers scrapes: ``metrics_app()`` in a web application, ``start_http_server()`` in any other program."""

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterable
from typing import Any

import prometheus_client
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.multiprocess import MultiProcessCollector

from ..._arguments import check_int, check_text, is_of
from ..._runtime.closing import Closeable
from ..._runtime.registry import WeakRegistry
from ..._values.shown import short
from ...errors import InvalidOptionError
from ._registration import multiprocess_directory

__all__ = ["MetricsServer", "metrics_app", "start_http_server"]

_MOST = 65_535


class MetricsServer(Closeable):
    """Answers scrapes, on a thread that does not keep the program from ending. :func:`start_http_server` makes it.

    Attributes:
        port: The number of its port.
    """

    def __init__(self, server: Any, thread: threading.Thread) -> None:
        self.port: int = server.server_port
        self._server = server
        self._thread = thread
        _servers.add(self)

    def close(self) -> None:
        """Answer no more, and free the port. Any thread may call it, more than once."""
        if self._thread.is_alive():  # in a forked child it is not
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()

    def _let_go(self) -> None:
        """In a forked child, have no port: it belongs to the parent."""
        self._server.socket.close()


def metrics_app(*, registry: CollectorRegistry = REGISTRY) -> Callable[..., Iterable[bytes]]:
    """Return a WSGI application that answers scrapes: what a web application calls for the path ``/metrics``.

    Where several processes share ``PROMETHEUS_MULTIPROC_DIR``, it answers for all of them, in whichever it runs.

    Args:
        registry: Whose metrics. One that you make is shown as it is, also where several processes share a directory.

    Raises:
        InvalidOptionError: The registry is none, or ``PROMETHEUS_MULTIPROC_DIR`` is no directory.
    """
    app: Callable[..., Iterable[bytes]] = prometheus_client.make_wsgi_app(_shown(registry))
    return app


def _shown(registry: CollectorRegistry) -> CollectorRegistry:
    """Return the registry to scrape instead of one."""
    if not is_of(registry, CollectorRegistry):
        raise InvalidOptionError(f"registry must be a CollectorRegistry of prometheus_client, not {short(registry)}")
    directory = multiprocess_directory()
    if directory is not None and registry is REGISTRY:
        registry = CollectorRegistry()
        MultiProcessCollector(registry, str(directory))
    return registry


_servers: WeakRegistry[MetricsServer] = WeakRegistry()


def start_http_server(port: int, *, address: str = "0.0.0.0", registry: CollectorRegistry = REGISTRY) -> MetricsServer:
    """Answer scrapes at a port of its own: for a program that is no web server.

    Where several processes share ``PROMETHEUS_MULTIPROC_DIR``, it answers for all of them; one of them calls this.

    Args:
        port: The number; 0 takes one that is free, which ``port`` of the result names.
        address: Where to listen: ``"0.0.0.0"`` is all addresses of the machine, so that Prometheus reaches it from
            another one; ``"127.0.0.1"`` is only the machine itself.
        registry: Whose metrics. One that you make is shown as it is, also where several processes share a directory.

    Returns:
        The server; close it, or use it in a ``with`` statement, if it is to end before the program does.

    Raises:
        InvalidOptionError: The port is taken, or cannot be used; the error says what to do.
    """
    port = check_int("port", port, 0, _MOST)
    address = check_text("address", address) or ""
    registry = _shown(registry)
    try:
        server, thread = prometheus_client.start_http_server(port, address, registry)
    except OSError as error:
        raise InvalidOptionError(_explained(port, address, error)) from error
    thread.name = f"metrics-{server.server_port}"
    return MetricsServer(server, thread)


def _explained(port: int, address: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return (
            f"port {port} of {address} is taken, by another program or another process of this one: choose another "
            f"port, or end that program ('ss -ltnp sport = :{port}' shows it)"
        )
    if error.errno == errno.EACCES:
        return f"this user may not listen at port {port}: choose one of 1024 or more"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return f"{short(address)} is no address of this machine: leave address out for all of them"
    return f"nothing can listen at port {port} of {address}: {error}"


def _let_go() -> None:
    for server in _servers:
        server._let_go()


os.register_at_fork(after_in_child=_let_go)
