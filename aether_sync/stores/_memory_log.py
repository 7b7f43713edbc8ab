"""``Log``: the events of a store in memory; and ``LogFollower``, which follows it."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from time import time_ns
from typing import NamedTuple, Self

from .._arguments import check_count, check_flag
from .._codec.encoding import encode_and_copy
from .._runtime.batches import take_batch
from .._runtime.closing import Closeable
from .._runtime.deadline import Deadline
from .._runtime.exit import before_threads_end, is_ending
from .._runtime.locks import signal_safe_lock
from .._runtime.registry import WeakRegistry
from .._runtime.waits import ParkingLot
from .._values.clock import monotonic
from ..errors import DeadlineExceededError, StoreClosedError
from ..events import Event
from ..instrumentation import observers, received
from ..metrics import FollowerStats
from ..patterns import SubscriptionFilter
from ._measuring import StoreCounts
from ._wanted import version_of
from .base import Follower, StoredEvent

__all__ = ["Log", "LogFollower", "fresh", "off_the_wire", "stats_of_followers"]


class _Record(NamedTuple):
    stored: StoredEvent
    place: int  # among the events of its actor
    moment: int  # when it was stored, in nanoseconds since 1970


class Log:
    """Events in order. A save is added whole.

    One operation that nothing can interrupt, ``dict.setdefault()``, adds a save, and only if no other save has its
    sequence: a signal handler may store something during the very call that is about to. The lists are made from it. An
    interrupt may leave them incomplete, and the next call completes them: each event has its own place, so adding one
    twice does no harm.
    """

    def __init__(self) -> None:
        #: Guards everything below. Methods are called with it held, except those that say otherwise.
        self.lock = signal_safe_lock()
        self.waiting = ParkingLot()  #: followers that wait for events
        self.closed = False  #: no event is added any more
        self._saves: dict[int, list[_Record]] = {}  # by the sequence of the first event
        self._events: list[StoredEvent] = []
        self._by_actor: dict[str, list[StoredEvent]] = {}

    # -- writing

    def add(self, first: int, events: Sequence[Event]) -> list[StoredEvent]:
        """Store events from a sequence on; return ``[]`` if another save has taken that sequence."""
        save = self._recorded(first, events)
        if self._saves.setdefault(first, save) is not save:
            return []
        self.end()
        return [record.stored for record in save]

    def _recorded(self, first: int, events: Sequence[Event]) -> list[_Record]:
        last = first + len(events) - 1
        batch = first if len(events) > 1 else 0
        places: dict[str, int] = {}
        records, moment = [], time_ns()
        for sequence, event in enumerate(events, first):
            place = places.get(event.actor_id)
            if place is None:
                place = len(self.history(event.actor_id))
            places[event.actor_id] = place + 1
            records.append(_Record(StoredEvent(event, sequence, False, sequence == last, batch), place, moment))
        return records

    def end(self) -> int:
        """Complete the lists, and return the last sequence."""
        while (save := self._saves.get(len(self._events) + 1)) is not None:
            for stored, place, _ in save:
                self._by_actor.setdefault(stored.event.actor_id, [])[place : place + 1] = (stored,)
            start = save[0].stored.sequence - 1
            self._events[start : start + len(save)] = [record.stored for record in save]
        return len(self._events)

    def close(self) -> None:
        """Allow no more events, and end every follower. Called without the lock."""
        with self.lock:
            self.closed = True
        self.waiting.wake_all()

    # -- reading

    def history(self, actor_id: str) -> list[StoredEvent]:
        """Return the list of an actor's events, which must not be changed."""
        self.end()
        return self._by_actor.get(actor_id, [])

    def version(self, actor_id: str) -> int:
        """Return the version of an actor, 0 if it has no events."""
        history = self.history(actor_id)
        return history[-1].event.version if history else 0

    def find(self, actor_id: str, version: int) -> StoredEvent | None:
        """Return the event of an actor with a version; None if there is none."""
        history = self.history(actor_id)
        place = bisect_left(history, version, key=version_of)
        return history[place] if place < len(history) and history[place].event.version == version else None

    def latest(self) -> list[StoredEvent]:
        """Return the last event of every actor."""
        self.end()
        return [history[-1] for history in self._by_actor.values()]

    # -- without the lock

    def moment_of(self, sequence: int) -> int:
        """Return when one of the first :attr:`size` events was stored, in nanoseconds since 1970."""
        return self._saves[self[sequence].batch or sequence][0].moment

    @property
    def size(self) -> int:
        """How many events there are."""
        return len(self._events)

    @property
    def actor_count(self) -> int:
        """How many actors have events."""
        return len(self._by_actor)

    def __getitem__(self, sequence: int) -> StoredEvent:
        """Return one of the first :attr:`size` events, which stay where they are."""
        return self._events[sequence - 1]


_LOOKED_AT_ONCE = 1_000  # events that are looked at before the deadline is checked
_FOR_EVER = Deadline(None)


class _Position(NamedTuple):
    passed: int  # the last sequence that need not be looked at again
    next: "dict[int, _Position]"  # under 0 the following one: whoever puts it there has taken the event between them


def fresh(stored: StoredEvent) -> StoredEvent:
    """Return a stored event as a copy of its reader's own, who may change its data, as with a server."""
    return StoredEvent(
        off_the_wire(stored.event, type(stored.event)), stored.sequence, False, stored.ends_batch, stored.batch
    )


