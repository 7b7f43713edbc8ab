"""Forks: in the child every object begins anew, and nothing there waits for a thread or a lock that did not survive.

``os.fork()`` copies the one thread that calls it. In the child, before ``fork()`` returns: guards held by other threads
are freed (``_waiting``); then each heir lets go of what is the parent's. The parent needs no part in it, and notices
nothing: the child says no word to a server, and none to the selector that both share.

Whatever a thread of the parent was changing at that moment is left half done in the child, which is why an heir
replaces its state there and does not mend it.
"""

import os
from collections.abc import Iterable
from contextlib import suppress

from ._waiting import Living, free_guards

__all__ = ["Heir", "heirs", "let_go"]


class Heir:
    """An object that a forked child inherits."""

    def _after_fork(self) -> None:
        """Begin anew. Runs in the child, on its only thread, which may have been anywhere: it waits for nothing."""
        raise NotImplementedError


#: Everyone who wants to know of forks.
heirs: Living[Heir] = Living()


def let_go(files: Iterable[int]) -> None:
    """In a forked child: replace files that are the parent's.

    They are not closed: who closes one that a selector knows, by whatever object comes by later, takes it from the
    selector, which is one and the same in both processes, and the parent goes deaf.
    """
    with suppress(OSError):  # there may be no more files: then the child keeps them, and nothing else is different
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            for file in files:
                os.dup2(nothing, file, inheritable=False)
        finally:
            os.close(nothing)


def _begin_anew() -> None:
    free_guards()
    errors = []
    for heir in heirs:
        try:
            heir._after_fork()
        except Exception as error:  # the others begin anew all the same
            errors.append(error)
    if errors:
        raise errors[0]  # Python reports it, and goes on


os.register_at_fork(after_in_child=_begin_anew)
