"""``Sending``: one batch after the other for a relay: taken, sent, and written into the table; and what is counted."""

from dataclasses import dataclass, field

from .._runtime.reporter import Details, Reporter
from .._runtime.reporter import Kind as Kind
from .._values.clock import monotonic, now
from .._values.counting import Times
from .._values.shown import explained
from ..bus import EventBus
from ..errors import ClosedError
from ..metrics import BOUNDS, Histogram, histogram_of
from ..stores.event_store import EventStore
from .database import OutboxCounts, OutboxDatabase, OutboxTable
from .outcome import Outcome
from .publishing import Publishing
from .rows import APPEND, PUBLISH, OutboxRow
from .rows import Kind as RowKind
from .storing import Storing
from .taking import take

__all__ = ["Counts", "RelayMetrics", "Sending", "Settings"]

_LONGEST_ERROR = 2_000  # characters
_OTHERS_MAY_TAKE = 30.0  # seconds that rows of another relay wait before that is told


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a relay was given.

    Attributes:
        database: Where the outbox is.
        store: Where rows of the store go; None if another relay takes them.
        bus: Where rows of the bus go; likewise.
        poll: Seconds between two looks for new rows.
        batch: How many rows are taken at once.
    """

    database: OutboxDatabase
    store: EventStore | None
    bus: EventBus | None
    poll: float
    batch: int

    @property
    def kinds(self) -> tuple[RowKind, ...]:
        """The kinds of rows that it takes."""
        targets: tuple[tuple[RowKind, object], ...] = (APPEND, self.store), (PUBLISH, self.bus)
        return tuple(kind for kind, target in targets if target is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayMetrics:
    """What a relay has done since it was made, and what waited when it last looked.

    Attributes:
        outbox: Which outbox: its table and its database.
        stored: Events that are in the store.
        published: Events that the bus has confirmed.
        set_aside: Rows that this relay has set aside.
        failures: How often it was tried again, as the database, the store or the bus was away.
        waiting: Rows of the outbox that waited, up to a second ago; those of all relays.
        waiting_aside: Rows of the outbox that were set aside, likewise.
        seconds: From the moment at which a row was made to the moment at which it was sent.
    """

    outbox: str = ""
    stored: int = 0
    published: int = 0
    set_aside: int = 0
    failures: int = 0
    waiting: int = 0
    waiting_aside: int = 0
    seconds: Histogram = field(default_factory=Histogram)


class Counts:
    """What a relay has done. Written by the thread that sends, read by any."""

    def __init__(self) -> None:
        self.stored = self.published = self.set_aside = self.failures = 0
        self.there = OutboxCounts(waiting=0, oldest=None, set_aside=0)
        self.times = Times(BOUNDS)

    def numbers(self) -> dict[str, float]:
        """Return those of ``health()``."""
        oldest = self.there.oldest
        age = 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
        return {
            "waiting": self.there.waiting,
            "set_aside": self.there.set_aside,
            "seconds_oldest": age,
            "for_others": self.there.for_others,
        }

    def metrics(self, outbox: str) -> RelayMetrics:
        """Return those of ``metrics()``."""
        return RelayMetrics(
            outbox=outbox,
            stored=self.stored,
            published=self.published,
            set_aside=self.set_aside,
            failures=self.failures,
            waiting=self.there.waiting,
            waiting_aside=self.there.set_aside,
            seconds=histogram_of(self.times),
        )


class Sending:
    """Sends batches for a relay. One thread uses it, with its own table.

    Args:
        settings: What the relay was given.
        counts: Those of the relay.
        reporter: Logs for the relay.
    """

    def __init__(self, settings: Settings, counts: Counts, reporter: Reporter) -> None:
        self._kinds, self._batch = settings.kinds, settings.batch
        self._counts, self._reporter = counts, reporter
        self._about = str(settings.database)
        self._storing = None if settings.store is None else Storing(settings.store)
        self._publishing = None if settings.bus is None else Publishing(settings.bus)
        self._others_wait_since: float | None = None

    def work_once(self, table: OutboxTable) -> Outcome:
        """Take a batch, send it, and write what became of it."""
        if table.locks_rows:
            with table.transaction():
                outcome = self._send(take(table, self._kinds, self._batch))
                self._write(table, outcome)
        else:
            rows = take(table, self._kinds, self._batch)
            outcome = self._send(rows)
            if not outcome.is_empty:
                with table.transaction():
                    self._drop_old_plans(table, rows, outcome)
                    self._write(table, outcome)
        self._count(outcome)
        return outcome

    def _send(self, rows: list[OutboxRow]) -> Outcome:
        outcome = Outcome()
        for kind, sender in ((APPEND, self._storing), (PUBLISH, self._publishing)):
            wanted = [row for row in rows if row.kind == kind]
            if sender is None or not wanted:
                continue
            try:
                sender.send(wanted, outcome)
            except ClosedError:
                raise
            except Exception as error:
                outcome.trouble = error
        return outcome

    def _drop_old_plans(self, table: OutboxTable, rows: list[OutboxRow], outcome: Outcome) -> None:
        """Forget plans for rows that another relay has planned meanwhile: it may be storing them at that version."""
        if outcome.plans:
            before = {row.id: row.version for row in rows}
            there = {row.id: row.version for row in table.take(outcome.plans)}
            outcome.plans = {
                id_: version for id_, version in outcome.plans.items() if there.get(id_, -1) == before[id_]
            }

    def _write(self, table: OutboxTable, outcome: Outcome) -> None:
        if outcome.sent:
            table.remove([row.id for row in outcome.sent])
        if outcome.refused:
            table.set_aside({row.id: _written(error) for row, error in outcome.refused}, now())
        if outcome.plans:
            table.plan(outcome.plans)

    def _count(self, outcome: Outcome) -> None:
        """Count and log what is committed."""
        counts, at = self._counts, now()
        counts.stored += sum(row.count for row in outcome.stored)
        counts.published += sum(row.count for row in outcome.published)
        for row in outcome.sent:
            counts.times.add(max(0.0, (at - row.created_at).total_seconds()))
        for row, error in outcome.refused:
            counts.set_aside += 1
            text = "row %d of %s is set aside, for %s %r: %s"
            what = "actor" if row.kind == APPEND else "namespace"
            details = Details(actor=row.name) if row.kind == APPEND else Details(namespace=row.name)
            said = (row.id, self._about, what, row.name, explained(error, _LONGEST_ERROR))
            self._reporter.error(Kind.SET_ASIDE, text, *said, **details)

    def count_there(self, table: OutboxTable) -> None:
        """Count what waits, and tell of rows that seem to be nobody's."""
        self._counts.there = there = table.counts(self._kinds)
        if not there.for_others:
            self._others_wait_since = None
        elif self._others_wait_since is None:
            self._others_wait_since = monotonic()
        elif monotonic() - self._others_wait_since >= _OTHERS_MAY_TAKE:
            lacking = "store" if self._storing is None else "bus"
            text = "%d rows of %s are for a %s, which this relay was not given: start one that has it"
            self._reporter.burst(Kind.ROWS_LEFT, text, there.for_others, self._about, lacking, about=self._about)


def _written(error: Exception) -> str:
    """Return an error as every database takes it: PostgreSQL has no NUL in a text."""
    return explained(error, _LONGEST_ERROR).replace("\0", "\\0")
