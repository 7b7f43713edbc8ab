"""eventsourcing's own ``ProjectionRunner``: events of an application into rows of SQLite or PostgreSQL.

Each event is a transaction: the rows of it, and the tracking record beside them. The events come from the recorder for
PostgreSQL; those for SQLite, whose recorder has no subscriptions, from the one in memory, which is the quickest.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count, islice
from threading import Event
from typing import Any

from ..cases import Job, Sample, Stopwatch
from .eventsourcing import settings_of

__all__ = ["Placed", "project"]

_CHUNK = 1_000  # events that are recorded at once
_EACH = 10  # events of an aggregate
_AT = datetime(2025, 1, 2, 3, 4, 5, 678901, UTC)
_CREATE = "CREATE TABLE IF NOT EXISTS quantities (actor_id TEXT PRIMARY KEY, quantity BIGINT)"
_ADD = (
    "INSERT INTO quantities VALUES ({0}, {0}) ON CONFLICT (actor_id) "
    "DO UPDATE SET quantity = quantities.quantity + excluded.quantity"
)


class Placed:
    """An event of an application."""

    originator_id: str
    originator_version: int
    timestamp: datetime
    quantity: int


def project(job: Job, place: str) -> Sample:
    """Let a runner project so many events as the job has, and measure from its start to the last transaction.

    Args:
        job: The run.
        place: Where the rows are: ``"sqlite"`` or ``"postgres"``.

    Returns:
        Events per second, and seconds of the processor for each event, of this process alone.
    """
    from eventsourcing.application import Application
    from eventsourcing.persistence import ApplicationRecorder, StoredEvent
    from eventsourcing.popo import POPOApplicationRecorder
    from eventsourcing.projection import Projection, ProjectionRunner
    from eventsourcing.utils import get_topic

    table = job.prefix.replace("-", "_").lower()
    kept: list[ApplicationRecorder] = []  # those in memory: the runner makes an application of its own

    class Orders(Application[str]):
        name = table

        def construct_recorder(self) -> ApplicationRecorder:
            if place == "postgres":
                return super().construct_recorder()
            if not kept:
                kept.append(POPOApplicationRecorder())
            return kept[0]

    class Quantities(Projection[Any]):
        name = f"{table}_rows"

        def process_event(self, domain_event: Any, tracking: Any) -> None:
            self.view.add(domain_event, tracking)
            if tracking.notification_id >= last:
                done.set()

    module = f"eventsourcing.{place}"
    env = settings_of(job, place, table) | {
        "ORIGINATOR_ID_TYPE": "text",
        "PERSISTENCE_MODULE": module if place == "postgres" else "eventsourcing.popo",
        f"{table.upper()}_ROWS_PERSISTENCE_MODULE": module,
    }
    done, last = Event(), 0
    with Orders(env) as orders:
        topic = get_topic(Placed)
        state = orders.mapper.transcoder.encode({"timestamp": _AT, "quantity": 3, "note": "n" * 150})
        events = iter(_numbers(job.events))
        while batch := [StoredEvent(*one, topic, state) for one in islice(events, _CHUNK)]:
            orders.recorder.insert_events(batch)
        last = orders.recorder.max_notification_id() or 0
    watch = Stopwatch()
    with ProjectionRunner(
        application_class=Orders, projection_class=Quantities, view_class=_view(place), env=env
    ) as runner:
        while not done.wait(1):
            if runner.is_interrupted.is_set():
                runner.run_forever(0)  # raises what has ended it
                raise AssertionError("the runner has ended")
        sample = watch.read(job.events)
        runner.view.datastore.close()
    return sample


def _numbers(events: int) -> Iterator[tuple[str, int]]:
    """Yield aggregates and versions, all first versions first."""
    aggregates = -(-events // _EACH)
    return islice(((f"order-{one:06}", version) for version in count(1) for one in range(aggregates)), events)


def _view(place: str) -> Any:
    from eventsourcing.sqlite import SQLiteTrackingRecorder

    if place == "sqlite":
        base, command = SQLiteTrackingRecorder, _ADD.format("?")
    else:
        from eventsourcing.postgres import PostgresTrackingRecorder

        base, command = PostgresTrackingRecorder, _ADD.format("%s")  # type: ignore[assignment]

    class View(base):  # type: ignore[misc, valid-type]
        def create_table(self) -> None:
            super().create_table()
            with self.datastore.transaction(commit=True) as cursor:
                cursor.execute(_CREATE)

        def add(self, domain_event: Any, tracking: Any) -> None:
            with self.datastore.transaction(commit=True) as cursor:
                self._insert_tracking(cursor, tracking)
                cursor.execute(command, (domain_event.originator_id, domain_event.quantity))

    return View
