"""The servers that the cases share."""

import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

from aether_sync import NatsServer

__all__ = ["running"]

_START = 10.0  # seconds


@contextmanager
def running(needs: set[str]) -> Iterator[tuple[str, str]]:
    """Run a NATS server, and a Redis server if it is needed and installed; yields their addresses."""
    with NatsServer(jetstream=False, config="max_pending: 1GB") as nats:  # for slow receivers
        if "redis-server" in needs and shutil.which("redis-server"):
            with _redis() as address:
                yield nats.url, address
        else:
            yield nats.url, ""


@contextmanager
def _redis() -> Iterator[str]:
    with TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
        free.close()
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]  # for slow receivers
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as server:
            try:
                _await_listening(port)
                yield f"redis://127.0.0.1:{port}"
            finally:
                server.terminate()


def _await_listening(port: int) -> None:
    end = monotonic() + _START
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except ConnectionRefusedError:
            if monotonic() > end:
                raise
            sleep(0.01)
        else:
            return
