"""``Projector``: the thread of a started projection. It stands by, or is the active one and applies events.

States::

    STARTING --> STANDBY <--> ACTIVE
        |           |            |
        +-----------+------------+--> STOPPED, with an error; or CLOSED

There is no clock that several machines share. The active instance changes its row with each batch, and once a second
if there is none. Another instance that has seen the same row for some seconds of its own clock takes over, unless its
own store has no connection. What it believes of the other does not matter: see ``checkpoints.py``.
"""

from contextlib import suppress
from enum import Enum
from itertools import count
from os import urandom

from ..._runtime.deadline import Deadline
from ..._runtime.reporter import Details, Kind, Reporter
from ..._runtime.threads import NoThreadError, make_thread, start
from ..._runtime.waits import Reply
from ..._values.clock import monotonic
from ..._values.shown import explained, short
from ...errors import (
    AetherError,
    ClosedError,
    InvalidOptionError,
    ProjectionError,
    ProjectionMismatchError,
    ProjectionStoppedError,
    StreamRegressionError,
    UnsupportedError,
)
from ..base import Follower, StoredEvent
from .announcing import Announcements, Announcer
from .applying import LostError, Settings, StoppedError, apply_chunk
from .base import Link
from .checkpoints import DOUBTFUL, Checkpoint, Place, beat, claim, give_up, prepare, read, stop
from .chunks import Chunk, ChunkReader
from .progress import Progress
from .source import Source

__all__ = ["Projector", "State", "check_identity", "differs", "marked"]

_BEAT = 1.0  # seconds from one sign of life of the active instance to the next
_TAKE_OVER = 4.0  # seconds without one, after which another instance takes over: a busy machine may be late
_LOOK = 0.5  # seconds between two looks of one that stands by
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 5.0  # seconds before it is tried again
_CATCH_UP = 2.0  # seconds in which a server that has just become the leader may not know the last record yet
_ASK = 5.0  # seconds for a question to the store

#: Errors of this library that no waiting mends.
_LASTING = (
    StreamRegressionError,
    ClosedError,
    ProjectionError,
    InvalidOptionError,
    UnsupportedError,
)

_numbers = count(1)


class State(Enum):
    """What the thread does."""

    STARTING = "starting"
    STANDBY = "standing by"
    ACTIVE = "active"
    STOPPED = "stopped"
    CLOSED = "closed"


