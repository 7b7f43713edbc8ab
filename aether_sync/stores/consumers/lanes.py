"""What the threads of a runner share: the *lanes*, one for each actor that has events here.

One thread takes deliveries and puts each into its actor's lane; the others take lanes that have something to be done,
and that nobody is at. So an actor waits for its own events only: for one that is being handled, and for the pause
before a failed one is tried again.

How many deliveries are here has a bound, so that they are shared out among processes and few are in hand when one is
killed. Where all within that bound wait for a few actors, and threads have nothing to do, the bound grows, for the sake
of the events behind. What is here beyond it keeps its place only: the event itself is read again when its turn comes.
It cannot be given back instead: that would be one of its deliveries, and to the server it would be in work all the same
until it is delivered again.
"""

import logging
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf, isinf
from operator import attrgetter
from time import sleep

from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ..._runtime.reporter import Burst, Kind, log
from ..._runtime.waits import ParkingLot
from ..._values.clock import monotonic
from ..._values.shown import explained
from ...errors import AetherError, MalformedRecordError, StoreClosedError, StoreError
from .consumption import Consumption
from .delivery import Delivery, drop_event, extend, failed_reason, hold, let_go, reload_event

__all__ = ["Handler", "Handling", "LaneScheduler"]

#: What handles a delivery: it returns when that is done, and raises when it is not.
Handler = Callable[[Delivery], object]

_LONGEST_PAUSE = 60.0  # seconds before a failed event is tried again
_LONGEST_REASON = 1_000  # characters
_NO_MEMORY = 0.1  # seconds until it is tried again
_READ = 5.0  # seconds to read an event again
_AGAIN = 1.0  # seconds until what the server could not do is tried again
_PATIENCE = 0.25  # seconds in which all that is here is to be handled, before more is taken for who has nothing to do

_numbers = count(1)
_sequence = attrgetter("sequence")


class _Lane:
    """The events of one actor that are here, in the order of the store."""

    __slots__ = ("actor_id", "failures", "is_busy", "verdict", "waiting")

    def __init__(self, actor_id: str) -> None:
        self.actor_id = actor_id
        self.waiting: list[Delivery] = []  # the first is the one that is handled, or tried again
        self.failures = 0  # of the first
        self.verdict: str | None = None  # why the first is given up, once it is
        self.is_busy = False  # a thread handles it


@dataclass(frozen=True, slots=True)
class Handling:
    """How a runner handles deliveries.

    Attributes:
        handler: The user's function.
        retry_delay: Seconds before a failed event is tried again, doubled each time.
        attempts: How often an event is tried before it is rejected.
        counts_deliveries: Whether earlier deliveries, to any process, count as attempts.
        capacity: How many deliveries are here at most, as long as all threads have something to do.
    """

    handler: Handler
    retry_delay: float
    attempts: int
    counts_deliveries: bool
    capacity: int


