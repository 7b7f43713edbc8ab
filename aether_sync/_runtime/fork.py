"""Forks: in the child every object begins anew, and nothing there waits for a thread or a lock that did not survive.

``os.fork()`` copies the one thread that calls it. In the child, before ``fork()`` returns: guards held by other threads
are freed (``_waiting``); then each heir lets go of what is the parent's. The parent needs no part in it, and notices
nothing: the child says no word to a server, and none to the selector that both share.

Whatever a thread of the parent was changing at that moment is left half done in the child, which is why an heir
replaces its state there and does not mend it.
"""

import os
import socket
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Self

from .locks import free_locks
from .registry import WeakRegistry

__all__ = ["ForkAware", "OwnFile", "OwnSockets", "fork_aware", "let_go"]


class ForkAware:
    """An object that a forked child inherits."""

    def _after_fork(self) -> None:
        """Begin anew. Runs in the child, on its only thread, which may have been anywhere: it waits for nothing."""
        raise NotImplementedError


#: Everyone who wants to know of forks.
fork_aware: WeakRegistry[ForkAware] = WeakRegistry()


class OwnFile(NamedTuple):
    """A file that we have opened: its number may be another one's since, if somebody has closed what is not his own.

    Polls and the like all look the same to the kernel's ``fstat()``, so another one of these is taken for ours.
    """

    number: int
    identity: tuple[int, int]  # of the device, and of the file on it

    @classmethod
    def of(cls, number: int) -> Self:
        """Know a file that has just been opened."""
        return cls(number, _identity(number))

    @property
    def is_ours(self) -> bool:
        """Whether the number still means this file."""
        with suppress(OSError):  # nobody's
            return self.identity == _identity(self.number)
        return False


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


class OwnSockets:
    """The sockets of a loop, from when they are made until they are closed; changed on one thread."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[socket.socket], OwnFile]] = []

    def add(self, sock: socket.socket) -> None:
        """Know one that has just been made."""
        self._known = [*((ref, file) for ref, file in self._known if _has(ref, file)), _noted(sock)]

    def files(self) -> list[OwnFile]:
        """Return those that are open."""
        return [file for ref, file in self._known if _has(ref, file)]

    def forget(self) -> None:
        """Let the objects forget their numbers, and close nothing."""
        for ref, file in self._known:
            sock = ref()
            if sock is not None and sock.fileno() == file.number:
                sock.detach()
        self._known = []


def _noted(sock: socket.socket) -> tuple["weakref.ref[socket.socket]", OwnFile]:
    return weakref.ref(sock), OwnFile.of(sock.fileno())


def _has(ref: "weakref.ref[socket.socket]", file: OwnFile) -> bool:
    sock = ref()
    return sock is not None and sock.fileno() == file.number


def let_go(files: Iterable[OwnFile]) -> None:
    """In a forked child: replace files that are the parent's. Done once for each: later its number may be another's.

    They are not closed: who closes one that a selector knows, by whatever object comes by later, takes it from the
    selector, which is one and the same in both processes, and the parent goes deaf.
    """
    with suppress(OSError):  # there may be no more files: then the child keeps them, and nothing else is different
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            for file in files:
                if file.is_ours:
                    os.dup2(nothing, file.number, inheritable=False)
        finally:
            os.close(nothing)


def _begin_anew() -> None:
    free_locks()
    errors = []
    for one in fork_aware:
        try:
            one._after_fork()
        except Exception as error:  # the others begin anew all the same
            errors.append(error)
    if errors:
        raise errors[0]  # Python reports it, and goes on


os.register_at_fork(after_in_child=_begin_anew)
