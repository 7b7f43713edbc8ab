"""How a projection is built anew, beside the one that runs."""

from collections.abc import Callable, Iterable
from contextlib import suppress

from ..._arguments import as_iterator, is_of
from ..._runtime.deadline import Deadline
from ..._values.shown import explained, short
from ...errors import AetherError, InvalidOptionError, ProjectionError, ProjectionStoppedError
from ..base import Follower, StoredEvent
from .applying import RefusedError, Settings, apply_all, apply_carefully, explain
from .base import Link
from .checkpoints import Place, lock, prepare, replace, set_aside
from .chunks import Chunk, ChunkReader, Found
from .projector import marked
from .shadows import Shadows, shadows_of
from .source import Source

__all__ = ["ReportProgress", "check_tables", "rebuild"]

#: Called with the sequence up to which events are applied, and the last one that there was at the begin.
ReportProgress = Callable[[int, int], object]

_WAIT = 1.0  # seconds for the next events
_PATIENCE = 60.0  # seconds in which the exchange has to begin
_LARGEST = 5_000  # events in a transaction, which holds up nobody here


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
) -> Place:
    """Build a projection anew, and exchange its rows at the end; see :meth:`Projection.rebuild`.

    Args:
        store: Where events come from.
        settings: Those of the projection.
        tables: The tables that the user's function writes.
        report: Is told the progress.
        began: Is given the follower; closing it ends this.

    Returns:
        How far the projection is.
    """
    try:
        link = settings.database.connect()
        try:
            return _rebuild(store, settings, link, shadows_of(link, settings.database, tables), report, began)
        finally:
            with suppress(Exception):
                link.rollback()
            with suppress(Exception):
                link.close()
    except AetherError:
        raise
    except Exception as error:
        raise ProjectionError(
            f"projection {short(settings.name)} was not built anew, and is as it was: {explained(error)}"
        ) from error


def _rebuild(
    store: Source,
    settings: Settings,
    link: Link,
    shadows: Shadows,
    report: ReportProgress,
    began: Callable[[Follower], object],
) -> Place:
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
            link.begin(rebuilding=True)
            aside += _apply(link, settings, chunk)
            link.commit()
            here = chunk.there
            report(min(here.sequence, total), total)
        _begin_patiently(link, settings)
        lock(link, settings.name)  # from here on the live one waits, and what has come meanwhile is little
        end = store.last_sequence()
        while chunk.there.sequence < end:
            chunk = reader.next(_WAIT, until_caught_up=True)
            aside += _apply(link, settings, chunk)
        here = marked(store, settings, here, chunk.there)
        shadows.exchange()
        replace(link, settings.name, settings.identity, here)
        for found, reason in aside:
            set_aside(link, settings.name, found, reason)
        link.commit()
    report(total, total)
    return here


def _begin_patiently(link: Link, settings: Settings) -> None:
    """Begin a transaction that will write, though others may be at it all the time."""
    deadline = Deadline(_PATIENCE)
    while True:
        try:
            link.begin()
        except Exception as error:
            if not settings.database.is_passing(error) or not deadline.remaining():
                raise
        else:
            return


def _apply(link: Link, settings: Settings, chunk: Chunk) -> list[tuple[Found, str]]:
    """In a transaction, apply a chunk to the shadows; return what was set aside.

    Raises:
        ProjectionStoppedError: An event cannot be applied.
    """
    try:
        apply_all(link, settings, chunk.found, rebuilding=True)
    except RefusedError as refused:
        first = refused
    else:
        return []
    if first.is_unsafe or settings.on_error == "stop" or first.is_mistake:
        raise _stopped(settings, chunk, first) from first.error
    try:
        aside = apply_carefully(link, settings, chunk.found, rebuilding=True)
    except RefusedError as refused:
        raise _stopped(settings, chunk, refused) from refused.error
    return [(one.found, one.reason) for one in aside]


def _stopped(settings: Settings, chunk: Chunk, refused: RefusedError) -> BaseException:
    if not isinstance(refused.error, Exception):
        return refused.error
    found = chunk.found[refused.at or 0]
    event_id = found.event.id if isinstance(found, StoredEvent) else ""
    where = f"event {found.sequence}" if refused.at is not None else f"one of the events from {found.sequence} on"
    return ProjectionStoppedError(
        f"projection {short(settings.name)} was not built anew, and is as it was: {where} cannot be applied: "
        f"{explain(refused.error)}",
        found.sequence,
        event_id,
    )
