"""What tests of local servers share: processes, what they say, and programs that start a server."""

import asyncio
import json
import os
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nats
from nats.js.api import StreamConfig
from nats.js.errors import NoStreamResponseError, NotFoundError, ServiceUnavailableError

from aether_sync import NATSServer

from .common import PATIENCE

ROOT = Path(__file__).parents[2]


def parent_of(pid: int) -> int:
    """Return the parent's pid; 0 if there is no such process."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def children(of: int | None = None) -> set[int]:
    pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
    return {pid for pid in pids if parent_of(pid) == (of or os.getpid())}


def is_alive(pid: int) -> bool:
    """Whether there is such a process that is no zombie."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def greeting(server: NATSServer, timeout: float = PATIENCE) -> dict[str, object]:
    """Return what the server says first."""
    with socket.create_connection(("127.0.0.1", server.port), timeout) as sock, sock.makefile("rb") as lines:
        return dict(json.loads(lines.readline().removeprefix(b"INFO ")))


def store_one(server: NATSServer, replicas: int = 1) -> None:
    """Put a message into a stream of the server, or of its cluster."""

    async def store() -> None:
        client = await nats.connect(server.url)
        try:
            jetstream = client.jetstream()
            await jetstream.add_stream(StreamConfig(name="S", subjects=["s"], num_replicas=replicas))
            end = time.monotonic() + PATIENCE
            while True:
                try:
                    await jetstream.publish("s", b"kept")
                except NoStreamResponseError:  # other servers of a cluster learn a moment later that there is a stream
                    assert time.monotonic() < end
                    await asyncio.sleep(0.05)
                else:
                    break
        finally:
            await client.close()

    asyncio.run(store())


def count_stored(server: NATSServer) -> int | None:
    """Return how many messages the stream has; None if there is no stream, -1 if nobody knows yet."""

    async def count() -> int | None:
        client = await nats.connect(server.url)
        try:
            return (await client.jetstream(timeout=1).stream_info("S")).state.messages
        except NotFoundError:
            return None
        except (nats.errors.TimeoutError, ServiceUnavailableError):
            return -1
        finally:
            await client.close()

    return asyncio.run(count())


@contextmanager
def script(text: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python process that runs this; killed at the end."""
    start = """
        import gc, json, multiprocessing, os, signal, sys, threading, time
        from aether_sync.server import watcher
        from aether_sync.errors import ServerError
        from aether_sync import NATSServer
        if "TEST_WATCHER" in os.environ:
            watcher.__file__ = os.environ["TEST_WATCHER"]
        def tell(server, **more):
            more |= {"pid": server.pid, "port": server.port, "directory": str(server.log_path.parent)}
            print(json.dumps(more), flush=True)
    """
    code = textwrap.dedent(start) + textwrap.dedent(text)
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def told(process: subprocess.Popen[str]) -> dict[str, object]:
    assert process.stdout
    line = process.stdout.readline()
    assert line, process.communicate()[1]
    return dict(json.loads(line))


def command_lines() -> list[str]:
    lines = []
    for entry in os.listdir("/proc"):
        with suppress(OSError):
            lines.append(Path(f"/proc/{entry}/cmdline").read_text(errors="replace"))
    return lines
