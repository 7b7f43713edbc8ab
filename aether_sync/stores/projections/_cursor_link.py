"""``CursorLink``: a connection of a driver that follows PEP 249 (https://peps.python.org/pep-0249/)."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, suppress
from typing import Any, Final

from .base import Link, Value, savepoint

__all__ = ["MARKS", "CursorLink"]

#: How a value is marked in a statement, by the driver's ``paramstyle``; ``{}`` is its number.
MARKS: Final = {"qmark": "?", "format": "%s", "pyformat": "%s", "numeric": ":{}", "named": ":v{}"}


class CursorLink(Link):
    """A connection of a driver that follows PEP 249.

    Args:
        connection: The connection, which this closes.
        paramstyle: That of the driver.
        is_passing: That of the database.
    """

    def __init__(self, connection: Any, paramstyle: str, is_passing: Callable[[Exception], bool]) -> None:
        self._connection = connection
        self._mark = MARKS[paramstyle]
        self._is_named = paramstyle == "named"
        self._is_passing = is_passing
        self._own = connection.cursor()
        self._cursor = connection.cursor()
        self._translated: dict[str, str] = {}

    @property
    def db(self) -> Any:
        with suppress(Exception):
            self._cursor.close()
        self._cursor = self._connection.cursor()  # a new one, as the user's function may have closed the last
        return self._cursor

    @property
    def dialect(self) -> str:
        try:
            version = str(self.query("SELECT version()")[0][0])
        except Exception:
            return type(self._connection).__module__.partition(".")[0]
        finally:
            with suppress(Exception):
                self.rollback()
        return version.partition(" ")[0].lower()

    def begin(self, *, rebuilding: bool = False) -> None:
        """Do nothing: the first statement begins a transaction (PEP 249)."""

    def execute(self, sql: str, *values: Value) -> int:
        self._run(sql, values)
        return int(self._own.rowcount)

    def query(self, sql: str, *values: Value) -> list[tuple[Any, ...]]:
        self._run(sql, values)
        return [tuple(row.values()) if isinstance(row, Mapping) else tuple(row) for row in self._own.fetchall()]

    def _run(self, sql: str, values: tuple[Value, ...]) -> None:
        if not values:  # then some drivers do not look for marks
            self._own.execute(sql)
            return
        if sql not in self._translated:
            first, *rest = sql.split("?")
            marked = [self._mark.format(place) + part for place, part in enumerate(rest, 1)]
            self._translated[sql] = first + "".join(marked)
        given = {f"v{place}": value for place, value in enumerate(values, 1)} if self._is_named else values
        self._own.execute(self._translated[sql], given)

    def hold(self, *, rebuilding: bool = False) -> AbstractContextManager[None]:
        return savepoint(self, self._is_passing, rebuilding=rebuilding)

    def commit(self) -> None:
        self._connection.commit()

    def rollback(self) -> None:
        self._connection.rollback()

    def close(self) -> None:
        for cursor in self._own, self._cursor:
            with suppress(Exception):
                cursor.close()  # a file of SQLite is open as long as somebody refers to a cursor, as a traceback does
        self._connection.close()
