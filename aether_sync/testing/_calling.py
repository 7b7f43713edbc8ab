"""How a handler of the user's is called: with the event, its typed value, the delivery, or two of these."""

import inspect
import typing
from collections.abc import Callable
from functools import partial
from typing import Any

from .._arguments import check_callback, is_of
from .._values.shown import short
from ..errors import InvalidOptionError
from ..event_types import EventTypes
from ..events import Event
from ..stores.consumers.delivery import Delivery

__all__ = ["Call", "call_of", "function_of", "name_of"]

Call = Callable[[Delivery], object]

_ARGUMENTS = ("the event", "the delivery")
_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def function_of(handler: Any) -> Any:
    """Return the function that a handler comes down to, if it is a partial, a method, a wrapper or an object."""
    while is_of(handler, partial):
        handler = handler.func
    try:
        handler = inspect.unwrap(handler)
    except Exception:  # an object of the user's may raise anything
        return handler
    return handler if hasattr(handler, "__qualname__") else type(handler)


def name_of(handler: Any) -> str:
    """Return what a handler is called."""
    return str(getattr(function_of(handler), "__qualname__", "")).rpartition("<locals>.")[2] or short(handler)


def call_of(handler: Callable[..., object], types: EventTypes | None) -> Call:
    """Return a function that calls a handler with what it takes of a delivery.

    Raises:
        InvalidOptionError: The handler cannot be called, takes other arguments, or is an ``async def`` or a generator
            function; or an argument is to be a typed value, and there are no types.
    """
    parameters = _required(handler)
    check_callback("a handler", handler, *_ARGUMENTS[: 2 if len(parameters) > 1 else 1])
    hints = _hints(handler)
    count = len(parameters)
    parts = [
        _part(one.name, hints.get(one.name, one.annotation), at, count, types) for at, one in enumerate(parameters)
    ]
    if not parts:
        return handler
    return lambda delivery: handler(*(part(delivery) for part in parts))


def _required(handler: Any) -> list[inspect.Parameter]:
    """Return the parameters that a handler has to be given; none if it does not say."""
    try:
        parameters = inspect.signature(handler, follow_wrapped=False).parameters.values()
    except Exception:  # a builtin function has none, and an object of the user's may raise anything
        return []
    return [one for one in parameters if one.kind in _POSITIONAL and one.default is one.empty]


def _hints(handler: Any) -> dict[str, Any]:
    """Return the annotations of a handler, evaluated if that is possible."""
    function = function_of(handler)
    try:
        return typing.get_type_hints(function.__call__ if is_of(function, type) else function)
    except Exception:  # a name that is not there yet, say
        return {}


def _part(name: str, hint: Any, at: int, count: int, types: EventTypes | None) -> Callable[[Delivery], object]:
    """Return what one argument is made with."""
    if hint is Delivery or hint == "Delivery" or name == "delivery":
        return _itself
    if hint is Event or hint == "Event" or name == "event":
        return _event
    if hint is not inspect.Parameter.empty and types is not None:
        return _value
    if is_of(hint, type) and hint is not inspect.Parameter.empty:
        raise InvalidOptionError(
            f"the handler takes {name}: {hint.__name__}, a typed value: give types=, or let it take an Event"
        )
    return _event if at == 0 and count > 1 else _itself


def _itself(delivery: Delivery) -> object:
    return delivery


def _event(delivery: Delivery) -> object:
    return delivery.event


def _value(delivery: Delivery) -> object:
    return delivery.event.value
