"""Shadows: temporary tables of the same names as the user's, which hide them on one connection.

A projection is built anew in such tables, by the user's function as it is, while everybody else sees the old rows. A
temporary table belongs to its connection: if the rebuild is interrupted, nothing of it is left. At the end the rows of
the live tables are exchanged for those of the shadows, in one transaction.
"""

from collections.abc import Sequence
from typing import Protocol

from ..._values.shown import short
from ...errors import InvalidOptionError, UnsupportedError
from .base import Database, Link

__all__ = ["Shadows", "shadows_of"]


class Shadows(Protocol):
    """The shadows of some tables, on one connection."""

    def make(self) -> None:
        """Make the shadows; they are empty.

        Raises:
            InvalidOptionError: One of the tables is not there, or cannot have a shadow.
        """

    def exchange(self) -> None:
        """In a transaction, give the live tables the rows of the shadows, in place of their own."""


def shadows_of(link: Link, database: Database, tables: Sequence[str]) -> Shadows:
    """Return the shadows of some tables; nothing is made yet.

    Raises:
        UnsupportedError: The database is one that cannot do this.
    """
    kind = _KINDS.get(link.dialect)
    if kind is None:
        raise UnsupportedError(
            f"what is in {database} cannot be built anew beside itself: only SQLite and PostgreSQL can do that. Make a "
            "projection with another name that fills other tables, let it catch up, and have your program read those"
        )
    return kind(link, tables)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


class _SQLiteShadows(Shadows):
    def __init__(self, link: Link, tables: Sequence[str]) -> None:
        self._link = link
        self._tables = tables

    def make(self) -> None:
        self._link.begin(rebuilding=True)
        for table in self._tables:
            found = self._link.query(
                "SELECT type, sql FROM main.sqlite_master WHERE tbl_name = ? COLLATE NOCASE AND sql IS NOT NULL AND "
                "type IN ('table', 'index') ORDER BY type DESC",
                table,
            )
            if not found or found[0][0] != "table":
                raise InvalidOptionError(f"there is no table {short(table)} to rebuild")
            for kind, sql in found:  # SQLite keeps them as "CREATE TABLE ...", whatever was written before the name
                head, _, rest = sql.partition(f" {kind.upper()} ")
                if head not in ("CREATE", "CREATE UNIQUE"):
                    raise InvalidOptionError(f"the table {short(table)} is a virtual one, which cannot be rebuilt")
                self._link.execute(f"CREATE TEMP TABLE {rest}" if kind == "table" else f"{head} INDEX temp.{rest}")
        self._link.commit()

    def exchange(self) -> None:
        for table in reversed(self._tables):
            self._link.execute(f"DELETE FROM main.{_quoted(table)}")
        for table in self._tables:
            columns = ", ".join(
                _quoted(name)
                for (name,) in self._link.query(f"SELECT name FROM pragma_table_xinfo({_text(table)}) WHERE hidden = 0")
            )
            source, target = f"temp.{_quoted(table)}", f"main.{_quoted(table)}"
            self._link.execute(f"INSERT INTO {target} ({columns}) SELECT {columns} FROM {source}")


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class _PostgresShadows(Shadows):
    def __init__(self, link: Link, tables: Sequence[str]) -> None:
        self._link = link
        self._tables = tables
        self._live: list[tuple[str, str]] = []  # of each table: itself with its schema, and its shadow; both quoted
        self._sequences: list[tuple[str, str, str]] = []  # a table with its schema, its column, what numbers that

    def make(self) -> None:
        self._link.begin(rebuilding=True)
        ids = []
        for table in self._tables:
            found = self._link.query(
                "SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = "
                "c.relnamespace WHERE c.oid = to_regclass(?)",
                table,
            )
            if not found or found[0][3] not in ("r", "p"):
                raise InvalidOptionError(f"there is no table {short(table)} to rebuild")
            oid, schema, name, _ = found[0]
            live, shadow = f"{_quoted(schema)}.{_quoted(name)}", f"pg_temp.{_quoted(name)}"
            self._link.execute(f"CREATE TEMPORARY TABLE {_quoted(name)} (LIKE {live} INCLUDING ALL)")
            self._live.append((live, shadow))
            ids.append(int(oid))
            self._number(live, shadow)
        self._refuse_references(ids)
        self._link.commit()

    def _number(self, live: str, shadow: str) -> None:
        """Give a shadow sequences of its own: the live ones cannot be used where only temporary tables are written."""
        numbered = self._link.query(
            "SELECT attname, pg_get_serial_sequence(?, attname), attidentity FROM pg_attribute WHERE attrelid = "
            "to_regclass(?) AND attnum > 0 AND NOT attisdropped AND pg_get_serial_sequence(?, attname) IS NOT NULL",
            *(live, live, live),
        )
        for column, sequence, identity in numbered:
            self._sequences.append((live, _quoted(column), sequence))
            if not identity:
                own = f"aether_sequence_{len(self._sequences)}"
                self._link.execute(f"CREATE TEMPORARY SEQUENCE {own}")
                default = f"nextval('pg_temp.{own}')"
                self._link.execute(f"ALTER TABLE {shadow} ALTER COLUMN {_quoted(column)} SET DEFAULT {default}")

    def _refuse_references(self, ids: Sequence[int]) -> None:
        """Refuse tables to whose rows others refer: those would be in the way, or would be deleted as well."""
        inside = ", ".join(map(str, ids))
        found = self._link.query(
            "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND "
            f"confrelid IN ({inside}) AND conrelid NOT IN ({inside})"
        )
        for referring, table in found:
            raise InvalidOptionError(
                f"the table {short(table)} cannot be rebuilt without {short(referring)}, which refers to it: name both"
            )

    def exchange(self) -> None:
        for live, _ in reversed(self._live):  # not TRUNCATE, which readers would see before the end
            self._link.execute(f"DELETE FROM {live}")
        for live, shadow in self._live:
            found = self._link.query(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped "
                "AND attgenerated = '' ORDER BY attnum",
                live,
            )
            columns = ", ".join(_quoted(name) for (name,) in found)
            self._link.execute(f"INSERT INTO {live} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {shadow}")
        for live, column, sequence in self._sequences:
            self._link.query(
                f"SELECT setval(?, GREATEST(max({column}), 1), max({column}) IS NOT NULL) FROM {live}", sequence
            )


_KINDS = {"sqlite": _SQLiteShadows, "postgresql": _PostgresShadows}
