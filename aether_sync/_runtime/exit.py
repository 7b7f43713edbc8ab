"""The end of a process, in the two steps in which Python ends it.

1. The main thread has finished. Python waits for all threads that are not daemons, so iterations in them have to end.
2. Those threads have finished. What was published is flushed, once.

A child process of ``multiprocessing`` ends without ``atexit``. It runs finalizers of its own before it waits for its
threads, and both steps are done by such a finalizer. ``os._exit()`` and a signal that kills run neither step.

Thread pools are joined in the first step too, by hooks of their own, and the hook that was registered last runs first.
Therefore ``concurrent.futures`` is imported here, so that its hook is registered before ours and runs after it.
"""

import atexit
import os
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress

from .locks import outside_locks

with suppress(RuntimeError):  # the main thread has finished already, and no hook can be registered any more
    import concurrent.futures.thread  # noqa: F401  # for its hook

__all__ = [
    "after_exit",
    "at_exit",
    "before_threads_end",
    "end_iterations",
    "is_ending",
    "main_thread_is_done",
    "mind_the_exit",
]

_endings: list[Callable[[], None]] = []  # of iterations, in the order in which they were registered
_last: list[Callable[[], None]] = []  # what the second step does, likewise
_afterwards: list[Callable[[], None]] = []  # what is done when all of that is over
_minded = 0  # the id of the process for which mind_the_exit() has been called
_is_ending = False  # whether no iteration may begin any more
_is_done = False  # whether the main thread has finished


def before_threads_end(work: Callable[[], None]) -> Callable[[], None]:
    """Register a function to be called when the main thread has finished, before Python waits for the other threads."""
    _endings.append(work)
    return work


def at_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Register a function to be called at the very end. If it is registered at import, it runs after the user's own."""
    _last.append(work)
    return atexit.register(work)


def after_exit(work: Callable[[], None]) -> Callable[[], None]:
    """Register a function to be called when everything is closed that is closed at the exit."""
    _afterwards.append(work)
    return work


def main_thread_is_done() -> bool:
    """Whether the main thread has finished, so that Python has begun with the first step."""
    return _is_done


def is_ending() -> bool:
    """Whether no iteration may begin any more, since nothing would end it."""
    return _is_ending


def end_iterations() -> None:
    """End every iteration in this process for good, because the process is about to end.

    Subscriptions, followers and consumptions end as if they were closed; subscriptions still give what they have
    queued. Runners finish the events that they are handling. New ones of all these are refused. Publishing, reading and
    appending go on.

    This happens by itself when the main thread has finished. Call it earlier in a web server whose main thread first
    waits for its requests, if requests wait for events: when the server is told to stop, from a signal handler or any
    thread.
    """
    global _is_ending
    _is_ending = True  # before anything is ended, so that what begins later is refused
    with outside_locks():  # a signal handler may have interrupted code that holds locks
        _do_all(_endings)


def mind_the_exit() -> None:
    """In a child process of ``multiprocessing``, which runs no ``atexit``, have a finalizer do both steps."""
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
    _do_all([*_afterwards, *_last, _when_the_main_thread_is_done])


def _do_all(works: list[Callable[[], None]]) -> None:
    """Call all of these, the last one first, whatever one of them raises."""
    with ExitStack() as stack:
        for work in works:
            stack.callback(work)


atexit.register(lambda: _do_all(_afterwards))  # before all others, so that it runs after them

# concurrent.futures ends its threads by this function. It is private, and nothing public does the same. If it fails
# (because it is gone, or because this module is imported after the main thread has finished), iterations in threads
# that are not daemons do not end by themselves.
with suppress(AttributeError, RuntimeError):
    threading._register_atexit(_when_the_main_thread_is_done)  # type: ignore[attr-defined]
