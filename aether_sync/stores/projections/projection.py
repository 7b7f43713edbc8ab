"""``Projection``: what ``store.project()`` returns."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from threading import current_thread
from typing import TypeVar, cast

from ..._arguments import check_callback, check_choice, check_count, is_of
from ..._runtime.again import again
from ..._runtime.closing import Startable
from ..._runtime.deadline import Deadline
from ..._runtime.exit import before_threads_end, is_ending, mind_the_exit
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.only_thread import OnlyThread
from ..._runtime.registry import WeakRegistry
from ..._runtime.reporter import Details, Kind, Reporter, last_words
from ..._values.shown import explained, short
from ...errors import (
    AetherError,
    DeadlineExceededError,
    InvalidOptionError,
    ProjectionError,
    ProjectionStoppedError,
    ProjectionUnavailableError,
    StoreClosedError,
    WrongThreadError,
)
from ...health import Health
from ...metrics import CloseReport
from ...patterns import SubscriptionFilter
from .._checks import check_version
from ..base import Follower
from .again import apply_again, discard
from .announcing import Announcements
from .applying import OnError, Settings
from .base import Apply, Database, Link
from .checkpoints import Checkpoint, Identity, Place, SetAside, list_set_aside, read
from .progress import Progress
from .projector import Projector, State, check_identity
from .rebuilding import check_tables, rebuild
from .source import Source

__all__ = [
    "OnError",
    "Projection",
    "check_database",
    "close_projections",
    "is_begun",
    "let_projection_end",
    "make_projection",
]

T = TypeVar("T")

_AT_EXIT = 5.0  # seconds for the projections that nobody has closed
_SOON = 0.01  # seconds within which most events are projected, before the store is asked whether one is wanted
_FIRST_LOOK, _LONGEST_LOOK = 0.01, 0.25  # seconds between two questions to the database by who waits
_SILENCE = 1.0  # seconds without news, after which it is asked: who tells may hang, and another one have taken over
_PAGE = 1_000  # events that are asked for at once
_LARGEST_BATCH = 100_000  # events: all of a batch are in memory
_LONGEST_NAME = 200  # characters: every database has room for as many in a key

#: What becomes of an event that cannot be applied, by its word.
_ON_ERROR: dict[str, OnError] = {"stop": "stop", "set_aside": "set_aside"}


class Projection(Startable, ForkAware):
    """Rows in a database of yours, made of the events of a store. ``store.project()`` makes one; then start it.

    Events are applied in the order of the store, in batches. The rows that your function writes and the checkpoint are
    committed in one transaction, so each event takes effect exactly once, whatever is killed when. Of all instances of
    one name, in any processes, one is active; the others stand by, and take over a few seconds after it has died, or at
    once after it was closed.

    Any thread may call any method. After a fork the projection is not started in the child, and can be started there.
    """

    def __init__(self, store: Source, settings: Settings, announcements: Announcements, reporter: Reporter) -> None:
        self._store = store
        self._announcements = announcements
        self._settings = settings
        self._reporter = reporter
        self._closed = False
        self._begin_anew()
        fork_aware.add(self)
        _projections.add(self)

    def _begin_anew(self) -> None:
        self._progress = Progress(self._settings.name, self._settings.identity.stream)
        self._only: OnlyThread[Projector] = OnlyThread()
        self._links: list[Link] = []  # for questions: taken out while it is used; at most one stays
        self._rebuilding: WeakRegistry[Follower] = WeakRegistry()  # those of rebuilds
        self._may_look = [True]  # taken out by the one thread that asks the database for all that wait

    # -- what it is

    @property
    def name(self) -> str:
        """Its name, by which all its instances know each other."""
        return self._settings.name

    @property
    def store(self) -> Source:
        """The store whose events it projects."""
        return self._store

    @property
    def stream(self) -> str:
        """What that store calls the stream of its events; "" of one in memory without a namespace."""
        return self._settings.identity.stream

    @property
    def sequence(self) -> int:
        """The sequence up to which every event has taken effect, or does not concern it.

        If this instance is not the active one, the database is asked.

        Raises:
            ProjectionUnavailableError: The database cannot be asked.
        """
        if not self.is_active:
            checkpoint = self._ask()
            return 0 if checkpoint is None else checkpoint.place.sequence
        return self._progress.sequence

    @property
    def lag(self) -> int:
        """How far it is behind the store, in events of all actors and types; 0 if it is up to date.

        The store is asked, and if this instance is not the active one, the database.

        Raises:
            ProjectionUnavailableError: The database cannot be asked. Also the errors of ``store.last_sequence()``.
        """
        return max(0, self._store.last_sequence() - self.sequence)

    @property
    def is_active(self) -> bool:
        """Whether this instance is the one that applies events."""
        projector = self._projector
        return projector is not None and projector.state is State.ACTIVE

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the store was closed."""
        return self._closed

    @property
    def _projector(self) -> Projector | None:
        return self._only.there

    # -- its life

    def start(self, timeout: float | None = 5.0) -> None:
        """Begin, on a thread of its own: stand by, or apply events. It does nothing if that thread runs already.

        The tables of checkpoints are made if they are not there. A projection that has stopped is begun again.

        Args:
            timeout: Seconds to reach the database and the store; None waits for ever. Then the projection is checked,
                and goes on by itself: it tries again whenever one of them is away.

        Raises:
            ProjectionMismatchError: The database has a projection of this name which is of another stream, or has other
                filters.
            StreamRegressionError: The stream was restored, made anew, or is another one.
            ProjectionStoppedError: Its rows are doubtful; the error says why, and what to do.
            ProjectionUnavailableError: The database or the store was not reached in time. Nothing has begun.
            StoreClosedError: It or its store is closed, or the process is about to end.
        """
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        mind_the_exit()
        own = Projector(self._store, self._settings, self._progress, self._announcements, self._reporter, self)
        projector = own
        try:
            projector = self._only.begin(own)
            if self._closed or is_ending():
                projector.let_end()
            projector.begun.wait(deadline)
        except DeadlineExceededError:
            if projector is own:
                self._only.drop(projector)
            reason = projector.trouble or "; ".join(self._store.health(timeout=0).reasons)
            trouble = f": {reason}" if reason else ""
            raise ProjectionUnavailableError(f"{self!r} has not begun within {deadline}{trouble}") from None
        except BaseException:
            if projector is own:
                self._only.drop(projector)
            raise
        self._refuse_if_closed()

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Apply no more events; the batch that is being applied is finished. Another instance may go on at once.

        Closing the store does this, too. ``apply`` may call it: then its batch is not waited for.

        Args:
            timeout: Seconds for the batch; None waits for ever. One that takes longer is left behind: it is committed,
                or rolled back, as a whole.

        Returns:
            What was left undone. It is true if nothing was.
        """
        deadline = Deadline(timeout)
        is_left = self._end(deadline)
        self._reporter.flush(last_words(deadline))
        return CloseReport(handlers_left=int(is_left), timed_out=is_left)

    def _end(self, deadline: Deadline) -> bool:
        """As :meth:`close`; returns whether the batch is left behind."""
        self._let_end()
        while self._links:
            with suppress(Exception):  # another thread has taken it; or it is lost
                self._links.pop().close()
        left = self._only.join(deadline)
        if left is not None:
            text = "closing projection %r leaves apply() behind, on %s"
            details = Details(projection=self.name)
            self._reporter.warning(Kind.HANDLERS_LEFT, text, self.name, left.name, **details)
        return left is not None

    def _let_end(self) -> None:
        self._closed = True
        self._only.let_end()
        for follower in self._rebuilding:
            follower.close()
        self._progress.changed.wake_all()

    def _after_fork(self) -> None:
        links = [*self._links, *(projector.disown() for projector in self._only)]
        _of_parents.extend(link for link in links if link is not None)
        self._begin_anew()

    def _refuse_if_closed(self) -> None:
        if self._closed or self._store.closed:
            raise StoreClosedError(f"{self!r} is closed: make a new one, of an open store")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the projection has ended here, because another thread has closed it or its store: a service's end.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            ProjectionStoppedError: It has stopped at an event. The same of ``StreamRegressionError`` and
                ``ProjectionMismatchError``.
            ProjectionError: It is not started here.
        """
        deadline = Deadline(timeout)
        if self._projector is None and not self._closed:
            raise ProjectionError(f"{self!r} does not run here: call start() before wait()")
        ended = self._progress.changed.wait(self._has_ended, deadline)
        projector = self._projector
        if projector is not None and projector.failure is not None:
            raise again(projector.failure)
        return ended

    def _has_ended(self) -> bool:
        projector = self._projector
        return self._closed or (projector is not None and projector.is_over)

    # -- waiting for it

    def wait_for(self, sequence: int, timeout: float | None = 5.0) -> None:
        """Wait until an event, and all before it, have taken effect: what you have written can then be read.

        It is soon over if the event does not concern the projection and all before it have taken effect. Any
        process may call it, whether or not the projection is started there. Where the active instance is, it is told.
        Elsewhere, too, if the stores of both have a bus (see ``set_broadcaster()``): the active instance publishes
        :class:`ProjectionAdvanced` on it. Without a bus, and if a second passes without news, it asks the database,
        first every 10 ms, and then less and less often, up to 4 times a second.

        Args:
            sequence: The event's ``StoredEvent.sequence``, which saving it has returned.
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceededError: It is not so far yet.
            ProjectionStoppedError: The projection has stopped before that event; the error says why. The same of
                ``StreamRegressionError`` and ``ProjectionMismatchError``.
            WrongThreadError: It is called by ``apply``, which would wait for itself.
            StoreClosedError: It or its store is closed.
        """
        sequence = check_version("sequence", sequence)
        deadline = Deadline(timeout)
        self._refuse_if_closed()
        if self._is_known_to_have(sequence):
            return
        projector = self._projector
        if projector is not None and projector.thread is current_thread():
            raise WrongThreadError(f"apply() of projection {short(self.name)} must not wait for the projection itself")
        if not self.is_active:
            self._announcements.listen(self._progress)
        is_filtered = not self._settings.wanted.is_empty
        if is_filtered and self._await(sequence, Deadline(min(_SOON, deadline.remaining()))):
            return
        if is_filtered:
            with suppress(AetherError):  # the store may be away; then the projection itself tells
                sequence = self._last_wanted(sequence, deadline)
        if not self._await(sequence, deadline):
            here, reason = max(0, self._progress.sequence), self._reason_to_wait()
            raise DeadlineExceededError(
                f"projection {short(self.name)} is at sequence {here}, and not at {sequence} within {deadline}"
                f"{f': {reason}' if reason else ''}"
            )

    def _reason_to_wait(self) -> str:
        """Return why the projection does not get on, as far as that is known here."""
        projector = self._projector
        if projector is not None and projector.trouble:
            return projector.trouble
        return "" if self.is_active or self._progress.has_owner else "no instance of it is active, so start one"

    def _last_wanted(self, sequence: int, deadline: Deadline) -> int:
        """Return the sequence of the last event up to one that concerns the projection, and has not taken effect."""
        here, wanted = max(0, self._progress.sequence), self._settings.wanted
        if self._store.last_sequence(timeout=deadline.timeout_left()) < sequence:
            return sequence  # an event that the store does not have yet may be any
        page = self._store.read_all(
            here,
            until=sequence,
            limit=_PAGE,
            actors=wanted.actor_pattern or None,
            event_types=wanted.event_types,
            timeout=deadline.timeout_left(),
        )
        return sequence if len(page) == _PAGE else page[-1].sequence if page else here

    def _await(self, sequence: int, deadline: Deadline) -> bool:
        """Wait until the projection is so far; False if the deadline came first."""
        progress = self._progress
        pause = _FIRST_LOOK
        while True:
            self._refuse_if_closed()
            if self._is_known_to_have(sequence):
                return True
            is_told = self._is_told()
            if (not is_told or progress.sequence >= sequence) and self._looks(sequence):
                return True
            is_news = progress.changed.wait(
                partial(self._is_news, is_told, sequence),
                Deadline(min(_SILENCE if is_told else pause, deadline.remaining())),
            )
            if is_told and not is_news and self._looks(sequence):
                progress.distrust()
                return True
            pause = min(_LONGEST_LOOK, pause * 1.5)
            if not deadline.remaining():
                return self._is_known_to_have(sequence)

    def _is_told(self) -> bool:
        """Whether this process is told of each batch: it applies them, or hears of them from who does."""
        return self.is_active or self._announcements.hears(self._progress)

    def _is_news(self, was_told: bool, sequence: int) -> bool:
        return self._closed or self._is_told() != was_told or self._is_known_to_have(sequence)

    def _is_known_to_have(self, sequence: int) -> bool:
        """Whether the projection is so far, as far as is known here; what was heard long ago is not known any more."""
        progress = self._progress
        return not sequence or (progress.sequence >= sequence and (progress.is_fresh or self.is_active))

    def _looks(self, sequence: int) -> bool:
        """Ask the database, unless another thread is asking; return whether the projection is so far."""
        try:
            self._may_look.pop()
        except IndexError:
            return False
        try:
            checkpoint = self._ask()
        except ProjectionUnavailableError:
            return False
        finally:
            self._may_look.append(True)
        if checkpoint is None:
            return False
        check_identity(self._settings, checkpoint)
        if not self.is_active or checkpoint.place.sequence > self._progress.sequence:
            self._progress.tell_of_row(checkpoint.owner, checkpoint.place.sequence)
        if checkpoint.place.sequence >= sequence:
            return True
        projector = self._projector
        if projector is not None and projector.failure is not None and not checkpoint.owner:
            raise again(projector.failure)
        is_about_to_try = projector is not None and projector.failure is None
        if checkpoint.stopped and not is_about_to_try:
            raise ProjectionStoppedError(checkpoint.reason, checkpoint.stopped_at)
        return False

    # -- asking the database

    def _ask(self) -> Checkpoint | None:
        """Return the row of the projection; None if there is none yet."""
        try:
            return self._with_link(partial(read, name=self.name))
        except ProjectionUnavailableError:
            raise
        except ProjectionError:
            return None  # there is no table yet

    def _with_link(self, work: Callable[[Link], T]) -> T:
        """Do something with a connection for questions; errors of the database become those of this library."""
        database = self._settings.database
        link = None
        try:
            link = self._links.pop() if self._links else database.connect()
            found = work(link)
        except Exception as error:
            if link is not None:
                with suppress(Exception):
                    link.close()
            if isinstance(error, AetherError):
                raise
            kind = ProjectionUnavailableError if database.is_passing(error) else ProjectionError
            raise kind(
                f"{database} could not be asked for projection {short(self.name)}: {explained(error)}"
            ) from error
        self._links.append(link)
        while len(self._links) > 1 or (self._closed and self._links):
            with suppress(Exception):
                self._links.pop().close()
        return found

    # -- events that were set aside

    def set_aside(self) -> list[SetAside]:
        """Return the events that were set aside, in the order of the store.

        Raises:
            ProjectionError: The database cannot be asked.
        """
        self._refuse_if_closed()
        return self._with_link(partial(list_set_aside, name=self.name))

    def apply_again(self, sequence: int | None = None) -> int:
        """Apply events that were set aside, in the order of the store; each in a transaction, and no more set aside.

        They are read from the store once more, and applied after events that came later, which ``apply`` has to bear.

        Args:
            sequence: That of the only one to apply; None for all.

        Returns:
            How many were applied.

        Raises:
            ProjectionStoppedError: One of them cannot be applied. It stays where it is, with those after it: give the
                sequence of another one, or :meth:`discard` it.
            ProjectionError: The database cannot be asked.
            MalformedRecordError: One of them is not an event.
        """
        if sequence is not None:
            sequence = check_version("sequence", sequence, 1)
        waiting = [one.sequence for one in self.set_aside() if sequence in (None, one.sequence)]
        one_again = partial(apply_again, store=self._store, settings=self._settings)
        return sum(self._with_link(partial(one_again, sequence=place)) for place in waiting)

    def discard(self, sequence: int) -> bool:
        """Forget an event that was set aside; it never takes effect.

        Args:
            sequence: Its sequence.

        Returns:
            Whether it was set aside.

        Raises:
            ProjectionError: The database cannot be asked.
        """
        sequence = check_version("sequence", sequence, 1)
        self._refuse_if_closed()
        return self._with_link(partial(discard, settings=self._settings, sequence=sequence))

    # -- building it anew

    def rebuild(self, tables: Iterable[str], *, progress: Callable[[int, int], object] | None = None) -> None:
        """Build the rows anew from all events, beside those that are there, and exchange them at the end.

        Do this after a change of ``apply`` or of the filters, or when the stream was restored. It runs on the calling
        thread, and may take long. Meanwhile the projection, if it is started anywhere, goes on with the old rows, and
        everybody sees those. At the end they are exchanged, and the checkpoint is set, in one transaction; while that
        runs, the projection waits. If this is interrupted or fails, all is as it was, and it can be begun again.

        The new rows are made in temporary tables of the same names, on a connection of its own. So ``apply`` must name
        its tables without a schema, and may read other tables, but not write them: both are refused. Triggers are
        called at the exchange only. Events that were set aside are tried again. Other instances that have other filters
        stop with ``ProjectionMismatchError``. One that runs goes on with the ``apply`` that it has, on the new rows: if
        ``apply`` has changed, end those first. The guide has the limits of foreign keys, views and PostgreSQL.

        If the answer to the last commit is lost, the database is asked what became of it.

        Args:
            tables: The tables that ``apply`` writes. One that refers to another one comes after that.
            progress: Called now and then with the sequence up to which events are applied, and the last one that there
                was at the begin.

        Raises:
            UnsupportedError: The database is neither SQLite nor PostgreSQL; the error says what to do instead.
            InvalidOptionError: One of the tables is not there, or cannot be rebuilt.
            ProjectionStoppedError: An event cannot be applied.
            ProjectionError: The database or ``progress`` has failed; the error says whether the rows were built anew,
                or that this is not known.
            StoreClosedError: The projection or its store is closed, perhaps meanwhile.
        """
        names = check_tables(tables)
        report = progress if progress is not None else _report_nothing
        check_callback("progress", report, "how far it is", "the end")
        self._refuse_if_closed()
        rebuild(self._store, self._settings, names, report, self._note_rebuild, self._note_rebuilt)

    def _note_rebuild(self, follower: Follower) -> None:
        self._rebuilding.add(follower)
        if self._closed:  # just now
            follower.close()

    def _note_rebuilt(self, place: Place) -> None:
        self._progress.tell(place.sequence)

    # -- how it is

    def health(self, *, timeout: float | None = 0.5) -> Health:
        """Return whether the projection can do its work now, and if not, why. It raises nothing.

        It is ok while it is active or stands by, and neither its database nor its store makes trouble. It is alive
        until it stops at an event or for another reason that does not pass, or is closed.

        Args:
            timeout: Seconds for the question to the store how far it is; 0 asks nothing. None waits for ever. The
                database is not asked.

        Returns:
            With ``numbers``: ``is_active`` (1 or 0), ``sequence`` (as far as it is known here), and ``lag``, if the
            store was asked.
        """
        deadline = Deadline(timeout)
        about, projector = f"projection {short(self.name)}", self._projector
        if self._closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        if projector is None:
            return Health(about=about, reasons=(f"{about} is not started",))
        if projector.failure is not None:
            return Health(about=about, reasons=(f"{about} has stopped: {projector.failure}",), alive=False)
        reasons = [f"{about} tries again: {projector.trouble}"] if projector.trouble else []
        if projector.state is State.STARTING:
            reasons.append(f"{about} has not begun yet")
        here = max(0, self._progress.sequence)
        numbers: dict[str, float] = {"is_active": int(self.is_active), "sequence": here}
        store = self._store.health(timeout=deadline.timeout_left())
        if "last_sequence" in store.numbers:
            numbers["lag"] = max(0.0, store.numbers["last_sequence"] - here)
        return Health.of(about, reasons, numbers=numbers, parts=(store,))

    def __repr__(self) -> str:
        projector = self._projector
        state = "closed" if self._closed else "not started" if projector is None else projector.state.value
        return f"<Projection {short(self.name)} {state}>"


