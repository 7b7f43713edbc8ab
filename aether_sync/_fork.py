"""Forks: in the child every object begins anew, and nothing there waits for a thread or a lock that did not survive.

``os.fork()`` copies the one thread that calls it. In the child, before ``fork()`` returns: guards held by other threads
are freed (``_waiting``); then each heir lets go of what is the parent's. The parent needs no part in it, and notices
nothing: the child says no word to a server, and none to the selector that both share.

Whatever a thread of the parent was changing at that moment is left half done in the child, which is why an heir
replaces its state there and does not mend it.
"""

import os

from ._waiting import Living, free_guards

__all__ = ["Heir", "heirs"]


class Heir:
    """An object that a forked child inherits."""

    def _after_fork(self) -> None:
        """Begin anew. Runs in the child, on its only thread, which may have been anywhere: it waits for nothing."""
        raise NotImplementedError


#: Everyone who wants to know of forks.
heirs: Living[Heir] = Living()


def _begin_anew() -> None:
    free_guards()
    for heir in heirs:
        heir._after_fork()


os.register_at_fork(after_in_child=_begin_anew)
