"""Programs that project the events of a store into a database, until they are killed or told to end."""

import os
import sys
import threading
from contextlib import closing
from typing import Any

import psycopg
import sqlalchemy

from aether_sync import DBAPI, Database, InMemoryEventStore, JetStreamEventStore, NATSEventBus, SQLite, StoredEvent
from aether_sync.contrib.sqlalchemy import SQLAlchemy
from aether_sync.stores.projections import projector

from ..support.common import PATIENCE
from ..support.stores import event

#: The statements of the tests, with the mark of SQLite.
LOG = "INSERT INTO applied VALUES (?)"
ADD = (
    "INSERT INTO balances VALUES (?, 1, ?) ON CONFLICT (actor) DO UPDATE SET events = balances.events + 1, "
    "total = balances.total + excluded.total"
)


def database(kind: str, where: str) -> Database:
    if kind == "sqlalchemy":
        return SQLAlchemy(sqlalchemy.create_engine(where))
    return SQLite(where) if kind == "sqlite" else DBAPI(lambda: psycopg.connect(where))


def projects(url: str, stream: str, kind: str, where: str) -> None:
    """Project, and take over quickly, until it is killed or its standard input ends."""
    projector._BEAT, projector._TAKE_OVER, projector._LOOK = 0.1, 0.6, 0.05
    log, add = (sql.replace("?", "%s" if "postgres" in where or kind == "postgres" else "?") for sql in (LOG, ADD))

    def apply(db: Any, stored: StoredEvent) -> None:
        execute = db.exec_driver_sql if kind == "sqlalchemy" else db.execute
        execute(log, (stored.sequence,))
        execute(add, (stored.event.actor_id, (stored.event.data or {})["amount"]))

    with NATSEventBus(url) as bus, JetStreamEventStore(url, stream) as store:
        store.set_broadcaster(bus, stream)
        projection = store.project("crash", apply, into=database(kind, where), batch=50)
        projection.start(timeout=None)
        print("ready", flush=True)
        sys.stdin.read()
        assert projection.close(PATIENCE)


def ends_while_projecting(path: str, how: str) -> None:
    """End with a projection that nobody has closed, in the midst of a batch that takes a while, or for ever."""
    store = InMemoryEventStore()
    begun, never = threading.Event(), threading.Event()

    def apply(db: Any, stored: StoredEvent) -> None:
        begun.set()
        never.wait(0.3 if how == "works" else None)
        db.execute(LOG, (stored.sequence,))

    _fill(store)
    store.project("left", apply, into=SQLite(path)).start()
    begun.wait(PATIENCE)
    print("ends", flush=True)


def _fill(store: Any) -> None:
    store.save_event(event("a", 1, amount=1))


def forks(path: str) -> None:
    """See that the child projects nothing of its parent's, can begin itself, and leaves the parent's connection."""
    with InMemoryEventStore() as store:
        _fill(store)
        projection = store.project("forked", lambda db, stored: db.execute(LOG, (stored.sequence,)), into=SQLite(path))
        projection.start()
        projection.wait_for(1, PATIENCE)
        child = os.fork()
        if not child:
            assert not projection.is_active
            projection.wait_for(1, PATIENCE)  # it asks the database
            assert "not started" in repr(projection)
            projection.start()
            assert not projection.is_active
            assert projection.close(PATIENCE)
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        projection.wait_for(store.save_event(event("a", 2, amount=1)).sequence, PATIENCE)
        assert projection.is_active
        with closing(SQLite(path).connect()) as link:
            assert link.query("SELECT sequence FROM applied ORDER BY sequence") == [(1,), (2,)]
    print("done")
