"""eventsourcing: its recorders for SQLite and PostgreSQL, without its aggregates and its JSON, which are slower."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..cases import CannotMeasureError, Job
from ..postgres import USER
from ..stock import Stock, make_stored, stocked
from ..workload import WireEvent, decode_event, encode

if TYPE_CHECKING:
    from eventsourcing.persistence import ApplicationRecorder

__all__ = ["Recorder", "opened", "settings_of"]

_CHUNK = 1_000  # events that are read at once
_BATCH = 10_000  # events that SQLite is filled with at once


class Recorder:
    """A table of events."""

    def __init__(self, job: Job, place: str, table: str) -> None:
        from eventsourcing.persistence import InfrastructureFactory, StoredEvent
        from eventsourcing.utils import Environment

        self._stored = StoredEvent
        table = table.replace("-", "_")
        settings = settings_of(job, place, table) | {"PERSISTENCE_MODULE": f"eventsourcing.{place}"}
        environment = Environment(table, settings | {"ORIGINATOR_ID_TYPE": "text"})
        self._factory: Any = InfrastructureFactory.construct(environment)
        self._recorder: ApplicationRecorder = self._factory.application_recorder()

    def append(self, events: Sequence[WireEvent]) -> None:
        """Insert them, all or none; one of a version that its actor has already is refused."""
        self._recorder.insert_events(
            [self._stored(event.actor_id, event.version, event.event_type, encode(event)) for event in events]
        )

    def load(self, actor_id: str, after: int = 0) -> list[WireEvent]:
        return [decode_event(stored.state) for stored in self._recorder.select_events(actor_id, gt=after or None)]

    def follow(self) -> Iterator[WireEvent]:
        last: int | None = None
        while batch := self._recorder.select_notifications(last, _CHUNK, inclusive_of_start=False):
            yield from (decode_event(one.state) for one in batch)
            last = batch[-1].id

    def fill(self, events: Iterable[WireEvent]) -> None:
        """Insert many events, in the quickest way; PostgreSQL then learns what it has, as it does after a while."""
        if not hasattr(self._factory.datastore, "cursor"):
            events = iter(events)
            while batch := list(islice(events, _BATCH)):
                self.append(batch)
            return
        columns = "(originator_id, originator_version, topic, state)"
        command = f"COPY {self._recorder.events_table_name} {columns} FROM STDIN"  # type: ignore[attr-defined]
        with self._factory.datastore.transaction(commit=True) as cursor, cursor.copy(command) as copy:
            for event in events:
                copy.write_row((event.actor_id, event.version, event.event_type, encode(event)))
        with self._factory.datastore.cursor() as cursor:
            cursor.execute("VACUUM ANALYZE")

    def close(self) -> None:
        self._factory.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def opened(job: Job, place: str, stock: Stock | None) -> Recorder:
    """Open a table, empty and named by the job, or named by the stock that it holds."""
    recorder = Recorder(job, place, stock.name if stock else job.prefix)
    if stock is not None:
        events = (make_stored(*one) for numbers in stock.rounds(job) for one in numbers)
        stocked(job, place, stock, lambda: recorder.fill(events))
    return recorder


def settings_of(job: Job, place: str, name: str) -> dict[str, str]:
    """Return where a database is: what the package reads in its environment."""
    return _SETTINGS[place](job, name)


def _sqlite(job: Job, table: str) -> dict[str, str]:
    return {"SQLITE_DBNAME": str(Path(job.stores.folder, f"{table}.db")), "SQLITE_LOCK_TIMEOUT": "30"}


def _postgres(job: Job, _: str) -> dict[str, str]:
    if not job.stores.postgres:
        raise CannotMeasureError("PostgreSQL is installed, but could not be started")
    return {
        "POSTGRES_HOST": "127.0.0.1",
        "POSTGRES_PORT": job.stores.postgres,
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_USER": USER,
        "POSTGRES_PASSWORD": "none",
        "POSTGRES_POOL_SIZE": "16",
    }


_SETTINGS = {"sqlite": _sqlite, "postgres": _postgres}
