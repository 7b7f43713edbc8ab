"""How a projection is built anew, beside the one that runs."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from time import sleep
from typing import TypeVar

from ..._arguments import as_iterator, is_of
from ..._runtime.deadline import Deadline
from ..._values.shown import explained, short
from ...errors import AetherError, InvalidOptionError, ProjectionError, ProjectionStoppedError
from ..base import Follower, StoredEvent
from .applying import RefusedError, Settings, apply_all, apply_carefully, explain
from .base import BrokenTransactionError, Link, is_read_only
from .checkpoints import REBUILT, Checkpoint, Place, lock, prepare, replace, set_aside
from .chunks import Chunk, ChunkReader, Found
from .projector import marked
from .shadows import Shadows, shadows_of
from .source import Source

__all__ = ["ReportProgress", "check_tables", "rebuild"]

T = TypeVar("T")

#: Called with the sequence up to which events are applied, and the last one that there was at the begin.
ReportProgress = Callable[[int, int], object]

_WAIT = 1.0  # seconds for the next events
_PATIENCE = 60.0  # seconds in which the exchange has to begin
_LARGEST = 5_000  # events in a transaction, which holds up nobody here
_FIND_OUT = 15.0  # seconds to find out what became of a commit
_PAUSE = 0.1  # seconds between two attempts


def check_tables(tables: Iterable[str]) -> tuple[str, ...]:
    """Return the names of tables, or raise."""
    if is_of(tables, str):
        raise InvalidOptionError(f"tables is the str {short(tables)}; pass a tuple: ({short(tables)},)")
    iterator = as_iterator(tables)
    if iterator is None:
        raise InvalidOptionError(f"tables must be a collection of str, not {type(tables).__name__}")
    names = tuple(iterator)
    for one in names:
        if not is_of(one, str) or not str.__str__(one) or "\0" in str.__str__(one):
            raise InvalidOptionError(f"tables must hold the names of tables, not {short(one)}")
        if str.__str__(one).lower() in ("aether_projections", "aether_set_aside"):
            raise InvalidOptionError(f"{short(one)} is a table of the library's own: name those that apply() writes")
    if not names or len(set(names)) < len(names):
        raise InvalidOptionError("tables must name each table that apply() writes, once: tables=('balances',)")
    return tuple(map(str.__str__, names))


def rebuild(
    store: Source,
    settings: Settings,
    tables: tuple[str, ...],
    report: ReportProgress,
    began: Callable[[Follower], object],
    ended: Callable[[Place], object],
) -> None:
    """Build a projection anew, and exchange its rows at the end; see :meth:`Projection.rebuild`.

    Args:
        store: Where events come from.
        settings: Those of the projection.
        tables: The tables that the user's function writes.
        report: Is told the progress.
        began: Is given the follower; closing it ends this.
        ended: Is told how far the projection is, when its rows are exchanged.
    """
    about = f"projection {short(settings.name)}"
    try:
        link = settings.database.connect()
        try:
            shadows = shadows_of(link, settings.database, tables)
            here, total = _rebuild(store, settings, link, shadows, report, began)
        finally:
            with suppress(Exception):
                link.rollback()
            with suppress(Exception):
                link.close()
    except AetherError:
        raise
    except Exception as error:
        raise ProjectionError(f"{about} was not built anew, and is as it was: {explained(error)}") from error
    ended(here)
    try:
        report(total, total)
    except Exception as error:
        raise ProjectionError(f"{about} is built anew, but then progress() has failed: {explained(error)}") from error


def _rebuild(
    store: Source,
    settings: Settings,
    link: Link,
    shadows: Shadows,
    report: ReportProgress,
    began: Callable[[Follower], object],
) -> tuple[Place, int]:
    """Do it; return how far the projection is, and what the last event was at the begin."""
    prepare(link, settings.database, settings.name, settings.identity)
    shadows.make()
    wanted = settings.wanted
    aside: list[tuple[Found, str]] = []
    total = store.last_sequence()
    report(0, total)
    with store.follow(actors=wanted.actor_pattern or None, event_types=wanted.event_types) as follower:
        began(follower)
        reader = ChunkReader(follower, Place(), max(settings.batch, _LARGEST))
        here = Place()
        while True:
            chunk = reader.next(_WAIT, until_caught_up=True)
            if not chunk.found and follower.is_caught_up:
                break
            _patiently(settings, link, lambda: link.begin(rebuilding=True))
            aside += _apply(link, settings, shadows, chunk)
            link.commit()
            here = chunk.there
            report(min(here.sequence, total), total)
        # From here on the live one waits, and what has come meanwhile is little.
        locked = _patiently(settings, link, lambda: _lock(link, settings))
        end = store.last_sequence()
        while chunk.there.sequence < end:
            chunk = reader.next(_WAIT, until_caught_up=True)
            aside += _apply(link, settings, shadows, chunk)
        here = marked(store, settings, here, chunk.there)
        shadows.exchange()
        replace(link, settings.name, settings.identity, here)
        for found, reason in aside:
            set_aside(link, settings.name, found, reason)
        _commit(link, settings, locked)
    return here, total


def _patiently(settings: Settings, link: Link, begin: Callable[[], T]) -> T:
    """Begin a transaction, though others may be writing all the time."""
    deadline = Deadline(_PATIENCE)
    while True:
        try:
            return begin()
        except Exception as error:
            if not settings.database.is_passing(error) or not deadline.remaining():
                raise
            with suppress(Exception):  # then the next attempt says what it is
                link.rollback()
            sleep(_PAUSE)


def _lock(link: Link, settings: Settings) -> Checkpoint:
    """Begin a transaction in which the row of the projection is locked; return that."""
    link.begin()
    locked = lock(link, settings.name)
    if locked is None:
        raise ProjectionError(
            f"projection {short(settings.name)} was not built anew: its row in aether_projections was deleted meanwhile"
        )
    return locked


def _commit(link: Link, settings: Settings, locked: Checkpoint) -> None:
    """Commit the exchange. If there was no answer, find out what became of it.

    Args:
        link: The connection.
        settings: Those of the projection.
        locked: The row as it was in this transaction.
    """
    try:
        link.commit()
    except Exception as error:
        with suppress(Exception):
            link.rollback()
        is_done = _is_rebuilt(settings, locked)
        if is_done is None:
            raise ProjectionError(
                f"it is not known whether projection {short(settings.name)} was built anew: the last commit has "
                f"failed, and then the database could not be asked. Its rows are either all old or all new, and fit "
                f"the checkpoint; building them anew once more does no harm: {explained(error)}"
            ) from error
        if not is_done:
            raise


def _is_rebuilt(settings: Settings, locked: Checkpoint) -> bool | None:
    """Ask on a new connection whether the exchange took effect; None if nobody knows."""
    deadline = Deadline(_FIND_OUT)
    while True:
        try:
            link = settings.database.connect()
            try:
                is_postgres = link.dialect == "postgresql"
                link.begin()
                if is_postgres:  # or a server that has not noticed the end of the other connection makes this wait
                    link.execute("SET LOCAL lock_timeout = '2s'")
                row = lock(link, settings.name)  # waits until a commit that is under way has ended
                return None if row is None else row.beat >= locked.beat + REBUILT
            finally:
                with suppress(Exception):
                    link.rollback()
                with suppress(Exception):
                    link.close()
        except Exception as error:
            if not settings.database.is_passing(error) or not deadline.remaining():
                return None
        sleep(_PAUSE)


def _apply(link: Link, settings: Settings, shadows: Shadows, chunk: Chunk) -> list[tuple[Found, str]]:
    """In a transaction, apply a chunk to the shadows; return what was set aside.

    Raises:
        ProjectionStoppedError: An event cannot be applied.
    """
    with _watched(settings, shadows, chunk):
        try:
            apply_all(link, settings, chunk.found, rebuilding=True)
        except RefusedError as refused:
            is_known = settings.on_error == "stop" and refused.at is not None
            if refused.is_unsafe or is_known or refused.is_mistake or is_read_only(refused.error):
                raise
        else:
            return []
        aside = apply_carefully(link, settings, chunk.found, rebuilding=True)
        for one in aside:
            if settings.on_error == "stop" or is_read_only(one.error):  # which is none of that event
                raise RefusedError(chunk.found.index(one.found), one.error)
    return [(one.found, one.reason) for one in aside]


@contextmanager
def _watched(settings: Settings, shadows: Shadows, chunk: Chunk) -> Iterator[None]:
    """While a chunk is applied: make errors of it what the user is told, and notice that live rows are read."""
    before = shadows.count_reads()
    try:
        yield
        if shadows.count_reads() != before:
            raise RefusedError(None, BrokenTransactionError(_READ))  # noqa: TRY301  # as other reasons
    except RefusedError as refused:
        raise _stopped(settings, chunk, refused) from refused.error
    except Exception as error:
        if not is_read_only(error):
            raise
        raise _stopped(settings, chunk, RefusedError(None, error)) from error


_READ = (
    "it has read rows that are to be replaced, by a view or a function, or as it has named the schema. Have apply() "
    "read the tables themselves, by their names alone"
)
_WRITES = (
    "While rows are built anew, PostgreSQL lets apply() write only the tables that rebuild() was given, by their names "
    "alone, with INSERT, UPDATE and DELETE. It refuses TRUNCATE, locks on rows of other tables (SELECT ... FOR SHARE), "
    "numbers of a sequence that is no column's default, and a partition by its own name"
)


def _stopped(settings: Settings, chunk: Chunk, refused: RefusedError) -> BaseException:
    if not isinstance(refused.error, Exception):
        return refused.error
    found = chunk.found[refused.at or 0]
    event_id = found.event.id if isinstance(found, StoredEvent) else ""
    where = f"event {found.sequence}" if refused.at is not None else f"one of the events from {found.sequence} on"
    hint = f". {_WRITES}" if is_read_only(refused.error) else ""
    return ProjectionStoppedError(
        f"projection {short(settings.name)} was not built anew, and is as it was: {where} cannot be applied: "
        f"{explain(refused.error)}{hint}",
        found.sequence,
        event_id,
    )
