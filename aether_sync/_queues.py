"""The two janus queues: ``EventQueue``, which a subscription reads, and ``Outbox``, which the loop reads.

Both carry batches and override what janus documents for another queue organisation (``_init``, ``_qsize``, ``_put``,
``_get``), so what fits is decided under janus's own lock. Three things are different from plain janus, and only here:

- The lock is re-entrant and only ever taken by ``with``; threads wait in a :class:`~._waiting.Parking`, never on
  janus's conditions. So signal handlers may raise, or call ``close()``, anywhere.
- A taking thread pops from a deque, which is atomic, and comes to the lock only when that is empty.
- Nothing here logs or calls out: what happened is returned, for the caller to act on after the lock.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from threading import Condition
from typing import Any

import janus

from ._deadline import Deadline
from ._waiting import Parking, guard, times_outside
from .errors import (
    AetherError,
    BusClosedError,
    DeadlineExceededError,
    PublishTimeoutError,
    SubscriptionClosedError,
    SubscriptionOverflowError,
)
from .events import Event
from .metrics import QueueStats

__all__ = ["Batch", "EventQueue", "Outbox", "OutboxClosed", "Overflow"]

OutboxClosed = janus.AsyncQueueShutDown


class Overflow(Enum):
    """What a full queue does with one event more."""

    DROP_NEWEST = "drop_newest"
    DROP_OLDEST = "drop_oldest"
    FAIL = "fail"


class _Bridge(janus.Queue[Any]):
    """A janus queue whose lock a signal handler can neither leave held nor wait for in vain."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = guard()  # guards all of the queue's state
        self._sync_mutex = self.lock  # type: ignore[assignment]
        self._sync_not_empty = Condition(self.lock)
        self._sync_not_full = Condition(self.lock)
        self._sync_tasks_done = Condition(self.lock)

    @property
    def is_shut(self) -> bool:
        """Whether the queue takes nothing more."""
        return self._is_shutdown


class EventQueue(_Bridge):
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
        self.limit = maxsize
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.name = name
        self._ended_with = ended
        self.failure: AetherError | None = None  # why it ended, if not by a clean close
        self._getters = Parking(self.lock)
        self.pop = self._events.popleft  #: the next event, or IndexError; any thread, no lock

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


@dataclass(eq=False, slots=True)
class Batch:
    """Frames that go to the loop together: whole ``PUB`` commands of the NATS protocol."""

    frames: list[bytes] = field(default_factory=list)
    size: int = (
        0  # bytes; counted before the frames are added, so an interrupted publisher leaves it too high, never low
    )
    largest: int = 0  # bytes of the largest payload among them
    taken: int | None = None  # how many frames it held when the loop took it