_projections: WeakRegistry[Projection] = WeakRegistry()

#: Connections of parent processes: closing one in the child would end it for the parent, so they are kept.
_of_parents: list[Link] = []


def _report_nothing(done: int, total: int) -> None:
    """Take the progress of a rebuild that nobody wants to see."""


def make_projection(
    store: Source,
    reporter: Reporter,
    announcements: Announcements,
    stream: str,
    *,
    name: object,
    apply: Apply,
    into: object,
    wanted: SubscriptionFilter,
    batch: object,
    on_error: object,
) -> Projection:
    """Check what ``store.project()`` was given, and return the projection; nothing is asked or written.

    Args:
        store: Where events come from.
        reporter: Logs for the store.
        announcements: Those of the store.
        stream: What the store calls the stream of its events.
        name: The name.
        apply: The user's function.
        into: The database.
        wanted: Which events it wants.
        batch: How many events are applied in one transaction.
        on_error: What becomes of an event that cannot be applied.

    Raises:
        InvalidOptionError: One of them is wrong.
    """
    check_callback("apply", apply, "the database", "the StoredEvent")
    settings = Settings(
        name=_checked_name(name),
        apply=apply,
        database=check_database("into", into),
        wanted=wanted,
        identity=Identity.of(stream, wanted),
        batch=check_count("batch", batch, _LARGEST_BATCH),
        on_error=check_choice("on_error", on_error, _ON_ERROR),
    )
    return Projection(store, settings, announcements, reporter)


