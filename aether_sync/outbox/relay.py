"""``Relay``: takes committed rows of an outbox to the store and to the bus, on a thread of its own."""

import sys
import weakref
from collections.abc import Callable, Iterable
from typing import TypeVar

from .._arguments import check_count, check_flag, check_seconds, is_of
from .._runtime.again import again
from .._runtime.closing import Startable
from .._runtime.deadline import Deadline
from .._runtime.exit import before_threads_end, is_ending, mind_the_exit
from .._runtime.fork import ForkAware, fork_aware
from .._runtime.only_thread import OnlyThread
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Kind, Reporter, last_words
from .._runtime.stop_signals import StopSignals
from .._runtime.waits import ParkingLot
from .._values.shown import explained, short
from ..bus import EventBus
from ..errors import (
    AetherError,
    ClosedError,
    DeadlineExceededError,
    InvalidOptionError,
    OutboxError,
    VersionConflictError,
)
from ..health import Health
from ..metrics import CloseReport
from ..stores.event_store import EventStore
from .database import OutboxDatabase, OutboxTable
from .rows import OutboxRow
from .sending import Counts, RelayMetrics, Sending, Settings
from .turns import Turn
from .working import RelayThread, State

__all__ = ["Relay", "end_relays", "let_relay_end", "wake_relays"]

T = TypeVar("T")

