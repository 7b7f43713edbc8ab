"""How a chunk of events is applied: in one transaction with the checkpoint, and what becomes of one that cannot be."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

from ..._values.shown import explained, short
from ...errors import MalformedRecordError
from ...patterns import SubscriptionFilter
from ..base import StoredEvent
from .base import Apply, BrokenTransactionError, Database, Link, is_given_up, is_read_only
from .checkpoints import DOUBTFUL, Identity, Place, advance, hold_place, read, set_aside
from .chunks import Chunk, Found, begin_of_save, mark_of

__all__ = [
    "Applied",
    "Aside",
    "LostError",
    "OnError",
    "RefusedError",
    "Settings",
    "StoppedError",
    "apply_all",
    "apply_carefully",
    "apply_chunk",
    "explain",
]

#: What becomes of an event that cannot be applied.
OnError: TypeAlias = Literal["stop", "set_aside"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What a projection is made with.

    Attributes:
        name: Its name.
        apply: The user's function.
        database: Where its rows are.
        wanted: Which events it wants.
        identity: What it is a projection of.
        batch: How many events are applied in one transaction; more, if a save has more.
        on_error: What becomes of an event that cannot be applied.
    """

    name: str
    apply: Apply
    database: Database
    wanted: SubscriptionFilter
    identity: Identity
    batch: int
    on_error: OnError


class Applied(NamedTuple):
    """What became of a chunk.

    Attributes:
        there: How far the projection is.
        set_aside: The events that were set aside.
    """

    there: Place
    set_aside: Sequence["Aside"] = ()


class Aside(NamedTuple):
    """An event that was set aside.

    Attributes:
        found: The event.
        error: Why it cannot be applied.
        reason: The same, in words.
    """

    found: Found
    error: BaseException
    reason: str


class LostError(Exception):
    """Another instance is the active one, or the projection was built anew."""


class StoppedError(Exception):
    """The projection cannot go on. What was there before it took effect, and nothing else.

    Attributes:
        kind: As :attr:`Checkpoint.stopped`.
        here: How far the projection is; None if that is not known.
        found: The event; None if it is not known which one it is.
    """

    def __init__(self, reason: str, kind: str, here: Place | None = None, found: Found | None = None) -> None:
        super().__init__(reason)
        self.kind = kind
        self.here = here
        self.found = found


class RefusedError(Exception):
    """An event cannot be applied.

    Attributes:
        error: Why.
        at: Which of the chunk; None if that is not known.
        is_mistake: Whether others would be refused, too.
        is_unsafe: Whether something may have been kept without the checkpoint.
    """

    def __init__(self, at: int | None, error: BaseException) -> None:
        super().__init__()
        self.at = at
        self.error = error
        if isinstance(error, BrokenTransactionError):
            self.is_mistake, self.is_unsafe = error.is_mistake, not error.is_lost
        else:
            self.is_mistake, self.is_unsafe = not isinstance(error, Exception), False


def explain(error: BaseException) -> str:
    """Return why an event cannot be applied, in words."""
    if isinstance(error, BrokenTransactionError | MalformedRecordError):
        return str(error)
    return explained(error, longest=1_000)


def apply_chunk(link: Link, settings: Settings, owner: str, here: Place, chunk: Chunk) -> Applied:
    """Apply a chunk, and move the checkpoint on, in one transaction; in several, if an event cannot be applied.

    Args:
        link: A connection without a transaction.
        settings: Those of the projection.
        owner: This instance.
        here: How far the projection is.
        chunk: What follows.

    Raises:
        LostError: This instance is not the active one any more; nothing was applied.
        StoppedError: An event cannot be applied.
        Exception: An error of the database that passes. It is not known whether the chunk is applied.
    """
    for is_careful in (False, True):
        try:
            return _attempt(link, settings, owner, here, chunk, is_careful=is_careful)
        except RefusedError as refused:
            first = refused
        if first.is_unsafe:
            raise _unsafe(link, settings, chunk, here, first.error) from first.error
        if settings.on_error == "stop" or first.is_mistake:
            break
    if first.at is None and not first.is_mistake:
        saves = _saves_of(chunk)
        if len(saves) > 1:  # one of them cannot be committed, or has spoiled the transaction for those after it
            return _one_by_one(link, settings, owner, here, saves)
        if settings.on_error == "set_aside":
            return _all_aside(link, settings, owner, here, chunk, first.error)
    at = begin_of_save(chunk.found, first.at or 0)
    there = here
    if at:
        before = chunk.found[:at]
        part = Chunk(before, mark_of(before, Place(before[-1].sequence, *here[1:])))
        there = apply_chunk(link, settings, owner, here, part).there
    raise _stopped(chunk.found, first, there) from first.error


def _one_by_one(link: Link, settings: Settings, owner: str, here: Place, saves: Sequence[Chunk]) -> Applied:
    aside: list[Aside] = []
    for save in saves:
        applied = apply_chunk(link, settings, owner, here, save)
        here = applied.there
        aside += applied.set_aside
    return Applied(here, aside)


def _all_aside(link: Link, settings: Settings, owner: str, here: Place, chunk: Chunk, error: BaseException) -> Applied:
    """Set aside all events of a save that cannot be committed, as nobody knows by which of them."""
    aside = [Aside(found, error, explain(error)) for found in chunk.found]
    link.begin()
    try:
        if not hold_place(link, settings.name, owner, here, _doubtful(settings, chunk)):
            raise LostError  # noqa: TRY301
        _set_aside(link, settings, aside)
        advance(link, settings.name, owner, here, chunk.there)
        link.commit()
    except BaseException:
        with suppress(Exception):
            link.rollback()
        raise
    return Applied(chunk.there, aside)


