"""``SQLite``: a file of SQLite, which every Python can use."""

import sqlite3
from os import PathLike

from ..._arguments import check_absolute, check_path
from ...errors import InvalidOptionError
from ._sqlite_link import SQLiteLink, is_passing_error
from .base import Link

__all__ = ["SQLite"]

_BUSY = 1.0  # seconds to wait for another writer; then the transaction is tried again, so that a close need not wait


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
        whole = check_absolute("path", self._path)
        if not whole.parent.is_dir():
            raise InvalidOptionError(f"there is no folder for the file {self._path!r}")
        self._path = str(whole)

    def connect(self) -> Link:
        """Open a connection; the projection calls this."""
        # isolation_level=None: no statement begins a transaction by itself. The attribute ``autocommit`` of Python 3.12
        # stays at its default, with which this still means the same.
        connection = sqlite3.connect(self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL").fetchall()
            # With NORMAL, a commit does not wait for the disk. After a power failure the last transactions may be gone,
            # each as a whole: its rows together with the checkpoint, so its events are applied again.
            connection.execute("PRAGMA synchronous = NORMAL")
            return SQLiteLink(connection)
        except BaseException:
            connection.close()
            raise

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again may help; the projection calls this."""
        return is_passing_error(error)

    def __repr__(self) -> str:
        return f"<SQLite {self._path!r}>"
