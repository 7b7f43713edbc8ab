"""``EventQueue``, the janus queue that a subscription reads.

It carries batches and overrides what janus documents for another queue organisation (``_init``, ``_qsize``, ``_put``,
``_get``), so what fits is decided under janus's own lock. Three things are different from plain janus, and only here:

- The lock is re-entrant and only ever taken by ``with``; threads wait in a :class:`~._waiting.Parking`, never on
  janus's conditions. So signal handlers may raise, or call ``close()``, anywhere.
- A taking thread pops from a deque, which is atomic, and comes to the lock only when that is empty.
- Nothing here logs or calls out: what happened is returned, for the caller to act on after the lock.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from threading import Condition
from typing import Any

import janus

from ._deadline import Deadline
from ._waiting import Parking, guard
from .errors import (
    AetherError,
    DeadlineExceededError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
)
from .events import Event
from .metrics import QueueStats

__all__ = ["EventQueue", "Overflow"]


class Overflow(Enum):
    """What a full queue does with one event more."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    FAIL = "fail"


class EventQueue(janus.Queue[Any]):
    """Events on their way to the threads that read a subscription, bounded in events and in bytes.

    Args:
        maxsize: Events held at most.
        max_bytes: Encoded bytes held at most; a larger event goes in when the queue is empty.
        overflow: What happens to an event that does not fit.
        name: What it is called in an error.
        ended: Called with the final count when the queue is collected, by the collector: it takes no lock.
    """

    def __init__(
        self, maxsize: int, max_bytes: int, overflow: Overflow, name: str, ended: Callable[[QueueStats], None]
    ) -> None:
        super().__init__()
        self.lock = guard()  # guards all of the queue's state
        self._sync_mutex = self.lock  # type: ignore[assignment]
        self._sync_not_empty = Condition(self.lock)
        self._sync_not_full = Condition(self.lock)
        self._sync_tasks_done = Condition(self.lock)
        self.limit = maxsize
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.name = name
        self._ended_with = ended
        self.failure: AetherError | None = None  # why it ended, if not by a clean close
        self._getters = Parking(self.lock)
        self.pop = self._events.popleft  #: the next event, or IndexError; any thread, no lock

    @property
    def is_shut(self) -> bool:
        """Whether the queue takes nothing more."""
        return self._is_shutdown

    # -- janus's points to override, called with the lock held

    def _init(self, maxsize: int) -> None:
        self._events: deque[Event] = deque()
        self._sizes: deque[int] = deque()  # of the events, in order; trimmed to their number when next looked at
        self._bytes = 0  # the sum of _sizes
        self._offered = 0
        self._high_water = 0
        self._dropped: Counter[str] = Counter()  # by reason

    def _qsize(self) -> int:
        return len(self._events)

    def _put(self, item: tuple[Sequence[Event], Sequence[int]]) -> None:
        events, sizes = item
        self._trim()
        total = sum(sizes)
        if len(self._events) + len(events) <= self.limit and self._bytes + total <= self.max_bytes:
            self._events.extend(events)
            self._sizes.extend(sizes)
            self._bytes += total
        else:
            for event, size in zip(events, sizes, strict=True):
                self._put_tight(event, size)
        self._offered += len(events)
        self._high_water = max(self._high_water, len(self._events))

    def _get(self) -> Event | None:
        try:
            return self.pop()
        except IndexError:  # a thread without the lock was quicker
            return None

    def _put_tight(self, event: Event, size: int) -> None:
        while not self._fits(size):
            reason = "maxsize" if len(self._events) >= self.limit else "max_bytes"
            if self.overflow is Overflow.DROP_OLDEST:
                if self._get() is not None:
                    self._dropped[reason] += 1
                self._trim()
                continue
            if self.overflow is Overflow.FAIL and self.failure is None:
                self.failure = SubscriptionOverflowError(
                    f"subscription {self.name} overflowed: its queue was full ({reason})"
                )
                self._is_shutdown = True
            self._dropped[reason] += 1
            return
        self._events.append(event)
        self._sizes.append(size)
        self._bytes += size

    def _fits(self, size: int) -> bool:
        return not self._events or (len(self._events) < self.limit and self._bytes + size <= self.max_bytes)

    def _trim(self) -> None:
        """Forget the sizes of events that were taken since the last look."""
        while len(self._sizes) > len(self._events):
            self._bytes -= self._sizes.popleft()
        if not self._events:  # also mends what an interrupted put left
            self._sizes.clear()
            self._bytes = 0

    # -- putting: the loop thread, and publishers on this node

    def offer(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put what fits, in one step, and wake as many threads as there are events.

        Args:
            events: In order.
            sizes: Their encoded sizes, in bytes.

        Returns:
            How many events were dropped, these or older ones. A closed queue takes and drops nothing.
        """
        with self.lock:
            if self._is_shutdown:
                return 0
            before = self._dropped.total()
            self._put_internal((events, sizes))
            if self._is_shutdown:  # it overflowed, and failed
                self._getters.wake_all()
            else:
                self._getters.wake(len(events))
            return self._dropped.total() - before

    def offer_if_room(self, event: Event, size: int) -> bool:
        """Put one event, unless it would overflow or the queue is closed."""
        with self.lock:
            self._trim()
            if self._is_shutdown or not self._fits(size):
                return False
            self.offer((event,), (size,))
            return True

    # -- taking: any thread

    def take(self, deadline: Deadline) -> Event:
        """Wait for the next event.

        Raises:
            DeadlineExceededError: None came in time.
            SubscriptionClosedError: The queue is closed and empty; a failure that ended it is raised in its place.
        """
        while True:
            event = self._get()
            if event is not None:
                if self._events:  # a wake-up may have been lost to an exception: hand on what is left
                    self._getters.wake(1)
                return event
            if self._is_shutdown and not self._events:
                raise self._ended()
            self._await_event(deadline)

    def _await_event(self, deadline: Deadline) -> None:
        if not self._getters.wait(lambda: self._events or self._is_shutdown, deadline):
            raise DeadlineExceededError(f"no event for subscription {self.name} within {deadline}")

    def _ended(self) -> AetherError:
        if self.failure is None:
            return SubscriptionClosedError(f"subscription {self.name} is closed")
        return type(self.failure)(*self.failure.args)

    # -- ending

    def close(self, *, discard: bool = False, failure: AetherError | None = None) -> None:
        """Take nothing more and release every waiting thread; what is queued can still be taken, unless discarded."""
        with self.lock:
            if failure is not None and not self._is_shutdown:
                self.failure = failure
            self._is_shutdown = True
            if discard:
                while self._get() is not None:
                    self._dropped["discarded"] += 1
            self._getters.wake_all()

    def disown(self) -> None:
        """In a forked child: end, as what is queued is for the parent's threads."""
        with self.lock:
            self._events.clear()
            error = f"subscription {self.name} was made before the fork, and is its parent's: subscribe again here"
            self.close(failure=SubscriptionClosedError(error))

    def stats(self) -> QueueStats:
        """Count what went through, at one moment."""
        with self.lock:
            self._trim()
            pending = len(self._events)
            dropped = dict(self._dropped)
            return QueueStats(
                offered=self._offered,
                delivered=max(0, self._offered - pending - self._dropped.total()),
                pending=pending,
                pending_bytes=self._bytes,
                high_water=self._high_water,
                dropped=dropped,
            )

    def __del__(self) -> None:
        if not hasattr(self, "pop"):  # its constructor was interrupted
            return
        self._dropped["discarded"] += len(self._events)
        self._events.clear()
        self._ended_with(self.stats())
