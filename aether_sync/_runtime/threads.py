"""Threads of this library: daemons that do not inherit the context of the thread that starts them.

That no thread can be started may be temporary: a limit of the user or the container is reached, or there is no memory
for another stack. When the interpreter ends, Python starts no thread any more, and that is permanent.
"""

import threading
from collections.abc import Callable
from contextvars import Context

__all__ = ["NoThreadError", "make_thread", "start"]


class NoThreadError(Exception):
    """No thread can be started, now or ever again.

    Attributes:
        is_passing: Whether it may be possible later.
    """

    def __init__(self, message: str, is_passing: bool) -> None:
        super().__init__(message)
        self.is_passing = is_passing


def make_thread(work: Callable[..., object], *args: object, name: str) -> threading.Thread:
    """Make a thread that begins in an empty context: objects in the caller's would live as long as the thread."""
    return threading.Thread(target=Context().run, args=(work, *args), name=name, daemon=True)


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        NoThreadError: It was not started.
    """
    try:
        thread.start()
    except KeyError as error:  # of threading: a signal handler raised while it started the thread, which runs
        raise (error.__context__ or error) from None
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "new thread" not in str(error):
            # A signal handler raised during the wait inside threading, whose lock then raises this error instead.
            raise (error.__context__ or error) from None
        is_passing = "shutdown" not in str(error)  # "can't create new thread at interpreter shutdown"
        raise NoThreadError(f"{thread.name} cannot be started: {error or 'no memory'}", is_passing) from error
