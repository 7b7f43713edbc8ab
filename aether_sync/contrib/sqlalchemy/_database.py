"""``SQLAlchemy``: projections that write their rows through SQLAlchemy."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from sqlalchemy import Connection, Engine, NestedTransaction, exc

from ..._arguments import is_of
from ..._values.shown import short
from ...errors import InvalidOptionError
from ...stores.projections._cursor_link import MARKS, CursorLink
from ...stores.projections._sqlite_link import SQLiteLink, is_passing_error
from ...stores.projections.base import BrokenTransactionError, Link, Value
from ...stores.projections.dbapi import DBAPI

__all__ = ["SQLAlchemy"]

_AUTOCOMMIT = "AUTOCOMMIT"
_LEGACY = getattr(sqlite3, "LEGACY_TRANSACTION_CONTROL", -1)  # before Python 3.12 there is no other control


class SQLAlchemy:
    """Projects through an engine of SQLAlchemy: ``apply(db, stored)`` gets an ``sqlalchemy.Connection``.

    The connection is inside the transaction of the batch. ``apply`` executes statements there, or uses the ORM by
    ``with Session(db) as session: ...; session.flush()``. It must neither commit nor roll back the connection; a
    ``commit()`` of such a session flushes, and leaves the transaction open. A ``flush()`` that fails undoes all that
    the call has written, so the call must end with its error. To go on after one, use ``with session.begin_nested()``.

    A projection takes no connection of the engine's pool. It opens its own, as the pool opens them: with the engine's
    arguments, its options and its event listeners. So it does not wait for a pool that is used up, and a forked child
    shares no connection with its parent.

    Tested with SQLite and PostgreSQL (psycopg). SQLite should be in write-ahead logging mode (``PRAGMA journal_mode =
    WAL``), so that those who read are not held up; this does not change it.

    Args:
        engine: What ``sqlalchemy.create_engine()`` returns.

    Raises:
        InvalidOptionError: It is no engine; it is one of asyncio; or it commits by itself after each statement
            (``isolation_level="AUTOCOMMIT"``).
    """

    def __init__(self, engine: Engine) -> None:
        if not is_of(engine, Engine):
            raise InvalidOptionError(
                f"SQLAlchemy takes what sqlalchemy.create_engine() returns, not {short(engine)}: an AsyncEngine cannot "
                "be used, as a projection runs on a thread"
            )
        if engine.dialect.is_async:
            raise InvalidOptionError(
                f"the driver {engine.dialect.driver!r} of the engine wants asyncio, and a projection runs on a thread: "
                "make an engine with another driver, such as postgresql+psycopg"
            )
        if engine.get_execution_options().get("isolation_level") == _AUTOCOMMIT:
            raise _autocommits(engine)
        driver: Any = engine.dialect.loaded_dbapi
        if engine.dialect.paramstyle not in MARKS:
            raise InvalidOptionError(
                f"the driver {engine.dialect.driver!r} of the engine marks values by {engine.dialect.paramstyle!r}, "
                f"which a projection does not know: it knows {', '.join(sorted(MARKS))}"
            )
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._driver = DBAPI(engine.raw_connection, driver=driver)  # which knows the errors of the driver

    def connect(self) -> Link:
        """Open a connection; the projection calls this."""
        engine = self._engine
        # A pool like the engine's, in which there is no connection yet. Detached, the connection is closed for good
        # when it is closed, and that pool is left empty.
        connection = _Connection(engine, connection=engine.pool.recreate().connect())
        try:
            connection.detach()
            driven: Any = connection.connection.dbapi_connection
            if connection.get_isolation_level() == _AUTOCOMMIT or getattr(driven, "autocommit", None) is True:
                raise _autocommits(engine)  # noqa: TRY301
            own: CursorLink
            if is_of(driven, sqlite3.Connection):
                _refuse_memory(driven, engine)
                _begin_by_statement(driven)
                own = SQLiteLink(driven)
            else:
                own = CursorLink(connection.connection, engine.dialect.paramstyle, self.is_passing)
            connection.rollback()
            own.rollback()
            return _SQLAlchemyLink(connection, own)
        except BaseException:
            with suppress(Exception):
                connection.close()
            raise

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again may help; the projection calls this."""
        if is_of(error, exc.TimeoutError):  # others have all connections of the pool
            return True
        if is_of(error, exc.DBAPIError):
            if error.connection_invalidated:
                return True
            if not is_of(error.orig, Exception):
                return False
            error = error.orig
        return is_passing_error(error) if self._is_sqlite else self._driver.is_passing(error)

    def __repr__(self) -> str:
        return f"<SQLAlchemy {self._engine.url.render_as_string(hide_password=True)}>"


