"""``Django``: projections and handlers that write through the models, in the database of an alias."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from functools import cached_property
from typing import Any

from django.db import DEFAULT_DB_ALIAS, Error, InterfaceError, connections
from django.db.transaction import Atomic

from ..._arguments import is_of
from ..._values.shown import short
from ...errors import InvalidOptionError
from ...stores.projections._cursor_link import CursorLink
from ...stores.projections._sqlite_link import SQLiteLink, is_passing_error
from ...stores.projections.base import BrokenTransactionError, Link, Value
from ...stores.projections.dbapi import DBAPI

__all__ = ["Django", "own_connections"]

_SQLITE = "sqlite"

#: Whether the connection of the thread is used, and none is opened: in tests, which roll back what is written there.
_uses_own = False


@contextmanager
def own_connections() -> Iterator[None]:
    """Let what is connected here use the thread's own connection, with a savepoint for a transaction."""
    global _uses_own
    before, _uses_own = _uses_own, True
    try:
        yield
    finally:
        _uses_own = before


class Django:
    """Projects into a database of Django's: ``apply(db, stored)`` gets its alias, for ``Order.objects.using(db)``.

    While ``apply`` runs, the thread's connection to that alias is the projection's own, inside of the transaction of
    the batch. So models, ``connections[db]`` and the ``atomic()`` of code that it calls just work, and code that names
    no database writes there as well if it is the default one. Another alias is another transaction, which events may
    enter more than once.

    A projection opens connections of its own, with the settings of the alias: it shares none with a view, nor a forked
    child with its parent. A signal, a ``save()`` and ``transaction.on_commit()`` do what they always do.

    Tested with SQLite and PostgreSQL (psycopg). SQLite should be in write-ahead logging mode, so that those who read
    are not held up: ``"OPTIONS": {"init_command": "PRAGMA journal_mode=WAL"}``.

    Args:
        using: The alias of the database, in the setting ``DATABASES``.

    Raises:
        InvalidOptionError: There is no such alias.
    """

    def __init__(self, using: str = DEFAULT_DB_ALIAS) -> None:
        try:
            settings = connections.settings[using]
        except (KeyError, TypeError):
            there = ", ".join(map(repr, connections.settings))
            raise InvalidOptionError(f"the setting DATABASES has no alias {short(using)}: there are {there}") from None
        self.using = using
        self._engine = str(settings["ENGINE"])

    @cached_property
    def _driver(self) -> DBAPI | None:
        """Knows the errors of the driver; None with SQLite."""
        wrapper: Any = connections[self.using]  # this opens nothing
        return None if wrapper.vendor == _SQLITE else DBAPI(lambda: None, driver=wrapper.Database)

    def connect(self) -> Link:
        """Open a connection; the projection calls this."""
        if _uses_own:
            return self._linked(connections[self.using], is_own=False)
        wrapper: Any = connections.create_connection(self.using)
        wrapper.settings_dict = deepcopy(wrapper.settings_dict)
        wrapper.inc_thread_sharing()  # one thread at a time uses it, but not always the same one
        try:
            if wrapper.vendor == _SQLITE and wrapper.is_in_memory_db():
                raise InvalidOptionError(  # noqa: TRY301
                    f"the database {self.using!r} is in memory, and belongs to the connections that are there: name a "
                    "file. In a test, let drain() project"
                )
            return self._linked(wrapper, is_own=True)
        except BaseException:
            with suppress(Exception):
                wrapper.close()
            raise

    def _linked(self, wrapper: Any, *, is_own: bool) -> Link:
        wrapper.ensure_connection()
        own: CursorLink
        if wrapper.vendor == _SQLITE:
            own = SQLiteLink(wrapper.connection)
        else:
            own = CursorLink(wrapper.connection, wrapper.Database.paramstyle, self.is_passing)
        return _DjangoLink(self.using, wrapper, own, is_own=is_own)

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again on a new connection may help; the projection calls this."""
        if is_of(error, Error):
            if error.__cause__ is None:  # Django's own: the connection was closed
                return is_of(error, InterfaceError)
            if not is_of(error.__cause__, Exception):
                return False
            error = error.__cause__
        if is_of(error, sqlite3.ProgrammingError):
            return "closed database" in str(error)  # by the user's function; other drivers say that it is lost
        if self._driver is None:
            return is_passing_error(error) or is_of(error, ConnectionError)
        return self._driver.is_passing(error)

    def __repr__(self) -> str:
        return f"<Django {self.using!r}, {self._engine.rpartition('.')[2]}>"


class _DjangoLink(Link):
    """A connection of Django's. The projection's own statements go to that of the driver below it.

    Both are in the same transaction, which is an ``atomic()`` of Django's. From its begin to its end the connection
    takes the place of the thread's own.

    Args:
        using: The alias.
        wrapper: The connection.
        own: The same, for the projection's statements.
        is_own: Whether it is opened for this, and is closed with it.
    """

    def __init__(self, using: str, wrapper: Any, own: CursorLink, *, is_own: bool) -> None:
        self._using = using
        self._wrapper = wrapper
        self._own = own
        self._is_own = is_own
        self._atomic: Atomic | None = None
        self._before: Any = None  # the connection that the thread had

    @property
    def db(self) -> str:
        return self._using

    @property
    def dialect(self) -> str:
        return str(self._wrapper.vendor)

    def begin(self, *, rebuilding: bool = False) -> None:
        self._take_place()
        try:
            if self._wrapper.vendor == _SQLITE and self._is_own:
                self._wrapper.transaction_mode = "DEFERRED" if rebuilding else "IMMEDIATE"
            atomic = Atomic(self._using, savepoint=True, durable=False)
            atomic.__enter__()
        except BaseException:
            self._give_place_back()
            raise
        self._atomic = atomic

    def execute(self, sql: str, *values: Value) -> int:
        return self._own.execute(sql, *values)

    def query(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        return self._own.query(sql, *values)

    @contextmanager
    def hold(self, *, rebuilding: bool = False) -> Iterator[None]:
        with self._own.hold(rebuilding=rebuilding), Atomic(self._using, savepoint=True, durable=False):
            yield
            if self._wrapper.needs_rollback:
                raise BrokenTransactionError(
                    "it has caught the error of a statement and gone on. What it has written is lost then. Have it "
                    "raise the error, or put what may fail into an atomic() of its own",
                    is_mistake=False,
                    is_lost=True,
                )

    def commit(self) -> None:
        if self._wrapper.needs_rollback or self._wrapper.closed_in_transaction:
            self.rollback()
            raise BrokenTransactionError("the transaction could not be committed, and was rolled back", is_lost=True)
        self._end(None)

    def rollback(self) -> None:
        if self._atomic is not None:
            self._end(_RolledBackError())

    def _end(self, error: Exception | None) -> None:
        atomic, self._atomic = self._atomic, None
        try:
            if atomic is not None:
                atomic.__exit__(type(error) if error else None, error, None)
        finally:
            self._give_place_back()

    def close(self) -> None:
        if self._is_own:
            with suppress(Exception):
                self.rollback()
            self._wrapper.close()

    def _take_place(self) -> None:
        if self._is_own:
            there = connections.all(initialized_only=True)
            self._before = next((one for one in there if one.alias == self._using), None)
            connections[self._using] = self._wrapper

    def _give_place_back(self) -> None:
        if not self._is_own:
            return
        before, self._before = self._before, None
        if before is not None:
            connections[self._using] = before
        else:
            with suppress(AttributeError):
                del connections[self._using]


class _RolledBackError(Exception):
    """Ends an ``atomic()`` so that nothing of it is kept."""
