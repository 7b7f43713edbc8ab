"""The end of a process, in the steps in which Python brings it.

1. The main thread is done. Python now waits for all normal threads, so first those that iterate must come to an end.
2. The normal threads are done. What was published is flushed, once.

A child of ``multiprocessing`` ends without ``atexit``; it runs its own finalizers, and so both steps, before it waits
for its threads. ``os._exit()``, and a signal that kills, run nothing.

Pools of threads are joined in the first step, too, by hooks of their own, and the hook that was registered last runs
first. So that of ``concurrent.futures`` is registered here, before ours, whoever imports it later.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from .locks import outside_locks

with suppress(RuntimeError):  # the main thread is done already, and registers nothing any more
    import concurrent.futures.thread  # noqa: F401  # for its hook

__all__ = ["at_exit", "before_threads_end", "end_iterations", "is_ending", "main_thread_is_done", "mind_the_exit"]

_endings: list[Callable[[], None]] = []  # of iterations, in the order in which they were registered
_last: list[Callable[[], None]] = []  # the works of the second step, likewise
_minded = 0  # the process whose exit is minded
_is_ending = False  # no iteration begins any more
_is_done = False  # the main thread


def before_threads_end(work: Callable[[], None]) -> Callable[[], None]:
    """Have work done when the main thread is done, and Python is about to wait for the others."""
    _endings.append(work)
    return work


def at_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Have work done at the very end. Registered at import, it runs behind what users register for themselves."""
    _last.append(work)
    return atexit.register(work)


def main_thread_is_done() -> bool:
    """Whether the first step has begun by itself."""
    return _is_done


def is_ending() -> bool:
    """Whether no iteration may begin any more, as nothing would end it."""
    return _is_ending


def end_iterations() -> None:
    """Let every iteration in this process end, for good: the process is about to end.

    Subscriptions, followers and consumptions end as if they were closed, after what subscriptions have queued; runners
    come to the end of the events that they handle; new ones are refused. Publishing, reading and appending go on.

    It happens by itself when the main thread is done. A web server whose main thread waits for its requests first,
    while these wait for events, wants it to be called when it is told to stop: from a signal handler, or any thread.
    """
    global _is_ending
    _is_ending = True  # first: what begins later is refused, and what began before is ended now
    with outside_locks():  # a signal handler may have interrupted who holds some
        _do_all(_endings)


def mind_the_exit() -> None:
    """Have both steps done in this process too, if it is one that runs no ``atexit``. Called before they are needed."""
    global _minded
    if _minded != os.getpid():
        multiprocessing = sys.modules.get("multiprocessing")
        if multiprocessing is not None and multiprocessing.parent_process() is not None:
            from multiprocessing.util import Finalize

            Finalize(None, _run_both_steps, exitpriority=0)
        _minded = os.getpid()


def _when_the_main_thread_is_done() -> None:
    global _is_done
    _is_done = True
    end_iterations()


def _run_both_steps() -> None:
    _do_all([*_last, _when_the_main_thread_is_done])


def _do_all(works: list[Callable[[], None]]) -> None:
    """Do them all, the last one first, whatever one raises."""
    with ExitStack() as stack:
        for work in works:
            stack.callback(work)


# What concurrent.futures ends its threads with; private, and without an equal. Without it normal threads go on, as they
# do after an import by one of them when the main thread is done.
with suppress(AttributeError, RuntimeError):
    threading._register_atexit(_when_the_main_thread_is_done)  # type: ignore[attr-defined]
