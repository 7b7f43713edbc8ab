"""Shadows: temporary tables of the same names as the user's, which hide them on one connection.

A projection is built anew in such tables, by the user's function as it is, while everybody else sees the old rows. A
temporary table belongs to its connection: if the rebuild is interrupted, nothing of it is left. At the end the rows of
the live tables are exchanged for those of the shadows, in one transaction.
"""

from collections.abc import Sequence
from typing import Protocol

from ..._values.shown import short
from ...errors import InvalidOptionError, ProjectionError, UnsupportedError
from .base import Database, Link

__all__ = ["Shadows", "shadows_of"]


class Shadows(Protocol):
    """The shadows of some tables, on one connection."""

    def make(self) -> None:
        """Make the shadows; they are empty.

        Raises:
            InvalidOptionError: One of the tables is not there, or cannot have a shadow.
        """

    def count_reads(self) -> int:
        """In a transaction, return a number that is another one when rows of the live tables were read in between."""

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
        self._are_references_checked = True  # by SQLite, if it does so on this connection at all

    def make(self) -> None:
        self._mind_references()
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
        for (sql,) in self._link.query("SELECT sql FROM main.sqlite_master WHERE type = 'view'"):
            # One of the file reads the tables of the file; the same one as a temporary view reads the shadows first.
            self._link.execute(f"CREATE TEMP VIEW {sql.partition(' VIEW ')[2]}")
        self._link.commit()

    def _mind_references(self) -> None:
        """Refuse foreign keys by which the exchange would change other tables, or which the shadows cannot have.

        They mean something only on a connection that has ``PRAGMA foreign_keys`` on. A reference of a temporary table
        is one to another temporary table.
        """
        try:
            ((are_on,),) = self._link.query("PRAGMA foreign_keys")
            found = self._link.query(
                'SELECT m.name, f."table", f.on_update, f.on_delete FROM main.sqlite_master AS m JOIN '
                "pragma_foreign_key_list(m.name) AS f WHERE m.type = 'table'"
            )
        finally:
            self._link.rollback()
        if not are_on:
            return
        names = {table.lower() for table in self._tables}
        outwards, acting = "", ""
        for referring, table, *actions in found:
            is_within = referring.lower() in names
            if not is_within and table.lower() in names:
                raise _referred(table, referring)
            if is_within and table.lower() not in names:
                outwards = f"{short(referring)} refers to {short(table)}"
            elif is_within and not {"NO ACTION", "RESTRICT"}.issuperset(actions):
                acting = short(referring)
        if not outwards:
            return
        if acting:
            raise InvalidOptionError(
                f"tables cannot be rebuilt where SQLite checks foreign keys, {outwards}, which is not named, and "
                f"{acting} is changed by another one of them (ON DELETE or ON UPDATE): have the projection connect "
                "without PRAGMA foreign_keys, and apply() change both tables itself"
            )
        self._link.execute("PRAGMA foreign_keys = OFF")
        self._are_references_checked = False

    def count_reads(self) -> int:
        return 0  # views are made anew; what names its schema cannot be told from others

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
        if not self._are_references_checked:
            for table in self._tables:
                self._check_references(table)

    def _check_references(self, table: str) -> None:
        for _, _, referred, _ in self._link.query(f"PRAGMA main.foreign_key_check({_quoted(table)})"):
            raise ProjectionError(
                f"the rows of the table {short(table)} were not exchanged, and are as they were: a new one refers to a "
                f"row of {short(referred)} that is not there"
            )


def _referred(table: str, referring: str) -> InvalidOptionError:
    return InvalidOptionError(
        f"the table {short(table)} cannot be rebuilt without {short(referring)}, which refers to it: name both"
    )


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


