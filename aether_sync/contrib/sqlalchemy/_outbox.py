"""``Outbox``: events are written in the transaction of a ``Session``, and sent by a relay after its commit."""

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    bindparam,
    delete,
    event,
    func,
    insert,
    inspect,
    not_,
    select,
    update,
)
from sqlalchemy.exc import InvalidRequestError, OperationalError, ProgrammingError
from sqlalchemy.orm import Session, scoped_session

from ..._arguments import is_of
from ..._values.clock import Datetime
from ..._values.shown import short
from ...bus import EventBus
from ...errors import InvalidOptionError, OutboxError
from ...event_types import EventTypes
from ...events import Event
from ...outbox.database import OutboxCounts, OutboxDatabase, OutboxTable
from ...outbox.relay import Relay, wake_relays
from ...outbox.rows import APPEND, LONGEST_NAME, Key, Kind, NewRow, OutboxRow, kind_of, row_to_append, row_to_publish
from ...outbox.turns import turn_file_beside
from ...stores.base import ANY_VERSION, AnyVersion
from ...stores.event_store import EventStore
from ._database import SQLAlchemy

__all__ = ["Outbox"]

_LOCKING = ("postgresql", "mysql", "mariadb")  # dialects of databases that have FOR UPDATE SKIP LOCKED
_LONG = 2**32 - 1  # characters: MySQL makes a LONGTEXT of it
_ID = BigInteger().with_variant(Integer, "sqlite")  # which numbers by itself only what is an INTEGER there
_AUTOCOMMIT = "AUTOCOMMIT"


