"""Forks: in the child every object begins anew, and nothing there waits for a thread or a lock that is not there.

``os.fork()`` copies only the thread that calls it. In the child, before ``fork()`` returns, the locks that other
threads held are freed (``locks``), and then each :class:`ForkAware` object drops what belongs to the parent. The parent
takes no part in this and notices nothing: the child sends nothing to a server, and does not touch the selector that
both share.

Whatever another thread of the parent was changing at that moment is half changed in the child. Therefore an object
replaces its state there, and does not repair it.
"""

import os
import socket
import weakref
from collections.abc import Iterable
from contextlib import suppress
from typing import NamedTuple, Self

from .locks import free_locks
from .registry import WeakRegistry
from .uwsgi import call_in_workers

__all__ = ["ForkAware", "OwnFile", "OwnSockets", "fork_aware", "let_go"]


class ForkAware:
    """An object that begins anew in a forked child."""

    def _after_fork(self) -> None:
        """Begin anew. This runs on the child's only thread, which may have been anywhere, so it waits for nothing."""
        raise NotImplementedError


#: All objects that begin anew in a forked child.
fork_aware: WeakRegistry[ForkAware] = WeakRegistry()


class OwnFile(NamedTuple):
    """A file that we have opened, known by its number and by what the kernel says of it.

    If other code closes a file that is not its own, the number may belong to another file afterwards. Epolls and the
    like all look the same to ``fstat()``, so another one of these is mistaken for ours.
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
    """The open sockets of a loop. One thread changes it."""

    def __init__(self) -> None:
        self._known: list[tuple[weakref.ref[socket.socket], OwnFile]] = []

    def add(self, sock: socket.socket) -> None:
        """Remember a socket that has just been made."""
        self._known = [*((ref, file) for ref, file in self._known if _has(ref, file)), _noted(sock)]

    def files(self) -> list[OwnFile]:
        """Return those that are open."""
        return [file for ref, file in self._known if _has(ref, file)]

    def forget(self) -> None:
        """Detach the socket objects from their file numbers, without closing anything."""
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
    """In a forked child, replace the parent's files by one that nothing can be read from.

    This is done once for each file, since its number may belong to another file later. The files are not just closed:
    an object that closes a number which the selector knows removes it from the selector, and both processes share that
    selector, so the parent would hear nothing any more.
    """
    with suppress(OSError):  # if no more files can be opened, the child keeps those of the parent, which does no harm
        nothing = os.open(os.devnull, os.O_RDWR)
        try:
            for file in files:
                if file.is_ours:
                    os.dup2(nothing, file.number, inheritable=False)
        finally:
            os.close(nothing)


_process = os.getpid()


def _begin_anew() -> None:
    global _process
    _process = os.getpid()
    free_locks()
    errors = []
    for one in fork_aware:
        try:
            one._after_fork()
        except Exception as error:  # the others begin anew all the same
            errors.append(error)
    if errors:
        raise errors[0]  # Python prints it, and the child goes on


def _begin_anew_once() -> None:
    """Begin anew, unless Python has called for it: uWSGI may do both."""
    if os.getpid() != _process:
        _begin_anew()


os.register_at_fork(after_in_child=_begin_anew)
call_in_workers(_begin_anew_once)
