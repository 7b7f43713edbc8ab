"""Event loops: asyncio's, or uvloop's where it is installed and fit."""

import asyncio
import os
import selectors
import socket
import threading
from collections.abc import Callable
from contextlib import ExitStack
from itertools import count

from .._values.clock import monotonic
from ..errors import AetherError, BusClosedError, ConnectError
from .base_loop import BaseLoop
from .deadline import Deadline
from .fork import OwnFile
from .green import refuse_late_patching, uses_gevent
from .registry import WeakRegistry
from .threads import NoThreadError, make_thread, start
from .waits import Reply

__all__ = ["StockLoop", "new_loop"]

# What to do where a limit was met.
_ADVICE = "The next call tries again; if that is in vain, raise the limit (ulimit -n, ulimit -u), or free something"

_this_thread = threading.local()
_MADE_WITHIN = 5.0  # seconds; it takes a thousandth of one
_FILES = 6  # more than a loop opens; if they lack amid that, half a loop is left behind
_numbers = count(1)  # so that a stack dump tells two loops apart
_green_loops: WeakRegistry[BaseLoop] = WeakRegistry()


class StockLoop(BaseLoop, asyncio.SelectorEventLoop):  # type: ignore[misc]  # one context, for callbacks of any kind
    """asyncio's own event loop."""

    def __init__(self) -> None:
        self._known = selectors.DefaultSelector()
        try:
            # Epoll and kqueue are files themselves.
            self._poll = [OwnFile.of(self._known.fileno())] if hasattr(self._known, "fileno") else []
            super().__init__(self._known)
            for sock in self._wakers():
                self._sockets.add(sock)
        except BaseException:  # for want of files, or by an interrupt
            self._made_in = None
            self._known.close()
            for sock in self._wakers():
                sock.close()
            raise

    def _wakers(self) -> list[socket.socket]:
        """The sockets by which it is woken; asyncio has no name for them that is not private."""
        ends = (getattr(self, name, None) for name in ("_ssock", "_csock"))
        return [end for end in ends if isinstance(end, socket.socket)]

    def time(self) -> float:
        """Return the time of all timers, on a clock that tests do not stop."""
        return monotonic()

    def files(self) -> list[OwnFile]:
        """Return the selector's own file, what wakes it, and the sockets of the connections."""
        return [*self._poll, *self._sockets.files()]

    def forget_files(self) -> None:
        """In a forked child, before they are let go of: know their numbers no more."""
        super().forget_files()
        if all(file.is_ours for file in self._poll):
            self._known.close()  # it forgets what it knew, and tells the kernel nothing


def new_loop(fast: bool, warn: Callable[[str], object]) -> BaseLoop:
    """Make an event loop.

    Args:
        fast: Whether it may be uvloop's; it is, if that is installed and fit for it.
        warn: Called with the reason if it is installed and not fit.

    Raises:
        ConnectError: There are not enough files, or there is no memory or thread, at the moment.
        BusClosedError: No thread can be started any more.
        AetherError: Threads are green, in a way in which it cannot run.
    """
    refuse_late_patching()
    is_green = uses_gevent()
    if is_green and any(one.is_in_use() for one in _green_loops):
        raise AetherError(
            "with gevent there is one connection in a process: make one Connection, and give it to all buses and stores"
        )
    try:
        with ExitStack() as spare:
            for _ in range(_FILES):
                spare.enter_context(open(os.devnull, "rb", buffering=0))
        loop = _made(_kind(fast and not is_green, warn))
    except NoThreadError as error:
        raise _without_thread(error) from error
    except (OSError, MemoryError) as error:
        raise ConnectError(f"no connection can be begun: {error or 'no memory'}. {_ADVICE}") from error
    if is_green:
        _green_loops.add(loop)
    return loop


def _without_thread(error: NoThreadError) -> AetherError:
    if error.is_passing:
        return ConnectError(f"no connection can be begun: {error}. {_ADVICE}")
    return BusClosedError(f"no connection begins any more, as the interpreter ends: {error}")


def _made(kind: Callable[[], BaseLoop]) -> BaseLoop:
    """Make an event loop on a thread of its own, and so whole, or not at all.

    The caller's may be interrupted by a signal handler that raises, and half a loop cannot be closed. And the caller
    has a context, which a loop would keep. asyncio logs that it makes one, at DEBUG: where the log handler makes
    another, over that, it does so at once, or there would be no end of such threads.
    """
    if getattr(_this_thread, "makes_loops", False):
        return kind()
    made: Reply[BaseLoop] = Reply()

    def make() -> None:
        _this_thread.makes_loops = True
        try:
            made.set(kind())
        except Exception as error:
            made.fail(error)

    start(make_thread(make, name=f"aether-loop-maker-{next(_numbers)}"))
    return made.wait(Deadline(_MADE_WITHIN))


def _kind(fast: bool, warn: Callable[[str], object]) -> Callable[[], BaseLoop]:
    """Choose an event loop."""
    if fast:
        try:
            from .uvloop import UVLoop
        except ModuleNotFoundError:
            pass
        except ImportError as error:
            warn(f"asyncio's own event loop is used: {error}")
        except RuntimeError:  # it imports what can be imported no more, as the interpreter ends
            pass
        else:
            return UVLoop
    return StockLoop
