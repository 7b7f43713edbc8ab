"""``RelayPart``: the relay of an outbox that a worker starts and closes."""

from collections.abc import Callable

from .._arguments import is_of
from .._runtime.deadline import Deadline
from .._runtime.handler_threads import ThreadHooks
from .._values.shown import short
from ..errors import AetherError, InvalidOptionError
from ..health import Health
from ..outbox.relay import Relay, end_relays, let_relay_end

__all__ = ["RelayPart"]


class RelayPart:
    """Lets a relay run from the begin of the worker to its end.

    A relay that stops does not end the worker, as with a projection: the other handlers go on. Its health says it.

    Raises:
        InvalidOptionError: It is no relay.

    Attributes:
        relay: The relay.
    """

    goes_on = True
    has_ended = False
    failure: AetherError | None = None

    def __init__(self, relay: Relay) -> None:
        if not is_of(relay, Relay):
            raise InvalidOptionError(
                f"relay() takes a Relay, such as outbox.relay(engine, store=...), not {short(relay)}"
            )
        self.label = f"{relay!r}".strip("<>").partition(",")[0]
        self.key = "relay", id(relay)
        self.relay = relay

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Start it."""
        self.relay.start(deadline.timeout_left())

    def let_end(self, *, discard: bool) -> None:
        """Take no more rows; do not wait for the batch that is being sent."""
        let_relay_end(self.relay)

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for that batch, and return whether it is left behind."""
        return end_relays([self.relay], deadline)

    def forget(self) -> None:
        """In a forked child it is not started."""

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""
        return self.relay.health()

    def metrics(self) -> None:
        """Return nothing: it is no handler."""
