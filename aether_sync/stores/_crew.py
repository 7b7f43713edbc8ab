"""What the threads of a runner share: the *lanes*, one for each actor that has events here.

One thread takes deliveries and puts each into its actor's lane; the others take lanes that have something to be done,
and that nobody is at. So an actor waits for its own events only: for one that is being handled, and for the pause
before a failed one is tried again.
"""

import logging
from bisect import insort
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from heapq import heappop, heappush
from itertools import count
from math import inf, isinf
from operator import attrgetter
from time import sleep

from .._clock import monotonic
from .._deadline import Deadline
from .._reporter import Burst, Kind, log
from .._short import explained
from .._waiting import Parking, guard
from ..errors import AetherError, StoreClosedError, StoreError
from .consume import Consumption
from .delivery import Delivery

__all__ = ["Crew", "Handler"]

#: What handles a delivery: it returns when that is done, and raises when it is not.
Handler = Callable[[Delivery], object]

_LONGEST_PAUSE = 60.0  # seconds before a failed event is tried again
_LONGEST_REASON = 1_000  # characters
_NO_MEMORY = 0.1  # seconds until it is tried again

_numbers = count(1)
_sequence = attrgetter("sequence")


class _Lane:
    """The events of one actor that are here, in the order of the store."""

    __slots__ = ("failures", "is_busy", "waiting")

    def __init__(self) -> None:
        self.waiting: list[Delivery] = []  # the first is the one that is handled, or tried again
        self.failures = 0  # of the first
        self.is_busy = False  # a thread handles it


class Crew:
    """What the threads of a runner share. It does not know the runner, which can so be collected.

    Args:
        consumption: Where deliveries come from.
        handler: The user's.
        retry_delay: Seconds before a failed event is tried again, doubled each time.
        attempts: How often it is tried, before it is rejected.
        counts_deliveries: Whether earlier deliveries, to any process, are among those.
        capacity: Deliveries here at most.
    """

    def __init__(
        self,
        consumption: Consumption,
        handler: Handler,
        retry_delay: float,
        attempts: int,
        counts_deliveries: bool,
        capacity: int,
    ) -> None:
        self.consumption = consumption
        self._handler = handler
        self._retry_delay = retry_delay
        self._attempts = attempts
        self._counts_deliveries = counts_deliveries
        self._capacity = capacity
        self.lock = guard()  # guards the fields below
        self._work = Parking()  # of who handles
        self._room = Parking()  # of who takes
        self.ended = Parking()  # of who waits for the end
        self._held: dict[int, Delivery] = {}  # by sequence
        self._lanes: dict[str, _Lane] = {}  # by actor
        self._ready: deque[_Lane] = deque()  # that have something to be done
        self._later: list[tuple[float, int, _Lane]] = []  # heap; when each is to be tried again
        self.running = 0  # threads
        self.closing = False
        self.failure: AetherError | None = None
        self._burst = Burst()  # of failures

    # -- taking

    def take(self) -> None:
        """Put deliveries into lanes, as there is room, until the end; on a thread of its own."""
        try:
            while self._await_room():
                try:
                    self._put(self.consumption.get_batch(self._capacity - len(self._held)))
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

    def _await_room(self) -> bool:
        self._room.wait(lambda: len(self._held) < self._capacity or self.closing, Deadline(None))
        return not self.closing

    def _put(self, deliveries: list[Delivery]) -> None:
        with self.lock:
            for one in deliveries:
                held = self._held.get(one.sequence)
                if held is not None and not held.settled:  # the server was not told of it for too long
                    continue
                self._held[one.sequence] = one
                one.keep()
                lane = self._lanes.setdefault(one.event.actor_id, _Lane())
                lane.waiting.append(one)
                if len(lane.waiting) == 1:
                    self._ready.append(lane)
                elif one.sequence < lane.waiting[-2].sequence:  # it comes again; the first may be in someone's hands
                    first, *rest = lane.waiting[:-1]
                    insort(rest, one, key=_sequence)
                    lane.waiting = [first, *rest]
            self._work.wake(len(deliveries))

    # -- handling

    def work(self) -> None:
        """Handle what is in the lanes, until the end; on several threads."""
        try:
            while (lane := self._next()) is not None:
                self._handle(lane)
        except Exception as mistake:  # of ours, or there is no memory: who waits for the end is told
            self._fail(mistake)
            self.stop()
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
                    return lane
                due = self._due()
            self._work.wait(partial(self._has_work, due), Deadline(None if isinf(due) else max(0.0, due - now)))

    def _due(self) -> float:
        return self._later[0][0] if self._later else inf

    def _has_work(self, before: float) -> bool:
        """Whether there is something to be done, or will be before a moment."""
        with self.lock:
            return bool(self._ready) or self.closing or self._due() < before

    def _handle(self, lane: _Lane) -> None:
        delivery = lane.waiting[0]
        try:
            self._handler(delivery)
        except BaseException as error:  # the thread is ours, and goes on
            self._failed(lane, delivery, error)
        else:
            if not delivery.settled:
                with suppress(StoreError):  # the handler has left it to a thread that settles it just now
                    delivery.ack()
            self._done(lane, delivery)

    def _failed(self, lane: _Lane, delivery: Delivery, error: BaseException) -> None:
        """Try it again after a pause, or give it up."""
        lane.failures += 1
        tried = delivery.attempt if self._counts_deliveries else lane.failures
        if self._burst.opens():
            text = "the handler of %r failed with event %d, attempt %d of %d"
            about = self.consumption, delivery.sequence, tried, self._attempts
            counts = {"attempts": tried}
            log(Kind.HANDLER_FAILED, logging.ERROR, text, *about, error=error, counts=counts)
        if delivery.settled:
            self._done(lane, delivery)
        elif tried >= self._attempts:
            self._give_up(delivery, tried, explained(error, _LONGEST_REASON))
            self._done(lane, delivery)
        else:
            delivery.attempt += 1
            pause = min(self._retry_delay * 2 ** min(lane.failures - 1, 60), _LONGEST_PAUSE)
            with self.lock:
                lane.is_busy = False
                heappush(self._later, (monotonic() + pause, next(_numbers), lane))
                self._work.wake(1)  # who waits for a later one

    def _give_up(self, delivery: Delivery, tried: int, reason: str) -> None:
        event = delivery.event
        text = "%r gives up event %d (%s of %s) after %d attempts: %s"
        about = (self.consumption, delivery.sequence, event.event_type, event.actor_id, tried, reason)
        log(Kind.GAVE_UP, logging.WARNING, text, *about, counts={"attempts": tried})  # each of them
        with suppress(AetherError):  # then it comes again when its ack wait is over
            delivery.reject(reason)

    def _done(self, lane: _Lane, delivery: Delivery) -> None:
        delivery.let_go()
        with self.lock:
            if self._held.get(delivery.sequence) is delivery:  # it may have come again already
                del self._held[delivery.sequence]
            lane.waiting.remove(delivery)
            lane.failures, lane.is_busy = 0, False
            if lane.waiting:
                self._ready.append(lane)
                self._work.wake(1)
            else:
                del self._lanes[delivery.event.actor_id]
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
                one.let_go()
