"""The port of the supervisor that answers scrapes, for all processes. Needs the extra ``prometheus``."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from prometheus_client.multiprocess import mark_process_dead

from ...contrib.prometheus import start_http_server
from ...errors import InvalidOptionError
from .ports import Address, PortError

__all__ = ["answering_scrapes", "forget_process"]

_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"


@contextmanager
def answering_scrapes(address: Address) -> Iterator[int]:
    """Answer scrapes with what all processes write into a directory, and yield the port.

    Raises:
        PortError: The port, or the directory that the environment names, cannot be used.
    """
    folder = None
    if not os.environ.get(_DIRECTORY):
        folder = os.environ[_DIRECTORY] = tempfile.mkdtemp(prefix="aether-sync-metrics-")
    try:
        try:
            server = start_http_server(address.port, address=address.host)
        except InvalidOptionError as error:
            raise PortError(f"--metrics-port: {error}") from error
        with server:
            yield server.port
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)


def forget_process(pid: int) -> None:
    """Remove the gauges of the user's own that a process which has ended has left."""
    mark_process_dead(pid)
