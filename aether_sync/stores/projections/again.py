"""Events that were set aside, once more: each is applied in a transaction of its own, or forgotten."""

from contextlib import suppress

from ...errors import ProjectionStoppedError
from .applying import RefusedError, Settings, apply_all, explain
from .base import Link
from .checkpoints import DOUBTFUL, doubt, has_set_aside, lock, read, remove_set_aside, trust
from .source import Source

__all__ = ["apply_again", "discard"]


def apply_again(link: Link, store: Source, settings: Settings, sequence: int) -> bool:
    """Apply an event that was set aside; False if it is not there any more.

    Raises:
        ProjectionStoppedError: It cannot be applied, and stays where it is.
    """
    (found,) = store.read_all(sequence - 1, until=sequence, limit=1) or (None,)
    if found is None:
        raise ProjectionStoppedError(f"the store has no event {sequence} any more, which was set aside", sequence)
    doubtful = (
        f"apply() has ended the transaction that it was called in by apply_again(), with event {sequence}. What it had "
        "written and committed was kept, though the event is still set aside. Let it neither commit nor roll back, and "
        "build the rows anew with rebuild()"
    )
    link.begin()
    try:
        row = lock(link, settings.name)
        if row is None or not has_set_aside(link, settings.name, sequence):
            link.rollback()
            return False
        doubt(link, settings.name, doubtful)
        apply_all(link, settings, [found])
        trust(link, settings.name, row)
        remove_set_aside(link, settings.name, sequence)
        link.commit()
    except RefusedError as refused:
        with suppress(Exception):
            link.rollback()
        if not isinstance(refused.error, Exception):
            raise refused.error from None
        if refused.is_unsafe:
            _leave_doubt(link, settings, doubtful)
            raise ProjectionStoppedError(doubtful, sequence, found.event.id) from refused.error
        what = f"event {sequence}, which was set aside, cannot be applied: {explain(refused.error)}"
        raise ProjectionStoppedError(what, sequence, found.event.id) from refused.error
    except BaseException:
        with suppress(Exception):
            link.rollback()
        raise
    return True


def _leave_doubt(link: Link, settings: Settings, reason: str) -> None:
    """Write that the rows are doubtful, if the user's function has rolled that back."""
    row = read(link, settings.name)
    if row is None or row.stopped == DOUBTFUL:
        return
    link.begin()
    if lock(link, settings.name) is not None:
        doubt(link, settings.name, reason)
    link.commit()


def discard(link: Link, settings: Settings, sequence: int) -> bool:
    """Forget an event that was set aside; False if it is not there."""
    link.begin()
    try:
        is_done = lock(link, settings.name) is not None and remove_set_aside(link, settings.name, sequence)
        link.commit()
    except BaseException:
        with suppress(Exception):
            link.rollback()
        raise
    return is_done
