"""``ConsumerContext``: the parts of a store that its consumers use, and what of theirs has to end with the store."""

from ..._runtime.deadline import Deadline
from ..._runtime.registry import WeakRegistry
from .._jetstream.flow import close_by
from .._jetstream.parts import StoreParts
from .consumption import DRAIN, Consumption
from .dead_letters import DeadLetterStream
from .runner import Runner, close_all, let_all_end

__all__ = ["ConsumerContext"]


class ConsumerContext:
    """What the consumers of one store share. Any thread may call it.

    Attributes:
        parts: The parts of the store.
        dead_letters: The stream of their dead letters.
        consumptions: The consumptions that have begun; closing the store closes them.
        runners: The same of runners.
    """

    def __init__(self, parts: StoreParts) -> None:
        self.parts = parts
        self.dead_letters = DeadLetterStream(parts)
        self.consumptions: WeakRegistry[Consumption] = WeakRegistry()
        self.runners: WeakRegistry[Runner] = WeakRegistry()

    def open_streams(self, deadline: Deadline) -> None:
        """See that the streams of events and of dead letters are there, or make them.

        Both are needed before the first delivery: an event that is given up must have a place to go to.
        """
        self.parts.stream.open(deadline)
        self.dead_letters.open(deadline)

    def close(self, deadline: Deadline) -> int:
        """End all consumptions and runners; handlers that run have as long to end. Returns how many still run then."""
        let_all_end(self.runners)
        drained = Deadline(min(DRAIN, deadline.remaining()))
        for consumption in self.consumptions:
            close_by(consumption, drained)
        return close_all(self.runners, deadline)
