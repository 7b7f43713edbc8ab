"""``Consumption``: a blocking iterator over the deliveries of a durable consumer.

Here is what is the same for every store. Where deliveries come from is the matter of its subclasses: of a server, in
``pulled.py``; of a store in memory, in ``stores/_memory_consumers.py``.
"""

from abc import abstractmethod
from collections import deque
from contextlib import suppress
from functools import partial
from typing import Any, Self

from ..._arguments import check_count
from ..._runtime.batches import take_batch
from ..._runtime.closing import Closeable
from ..._runtime.deadline import Deadline
from ..._runtime.fork import ForkAware
from ..._runtime.reporter import Details, Kind, Reporter
from ..._values.clock import monotonic
from ..._values.counting import Count
from ...errors import AetherError, StoreClosedError
from ...health import Health
from ...instrumentation import observers, received
from .base import ConsumerState
from .delivery import Delivery, Origin

__all__ = [
    "DRAIN",
    "Consumption",
    "can_ask",
    "close_by",
    "fetch_state_of",
    "health_of_link",
    "left_of",
    "lost_of",
    "report_lost",
    "set_prefetch",
    "take_for_handlers",
    "take_left",
]

DRAIN = 1.0  #: seconds that closing waits for messages that are on their way


class Consumption(Closeable, ForkAware):
    """The deliveries of a durable consumer, as a blocking iterator. Several threads may iterate it.

    No event is dropped: events that nobody takes wait in the store. After a reconnect, a restart of the server or a
    change of the leader it goes on where it was; events that were not acknowledged by then may come twice.

    The iteration ends when it or its store is closed, which any thread may do. Events that were delivered and not taken
    are then given back at once; those that were taken can still be acknowledged.

    An exception from a signal handler (Ctrl-C, a soft time limit) leaves a blocked or busy iterator usable. The one
    event that was being taken at that moment is delivered again when its ack wait is over.
    """

    _closed: bool
    _failure: AetherError | None  # why nothing more comes

    def _prepare(
        self, label: str, consumer: str, max_deliver: int | None, origin: Origin, reporter: Reporter, lost: deque[bytes]
    ) -> None:
        """Begin with what is the same for every store.

        Args:
            label: What it is called in texts.
            consumer: The consumer's name, escaped.
            max_deliver: How often an event is delivered at most; None if there is no bound.
            origin: Where its deliveries come from.
            reporter: Logs for the store.
            lost: The receipts of what was given back after its last delivery. Single operations only; any thread.
        """
        self._label = label
        self._consumer = consumer
        self._max_deliver = max_deliver
        self._origin = origin
        self._reporter = reporter
        self._given_up = lost
        self._lost = Count()  # events that were given back after their last delivery

    # -- taking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        try:
            return self.get()
        except StoreClosedError:
            if self._failure is not None:
                raise
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> Delivery:
        """Take the next delivery; wait for it if there is none.

        Args:
            timeout: Seconds; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: No delivery came in time.
            StoreClosedError: The iteration is closed.
            StoreError: The consumer was deleted meanwhile.
        """
        deadline = Deadline(timeout)
        began = monotonic() if observers else None
        found = self._get(deadline, [])
        if began is not None:
            self._show_received(began, [found])
        return found

    def _show_received(self, began: float, deliveries: list[Delivery], is_batch: bool = False) -> None:
        """Let observers see that a call has taken deliveries."""
        origin, events = self._origin, [one.event for one in deliveries]
        received(began, events, destination=origin.stream, consumer=origin.consumer, is_batch=is_batch)

    def _get(self, deadline: Deadline, taken: list[Any]) -> Delivery:
        while True:
            found = self._take(taken)
            if found is not None:
                return found
            if self._closed:
                raise self._end()
            self._await_more(deadline)

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[Delivery]:
        """Take the deliveries that are there, up to a number; wait only for the first.

        Args:
            max_events: At most this many deliveries, 1 or more.
            timeout: Seconds, as for :meth:`get`.

        Returns:
            1 to ``max_events`` deliveries; ``[]`` if none came in time.

        Raises:
            StoreClosedError: The iteration is closed.
        """
        max_events, deadline = check_count("max_events", max_events), Deadline(timeout)
        began = monotonic() if observers else None
        batch = self._get_batch(max_events, deadline)
        if began is not None and batch:
            self._show_received(began, batch, is_batch=True)
        return batch

    def _get_batch(self, max_events: int, deadline: Deadline) -> list[Delivery]:
        taken: list[Any] = []

        def take() -> Delivery:
            found = self._take(taken)
            if found is None:
                raise IndexError
            return found

        return take_batch(max_events, partial(self._get, deadline, taken), take, lambda _: self._give_back(taken))

    @abstractmethod
    def _take(self, taken: list[Any]) -> Delivery | None:
        """Take the first delivery that is wanted; None if there is none yet.

        Args:
            taken: What was taken is appended to these, so that it can be given back.
        """

    @abstractmethod
    def _give_back(self, taken: list[Any]) -> None:
        """Put back what was taken last, to be taken next."""

    @abstractmethod
    def _await_more(self, deadline: Deadline) -> None:
        """Wait until something may be there to be taken.

        Raises:
            DeadlineExceededError: Nothing came in time.
        """

    @abstractmethod
    def _take_left(self, timeout: float | None) -> Delivery | None:
        """Take the next delivery of those that are there; None if nothing is left. No program has received it yet."""

    # -- how it is

    @property
    @abstractmethod
    def closed(self) -> bool:
        """Whether it has ended: it or its store was closed, or it failed for good."""

    @property
    @abstractmethod
    def is_connected(self) -> bool:
        """Whether events are delivered now."""

    @abstractmethod
    def _set_prefetch(self, count: int) -> None:
        """Let another number of events wait to be taken. Those that are here stay."""

    @abstractmethod
    def _count_left(self) -> int:
        """Return how many events wait to be taken, as far as that is known here."""

    def _count_lost(self) -> int:
        """Return how many events became dead letters here after their last delivery, without a word of a handler."""
        return self._lost.count

    @abstractmethod
    def _fetch_state(self, deadline: Deadline) -> ConsumerState:
        """Return how far its consumer is."""

    def _can_ask(self) -> bool:
        """Whether it can be asked at once how far its consumer is."""
        return True

    def _health_of_link(self) -> tuple[Health, ...]:
        """Return the health of what it needs to reach the consumer."""
        return ()

    # -- ending

    def close(self) -> None:
        """End the iteration, release every thread that waits in it, and give back what was not taken.

        Any thread may call it, more than once. It waits up to a second for messages that are on their way. What is
        given back has one of its ``max_deliver`` attempts less; what has none left becomes a dead letter, and is
        logged.
        """
        self._close_by(Deadline(DRAIN))

    @abstractmethod
    def _close_by(self, deadline: Deadline) -> None:
        """As :meth:`close`, within a deadline."""

    @abstractmethod
    def _end(self) -> AetherError:
        """Return the error that a caller gets when it has ended."""

    def _report_lost(self) -> None:
        """Log how many events were given back after their last delivery, and are dead letters now."""
        count = 0
        with suppress(IndexError):  # until there is none; another thread may do the same
            while self._given_up.pop():
                count += 1
        if count:
            self._lost.many(count)
            text = "closing consumer %r gives back %d events after their last delivery: they become dead letters"
            details: Details = {
                "stream": self._origin.stream,
                "consumer": self._consumer,
                "counts": {"attempts": self._max_deliver or 0, "events": count},
            }
            self._reporter.warning(Kind.GAVE_UP, text, self._consumer, count, **details)

    def __repr__(self) -> str:
        return f"<Consumption {self._label}{' closed' if self._closed else ''}>"


