"""``EventQueue``: how events get from the threads that put them to the threads and coroutines that read a subscription.

What fits into a queue is decided in ``bounded``; how a reader waits is in ``readers``; here one is handed to the other:

- One thread at a time puts events: the one that holds the *put lock*. Nobody waits for that lock, since its holder may
  be in a finalizer or a signal handler that publishes, logs, or closes. A thread that does not get it *defers* its
  events: it leaves them in a list, and the holder puts them afterwards.
- A reader takes an event from a deque, in one atomic step and without a lock. Only where there is none does it wait.
- Nothing here logs or calls user code: what happened is returned, for the caller to act on without the lock.

An ``EventQueue`` is a ``janus.Queue``, and both of janus's sides read it: ``sync_q`` in a thread, ``async_q`` in a
coroutine. janus's own implementation is not used. Its constructor makes a lock and six conditions for each queue: of
10,000 idle subscriptions, each took 13,000 bytes with it and 4,700 without (resident memory says the same), and its
``subscribe()`` took 220 µs instead of 85. Its ``put()`` would take that lock for each event, and make a task of the
reader's event loop for each event that is put while a coroutine waits.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from operator import itemgetter
from threading import Lock
from typing import Any, Never, TypeVar, TypeVarTuple

import janus

from .._runtime.again import again
from .._runtime.deadline import Deadline
from .._runtime.locks import tries
from ..errors import AetherError, DeadlineExceededError, SubscriptionClosedError, SubscriptionOverflowError
from ..events import Event
from ..metrics import QueueStats
from .bounded import BoundedEvents, Overflow
from .readers import Readers

__all__ = ["EventQueue"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_PUT_SOON = 0.05  # seconds to wait for the put lock, where the answer depends on what its holder is putting
_EVENTS_IN_A_ROW = 100  # that the coroutines of an event loop take before its other tasks may run

_events_of = itemgetter(0)


class _InARow(threading.local):
    """Counts the events that the coroutines of this thread's event loop took since its other tasks could run."""

    taken = 0


_in_a_row = _InARow()