class Outbox(_Bridge):
    """Batches of frames from the publishing threads to the loop, bounded in events and in bytes.

    The first publisher of a batch wakes the loop, *then* hands the batch to janus; later ones append to it until the
    loop takes it. The other way round, a signal handler that raised in between would leave a batch that nobody takes,
    and the outbox wedged for ever. A position is a count of all frames ever accepted, so "all that was published until
    now" is one number; it is derived from the batches, never counted beside them. They are walked through in a copy: a
    signal handler's close() lets the loop take them meanwhile.

    Args:
        max_events: Events held at most, those that the loop has taken but not yet written included.
        max_bytes: Bytes of their frames at most. What is larger than either bound goes in when the outbox is empty.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        super().__init__()
        self.max_events = max_events
        self.max_bytes = max_bytes
        self._publishers = Parking(self.lock)

    def _init(self, maxsize: int) -> None:
        self._batches: deque[Batch] = deque()
        self._taken = 0  # frames ever taken by the loop
        self._held_events = 0  # taken, and not yet written
        self._held_bytes = 0

    def _qsize(self) -> int:
        return len(self._batches)

    def _put(self, item: Batch) -> None:
        self._batches.append(item)

    def _get(self) -> Batch:
        batch = self._batches.popleft()
        batch.frames = list(batch.frames)  # whoever was interrupted while adding sees that it missed
        batch.taken = len(batch.frames)
        self._taken += batch.taken
        self._held_events += batch.taken
        self._held_bytes += batch.size
        return batch

    # -- publishing threads

    def put(self, frames: Sequence[bytes], largest: int, timeout: float | None) -> None:
        """Accept all these frames, or none.

        Args:
            frames: ``PUB`` commands, in order.
            largest: Bytes of the largest payload among them.
            timeout: Seconds to wait for room.

        Raises:
            PublishTimeoutError: There was no room in time.
            BusClosedError: The outbox is closed.
        """
        size = sum(map(len, frames))
        deadline: Deadline | None = None
        while True:
            with self.lock:
                self._refuse_if_closed()
                if self._has_room(len(frames), size) and self._append(frames, size, largest):
                    return
            deadline = deadline or Deadline(timeout)
            self._await_room(len(frames), size, deadline)

    def _refuse_if_closed(self) -> None:
        if self._is_shutdown:
            raise BusClosedError("the bus is closed: nothing was published")

    def _has_room(self, count: int, size: int) -> bool:
        events, held = self._held_events, self._held_bytes
        for batch in tuple(self._batches):  # hardly ever more than the open one
            events += len(batch.frames)
            held += batch.size
        return not events or (events + count <= self.max_events and held + size <= self.max_bytes)

    def _append(self, frames: Sequence[bytes], size: int, largest: int) -> bool:
        """Add to the open batch or hand over a new one; False if the frames missed the loop.

        They miss it only when a signal handler's close() steps in between, which lets go of the lock.
        """
        if self._batches:  # the last one is not taken yet
            batch = self._batches[-1]
            list_then = batch.frames
            start = len(list_then)
            batch.size += size
            batch.largest = max(batch.largest, largest)
            list_then.extend(frames)
        else:
            start, batch = 0, Batch(list(frames), size, largest)
            before = times_outside()
            self._wake_loop()  # first: it finds the lock held until the batch is there
            self._put_internal(batch)
            if times_outside() != before:  # or it did not, and sleeps again
                self._wake_loop()
        return not self._is_shutdown if batch.taken is None else start < batch.taken

    def _wake_loop(self) -> None:
        if self._async_not_empty_waiting:
            self._notify_async(self._async_not_empty.notify)

    def _await_room(self, count: int, size: int, deadline: Deadline) -> None:
        if not self._publishers.wait(lambda: self._is_shutdown or self._has_room(count, size), deadline):
            events, held = self.depth()
            raise PublishTimeoutError(
                f"the outbox had no room within {deadline}: {events} events, {held} bytes wait to be sent"
            )

    def disown(self) -> "Outbox":
        """In a forked child: return an empty one in its place, and accept nothing here: what it holds the parent sends.

        Its loop is not told: it is the parent's.
        """
        with self.lock:
            own = Outbox(self.max_events, self.max_bytes)
            own._is_shutdown, self._is_shutdown = self._is_shutdown, True
            self._publishers.wake_all()
            return own

    def depth(self) -> tuple[int, int]:
        """Events and bytes that are accepted and not yet written."""
        with self.lock:
            events = self._held_events + sum(len(batch.frames) for batch in tuple(self._batches))
            return events, self._held_bytes + sum(batch.size for batch in tuple(self._batches))

    def position(self) -> int:
        """How many events were ever accepted."""
        with self.lock:
            return self._taken + sum(len(batch.frames) for batch in tuple(self._batches))

    # -- the loop thread, which takes batches by ``async_q.get()`` until that raises OutboxClosed

    def written(self, count: int, size: int) -> None:
        """Give back the room of frames that are written; wakes waiting publishers when it is half empty."""
        with self.lock:
            self._held_events -= count
            self._held_bytes -= size
            if self._publishers:
                events, held = self.depth()
                if events * 2 <= self.max_events and held * 2 <= self.max_bytes:
                    self._publishers.wake_all()

    def close(self) -> None:
        """Accept nothing more and release waiting publishers; the loop still takes what is there."""
        self.shutdown()
        self._publishers.wake_all()
