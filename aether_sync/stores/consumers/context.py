"""``ConsumerContext``: what a store has for its consumers, and what of theirs has to end with the store.

Below here the stores differ: a :class:`ConsumerBackend` keeps the consumers of one. What a program uses is the same.
"""

from typing import Protocol

from ..._runtime.deadline import Deadline
from ..._runtime.registry import WeakRegistry
from ..._runtime.reporter import Reporter
from .base import ConsumerSettings, ConsumerState, DeadLetter
from .consumption import DRAIN, Consumption, close_by
from .runner import Runner, close_all, let_all_end

__all__ = ["ConsumerBackend", "ConsumerContext"]


class ConsumerBackend(Protocol):
    """Keeps the consumers of a store: on a server, or in memory. Any thread may call it.

    Attributes:
        stream: The name of the store's stream; "" if it has none.
        reporter: Logs for the store.
    """

    stream: str
    reporter: Reporter

    def begin(
        self,
        name: str,
        settings: ConsumerSettings,
        prefetch: int,
        deadline: Deadline,
        *,
        dead_letters: bool,
        takes_ahead: bool,
    ) -> Consumption:
        """Join a consumer, or make it, and begin to take from it.

        Args:
            name: The consumer's name, as the program calls it.
            settings: Those of the consumer.
            prefetch: How many events wait in this process to be taken.
            deadline: For all of it.
            dead_letters: Whether to take its dead letters instead of its new events.
            takes_ahead: Whether events may wait here while those that were taken are not settled.
        """

    def wait_for(self, settings: ConsumerSettings, sequence: int, deadline: Deadline) -> None:
        """Return when a consumer has acknowledged all of its events up to a sequence."""

    def state(self, consumer: str, deadline: Deadline) -> ConsumerState | None:
        """Return how far a consumer is; None if there is no such consumer."""

    def states(self, deadline: Deadline) -> list[ConsumerState]:
        """Return how far each consumer is, sorted by name."""

    def delete(self, consumer: str, deadline: Deadline) -> bool:
        """Delete a consumer; returns whether it was there."""

    def dead_letters(self, consumer: str, limit: int, deadline: Deadline) -> list[DeadLetter]:
        """Return the dead letters of a consumer, up to a number of them, in the order of the store."""

    def discard(self, consumer: str, sequence: int, deadline: Deadline) -> bool:
        """Remove an event from the dead letters; returns whether it was there."""


class ConsumerContext:
    """What the consumers of one store share. Any thread may call it.

    Attributes:
        backend: Keeps the consumers.
        consumptions: The consumptions that have begun; closing the store closes them.
        runners: The same of runners.
    """

    def __init__(self, backend: ConsumerBackend) -> None:
        self.backend = backend
        self.consumptions: WeakRegistry[Consumption] = WeakRegistry()
        self.runners: WeakRegistry[Runner] = WeakRegistry()

    def close(self, deadline: Deadline) -> int:
        """End all consumptions and runners; handlers that run have as long to end. Returns how many still run then."""
        let_all_end(self.runners)
        drained = Deadline(min(DRAIN, deadline.remaining()))
        for consumption in self.consumptions:
            close_by(consumption, drained)
        return close_all(self.runners, deadline)
