"""``LaneScheduler``: which delivery a runner handles next. There is a *lane* for each actor that has events here.

One thread takes deliveries and puts each into its actor's lane. The others take lanes in which an event is to be
handled and that no other thread is at. So the events of an actor wait only for an earlier one of that actor: while it
is handled, and while it pauses before it is tried again.

The number of deliveries in the lanes is bounded, so that events are shared out among processes, and a process that is
killed or closed holds few: as many as it handles in a moment. When all of these wait for a few actors and threads have
nothing to do, the bound grows, so that the events of other actors are reached. A delivery beyond the largest bound
keeps its place, but not its event, which is read again when its turn comes. To give it back instead would cost an
attempt, and it would count as unacknowledged all the same.
"""

from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf, isinf
from operator import attrgetter
from threading import get_ident
from time import sleep
from typing import NamedTuple

from ..._arguments import is_of, refuse_unrun
from ..._runtime.deadline import Deadline
from ..._runtime.handler_threads import ThreadHooks
from ..._runtime.locks import signal_safe_lock
from ..._runtime.reporter import Burst, Details, Failures, Kind, Reporter
from ..._runtime.waits import ParkingLot
from ..._values.clock import monotonic, now
from ..._values.shown import explained
from ...errors import AetherError, MalformedRecordError, StoreClosedError, StoreError
from ...events import Event
from ...handling_context import context_of, handle_pushed
from .._measuring import RunnerCounts
from .consumption import Consumption, report_lost, set_prefetch, take_for_handlers
from .delivery import (
    Delivery,
    drop_event,
    extend,
    failed_reason,
    give_back,
    hold,
    let_go,
    moment_of_delivery,
    reload_event,
)
from .handlers import Handler, is_never_read
from .retry_policy import RetryPolicy, is_final, pause_after

__all__ = ["Busy", "Handling", "LaneScheduler"]

_LONGEST_REASON = 1_000  # characters
_NO_MEMORY = 0.1  # seconds until taking is tried again
_READ = 5.0  # seconds to read an event again
_AGAIN = 1.0  # seconds until a request that the server could not fulfil is tried again
_MOMENT = 0.5  # seconds in which everything here is handled: else there is no room for more
_PATIENCE = 0.25  # seconds in which everything here has to be handled: else more is taken for threads without work

_numbers = count(1)
_sequence = attrgetter("sequence")
_since = attrgetter("since")


class _Lane:
    """The events of one actor that are here, in the order of the store."""

    __slots__ = ("actor_id", "failures", "is_busy", "since", "thread", "verdict", "waiting")

    def __init__(self, actor_id: str) -> None:
        self.actor_id = actor_id
        self.waiting: list[Delivery] = []  # the first is being handled, or is to be
        self.failures = 0  # of the first
        self.verdict: str | None = None  # the reason, once the first is given up
        self.is_busy = False  # a thread handles the first
        self.since = 0.0  # the moment since when it does
        self.thread = 0  # which one


@dataclass(frozen=True, slots=True)
class Handling:
    """How a runner handles deliveries.

    Attributes:
        stream: The name of the store's stream, for log records.
        consumer: The consumer's name, for log records.
        handler: The user's function.
        retry: When a failed event is tried again, and after which errors.
        attempts: How often an event is tried before it is rejected.
        counts_deliveries: Whether earlier deliveries, to any process, count as attempts.
        first: How many deliveries are here at most at the beginning.
        capacity: How many are here at most later on, as long as all threads have something to do.
        hung_after: Seconds after which a handler that still runs is a reason for the runner not to be well.
        hooks: What is called on each thread of handlers.
    """

    stream: str
    consumer: str
    handler: Handler
    retry: RetryPolicy
    attempts: int
    counts_deliveries: bool
    first: int
    capacity: int
    hung_after: float
    hooks: ThreadHooks


class Busy(NamedTuple):
    """What a runner is doing at a moment.

    Attributes:
        handlers: How many handlers run.
        waiting: How many deliveries wait here for a handler, those that are tried again later included.
        longest: For how many seconds the handler has run that runs for the longest time; 0 if none runs.
        sequence: The event that this one handles; 0 if none runs.
        actor_id: The actor of that event.
    """

    handlers: int
    waiting: int
    longest: float = 0.0
    sequence: int = 0
    actor_id: str = ""