def _checked_name(name: object) -> str:
    """Return the name of a projection as a plain str, or raise."""
    text = str.__str__(name) if is_of(name, str) else ""
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
        raise InvalidOptionError(
            f"the name of a projection is a str of 1 to {_LONGEST_NAME} printable characters, not {short(name)}"
        )
    return text


def check_database(name: str, into: object) -> Database:
    """Return a database, or raise if it is none; the error names the argument."""
    kind = type(into)
    if not (callable(getattr(kind, "connect", None)) and callable(getattr(kind, "is_passing", None))):
        raise InvalidOptionError(
            f"{name} must be a database, such as SQLite('read.db') or DBAPI(connect), not {short(into)}"
        )
    return cast(Database, into)


def is_begun(projection: Projection) -> bool:
    """Whether it was started."""
    return projection._projector is not None


def let_projection_end(projection: Projection) -> None:
    """Have a projection apply no more events; do not wait for the batch that is being applied."""
    projection._let_end()


def close_projections(projections: Iterable[Projection], deadline: Deadline) -> int:
    """Close all of them within one deadline; return how many batches are left behind."""
    closing = list(projections)
    for one in closing:
        one._let_end()
    return sum(one._end(deadline) for one in closing)


@before_threads_end
def _end_projecting() -> None:
    """Close all projections when the main thread has ended, so that their batches can be finished."""
    close_projections(_projections, Deadline(_AT_EXIT))
