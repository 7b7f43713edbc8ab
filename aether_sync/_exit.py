"""The end of a process, in the steps in which Python brings it.

1. The main thread is done. Python now waits for all normal threads, so first those that iterate must come to an end.
2. The normal threads are done. What was published is flushed, once.

A child of ``multiprocessing`` ends without ``atexit``; it runs its own finalizers, and so both steps, before it waits
for its threads. ``os._exit()``, and a signal that kills, run nothing.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

__all__ = ["at_exit", "before_threads_end", "mind_the_exit"]

_steps: list[Callable[[], None]] = []  # in their order
_minded = 0  # the process whose exit is minded


def before_threads_end(work: Callable[[], None]) -> Callable[[], None]:
    """Have work done when the main thread is done, and Python is about to wait for the others."""
    _steps.insert(0, work)
    # What concurrent.futures ends its threads with; private, and without an equal. Without it normal threads go on, as
    # they do after an import by one of them when the main thread is done.
    with suppress(AttributeError, RuntimeError):
        threading._register_atexit(work)  # type: ignore[attr-defined]
    return work


def at_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Have work done at the very end. Registered at import, it runs behind what users register for themselves."""
    _steps.append(work)
    return atexit.register(work)


def mind_the_exit() -> None:
    """Have both steps done in this process too, if it is one that runs no ``atexit``. Called before they are needed."""
    global _minded
    if _minded != os.getpid():
        multiprocessing = sys.modules.get("multiprocessing")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _run_all, exitpriority=0)
        _minded = os.getpid()


def _run_all() -> None:
    with ExitStack() as stack:  # all are done, whatever one raises
        for work in reversed(_steps):
            stack.callback(work)
