"""Projecting events into a database: a sum for each actor, by a projection and by eventsourcing's projection runner.

``python -m benchmarks.projecting --events 200000`` measures all four, one after the other, each on events that are
there already. Both write each event's effect and the place in one transaction; ours has many events in one.
"""

import argparse
import os
import sqlite3
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from . import postgres
from .environment import lacking

__all__: list[str] = []

_ACTORS = 1_000
_TABLE = "CREATE TABLE sums (actor VARCHAR(100) PRIMARY KEY, total BIGINT NOT NULL)"
_ADD = "INSERT INTO sums VALUES (?, ?) ON CONFLICT (actor) DO UPDATE SET total = sums.total + excluded.total"


@contextmanager
def _timed(what: str, events: int) -> Iterator[None]:
    began, used = time.perf_counter(), time.process_time()
    yield
    took, used = time.perf_counter() - began, time.process_time() - used
    print(
        f"{what:28} {events / took:10,.0f} events/s {used / events * 1e6:10,.1f} µs of this process's CPU", flush=True
    )


def _connect(port: str) -> Any:
    import psycopg

    return psycopg.connect(f"host=127.0.0.1 port={port} dbname=postgres user={postgres.USER}")


def _check(connection: Any, events: int) -> None:
    with closing(connection):
        found = connection.execute("SELECT sum(total) FROM sums").fetchone()[0]
    if found != events:
        raise SystemExit(f"{found} events took effect, and not {events}")


def _ours(kind: str, port: str, folder: Path, events: int) -> None:
    from aether_sync import DBAPI, Database, Event, JetStreamEventStore, NATSServer, SQLite

    path = folder / "ours.db"
    connect: Callable[[], Any] = (lambda: sqlite3.connect(path)) if kind == "sqlite" else (lambda: _connect(port))
    into: Database = SQLite(path) if kind == "sqlite" else DBAPI(connect)
    add = _ADD if kind == "sqlite" else _ADD.replace("?", "%s")
    with closing(connect()) as connection:
        connection.execute(_TABLE)
        connection.commit()
    with NATSServer() as server, JetStreamEventStore(server.url) as store:
        made = [
            Event(event_type="Paid", actor_id=f"actor-{n % _ACTORS}", version=n // _ACTORS + 1, data={"amount": 1})
            for n in range(events)
        ]
        for begin in range(0, events, 1_000):
            for event in made[begin : begin + 1_000] if begin == 0 else ():
                store.save_event(event)
            if begin:
                store.save_events(made[begin : begin + 1_000])

        def apply(db: Any, stored: Any) -> None:
            db.execute(add, (stored.event.actor_id, stored.event.data["amount"]))

        with _timed(f"aether_sync, {kind}", events), store.project("sums", apply, into=into) as projection:
            projection.wait_for(store.last_sequence(), timeout=None)
        _check(connect(), events)


@cache
def _account() -> Any:
    """Return an aggregate; eventsourcing takes each class of aggregates once."""
    from eventsourcing.domain import Aggregate, event

    class Account(Aggregate):
        class Opened(Aggregate.Created):
            pass

        @event("Opened")
        def __init__(self) -> None:
            self.total = 1

        @event("Paid")
        def pay(self) -> None:
            self.total += 1

    return Account


def _theirs(kind: str, port: str, folder: Path, events: int) -> None:
    from eventsourcing.application import Application
    from eventsourcing.postgres import PostgresTrackingRecorder
    from eventsourcing.projection import Projection, ProjectionRunner
    from eventsourcing.sqlite import SQLiteTrackingRecorder

    path = folder / "theirs.db"
    add = _ADD if kind == "sqlite" else _ADD.replace("?", "%s")
    recorder: Any = SQLiteTrackingRecorder if kind == "sqlite" else PostgresTrackingRecorder

    class View(recorder):
        def add(self, actor: str, tracking: Any) -> None:
            with self.datastore.transaction(commit=True) as cursor:
                self._insert_tracking(cursor, tracking)
                cursor.execute(add, (actor, 1))

    class Sums(Projection[Any]):
        def process_event(self, domain_event: Any, tracking: Any) -> None:
            self.view.add(str(domain_event.originator_id), tracking)

    env = {  # its recorder of events in SQLite has no subscriptions
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": port,
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_USER": postgres.USER,
        "POSTGRES_PASSWORD": "none",
    }
    if kind == "sqlite":
        env |= {"SUMS_PERSISTENCE_MODULE": "eventsourcing.sqlite", "SUMS_SQLITE_DBNAME": str(path)}
    app: Any = Application(env)
    each = max(1, events // _ACTORS)
    last = 0
    for _ in range(events // each):
        account = _account()()
        for _ in range(each - 1):
            account.pay()
        last = app.save(account)[-1].notification.id
    app.close()
    count = events // each * each
    connect: Callable[[], Any] = (lambda: sqlite3.connect(path)) if kind == "sqlite" else (lambda: _connect(port))
    with closing(connect()) as connection:
        connection.execute(_TABLE)
        connection.commit()
    with (
        _timed(f"eventsourcing, {kind}", count),
        ProjectionRunner(application_class=Application, projection_class=Sums, view_class=View, env=env) as runner,
    ):
        runner.wait(last, timeout=36_000)
    _check(connect(), count)


def main() -> None:
    """Measure what is installed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--only", choices=("aether", "eventsourcing"), help="measure one of the two")
    given = parser.parse_args()
    measures = [one for name, one in (("aether", _ours), ("eventsourcing", _theirs)) if given.only in (None, name)]
    print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.0f}")
    for kind in ("sqlite", "postgres"):
        missing = lacking(("eventsourcing", "psycopg", "postgres"))
        if missing:
            raise SystemExit(missing)
        for measure in measures:
            with tempfile.TemporaryDirectory() as folder, postgres.running() as port:
                _await(port)
                measure(kind, port, Path(folder), given.events)


def _await(port: str) -> None:
    """Wait until the server takes connections: it listens before it does."""
    for _ in range(600):
        try:
            _connect(port).close()
        except Exception:
            time.sleep(0.1)
        else:
            return


if __name__ == "__main__":
    main()
