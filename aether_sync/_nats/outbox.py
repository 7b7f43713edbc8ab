"""The outbox: frames from the publishing threads to the loop, bounded in events and in bytes.

A publisher takes no lock. Threads that once meet at a lock pass it, and the GIL, to each other for every event from
then on: four threads published a sixth of what one did. A publisher appends to a list, which is atomic, *then* checks
whether the loop sleeps, and wakes it. The loop says that it is going to sleep, *then* checks whether a frame is there.
So it never sleeps while one waits. One exception: if a signal handler raises before the publisher has woken the
loop, its frame goes with the next one, the next flush, or the close.

A publisher that finds no room queues up, and those that come later wait behind it. They are let in in this order, as
many at once as there is room for. So a publisher that comes back with its next event finds nobody waiting.

Accepted races: threads that publish at the same moment may each see the same last room, and exceed the bounds by what
they publish; the count of the room that is taken may be off by as much. That is harmless, because the loop corrects the
count whenever it takes frames.

Frames are ``bytes`` in one flat list. Nothing else is made for an event that waits, so the garbage collector has
nothing to look at, and the loop counts and takes any number of them by a few calls into C.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import accumulate
from math import inf, isinf
from threading import Lock, get_ident

from .._runtime.closing import loop_threads
from .._runtime.deadline import Deadline
from .._runtime.locks import tries
from .._runtime.waits import ParkingLot
from .._values.clock import monotonic
from .._values.counting import Times
from ..errors import BusClosedError, PublishTimeoutError
from ..metrics import BOUNDS

__all__ = ["Wakeup", "Outbox"]


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
    """Frames, that is ``PUB`` commands, from the publishing threads to the loop.

    A position is the count of all frames ever accepted, so "everything published until now" is one number.

    Args:
        max_events: How many events it holds at most, with those that the loop has taken and not yet written.
        max_bytes: How many bytes their frames have at most. What is larger than a bound is accepted when the outbox is
            empty.
    """

    def __init__(self, max_events: int, max_bytes: int) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.waits = Times(BOUNDS)  #: how long publishers waited for room, each time that they had to
        self._publishers = ParkingLot()  # threads that wait for room
        self._turns: deque[_Turn] = deque()  # of those threads, in order; any thread, by single operations
        self._turns_lock = Lock()  # held by the thread that lets them in
        self._to_let_in = False  # a thread wants that done
        self._frames: list[bytes] = []  # appended to by any thread, taken from by the loop, in single operations
        self._bytes = 0  # of those; changed by any thread, corrected by the loop
        self._wakeup: Wakeup | None = None  # there while the loop sleeps
        self.shortcut: Callable[[bytes], bool] | None = None  # sends a frame past the loop, or returns False
        self._first = inf  # the moment since when the first of those frames has waited; any thread
        self._closed = False
        self._sealed = False
        # Changed by the loop alone.
        self._taken = 0  # frames ever taken
        self._held_events = 0  # taken, and not yet written
        self._held_bytes = 0
        self._held_first = inf  # the moment since when the first of those has waited

    # -- publishing threads

    def put(self, frame: bytes, timeout: float | None) -> None:
        """Accept a frame.

        Args:
            frame: A ``PUB`` command.
            timeout: Seconds to wait for room. On a loop thread, whichever connection's, nothing waits.

        Raises:
            PublishTimeoutError: There was no room in time.
            BusClosedError: The outbox is closed.
        """
        frames, size = self._frames, len(frame)
        if (
            self._turns
            or self._held_bytes + self._bytes + size > self.max_bytes
            or self._held_events + len(frames) >= self.max_events
        ):
            self._make_sure_of_room(1, size, timeout)
        if self._closed:
            raise BusClosedError(_CLOSED)
        if not frames:
            if not self._held_events:
                shortcut = self.shortcut
                if shortcut is not None and shortcut(frame):
                    return
            self._first = monotonic()
        self._bytes += size
        try:
            frames.append(frame)
        finally:
            wakeup = self._wakeup  # as wake() does, without that call
            if wakeup is not None and not wakeup.rung:
                wakeup.ring()
        if self._sealed and self._withdraw((frame,)):
            raise BusClosedError(_CLOSED)

    def put_many(self, count: int, size: int, make: Callable[[], Sequence[bytes]], timeout: float | None) -> None:
        """Accept several frames, all or none.

        Args:
            count: How many.
            size: An upper bound of the bytes of all.
            make: Makes the frames once there is room, so that they are numbered in the order in which they are sent.
            timeout: As for :meth:`put`.

        Raises:
            PublishTimeoutError: As for :meth:`put`.
            BusClosedError: As for :meth:`put`.
        """
        if self._turns or not self._fits(count, size):
            self._make_sure_of_room(count, size, timeout)
        if self._closed:
            raise BusClosedError(_CLOSED)
        frames = make()
        if not self._frames:
            self._first = monotonic()
        self._bytes += size
        try:
            self._frames.extend(frames)
        finally:
            self.wake()
        if self._sealed and self._withdraw(frames):
            raise BusClosedError(_CLOSED)

    def _fits(self, count: int, size: int) -> bool:
        return (
            self._held_events + len(self._frames) + count <= self.max_events
            and self._held_bytes + self._bytes + size <= self.max_bytes
        )

    @property
    def _is_empty(self) -> bool:
        return not (self._frames or self._held_events)

    def _make_sure_of_room(self, count: int, size: int, timeout: float | None) -> None:
        """Wait for room where there is none at first sight."""
        if self._turns or not self._is_empty:
            # The collector runs finalizers, which may publish, on a loop thread as well.
            self._await_room(count, size, Deadline(0.0 if get_ident() in loop_threads else timeout))

    def _await_room(self, count: int, size: int, deadline: Deadline) -> None:
        turn, begun = _Turn(count, size), monotonic()
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
            self.waits.add(monotonic() - begun)
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
        is_empty = self._is_empty
        events = 0 if is_empty else self._held_events + len(self._frames)
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

    def _withdraw(self, frames: Sequence[bytes]) -> bool:
        """Take back frames that came too late for the loop; returns whether they were still there.

        They came in, and would be taken, all at once. Each is like no other, as it has a number of its own.
        """
        try:
            for frame in frames:
                self._frames.remove(frame)
        except ValueError:
            return False
        return True

    def wake(self) -> None:
        """Wake the loop if it sleeps."""
        wakeup = self._wakeup
        if wakeup is not None and not wakeup.rung:
            wakeup.ring()

    # -- any thread

    def depth(self) -> tuple[int, int]:
        """Return how many events and bytes wait to be written. Off the loop thread, a batch may be counted twice."""
        return self._held_events + len(self._frames), self._held_bytes + _size(self._frames)

    def age(self) -> float:
        """Return for how many seconds the oldest frame has waited that is not written yet; 0 if there is none.

        Accepted race: threads that publish at the same moment may be wrong by the time between them. Nobody decides by
        it.
        """
        first = self._held_first if self._held_events else self._first if self._frames else inf
        return 0.0 if isinf(first) else max(0.0, monotonic() - first)

    def position(self) -> int:
        """Return how many events were ever accepted. Off the loop thread it may be wrong by one batch."""
        return self._taken + len(self._frames)

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

    def take(self) -> tuple[list[bytes], list[int]]:
        """Take all frames; return them, and where each of them ends, in bytes from the beginning of the first."""
        frames, first = list(self._frames), self._first
        ends = list(accumulate(map(len, frames)))
        self._taken += len(frames)
        self._held_first = self._held_first if self._held_events else first
        self._held_events += len(frames)  # first: a publisher finds them here or in the list, and takes no shortcut
        self._held_bytes += ends[-1] if ends else 0
        del self._frames[: len(frames)]
        self._bytes = _size(self._frames)
        if self._frames:  # they came meanwhile
            self._first = monotonic()
        return frames, ends

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
            if not self._frames:
                await woken
        finally:
            self._wakeup = None

    def written(self, count: int, size: int) -> None:
        """Give back the room of frames that are written. When half of it is free, waiting publishers are let in."""
        self._held_events -= count
        self._held_bytes -= size
        # Frames that wait are not counted here, each time, but taken at the publishers' word, which the next take()
        # corrects; where there is no next one, everybody is let in.
        if self._turns and (
            self._is_empty
            or (
                (self._held_events + len(self._frames)) * 2 <= self.max_events
                and (self._held_bytes + self._bytes) * 2 <= self.max_bytes
            )
        ):
            self._let_in()


_CLOSED = "the bus is closed: nothing was published"


def _size(frames: list[bytes]) -> int:
    """Return the bytes of frames. Other threads may append some meanwhile, which then count or do not count."""
    return sum(map(len, frames))