class Projector:
    """The thread of a projection. It is started once.

    All attributes that are not its own are plain values, which one thread writes and any reads.

    Args:
        store: Where events come from.
        settings: Those of the projection.
        progress: Is told how far it is.
        announcements: Tell other processes.
        reporter: Logs for the store.
        projection: What it is the thread of, which lives as long as the thread.
    """

    def __init__(
        self,
        store: Source,
        settings: Settings,
        progress: Progress,
        announcements: Announcements,
        reporter: Reporter,
        projection: object,
    ) -> None:
        self._store = store
        self._projection = projection  # it goes on when nobody else refers to it, until it or its store is closed
        self._settings = settings
        self._progress = progress
        self._announcements = announcements
        self._reporter = reporter
        self._details = Details(stream=settings.identity.stream, projection=settings.name)
        self._owner = _new_owner()
        self._closing = False
        self._follower: Follower | None = None
        self._link: Link | None = None
        self._failures = 0
        self.state = State.STARTING
        self.failure: Exception | None = None  #: why it has stopped
        self.trouble = ""  #: why it does not get on now, in words; it tries again
        self.begun: Reply[None] = Reply()
        self.thread = make_thread(self._run, name=f"aether-projection-{next(_numbers)}")

    def start(self) -> None:
        """Start the thread.

        Raises:
            ProjectionError: There is none to be had.
        """
        try:
            start(self.thread)
        except NoThreadError as error:
            failure = ProjectionError(f"projection {short(self._settings.name)} is not begun: {error}")
            self.begun.fail(failure)  # for whoever else waits for it
            raise failure from error

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.state in (State.STOPPED, State.CLOSED)

    def let_end(self) -> None:
        """Have the thread end after the events that it applies now. Any thread; it does not wait."""
        self._closing = True
        follower = self._follower
        if follower is not None:
            follower.close()
        self._progress.changed.wake_all()

    # -- the thread

    def _run(self) -> None:
        try:
            self._work_until_closed()
            self.state = State.CLOSED
        except BaseException as error:
            self._end_with(error)
        finally:
            self._give_up()
            self._disconnect()
            self.begun.set(None)
            self._progress.changed.wake_all()

    def _end_with(self, error: BaseException) -> None:
        if isinstance(error, ClosedError):
            self.state = State.CLOSED
            return
        name, database = self._settings.name, self._settings.database
        about = f"projection {short(name)} into {database}"
        if isinstance(error, AetherError):
            self.failure = error
        elif isinstance(error, StoppedError):
            place = 0 if error.found is None else error.found.sequence
            event_id = error.found.event.id if isinstance(error.found, StoredEvent) else ""
            self.failure = ProjectionStoppedError(f"{about}: {error}", place, event_id)
            self.failure.__cause__ = error.__cause__
        else:
            self.failure = ProjectionStoppedError(f"{about} has stopped: {explained(error, 1_000)}")
            self.failure.__cause__ = error
        self.state = State.STOPPED
        self.begun.fail(self.failure)
        self._reporter.error(
            Kind.PROJECTION_STOPPED,
            "projection %r has stopped: %s",
            *(name, self.failure),
            error=self.failure.__cause__,
            **self._details,
        )
        if not isinstance(error, ProjectionMismatchError):
            self._leave_reason(error)

    def _leave_reason(self, error: BaseException) -> None:
        """Leave the reason in the database, for whoever waits in another process; if that fails, it is told here."""
        kind = error.kind if isinstance(error, StoppedError) else "stream"
        failure = self.failure
        place = failure.sequence if isinstance(failure, ProjectionStoppedError) else 0
        with suppress(Exception):
            if self._link is not None:
                self._link.rollback()
                stop(self._link, self._settings.name, self._owner, kind, place, str(failure))

    def _work_until_closed(self) -> None:
        while not self._closing:
            try:
                self._link = self._settings.database.connect()
                prepare(self._link, self._settings.database, self._settings.name, self._settings.identity)
                while not self._closing:
                    checkpoint = self._stand_by(self._link)
                    if checkpoint is not None:
                        self._be_active(self._link, checkpoint)
            except Exception as error:
                if not self._is_passing(error):
                    raise
                self._note_trouble(error)
                self._disconnect()
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(self._failures - 1, 10))
                self._sleep(pause)

    def _is_passing(self, error: Exception) -> bool:
        if isinstance(error, AetherError):
            return not isinstance(error, _LASTING)
        return not isinstance(error, StoppedError) and self._settings.database.is_passing(error)

    def _note_trouble(self, error: Exception) -> None:
        self._failures += 1
        self.state = State.STANDBY if self.begun.done else State.STARTING
        self.trouble = explained(error)
        text = "projection %r tries again: %s"
        name = self._settings.name
        self._reporter.burst(Kind.PROJECTION_RETRIED, text, name, self.trouble, about=name, **self._details)

    def _is_well(self) -> None:
        self._failures, self.trouble = 0, ""

    def _sleep(self, seconds: float) -> None:
        self._progress.changed.wait(lambda: self._closing, Deadline(seconds))

    def _disconnect(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            with suppress(Exception):  # it is lost, or is taken back by the server
                link.close()

    def _give_up(self) -> None:
        with suppress(Exception):  # then another instance takes over a few seconds later
            if self._link is not None:
                self._link.rollback()
                give_up(self._link, self._settings.name, self._owner)

    # -- standing by

    def _stand_by(self, link: Link) -> Checkpoint | None:
        """Wait until this instance is the active one; return the row, or None if it is to end."""
        self.state = State.STANDBY if self.begun.done else State.STARTING
        seen, since = ("", -1), monotonic()
        while not self._closing:
            checkpoint = self._look(link)
            if (checkpoint.owner, checkpoint.beat) != seen:
                seen, since = (checkpoint.owner, checkpoint.beat), monotonic()
            is_free = checkpoint.owner in ("", self._owner) or monotonic() - since >= _TAKE_OVER
            if is_free and self._store.health(timeout=0).ok:
                if claim(link, self._settings.name, checkpoint, self._owner):
                    return checkpoint
                continue
            self._is_well()  # as a standby; that it can apply events shows only when it has
            self._sleep(_LOOK)
        return None

    def _look(self, link: Link) -> Checkpoint:
        """Read the row, and check it against the settings and the stream."""
        checkpoint = read(link, self._settings.name)
        check_identity(self._settings, checkpoint)
        assert checkpoint is not None
        if not self.begun.done:
            self._check_stream(checkpoint.place)
            self.begun.set(None)
            self.state = State.STANDBY
        self._progress.tell_of_row(checkpoint.owner, checkpoint.place.sequence)
        return checkpoint

    def _check_stream(self, place: Place) -> None:
        """See that the stream still has what the projection has applied; a new leader may take a moment to know it.

        Raises:
            StreamRegressionError: It does not.
        """
        deadline = Deadline(_CATCH_UP)
        while wrong := differs(self._store, self._settings, place):
            if not deadline.remaining():
                raise StreamRegressionError(f"{wrong}. Build its rows anew with rebuild()")
            if self._closing:
                return
            self._sleep(_CATCH_UP / 10)

    # -- being active

    def _be_active(self, link: Link, checkpoint: Checkpoint) -> None:
        """Apply events until another instance is the active one, or this is to end."""
        settings, here = self._settings, checkpoint.place
        self._check_stream(here)
        wanted = settings.wanted
        follower = self._store.follow(
            after=here.sequence, actors=wanted.actor_pattern or None, event_types=wanted.event_types
        )
        with follower:
            self._follower = follower  # before the look whether it is to end, as let_end() does the opposite
            self.state = State.ACTIVE
            text = "projection %r is the active one, from sequence %d on"
            self._reporter.info(Kind.PROJECTION_ACTIVE, text, settings.name, here.sequence, **self._details)
            self._progress.tell(here.sequence)
            announcer = Announcer(self._announcements, settings.name, settings.identity.stream, self._owner)
            try:
                self._apply(link, ChunkReader(follower, here, settings.batch), here, announcer)
            except LostError:
                self.state = State.STANDBY
                self._owner = _new_owner()
            except ClosedError:
                if not self._closing:
                    raise
            finally:
                announcer.announce(is_end=True)
                self._follower = None
        self._progress.changed.wake_all()

    def _apply(self, link: Link, reader: ChunkReader, here: Place, announcer: Announcer) -> None:
        name = self._settings.name
        beaten = monotonic()
        while not self._closing:
            chunk = reader.next(min(_BEAT, announcer.announce()))
            if chunk.found:
                here = self._apply_chunk(link, here, chunk)
            elif chunk.there != here or (monotonic() - beaten >= _BEAT and self._is_connected()):
                there = marked(self._store, self._settings, here, chunk.there)
                if not beat(link, name, self._owner, here, there):
                    raise LostError
                here = there
            else:
                continue
            beaten = monotonic()
            self._is_well()
            self._progress.tell(here.sequence)
            announcer.tell(here.sequence)

    def _apply_chunk(self, link: Link, here: Place, chunk: Chunk) -> Place:
        settings = self._settings
        applied = apply_chunk(link, settings, self._owner, here, chunk)
        for found, error, reason in applied.set_aside:
            text = "projection %r has set event %d aside, which cannot be applied: %s"
            details: Details = {"sequence": found.sequence, **self._details}
            if isinstance(found, StoredEvent):
                event = found.event
                details |= {"event_id": event.id, "event_type": event.event_type, "actor": event.actor_id}
            self._reporter.error(Kind.SET_ASIDE, text, settings.name, found.sequence, reason, error=error, **details)
        return applied.there

    def _is_connected(self) -> bool:
        follower = self._follower
        return follower is not None and follower.is_connected

    # -- forks

    def disown(self) -> Link | None:
        """In a forked child, where the thread is not: forget all, and return the connection, which is the parent's."""
        self.state = State.CLOSED
        return self._link


def _new_owner() -> str:
    return urandom(16).hex()


def check_identity(settings: Settings, checkpoint: Checkpoint | None) -> None:
    """Refuse a row that is of another projection, and one that must not go on.

    Raises:
        ProjectionMismatchError: It is of another stream, or has other filters.
        ProjectionStoppedError: It is gone; or the user's function had ended the transaction, and the rows are doubtful.
    """
    name, database = short(settings.name), settings.database
    if checkpoint is None:
        raise ProjectionStoppedError(
            f"the row of projection {name} in the table aether_projections of {database} is gone: somebody has deleted "
            "it. To begin again, empty the tables that it fills and start it"
        )
    if checkpoint.identity != settings.identity:
        raise ProjectionMismatchError(
            f"projection {name} in {database} is {checkpoint.identity}, and was to be {settings.identity}: give this "
            "one another name; or build its rows anew with rebuild(), if it shall take the place of the other one"
        )
    if checkpoint.stopped == DOUBTFUL:
        raise ProjectionStoppedError(checkpoint.reason, checkpoint.stopped_at)


def differs(store: Source, settings: Settings, place: Place) -> str:
    """Return how the stream differs from the one that the projection has read; "" if it does not."""
    stream = settings.identity.stream
    about = f"projection {short(settings.name)} in {settings.database}"
    how = "it was restored, made anew, or is another one"
    end = store.last_sequence(timeout=_ASK)
    if end < place.sequence:
        return f"stream {stream!r} ends at sequence {end}, and {about} has applied it up to {place.sequence}: {how}"
    found = _event_at(store, place.event_sequence) if place.event_sequence else None
    if place.event_sequence and (found is None or found.event.id != place.event_id):
        there = "no event" if found is None else f"event {short(found.event.id)}"
        return (
            f"stream {stream!r} has {there} at sequence {place.event_sequence}, where {about} has read event "
            f"{short(place.event_id)}: {how}"
        )
    return ""


def marked(store: Source, settings: Settings, here: Place, there: Place) -> Place:
    """Return a place without wanted events, with the event there by which the stream is recognised, if there is one."""
    if there.sequence == here.sequence or settings.wanted.is_empty:
        return there
    found = _event_at(store, there.sequence)
    return there if found is None else Place(there.sequence, found.sequence, found.event.id)


def _event_at(store: Source, sequence: int) -> StoredEvent | None:
    found = store.read_all(sequence - 1, until=sequence, limit=1, timeout=_ASK)
    return found[0] if found else None