class LaneScheduler:
    """What the threads of a runner share. It does not know the runner, which can so be collected.

    Args:
        consumption: Where deliveries come from.
        handling: What is done with them.
    """

    def __init__(self, consumption: Consumption, handling: Handling) -> None:
        self.consumption = consumption
        self._handler = handling.handler
        self._retry_delay = handling.retry_delay
        self._attempts = handling.attempts
        self._counts_deliveries = handling.counts_deliveries
        self._capacity = handling.capacity
        self._room_made = 0  # beyond the capacity
        self._mark = 0.0  # when it was last seen that what is here flows
        self._left = 0  # deliveries still here of those that were at that moment
        self._idle = 0  # threads that have nothing to do
        self.lock = signal_safe_lock()  # guards the fields below
        self._work = ParkingLot()  # of who handles
        self._room = ParkingLot()  # of who takes
        self.ended = ParkingLot()  # of who waits for the end
        self._held: dict[int, Delivery] = {}  # by sequence
        self._lanes: dict[str, _Lane] = {}  # by actor
        self._ready: deque[_Lane] = deque()  # that have something to be done
        self._later: list[tuple[float, int, _Lane]] = []  # heap; when each is to be tried again
        self.running = 0  # threads that have begun; one that begins later than the end has nothing to do
        self.closers: set[int] = set()  # those of its threads whose handlers close it, and wait for the others
        self.closing = False
        self.failure: AetherError | None = None
        self._burst = Burst()  # of failures
        self._burst_of_refusals = Burst()  # of the dead-letter stream

    def _join(self) -> None:
        with self.lock:
            self.running += 1

    # -- taking

    def take(self) -> None:
        """Put deliveries into lanes, as there is room, until the end; on a thread of its own."""
        self._join()
        try:
            while room := self._await_room():
                try:
                    self._put(self.consumption.get_batch(room))
                except MemoryError:  # it passes; what was in hand comes again
                    sleep(_NO_MEMORY)
        except StoreClosedError as error:
            if not (self.closing or self.consumption.closed):  # it did not end by anybody's wish
                self._fail(error)
        except Exception as error:
            self._fail(error)
        finally:
            self.stop()
            self.consumption.close()
            self.give_back(also_behind_busy=False)
            self._leave()

    def _await_room(self) -> int:
        """Wait until more may be taken, and return how many; 0 at the end."""
        while not self.closing:
            with self.lock:
                patience = self._patience()
                if not patience:
                    self._room_made = 2 * len(self._held) - self._capacity  # room for as many as are here
                    self._see_flow()
                room = self._room_here()
            if room > 0:
                return room
            bound, idle = (None, False) if isinf(patience) else (patience, True)
            self._room.wait(partial(self._has_changed, idle), Deadline(bound))
        return 0

    def _room_here(self) -> int:
        return self._capacity + self._room_made - len(self._held)

    def _patience(self) -> float:
        """Seconds until room is made, as what is here keeps too few busy; ``inf`` while it does not."""
        if self._left <= 0:  # all that was here has been handled since: it flows
            self._see_flow()
        if len(self._held) <= self._capacity:
            self._room_made = 0
        if not self._is_idle() or 2 * len(self._held) < self._capacity:
            return inf
        return max(0.0, self._mark + _PATIENCE - monotonic())

    def _see_flow(self) -> None:
        self._mark, self._left = monotonic(), len(self._held)

    def _is_idle(self) -> bool:
        return self._idle > 0 and not self._ready

    def _has_changed(self, idle: bool) -> bool:
        """Whether who waits for room has to look again."""
        return self._room_here() > 0 or self._is_idle() is not idle or self.closing

    def _put(self, deliveries: list[Delivery]) -> None:
        with self.lock:
            for one in deliveries:
                held = self._held.get(one.sequence)
                if held is not None and not held.settled:  # the server was not told of it for too long
                    continue
                self._held[one.sequence] = one
                hold(one)
                lane = self._lanes.setdefault(one.event.actor_id, _Lane(one.event.actor_id))
                lane.waiting.append(one)
                if len(lane.waiting) == 1:
                    self._ready.append(lane)
                    self._see_flow()
                elif one.sequence < lane.waiting[-2].sequence:  # it comes again; the first may be in someone's hands
                    first, *rest = lane.waiting[:-1]
                    insort(rest, one, key=_sequence)
                    lane.waiting = [first, *rest]
                if len(lane.waiting) > 1 and len(self._held) > self._capacity:
                    drop_event(one)
            self._work.wake(len(deliveries))

    # -- handling

    def work(self) -> None:
        """Handle what is in the lanes, until the end; on several threads."""
        self._join()
        try:
            while (lane := self._next()) is not None:
                self._handle(lane)
        except Exception as mistake:  # of ours, or there is no memory: who waits for the end is told
            self._fail(mistake)
            self.stop()
            self.consumption.close()  # or who takes would wait there
        finally:
            self._leave()

    def _next(self) -> _Lane | None:
        """Wait for a lane in which something is to be done."""
        while True:
            with self.lock:
                if self.closing:
                    return None
                now = monotonic()
                while self._later and self._later[0][0] <= now:
                    self._ready.append(heappop(self._later)[2])
                if self._ready:
                    lane = self._ready.popleft()
                    lane.is_busy = True
                    if self._ready or self._later:  # another waits for those
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
        """Let who takes make room, if nothing changes."""
        if self._is_idle() and self._room_here() <= 0:
            self._room.wake(1)

    def _due(self) -> float:
        return self._later[0][0] if self._later else inf

    def _has_work(self, before: float) -> bool:
        """Whether there is something to be done, or will be before a moment."""
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
        try:
            self._handler(delivery)
        except BaseException as error:  # the thread is ours, and goes on
            self._failed(lane, delivery, error)
        else:
            if not delivery.settled:
                with suppress(StoreError):  # the handler has left it to a thread that settles it just now
                    delivery.ack()
            self._done(lane, delivery)

    def _not_read(self, lane: _Lane, delivery: Delivery, error: Exception) -> None:
        """The event is not there; as long as that may pass, nobody has failed."""
        if isinstance(error, MalformedRecordError):
            self._failed(lane, delivery, error)
        else:
            self._later_on(lane, _AGAIN)

    def _failed(self, lane: _Lane, delivery: Delivery, error: BaseException) -> None:
        """Try it again after a pause, or give it up."""
        lane.failures += 1
        tried = delivery.attempt if self._counts_deliveries else lane.failures
        if self._burst.opens():
            text = "the handler of %r failed with event %d (of %s), attempt %d of %d"
            about = self.consumption, delivery.sequence, lane.actor_id, tried, self._attempts
            counts = {"attempts": tried}
            log(Kind.HANDLER_FAILED, logging.ERROR, text, *about, error=error, counts=counts)
        if delivery.settled:
            self._done(lane, delivery)
        elif (rejected := failed_reason(delivery)) is not None or tried >= self._attempts:
            reason = explained(error, _LONGEST_REASON) if rejected is None else rejected
            text = "%r gives up event %d (of %s) after %d attempts: %s"
            what = self.consumption, delivery.sequence, lane.actor_id, tried, reason[:_LONGEST_REASON]
            log(Kind.GAVE_UP, logging.WARNING, text, *what, counts={"attempts": tried})  # each of them
            self._give_up(lane, delivery, reason)
        else:
            delivery.attempt += 1
            self._later_on(lane, min(self._retry_delay * 2 ** min(lane.failures - 1, 60), _LONGEST_PAUSE))

    def _later_on(self, lane: _Lane, pause: float) -> None:
        """Let a lane rest for some seconds."""
        with self.lock:
            lane.is_busy = False
            heappush(self._later, (monotonic() + pause, next(_numbers), lane))
            self._work.wake(1)  # who waits for a later one

    def _give_up(self, lane: _Lane, delivery: Delivery, reason: str) -> None:
        """Put an event into the dead-letter stream, now or later: it may have had its last delivery."""
        try:
            delivery.reject(reason)
        except (AetherError, MemoryError) as error:
            if not delivery.settled:
                if self._burst_of_refusals.opens():
                    text = "event %d, which %r gives up, is not in the dead-letter stream yet: %s"
                    log(Kind.GAVE_UP, logging.WARNING, text, delivery.sequence, self.consumption, error)
                lane.verdict = reason
                self._later_on(lane, _AGAIN)
                return
        self._done(lane, delivery)

    def _done(self, lane: _Lane, delivery: Delivery) -> None:
        let_go(delivery)
        with self.lock:
            if self._held.get(delivery.sequence) is delivery:  # it may have come again already
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

    # -- ending

    def _fail(self, error: Exception) -> None:
        """Say why it ends."""
        what = explained(error)
        self.failure = error if isinstance(error, AetherError) else StoreError(f"a mistake ends the runner: {what}")
        log(Kind.RUNNER_ENDED, logging.ERROR, "the handling of %r ends: %s", self.consumption, what)

    def stop(self) -> None:
        """Let each thread end once it is done with what it has in hand."""
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
            self.abandon_busy()  # what a thread had in hand that ended by a mistake

    def give_back(self, also_behind_busy: bool = True) -> None:
        """Give back what no thread handles.

        Args:
            also_behind_busy: Also events of an actor of whom one is being handled: another process may then handle
                them at the same time.
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
            with suppress(StoreError):  # it is settled
                one.nak()

    def abandon_busy(self) -> None:
        """No longer keep what is still being handled from being delivered to another."""
        with self.lock:
            for one in self._held.values():
                let_go(one)
