"""The port of the supervisor that answers probes, for all processes."""

import errno
import socketserver
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from ..._runtime.threads import make_thread, start
from ...health import health_app
from .process import Process

__all__ = ["Address", "PortError", "answering_probes"]


_Application = Callable[[dict[str, Any], Callable[..., object]], Iterable[bytes]]


class PortError(Exception):
    """A port cannot be used."""


class Address(NamedTuple):
    """Where to listen."""

    host: str
    port: int


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def server_bind(self) -> None:
        """Bind without a question to a name server, which may take its time."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]
        self.setup_environ()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has gone."""


class _Handler(WSGIRequestHandler):
    timeout = 5  # seconds for a request to come

    def log_message(self, *args: object) -> None:
        """Say nothing of requests."""


@contextmanager
def answering_probes(address: Address, processes: list[Process]) -> Iterator[int]:
    """Answer probes with the health of all processes, and yield the port.

    Raises:
        PortError: The port cannot be used.
    """
    try:
        server = _Server(address, _Handler)
    except OSError as error:
        raise PortError(f"--health-port: {_explained(address, error)}") from error
    with server:
        server.set_app(_only_probes(health_app(*processes)))
        start(make_thread(server.serve_forever, name=f"health-{server.server_port}"))
        try:
            yield server.server_port
        finally:
            server.shutdown()


def _only_probes(probes: _Application) -> _Application:
    """Return an application that answers at the paths of probes alone."""

    def application(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        if environ["PATH_INFO"] in ("/healthz", "/livez"):
            return probes(environ, start_response)
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [b"There are /healthz and /livez.\n"]

    return application


def _explained(address: Address, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {address.port} of {address.host} is taken by another program: choose another one"
    if error.errno == errno.EACCES:
        return f"this user may not listen at port {address.port}: choose one of 1024 or more"
    return f"nothing can listen at port {address.port} of {address.host}: {error}"
