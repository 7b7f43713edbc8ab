"""``EventQueue``, the janus queue that a subscription reads.

It carries batches and overrides what janus documents for another queue organisation (``_init``, ``_qsize``, ``_put``,
``_get``). Four things are different from plain janus, and only here:

- What fits is decided by one thread at a time, who has the *turn*; nobody waits for it, as its holder may be in a
  finalizer or a signal handler that publishes, logs, or closes. What is offered meanwhile is left to the holder.
- A taking thread pops from a deque, which is atomic; one that has to wait does so in a :class:`~._waiting.ParkingLot`.
- janus's constructor makes six conditions, ten KiB: it runs when something of them is asked for, and nothing here does.
- Nothing here logs or calls out: what happened is returned, for the caller to act on after the turn.
"""

from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from enum import Enum
from itertools import chain, repeat, starmap
from operator import itemgetter
from threading import Lock
from typing import Any

import janus

from .._runtime.deadline import Deadline
from .._runtime.locks import signal_safe_lock, tries
from .._runtime.waits import ParkingLot
from ..errors import AetherError, DeadlineExceededError, SubscriptionClosedError, SubscriptionOverflowError
from ..events import Event
from ..metrics import QueueStats

__all__ = ["EventQueue", "Overflow"]

_TRIM_AFTER = 2**16  # bytes put, until the sizes of events that are gone are forgotten
_SOON = 0.05  # seconds to wait for the turn where an answer is wanted that only its holder can give

