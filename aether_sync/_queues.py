"""``EventQueue``, the janus queue that a subscription reads.

It carries batches and overrides what janus documents for another queue organisation (``_init``, ``_qsize``, ``_put``,
``_get``), so what fits is decided under janus's own lock. Four things are different from plain janus, and only here:

- The lock is re-entrant and only ever taken by ``with``; threads wait in a :class:`~._waiting.Parking`, never on
  janus's conditions. So signal handlers may raise, or call ``close()``, anywhere.
- A taking thread pops from a deque, which is atomic, and comes to the lock only when that is empty.
- janus's constructor makes six conditions, ten KiB: it runs when something of them is asked for, and nothing here does.
- Nothing here logs or calls out: what happened is returned, for the caller to act on after the lock.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from enum import Enum
from itertools import repeat, starmap
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

_TRIM_AFTER = 2**16  # bytes put, until the sizes of events that are gone are forgotten


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

    __slots__ = (
        "_bytes",
        "_ceiling",
        "_dropped",
        "_ended_with",
        "_events",
        "_getters",
        "_high_water",
        "_is_complete",
        "_offered",
        "_parked",
        "_sizes",
        "failure",
        "is_shut",
        "limit",
        "lock",
        "max_bytes",
        "name",
        "overflow",
        "pop",
    )

    def __init__(
        self, maxsize: int, max_bytes: int, overflow: Overflow, name: str, ended: Callable[[QueueStats], None]
    ) -> None:
        self.lock = guard()  # guards all of the queue's state
        self.limit = maxsize
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.name = name
        self.is_shut = False  #: whether it takes nothing more
        self.failure: AetherError | None = None  # why it ended, if not by a clean close
        self._ended_with = ended
        self._is_complete = False  # janus's constructor has run
        self._getters = Parking(self.lock)
        self._parked = self._getters.parked  # looked at for each event
        self._events: deque[Event] = deque()
        self._sizes: deque[int] = deque()  # of the events, in order, behind those of some that are gone
        self._bytes = 0  # the sum of _sizes: at least what is queued
        self._ceiling = 0  # up to here, _bytes need not be exact
        self._offered = 0
        self._high_water = 0
        self._dropped: Counter[str] = Counter()  # by reason
        self.pop = self._events.popleft  #: the next event, or IndexError; any thread, no lock

    # -- what janus finds here

    def complete(self) -> None:
        """Run janus's constructor, once."""
        with self.lock:
            if not self._is_complete:
                super().__init__()
                self._is_complete = True

    @property
    def _sync_mutex(self) -> Any:
        return self.lock

    @_sync_mutex.setter
    def _sync_mutex(self, lock: object) -> None:
        """Janus's constructor would have another one."""

    @property
    def _is_shutdown(self) -> bool:
        return self.is_shut

    @_is_shutdown.setter
    def _is_shutdown(self, shut: bool) -> None:
        if shut:  # otherwise it is janus's constructor, which may come after the end
            self.close()

    def _init(self, maxsize: int) -> None:
        """All is there before janus's constructor runs."""

    # -- janus's points to override, called with the lock held

    def _qsize(self) -> int:
        return len(self._events)

    def _put(self, item: tuple[Sequence[Event], Sequence[int]]) -> None:
        self.offer(*item)

    def _get(self) -> Event | None:
        try:
            return self.pop()
        except IndexError:  # a thread without the lock was quicker
            return None

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
            if self.is_shut:
                return 0
            fits = self._put_one(events[0], sizes[0]) if len(events) == 1 else self._put_all(events, sizes)
            dropped = 0 if fits else self._put_tight(events, sizes)
            if self._parked:
                self._getters.wake(len(events))
            return dropped

    def offer_if_room(self, event: Event, size: int) -> bool:
        """Put one event, unless it would overflow or the queue is closed."""
        with self.lock:
            if self.is_shut or not self._put_one(event, size):
                return False
            if self._parked:
                self._getters.wake(1)
            return True

    def miss(self) -> None:
        """Count an event that was chosen for this queue, and came after its end."""
        with self.lock:
            self._refuse("closed", 1)

    def _put_one(self, event: Event, size: int) -> bool:
        """Put it, if it fits.

        The event comes first: should an exception cut this off, sizes still count from the end.
        """
        pending = len(self._events)
        if (pending >= self.limit or self._bytes + size > self._ceiling) and not self._fits(1, size):
            return False
        self._offered += 1
        self._events.append(event)
        self._bytes += size
        self._sizes.append(size)
        if pending >= self._high_water:
            self._high_water = pending + 1
        return True

    def _put_all(self, events: Sequence[Event], sizes: Sequence[int]) -> bool:
        """Put all of them, if they fit."""
        size = sum(sizes)
        pending = len(self._events) + len(events)
        if (pending > self.limit or self._bytes + size > self._ceiling) and not self._fits(len(events), size):
            return False
        self._offered += len(events)
        self._events.extend(events)
        self._bytes += size
        self._sizes.extend(sizes)
        if pending > self._high_water:
            self._high_water = pending
        return True

    def _fits(self, count: int, size: int) -> bool:
        if len(self._events) + count > self.limit:
            return False
        is_alone = not self._trim() and count == 1
        return is_alone or self._bytes + size <= self.max_bytes

    def _trim(self) -> int:
        """Forget the sizes of events that are gone; returns how many events there are."""
        pending = len(self._events)
        if pending:
            gone = sum(starmap(self._sizes.popleft, repeat((), len(self._sizes) - pending)))
            self._bytes -= gone
        else:  # also mends what an interrupted put left
            self._sizes.clear()
            self._bytes = 0
        self._ceiling = min(self.max_bytes, self._bytes + _TRIM_AFTER)
        return pending

    def _put_tight(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put one by one, by the policy; returns how many were dropped."""
        if self.overflow is Overflow.DROP_OLDEST:
            return sum(map(self._push, events, sizes))
        return self._fill(events, sizes)

    def _push(self, event: Event, size: int) -> int:
        """Put it, and drop the oldest until it fits."""
        self._offered += 1
        self._events.append(event)
        self._bytes += size
        self._sizes.append(size)
        dropped = 0
        while (reason := self._excess()) is not None:
            if self._get() is not None:
                self._dropped[reason] += 1
                dropped += 1
        self._high_water = max(self._high_water, len(self._events))
        return dropped

    def _excess(self) -> str | None:
        """Why there are too many, if so."""
        if len(self._events) > self.limit:
            return "maxsize"
        if self._bytes > self._ceiling and self._trim() > 1 and self._bytes > self.max_bytes:
            return "max_bytes"
        return None

    def _fill(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put those that fit, until no other can."""
        dropped = 0
        for number, (event, size) in enumerate(zip(events, sizes, strict=True)):
            if self._put_one(event, size):
                continue
            reason = "maxsize" if len(self._events) >= self.limit else "max_bytes"
            if self.overflow is Overflow.FAIL:
                self._fail(reason)
            if self.is_shut or reason == "maxsize":
                return dropped + self._refuse(reason, len(events) - number)
            dropped += self._refuse(reason, 1)  # a smaller one may fit
        return dropped

    def _refuse(self, reason: str, count: int) -> int:
        self._offered += count
        self._dropped[reason] += count
        return count

    def _fail(self, reason: str) -> None:
        error = f"subscription {self.name} overflowed: its queue was full ({reason})"
        self.close(failure=SubscriptionOverflowError(error))

    # -- taking: any thread

    def take(self, deadline: Deadline) -> Event:
        """Wait for the next event.

        Raises:
            DeadlineExceededError: None came in time.
            SubscriptionClosedError: The queue is closed and empty; a failure that ended it is raised in its place.
        """
        while True:
            try:
                event = self.pop()
            except IndexError:
                pass
            else:
                if self._parked and self._events:  # a wake-up may have been lost to an exception: hand on what is left
                    self._getters.wake(1)
                return event
            if self.is_shut and not self._events:
                raise self._ended()
            self._await_event(deadline)

    def _await_event(self, deadline: Deadline) -> None:
        if not self._getters.wait(lambda: self._events or self.is_shut, deadline):
            raise DeadlineExceededError(f"no event for subscription {self.name} within {deadline}")

    def _ended(self) -> AetherError:
        if self.failure is None:
            return SubscriptionClosedError(f"subscription {self.name} is closed")
        return type(self.failure)(*self.failure.args)

    # -- ending

    def close(self, *, discard: bool = False, failure: AetherError | None = None) -> None:
        """Take nothing more and release every waiting thread; what is queued can still be taken, unless discarded."""
        with self.lock:
            if failure is not None and not self.is_shut:
                self.failure = failure
            self.is_shut = True
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
            pending = self._trim()
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


class _Late:
    """An attribute that janus's constructor makes, once the first of them is asked for.

    Not ``__getattr__``: with that, Python looks up all attributes in the slow way.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __get__(self, queue: EventQueue | None, owner: type[EventQueue]) -> Any:
        if queue is None:
            return self
        queue.complete()
        return vars(queue)[self._name]


def _make_late() -> None:
    sample = EventQueue(1, 1, Overflow.FAIL, "", lambda _: None)
    sample.complete()
    for name in vars(sample):
        setattr(EventQueue, name, _Late(name))


_make_late()
