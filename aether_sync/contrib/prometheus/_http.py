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
from ..._values.shown import explained, short
from ...errors import InvalidOptionError
from ._registration import fault_of, multiprocess_directory

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

    Where several processes share ``PROMETHEUS_MULTIPROC_DIR``, it answers for all of them, in whichever it runs. While
    that cannot be read, or this process cannot write what it has itself, it answers 503 with the reason, so that
    Prometheus does not take the target for a healthy one.

    Args:
        registry: Whose metrics. One that you make is shown as it is, also where several processes share a directory.

    Raises:
        InvalidOptionError: The registry is none, or ``PROMETHEUS_MULTIPROC_DIR`` is no directory, or one that this user
            may not read.
    """
    if not is_of(registry, CollectorRegistry):
        raise InvalidOptionError(f"registry must be a CollectorRegistry of prometheus_client, not {short(registry)}")
    directory = multiprocess_directory(to="read")
    if directory is None or registry is not REGISTRY:
        return _app_of(registry)
    shared = CollectorRegistry()
    MultiProcessCollector(shared, str(directory))
    app = _app_of(shared)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        try:
            fault = fault_of(directory)
            if fault is None:
                return app(environ, start_response)  # which reads all files before it begins to answer
        except OSError as error:
            fault = explained(error)
        start_response("503 Service Unavailable", [("Content-Type", "text/plain; charset=utf-8")])
        return [f"the metrics of PROMETHEUS_MULTIPROC_DIR, {directory}, cannot be shown: {fault}\n".encode()]

    return answer


def _app_of(registry: CollectorRegistry) -> Callable[..., Iterable[bytes]]:
    made: Callable[..., Iterable[bytes]] = prometheus_client.make_wsgi_app(registry)
    return made


_servers: WeakRegistry[MetricsServer] = WeakRegistry()


def start_http_server(port: int, *, address: str = "0.0.0.0", registry: CollectorRegistry = REGISTRY) -> MetricsServer:
    """Answer scrapes at a port of its own: for a program that is no web server.

    Where several processes share ``PROMETHEUS_MULTIPROC_DIR``, it answers for all of them; one of them calls this. It
    answers what :func:`metrics_app` does.

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
    app = metrics_app(registry=registry)
    try:
        server, thread = prometheus_client.start_http_server(port, address, registry)
    except OSError as error:
        raise InvalidOptionError(_explained(port, address, error)) from error
    server.set_app(app)
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
