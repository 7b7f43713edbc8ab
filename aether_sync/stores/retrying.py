"""``retry_on_conflict``: decide again on what another writer has stored meanwhile."""

import random
import time
from collections.abc import Callable
from contextlib import suppress
from functools import update_wrapper
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import ParamSpec, TypeVar, overload

from .._arguments import check_count
from .._runtime.deadline import Deadline
from .._values.shown import short
from ..errors import InvalidOptionError, VersionConflictError

__all__ = ["ConflictPauses", "retry_on_conflict"]

_FIRST_PAUSE = 0.001  # seconds before the second try, twice that before the third, and so on
_LONGEST_PAUSE = 0.1
_NOT_RUN = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)  # a call only makes what is to be run

P = ParamSpec("P")
T = TypeVar("T")


class ConflictPauses:
    """Random pauses after conflicts, longer and longer, until a deadline: those who met do not meet again."""

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline
        self._longest = _FIRST_PAUSE

    def take(self) -> bool:
        """Pause, and return True; return False at once if no time is left for another try."""
        left = self._deadline.remaining()
        if not left:
            return False
        time.sleep(random.uniform(0, min(self._longest, left)))
        self._longest = min(self._longest * 2, _LONGEST_PAUSE)
        return True


@overload
def retry_on_conflict(function: Callable[P, T]) -> Callable[P, T]: ...


@overload
def retry_on_conflict(
    *, attempts: int | None = 10, timeout: float | None = None
) -> Callable[[Callable[P, T]], Callable[P, T]]: ...


def retry_on_conflict(
    function: Callable[P, T] | None = None, *, attempts: int | None = 10, timeout: float | None = None
) -> Callable[P, T] | Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a function that loads an actor and appends to it: after a conflict it is called again, from its start.

    Between two tries it pauses for a random time, up to 1 ms at first, up to 100 ms later.

    Args:
        function: The function, if it is decorated without arguments.
        attempts: Calls at most; None for no bound but the time.
        timeout: Seconds after which it is not called again; None for no bound but the attempts.

    Raises:
        VersionConflictError: That of the last try.
        InvalidOptionError: There is no bound at all, or the function is an ``async def`` or a generator function, whose
            errors come only after its call has returned.
    """
    if attempts is not None:
        attempts = check_count("attempts", attempts)
    elif timeout is None:
        raise InvalidOptionError("retry_on_conflict() wants a bound: attempts, or a timeout")
    Deadline(timeout)

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        if not callable(function):
            raise InvalidOptionError(f"retry_on_conflict() decorates a function, not {short(function)}")
        if any(is_kind(function) or is_kind(type(function).__call__) for is_kind in _NOT_RUN):
            raise InvalidOptionError(
                f"retry_on_conflict() decorates a plain function, and {short(function)} is an `async def` or a "
                "generator function: what it raises comes after its call has returned"
            )

        def retrying(*args: P.args, **kwargs: P.kwargs) -> T:
            pauses = ConflictPauses(Deadline(timeout))
            tried = 0
            while True:
                try:
                    return function(*args, **kwargs)
                except VersionConflictError:
                    tried += 1
                    if tried == attempts or not pauses.take():
                        raise

        with suppress(TypeError):  # of an object whose attributes are not those of a function, such as a mock
            update_wrapper(retrying, function)
        return retrying

    return decorate if function is None else decorate(function)
