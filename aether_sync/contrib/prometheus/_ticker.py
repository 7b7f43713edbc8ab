"""``Ticker``: a thread that does something now, and again and again, until it is stopped."""

import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from queue import Empty, SimpleQueue

from ..._runtime.threads import NoThreadError, make_thread, start

__all__ = ["Ticker"]

_numbers = count(1)


class Ticker:
    """Calls a method on a thread of its own. It does not keep the object of the method alive.

    Args:
        owner: The object; when it is collected, the thread ends.
        work: The method, which raises nothing.
        seconds: How long it waits between two calls.
    """

    def __init__(self, owner: object, work: Callable[[], None], seconds: float) -> None:
        self._work = weakref.WeakMethod(work)
        weakref.finalize(owner, self.stop).atexit = False
        self._seconds = seconds
        self.begin_anew()

    def begin_anew(self) -> None:
        """Have no thread, as in a forked child."""
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._to_start = [True]  # taken by the call that starts the thread

    def start(self) -> None:
        """Start the thread, unless it runs. If there is no thread to be had, the next call tries again."""
        with suppress(IndexError):
            self._to_start.pop()
            thread = make_thread(_run, self._work, self._seconds, self._bell, name=f"aether-metrics-{next(_numbers)}")
            try:
                start(thread)
            except NoThreadError:
                self._to_start.append(True)

    def stop(self) -> None:
        """Have the thread end soon."""
        bell = self._bell
        self.begin_anew()
        bell.put(None)


def _run(work: "weakref.WeakMethod[Callable[[], None]]", seconds: float, bell: "SimpleQueue[None]") -> None:
    while True:
        call = work()
        if call is None:
            return
        call()
        del call  # or its object would live through the wait
        with suppress(Empty):
            bell.get(timeout=min(seconds, threading.TIMEOUT_MAX))
            return
