"""``Handler``: a user's handler, and an error of it that no other attempt would change."""

from collections.abc import Callable

from ...errors import EventTypeError
from .delivery import Delivery

__all__ = ["Handler", "is_never_read"]

Handler = Callable[[Delivery], object]
"""A user's function that handles a delivery: it returns when the work is done, and raises when it is not."""


def is_never_read(delivery: Delivery, error: BaseException) -> bool:
    """Whether a handler has failed as its own event has no value, which another attempt would not change."""
    return isinstance(error, EventTypeError) and error.event_id == delivery.event.id
