"""Databases that tests project into, each with the same tables, and what is written there."""

import os
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from aether_sync import DBAPI, Database, SQLite, StoredEvent
from benchmarks import postgres
from benchmarks.environment import lacking

from .common import eventually

TABLES = (
    "CREATE TABLE applied (sequence BIGINT NOT NULL)",  # without a key: an event that is applied twice is there twice
    "CREATE TABLE balances (actor VARCHAR(200) PRIMARY KEY, events BIGINT NOT NULL, total BIGINT NOT NULL)",
)


class Place:
    """A database that a test projects into.

    Attributes:
        mark: How its driver marks a value.
    """

    mark = "?"

    def make(self) -> Database:
        """Return it, as a projection takes it."""
        raise NotImplementedError

    def connect(self) -> Any:
        """Open a connection of the test's own, which commits by itself."""
        raise NotImplementedError

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        with closing(self.connect()) as connection:
            cursor = connection.execute(sql.replace("?", self.mark), values)
            return [] if cursor.description is None else cursor.fetchall()

    def apply(self, db: Any, stored: StoredEvent) -> None:
        """Write an event into both tables."""
        amount = (stored.event.data or {}).get("amount", 1)
        db.execute(f"INSERT INTO applied VALUES ({self.mark})", (stored.sequence,))
        db.execute(
            f"INSERT INTO balances VALUES ({self.mark}, 1, {self.mark}) ON CONFLICT (actor) DO UPDATE SET "
            "events = balances.events + 1, total = balances.total + excluded.total",
            (stored.event.actor_id, amount),
        )

    @property
    def applied(self) -> list[int]:
        """The sequences of the events that took effect, in order."""
        return [sequence for (sequence,) in self.query("SELECT sequence FROM applied ORDER BY sequence")]

    @property
    def balances(self) -> dict[str, tuple[int, int]]:
        return {actor: (events, total) for actor, events, total in self.query("SELECT * FROM balances")}


class SQLitePlace(Place):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "read.db"
        for table in TABLES:
            self.query(table)

    def make(self) -> Database:
        return SQLite(self.path)

    def connect(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=20.0, isolation_level=None)


class PostgresPlace(Place):
    """A schema of its own."""

    mark = "%s"

    def __init__(self, port: str) -> None:
        self.schema = f"t{uuid.uuid4().hex[:12]}"
        self.conninfo = f"host=127.0.0.1 port={port} dbname=postgres user={postgres.USER}"
        with closing(psycopg.connect(self.conninfo, autocommit=True)) as connection:
            connection.execute(f"CREATE SCHEMA {self.schema}")
        self.conninfo += f" options='-c search_path={self.schema}'"
        for table in TABLES:
            self.query(table)

    def make(self) -> Database:
        return DBAPI(lambda: psycopg.connect(self.conninfo))

    def connect(self) -> Any:
        return psycopg.connect(self.conninfo, autocommit=True)


@contextmanager
def running_postgres() -> Iterator[str]:
    """Run a PostgreSQL server; yields its port. Where it is not installed the test is skipped, but in CI it fails."""
    missing = lacking(("psycopg", "postgres"))
    if missing is not None:
        assert os.environ.get("AETHER_TEST_POSTGRES") != "required", missing
        pytest.skip(missing)
    with postgres.running() as port:
        eventually(lambda: _is_ready(port), "the start of PostgreSQL")
        yield port


def _is_ready(port: str) -> bool:
    """Whether it accepts connections: it listens before it does."""
    try:
        psycopg.connect(f"host=127.0.0.1 port={port} dbname=postgres user={postgres.USER}").close()
    except psycopg.OperationalError:
        return False
    return True
