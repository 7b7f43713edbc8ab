"""``Subscription``: what ``subscribe()`` returns, for the threads and coroutines that read the events."""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Self

from ._arguments import check_count, check_flag
from ._bus.routing import Target
from ._runtime.batches import take_batch
from ._runtime.closing import Uncopied, warn_unclosed
from ._runtime.deadline import Deadline
from ._values.clock import monotonic
from .errors import SubscriptionClosedError
from .events import Event
from .instrumentation import observers, received
from .metrics import SubscriptionStats
from .patterns import SubscriptionFilter

__all__ = ["Subscription"]


class Subscription(Uncopied):
    """The events that one ``subscribe()`` asked for, in order.

    A thread reads them by ``for event in subscription``, which blocks while there is none. A coroutine of any asyncio
    event loop reads them by ``async for event in subscription``, which lets the loop run meanwhile; ``await
    anext(subscription)`` takes one event, within ``asyncio.timeout()`` if it shall not wait for ever. Any number of
    threads and coroutines may read one subscription: each event goes to one of them.

    Iteration ends when the subscription or its bus is closed and what was queued is taken. It raises an error if the
    subscription failed. A subscription that is dropped without ``close()`` is removed from its bus, with a
    ``ResourceWarning``.

    A coroutine that is cancelled while it waits loses no event. An exception that a signal handler raises (Ctrl-C, a
    soft time limit) leaves an iteration usable, but the one event that was being taken at that moment may be lost.
    """

    __slots__ = ("__weakref__", "_abandoned", "_end", "_pop", "_queue", "_target")

    def __init__(self, target: Target, end: Callable[..., None], abandoned: Callable[[Target], None]) -> None:
        self._queue = target.queue
        self._pop = target.queue.pop
        self._end = end
        self._abandoned = abandoned  # called by the finalizer, so it takes no lock
        self._target = target  # last, since the finalizer takes it as the sign that everything is there

    @property
    def patterns(self) -> tuple[str, ...]:
        """The patterns that were subscribed to."""
        return tuple(pattern.text for pattern in self._target.patterns)

    @property
    def filter(self) -> SubscriptionFilter | None:
        """The filter, if any."""
        return self._target.filter

    @property
    def queue_group(self) -> str | None:
        """The queue group that it is a member of, if any."""
        return self._target.group

    @property
    def closed(self) -> bool:
        """Whether no more events will be queued. Those that are queued can still be taken."""
        return self._queue.closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if observers:
            began = monotonic()
            event = self._take_or_stop()
            self._show_received(began, event)
            return event
        try:
            return self._pop()
        except IndexError:
            return self._take_or_stop()

    def _take_or_stop(self) -> Event:
        """Wait for the next event, and take it; raise StopIteration at a clean end."""
        try:
            return self._queue.take(Deadline(None))
        except SubscriptionClosedError:
            if self._queue.failure is None:
                raise StopIteration from None
            raise

    def __aiter__(self) -> Self:
        return self

    def _show_received(self, began: float, *events: Event, is_batch: bool = False) -> None:
        """Let observers see that a call has taken events."""
        pattern = ", ".join(self.patterns)
        received(began, events, pattern=pattern, consumer=self.queue_group or "", is_batch=is_batch)

    async def __anext__(self) -> Event:
        began = monotonic() if observers else None
        try:
            event = await self._queue.take_in_coroutine()
        except SubscriptionClosedError:
            if self._queue.failure is None:
                raise StopAsyncIteration from None
            raise
        if began is not None:
            self._show_received(began, event)
        return event

    def get(self, timeout: float | None = None) -> Event:
        """Take the next event, and wait for it if there is none.

        This blocks its thread. In a coroutine use ``await anext(subscription)``.

        Args:
            timeout: Seconds to wait; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: No event came in time. It is also a ``TimeoutError``.
            SubscriptionClosedError: The subscription is closed and empty. If it failed, the error that ended it is
                raised instead, for example ``SubscriptionOverflowError`` or ``PermissionDeniedError``.
        """
        deadline = Deadline(timeout)
        began = monotonic() if observers else None
        event = self._queue.take(deadline)
        if began is not None:
            self._show_received(began, event)
        return event

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[Event]:
        """Take what is there, up to a number of events, waiting only for the first.

        Args:
            max_events: At most this many events, 1 or more.
            timeout: Seconds to wait for the first one; 0 does not wait, None waits for ever.

        Returns:
            1 to ``max_events`` events; none if no event came in time.

        Raises:
            SubscriptionClosedError: As :meth:`get`.
        """
        max_events = check_count("max_events", max_events)
        first = partial(self._queue.take, Deadline(timeout))
        began = monotonic() if observers else None
        batch = take_batch(max_events, first, self._pop, self._queue.give_back)
        if began is not None and batch:
            self._show_received(began, *batch, is_batch=True)
        return batch

    def stats(self) -> SubscriptionStats:
        """Return the counts of what went through, all of one moment."""
        return self._target.stats()

    def close(self, *, discard: bool = False) -> None:
        """Leave the bus, and end the wait of every reader. Idempotent; any thread may call it.

        A member of a queue group first receives the events that the server has chosen it for already, which takes a
        round trip. If another subscription to the same patterns was made before this call, each event reaches one of
        the two, or both.

        Args:
            discard: Drop what is queued, counted as dropped. Otherwise the readers can still take it.
        """
        self._end(self._target, discard=check_flag("discard", discard))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        try:
            target = self._target
        except AttributeError:  # the constructor did not get that far
            return
        if not target.left:
            unclosed = None if self.closed else repr(self)
            self._abandoned(target)
            if unclosed is not None:
                warn_unclosed(unclosed, self)

    def __repr__(self) -> str:
        state = "closed" if self.closed else "open"
        return f"<Subscription {self._target.name} {state}>"
