"""Numbers that any thread raises without a lock.

Each is raised by steps in C, during which no other thread and no signal handler runs; ``number += n`` would be several
steps, of which another thread may undo one. So threads never wait for one another here, a signal handler may count in
the middle of a count, and an exception from one loses at most the count that it interrupts. Nothing runs in the middle
of such a step when another thread forks, either.
"""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from itertools import accumulate, count
from typing import Any

__all__ = ["Count", "Sum", "Times"]


class Count:
    """How often something happened.

    Attributes:
        one: Counts one.
    """

    __slots__ = ("_steps", "one")

    def __init__(self) -> None:
        self._steps = {0: count()}  # by the power of 2, how often 1, 2, 4 ... were counted at once
        self.one = self._steps[0].__next__

    def many(self, number: int) -> None:
        """Count several."""
        for power in range(number.bit_length()):
            if number >> power & 1:
                next(self._steps.get(power) or self._steps.setdefault(power, count()))

    @property
    def count(self) -> int:
        """The number that was counted."""
        steps = [(power, _taken(counter)) for power, counter in self._steps.copy().items()]
        return sum(taken << power for power, taken in steps)


def _taken(counter: "count[int]") -> int:
    """Return how many numbers were taken from a ``count()``, without taking one."""
    return int(repr(counter).removeprefix("count(").removesuffix(")"))


class Sum:
    """A sum, to which numbers of any size are added in two steps.

    What was added waits in a queue, from which ``accumulate()`` takes it by the second step. Whoever takes that step
    first adds what was put there first, which makes no difference in the end.
    """

    __slots__ = ("_put", "_step", "_waiting")

    def __init__(self) -> None:
        self._waiting: deque[Any] = deque()
        self._put = self._waiting.append
        self._step = accumulate(iter(self._waiting.popleft, None)).__next__

    def add(self, number: float) -> None:
        """Add a number."""
        self._put(number)
        try:
            self._step()
        except IndexError:  # a thread that asks for the total was quicker
            pass

    @property
    def total(self) -> Any:
        """The sum; an ``int`` if only such were added."""
        total = None
        while total is None or self._waiting:  # also what an exception between the two steps has left there
            if total is None:
                self._put(0)
            with suppress(IndexError):
                total = self._step()
        return total


class Times(Sum):
    """How long something took, each time: how many times there were by ranges, and their sum.

    Args:
        bounds: The upper bounds of the ranges in seconds, rising.
    """

    __slots__ = ("_bounds", "_counters", "_steps")

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds
        self._counters = [count() for _ in range(len(bounds) + 1)]
        self._steps = [counter.__next__ for counter in self._counters]

    def add(self, number: float) -> None:
        """Count a time, in seconds."""
        self._steps[bisect_left(self._bounds, number)]()
        self._put(number)  # as in Sum.add(), without another call
        try:
            self._step()
        except IndexError:
            pass

    @property
    def counts(self) -> tuple[int, ...]:
        """How many times are in each range, and above the last bound."""
        return tuple(map(_taken, self._counters))