class Outbox:
    """The outbox of an application: a table in its database, with the events that a relay is to send.

    :meth:`append` and :meth:`publish` write within the transaction of a ``Session`` or ``Connection``. What that
    commits is sent; what it rolls back was never there. :meth:`relay` makes the relay that sends.

    The table is in ``metadata``: ``create_all()`` makes it, and Alembic sees it. Tested with SQLite and PostgreSQL
    (psycopg). A relay also works with MySQL 8 and MariaDB 10.6, by their documentation.

    Args:
        metadata: Where the table is to be: that of your declarative base, or a ``MetaData`` of your own.
        name: The name of the table.
        schema: Its schema; None for the default.
        types: The classes of your events, if :meth:`append` is to take objects of them.

    Raises:
        InvalidOptionError: ``metadata`` is none, or has a table of that name.

    Attributes:
        table: The table.
    """

    def __init__(
        self,
        metadata: MetaData,
        *,
        name: str = "aether_outbox",
        schema: str | None = None,
        types: EventTypes | None = None,
    ) -> None:
        if not is_of(metadata, MetaData):
            raise InvalidOptionError(
                f"an Outbox takes a sqlalchemy.MetaData, such as Base.metadata, not {short(metadata)}"
            )
        if types is not None and not is_of(types, EventTypes):
            raise InvalidOptionError(f"types must be EventTypes(), not {short(types)}")
        try:
            self.table = _table(metadata, name, schema)
        except InvalidRequestError as error:
            raise InvalidOptionError(
                f"the metadata has a table {short(name)} already: make one Outbox, or give another name"
            ) from error
        self._types = types

    # -- writing

    def append(
        self,
        session: "Session | scoped_session[Any] | Connection",
        actor_id: str,
        *events: object,
        expected_version: int | AnyVersion = ANY_VERSION,
    ) -> tuple[Event, ...]:
        """Write an actor's next events, to be stored after the commit: together, and exactly once.

        The events of one actor are stored in the order of these calls, as far as their transactions did not run at the
        same time. What is wrong with an event is an error here.

        Args:
            session: Whose transaction it is: it begins one if there is none, as every statement does.
            actor_id: The actor.
            *events: The events, without versions; also objects of registered classes, if the outbox has ``types``.
            expected_version: The version that the actor must have when they are stored; ``NO_EVENTS`` (0) if it must
                have none; by default whatever it has. If it has another one, the row is set aside: see
                ``Relay.set_aside()``. The commit has long been done then, so do not decide on it.

        Returns:
            The events as they are to be stored, without their versions.

        Raises:
            OutboxError: There is no transaction, as the connection commits each statement by itself; or there is no
                table.
            InvalidEventError: An event is none, has a version, or another actor.
            EncodingError: The data of an event cannot be written as JSON.
            InvalidOptionError: Another argument is wrong.
        """
        row, made = row_to_append(actor_id, events, expected_version, self._types)
        self._write(session, row)
        return made

    def publish(
        self, session: "Session | scoped_session[Any] | Connection", namespace: str, *events: Event
    ) -> tuple[Event, ...]:
        """Write events that are to be published after the commit: each at least once, in the order of these calls.

        Args:
            session: As for :meth:`append`.
            namespace: Where they are published.
            *events: The events.

        Returns:
            The events as they are to be published.

        Raises:
            InvalidNamespaceError: The namespace is none, or has a wildcard. Also the errors of :meth:`append`.
        """
        row, made = row_to_publish(namespace, events, self._types)
        self._write(session, row)
        return made

    def _write(self, session: Any, row: NewRow) -> None:
        if is_of(session, scoped_session):
            session = session()
        if is_of(session, Session):
            connection = session.connection(bind_arguments={"clause": insert(self.table)})
        elif is_of(session, Connection):
            connection = session
        else:
            raise InvalidOptionError(
                f"an outbox writes in the transaction of a Session or Connection, not of {short(session)}; of an "
                "AsyncSession: await session.run_sync(lambda session: outbox.append(session, ...))"
            )
        if _commits_by_itself(connection):
            raise OutboxError(
                "an outbox wants a transaction, and this connection commits each statement by itself (AUTOCOMMIT): the "
                "event would be sent whatever becomes of the rest. Take an engine or connection without it"
            )
        try:
            connection.execute(insert(self.table), _values_of(row))
        except (ProgrammingError, OperationalError) as error:
            missing = self._whats_missing(connection)
            if missing:
                raise OutboxError(missing) from error
            raise
        if is_of(session, Session) and not event.contains(session, "after_commit", _woken):
            event.listen(session, "after_commit", _woken)

    def _whats_missing(self, connection: Connection) -> str:
        """Say what is wrong with the table; a connection of its own is asked, as the transaction may be lost."""
        with suppress(Exception), connection.engine.connect() as other:
            return _whats_missing(self.table, other)
        return ""

    # -- sending

    def on(self, engine: Engine) -> OutboxDatabase:
        """Return the outbox in a database, as ``Relay`` takes it.

        Args:
            engine: The engine of the database. A relay keeps one connection of its pool while it runs.

        Raises:
            InvalidOptionError: It is none, or one of asyncio; or of a database that a relay does not know.
        """
        return _SQLAlchemyOutbox(engine, self.table)

    def relay(
        self,
        engine: Engine,
        *,
        store: EventStore | None = None,
        bus: EventBus | None = None,
        poll: float = 0.25,
        batch: int = 500,
    ) -> Relay:
        """Return a relay: ``Relay(outbox.on(engine), ...)``. Then start it, or run it.

        Args and errors are those of ``Relay`` and :meth:`on`.
        """
        return Relay(self.on(engine), store=store, bus=bus, poll=poll, batch=batch)

    def __repr__(self) -> str:
        return f"<Outbox {self.table.fullname}>"


def _table(metadata: MetaData, name: str, schema: str | None) -> Table:
    table = Table(
        name,
        metadata,
        Column("id", _ID, primary_key=True, autoincrement=True),
        Column("kind", String(8), nullable=False),
        Column("name", String(LONGEST_NAME), nullable=False),
        Column("events", Text(_LONG).with_variant(Text(), "sqlite", "postgresql"), nullable=False),
        Column("count", Integer, nullable=False),
        Column("expected_version", BigInteger),
        Column("version", BigInteger),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("error", Text, nullable=False),
        Column("set_aside_at", DateTime(timezone=True)),
        schema=schema,
        sqlite_autoincrement=True,  # a number is never used again, so nobody deletes another row than it has sent
        mysql_charset="utf8mb4",
        mysql_collate="utf8mb4_bin",
    )
    aside = table.c.set_aside_at.is_not(None)
    Index(f"ix_{name}_set_aside", table.c.name, postgresql_where=aside, sqlite_where=aside)
    return table


