"""The table of the outbox, as a relay uses it: through the models, on the connection of the calling thread."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from django.conf import settings
from django.db import connections
from django.db.models import Count, Min, QuerySet
from django.db.transaction import atomic

from ..._values.clock import Datetime
from ...errors import OutboxError
from ...outbox.database import OutboxCounts, OutboxDatabase, OutboxTable
from ...outbox.rows import APPEND, Key, Kind, NewRow, OutboxRow, kind_of
from ...outbox.turns import turn_file_beside
from ._database import Django
from .models import OutboxEvent

__all__ = ["DjangoOutbox", "write_row"]

_SQLITE = "sqlite"


def write_row(row: NewRow, using: str) -> None:
    """Write a row, in the transaction that is open."""
    try:
        OutboxEvent.objects.using(using).create(
            kind=row.kind,
            name=row.name,
            events=row.events,
            count=row.count,
            expected_version=row.expected_version,
            version=row.version,
            created_at=_as_stored(row.created_at),
        )
    except Exception as error:
        error.add_note(f"If the table {OutboxEvent._meta.db_table} is not there: run manage.py migrate aether_sync")
        raise


class DjangoOutbox(OutboxDatabase):
    """The table of the outbox in a database of Django's.

    Args:
        using: The alias of the database.
    """

    def __init__(self, using: str) -> None:
        self._using = using
        self._passing = Django(using)  # which refuses an alias that is not there, and knows the errors that pass

    def connect(self) -> OutboxTable:
        """Use the connection of the calling thread."""
        return _Table(self._using)

    def is_passing(self, error: Exception) -> bool:
        """Whether trying again may help."""
        return self._passing.is_passing(error)

    def __str__(self) -> str:
        return f"the outbox in database {self._using!r}"


class _Table(OutboxTable):
    """The table through the connection of one thread, which it closes if nobody has opened it before."""

    def __init__(self, using: str) -> None:
        self._using = using
        connection: Any = connections[using]
        self._connection = connection  # kept: in a forked child it must not be closed as garbage
        self._is_mine = self._connection.connection is None
        self._connection.ensure_connection()
        if not (self._connection.get_autocommit() or self._connection.in_atomic_block):
            raise OutboxError(
                f"a relay cannot use the database {using!r}: nothing would be committed, as its setting AUTOCOMMIT is "
                "False. Give a relay an alias of the same database without that setting"
            )
        self.locks_rows = bool(self._connection.features.has_select_for_update_skip_locked)
        if self._connection.vendor == _SQLITE:
            with self._connection.cursor() as cursor:
                cursor.execute("PRAGMA database_list")
                self.turn_file = turn_file_beside(cursor.fetchall())
        elif not self.locks_rows:
            raise OutboxError(
                f"a relay cannot use the database {using!r}: {self._connection.display_name} of this version has no "
                "FOR UPDATE SKIP LOCKED"
            )

    @property
    def _rows(self) -> QuerySet[OutboxEvent]:
        return OutboxEvent.objects.using(self._using)

    @property
    def _waiting(self) -> QuerySet[OutboxEvent]:
        return self._rows.filter(set_aside_at__isnull=True)

    @property
    def _aside(self) -> QuerySet[OutboxEvent]:
        return self._rows.filter(set_aside_at__isnull=False)

    def check(self) -> None:
        table, introspection = OutboxEvent._meta.db_table, self._connection.introspection
        with self._connection.cursor() as cursor:
            is_there = table in introspection.table_names(cursor)
            columns = {one.name for one in introspection.get_table_description(cursor, table)} if is_there else set()
        lacking = {str(one.column) for one in OutboxEvent._meta.local_fields} - columns
        if lacking:
            what = f"the table {table!r}" if not is_there else f"{', '.join(sorted(lacking))} in the table {table!r}"
            more = "" if self._using == "default" else f" --database={self._using}"
            raise OutboxError(f"the database {self._using!r} lacks {what}: run manage.py migrate aether_sync{more}")

    @contextmanager
    def transaction(self) -> Iterator[None]:
        connection = self._connection
        is_outermost = not connection.in_atomic_block
        mode = getattr(connection, "transaction_mode", None)
        if connection.vendor == _SQLITE:
            connection.transaction_mode = "IMMEDIATE"
        try:
            with atomic(using=self._using):
                if is_outermost and connection.vendor == "postgresql":
                    with connection.cursor() as cursor:
                        cursor.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                yield
        finally:
            if connection.vendor == _SQLITE:
                connection.transaction_mode = mode

    def waiting(self, limit: int, kinds: Collection[Kind]) -> Sequence[tuple[int, Key]]:
        held_up = self._aside.filter(kind=APPEND).values("name")
        found = self._waiting.filter(kind__in=kinds).exclude(kind=APPEND, name__in=held_up)
        rows = found.order_by("id").values_list("id", "kind", "name")[:limit]
        return [(id_, Key(kind_of(kind), name)) for id_, kind, name in rows]

    def take(self, ids: Collection[int]) -> Sequence[OutboxRow]:
        wanted = self._waiting.filter(id__in=ids)
        return [
            OutboxRow.of(one, _as_given)
            for one in (wanted.select_for_update(skip_locked=True) if self.locks_rows else wanted)
        ]

    def plan(self, versions: Mapping[int, int]) -> None:
        rows = [OutboxEvent(id=id_, version=version) for id_, version in versions.items()]
        self._rows.bulk_update(rows, ["version"])

    def remove(self, ids: Collection[int]) -> None:
        self._rows.filter(id__in=ids).delete()

    def set_aside(self, errors: Mapping[int, str], at: Datetime) -> None:
        at = _as_stored(at)
        rows = [OutboxEvent(id=id_, error=error, set_aside_at=at) for id_, error in errors.items()]
        self._rows.bulk_update(rows, ["error", "set_aside_at"])

    def counts(self, kinds: Collection[Kind]) -> OutboxCounts:
        waiting = self._waiting.filter(kind__in=kinds).aggregate(rows=Count("id"), oldest=Min("created_at"))
        aside = self._aside.filter(kind__in=kinds).count()
        others = self._waiting.exclude(kind__in=kinds).count()
        oldest = _as_given(waiting["oldest"])
        return OutboxCounts(waiting=waiting["rows"], oldest=oldest, set_aside=aside, for_others=others)

    def list_set_aside(self, limit: int, after: int = 0) -> Sequence[OutboxRow]:
        return [OutboxRow.of(one, _as_given) for one in self._aside.filter(id__gt=after).order_by("id")[:limit]]

    def release(self, ids: Collection[int], *, at_any_version: bool) -> int:
        aside = self._aside.filter(id__in=ids)
        if at_any_version:
            aside.filter(expected_version__isnull=False).update(expected_version=None, version=None)
        return aside.update(error="", set_aside_at=None)

    def discard(self, ids: Collection[int]) -> int:
        return self._aside.filter(id__in=ids).delete()[0]

    def close(self) -> None:
        if self._is_mine and not self._connection.in_atomic_block:
            self._connection.close()


def _as_stored(at: Datetime) -> Datetime:
    """Return a time as Django takes it: without a zone if it has USE_TZ = False; it is in UTC then, too."""
    return at if settings.USE_TZ else at.astimezone(UTC).replace(tzinfo=None)


def _as_given(at: Any) -> Any:
    if not isinstance(at, datetime):
        return None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
