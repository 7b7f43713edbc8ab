"""The servers that the cases share."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from aether_sync import NATSServer
from aether_sync.server.cluster import NATSCluster

from . import postgres
from .cases import Servers, Stores
from .environment import find_program
from .listening import await_listening, held_port

__all__ = ["running"]

_SYNCED = "jetstream { sync_interval: always }"


@contextmanager
def running(needs: set[str], places: set[str]) -> Iterator[Servers]:
    """Run a NATS server, and besides it what is needed and installed."""
    with ExitStack() as stack:
        nats = stack.enter_context(NATSServer(jetstream=False, config="max_pending: 1GB"))  # for slow receivers
        redis = ""
        if "redis-server" in needs and shutil.which("redis-server"):
            redis = stack.enter_context(_redis())
        yield Servers(nats.url, redis, _stores(stack, needs, places))


def _stores(stack: ExitStack, needs: set[str], places: set[str]) -> Stores:
    streams: dict[str, dict[str, str]] = {}
    for place, config in (("r1", ""), ("synced", _SYNCED)):
        if place in places:
            server = stack.enter_context(NATSServer(config=config))
            streams[place] = {server.name: server.url}
    if "r3" in places:
        cluster = stack.enter_context(NATSCluster(3))
        streams["r3"] = {server.name: server.url for server in cluster.servers}
    port = ""
    if "postgres" in needs and find_program("postgres"):
        with suppress(OSError, LookupError, subprocess.SubprocessError):  # whose cases then say so
            port = stack.enter_context(postgres.running())
    return Stores(streams, port, stack.enter_context(TemporaryDirectory()))


@contextmanager
def _redis() -> Iterator[str]:
    with TemporaryDirectory() as folder, held_port() as port:
        command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--client-output-buffer-limit", "pubsub", "0", "0", "0"]  # for slow receivers
        with (Path(folder) / "log").open("wb") as log, subprocess.Popen(command, stdout=log) as server:
            try:
                await_listening(port)
                yield f"redis://127.0.0.1:{port}"
            finally:
                server.terminate()
