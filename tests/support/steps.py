"""A signal handler that runs on the main thread exactly before a given line, as one may."""

import inspect
import linecache
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any


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