class LaneScheduler:
    """What the threads of a runner share. It does not refer to the runner, which can so be garbage-collected.

    Args:
        consumption: Where deliveries come from.
        handling: What is done with them.
        reporter: Logs for the store.

    Attributes:
        counts: What it has done.
    """

    def __init__(self, consumption: Consumption, handling: Handling, reporter: Reporter) -> None:
        self.consumption = consumption
        self.counts = RunnerCounts()
        self._reporter = reporter
        self._stream, self._consumer = handling.stream, handling.consumer
        self._handler = handling.handler
        self._retry = handling.retry
        self._attempts = handling.attempts
        self._hooks = handling.hooks
        self._counts_deliveries = handling.counts_deliveries
        self._least, self._most = handling.first, handling.capacity
        self._capacity = handling.first  # changes between them: see _adapt()
        self._handled = 0  # deliveries, since the capacity was looked at last
        self._looked_at = monotonic()
        self._is_starved = False  # threads had nothing to do since then, though the lanes were full
        self._room_made = 0  # beyond the capacity
        self._mark = 0.0  # the moment of the last progress: see _note_progress()
        self._left = 0  # deliveries of that moment that are still here
        self._idle = 0  # threads without work
        self.lock = signal_safe_lock()  # guards the fields below
        self._work = ParkingLot()  # threads that wait for a lane
        self._room = ParkingLot()  # the thread that takes, while there is no room
        self.ended = ParkingLot()  # callers that wait for the end
        self._held: dict[int, Delivery] = {}  # by sequence
        self._lanes: dict[str, _Lane] = {}  # by actor
        self._ready: deque[_Lane] = deque()  # lanes whose first event is to be handled
        self._later: list[tuple[float, int, _Lane]] = []  # heap: when each lane is to be tried again
        self.running = 0  # threads that have begun and not ended
        self.closers: set[int] = set()  # threads whose handlers close it, and wait for the other threads
        self.closing = False
        self.failure: AetherError | None = None
        self.when_ended: Callable[[], object] | None = None  # called when the last thread has ended; it is quick
        self._burst = Failures()  # of failures
        self._burst_of_letters = Burst()  # of events that are given up
        self._burst_of_refusals = Burst()  # of the dead-letter stream

    def _join(self) -> None:
        with self.lock:
            self.running += 1

    # -- taking

    def take(self) -> None:
        """Put deliveries into lanes, while there is room, until the end. It runs on a thread of its own."""
        self._join()
        try:
            while room := self._await_room():
                try:
                    self._put(take_for_handlers(self.consumption, room))
                except MemoryError:  # it passes; what was just taken is delivered again
                    sleep(_NO_MEMORY)
        except StoreClosedError as error:
            if not (self.closing or self.consumption.closed):  # nobody has closed it
                self._fail(error)
        except Exception as error:
            self._fail(error)
        finally:
            self.stop()
            self.consumption.close()
            self.give_back(also_behind_busy=False)
            self._leave()

    def _await_room(self) -> int:
        """Wait until deliveries may be taken, and return how many; 0 at the end."""
        while not self.closing:
            with self.lock:
                self._adapt()
                patience = self._patience()
                if not patience:
                    self._set_capacity(2 * self._capacity)
                    self._is_starved = True
                    self._room_made = max(0, 2 * len(self._held) - self._capacity)  # room for as many again
                    self._note_progress()
                room = self._room_here()
            if room > 0:
                return room
            bound, idle = (None, False) if isinf(patience) else (patience, True)
            self._room.wait(partial(self._has_changed, idle), Deadline(bound))
        return 0

    def _adapt(self) -> None:
        """Let as many deliveries be here as are handled in a moment, or as are needed so that all threads have work.

        When the runner ends, those that are here lose an attempt, and other processes get them late. So slow handlers
        hold few of them.
        """
        if self._handled < self._capacity:
            return
        now = monotonic()
        took, self._looked_at, self._handled = now - self._looked_at, now, 0
        if took < _MOMENT:
            self._set_capacity(2 * self._capacity)
        elif took > 4 * _MOMENT and not self._is_starved:
            self._set_capacity(self._capacity // 2)
        self._is_starved = False

    def _set_capacity(self, capacity: int) -> None:
        self._capacity = max(self._least, min(capacity, self._most))
        set_prefetch(self.consumption, self._capacity)

    def _room_here(self) -> int:
        return self._capacity + self._room_made - len(self._held)

    def _patience(self) -> float:
        """Return the seconds until room is made for threads without work; ``inf`` while all have work."""
        if self._left <= 0:  # everything that was here has been handled since
            self._note_progress()
        if len(self._held) <= self._capacity:
            self._room_made = 0
        if not self._is_idle() or 2 * len(self._held) < self._capacity:
            return inf
        return max(0.0, self._mark + _PATIENCE - monotonic())

    def _note_progress(self) -> None:
        """Let the time begin anew in which everything that is here now has to be handled."""
        self._mark, self._left = monotonic(), len(self._held)

    def _is_idle(self) -> bool:
        return self._idle > 0 and not self._ready

    def _has_changed(self, idle: bool) -> bool:
        """Whether the thread that waits for room has to check again."""
        return self._room_here() > 0 or self._is_idle() is not idle or self.closing

    def _put(self, deliveries: list[Delivery]) -> None:
        with self.lock:
            for one in deliveries:
                held = self._held.get(one.sequence)
                if held is not None and not held.settled:  # it came again: its ack wait was not extended in time
                    continue
                if one.attempt > 1:
                    self.counts.redelivered()
                self._held[one.sequence] = one
                hold(one)
                lane = self._lanes.setdefault(one.event.actor_id, _Lane(one.event.actor_id))
                lane.waiting.append(one)
                if len(lane.waiting) == 1:
                    self._ready.append(lane)
                    self._note_progress()
                elif one.sequence < lane.waiting[-2].sequence:  # it comes again; a thread may be at the first
                    first, *rest = lane.waiting[:-1]
                    insort(rest, one, key=_sequence)
                    lane.waiting = [first, *rest]
                if len(lane.waiting) > 1 and len(self._held) > self._most:
                    drop_event(one)
            self._work.wake(len(deliveries))

    # -- handling

    def work(self) -> None:
        """Handle the events in the lanes until the end. It runs on several threads."""
        self._join()
        try:
            self._hooks.run(self._handle_all, self._reporter)
        except Exception as mistake:  # of this library, or there is no memory: wait() raises it
            self._fail(mistake)
            self.stop()
            self.consumption.close()  # or the thread that takes would wait in it
        finally:
            self._leave()

    def _handle_all(self) -> None:
        while (lane := self._next()) is not None:
            self._handle(lane)

    def _next(self) -> _Lane | None:
        """Wait for a lane in which an event is to be handled; None at the end."""
        while True:
            with self.lock:
                if self.closing:
                    return None
                now = monotonic()
                while self._later and self._later[0][0] <= now:
                    self._ready.append(heappop(self._later)[2])
                if self._ready:
                    lane = self._ready.popleft()
                    lane.is_busy, lane.since, lane.thread = True, now, get_ident()
                    if self._ready or self._later:  # another thread has to wait for those
                        self._work.wake(1)
                    self._signal_idleness()
                    return lane
                due = self._due()
                self._idle += 1
                self._signal_idleness()
            try:
                self._work.wait(partial(self._has_work, due), Deadline(None if isinf(due) else max(0.0, due - now)))
            finally:
                with self.lock:
                    self._idle -= 1

    def _signal_idleness(self) -> None:
        """Wake the thread that takes: it makes room, if nothing changes."""
        if self._is_idle() and self._room_here() <= 0:
            self._room.wake(1)

    def _due(self) -> float:
        return self._later[0][0] if self._later else inf

    def _has_work(self, before: float) -> bool:
        """Whether an event is to be handled now, or will be before a moment."""
        with self.lock:
            return bool(self._ready) or self.closing or self._due() < before

    def _handle(self, lane: _Lane) -> None:
        delivery = lane.waiting[0]
        if lane.verdict is not None:
            self._give_up(lane, delivery, lane.verdict)
            return
        try:
            reload_event(delivery, Deadline(_READ))
        except (AetherError, MemoryError) as error:
            self._not_read(lane, delivery, error)
            return
        extend(delivery)
        begun, context = monotonic(), None
        try:
            with handle_pushed(delivery):
                context = copy_context()  # what a handler sets and does not set back ends with it
                refuse_unrun(context.run(self._handler, delivery))
        except BaseException as error:  # the thread is ours, and goes on
            self.counts.failed(begun)
            self._failed(lane, delivery, error, context)
        else:
            self.counts.handled(begun)
            if not delivery.settled:
                with suppress(StoreError):  # another thread of the user's settles it at this moment
                    delivery.ack()
            self._done(lane, delivery)

    def _not_read(self, lane: _Lane, delivery: Delivery, error: Exception) -> None:
        """Try again later to read an event that could not be read; it counts as a failure if it is not there."""
        if isinstance(error, MalformedRecordError):
            self._failed(lane, delivery, error)
        else:
            self._later_on(lane, _AGAIN)

    def _failed(self, lane: _Lane, delivery: Delivery, error: BaseException, context: Context | None = None) -> None:
        """Note that a handler has failed, in its context: the event is tried again after a pause, or given up."""
        lane.failures += 1
        tried = delivery.attempt if self._counts_deliveries else lane.failures
        if self._burst.opens():
            text = "the handler of consumer %r failed with event %d (of %s), attempt %d of %d"
            about = self._consumer, delivery.sequence, lane.actor_id, tried, self._attempts
            details = self._details(lane, delivery, tried)
            self._reporter.error(Kind.HANDLER_FAILED, text, *about, error=error, context=context, **details)
        if delivery.settled:
            self._done(lane, delivery)
        elif (
            (rejected := failed_reason(delivery)) is not None
            or tried >= self._attempts
            or is_never_read(delivery, error)
            or is_final(self._retry, error)
        ):
            reason = explained(error, _LONGEST_REASON) if rejected is None else rejected
            text = "consumer %r gives up event %d (of %s) after attempt %d: %s"
            what = self._consumer, delivery.sequence, lane.actor_id, tried, reason[:_LONGEST_REASON]
            if self._burst_of_letters.opens():  # all of them are in the dead-letter stream
                details = self._details(lane, delivery, tried)
                self._reporter.warning(Kind.GAVE_UP, text, *what, context=context, **details)
            self._give_up(lane, delivery, reason)
        else:
            delivery.attempt += 1
            self._later_on(lane, pause_after(self._retry, lane.failures))

    def _details(self, lane: _Lane, delivery: Delivery, attempts: int) -> Details:
        """Return the attributes of a log record about an event."""
        details: Details = {
            "stream": self._stream,
            "consumer": self._consumer,
            "sequence": delivery.sequence,
            "actor": lane.actor_id,
            "counts": {"attempts": attempts},
        }
        if is_of(getattr(delivery, "event", None), Event):  # else it was dropped, and cannot be read again
            context = context_of(delivery)
            details["event_id"], details["event_type"] = context.event_id, context.event_type
            details["correlation_id"] = context.correlation_id
            if context.namespace:
                details["namespace"] = context.namespace
        return details

    def _later_on(self, lane: _Lane, pause: float) -> None:
        """Take up a lane again after some seconds."""
        with self.lock:
            lane.is_busy = False
            heappush(self._later, (monotonic() + pause, next(_numbers), lane))
            self._work.wake(1)  # a thread that waits for a later moment

    def _give_up(self, lane: _Lane, delivery: Delivery, reason: str) -> None:
        """Make an event a dead letter, now or later: it may have had its last delivery, and would not come again."""
        try:
            delivery.reject(reason)
        except (AetherError, MemoryError) as error:
            if not delivery.settled:
                if self._burst_of_refusals.opens():
                    text = "event %d, which consumer %r gives up, is not in the dead-letter stream yet: %s"
                    details = self._details(lane, delivery, delivery.attempt)
                    self._reporter.warning(Kind.GAVE_UP, text, delivery.sequence, self._consumer, error, **details)
                lane.verdict = reason
                self._later_on(lane, _AGAIN)
                return
        self._done(lane, delivery)

    def _done(self, lane: _Lane, delivery: Delivery) -> None:
        let_go(delivery)
        if delivery.settled == "rejected":
            self.counts.dead_letter()
        with self.lock:
            self._handled += 1
            if self._held.get(delivery.sequence) is delivery:  # not if it has come again already
                del self._held[delivery.sequence]
                self._left -= 1
            lane.waiting.remove(delivery)
            lane.failures, lane.verdict, lane.is_busy = 0, None, False
            if lane.waiting:
                self._ready.append(lane)
                self._work.wake(1)
            else:
                del self._lanes[lane.actor_id]
            self._room.wake(1)

    # -- its state

    def busy(self) -> Busy:
        """Return what is being done now."""
        with self.lock:
            lanes = [lane for lane in self._lanes.values() if lane.is_busy and lane.waiting]
            if not lanes:
                return Busy(0, len(self._held))
            first = min(lanes, key=_since)
            longest = max(0.0, monotonic() - first.since)
            waiting = len(self._held) - len(lanes)
            return Busy(len(lanes), waiting, longest, first.waiting[0].sequence, first.actor_id)

    def handling(self) -> set[int]:
        """Return the threads that handle an event now, by their idents."""
        with self.lock:
            return {lane.thread for lane in self._lanes.values() if lane.is_busy and lane.waiting}

    def measure(self) -> dict[str, float]:
        """Return how many handlers run, how many events are here, and how old the oldest is. It takes no lock."""
        held = list(self._held.values())
        oldest = min(map(moment_of_delivery, held), default=inf) / 1e9
        return {
            "busy": sum(lane.is_busy for lane in list(self._lanes.values())),
            "in_hand": len(held),
            "oldest_seconds": max(0.0, now().timestamp() - oldest),
        }

    def disown(self) -> None:
        """In a forked child, forget what the parent's threads work on."""
        self.closing, self.running = True, 0
        self._held, self._lanes = {}, {}

    # -- ending

    def _fail(self, error: Exception) -> None:
        """Note and log the error that ends it, if it is the first."""
        what, name = explained(error), self._consumer
        failure = error if isinstance(error, AetherError) else StoreError(f"a mistake ends the runner: {what}")
        with self.lock:
            if self.failure is not None:
                return
            self.failure = failure
        text, details = "the runner of consumer %r ends: %s", Details(stream=self._stream, consumer=name)
        self._reporter.error(Kind.RUNNER_ENDED, text, name, what, **details)

    def stop(self) -> None:
        """Have each thread end when it has finished the event that it handles."""
        with self.lock:
            self.closing = True
            self._work.wake_all()
            self._room.wake_all()

    def _leave(self) -> None:
        with self.lock:
            self.running -= 1
            is_last = not self.running
            self.ended.wake_all()
        if is_last:
            self.give_back()
            self.abandon_busy()  # an event whose thread an error has ended
            if self.when_ended is not None:
                self.when_ended()

    def give_back(self, also_behind_busy: bool = True) -> None:
        """Give back the events that no thread handles.

        Args:
            also_behind_busy: Whether to give back also those of an actor of which an event is being handled. Another
                process may then handle them at the same time.
        """
        with self.lock:
            given = [
                one
                for lane in self._lanes.values()
                if also_behind_busy or not lane.is_busy
                for one in lane.waiting[lane.is_busy :]
            ]
            gone = set(given)
            for one in given:
                self._held.pop(one.sequence, None)
            for lane in self._lanes.values():
                lane.waiting = [one for one in lane.waiting if one not in gone]
        for one in given:
            with suppress(StoreError):  # it is settled already
                give_back(one)
        report_lost(self.consumption)

    def abandon_busy(self) -> None:
        """Extend the ack wait no more of events that are still being handled."""
        with self.lock:
            for one in self._held.values():
                let_go(one)