_events_of = itemgetter(0)


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
        "_discarded",
        "_discards",
        "_dropped",
        "_ended_with",
        "_events",
        "_getters",
        "_high_water",
        "_is_complete",
        "_late",
        "_missed",
        "_offered",
        "_owed",
        "_parked",
        "_sizes",
        "_tries",
        "_turn",
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
        self.lock = signal_safe_lock()  # janus's, for its own methods
        self.limit = maxsize
        self.max_bytes = max_bytes
        self.overflow = overflow
        self.name = name
        self.is_shut = False  #: whether it takes nothing more
        self.failure: AetherError | None = None  # why it ended, if not by a clean close
        self._ended_with = ended
        self._is_complete = False  # janus's constructor has run
        self._getters = ParkingLot()
        self._parked = self._getters.parked  # looked at for each event
        self._events: deque[Event] = deque()
        # Offered while another had the turn; how many were discarded; and missed. Single operations, any thread.
        self._late: list[tuple[Sequence[Event], Sequence[int]]] = []
        self._discarded: list[int] = []
        self._missed: list[int] = []
        self._discards = False  # what comes late, too
        self._begin_turns()  # whose turn it is may change the fields below
        self._owed = 0  # drops that no offer has told of
        self._sizes: deque[int] = deque()  # of the events, in order, behind those of some that are gone
        self._bytes = 0  # the sum of _sizes: at least what is queued
        self._ceiling = 0  # up to here, _bytes need not be exact
        self._offered = 0
        self._high_water = 0
        self._dropped: Counter[str] = Counter()  # by reason
        self.pop = self._events.popleft  #: the next event, or IndexError; any thread, no lock

    def _begin_turns(self) -> None:
        self._turn = Lock()  # nobody waits for it
        self._tries = tries(self._turn)

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
            How many events were dropped, these or others. A closed queue takes and drops nothing.
        """
        turn, mine, dropped = self._turn, False, 0
        try:
            for mine in self._tries:  # nobody waits who publishes: see _waiting
                break
            if self.is_shut:
                owed, self._owed = self._owed, 0
                return owed
            if mine:
                if self._late:
                    self._put_late()
                pending = len(self._events)
                if len(events) == 1 and pending < self.limit and self._bytes + sizes[0] <= self._ceiling:
                    self._offered += 1  # as _append() does: by far the most frequent, and so without that call
                    self._events.append(events[0])
                    self._bytes += sizes[0]
                    self._sizes.append(sizes[0])
                    if pending >= self._high_water:
                        self._high_water = pending + 1
                elif not self._put_all(events, sizes):
                    dropped += self._put_tight(events, sizes)
                if self._parked:
                    self._getters.wake(len(events))
        except BaseException:
            self._getters.wake_all()  # they look whether something was left undone
            raise
        finally:
            if mine:
                turn.release()
        if not mine:
            self._late.append((events, sizes))
        if self._late:
            self._settle()
        if self._owed:
            dropped, self._owed = dropped + self._owed, 0
        return dropped

    def offer_if_room(self, event: Event, size: int) -> bool:
        """Put one event, unless it would overflow, the queue is closed, or somebody is at it."""
        turn, mine, put = self._turn, False, False
        try:
            for mine in self._tries:
                break
            if mine and not self.is_shut:
                if self._late:
                    self._put_late()
                put = self._put_one(event, size)
                if put and self._parked:
                    self._getters.wake(1)
        except BaseException:
            self._getters.wake_all()
            raise
        finally:
            if mine:
                turn.release()
        if self._late:
            self._settle()
        return put

    def _settle(self) -> None:
        """Put what was offered while another had the turn. If it is not free, its holder does that afterwards."""
        while self._late and self._put_in_turn():
            pass

    def _put_in_turn(self, within: float = 0.0) -> bool:
        """Put what is late; returns whether the turn could be taken within some seconds."""
        turn, mine = self._turn, False
        try:
            for mine in tries(turn, within):
                break
            if mine:
                self._put_late()
        except BaseException:
            self._getters.wake_all()
            raise
        finally:
            if mine:
                turn.release()
        return bool(mine)

    # -- with the turn

    def _put_late(self) -> None:
        """Put what was offered while another had the turn. Of what is dropped the next offer tells."""
        late = self._late
        while late:
            events, sizes = late[0]
            size = sum(sizes)
            if self._discards:
                del late[0]
                self._refuse("discarded", len(events))
            elif self._has_room(len(events), size):
                self._offered += len(events)
                # Taken off and put in one step: who is interrupted has done both, or neither.
                self._events.extend(chain.from_iterable(map(_events_of, map(late.pop, (0,)))))
                self._bytes += size
                self._sizes.extend(sizes)
                self._high_water = max(self._high_water, len(self._events))
            else:
                del late[0]
                self._owed += self._put_tight(events, sizes)
            self._getters.wake(len(events))

    def miss(self) -> None:
        """Count an event that was chosen for this queue, and came after its end."""
        self._missed.append(1)

    def _put_one(self, event: Event, size: int) -> bool:
        """Put it, if it fits."""
        if not self._has_room(1, size):
            return False
        self._append(event, size)
        return True

    def _append(self, event: Event, size: int) -> None:
        """Put it.

        The event comes first: should an exception cut this off, sizes still count from the end.
        """
        pending = len(self._events)
        self._offered += 1
        self._events.append(event)
        self._bytes += size
        self._sizes.append(size)
        if pending >= self._high_water:
            self._high_water = pending + 1

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

    def _has_room(self, count: int, size: int) -> bool:
        """Whether so much fits, most often without a closer look."""
        is_tight = len(self._events) + count > self.limit or self._bytes + size > self._ceiling
        return not is_tight or self._fits(count, size)

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
            if self.is_shut and not (self._events or self._late):
                self._put_in_turn(_SOON)  # who was putting something just then has done so
                if not self._events:
                    raise self._ended()
            self._await_event(deadline)

    def give_back(self, events: Sequence[Event]) -> None:
        """Put back what was taken last, in order, for whoever takes next: also once the queue is closed."""
        if self._discards:
            self._discarded.append(len(events))
            return
        self._events.extendleft(reversed(events))
        self._getters.wake(len(events))

    def _await_event(self, deadline: Deadline) -> None:
        if self._getters.wait(self._is_ready, deadline):
            return
        if not (self._late and self._put_in_turn(_SOON) and self._events):
            raise DeadlineExceededError(f"no event for subscription {self.name} within {deadline}")

    def _is_ready(self) -> bool:
        """Whether there is an event, or the end."""
        if self._late:
            self._settle()
        return bool(self._events) or (self.is_shut and not self._late)

    def _ended(self) -> AetherError:
        if self.failure is None:
            return SubscriptionClosedError(f"subscription {self.name} is closed")
        return type(self.failure)(*self.failure.args)

    # -- ending

    def close(self, *, discard: bool = False, failure: AetherError | None = None) -> None:
        """Take nothing more and release every waiting thread; what is queued can still be taken, unless discarded."""
        try:
            if failure is not None and not self.is_shut:
                self.failure = failure
            self.is_shut = True
            if discard:
                self._discard()
        finally:
            self._getters.wake_all()

    def _discard(self) -> None:
        self._discards = True
        gone: list[Event] = []
        try:
            with suppress(IndexError):  # there are no more
                gone.extend(iter(self.pop, None))
        finally:
            self._discarded.append(len(gone))
        self._settle()

    def disown(self) -> None:
        """In a forked child: end, as what is queued is for the parent's threads."""
        self._begin_turns()
        self._late.clear()
        self._events.clear()
        error = f"subscription {self.name} was made before the fork, and is its parent's: subscribe again here"
        self.close(failure=SubscriptionClosedError(error))

    def stats(self) -> QueueStats:
        """Count what went through, at one moment; beside a thread that is held up at the queue, about that moment."""
        turn, mine = self._turn, False
        try:
            for mine in tries(turn, _SOON):
                break
            if mine:
                self._put_late()
            counted = self._counted(self._trim() if mine else len(self._events))
        finally:
            if mine:
                turn.release()
        if self._late:
            self._settle()
        return counted

    def _counted(self, pending: int) -> QueueStats:
        dropped = dict(self._dropped)
        if discarded := sum(self._discarded):
            dropped["discarded"] = dropped.get("discarded", 0) + discarded
        if missed := len(self._missed):
            dropped["closed"] = missed
        offered = self._offered + missed
        return QueueStats(
            offered=offered,
            delivered=max(0, offered - pending - sum(dropped.values())),
            pending=pending,
            pending_bytes=self._bytes,
            high_water=self._high_water,
            dropped=dropped,
        )

    def __del__(self) -> None:
        if not hasattr(self, "pop"):  # its constructor was interrupted
            return
        self._discarded.append(len(self._events))
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
