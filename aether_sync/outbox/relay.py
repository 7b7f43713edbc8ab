"""``Relay``: takes committed rows of an outbox to the store and to the bus, on a thread of its own."""

import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import count
from threading import current_thread
from typing import Any, TypeVar, cast

from .._arguments import check_count, check_seconds, is_of
from .._runtime.again import again
from .._runtime.closing import Startable
from .._runtime.deadline import Deadline
from .._runtime.exit import before_threads_end, is_ending, mind_the_exit
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.locks import outside_locks
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Details, Reporter, last_words
from .._runtime.reporter import Kind as LogKind
from .._runtime.stop_signals import StopSignals
from .._runtime.threads import NoThreadError, make_thread, start
from .._runtime.waits import ParkingLot, Reply
from .._values.clock import monotonic, now
from .._values.counting import Times
from .._values.shown import explained, short
from ..bus import EventBus
from ..errors import AetherError, ClosedError, DeadlineExceededError, InvalidOptionError, OutboxError
from ..health import Health
from ..metrics import BOUNDS, CloseReport, Histogram, histogram_of
from ..stores.event_store import EventStore
from .database import OutboxCounts, OutboxDatabase, OutboxTable
from .outcome import Outcome
from .publishing import Publishing
from .rows import APPEND, PUBLISH, Kind, OutboxRow
from .storing import Storing
from .taking import take
from .turns import Turn

__all__ = ["Relay", "RelayMetrics", "end_relays", "let_relay_end", "wake_relays"]

T = TypeVar("T")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before it is tried again
_COUNT_EVERY = 1.0  # seconds between two counts of what waits, for health() and metrics()
_AT_EXIT = 5.0  # seconds for the relays that nobody has closed
_LARGEST_BATCH = 10_000  # rows: all of a batch are in memory
_LISTED = 1_000  # rows that are set aside: more at a time nobody reads
_LONGEST_ERROR = 2_000  # characters

