"""``OwnHandlers``: signal handlers of a process that processes forked from it do not have.

A fork copies the handlers of its parent. Those that end the parent in order would leave the child as it is: a
``terminate()`` of ``multiprocessing`` would be noted there, where nobody looks, and a ``Pool`` would wait for ever for
processes that it has told to end.
"""

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from .registry import WeakRegistry

__all__ = ["OwnHandlers"]


class OwnHandlers:
    """Sets a handler for signals; a forked child has those of before. The main thread uses it.

    Args:
        handler: The handler.
    """

    def __init__(self, handler: Callable[[int, FrameType | None], object]) -> None:
        self._handler = handler
        self._before: dict[signal.Signals, Any] = {}  # what each signal had; a fork on another thread reads it
        _all.add(self)

    def set(self, number: signal.Signals) -> None:
        """Set the handler; again if other code has set one of its own meanwhile, which then is that of before.

        Raises:
            ValueError: This is not the main thread.
        """
        there = signal.getsignal(number)
        if there == self._handler:
            return
        is_new = number not in self._before
        self._before[number] = there  # at first, so that no child has the handler for good
        try:
            signal.signal(number, self._handler)
        except ValueError:
            if is_new:
                del self._before[number]
            raise

    def restore(self) -> None:
        """Set what was before, where nobody has set another one meanwhile."""
        for number, before in list(self._before.items()):
            if signal.getsignal(number) == self._handler:
                signal.signal(number, signal.SIG_DFL if before is None else before)  # None: it was not set by Python
            del self._before[number]

    @property
    def signals(self) -> list[signal.Signals]:
        """Those that have the handler."""
        return list(self._before)


_all: WeakRegistry[OwnHandlers] = WeakRegistry()


class _Blocked(threading.local):
    """The signals that a thread had blocked before it began to fork; None if it does not fork."""

    before: set[Any] | None = None


_blocked = _Blocked()


def _begin_to_fork() -> None:
    """Block the signals that we handle: one that the child gets at once waits until it has the handlers of before."""
    numbers = {number for one in _all for number in one.signals}
    if numbers:
        _blocked.before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)


def _go_on() -> None:
    before, _blocked.before = _blocked.before, None
    if before is not None:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _begin_anew() -> None:
    """In the child, whose only thread is its main thread, whichever it was before."""
    for one in _all:
        one.restore()
    _go_on()


os.register_at_fork(before=_begin_to_fork, after_in_parent=_go_on, after_in_child=_begin_anew)
