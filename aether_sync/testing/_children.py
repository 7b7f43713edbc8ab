"""``in_child``: calls a function in a forked process, which may end by SIGKILL at any moment."""

import os
import pickle
import select
import signal
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn

from .._runtime.deadline import Deadline
from .._values.shown import explained
from ..errors import DeadlineExceededError, InvalidOptionError

__all__ = ["die", "in_child"]

_PATIENCE = 60.0  # seconds for all that one process does: a handler that takes longer is taken for one that hangs
_BYTES = 65_536  # of one read


def die() -> NoReturn:
    """End this process by SIGKILL: nothing more runs, no ``finally`` and no destructor."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("a process has survived SIGKILL")


def in_child(work: Callable[[Callable[[object], None]], object]) -> Any:
    """Call a function in a forked process, and return what it has told.

    Args:
        work: Called with a function that tells the parent a value, which is done once, and before the process dies.

    Raises:
        DeadlineExceededError: The process did not end in time.
        InvalidOptionError: It has ended, and told nothing.
        BaseException: What the function has raised.
    """
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # a fork of a process with threads; nothing waits here
            child = os.fork()
    except BaseException:
        os.close(reader)
        os.close(writer)
        raise
    if not child:
        _be_child(work, writer)
    try:
        os.close(writer)
        told = _read(reader, Deadline(_PATIENCE))
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        os.close(reader)
        _, status = os.waitpid(child, 0)
    if not told:
        code = os.waitstatus_to_exitcode(status)
        how = f"by signal {-code}" if code < 0 else f"with status {code}"
        raise InvalidOptionError(f"the process of the handler has ended {how}: the handler itself ends it")
    is_error, value = pickle.loads(told)
    if is_error:
        raise value
    return value


def _read(reader: int, deadline: Deadline) -> bytes:
    """Read until the child has ended."""
    parts: list[bytes] = []
    while True:
        ready, _, _ = select.select([reader], [], [], deadline.remaining())
        if not ready:
            raise DeadlineExceededError(
                f"a process with the handler has not ended within {deadline}: a call of it hangs"
            )
        part = os.read(reader, _BYTES)
        if not part:
            return b"".join(parts)
        parts.append(part)


def _be_child(work: Callable[[Callable[[object], None]], object], writer: int) -> NoReturn:
    """Do the work, and end this process, whatever happens."""
    try:
        with os.fdopen(writer, "wb") as pipe:

            def tell(value: object, is_error: bool = False) -> None:
                pickled = _pickled(value) if is_error else pickle.dumps((False, value))
                pipe.write(pickled)
                pipe.flush()

            try:
                work(tell)
            except BaseException as error:
                tell(error, is_error=True)
            with suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
    finally:
        os._exit(0)


def _pickled(error: object) -> bytes:
    """Return an error as bytes; another one in its place if it cannot be written or read again."""
    with suppress(Exception):
        pickled = pickle.dumps((True, error))
        pickle.loads(pickled)
        return pickled
    assert isinstance(error, BaseException)
    return pickle.dumps((True, InvalidOptionError(f"in the process of the handler: {explained(error)}")))
