"""Signal handlers that come at a given line, or at any moment, and what they do there."""

import inspect
import linecache
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import inf
from types import FrameType
from typing import Any

from aether_sync import EventBus

from .common import PATIENCE, run_threads

#: The whole promise is 20,000; a run of all tests makes do with less, and on a busy machine with what comes in time.
INTERRUPTS = int(os.environ.get("AETHER_TEST_INTERRUPTS", "1500"))
_LONGEST = inf if "AETHER_TEST_INTERRUPTS" in os.environ else PATIENCE  # seconds

#: Seconds. Python may not see a signal that the kernel gives to another thread before that thread runs Python code.
RING_AGAIN = 0.05


@contextmanager
def before(function: Callable[..., Any], text: str, action: Callable[[], object]) -> Iterator[None]:
    """Once within the ``with``, have a handler act before the first line of a function that has a text in it."""
    code = inspect.unwrap(function).__code__
    fired = False

    def local(frame: FrameType, event: str, _: object) -> Any:
        nonlocal fired
        if event == "line" and not fired and text in linecache.getline(code.co_filename, frame.f_lineno):
            fired = True
            sys.settrace(None)
            frame.f_trace = None
            signal.raise_signal(signal.SIGUSR1)
            return None
        return local

    traced = sys.gettrace()
    handler = signal.signal(signal.SIGUSR1, lambda *_: action())
    sys.settrace(lambda frame, event, arg: local if frame.f_code is code else None)
    try:
        yield
    finally:
        sys.settrace(traced)
        signal.signal(signal.SIGUSR1, handler)
    assert fired, f"no line of {function.__qualname__} with {text!r} was come by"


class Interrupt(Exception):
    """What the handler raises."""


def hammer(count: int, work: Callable[[], object]) -> None:
    """Repeat some work until it was interrupted so often, each time at a random moment within half a millisecond."""
    armed = False

    def handle(*_: object) -> None:
        nonlocal armed
        if armed:
            armed = False
            raise Interrupt

    def until_interrupted() -> None:
        nonlocal armed
        armed = True
        signal.setitimer(signal.ITIMER_REAL, random.uniform(1e-6, 5e-4), RING_AGAIN)
        while armed:  # an interrupt inside a finalizer is only reported, not raised
            work()

    def report(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is not Interrupt:  # one may fall into a finalizer
            report_before(unraisable)

    report_before, sys.unraisablehook = sys.unraisablehook, report
    before = signal.signal(signal.SIGALRM, handle)
    end = time.monotonic() + _LONGEST
    try:
        for _ in range(count):
            if time.monotonic() > end:
                break
            try:  # around a call: on 3.13 what is raised at the end of a loop's body escapes a try around the loop
                until_interrupted()
            except Interrupt:
                pass
    finally:
        armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        sys.unraisablehook = report_before


def closing_another(meanwhile: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """What a handler does: it closes a bus, and while that takes its time, something else happens in another thread."""

    class Slow(EventBus):
        def _finish(self, deadline: object) -> object:  # type: ignore[override]
            run_threads(meanwhile)
            return super()._finish(deadline)  # type: ignore[arg-type]

    other = Slow()
    return lambda: other.close(PATIENCE)  # type: ignore[return-value, func-returns-value]
