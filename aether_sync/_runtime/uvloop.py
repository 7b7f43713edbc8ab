"""The event loop of uvloop (the extra ``fast``). Imported when a loop is made; uvloop's policy is not installed.

What it does not do as asyncio's loop does, and is mended here:

- It looks names up in libuv's pool of threads, which the process waits for at its end, and asks no subclass to do it.
- It tells nobody which sockets it has. Here all are made by :meth:`BaseLoop._make_socket`, and remembered.
- One that cannot be made whole, for want of files or by an interrupt, stays open. See :meth:`UVLoop._close_unused`.

Of its own files a forked child replaces the epoll alone: there it is never run, closed or posted to, so nobody uses the
eventfd, the pipes for signals and the io_uring, and nobody notices who holds them.
"""

import gc
import os

import uvloop

from .base_loop import BaseLoop
from .fork import OwnFile

__all__ = ["UVLoop"]

if not hasattr(uvloop.Loop, "_get_backend_id"):
    raise ImportError("this uvloop does not tell its epoll, which forks need")


class UVLoop(BaseLoop, uvloop.Loop):  # type: ignore[misc]
    """uvloop's event loop."""

    _epoll: OwnFile | None = None

    def __init__(self) -> None:
        super().__init__()
        self._epoll = OwnFile.of(self._get_backend_id())  # type: ignore[attr-defined]

    def _close_unused(self) -> None:
        """Close what was made, also when an interrupt came. In a forked child libuv would abort it."""
        if self._made_in is None and _is_begun(self):
            self._made_in = os.getpid()
        super()._close_unused()

    def files(self) -> list[OwnFile]:
        """Return the epoll and the sockets."""
        return [*([] if self._epoll is None else [self._epoll]), *self._sockets.files()]


def _is_begun(loop: uvloop.Loop) -> bool:
    """Whether libuv has made it. If it has not, it must not be closed; uvloop itself does not say so."""
    return any(type(one).__name__ == "UVCheck" for one in gc.get_referents(loop))