class EventQueue(BoundedEvents, janus.Queue[Any]):
    """Events on their way to the readers of a subscription, bounded in number and in bytes.

    Args:
        maxsize: The largest number of events.
        max_bytes: The largest sum of their encoded sizes, in bytes. A larger event goes in when nothing else is there.
        overflow: What happens to an event that does not fit.
        name: What the subscription is called in an error.
        ended: Called with the final counts when the queue is collected. The collector calls it, so it takes no lock.
    """

    __slots__ = (
        "_deferred",
        "_discarded",
        "_ended_with",
        "_is_discarding",
        "_missed",
        "_put_lock",
        "_readers",
        "_try_put_lock",
        "_unreported_drops",
        "_waiting",
        "failure",
        "name",
    )

    def __init__(
        self, maxsize: int, max_bytes: int, overflow: Overflow, name: str, ended: Callable[[QueueStats], None]
    ) -> None:
        super().__init__(maxsize, max_bytes, overflow)  # and not janus's, which makes what nothing here uses
        self.name = name
        self.failure: AetherError | None = None  #: why it ended, if not by a clean close
        self._ended_with = ended
        self._readers = Readers()
        self._waiting = self._readers.parked  # looked at for each event
        # Lists that any thread changes, by single operations.
        self._deferred: list[tuple[Sequence[Event], Sequence[int]]] = []  # offered while another thread was putting
        self._discarded: list[int] = []  # how many events were discarded, each time
        self._missed: list[None] = []  # one for each event that came after the end
        self._is_discarding = False  # also what is still offered
        self._make_put_lock()  # its holder may change what BoundedEvents has, and the field below
        self._unreported_drops = 0  # dropped while no offer() could return it

    def _make_put_lock(self) -> None:
        self._put_lock = Lock()
        self._try_put_lock = tries(self._put_lock)

    # -- putting: the loop thread, and publishers on this node

    def offer(self, events: Sequence[Event], sizes: Sequence[int]) -> int:
        """Put what fits, and wake as many readers as there are events.

        Args:
            events: In order.
            sizes: Their encoded sizes, in bytes.

        Returns:
            How many events were dropped, these or others. A closed queue takes and drops nothing.
        """
        lock, mine, dropped = self._put_lock, False, 0
        try:  # as _with_put_lock() does, without that call
            for mine in self._try_put_lock:
                break
            if self.closed:
                unreported, self._unreported_drops = self._unreported_drops, 0
                return unreported
            if mine:
                if self._deferred:
                    self._put_deferred()
                pending = len(self._events)
                if len(events) == 1 and pending < self.maxsize and self._bytes + (size := sizes[0]) <= self._trim_above:
                    self._offered += 1  # as _extend() does, without that call: this is by far the most frequent
                    self._events.append(events[0])
                    self._bytes += size
                    self._sizes.append(size)
                    if pending >= self._high_water:
                        self._high_water = pending + 1
                else:
                    dropped = self._put_events(events, sizes)
                if self._waiting:
                    self._readers.wake(len(events))
        except BaseException:
            self._readers.wake_all()  # they look whether something was left undone
            raise
        finally:
            if mine:
                lock.release()
        if not mine:
            self._deferred.append((events, sizes))
        if self._deferred:
            self._put_deferred_if_free()
        if self._unreported_drops:
            dropped, self._unreported_drops = dropped + self._unreported_drops, 0
        return dropped

    def offer_if_room(self, event: Event, size: int) -> bool:
        """Put one event, unless it would overflow, the queue is closed, or another thread is putting events."""
        put = self._with_put_lock(self._put_and_wake, event, size)
        if self._deferred:
            self._put_deferred_if_free()
        return bool(put)

    def count_missed(self) -> None:
        """Count an event that was chosen for this queue, and came after its end."""
        self._missed.append(None)

    def _with_put_lock(self, work: Callable[[*Ts], T], *args: *Ts, within: float = 0.0) -> T | None:
        """Do some work with the put lock held; return its result, or None if the lock is not free within some seconds.

        What was deferred meanwhile is still to be put afterwards.
        """
        lock, mine = self._put_lock, False
        try:
            for mine in tries(lock, within) if within else self._try_put_lock:
                break
            return work(*args) if mine else None
        except BaseException:
            self._readers.wake_all()  # they look whether something was left undone
            raise
        finally:
            if mine:
                lock.release()

    def _put_deferred_if_free(self, within: float = 0.0) -> bool:
        """Put what was deferred, unless another thread holds the put lock, which then does that; return whether put."""
        while self._with_put_lock(self._put_deferred, within=within):
            if not self._deferred:
                return True
        return False

    # -- with the put lock held

    def _put_and_wake(self, event: Event, size: int) -> bool:
        if self.closed:
            return False
        if self._deferred:
            self._put_deferred()
        if not self._has_room(1, size):
            return False
        self._extend((event,), (size,), size)
        if self._waiting:
            self._readers.wake(1)
        return True

    def _put_deferred(self) -> bool:
        """Put what was offered while another thread was putting. The next offer() returns how many were dropped."""
        deferred = self._deferred
        while deferred:
            events, sizes = deferred[0]
            size = sum(sizes)
            if self._is_discarding:
                del deferred[0]
                self._count_dropped("discarded", len(events))
            elif self._has_room(len(events), size):
                # Taken off and put in one step, in C: an interrupt comes before both, or after both.
                self._extend(chain.from_iterable(map(_events_of, map(deferred.pop, (0,)))), sizes, size)
            else:
                del deferred[0]
                self._unreported_drops += self._put_by_policy(events, sizes)
            self._readers.wake(len(events))
        return True

    def _fail(self, reason: str) -> None:
        error = f"subscription {self.name} overflowed: its queue was full ({reason})"
        self.close(failure=SubscriptionOverflowError(error))

    # -- taking: any thread, and coroutines of any event loop

    def take(self, deadline: Deadline) -> Event:
        """Wait for the next event, and take it.

        Raises:
            DeadlineExceededError: None came in time.
            SubscriptionClosedError: The queue is closed and empty. If a failure ended it, that is raised instead.
        """
        while True:
            try:
                event = self.pop()
            except IndexError:
                pass
            else:
                if self._waiting and self._events:  # a wake-up may have been lost to an exception: pass on what is left
                    self._readers.wake(1)
                return event
            if self.closed and not (self._events or self._deferred):
                self._put_deferred_if_free(_PUT_SOON)  # a thread that was putting an event just then has done so
                if not self._events:
                    raise self._end()
            self._wait(deadline)

    async def take_in_coroutine(self) -> Event:
        """Wait for the next event in a coroutine, and take it; the event loop is never held up.

        No event is in hand while it waits, so a cancellation loses none.

        Raises:
            SubscriptionClosedError: As :meth:`take`.
        """
        while True:
            _in_a_row.taken += 1
            if _in_a_row.taken > _EVENTS_IN_A_ROW:  # else events that come as fast as they are taken stop the loop
                _in_a_row.taken = 0
                await asyncio.sleep(0)
            try:
                event = self.pop()
            except IndexError:
                pass
            else:
                if self._waiting and self._events:  # a wake-up may have been lost to an exception: pass on what is left
                    self._readers.wake(1)
                return event
            if self.closed and not (self._events or self._deferred):
                if not self._put_deferred_if_free():
                    await asyncio.sleep(_PUT_SOON)  # as take(), without waiting for a lock
                if not self._events:
                    raise self._end()
            await self._readers.wait_in_coroutine(self._is_ready)
            _in_a_row.taken = 0

    def give_back(self, events: Sequence[Event]) -> None:
        """Put back the events that were taken last, in order, for the next reader; also into a closed queue."""
        if self._is_discarding:
            self._discarded.append(len(events))
            return
        self._events.extendleft(reversed(events))
        self._readers.wake(len(events))

    def _wait(self, deadline: Deadline) -> None:
        if self._readers.wait(self._is_ready, deadline):
            return
        if not (self._deferred and self._put_deferred_if_free(_PUT_SOON) and self._events):
            raise DeadlineExceededError(f"no event for subscription {self.name} within {deadline}")

    def _is_ready(self) -> bool:
        """Whether there is an event, or the end."""
        if self._deferred:
            self._put_deferred_if_free()
        return bool(self._events) or (self.closed and not self._deferred)

    def _end(self) -> AetherError:
        """The error to raise at the end."""
        if self.failure is None:
            return SubscriptionClosedError(f"subscription {self.name} is closed")
        return again(self.failure)

    # -- ending

    def close(self, *, discard: bool = False, failure: AetherError | None = None) -> None:
        """Take nothing more, and wake all readers that wait.

        Args:
            discard: Drop what is queued. Otherwise it can still be taken.
            failure: Why it ends, if it was not asked to. A queue that is closed already keeps its reason.
        """
        try:
            if failure is not None and not self.closed:
                self.failure = failure
            self.closed = True
            if discard:
                self._discard()
        finally:
            self._readers.wake_all()

    def _discard(self) -> None:
        self._is_discarding = True
        gone: list[Event] = []
        try:
            with suppress(IndexError):  # there are no more
                gone.extend(iter(self.pop, None))
        finally:
            self._discarded.append(len(gone))
        if self._deferred:
            self._put_deferred_if_free()

    def disown(self) -> None:
        """In a forked child: end, since what is queued is for the parent's readers, and leave the parent's loops be."""
        self._make_put_lock()
        self._readers.leave_out(lambda _: True)
        self._deferred.clear()
        self._events.clear()
        error = f"subscription {self.name} was made before the fork, and is its parent's: subscribe again here"
        self.close(failure=SubscriptionClosedError(error))

    def stats(self) -> QueueStats:
        """Count what went through, at one moment; about that moment, if a thread is held up while it puts events."""
        counted = self._with_put_lock(self._settled_counts, within=_PUT_SOON)
        if counted is None:
            counted = self._counts(len(self._events))
        if self._deferred:
            self._put_deferred_if_free()
        return counted

    def _settled_counts(self) -> QueueStats:
        self._put_deferred()
        return self._counts(self._trim())

    def _counts(self, pending: int) -> QueueStats:
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
        if not hasattr(self, "_unreported_drops"):  # its constructor was interrupted
            return
        self._discarded.append(len(self._events))
        self._events.clear()
        self._ended_with(self.stats())

    # -- as a janus queue

    @property
    def sync_q(self) -> "_SyncSide":  # type: ignore[override]
        """The side for threads."""
        return _SyncSide(self)

    @property
    def async_q(self) -> "_AsyncSide":  # type: ignore[override]
        """The side for coroutines, of any number of event loops."""
        return _AsyncSide(self)

    def shutdown(self, immediate: bool = False) -> None:
        """As :meth:`close`; with ``immediate``, what is queued is dropped."""
        self.close(discard=immediate)

    async def wait_closed(self) -> None:
        """Return at once: nothing is left to be done after a :meth:`close`."""
        if not self.closed:
            raise RuntimeError(f"subscription {self.name} is not closed")


