"""``Handler``: what a user's handler has to be, and what it must not return.

Nobody would run a coroutine or a generator that a handler returns. A handler that is declared as such is refused before
it is called; one that hides it, as a decorated ``async def`` does, fails when it returns one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction, signature

from ..._values.shown import short
from ...errors import InvalidOptionError
from .delivery import Delivery

__all__ = ["Handler", "check_handler", "refuse_unrun"]

Handler = Callable[[Delivery], object]
"""A user's function that handles a delivery: it returns when the work is done, and raises when it is not."""

_NOT_RUN = {
    iscoroutinefunction: "an `async def`",
    isasyncgenfunction: "an `async def` with a `yield`",
    isgeneratorfunction: "a generator function",
}


def check_handler(handler: object) -> None:
    """Refuse what cannot be called with a delivery, and what would return something that nobody runs.

    Raises:
        InvalidOptionError: It is not a handler.
    """
    if not callable(handler):
        raise InvalidOptionError(f"a handler is called with each delivery, and {short(handler)} cannot be called")
    for is_kind, name in _NOT_RUN.items():
        if is_kind(handler) or is_kind(type(handler).__call__):
            raise InvalidOptionError(f"the handler {short(handler)} is {name}; pass a plain function")
    try:
        parameters = signature(handler, follow_wrapped=False)  # those of the wrapper, which is what is called
    except Exception:  # a builtin function may have none, and an object of the user's may raise anything
        return
    try:
        parameters.bind(None)
    except TypeError as error:
        raise InvalidOptionError(
            f"a handler is called with one argument, the delivery, and {short(handler)} takes {parameters}: {error}"
        ) from None


def refuse_unrun(returned: object) -> None:
    """Refuse what a handler has returned if its work is still to be done by whoever awaits or iterates it.

    Raises:
        InvalidOptionError: It is an awaitable, a generator or an asynchronous generator.
    """
    if not issubclass(type(returned), (Awaitable, Generator, AsyncGenerator)):
        return
    if isinstance(returned, (Coroutine, Generator)):
        with suppress(Exception):  # of the user's code, in one that was begun
            returned.close()  # or Python warns that it was never awaited
    raise InvalidOptionError(
        f"the handler has returned {short(returned)}, which nobody runs, instead of doing the work: pass a plain "
        "function"
    )
