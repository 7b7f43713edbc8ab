"""``RelayThread``: the thread of a started relay.

States::

    STARTING --> STANDBY <--> ACTIVE
        |           |            |
        +-----------+------------+--> STOPPED, with an error; or CLOSED

Only where the database cannot lock rows, one relay works and the others stand by.
"""

from contextlib import suppress
from enum import Enum
from itertools import count

from .._runtime.deadline import Deadline
from .._runtime.reporter import Kind, Reporter
from .._runtime.threads import NoThreadError, make_thread, start
from .._runtime.waits import ParkingLot, Reply
from .._values.clock import monotonic
from .._values.shown import explained
from ..errors import ClosedError, OutboxError
from .database import OutboxTable
from .sending import Counts, Sending, Settings
from .turns import Turn

__all__ = ["RelayThread", "State"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before it is tried again
_COUNT_EVERY = 1.0  # seconds between two counts of what waits, for health() and metrics()

_numbers = count(1)


class State(Enum):
    """What the thread does."""

    STARTING = "has not begun yet"
    STANDBY = "stands by"
    ACTIVE = "works"
    STOPPED = "has stopped"
    CLOSED = "is closed"


class RelayThread:
    """The thread of a started relay. It is started once.

    All attributes that are not its own are plain values, which one thread writes and any reads.

    Args:
        settings: What the relay was given.
        counts: Those of the relay.
        reporter: Logs for the relay.
        changed: Those who wait for a change of the relay; the thread waits there, too.
        relay: What it is the thread of, which lives as long as the thread.
    """

    def __init__(
        self, settings: Settings, counts: Counts, reporter: Reporter, changed: ParkingLot, relay: object
    ) -> None:
        self._settings, self._counts, self._reporter, self._changed = settings, counts, reporter, changed
        self._relay = relay  # it goes on when nobody else refers to it, until it is closed
        self._sending = Sending(settings, counts, reporter)
        self._closing = False
        self._is_news = False
        self._failures = 0
        self._turn: Turn | None = None
        self._table: OutboxTable | None = None
        self.state = State.STARTING
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
            self._closing = True  # so that another one is tried next time
            failure = OutboxError(f"the relay of {self._settings.database} is not begun: {error}")
            self.begun.fail(failure)  # for whoever else waits for it
            raise failure from error

    @property
    def is_over(self) -> bool:
        """Whether it has ended, or is about to."""
        return self._closing or self.state in (State.STOPPED, State.CLOSED)

    def let_end(self) -> None:
        """Have the thread end after the batch that it sends now. Any thread; it does not wait."""
        self._closing = True
        self._changed.wake_all()

    def wake(self) -> None:
        """Have it look for rows at once. Any thread."""
        self._is_news = True
        self._changed.wake_all()

    def disown(self) -> OutboxTable | None:
        """In a forked child, where the thread is not: return the table of the parent's, if there is one."""
        return self._table

    # -- the thread

    def _run(self) -> None:
        try:
            self._work_until_closed()
            self.state = State.CLOSED
        except BaseException as error:
            self.state = State.CLOSED if self._closing and isinstance(error, ClosedError) else self._stop_with(error)
        finally:
            self._disconnect()
            self.begun.set(None)
            self._changed.wake_all()

    def _stop_with(self, error: BaseException) -> State:
        database = self._settings.database
        if isinstance(error, OutboxError):
            self.failure = error
        else:
            self.failure = OutboxError(f"the relay of {database} has stopped: {explained(error, 1_000)}")
            self.failure.__cause__ = error
        text = "the relay of %s has stopped: %s"
        self._reporter.error(Kind.RUNNER_ENDED, text, str(database), self.failure, error=self.failure.__cause__)
        self.begun.fail(self.failure)  # logged before: whoever waits for it may close the relay
        return State.STOPPED

    def _work_until_closed(self) -> None:
        database = self._settings.database
        while not self._closing:
            try:
                self._table = table = database.connect()
                self._refuse_memory(table)
                table.check()
                self.state = State.STANDBY
                self.begun.set(None)
                self._work(table)
            except Exception as error:
                if not self._passes(error):
                    raise
                self._disconnect()
                self._note_trouble(error)
                self._pause()

    def _passes(self, error: Exception) -> bool:
        if isinstance(error, OutboxError | ClosedError):
            return False
        return isinstance(error, OSError) or self._settings.database.is_passing(error)  # OSError: of the turn's file

    def _refuse_memory(self, table: OutboxTable) -> None:
        if not (table.locks_rows or table.turn_file):
            raise OutboxError(
                f"{self._settings.database} is in memory, where this thread would have another database than yours, or "
                "your connection: name a file, or call drain() on your own thread"
            )

    def _work(self, table: OutboxTable) -> None:
        turn = self._turn = Turn("" if table.locks_rows else table.turn_file)
        counted = 0.0
        while not self._closing:
            self._is_news = False  # before the look: what comes later is looked for again
            if not turn.take():
                self.state = State.STANDBY
                self._is_well()
                self._sleep(self._settings.poll)
                continue
            self.state = State.ACTIVE
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
                self._sleep(self._settings.poll)

    def _note_trouble(self, error: Exception) -> None:
        self._failures += 1
        self._counts.failures += 1
        self.trouble = explained(error)
        about = str(self._settings.database)
        text = "the relay of %s tries again: %s"
        self._reporter.burst(Kind.RELAY_RETRIED, text, about, self.trouble, about=about)

    def _is_well(self) -> None:
        self._failures, self.trouble = 0, ""

    def _pause(self) -> None:
        pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
        self._changed.wait(lambda: self._closing, Deadline(pause))

    def _sleep(self, seconds: float) -> None:
        self._changed.wait(lambda: self._closing or self._is_news, Deadline(seconds))

    def _disconnect(self) -> None:
        turn, self._turn = self._turn, None
        if turn is not None:
            turn.give_back()
        table, self._table = self._table, None
        if table is not None:
            with suppress(Exception):  # it is lost
                table.close()