class _Side:
    """What janus's two sides of a queue have in common."""

    def __init__(self, queue: EventQueue) -> None:
        self._queue = queue

    @property
    def maxsize(self) -> int:
        """The largest number of events."""
        return self._queue.maxsize

    @property
    def closed(self) -> bool:
        """Whether nothing more will be put."""
        return self._queue.closed

    def qsize(self) -> int:
        """The number of events that are queued just now."""
        return len(self._queue._events)

    def empty(self) -> bool:
        """Whether no event is queued just now."""
        return not self._queue._events

    def full(self) -> bool:
        """Whether no more events fit just now."""
        return len(self._queue._events) >= self._queue.maxsize

    def shutdown(self, immediate: bool = False) -> None:
        """Close the queue; with ``immediate``, what is queued is dropped."""
        self._queue.shutdown(immediate)

    def _refuse(self, *_: object, **__: object) -> Never:
        raise AetherError("a subscription's queue is only read: its bus puts the events, and nobody counts tasks")

    put = put_nowait = task_done = join = _refuse
    unfinished_tasks = property(_refuse)


class _SyncSide(_Side, janus.SyncQueue[Event]):
    """The queue as threads read it by janus's protocol."""

    def get(self, block: bool = True, timeout: float | None = None) -> Event:
        """Wait for the next event, and take it; as ``queue.Queue.get()``."""
        deadline = Deadline(timeout if block else 0)  # or the timeout is none, which is no end of the queue
        try:
            return self._queue.take(deadline)
        except DeadlineExceededError as error:
            raise janus.SyncQueueEmpty from error
        except AetherError as error:
            raise janus.SyncQueueShutDown from error

    def get_nowait(self) -> Event:
        """Take an event that is there."""
        return self.get(block=False)


class _AsyncSide(_Side, janus.AsyncQueue[Event]):
    """The queue as coroutines read it by janus's protocol."""

    async def get(self) -> Event:
        """Wait for the next event, and take it; as ``asyncio.Queue.get()``."""
        try:
            return await self._queue.take_in_coroutine()
        except AetherError as error:
            raise janus.AsyncQueueShutDown from error

    def get_nowait(self) -> Event:
        """Take an event that is there."""
        try:
            return self._queue.take(Deadline(0))
        except DeadlineExceededError as error:
            raise janus.AsyncQueueEmpty from error
        except AetherError as error:
            raise janus.AsyncQueueShutDown from error