_AT_EXIT = 5.0  # seconds for the relays that nobody has closed
_LARGEST_BATCH = 10_000  # rows: all of a batch are in memory
_LISTED = 1_000  # rows that are set aside: more at a time nobody reads
_CONFLICT = VersionConflictError.__name__  # what the error of such a row begins with
_LEFT = 3  # the exit status of run() if a batch was left behind


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
        if not isinstance(database, OutboxDatabase):
            raise InvalidOptionError(
                f"a relay takes the database of an outbox, such as outbox.on(engine), not {short(database)}"
            )
        if store is not None and not isinstance(store, EventStore):
            raise InvalidOptionError(f"store must be an event store, not {short(store)}")
        if bus is not None and not is_of(bus, EventBus):
            raise InvalidOptionError(f"bus must be an EventBus or NATSEventBus, not {short(bus)}")
        if store is None and bus is None:
            raise InvalidOptionError("a relay takes rows to a store, a bus or both: give it store= or bus=")
        self._settings = Settings(
            database=database,
            store=store,
            bus=bus,
            poll=check_seconds("poll", poll, 0.001),
            batch=check_count("batch", batch, _LARGEST_BATCH),
        )
        self._reporter = Reporter()
        weakref.finalize(self, self._reporter.end).atexit = False
        self._closed = False
        self._begin_anew()
        fork_aware.add(self)
        _relays.add(self)

    def _begin_anew(self) -> None:
        self._changed = ParkingLot()
        self._counts = Counts()
        self._only: OnlyThread[RelayThread] = OnlyThread()

    def _after_fork(self) -> None:
        tables = [thread.disown() for thread in self._only]
        _of_parents.extend(table for table in tables if table is not None)
        self._begin_anew()

    # -- its life

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    @property
    def _thread(self) -> RelayThread | None:
        return self._only.there

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
        thread, is_own = self._launch()
        try:
            thread.begun.wait(deadline)
        except DeadlineExceededError:
            if is_own:
                thread.let_end()
            trouble = f": {thread.trouble}" if thread.trouble else ""
            raise OutboxError(
                f"the relay of {self._settings.database} has not begun within {deadline}{trouble}"
            ) from None
        except BaseException:
            if is_own:
                thread.let_end()
            raise
        self._refuse_if_closed()

    def _launch(self) -> tuple[RelayThread, bool]:
        """Start a thread, unless one runs; return the one that does, and whether it was started here."""
        self._refuse_if_closed()
        mind_the_exit()
        own = RelayThread(self._settings, self._counts, self._reporter, self._changed, self)
        thread = self._only.begin(own)
        if self._closed or is_ending():
            thread.let_end()
        return thread, thread is own

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
        self._reporter.close(last_words(deadline))
        return CloseReport(handlers_left=int(is_left), timed_out=is_left)

    def _let_end(self) -> None:
        self._closed = True
        self._only.let_end()

    def _end(self, deadline: Deadline) -> bool:
        self._let_end()
        left = self._only.join(deadline)
        if left is not None:
            text = "closing the relay of %s leaves a batch behind, on %s"
            self._reporter.warning(Kind.HANDLERS_LEFT, text, str(self._settings.database), left.name)
        return left is not None

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
        return self._closed or (thread is not None and thread.state in (State.STOPPED, State.CLOSED))

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
            self._launch()
            self._changed.wait(lambda: signals.first is not None or self._has_ended(), Deadline(None))
            report = self.close(grace)
        self.wait(0)
        if not report:
            sys.exit(_LEFT)

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
            OutboxError: The table is not there; or it is in a database in memory, whose transaction is open.
            AetherError: The store or the bus was away, or did not do it; what was done before is kept.
            Exception: The database has failed.
        """
        turn = None
        table = self._settings.database.connect()
        try:
            turn = Turn("" if table.locks_rows else table.turn_file)
            if not turn.take():
                return 0
            outcome = Sending(self._settings, self._counts, self._reporter).work_once(table)
        except Exception as error:
            if not isinstance(error, AetherError):
                _refuse_if_missing(table, error)
            raise
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
            *ids: Their ids. One that is not set aside, or not there any more, is passed over.
            at_any_version: Whether to forget the expected version of those that were set aside for a conflict with it:
                their events are stored at whatever version the actor is.

        Returns:
            How many rows were set aside, and wait again.

        Raises:
            OutboxError: The database cannot be asked.
        """
        return self._retry(at_any_version, lambda row: row.id in ids)

    def retry_all(self, *, at_any_version: bool = False) -> int:
        """Have all rows that are set aside sent again: as :meth:`retry`."""
        return self._retry(at_any_version, lambda _: True)

    def _retry(self, at_any_version: bool, is_wanted: Callable[[OutboxRow], bool]) -> int:
        at_any_version = check_flag("at_any_version", at_any_version)

        def release(table: OutboxTable) -> int:
            released = after = 0
            while aside := table.list_set_aside(_LISTED, after):
                after = aside[-1].id
                wanted = [row for row in aside if is_wanted(row)]
                # Any other row may be stored at its version, as far as anybody knows here.
                free = [row.id for row in wanted if at_any_version and row.error.startswith(_CONFLICT)]
                with table.transaction():
                    released += table.release(free, at_any_version=True) if free else 0
                    released += table.release([row.id for row in wanted if row.id not in free], at_any_version=False)
            return released

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

    def _with_table(self, work: Callable[[OutboxTable], T]) -> T:
        try:
            table = self._settings.database.connect()
            try:
                return work(table)
            finally:
                table.close()
        except AetherError:
            raise
        except Exception as error:
            raise OutboxError(f"{self._settings.database} could not be asked: {explained(error)}") from error

    # -- how it is

    def health(self) -> Health:
        """Return whether the relay can do its work now, and if not, why. It raises nothing, and asks nobody.

        It is ok while it works or stands by, and neither the database nor the store nor the bus makes trouble. It is
        alive until it stops for a reason that does not pass, such as a table that is gone, or is closed. Rows that are
        set aside are among the numbers, and are no reason not to be ok: the others go on.

        Returns:
            With ``numbers``: ``waiting`` and ``set_aside``, rows; ``seconds_oldest``, how long the oldest of those that
            wait has waited; and ``for_others``, rows that wait for a store or bus which this relay was not given. They
            are as they were up to a second ago.
        """
        about, thread = f"the relay of {self._settings.database}", self._thread
        if self._closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        if thread is None:
            return Health(about=about, reasons=(f"{about} is not started",))
        if thread.failure is not None:
            return Health(about=about, reasons=(f"{about} has stopped: {thread.failure}",), alive=False)
        reasons = [f"{about} tries again: {thread.trouble}"] if thread.trouble else []
        if thread.state is State.STARTING:
            reasons.append(f"{about} has not begun yet")
        return Health.of(about, reasons, numbers=self._counts.numbers())

    def metrics(self) -> RelayMetrics:
        """Return what the relay has done; any thread may ask, also after the end."""
        return self._counts.metrics(str(self._settings.database))

    def __repr__(self) -> str:
        thread = self._thread
        state = "is closed" if self._closed else "is not started" if thread is None else thread.state.value
        return f"<Relay of {self._settings.database}, which {state}>"


def _refuse_if_missing(table: OutboxTable, error: Exception) -> None:
    """Raise what says what to do if the table is not there; it is why the database has failed."""
    try:
        table.check()
    except OutboxError as missing:
        raise missing from error
    except Exception:  # the database is away, which the first error says
        return


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
