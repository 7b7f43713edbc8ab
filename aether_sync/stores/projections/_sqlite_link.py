"""``SQLiteLink``: a connection of the module ``sqlite3``, in which the user's function cannot end the transaction."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..._arguments import is_of
from ._cursor_link import CursorLink
from .base import BrokenTransactionError, savepoint

__all__ = ["SQLiteLink", "is_passing_error"]

#: What the code of an error means that passes: another writer, a full disk, no memory, a file that is not there now.
_PASSING = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}

_WRITES = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE}


class SQLiteLink(CursorLink):
    """A connection to a file of SQLite, in which no statement begins a transaction by itself.

    While the user's function runs, SQLite asks :meth:`_authorize` for each new statement. So a ``COMMIT`` is refused
    where it stands, before it does harm. This includes that of ``executescript()``.
    """

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection, sqlite3.paramstyle, is_passing_error)
        self._holding = self._rebuilding = False
        self._refused = ""
        connection.set_authorizer(self._authorize)

    @property
    def dialect(self) -> str:
        return "sqlite"

    def begin(self, *, rebuilding: bool = False) -> None:
        # At once for writing: a transaction that begins by reading cannot write if another one has written since.
        self.execute("BEGIN" if rebuilding else "BEGIN IMMEDIATE")

    @contextmanager
    def hold(self, *, rebuilding: bool = False) -> Iterator[None]:
        with savepoint(self, is_passing_error):
            self._holding, self._rebuilding, self._refused = True, rebuilding, ""
            try:
                yield
            except Exception as error:
                if self._refused:
                    raise BrokenTransactionError(self._refused, is_lost=True) from error
                raise
            finally:
                self._holding = self._rebuilding = False
            if self._refused:  # and the user's function has gone on
                raise BrokenTransactionError(self._refused, is_lost=True)

    def _authorize(self, action: int, first: Any, second: Any, schema: Any, trigger: Any) -> int:
        """Say whether a statement may be prepared (https://www.sqlite.org/c3ref/c_alter_table.html)."""
        if not self._holding:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_TRANSACTION:
            self._refused = f"it has tried to {str(first).lower()}, which SQLite has refused"
            return sqlite3.SQLITE_DENY
        is_creating = action == sqlite3.SQLITE_INSERT and first == "sqlite_master"  # as CREATE TABLE IF NOT EXISTS does
        if self._rebuilding and action in _WRITES and schema != "temp" and not is_creating:
            self._refused = f"it has tried to write the table {first!r}, which is not among those to rebuild"
            return sqlite3.SQLITE_DENY
        return sqlite3.SQLITE_OK


def is_passing_error(error: Exception) -> bool:
    """Whether an error of SQLite passes, by its code without what is more exact (https://www.sqlite.org/rescode.html)."""
    return is_of(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING
