"""``SQLite``: a file of SQLite, which every Python can use."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

from ..._arguments import check_path, is_of
from ...errors import InvalidOptionError
from ._cursor_link import CursorLink
from .base import BrokenTransactionError, Link, savepoint

__all__ = ["SQLite"]

_BUSY = 1.0  # seconds to wait for another writer; then the transaction is tried again, so that a close need not wait

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


class _SQLiteLink(CursorLink):
    """A connection to a file of SQLite.

    While the user's function runs, SQLite asks :meth:`_authorize` for each new statement. So a ``COMMIT`` is refused
    where it stands, before it does harm. This includes that of ``executescript()``.
    """

    def __init__(self, path: str) -> None:
        # isolation_level=None: no statement begins a transaction by itself. The attribute ``autocommit`` of Python 3.12
        # stays at its default, with which this still means the same.
        connection = sqlite3.connect(path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            super().__init__(connection, sqlite3.paramstyle, _is_passing)
            self._holding = self._rebuilding = False
            self._refused = ""
            self.query("PRAGMA journal_mode = WAL")
            # With NORMAL, a commit does not wait for the disk. After a power failure the last transactions may be gone,
            # each as a whole: its rows together with the checkpoint, so its events are applied again.
            self.execute("PRAGMA synchronous = NORMAL")
            connection.set_authorizer(self._authorize)
        except BaseException:
            connection.close()
            raise

    @property
    def dialect(self) -> str:
        return "sqlite"

    def begin(self) -> None:
        # At once for writing: a transaction that begins by reading cannot write if another one has written since.
        self.execute("BEGIN IMMEDIATE")

    @contextmanager
    def hold(self, *, rebuilding: bool = False) -> Iterator[None]:
        with savepoint(self, _is_passing):
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


class SQLite:
    """Projects into a file of SQLite: ``apply(db, stored)`` gets an ``sqlite3.Cursor``.

    The file is made if it is not there. It is switched to write-ahead logging (WAL), so those who read are not held up,
    and always see whole transactions. SQLite has one writer at a time: a program that keeps a transaction of its own
    open there holds the projection up.

    Args:
        path: The path of the file. Its folder must be there.

    Raises:
        InvalidOptionError: It is no path of a file, or its folder is not there. A database in memory is refused:
            each connection has one of its own, so nobody could read it.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self._path = check_path("path", path)
        if ":memory:" in self._path or self._path.startswith("file:"):
            raise InvalidOptionError(
                f"SQLite takes the path of a file, not {self._path!r}: a database in memory belongs to one connection, "
                "so nobody could read what is projected into it"
            )
        if not Path(self._path).absolute().parent.is_dir():
            raise InvalidOptionError(f"there is no folder for the file {self._path!r}")
        self._path = str(Path(self._path).absolute())  # the program may change its folder

    def connect(self) -> Link:
        """Open a connection; the projection calls this."""
        return _SQLiteLink(self._path)

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again may help; the projection calls this."""
        return _is_passing(error)

    def __repr__(self) -> str:
        return f"<SQLite {self._path!r}>"


def _is_passing(error: Exception) -> bool:
    """Whether an error of SQLite passes, by its code without what is more exact (https://www.sqlite.org/rescode.html)."""
    return is_of(error, sqlite3.Error) and (getattr(error, "sqlite_errorcode", 0) & 0xFF) in _PASSING