class _PostgresShadows(Shadows):
    def __init__(self, link: Link, tables: Sequence[str]) -> None:
        self._link = link
        self._tables = tables
        self._live: dict[int, tuple[str, str]] = {}  # by id: a table with its schema, and its shadow; both quoted
        self._owned: list[tuple[str, str, str]] = []  # a table with its schema, its column, the sequence of that one
        self._sequences: dict[str, tuple[str, bool]] = {}  # by a live one: its shadow, whether it counts up
        self._watched = ""  # the ids of all that is read when a row of the live tables is

    def make(self) -> None:
        self._link.begin(rebuilding=True)
        for table in self._tables:
            found = self._link.query(
                "SELECT c.oid, n.nspname, c.relname, c.relkind FROM pg_class c JOIN pg_namespace n ON n.oid = "
                "c.relnamespace WHERE c.oid = to_regclass(?)",
                table,
            )
            if not found or found[0][3] not in ("r", "p"):
                raise InvalidOptionError(f"there is no table {short(table)} to rebuild")
            oid, schema, name, _ = found[0]
            live = f"{_quoted(schema)}.{_quoted(name)}"
            self._link.execute(f"CREATE TEMPORARY TABLE {_quoted(name)} (LIKE {live} INCLUDING ALL)")
            self._live[int(oid)] = live, f"pg_temp.{_quoted(name)}"
        inside = ", ".join(map(str, self._live))
        self._refuse_references(inside)
        self._number(inside)
        self._refer(inside)
        self._watch(inside)
        self._link.commit()

    def _number(self, inside: str) -> None:
        """Give the shadows sequences of their own: the live ones cannot be used where only shadows are written."""
        for live, _ in self._live.values():
            owned = self._link.query(
                "SELECT attname, pg_get_serial_sequence(?, attname) FROM pg_attribute WHERE attrelid = to_regclass(?) "
                "AND attnum > 0 AND NOT attisdropped AND pg_get_serial_sequence(?, attname) IS NOT NULL",
                *(live, live, live),
            )
            self._owned += [(live, _quoted(column), sequence) for column, sequence in owned]
        defaults = self._link.query(
            "SELECT d.adrelid, a.attname, pg_get_expr(d.adbin, d.adrelid), quote_literal(c.oid::regclass::text), "
            "n.nspname, c.relname, s.seqincrement, s.seqmin, s.seqmax, s.seqstart FROM pg_attrdef d "
            "JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum "
            "JOIN pg_depend o ON o.classid = 'pg_attrdef'::regclass AND o.objid = d.oid AND o.refclassid = "
            "'pg_class'::regclass JOIN pg_class c ON c.oid = o.refobjid JOIN pg_namespace n ON n.oid = c.relnamespace "
            f"JOIN pg_sequence s ON s.seqrelid = c.oid WHERE d.adrelid IN ({inside})"
        )
        for table, column, default, literal, schema, name, step, least, most, start in defaults:
            live = f"{_quoted(schema)}.{_quoted(name)}"
            if live not in self._sequences:
                self._sequences[live] = f"pg_temp.aether_sequence_{len(self._sequences)}", step > 0
                self._link.execute(
                    f"CREATE TEMPORARY SEQUENCE {self._sequences[live][0]} INCREMENT {step} MINVALUE {least} MAXVALUE "
                    f"{most} START {start}"
                )
            own = default.replace(f"{literal}::regclass", f"'{self._sequences[live][0]}'::regclass")
            shadow = self._live[int(table)][1]
            self._link.execute(f"ALTER TABLE {shadow} ALTER COLUMN {_quoted(column)} SET DEFAULT {own}")

    def _refuse_references(self, inside: str) -> None:
        """Refuse tables to whose rows others refer: those would be in the way, or would be deleted as well."""
        found = self._link.query(
            "SELECT conrelid::regclass::text, confrelid::regclass::text FROM pg_constraint WHERE contype = 'f' AND "
            f"conparentid = 0 AND confrelid IN ({inside}) AND conrelid NOT IN ({inside})"
        )
        for referring, table in found:
            raise _referred(table, referring)

    def _refer(self, inside: str) -> None:
        """Give the shadows the foreign keys among the tables, as a deletion may delete rows of another one by them."""
        found = self._link.query(
            "SELECT conrelid, confrelid, confrelid::regclass::text, pg_get_constraintdef(oid) FROM pg_constraint WHERE "
            f"contype = 'f' AND conparentid = 0 AND conrelid IN ({inside}) AND confrelid IN ({inside})"
        )
        for referring, table, name, definition in found:
            columns, _, rest = definition.partition(f" REFERENCES {name}(")
            shadow = self._live[int(table)][1]
            self._link.execute(f"ALTER TABLE {self._live[int(referring)][1]} ADD {columns} REFERENCES {shadow}({rest}")

    def _watch(self, inside: str) -> None:
        """Note the tables, their partitions, and the indexes of all these."""
        found = self._link.query(
            f"WITH RECURSIVE part(id) AS (SELECT oid FROM pg_class WHERE oid IN ({inside}) UNION SELECT inhrelid FROM "
            "pg_inherits JOIN part ON inhparent = id) SELECT id FROM part UNION SELECT indexrelid FROM pg_index JOIN "
            "part ON indrelid = id"
        )
        self._watched = ", ".join(str(one) for (one,) in found)

    def count_reads(self) -> int:
        """Return how many scans there were on this connection, which PostgreSQL counts unless track_counts is off."""
        ((count,),) = self._link.query(
            f"SELECT sum(pg_stat_get_xact_numscans(oid)) FROM pg_class WHERE oid IN ({self._watched})"
        )
        return int(count)

    def exchange(self) -> None:
        for live, _ in reversed(self._live.values()):  # not TRUNCATE, which readers would see before the end
            self._link.execute(f"DELETE FROM {live}")
        for live, shadow in self._live.values():
            found = self._link.query(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(?) AND attnum > 0 AND NOT attisdropped "
                "AND attgenerated = '' ORDER BY attnum",
                live,
            )
            columns = ", ".join(_quoted(name) for (name,) in found)
            self._link.execute(f"INSERT INTO {live} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM {shadow}")
        for live, column, sequence in self._owned:
            self._link.query(
                f"SELECT setval(?, GREATEST(max({column}), 1), max({column}) IS NOT NULL) FROM {live}", sequence
            )
        for sequence, (shadow, is_upwards) in self._sequences.items():  # rows of other tables may have numbers of it
            furthest = "GREATEST" if is_upwards else "LEAST"
            self._link.query(
                f"SELECT setval(?, {furthest}(live.last_value, own.last_value), live.is_called OR own.is_called) FROM "
                f"{sequence} AS live, {shadow} AS own",
                sequence,
            )


_KINDS = {"sqlite": _SQLiteShadows, "postgresql": _PostgresShadows}
