"""The end of a process, in the two steps in which Python does it.

1. The main thread is done. Python now waits for all threads that are not daemons, so those that iterate must end first.
2. These threads are done. What was published is flushed once.

A child of ``multiprocessing`` does not run ``atexit``. It runs its own finalizers, and with them both steps, before it
waits for its threads. Nothing runs after ``os._exit()`` or a signal that kills.

Thread pools are also joined in the first step, by hooks of their own, and the hook that was registered last runs first.
So the hook of ``concurrent.futures`` is registered here, before ours, even if nobody has imported it yet.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from .locks import outside_locks

with suppress(RuntimeError):  # the main thread is done already, and nothing can be registered any more
    import concurrent.futures.thread  # noqa: F401  # for its hook

__all__ = ["at_exit", "before_threads_end", "end_iterations", "is_ending", "main_thread_is_done", "mind_the_exit"]

_endings: list[Callable[[], None]] = []  # what the first step calls, in the order of registration
_last: list[Callable[[], None]] = []  # what the second step calls, likewise
_minded = 0  # the process whose exit runs both steps
_is_ending = False  # no iteration begins any more
_is_done = False  # the main thread is done


def before_threads_end(work: Callable[[], None]) -> Callable[[], None]:
    """Call ``work`` when the main thread is done, before Python waits for the others."""
    _endings.append(work)
    return work


def at_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Call ``work`` at the very end. It is registered at import, so it runs after what users register themselves."""
    _last.append(work)
    return atexit.register(work)


def main_thread_is_done() -> bool:
    """Whether the main thread is done, so that Python has begun the first step."""
    return _is_done


def is_ending() -> bool:
    """Whether no iteration may begin any more, because nothing would end it."""
    return _is_ending


def end_iterations() -> None:
    """End every iteration in this process for good, because the process is about to end.

    Subscriptions, followers and consumptions end as if they were closed; what subscriptions have queued is still
    delivered. Runners finish the events that they handle. New iterations are refused. Publishing, reading and appending
    still work.

    It is called automatically when the main thread is done. Call it yourself, from a signal handler or any thread, in a
    web server that waits for its requests when it is told to stop, if these requests wait for events.
    """
    global _is_ending
    _is_ending = True  # first: later iterations are refused, earlier ones are ended now
    with outside_locks():  # a signal handler may have interrupted a thread that holds some
        _do_all(_endings)


def mind_the_exit() -> None:
    """Have this process run both steps even if it runs no ``atexit``. Called before they are needed."""
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
    """Call them all, the last one first, whatever one of them raises."""
    with ExitStack() as stack:
        for work in works:
            stack.callback(work)


# This is how concurrent.futures ends its threads. It is private, and there is nothing public like it. Without it the
# threads iterate on; they also do so if this module is imported when the main thread is done already.
with suppress(AttributeError, RuntimeError):
    threading._register_atexit(_when_the_main_thread_is_done)  # type: ignore[attr-defined]