_numbers = count(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayMetrics:
    """What a relay has done since it was made, and what waited when it last looked.

    Attributes:
        stored: Events that are in the store.
        published: Events that the bus has confirmed.
        set_aside: Rows that this relay has set aside.
        failures: How often it was tried again, as the database, the store or the bus was away.
        waiting: Rows of the outbox that waited, up to a second ago; those of all relays.
        waiting_aside: Rows of the outbox that were set aside, likewise.
        seconds: From the moment at which a row was made to the moment at which it was sent.
    """

    stored: int = 0
    published: int = 0
    set_aside: int = 0
    failures: int = 0
    waiting: int = 0
    waiting_aside: int = 0
    seconds: Histogram = field(default_factory=Histogram)


class _State(Enum):
    STARTING = "has not begun yet"
    STANDBY = "stands by"
    ACTIVE = "works"
    STOPPED = "has stopped"
    CLOSED = "is closed"


class Relay(Startable, ForkAware):
    """Takes the committed rows of an outbox to a store and to a bus.

    The events of an actor are stored in the order of its rows, each exactly once, whatever is killed when. The events
    of a namespace are published in the order of its rows, each at least once: after a break, some may be published
    again, with the same ids. Any number of relays may run, in any processes.

    A row that cannot be sent, whatever happens, is set aside: with the error, which is logged. The later rows of its
    actor wait until somebody has decided, by :meth:`retry` or :meth:`discard`; those of a namespace go on.

    Any thread may call any method. After a fork the relay is not started in the child, and can be started there.

    Args:
        database: Where the outbox is.
        store: Where ``append()`` is to go; None if another relay does that.
        bus: Where ``publish()`` is to go; likewise.
        poll: Seconds between two looks for new rows, while there are none. A commit of the same process is looked for
            at once. Each look is one question to the database that finds nothing, by an index.
        batch: How many rows are taken at once. With PostgreSQL and MySQL they are locked while they are sent.

    Raises:
        InvalidOptionError: One of these is wrong, or there is neither a store nor a bus.
    """

    def __init__(
        self,
        database: OutboxDatabase,
        *,
        store: EventStore | None = None,
        bus: EventBus | None = None,
        poll: float = 0.25,
        batch: int = 500,
    ) -> None:
        if not is_of(database, OutboxDatabase):
            raise InvalidOptionError(
                f"a relay takes the database of an outbox, such as outbox.on(engine), not {short(database)}"
            )
        if store is not None and not isinstance(store, EventStore):
            raise InvalidOptionError(f"store must be an event store, not {short(store)}")
        if bus is not None and not is_of(bus, EventBus):
            raise InvalidOptionError(f"bus must be an EventBus or NATSEventBus, not {short(bus)}")
        if store is None and bus is None:
            raise InvalidOptionError("a relay takes rows to a store, a bus or both: give it store= or bus=")
        self._database = database
        self._store, self._bus = store, bus
        self._kinds: tuple[Kind, ...] = (
            *([APPEND] if store is not None else []),
            *([PUBLISH] if bus is not None else []),
        )
        self._poll = check_seconds("poll", poll, 0.001)
        self._batch = check_count("batch", batch, _LARGEST_BATCH)
        self._reporter = Reporter()
        self._closed = False
        self._begin_anew()
        fork_aware.add(self)
        _relays.add(self)

    def _begin_anew(self) -> None:
        self._changed = ParkingLot()
        self._counts = _Counts()
        self._threads: list[_RelayThread] = []  # at most one; its first one counts

    def _after_fork(self) -> None:
        for thread in self._threads:
            thread.disown()
        self._begin_anew()

    # -- its life

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def _thread(self) -> "_RelayThread | None":
        try:
            return self._threads[0]
        except IndexError:
            return None

    def start(self, timeout: float | None = 5.0) -> None:
        """Begin, on a thread of its own. It does nothing if that thread runs already.

        Args:
            timeout: Seconds to reach the database; None waits for ever. The store and the bus may be away: the relay
                waits for them, and :meth:`health` says so. Once it has begun, it waits for the database, too.

        Raises:
            OutboxError: The table is not there, or lacks a column, or there is no thread; or the database was not
                reached in time. Nothing has begun.
            ClosedError: It is closed, or the process is about to end.
        """
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        mind_the_exit()
        own = _RelayThread(self)
        while True:
            there = self._thread
            if there is None:
                self._threads.append(own)  # accepted race: two threads append, and both wait for the first of them
            elif there.state in (_State.STOPPED, _State.CLOSED):
                with suppress(ValueError):
                    self._threads.remove(there)
            else:
                break
        thread = self._threads[0]
        try:
            if thread is own:
                thread.start()
            if self._closed or is_ending():
                thread.let_end()
            thread.begun.wait(deadline)
        except DeadlineExceededError:
            if thread is own:
                self._drop(thread)
            trouble = f": {thread.trouble}" if thread.trouble else ""
            raise OutboxError(f"the relay of {self._database} has not begun within {deadline}{trouble}") from None
        except BaseException:
            if thread is own:
                self._drop(thread)
            raise
        self._refuse_if_closed()

    def _drop(self, thread: "_RelayThread") -> None:
        thread.let_end()
        with suppress(ValueError):
            self._threads.remove(thread)

    def _refuse_if_closed(self) -> None:
        if self._closed or is_ending():
            raise ClosedError(f"{self!r} is closed: make a new one")

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Take no more rows; the batch that is being sent is finished. Rows that wait stay for the next relay.

        Args:
            timeout: Seconds for the batch; None waits for ever. One that takes longer is left behind, and nothing of it
                is lost.

        Returns:
            What was left undone. It is true if nothing was.
        """
        deadline = Deadline(timeout)
        is_left = self._end(deadline)
        self._reporter.flush(last_words(deadline))
        return CloseReport(handlers_left=int(is_left), timed_out=is_left)

    def _let_end(self) -> None:
        self._closed = True
        for thread in list(self._threads):
            thread.let_end()

    def _end(self, deadline: Deadline) -> bool:
        self._let_end()
        relay = self._thread
        if relay is None or relay.thread is current_thread() or relay.thread.ident is None:
            return False
        with outside_locks():
            relay.thread.join(deadline.for_lock())
        is_left = relay.thread.is_alive()
        if is_left:
            text = "closing the relay of %s leaves a batch behind, on %s"
            self._reporter.warning(LogKind.HANDLERS_LEFT, text, str(self._database), relay.thread.name)
        return is_left

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the relay has ended here, because another thread has closed it.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            OutboxError: It has stopped, by an error that no waiting mends, such as a table that is gone; or it was not
                started.
        """
        deadline = Deadline(timeout)
        if self._thread is None and not self._closed:
            raise OutboxError(f"{self!r} does not run here: call start() before wait()")
        ended = self._changed.wait(self._has_ended, deadline)
        thread = self._thread
        if thread is not None and thread.failure is not None:
            raise again(thread.failure)
        return ended

    def _has_ended(self) -> bool:
        thread = self._thread
        return self._closed or (thread is not None and thread.state in (_State.STOPPED, _State.CLOSED))

    def run(self, grace: float | None = 25.0) -> None:
        """Work until SIGTERM or SIGINT, then finish the batch and return: the last line of a program.

        The store and the bus are not closed: whoever has made them does that. A second signal ends the process at once.

        Args:
            grace: Seconds for the batch; None waits for ever.

        Raises:
            SystemExit: The batch was left behind; its code is 3.
            WorkerError: This is not the main thread, where alone Python handles signals. Also the errors of
                :meth:`start`, which waits for the database as long as it takes, and of :meth:`wait`.
        """
        with StopSignals(self._changed.wake_all) as signals:
            self.start_soon()
            self._changed.wait(lambda: signals.first is not None or self._has_ended(), Deadline(None))
            report = self.close(grace)
        self.wait(0)
        if not report:
            sys.exit(3)

    def start_soon(self) -> None:
        """Begin, as :meth:`start`, but wait for nothing: what is wrong, :meth:`health` and :meth:`wait` say."""
        self._refuse_if_closed()
        mind_the_exit()
        own = _RelayThread(self)
        self._threads.append(own)
        if self._threads[0] is own:
            own.start()

    def wake(self) -> None:
        """Look for new rows now. A commit of the same process does this."""
        thread = self._thread
        if thread is not None:
            thread.wake()

    # -- without a thread

    def run_once(self) -> int:
        """Take one batch, on the calling thread; return how many rows were sent, set aside, or given a version.

        It is 0 if no row waits that this can have. It is for tests and for programs with a loop of their own.

        Raises:
            AetherError: The store or the bus was away, or did not do it; what was done before is kept.
            Exception: The database has failed.
        """
        turn = None
        table = self._database.connect()
        try:
            turn = Turn("" if table.locks_rows else table.turn_file)
            if not turn.take():
                return 0
            outcome = _Sending(self).work_once(table)
        finally:
            if turn is not None:
                turn.give_back()
            table.close()
        if outcome.trouble is not None:
            raise outcome.trouble
        return len(outcome.sent) + len(outcome.refused) + len(outcome.plans)

    def drain(self) -> int:
        """Take batches, on the calling thread, until no row waits that this can have; return how many events were sent.

        Raises:
            AetherError: As for :meth:`run_once`.
            Exception: The database has failed.
        """
        before = self._counts.stored + self._counts.published
        while self.run_once():
            pass
        return self._counts.stored + self._counts.published - before

    # -- rows that are set aside

    def set_aside(self) -> list[OutboxRow]:
        """Return the rows that are set aside, in the order of their ids; the first 1,000 of them.

        Raises:
            OutboxError: The database cannot be asked.
        """
        return self._with_table(lambda table: list(table.list_set_aside(_LISTED)))

    def retry(self, *ids: int, at_any_version: bool = False) -> int:
        """Have rows that are set aside sent again, in their place: before the later rows of their actor.

        Args:
            *ids: Their ids; without any, all of them.
            at_any_version: Whether to forget the expected version of those that have one: their events are stored at
                whatever version the actor is.

        Returns:
            How many rows were set aside, and wait again.

        Raises:
            OutboxError: The database cannot be asked.
        """

        def release(table: OutboxTable) -> int:
            wanted = ids or tuple(row.id for row in table.list_set_aside(_LISTED))
            with table.transaction():
                return table.release(wanted, at_any_version=at_any_version)

        released = self._with_table(release)
        wake_relays()
        return released

    def discard(self, *ids: int) -> int:
        """Delete rows that are set aside; their events are never sent, and the later rows of the actor go on.

        Args:
            *ids: Their ids.

        Returns:
            How many rows were set aside, and are gone.

        Raises:
            OutboxError: The database cannot be asked.
        """

        def drop(table: OutboxTable) -> int:
            with table.transaction():
                return table.discard(ids)

        discarded = self._with_table(drop)
        wake_relays()
        return discarded

    def _with_table(self, work: Any) -> Any:
        try:
            table = self._database.connect()
            try:
                return work(table)
            finally:
                table.close()
        except AetherError:
            raise
        except Exception as error:
            raise OutboxError(f"{self._database} could not be asked: {explained(error)}") from error

    # -- how it is

    def health(self) -> Health:
        """Return whether the relay can do its work now, and if not, why. It raises nothing, and asks nobody.

        It is ok while it works or stands by, and neither the database nor the store nor the bus makes trouble. It is
        alive until it stops for a reason that does not pass, such as a table that is gone, or is closed. Rows that are
        set aside are among the numbers, and are no reason not to be ok: the others go on.

        Returns:
            With ``numbers``: ``waiting`` and ``set_aside``, rows, and ``seconds_oldest``, how long the oldest of those
            that wait has waited; as they were up to a second ago.
        """
        about, thread = f"the relay of {self._database}", self._thread
        if self._closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        if thread is None:
            return Health(about=about, reasons=(f"{about} is not started",))
        if thread.failure is not None:
            return Health(about=about, reasons=(f"{about} has stopped: {thread.failure}",), alive=False)
        reasons = [f"{about} tries again: {thread.trouble}"] if thread.trouble else []
        if thread.state is _State.STARTING:
            reasons.append(f"{about} has not begun yet")
        return Health.of(about, reasons, numbers=self._counts.numbers())

    def metrics(self) -> RelayMetrics:
        """Return what the relay has done; any thread may ask, also after the end."""
        return self._counts.metrics()

    def __repr__(self) -> str:
        thread = self._thread
        state = "is closed" if self._closed else "is not started" if thread is None else thread.state.value
        return f"<Relay of {self._database}, which {state}>"


class _Counts:
    """What a relay has done. Written by the thread that sends, read by any."""

    def __init__(self) -> None:
        self.stored = self.published = self.set_aside = self.failures = 0
        self.there = OutboxCounts(waiting=0, oldest=None, set_aside=0)
        self.times = Times(BOUNDS)

    def numbers(self) -> dict[str, float]:
        oldest = self.there.oldest
        age = 0.0 if oldest is None else max(0.0, (now() - oldest).total_seconds())
        return {"waiting": self.there.waiting, "set_aside": self.there.set_aside, "seconds_oldest": age}

    def metrics(self) -> RelayMetrics:
        return RelayMetrics(
            stored=self.stored,
            published=self.published,
            set_aside=self.set_aside,
            failures=self.failures,
            waiting=self.there.waiting,
            waiting_aside=self.there.set_aside,
            seconds=histogram_of(self.times),
        )


class _Sending:
    """Sends batches for a relay. One thread uses it, with its own table.

    Args:
        relay: The relay.
    """

    def __init__(self, relay: Relay) -> None:
        self._kinds, self._batch = relay._kinds, relay._batch
        self._counts, self._reporter = relay._counts, relay._reporter
        self._about = str(relay._database)
        self._storing = None if relay._store is None else Storing(relay._store)
        self._publishing = None if relay._bus is None else Publishing(relay._bus)

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
            table.set_aside({row.id: explained(error, _LONGEST_ERROR) for row, error in outcome.refused}, now())
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
            self._reporter.error(LogKind.SET_ASIDE, text, *said, **details)

    def count_there(self, table: OutboxTable) -> None:
        """Count what waits."""
        self._counts.there = table.counts(self._kinds)


class _RelayThread:
    """The thread of a started relay. It is started once.

    All attributes that are not its own are plain values, which one thread writes and any reads.

    Args:
        relay: The relay, which lives as long as the thread.
    """

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._sending = _Sending(relay)
        self._closing = False
        self._is_news = False
        self._failures = 0
        self._turn: Turn | None = None
        self._table: OutboxTable | None = None
        self.state = _State.STARTING
        self.failure: Exception | None = None  #: why it has stopped
        self.trouble = ""  #: why it does not get on now, in words; it tries again
        self.begun: Reply[None] = Reply()
        self.thread = make_thread(self._run, name=f"aether-relay-{next(_numbers)}")

    def start(self) -> None:
        """Start the thread.

        Raises:
            OutboxError: There is none to be had.
        """
        try:
            start(self.thread)
        except NoThreadError as error:
            failure = OutboxError(f"the relay of {self._relay._database} is not begun: {error}")
            self.begun.fail(failure)  # for whoever else waits for it
            raise failure from error

    def let_end(self) -> None:
        """Have the thread end after the batch that it sends now. Any thread; it does not wait."""
        self._closing = True
        self._relay._changed.wake_all()

    def wake(self) -> None:
        """Have it look for rows at once. Any thread."""
        self._is_news = True
        self._relay._changed.wake_all()

    def disown(self) -> None:
        """In a forked child, where the thread is not: keep what is the parent's."""
        if self._table is not None:
            _of_parents.append(self._table)

    # -- the thread

    def _run(self) -> None:
        try:
            self._work_until_closed()
            self.state = _State.CLOSED
        except ClosedError:
            self.state = _State.CLOSED if self._closing else self._stop_with(sys.exception())
        except BaseException as error:
            self.state = self._stop_with(error)
        finally:
            self._disconnect()
            self.begun.set(None)
            self._relay._changed.wake_all()

    def _stop_with(self, error: BaseException | None) -> _State:
        relay = self._relay
        if isinstance(error, OutboxError):
            self.failure = error
        else:
            self.failure = OutboxError(
                f"the relay of {relay._database} has stopped: {explained(cast(Any, error), 1_000)}"
            )
            self.failure.__cause__ = error
        self.begun.fail(self.failure)
        text = "the relay of %s has stopped: %s"
        relay._reporter.error(
            LogKind.RUNNER_ENDED, text, str(relay._database), self.failure, error=self.failure.__cause__
        )
        return _State.STOPPED

    def _work_until_closed(self) -> None:
        database = self._relay._database
        while not self._closing:
            try:
                self._table = table = database.connect()
                table.check()
                self.begun.set(None)
                self._work(table)
            except Exception as error:
                if isinstance(error, OutboxError | ClosedError) or not database.is_passing(error):
                    raise
                self._disconnect()
                self._note_trouble(error)
                self._pause()

    def _work(self, table: OutboxTable) -> None:
        turn = self._turn = Turn("" if table.locks_rows else table.turn_file)
        counted = 0.0
        while not self._closing:
            self._is_news = False  # before the look: what comes later is looked for again
            if not turn.take():
                self.state = _State.STANDBY
                self._is_well()
                self._sleep(self._relay._poll)
                continue
            self.state = _State.ACTIVE
            outcome = self._sending.work_once(table)
            if monotonic() - counted >= _COUNT_EVERY:
                self._sending.count_there(table)
                counted = monotonic()
            if outcome.trouble is not None:
                self._note_trouble(outcome.trouble)
                self._pause()
                continue
            self._is_well()
            if outcome.is_empty:
                self._sleep(self._relay._poll)

    def _note_trouble(self, error: Exception) -> None:
        self._failures += 1
        self._relay._counts.failures += 1
        self.trouble = explained(error)
        about = str(self._relay._database)
        text = "the relay of %s tries again: %s"
        self._relay._reporter.burst(LogKind.RELAY_RETRIED, text, about, self.trouble, about=about)

    def _is_well(self) -> None:
        self._failures, self.trouble = 0, ""

    def _pause(self) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        self._relay._changed.wait(lambda: self._closing, Deadline(pause))

    def _sleep(self, seconds: float) -> None:
        self._relay._changed.wait(lambda: self._closing or self._is_news, Deadline(seconds))

    def _disconnect(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.give_back()
        table, self._table = self._table, None
        if table is not None:
            with suppress(Exception):  # it is lost
                table.close()


_relays: WeakRegistry[Relay] = WeakRegistry()

#: Connections of parent processes: closing one in the child would end it for the parent, so they are kept.
_of_parents: list[OutboxTable] = []


def wake_relays() -> None:
    """Have all relays of this process look for new rows: after a commit."""
    for one in _relays:
        one.wake()


def let_relay_end(relay: Relay) -> None:
    """Have a relay take no more rows; do not wait for the batch that is being sent."""
    relay._let_end()


def end_relays(relays: Iterable[Relay], deadline: Deadline) -> int:
    """Close all of them within one deadline; return how many batches are left behind."""
    closing = list(relays)
    for one in closing:
        one._let_end()
    return sum(one._end(deadline) for one in closing)


@before_threads_end
def _end_relaying() -> None:
    """Close all relays when the main thread has ended, so that their batches can be finished."""
    end_relays(_relays, Deadline(_AT_EXIT))