def _values_of(row: NewRow) -> dict[str, Any]:
    return {
        "kind": row.kind,
        "name": row.name,
        "events": row.events,
        "count": row.count,
        "expected_version": row.expected_version,
        "version": row.version,
        "created_at": row.created_at,
        "error": "",
    }


def _woken(session: Session) -> None:
    """Have the relays of this process look, after each commit of a session that has written into an outbox."""
    wake_relays()


def _commits_by_itself(connection: Connection) -> bool:
    driven: Any = connection.connection.dbapi_connection
    if connection.get_execution_options().get("isolation_level") == _AUTOCOMMIT:
        return True
    if is_of(driven, sqlite3.Connection):  # one that the driver begins no transaction in, nor has anybody else
        return driven.isolation_level is None and not driven.in_transaction
    return getattr(driven, "autocommit", False) is True


def _whats_missing(table: Table, connection: Connection) -> str:
    """Say what is wrong with the table of an outbox; "" if nothing is."""
    found = inspect(connection)
    database = connection.engine.url.render_as_string(hide_password=True)
    if not found.has_table(table.name, schema=table.schema):
        return (
            f"the outbox has no table {table.fullname!r} in {database}: make it by metadata.create_all(engine), or by "
            "a migration: alembic revision --autogenerate, then alembic upgrade head"
        )
    there = {column["name"] for column in found.get_columns(table.name, schema=table.schema)}
    lacking = [column.name for column in table.columns if column.name not in there]
    if lacking:
        return (
            f"the table {table.fullname!r} in {database} lacks {', '.join(lacking)}: another release has made it. Add "
            "it by a migration: alembic revision --autogenerate, then alembic upgrade head"
        )
    return ""


class _SQLAlchemyOutbox(OutboxDatabase):
    """The table of an outbox in the database of an engine."""

    def __init__(self, engine: Engine, table: Table) -> None:
        self._passing = SQLAlchemy(engine)  # which refuses engines that do not fit, and knows the errors that pass
        if engine.dialect.name not in ("sqlite", *_LOCKING):
            raise InvalidOptionError(
                f"a relay knows SQLite, PostgreSQL, MySQL and MariaDB, and not {engine.dialect.name}: it needs FOR "
                "UPDATE SKIP LOCKED, which must be tested there"
            )
        self._engine, self._table = engine, table

    def connect(self) -> OutboxTable:
        engine = self._engine
        if engine.dialect.name == "sqlite":
            return _SQLiteOutboxTable(engine.connect(), self._table)
        return _LockingOutboxTable(engine.connect(), self._table)

    def is_passing(self, error: Exception) -> bool:
        return self._passing.is_passing(error)

    def __str__(self) -> str:
        return f"outbox {self._table.fullname} in {self._engine.url.render_as_string(hide_password=True)}"


