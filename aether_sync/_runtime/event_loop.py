"""Event loops: uvloop's where it is installed and usable, else asyncio's own."""

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
from .standard_files import fill_standard_files
from .threads import NoThreadError, make_thread, start
from .uwsgi import refuse_before_its_fork
from .waits import Reply

__all__ = ["StockLoop", "new_loop"]

# What to do when a limit is reached.
_ADVICE = "The next call tries again; if that is in vain, raise the limit (ulimit -n, ulimit -u), or free something"

_this_thread = threading.local()
_MADE_WITHIN = 5.0  # seconds; it takes a thousandth of one
_FILES = 6  # more than a loop opens; if there are too few while it is made, half a loop is left behind
_numbers = count(1)  # so that loops can be told apart in a stack dump
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
        except BaseException:  # there are too few files, or a signal handler raised
            self._made_in = None
            self._known.close()
            for sock in self._wakers():
                sock.close()
            raise

    def _wakers(self) -> list[socket.socket]:
        """Return the sockets that wake the loop, for which asyncio has only private names."""
        ends = (getattr(self, name, None) for name in ("_ssock", "_csock"))
        return [end for end in ends if isinstance(end, socket.socket)]

    def time(self) -> float:
        """Return the time of all timers, on a clock that tests do not freeze."""
        return monotonic()

    def files(self) -> list[OwnFile]:
        """Return the files of the selector, of the sockets that wake the loop, and of the connections."""
        return [*self._poll, *self._sockets.files()]

    def forget_files(self) -> None:
        """In a forked child, before the files are released: forget their numbers."""
        super().forget_files()
        if all(file.is_ours for file in self._poll):
            self._known.close()  # which closes the file, and changes nothing in the parent's


def new_loop(fast: bool, warn: Callable[[str], object]) -> BaseLoop:
    """Make an event loop.

    Args:
        fast: Whether to use uvloop's, if that is installed and usable.
        warn: Called with the reason if it is installed and not usable.

    Raises:
        ConnectError: At the moment there are too few files, or there is no memory, or no thread can be started.
        BusClosedError: No thread can be started any more.
        AetherError: Green threads are used in a way that is not supported; or this process of uWSGI forks others.
    """
    refuse_late_patching()
    refuse_before_its_fork()
    is_green = uses_gevent()
    if is_green and any(one.is_in_use() for one in _green_loops):
        raise AetherError(
            "with gevent there is one connection in a process: make one Connection, and give it to all buses and stores"
        )
    try:
        fill_standard_files()
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
    """Make an event loop on a thread of its own, so that it is made completely or not at all.

    On the thread of the caller a signal handler may raise, and half a loop cannot be closed; and a loop would keep the
    context of the caller alive. asyncio logs, at DEBUG, that it makes a loop. If the log handler makes another one, it
    is made on the same thread, or there would be no end of such threads.
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
    """Choose the class of the event loop."""
    if fast:
        try:
            from .uvloop import UVLoop
        except ModuleNotFoundError:
            pass
        except ImportError as error:
            warn(str(error))
        except RuntimeError:  # the interpreter ends, and modules that it needs cannot be imported any more
            pass
        else:
            return UVLoop
    return StockLoop
