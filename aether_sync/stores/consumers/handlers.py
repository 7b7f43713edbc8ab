"""``Handler``: a user's handler, what it may ask for, and an error of it that no other attempt would change."""

from collections.abc import Callable
from operator import attrgetter

from ...errors import EventTypeError
from ...handler_arguments import Asked, Source
from .delivery import Delivery

__all__ = ["OF_A_CONSUMER", "Handler", "is_never_read"]

Handler = Callable[..., object]
"""A user's function that handles a delivery: it returns when the work is done, and raises when it is not.

It is called with what its annotations ask for: the :class:`Delivery`, the :class:`Event`, or the event's value, of a
class that is registered in the store's types. A single parameter without an annotation gets the delivery.
"""

OF_A_CONSUMER = Source(
    "a Delivery",
    {Asked.DELIVERY: None, Asked.EVENT: attrgetter("event"), Asked.VALUE: attrgetter("event.value")},
    Asked.DELIVERY,
    Delivery,
)


def is_never_read(delivery: Delivery, error: BaseException) -> bool:
    """Whether a handler has failed as its own event has no value, which another attempt would not change."""
    return isinstance(error, EventTypeError) and error.event_id == delivery.event.id
