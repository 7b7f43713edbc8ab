"""The worker of the user's program, and what is shown of an error in that program."""

import traceback
from pathlib import Path
from types import TracebackType

from ..._arguments import is_of
from ..._values.shown import explained, short
from ...errors import (
    RetryableError,
)
from ...worker.worker import Worker
from .._program import imported

__all__ = ["UnusableProgramError", "check_where", "trace_of", "worker_at"]

_PACKAGE = str(Path(__file__).parents[2])


class UnusableProgramError(Exception):
    """There is no worker there; only a change of the program can mend that.

    Attributes:
        trace: The traceback of the user's own code, or "".
    """

    def __init__(self, message: str, trace: str = "") -> None:
        super().__init__(message)
        self.trace = trace


def check_where(where: str) -> None:
    """Check that a text is ``module:name``.

    Raises:
        UnusableProgramError: It is not.
    """
    module, _, name = where.partition(":")
    if not module or not all(map(str.isidentifier, [*module.split("."), *name.split(".")])):
        raise UnusableProgramError(f"{where!r} is no MODULE:NAME, such as shop.events:worker")


def worker_at(where: str) -> Worker:
    """Import a module and return the worker in it, which a function there may make.

    Raises:
        UnusableProgramError: The module cannot be imported, or has no worker of that name.
        Exception: What the function has raised; or an error of ours in the module that may pass.
    """
    check_where(where)
    module, _, name = where.partition(":")
    try:
        found = imported(module, name)
    except (Exception, SystemExit) as error:  # of any code of the user's
        if isinstance(error, RetryableError):
            raise
        raise UnusableProgramError(f"{where!r} cannot be imported: {explained(error)}", trace_of(error)) from error
    if not is_of(found, Worker) and callable(found):
        found = found()
    if not is_of(found, Worker):
        raise UnusableProgramError(f"{where!r} is {short(found)}, and no worker")
    return found


def trace_of(error: BaseException) -> str:
    """Return the traceback of an error from the first line of the user's code on; "" if that has no part in it."""
    trace = error.__traceback__
    while trace is not None and _is_ours(trace):
        trace = trace.tb_next
    if trace is None and not isinstance(error, SyntaxError):
        return ""
    return "".join(traceback.format_exception(type(error), error, trace))


def _is_ours(trace: TracebackType) -> bool:
    name = trace.tb_frame.f_code.co_filename
    return name.startswith((_PACKAGE, "<frozen importlib")) or name.endswith("/importlib/__init__.py")