class _Connection(Connection):
    """What the user's function gets: a session of the ORM that is made of it takes a savepoint for the transaction.

    A session rolls back the transaction that it has joined if a flush fails. With this, that is the savepoint around
    the call, and not what other events have written.

    Attributes:
        held: That savepoint.
    """

    held: NestedTransaction | None = None

    def in_nested_transaction(self) -> bool:
        return super().in_nested_transaction() and self.get_nested_transaction() is not self.held

    def _get_required_transaction(self) -> Any:  # a session asks for it, if it is in no other savepoint
        held = self.held
        return super()._get_required_transaction() if held is None or not held.is_active else held


class _SQLAlchemyLink(Link):
    """A connection of SQLAlchemy. The projection's own statements go to that of the driver below it.

    Both are in the same transaction, which the connection of SQLAlchemy begins and ends.
    """

    def __init__(self, connection: _Connection, own: CursorLink) -> None:
        self._connection = connection
        self._own = own

    @property
    def db(self) -> Connection:
        return self._connection

    @property
    def dialect(self) -> str:
        return self._connection.dialect.name

    def begin(self, *, rebuilding: bool = False) -> None:
        self._connection.begin()
        driven = self._connection.connection.dbapi_connection
        if is_of(driven, sqlite3.Connection) and driven.in_transaction:
            return  # a listener of the engine's has begun it
        self._own.begin(rebuilding=rebuilding)

    def execute(self, sql: str, *values: Value) -> int:
        return self._own.execute(sql, *values)

    def query(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        return self._own.query(sql, *values)

    @contextmanager
    def hold(self, *, rebuilding: bool = False) -> Iterator[None]:
        connection = self._connection
        with self._own.hold(rebuilding=rebuilding):
            transaction = connection.get_transaction()
            held = connection.held = connection.begin_nested()
            try:
                yield
                if connection.get_transaction() is transaction:
                    _end(connection, held)
            except BaseException:
                with suppress(Exception):  # the savepoint of the link's own, which is outside of this one, ends it, too
                    if held.is_active:
                        held.rollback()
                raise
            finally:
                connection.held = None

    def commit(self) -> None:
        if self._connection.in_transaction():
            self._connection.commit()
        else:  # a statement of the projection's own has begun it
            self._own.commit()

    def rollback(self) -> None:
        try:
            self._connection.rollback()
        finally:
            self._own.rollback()  # if the user's function has ended that of SQLAlchemy alone

    def close(self) -> None:
        self._connection.close()


def _end(connection: Connection, held: NestedTransaction) -> None:
    """Keep what was written in a savepoint."""
    if not held.is_active:
        raise BrokenTransactionError(
            "a session was rolled back in it, perhaps as a flush has failed, and it has gone on. What it had written "
            "before is lost then. Have it raise the error, or put what may fail into session.begin_nested()",
            is_mistake=False,
            is_lost=True,
        )
    while (inner := connection.get_nested_transaction()) is not None and inner is not held:
        inner.commit()  # one that the user's function has left open
    held.commit()


def _autocommits(engine: Engine) -> InvalidOptionError:
    return InvalidOptionError(
        f"the engine {short(engine)} commits by itself after each statement (AUTOCOMMIT): events would take effect "
        "without the checkpoint. Give one without: engine.execution_options(isolation_level='READ COMMITTED')"
    )


def _begin_by_statement(driven: Any) -> None:
    """Have a connection of SQLite begin no transaction by itself, as its link wants it."""
    if getattr(driven, "autocommit", None) is False:  # from Python 3.12 on: one is open all the time
        driven.rollback()
        driven.autocommit = _LEGACY
    driven.isolation_level = None


def _refuse_memory(driven: sqlite3.Connection, engine: Engine) -> None:
    """Raise if a connection of SQLite is to a database in memory, which no other connection sees."""
    files = driven.execute("PRAGMA database_list").fetchall()
    if not any(name == "main" and file for _, name, file in files):
        raise InvalidOptionError(
            f"the engine {short(engine)} makes databases in memory: each belongs to one connection, so nobody could "
            "read what is projected into it. Name a file: sqlite:///read.db"
        )
