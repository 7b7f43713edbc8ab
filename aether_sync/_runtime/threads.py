"""Threads of this library: daemons, that see nothing of the context of who starts them.

That there is no thread to be had may pass: the user's limit of processes is reached, or that of a container, or there
is no memory for another stack. When the interpreter ends, Python starts none any more, and that does not pass.
"""

import threading
from collections.abc import Callable
from contextvars import Context

__all__ = ["NoThreadError", "make_thread", "start"]


class NoThreadError(Exception):
    """There is no thread to be had: at this moment, or never again.

    Attributes:
        is_passing: Whether there may be one later.
    """

    def __init__(self, message: str, is_passing: bool) -> None:
        super().__init__(message)
        self.is_passing = is_passing


def make_thread(work: Callable[..., object], *args: object, name: str) -> threading.Thread:
    """Make a thread that begins in an empty context: what is in the maker's would live as long as the thread."""
    return threading.Thread(target=Context().run, args=(work, *args), name=name, daemon=True)


def start(thread: threading.Thread) -> None:
    """Start a thread.

    Raises:
        NoThreadError: It was not started.
    """
    try:
        thread.start()
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "new thread" not in str(error):
            # A signal handler's exception came amid threading's own wait, whose lock complains instead.
            raise (error.__context__ or error) from None
        is_passing = "shutdown" not in str(error)  # "can't create new thread at interpreter shutdown"
        raise NoThreadError(f"{thread.name} cannot be started: {error or 'no memory'}", is_passing) from error
