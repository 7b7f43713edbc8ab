"""Notices what a thread or task has stored, without a word from the code that stores it.

A ``contextvars`` variable belongs to one thread or task, and to what is given a copy of its context. While nobody wants
to know, a save looks at an empty tuple, and that is all.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from threading import get_ident

__all__ = ["Written", "noticing", "written"]


class Written:
    """The highest sequence that was stored in one place. Threads that share a context may note at once.

    Args:
        place: Where: what all stores with the same events have in common, and no others.
    """

    __slots__ = ("_by_thread", "_place")

    def __init__(self, place: object) -> None:
        self._place = place
        self._by_thread: dict[int, int] = {}  # each thread has a place of its own, so this needs no lock

    @property
    def sequence(self) -> int:
        """The highest sequence; 0 if nothing was stored."""
        return max(self._by_thread.copy().values(), default=0)

    def note(self, place: object, sequence: int) -> None:
        """Note that something was stored, in any place."""
        if place == self._place:
            me = get_ident()
            self._by_thread[me] = max(sequence, self._by_thread.get(me, 0))


#: Those who want to know; a save calls each of them.
written: ContextVar[tuple[Written, ...]] = ContextVar("aether_sync_written", default=())


@contextmanager
def noticing(own: Written) -> Iterator[None]:
    """Notice what this thread or task stores within a ``with`` statement, which must not yield to others."""
    token = written.set((*written.get(), own))
    try:
        yield
    finally:
        written.reset(token)
