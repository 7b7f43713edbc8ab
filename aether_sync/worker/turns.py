"""``Turns``: which of all processes does some periodic work now.

A process that takes a turn says so, and again every few seconds as long as the work runs. If it has said nothing for
longer than that, as it was killed or cannot reach the server, the turn is over for all others. They measure that on
their own clocks: it is the time for which they have seen no change.

How long ago a turn has begun is told by wall clocks, of which two may differ, and one may be set anew or be frozen by a
test. So they only say it within what a process has seen itself: at the least, it is the time since the turn was there,
and at the most, that since another one still was the last.
"""

from collections.abc import Callable
from math import inf, nextafter
from typing import Protocol

import msgspec

from .._runtime.deadline import Deadline
from .._runtime.threads import NoThreadError, make_thread, start
from .._runtime.waits import ParkingLot
from .._values.clock import monotonic, now
from ..errors import AetherError
from ..stores._jetstream.turns import Turn

__all__ = ["BEAT", "LOST", "Held", "Turns"]

BEAT = 5.0  #: seconds between two signs of a process whose work runs
LOST = 20.0  #: seconds without a sign, after which its turn is over for the others
_ASK = 5.0  # seconds for a question


class _Book(Protocol):
    """Where turns are written."""

    def last(self, work: str, deadline: Deadline) -> Turn: ...
    def write(self, work: str, turn: Turn, deadline: Deadline) -> Turn | None: ...


class _Sight:
    """What this process has seen of the last turn, on the clock of time-outs.

    Attributes:
        earliest: When another turn was still the last one: this one has begun later.
        latest: When this one was there: it had begun by then.
        sign: When it was there that the process which has it has said something.
    """

    def __init__(self) -> None:
        self._turn: tuple[str, float] | None = None
        self._sequence = -1
        self._looked = self.earliest = -inf
        self.latest = self.sign = 0.0

    def note(self, last: Turn, asked: float) -> None:
        """Note what was the last turn when the server was asked for it."""
        moment = monotonic()
        if (turn := (last.by, last.begun)) != self._turn:
            self._turn, self.earliest, self.latest = turn, self._looked, moment
        if last.sequence != self._sequence:
            self._sequence, self.sign = last.sequence, moment
        self._looked = asked


class Turns:
    """The turns of some work, as one process sees them. One thread at a time uses it.

    Args:
        book: Where they are written.
        work: The name of the work, which is the same in all processes.
        seconds: From the begin of a turn to that of the next one.
        me: Tells this process from all others.
        passed_by: Counts a turn that another process has taken.
    """

    def __init__(self, book: _Book, work: str, seconds: float, me: str, passed_by: Callable[[], object]) -> None:
        self._book = book
        self._work = work
        self._seconds = seconds
        self._me = me
        self._passed_by = passed_by
        self._sight = _Sight()
        self._of_others = 0.0  # when the last turn began of which it is counted that another process has it

    def take(self) -> "Held | float":
        """Take the next turn if it is due.

        Returns:
            The turn; or the seconds until to ask again.

        Raises:
            AetherError: The server cannot be asked.
        """
        asked, sight = monotonic(), self._sight
        last = self._book.last(self._work, Deadline(_ASK))
        sight.note(last, asked)
        self._count(last)
        wall, clock = now().timestamp(), monotonic()
        age = min(max(wall - last.begun, clock - sight.latest), clock - sight.earliest)
        left = self._seconds - age
        if last.has_ended:
            if left > 0:
                return left
        else:
            silent = LOST - (clock - sight.sign)
            if left > 0 or silent > 0:
                return max(left, min(silent, BEAT))
        begun = wall if wall != last.begun else nextafter(wall, inf)  # the clock is frozen: it is another turn
        mine = Turn(by=self._me, begun=begun, has_ended=False, sequence=last.sequence)
        written = self._book.write(self._work, mine, Deadline(_ASK))
        if written is None:
            return BEAT / 10
        sight.note(written, clock)
        return Held(self._book, self._work, written)

    def _count(self, last: Turn) -> None:
        if last.by not in ("", self._me) and last.begun != self._of_others:
            self._of_others = last.begun
            self._passed_by()


class Held:
    """A turn that this process has. Use it in a ``with`` statement, in which the work is done.

    Attributes:
        is_lost: Whether another process has taken it over meanwhile, as this one could not reach the server.
    """

    def __init__(self, book: _Book, work: str, turn: Turn) -> None:
        self._book = book
        self._work = work
        self._turn = turn
        self._is_done = False
        self._changed = ParkingLot()
        self._thread = make_thread(self._beat, name="aether-turn")
        self.is_lost = False

    def __enter__(self) -> "Held":
        try:
            start(self._thread)
        except NoThreadError:  # then the turn is over for the others if the work takes long
            self._is_done = True
        return self

    def _beat(self) -> None:
        """Say again and again that the work goes on."""
        while not self._changed.wait(lambda: self._is_done, Deadline(BEAT)):
            self._write(has_ended=False)
            if self.is_lost:
                return

    def _write(self, *, has_ended: bool) -> None:
        try:
            turn = msgspec.structs.replace(self._turn, has_ended=has_ended)
            written = self._book.write(self._work, turn, Deadline(_ASK))
        except AetherError:  # the server is away: the next sign may reach it in time
            return
        if written is None:
            self.is_lost = True
        else:
            self._turn = written

    def __exit__(self, *_: object) -> None:
        self._is_done = True
        self._changed.wake_all()
        if self._thread.ident is not None:
            self._thread.join()  # which waits for one question at most
        if not self.is_lost:
            self._write(has_ended=True)
