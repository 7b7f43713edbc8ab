"""Databases with an outbox, each by the layer that a program would use, and a table of what was really committed.

Whoever builds an outbox for another layer adds a place here, and gets all tests of this folder, and ``crashing``.
"""

import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import sqlalchemy
from sqlalchemy import Column, Integer, MetaData, String, Table, create_engine, func, insert, select
from sqlalchemy.orm import Session

from aether_sync import ANY_VERSION, Event, EventBus, EventStore
from aether_sync.contrib.sqlalchemy import Outbox
from aether_sync.outbox import OutboxRow, Relay
from benchmarks import postgres


class Written(NamedTuple):
    """What was committed: a row of the table ``truth``."""

    kind: str
    name: str
    event_id: str
    writer: str


class Step(NamedTuple):
    """One call of an outbox.

    ``is_strict`` says that the actor has to be at the version that the database knows: as many of its events as
    ``truth`` has.
    """

    kind: str
    name: str
    event: Event
    is_strict: bool = False


@dataclass
class Place(ABC):
    """A database with an outbox; it travels to other processes.

    Attributes:
        url: Where it is.
    """

    url: str

    @abstractmethod
    def make_tables(self) -> None:
        """Make the tables of the outbox, and ``truth``."""

    @abstractmethod
    def write(self, steps: Sequence[Step], writer: str, *, commits: bool = True) -> None:
        """Do this in one transaction, with a row of ``truth`` for each step; then commit or roll back."""

    @abstractmethod
    def relay(self, store: EventStore | None, bus: EventBus | None, **options: Any) -> Relay:
        """Make a relay."""

    @abstractmethod
    def truth(self, after: int = 0) -> list[tuple[int, Written]]:
        """Return the rows of ``truth`` with greater ids, in the order of these."""

    @abstractmethod
    def waiting(self) -> int:
        """Return how many rows the outbox has."""


class SQLAlchemyPlace(Place):
    """An outbox by SQLAlchemy."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self._open()

    def _open(self) -> None:
        self.engine = create_engine(self.url)
        self.metadata = MetaData()
        self.outbox = Outbox(self.metadata)
        self.table = Table(
            "truth",
            self.metadata,
            Column("id", Integer, primary_key=True, autoincrement=True),
            *(Column(name, String(200)) for name in Written._fields),
        )

    def __getstate__(self) -> str:
        return self.url

    def __setstate__(self, url: str) -> None:
        self.url = url
        self._open()

    def make_tables(self) -> None:
        self.metadata.create_all(self.engine)

    def write(self, steps: Sequence[Step], writer: str, *, commits: bool = True) -> None:
        with Session(self.engine) as session:
            for kind, name, event, is_strict in steps:
                if kind == "publish":
                    self.outbox.publish(session, name, event)
                else:
                    expected: Any = ANY_VERSION
                    if is_strict:
                        columns = self.table.c
                        there = select(func.count()).where(columns.kind == kind, columns.name == name)
                        expected = session.execute(there).scalar_one()
                    self.outbox.append(session, name, event, expected_version=expected)
                session.execute(insert(self.table), Written(kind, name, event.id, writer)._asdict())
            if commits:
                session.commit()
            else:
                session.rollback()

    def relay(self, store: EventStore | None, bus: EventBus | None, **options: Any) -> Relay:
        return self.outbox.relay(self.engine, store=store, bus=bus, **options)

    def truth(self, after: int = 0) -> list[tuple[int, Written]]:
        with self.engine.connect() as connection:
            rows = connection.execute(select(self.table).where(self.table.c.id > after).order_by(self.table.c.id))
            return [(id_, Written(*rest)) for id_, *rest in rows]

    def rows(self) -> list[OutboxRow]:
        """Return the rows of the outbox, in order."""
        table = self.outbox.on(self.engine).connect()
        try:
            kinds = select(self.outbox.table.c.id).order_by(self.outbox.table.c.id)
            with self.engine.connect() as connection:
                return sorted(table.take(connection.execute(kinds).scalars().all()), key=lambda row: row.id)
        finally:
            table.close()

    def waiting(self) -> int:
        with self.engine.connect() as connection:
            return int(connection.execute(select(func.count()).select_from(self.outbox.table)).scalar_one())


def sqlite_place(folder: Path) -> SQLAlchemyPlace:
    """Return a new database of SQLite, in write-ahead logging mode, as every program with two writers wants it."""
    place = SQLAlchemyPlace(f"sqlite:///{folder / 'shop.db'}")
    with place.engine.connect() as connection:
        connection.execute(sqlalchemy.text("PRAGMA journal_mode = WAL"))
    place.make_tables()
    return place


def postgres_place(port: str) -> SQLAlchemyPlace:
    """Return a new schema of PostgreSQL."""
    schema = f"t{uuid.uuid4().hex[:12]}"
    with closing(psycopg.connect(f"host=127.0.0.1 port={port} dbname=postgres user={postgres.USER}")) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        connection.commit()
    url = f"postgresql+psycopg://{postgres.USER}@127.0.0.1:{port}/postgres?options=-csearch_path={schema}"
    place = SQLAlchemyPlace(url)
    place.make_tables()
    return place
