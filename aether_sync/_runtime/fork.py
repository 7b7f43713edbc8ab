"""Forks: in the child every object begins anew, and nothing there waits for a thread or a lock that did not survive.

``os.fork()`` copies only the thread that calls it. In the child, before ``fork()`` returns, the locks of other threads
are freed (``locks``). Then each :class:`ForkAware` object releases what belongs to the parent. The parent is not
involved: the child sends nothing to a server, and changes nothing in the selector that both share.

What a thread of the parent was changing at that moment is half changed in the child. So a ForkAware object replaces its
state there, and does not try to repair it.
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
        """Begin anew. Runs in the child, on its only thread, in the middle of anything; so it must not wait."""
        raise NotImplementedError


#: All objects that are called after a fork.
fork_aware: WeakRegistry[ForkAware] = WeakRegistry()


class OwnFile(NamedTuple):
    """A file that we have opened. Other code may have closed its number, which then belongs to another file.

    To ``fstat()`` all polls and the like look the same, so another one of these is mistaken for ours.
    """

    number: int
    identity: tuple[int, int]  # of the device, and of the file on it

    @classmethod
    def of(cls, number: int) -> Self:
        """Remember a file that has just been opened."""
        return cls(number, _identity(number))

    @property
    def is_ours(self) -> bool:
        """Whether the number still means this file."""
        with suppress(OSError):  # the number belongs to no file
            return self.identity == _identity(self.number)
        return False


def _identity(number: int) -> tuple[int, int]:
    status = os.fstat(number)
    return status.st_dev, status.st_ino


class OwnSockets:
    """The open sockets of a loop. They are added and closed on one thread."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[socket.socket], OwnFile]] = []

    def add(self, sock: socket.socket) -> None:
        """Remember a socket that has just been made."""
        self._known = [*((ref, file) for ref, file in self._known if _has(ref, file)), _noted(sock)]

    def files(self) -> list[OwnFile]:
        """Return the files of the open sockets."""
        return [file for ref, file in self._known if _has(ref, file)]

    def forget(self) -> None:
        """Detach the socket objects from their files, and close nothing."""
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
    """In a forked child: replace files of the parent, once for each, as the number may belong to another file later.

    They are replaced and not closed. Both processes share one selector in the kernel: to close a file that it knows
    would take the file from the selector, and the parent would hear nothing any more.
    """
    with suppress(OSError):  # if no file can be opened, the child keeps them, and nothing else is different
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
        except Exception as error:  # the others still begin anew
            errors.append(error)
    if errors:
        raise errors[0]  # Python reports it and goes on


os.register_at_fork(after_in_child=_begin_anew)
