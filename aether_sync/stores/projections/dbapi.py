"""``DBAPI``: any database with a driver that follows PEP 249, by a function that connects to it."""

import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
from typing import Any, Final

from ..._arguments import check_callback, is_of
from ..._values.shown import short
from ...errors import InvalidOptionError
from ._cursor_link import MARKS, CursorLink
from .base import Link

__all__ = ["DBAPI"]

#: Classes of SQLSTATE that pass: 08 connection, 25006 read-only as a standby server is, 40 rollback (deadlock,
#: serialization), 53 resources, 55P03 lock, 57 and 58 the server is told to stop, or its system fails
#: (https://www.postgresql.org/docs/current/errcodes-appendix.html).
_PASSING: Final = ("08", "25006", "40", "53", "55P03", "57", "58")


class DBAPI:
    """Projects into a database by connections that follow PEP 249, such as those of psycopg.

    ``apply(db, stored)`` gets a cursor as ``db``. Every projection has a connection of its own, which is used by its
    thread alone, and a second one while :meth:`Projection.wait_for` or :meth:`Projection.health` asks. The tables
    ``aether_projections`` and ``aether_set_aside`` are made where the connection makes tables.

    Tested with psycopg 3 and PostgreSQL. It should do with any database that has transactions, locks the rows that a
    transaction has changed until its end, has ``SAVEPOINT``, and tells how many rows an ``UPDATE`` has changed. SQLite
    has a class of its own, :class:`SQLite`.

    Args:
        connect: Returns a new connection each time it is called: ``lambda: psycopg.connect("dbname=shop")``. It is
            called again whenever a connection is lost. Autocommit is switched off.
        driver: The module of the driver, from which its ``paramstyle`` and its errors are known. None for the module
            that the connection's class comes from; name it if ``connect`` returns a wrapper.

    Raises:
        InvalidOptionError: ``connect`` cannot be called without arguments, or ``driver`` is no driver.
    """

    def __init__(self, connect: Callable[[], Any], driver: ModuleType | None = None) -> None:
        check_callback("connect", connect)
        if driver is not None and not _is_driver(driver):
            raise InvalidOptionError(f"driver must be the module of a driver, such as psycopg, not {short(driver)}")
        self._connect = connect
        self._driver = driver

    def connect(self) -> Link:
        """Open a connection; the projection calls this."""
        connection = self._connect()
        module = type(connection).__module__
        driver = self._driver or sys.modules.get(module.partition(".")[0])
        if driver is None or not _is_driver(driver) or driver.__name__ == "sqlite3":
            with suppress(Exception):
                connection.close()
            is_sqlite = driver is not None and driver.__name__ == "sqlite3"
            what = "use SQLite(path), which knows what SQLite needs" if is_sqlite else "name its driver: driver=..."
            raise InvalidOptionError(f"connect() has returned a connection of {module}: {what}")
        if getattr(connection, "autocommit", False) is True:
            connection.autocommit = False
        self._driver = driver
        return CursorLink(connection, driver.paramstyle, self.is_passing)

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again on a new connection may help; the projection calls this."""
        driver = self._driver
        if driver is None:  # no connection was had yet: the function of the user's says what it cannot
            return not is_of(error, InvalidOptionError)
        if not is_of(error, driver.Error):
            return is_of(error, ConnectionError)
        state = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
        if isinstance(state, str):
            return state.startswith(_PASSING)
        if is_of(error, driver.InterfaceError):
            return "cursor" not in str(error)  # one that the user's function has closed
        return is_of(error, driver.OperationalError)

    def __repr__(self) -> str:
        return f"<DBAPI {self._driver.__name__ if self._driver else 'not connected yet'}>"


def _is_driver(module: object) -> bool:
    return (
        is_of(module, ModuleType)
        and getattr(module, "paramstyle", None) in MARKS
        and hasattr(module, "OperationalError")
    )
