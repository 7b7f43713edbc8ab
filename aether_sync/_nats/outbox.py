"""The outbox: frames from the publishing threads to the loop, bounded in events and in bytes.

A publisher takes no lock. Threads that once meet at a lock pass it, and the GIL, to each other for every event from
then on: four threads published a sixth of what one did. A publisher appends to a deque, which is atomic, *then* checks
whether the loop sleeps, and wakes it. The loop says that it is going to sleep, *then* checks whether a frame is there.
So it never sleeps while one waits. One exception: if a signal handler raises before the publisher has woken the
loop, its frame goes with the next one, the next flush, or the close.

A publisher that finds no room queues up, and those that come later wait behind it. They are let in in this order, as
many at once as there is room for. So a publisher that comes back with its next event finds nobody waiting.

Accepted races: threads that publish at the same moment may each see the same last room, and exceed the bounds by what
they publish; the count of the room that is taken may be off by as much. That is harmless, because the loop corrects the
count whenever it takes frames.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock

from .._runtime.deadline import Deadline
from .._runtime.locks import tries
from .._runtime.waits import ParkingLot
from ..errors import BusClosedError, PublishTimeoutError

__all__ = ["Wakeup", "Outbox", "Parcel"]

#: What one call published: ``PUB`` commands, the bytes of all of them, and the bytes of the largest payload.
Parcel = tuple[Sequence[bytes], int, int]


class Wakeup:
    """Wakes the loop once; any thread may ring it. The loop replaces it before it looks what there is."""

    __slots__ = ("_loop", "_wake", "rung")

    def __init__(self, loop: asyncio.AbstractEventLoop, wake: Callable[[], None]) -> None:
        self._loop = loop
        self._wake = wake
        self.rung = False

    def ring(self) -> None:
        """Wake it."""
        with suppress(RuntimeError):  # the loop is closed, and the outbox will be sealed
            self._loop.call_soon_threadsafe(self._wake)
        self.rung = True  # last: if an exception comes before, the next thread rings it


class _Turn:
    """A publisher that waits for room."""

    __slots__ = ("count", "has_come", "size")

    def __init__(self, count: int, size: int) -> None:
        self.count = count
        self.size = size
        self.has_come = False


class Outbox:
    """Parcels from the publishing threads to the loop.

    A position is the count of all frames ever accepted, so "everything published until now" is one number.

    Args:
        max_events: How many events it holds at most, with those that the loop has taken and not yet written.
        max_bytes: How many bytes their frames have at most. A parcel larger than a bound is accepted when the outbox is
            empty.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self._publishers = ParkingLot()  # threads that wait for room
        self._turns: deque[_Turn] = deque()  # of those threads, in order; any thread, by single operations
        self._turns_lock = Lock()  # held by the thread that lets them in
        self._to_let_in = False  # a thread wants that done
        self._parcels: deque[Parcel] = deque()  # appended to by any thread, taken from by the loop
        self._events = 0  # in the parcels; changed by any thread, corrected by the loop
        self._bytes = 0
        self._wakeup: Wakeup | None = None  # there while the loop sleeps
        self.shortcut: Callable[[bytes], bool] | None = None  # sends a frame past the loop, or returns False
        self._closed = False
        self._sealed = False
        # Changed by the loop alone.
        self._taken = 0  # frames ever taken
        self._held_events = 0  # taken, and not yet written
        self._held_bytes = 0

    # -- publishing threads

    def put(
        self,
        frames: Sequence[bytes],
        size: int,
        largest: int,
        timeout: float | None,
        make: Callable[[], Sequence[bytes]] | None = None,
    ) -> None:
        """Accept all these frames, or none.

        Args:
            frames: ``PUB`` commands, in order; with ``make``, as many objects as it makes frames.
            size: Bytes of all frames; with ``make``, an upper bound.
            largest: Bytes of the largest payload.
            timeout: Seconds to wait for room.
            make: Makes the frames once there is room, so that they are numbered in the order in which they are sent.

        Raises:
            PublishTimeoutError: There was no room in time.
            BusClosedError: The outbox is closed.
        """
        count = len(frames)
        if not self._has_room(count, size):
            self._await_room(count, size, Deadline(timeout))
        if self._closed:
            raise BusClosedError(_CLOSED)
        if make is not None:
            frames = make()
            size = sum(map(len, frames))
        shortcut = self.shortcut
        if shortcut is not None and count == 1 and not (self._parcels or self._held_events) and shortcut(frames[0]):
            return
        parcel = (frames, size, largest)
        self._events += count
        self._bytes += size
        try:
            self._parcels.append(parcel)
        finally:
            self.wake()
        if self._sealed and self._withdraw(parcel):
            raise BusClosedError(_CLOSED)

    def _has_room(self, count: int, size: int) -> bool:
        return not self._turns and (
            (
                self._held_events + self._events + count <= self.max_events
                and self._held_bytes + self._bytes + size <= self.max_bytes
            )
            or not (self._parcels or self._held_events)
        )

    def _await_room(self, count: int, size: int, deadline: Deadline) -> None:
        turn = _Turn(count, size)
        try:
            self._turns.append(turn)
            self._let_in()  # the room may have come before the loop could see this turn
            if not self._publishers.wait(lambda: self._closed or turn.has_come, deadline):
                self._let_in()
        except BaseException:
            self._publishers.wake_all()  # this call may have let in threads without waking them
            raise
        finally:
            if not turn.has_come:
                self._give_up(turn)
        if not (self._closed or turn.has_come):
            events, held = self.depth()
            raise PublishTimeoutError(
                f"the outbox had no room within {deadline}: {events} events, {held} bytes wait to be sent"
            )

    def _let_in(self) -> None:
        """Let in the threads that wait, in order, as many as there is room for.

        A turn that an exception kept from being given up is let in like the others, and blocks nobody. One thread does
        this at a time; if others want it done meanwhile, that thread does it once more.
        """
        self._to_let_in = True
        while self._to_let_in and self._turns:
            mine = False
            try:
                for mine in tries(self._turns_lock):  # without waiting: see locks.tries
                    break
                if not mine:
                    return
                self._to_let_in = False
                has_anyone_come = self._let_some_in()
            finally:
                if mine:
                    self._turns_lock.release()
            if has_anyone_come:
                self._publishers.wake_all()

    def _let_some_in(self) -> bool:
        is_empty = not (self._parcels or self._held_events)
        events = 0 if is_empty else self._held_events + self._events
        size = 0 if is_empty else self._held_bytes + self._bytes
        has_anyone_come = False
        for turn in list(self._turns):
            events, size = events + turn.count, size + turn.size
            is_first = is_empty and events == turn.count
            if not is_first and (events > self.max_events or size > self.max_bytes):
                break
            turn.has_come = has_anyone_come = True
            self._remove(turn)
        return has_anyone_come

    def _give_up(self, turn: _Turn) -> None:
        self._remove(turn)
        self._let_in()

    def _remove(self, turn: _Turn) -> None:
        with suppress(ValueError):  # it was removed already
            self._turns.remove(turn)

    def _withdraw(self, parcel: Parcel) -> bool:
        """Take back a parcel that came too late for the loop; returns whether it was still there."""
        with suppress(ValueError):
            self._parcels.remove(parcel)
            return True
        return False

    def wake(self) -> None:
        """Wake the loop if it sleeps."""
        wakeup = self._wakeup
        if wakeup is not None and not wakeup.rung:
            wakeup.ring()

    # -- any thread

    def depth(self) -> tuple[int, int]:
        """Return how many events and bytes wait to be written. Off the loop thread, a batch may be counted twice."""
        events, size = _sums(self._parcels)
        return self._held_events + events, self._held_bytes + size

    def position(self) -> int:
        """Return how many events were ever accepted. Off the loop thread it may be wrong by one batch."""
        return self._taken + _sums(self._parcels)[0]

    @property
    def closed(self) -> bool:
        """Whether it accepts nothing more."""
        return self._closed

    def close(self) -> None:
        """Accept nothing more and release waiting publishers; the loop still takes what is there."""
        self._closed = True
        self._publishers.wake_all()
        self.wake()  # an exception may have kept a publisher from it

    def seal(self) -> None:
        """End it, as the loop takes nothing any more: a publisher that came in while it was closed gets the error."""
        self._closed = self._sealed = True
        self._publishers.wake_all()

    def disown(self) -> "Outbox":
        """In a forked child: seal this outbox, as the parent sends what it holds, and return an empty one in its place.

        The loop is not woken: it is the parent's.
        """
        own = Outbox(self.max_events, self.max_bytes)
        own._closed, own._sealed = self._closed, self._sealed
        self._wakeup = self.shortcut = None
        self.seal()
        return own

    # -- the loop thread

    def take(self) -> list[Parcel]:
        """Take all parcels."""
        parcels = list(self._parcels)
        events, size = _sums(parcels)
        self._taken += events
        self._held_events += events  # first: a publisher finds them here or in the deque, and takes no shortcut
        self._held_bytes += size
        for _ in parcels:
            self._parcels.popleft()
        self._events, self._bytes = _sums(self._parcels)
        return parcels

    def carried(self, count: int) -> None:
        """Count frames that took the shortcut."""
        self._taken += count

    @property
    def waiting_bytes(self) -> int:
        """About how many bytes wait to be taken."""
        return self._bytes

    async def wait(self, at_once: Callable[[], bool]) -> None:
        """Sleep until there is something to take. If ``at_once()``, which is called first, is true, sleep on."""
        loop = asyncio.get_running_loop()
        woken = loop.create_future()

        def wake() -> None:
            if not woken.done():
                self._wakeup = Wakeup(loop, wake)
                if not at_once():
                    woken.set_result(None)

        self._wakeup = Wakeup(loop, wake)
        try:
            if not self._parcels:
                await woken
        finally:
            self._wakeup = None

    def written(self, count: int, size: int) -> None:
        """Give back the room of frames that are written. When half of it is free, waiting publishers are let in."""
        self._held_events -= count
        self._held_bytes -= size
        if self._turns:
            events, held = self.depth()
            if events * 2 <= self.max_events and held * 2 <= self.max_bytes:
                self._let_in()


_CLOSED = "the bus is closed: nothing was published"


def _sums(parcels: "deque[Parcel] | list[Parcel]") -> tuple[int, int]:
    """Return the events and bytes of parcels, though other threads may append meanwhile.

    The copy is a list. To allocate a tuple may run the garbage collector while the deque is iterated, and a finalizer
    lets other threads change the deque.
    """
    copy = list(parcels)
    return sum(len(frames) for frames, _, _ in copy), sum(size for _, size, _ in copy)