def _set_aside(link: Link, settings: Settings, aside: Sequence[Aside]) -> None:
    for one in aside:
        set_aside(link, settings.name, one.found, one.reason)


def _saves_of(chunk: Chunk) -> list[Chunk]:
    """Return a chunk for each save of a chunk; the last one is as far on as the chunk is."""
    begins = [at for at in range(len(chunk.found)) if begin_of_save(chunk.found, at) == at]
    parts = [chunk.found[begin:end] for begin, end in zip(begins, [*begins[1:], len(chunk.found)], strict=True)]
    saves = [Chunk(part, mark_of(part, Place(part[-1].sequence, *chunk.there[1:]))) for part in parts]
    return [*saves[:-1], Chunk(saves[-1].found, chunk.there)]


def _attempt(link: Link, settings: Settings, owner: str, here: Place, chunk: Chunk, *, is_careful: bool) -> Applied:
    """Apply a chunk in one transaction.

    Args:
        link: The connection.
        settings: Those of the projection.
        owner: This instance.
        here: How far the projection is.
        chunk: What follows.
        is_careful: Whether each event may fail by itself, and is set aside then.

    Raises:
        RefusedError: An event cannot be applied. Nothing was.
    """
    aside: list[Aside] = []
    link.begin()
    try:
        doubtful = _doubtful(settings, chunk)
        if not hold_place(link, settings.name, owner, here, doubtful):
            raise LostError  # noqa: TRY301
        if is_careful:
            aside = apply_carefully(link, settings, chunk.found)
            _set_aside(link, settings, aside)
        else:
            apply_all(link, settings, chunk.found)
        advance(link, settings.name, owner, here, chunk.there)
        try:
            link.commit()
        except Exception as error:
            if settings.database.is_passing(error):
                raise
            raise RefusedError(None, error) from error  # a constraint that is checked only now
    except BaseException:
        with suppress(Exception):
            link.rollback()
        raise
    return Applied(chunk.there, aside)


def apply_all(link: Link, settings: Settings, found: Sequence[Found], *, rebuilding: bool = False) -> None:
    """In a transaction, apply events.

    Raises:
        RefusedError: One of them cannot be applied.
        Exception: An error of the database that passes.
    """
    if not found:
        return
    at: int | None = 0
    apply, db = settings.apply, link.db
    try:
        with link.hold(rebuilding=rebuilding):
            for at, one in enumerate(found):
                if isinstance(one, MalformedRecordError):
                    raise one  # noqa: TRY301  # as what apply() raises
                apply(db, one)
            at = None
    except BaseException as error:
        is_refused = rebuilding and is_read_only(error)
        if isinstance(error, Exception) and settings.database.is_passing(error) and not is_refused:
            raise
        raise RefusedError(None if is_given_up(error) and len(found) > 1 else at, error) from error


def apply_carefully(link: Link, settings: Settings, found: Sequence[Found], *, rebuilding: bool = False) -> list[Aside]:
    """In a transaction, apply events; return those that could not be, which leave no trace.

    Raises:
        RefusedError: One of them cannot be applied because of a mistake that would come again.
        Exception: An error of the database that passes.
    """
    aside: list[Aside] = []
    for at, one in enumerate(found):
        try:
            apply_all(link, settings, [one], rebuilding=rebuilding)
        except RefusedError as refused:
            if refused.is_mistake or refused.is_unsafe:
                refused.at = at
                raise
            aside.append(Aside(one, refused.error, explain(refused.error)))
    return aside


def _stopped(found: Sequence[Found], refused: RefusedError, here: Place) -> StoppedError:
    one = found[refused.at or 0]
    about = f"event {one.sequence}"
    if refused.at is None and len(found) > 1:
        about = f"one of the events {one.sequence} to {found[-1].sequence}"
    elif isinstance(one, StoredEvent):
        event = one.event
        about += f" ({short(event.id)}, {short(event.event_type)} of actor {short(event.actor_id)})"
    return StoppedError(
        f"it has stopped at {about}, which cannot be applied: {explain(refused.error)}", "event", here, one
    )


def _doubtful(settings: Settings, chunk: Chunk) -> str:
    return (
        f"apply() of projection {short(settings.name)} has committed the transaction that it was called in, with one "
        f"of the events {chunk.found[0].sequence} to {chunk.found[-1].sequence}. What it had written until then was "
        "kept without the checkpoint, so those events would take effect once more. Take the commit out of apply(), and "
        "build the rows anew with rebuild()"
    )


def _unsafe(link: Link, settings: Settings, chunk: Chunk, here: Place, error: BaseException) -> StoppedError:
    """Return the error for a transaction that the user's function has ended, after looking what is left of it."""
    checkpoint = read(link, settings.name)
    if checkpoint is not None and checkpoint.stopped == DOUBTFUL:
        return StoppedError(checkpoint.reason, DOUBTFUL)
    return StoppedError(
        f"apply() of projection {short(settings.name)} has rolled back the transaction that it was called in, with one "
        f"of the events {chunk.found[0].sequence} to {chunk.found[-1].sequence} ({error}). What it may have written "
        "and committed after that was kept without the checkpoint. Let it raise an error instead, and build the rows "
        "anew with rebuild()",
        DOUBTFUL,
        here,
    )
