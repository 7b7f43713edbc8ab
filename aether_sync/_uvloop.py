"""The event loop of uvloop (the extra ``fast``). Imported when a loop is made; uvloop's policy is not installed.

What it does not do as asyncio's loop does, and is mended here:

- It looks names up in libuv's pool of threads, which the process waits for at its end, and asks no subclass to do it.
- It tells nobody which sockets it has. Here all are made by :meth:`UVLoop._make_socket`, and remembered.

Of its own files a forked child replaces the epoll alone: there it is never run, closed or posted to, so nobody uses the
eventfd, the pipes for signals and the io_uring, and nobody notices who holds them.
"""

import os
import socket

import uvloop

from ._base_loop import BaseLoop
from ._waiting import Living

__all__ = ["UVLoop"]

if not hasattr(uvloop.Loop, "_get_backend_id"):
    raise ImportError("this uvloop does not tell its epoll, which forks need")


class UVLoop(BaseLoop, uvloop.Loop):  # type: ignore[misc]
    """uvloop's event loop."""

    def __init__(self) -> None:
        self._made_in = os.getpid()  # first: an interrupt may come
        super().__init__()
        self._sockets: Living[socket.socket] = Living()

    def __del__(self) -> None:
        """Close what was made when an interrupt came. In a forked child libuv would abort it."""
        if os.getpid() == self._made_in and not self.is_closed() and not self.is_running():
            self.close()

    def files(self) -> list[int]:
        """Return the epoll's number and those of the sockets."""
        epoll: int = self._get_backend_id()  # type: ignore[attr-defined]
        return [epoll, *(number for sock in self._sockets if (number := sock.fileno()) >= 0)]

    def _make_socket(self, family: int, kind: int, proto: int) -> socket.socket:
        sock = super()._make_socket(family, kind, proto)
        self._sockets.add(sock)
        return sock
