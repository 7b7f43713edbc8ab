"""``handle_now``: handle one delivery on the caller's thread, where a failure is the caller's to see."""

from contextlib import suppress

from ..._arguments import refuse_unrun
from ..._values.shown import explained
from ...errors import AetherError
from ...handling_context import handle_pushed
from .delivery import Delivery, extend, hold, let_go
from .handlers import Handler, is_never_read

__all__ = ["handle_now"]

_LONGEST_REASON = 1_000  # characters


def handle_now(handler: Handler, delivery: Delivery, attempts: int | None, timeout: float | None) -> None:
    """Call a handler with a delivery, and settle it.

    Args:
        handler: The user's function. What it raises is raised here.
        delivery: The delivery.
        attempts: After how many the event becomes a dead letter if the handler fails; after the first one if it fails
            as the event has no value. None for never.
        timeout: Seconds for each word to the server that is confirmed.

    Raises:
        DeadlineExceededError: The server has not confirmed the acknowledgement in time.
    """
    hold(delivery)
    try:
        extend(delivery)
        try:
            with handle_pushed(delivery):
                refuse_unrun(handler(delivery))
        except BaseException as error:
            if not delivery.settled:
                with suppress(AetherError):  # what the handler has raised is worth more to know
                    is_last = attempts is not None and (delivery.attempt >= attempts or is_never_read(delivery, error))
                    if is_last and isinstance(error, Exception):
                        delivery.reject(explained(error, _LONGEST_REASON), timeout=timeout)
                    else:
                        delivery.nak()
            raise
        if not delivery.settled:
            delivery.ack(confirm=True, timeout=timeout)
    finally:
        let_go(delivery)