# -- what a runner and a store do with it, and a user does not


def set_prefetch(consumption: Consumption, count: int) -> None:
    """Let another number of events wait to be taken. Those that are here stay."""
    consumption._set_prefetch(count)


def fetch_state_of(consumption: Consumption, deadline: Deadline) -> ConsumerState:
    """Return how far the consumer of a consumption is.

    Raises:
        StoreError: There is no such consumer, or the server cannot say.
    """
    return consumption._fetch_state(deadline)


def can_ask(consumption: Consumption) -> bool:
    """Whether it can be asked at once how far the consumer is: a server that is away does not answer."""
    return consumption._can_ask()


def health_of_link(consumption: Consumption) -> tuple[Health, ...]:
    """Return the health of its connection, if it has one."""
    return consumption._health_of_link()


def take_for_handlers(consumption: Consumption, max_events: int) -> list[Delivery]:
    """As ``get_batch()``, where a runner takes in advance what handlers get later: no program has received it yet."""
    return consumption._get_batch(max_events, Deadline(None))


def take_left(consumption: Consumption, timeout: float | None) -> Delivery | None:
    """Take the next delivery of those that are there; None if nothing is left.

    Args:
        consumption: One that takes nothing in advance.
        timeout: Seconds that a server has for each answer.
    """
    return consumption._take_left(timeout)


def report_lost(consumption: Consumption) -> None:
    """Log how many events were given back after their last delivery, and are dead letters now."""
    consumption._report_lost()


def left_of(consumption: Consumption) -> int:
    """Return how many events wait to be taken, in this process and on the server, as far as that is known here."""
    return consumption._count_left()


def lost_of(consumption: Consumption) -> int:
    """Return how many events became dead letters here after their last delivery, without a word of their handler."""
    return consumption._count_lost()


def close_by(consumption: Consumption, deadline: Deadline) -> None:
    """Close one of several consumptions for which there is one deadline."""
    consumption._close_by(deadline)
