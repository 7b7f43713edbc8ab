"""Waiting for a projection that runs in another process: with a bus, which tells it, and without one, by questions.

``python -m benchmarks.waiting`` saves events one by one, and after each waits until it is in a table.
"""

import argparse
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

__all__: list[str] = []


def _projection(stack: ExitStack, url: str, path: str, with_bus: bool, asked: list[float]) -> Any:
    """Return the store and the projection of a process; ``asked`` gets an item for each question to the database."""
    from aether_sync import JetStreamEventStore, NATSEventBus, SQLite

    class Counted(SQLite):
        def connect(self) -> Any:
            link = super().connect()
            query = link.query

            def counted(*args: Any) -> Any:
                asked.append(time.monotonic())
                return query(*args)

            link.query = counted  # type: ignore[method-assign]
            return link

    bus = stack.enter_context(NATSEventBus(url)) if with_bus else None
    store = stack.enter_context(JetStreamEventStore(url, namespace="shop", bus=bus))

    def apply(db: Any, stored: Any) -> None:
        db.execute("INSERT INTO seen VALUES (?)", (stored.sequence,))

    return store, store.project("seen", apply, into=Counted(path))


def _project(url: str, path: str, with_bus: bool) -> None:
    with ExitStack() as stack:
        _, projection = _projection(stack, url, path, with_bus, [])
        stack.enter_context(projection)
        print("ready", flush=True)
        sys.stdin.read()


def _wait(url: str, path: str, with_bus: bool, count: int) -> None:
    from aether_sync import ANY_VERSION, Event

    asked: list[float] = []
    with ExitStack() as stack:
        store, projection = _projection(stack, url, path, with_bus, asked)

        def once() -> float:
            event = Event(event_type="Paid", actor_id="account-1", data={"cents": 500})
            (stored,) = store.append("account-1", event, expected_version=ANY_VERSION)
            began = time.perf_counter()
            projection.wait_for(stored.sequence)
            return time.perf_counter() - began

        for _ in range(20):
            once()
        asked.clear()
        used = time.process_time()
        took = sorted(once() for _ in range(count))
        used = time.process_time() - used
    what = "with a bus" if with_bus else "without"
    print(
        f"{what:12} {statistics.median(took) * 1e3:6.1f} ms in the middle, {took[len(took) * 99 // 100] * 1e3:6.1f} ms "
        f"for 99 of 100, {used / count * 1e3:5.2f} ms of CPU with the save, {len(asked) / count:5.2f} questions",
        flush=True,
    )


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--waits", type=int, default=500, help="how many events")
    parser.add_argument("--project", nargs=3, metavar=("URL", "PATH", "BUS"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.project:
        url, path, with_bus = chosen.project
        _project(url, path, bool(int(with_bus)))
        return
    from aether_sync import NATSServer

    for with_bus in True, False:
        with tempfile.TemporaryDirectory() as folder, NATSServer() as server:
            path = str(Path(folder) / "read.db")
            with closing(sqlite3.connect(path)) as database:
                database.execute("CREATE TABLE seen (sequence INTEGER)")
            command = [sys.executable, "-m", __spec__.name, "--project", server.url, path, str(int(with_bus))]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
                assert other.stdin is not None
                assert other.stdout is not None
                other.stdout.readline()
                try:
                    _wait(server.url, path, with_bus, chosen.waits)
                finally:
                    other.stdin.close()


if __name__ == "__main__":
    _main()