def off_the_wire(event: Event, kind: type[Event]) -> Event:
    """Return an event as a reader gets it, of the class of the store's events."""
    _, copy = encode_and_copy(event, "", kind)
    return copy


class LogFollower(Closeable, Follower):
    """The ``Follower`` of a store in memory. It takes an event by one operation that nothing can interrupt.

    Args:
        log: The events.
        after: The sequence to begin after.
        wanted: Which events are handed out.
        counts: Those of the store.
    """

    def __init__(self, log: Log, after: int, wanted: SubscriptionFilter, counts: StoreCounts) -> None:
        self._log = log
        self._counts = counts
        self._wanted = wanted
        self._position = _Position(after, {})  # it may lag behind: see _here()
        self._returned: deque[StoredEvent] = deque()  # taken and put back; single operations only
        self._closed = False
        _followers.add(self)  # before the check: what is registered before the end is closed with the others
        if is_ending():
            raise StoreClosedError(f"{self!r} does not begin any more: this process is about to end")

    @property
    def sequence(self) -> int:
        returned = list(self._returned)
        return min([self._here().passed, *(one.sequence - 1 for one in returned[:1])])

    @property
    def is_caught_up(self) -> bool:
        return not self.closed and self._next(_FOR_EVER, take=False) is None

    @property
    def is_connected(self) -> bool:
        return not self.closed

    @property
    def closed(self) -> bool:
        return self._closed or self._log.closed

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        try:
            return self.get()
        except StoreClosedError:
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> StoredEvent:
        deadline = Deadline(timeout)
        began = monotonic() if observers else None
        found = self._get(deadline)
        if began is not None:
            received(began, (found.event,))
        return found

    def _get(self, deadline: Deadline, until_caught_up: bool = False) -> StoredEvent:
        while True:
            is_last_look = not deadline.remaining()
            if self.closed:
                raise StoreClosedError(f"{self!r} is closed")
            with suppress(IndexError):
                return self._take(deadline)
            is_last_look |= until_caught_up and self.is_caught_up
            if is_last_look or not self._log.waiting.wait(self._is_to_look, deadline):
                raise DeadlineExceededError(f"no event for {self!r} within {deadline}")

    def get_batch(
        self, max_events: int, timeout: float | None = None, *, until_caught_up: bool = False
    ) -> list[StoredEvent]:
        max_events = check_count("max_events", max_events)
        until_caught_up = check_flag("until_caught_up", until_caught_up)
        deadline = Deadline(timeout)
        first, rest = partial(self._get, deadline, until_caught_up), partial(self._take, deadline)
        began = monotonic() if observers else None
        batch = take_batch(max_events, first, rest, self._give_back)
        if began is not None and batch:
            received(began, [one.event for one in batch], is_batch=True)
        return batch

    def _take(self, deadline: Deadline) -> StoredEvent:
        found = self._next(deadline, take=True)
        if found is None:
            raise IndexError
        try:
            copy = fresh(found)
        except BaseException:
            self._give_back([found])
            raise
        self._counts.read(1)
        return copy

    def _give_back(self, batch: list[StoredEvent]) -> None:
        """Put back the events that were taken last, to be taken next."""
        self._returned.extendleft(reversed(batch))
        self._log.waiting.wake(len(batch))

    def _here(self) -> _Position:
        position = self._position
        while position.next:
            position = position.next[0]
        self._position = position
        return position

    def _next(self, deadline: Deadline, *, take: bool) -> StoredEvent | None:
        """Return the next wanted event of those that are stored now; None if there is none, or the time is over."""
        try:
            return self._returned.popleft() if take else self._returned[0]
        except IndexError:
            pass
        end = self._log.size
        while True:
            here = self._here()
            found, passed = self._search(here.passed, min(end, here.passed + _LOOKED_AT_ONCE))
            if found is not None and take:
                following = _Position(found.sequence, {})
            elif passed > here.passed:
                following = _Position(passed, {})
            else:
                return found
            if here.next.setdefault(0, following) is not following:  # another thread was quicker
                continue
            if found is not None or passed >= end or not deadline.remaining():
                return found

    def _search(self, passed: int, end: int) -> tuple[StoredEvent | None, int]:
        """Return the first wanted event between two sequences, and the last sequence that can be skipped."""
        log = self._log
        for sequence in range(passed + 1, end + 1):
            if self._wanted.matches(log[sequence].event):
                return log[sequence], sequence - 1
        return None, max(passed, end)

    def _is_to_look(self) -> bool:
        with self._log.lock:
            return self.closed or bool(self._returned) or self._log.end() > self._here().passed

    def close(self) -> None:
        self._closed = True
        self._log.waiting.wake_all()

    def __repr__(self) -> str:
        return f"<follower after {self.sequence}{' closed' if self._closed else ''}>"


_followers: WeakRegistry[LogFollower] = WeakRegistry()


def stats_of_followers(log: Log) -> tuple[FollowerStats, ...]:
    """Return how far the open followers of a log are."""
    return tuple(
        FollowerStats(
            actors=one._wanted.actor_pattern,
            event_types=tuple(sorted(one._wanted.event_types)),
            sequence=(sequence := one.sequence),
            lag=max(0, log.size - sequence),
            is_connected=True,
        )
        for one in _followers
        if one._log is log and not one.closed
    )


@before_threads_end
def _end_following() -> None:
    """Close every follower when the main thread ends: Python waits for the other threads, which may iterate them."""
    for follower in _followers:
        follower.close()
