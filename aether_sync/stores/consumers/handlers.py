"""``Handler``: a user's handler, what it must not return, and an error of it that no other attempt would change.

Nobody would run a coroutine or a generator that a handler returns. A handler that is declared as such is refused before
it is called; one that hides it, as a decorated ``async def`` does, fails when it returns one.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, Generator
from contextlib import suppress

from ..._values.shown import short
from ...errors import EventTypeError, InvalidOptionError
from .delivery import Delivery

__all__ = ["Handler", "is_never_read", "refuse_unrun"]

Handler = Callable[[Delivery], object]
"""A user's function that handles a delivery: it returns when the work is done, and raises when it is not."""


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


def is_never_read(delivery: Delivery, error: BaseException) -> bool:
    """Whether a handler has failed as its own event has no value, which another attempt would not change."""
    return isinstance(error, EventTypeError) and error.event_id == delivery.event.id
