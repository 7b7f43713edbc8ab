"""The event loop of uvloop (the extra ``fast``). It is imported when a loop is made; its policy is not installed.

It differs from asyncio's loop in three ways, which are corrected here:

- It looks up names in libuv's pool of threads, for which the process waits at its end, and calls no method for that.
- It does not tell which sockets it has. Here :meth:`BaseLoop._make_socket` makes and remembers all of them.
- A loop that could not be made completely stays open, because files were missing or a signal handler raised. See
  :meth:`UVLoop._close_unused`.

Of the loop's own files a forked child replaces only the epoll. The loop is never run, closed or posted to there, so
nothing uses its eventfd, its pipes for signals and its io_uring, and it does no harm that the child has them.
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
        """Close the loop even if it was not made completely. In a forked child libuv would abort the process."""
        if self._made_in is None and _is_begun(self):
            self._made_in = os.getpid()
        super()._close_unused()

    def files(self) -> list[OwnFile]:
        """Return the epoll and the sockets."""
        return [*([] if self._epoll is None else [self._epoll]), *self._sockets.files()]


def _is_begun(loop: uvloop.Loop) -> bool:
    """Whether libuv has made the loop. If not, the loop must not be closed; uvloop itself does not tell."""
    return any(type(one).__name__ == "UVCheck" for one in gc.get_referents(loop))