class _SQLAlchemyOutboxTable(OutboxTable):
    """The table of an outbox through a connection of SQLAlchemy.

    Args:
        connection: The connection.
        table: The table.
    """

    def __init__(self, connection: Connection, table: Table) -> None:
        self._connection = connection
        self._table = table
        columns = table.c
        self._waits = columns.set_aside_at.is_(None)
        aside = select(columns.name).where(columns.kind == APPEND, columns.set_aside_at.is_not(None))
        self._may_go = and_(self._waits, not_(and_(columns.kind == APPEND, columns.name.in_(aside))))
        self._row = columns.id == bindparam("row")

    def check(self) -> None:
        with self._reading() as connection:
            missing = _whats_missing(self._table, connection)
        if missing:
            raise OutboxError(missing)

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        """Yield the connection; a transaction that a question begins ends with it."""
        connection = self._connection
        is_inside = connection.in_transaction()
        try:
            yield connection
        finally:
            if not is_inside:
                connection.rollback()

    def waiting(self, limit: int, kinds: Collection[Kind]) -> Sequence[tuple[int, Key]]:
        columns = self._table.c
        wanted = select(columns.id, columns.kind, columns.name).where(columns.kind.in_(kinds), self._may_go)
        with self._reading() as connection:
            found = connection.execute(wanted.order_by(columns.id).limit(limit)).all()
        return [(id_, Key(kind_of(kind), name)) for id_, kind, name in found]

    def take(self, ids: Collection[int]) -> Sequence[OutboxRow]:
        wanted = select(self._table).where(self._table.c.id.in_(ids), self._waits)
        if self.locks_rows:
            wanted = wanted.with_for_update(skip_locked=True)
        with self._reading() as connection:
            return [OutboxRow.of(one, _in_utc) for one in connection.execute(wanted)]

    def plan(self, versions: Mapping[int, int]) -> None:
        self._connection.execute(
            update(self._table).where(self._row).values(version=bindparam("planned")),
            [{"row": id_, "planned": version} for id_, version in versions.items()],
        )

    def remove(self, ids: Collection[int]) -> None:
        self._connection.execute(delete(self._table).where(self._table.c.id.in_(ids)))

    def set_aside(self, errors: Mapping[int, str], at: Datetime) -> None:
        self._connection.execute(
            update(self._table).where(self._row).values(error=bindparam("why"), set_aside_at=at),
            [{"row": id_, "why": error} for id_, error in errors.items()],
        )

    def counts(self, kinds: Collection[Kind]) -> OutboxCounts:
        columns = self._table.c
        rows, ours = select(func.count(), func.min(columns.created_at)), columns.kind.in_(kinds)
        with self._reading() as connection:
            waiting, oldest = connection.execute(rows.where(ours, self._waits)).one()
            aside, _ = connection.execute(rows.where(ours, columns.set_aside_at.is_not(None))).one()
            others, _ = connection.execute(rows.where(not_(ours), self._waits)).one()
        return OutboxCounts(waiting=waiting, oldest=_in_utc(oldest), set_aside=aside, for_others=others)

    def list_set_aside(self, limit: int, after: int = 0) -> Sequence[OutboxRow]:
        columns = self._table.c
        aside = select(self._table).where(columns.set_aside_at.is_not(None), columns.id > after)
        wanted = aside.order_by(columns.id).limit(limit)
        with self._reading() as connection:
            return [OutboxRow.of(one, _in_utc) for one in connection.execute(wanted)]

    def release(self, ids: Collection[int], *, at_any_version: bool) -> int:
        columns = self._table.c
        aside = and_(columns.id.in_(ids), columns.set_aside_at.is_not(None))
        if at_any_version:
            self._connection.execute(
                update(self._table)
                .where(aside, columns.expected_version.is_not(None))
                .values(expected_version=None, version=None)
            )
        found = self._connection.execute(update(self._table).where(aside).values(error="", set_aside_at=None))
        return int(found.rowcount)

    def discard(self, ids: Collection[int]) -> int:
        columns = self._table.c
        found = self._connection.execute(
            delete(self._table).where(columns.id.in_(ids), columns.set_aside_at.is_not(None))
        )
        return int(found.rowcount)

    def close(self) -> None:
        self._connection.close()


class _LockingOutboxTable(_SQLAlchemyOutboxTable):
    """That of a database that locks rows."""

    locks_rows = True

    def __init__(self, connection: Connection, table: Table) -> None:
        super().__init__(connection.execution_options(isolation_level="READ COMMITTED"), table)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        with self._connection.begin():
            yield


class _SQLiteOutboxTable(_SQLAlchemyOutboxTable):
    """That of SQLite."""

    locks_rows = False

    def __init__(self, connection: Connection, table: Table) -> None:
        super().__init__(connection, table)
        driven: Any = connection.connection.dbapi_connection
        self.turn_file = turn_file_beside(driven.execute("PRAGMA database_list").fetchall())
        # In memory the pool has one connection for all, and would roll back at its end.
        if not self.turn_file and driven.in_transaction:
            raise OutboxError(
                "a transaction is open on the only connection of this database in memory: commit the session first"
            )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        connection = self._connection
        with connection.begin():
            driven: Any = connection.connection.dbapi_connection
            if not driven.in_transaction:  # else a listener of the engine's has begun it
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield


def _in_utc(at: Any) -> Any:
    """Return a time as databases give it, which may have no zone, or another one."""
    return at if at is None else at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
