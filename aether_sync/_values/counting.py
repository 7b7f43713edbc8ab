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
from itertools import accumulate, count, repeat
from operator import getitem
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


class Times:
    """How long something took, each time: how many times there were by ranges, and their sum.

    A time is counted by two steps: ``put(seconds)`` leaves it in a queue, and ``step()`` counts it and takes it out. As
    with :class:`Sum`, whoever takes that step first counts what was put there first; ``step()`` raises ``IndexError``
    if others have counted all of it. What every call of a program goes through calls these two instead of :meth:`add`,
    which does the same.

    Args:
        bounds: The upper bounds of the ranges in seconds, rising.

    Attributes:
        put: Leaves a time.
        step: Counts one that was left.
    """

    __slots__ = ("_counters", "_last", "_waiting", "put", "step")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._waiting: deque[float] = deque()
        self._last: deque[float] = deque([0], 1)
        self._counters = [count() for _ in range(len(bounds) + 1)]
        # A step looks at the time that was put first, and takes a number from the counter of its range; then it takes
        # the time itself, and adds it. No Python code runs in between.
        firsts = map(getitem, repeat(self._waiting), repeat(0))
        ranges = map(bisect_left, repeat(bounds), firsts)
        counting = map(next, map(self._counters.__getitem__, ranges))
        adding = map(self._last.append, accumulate(iter(self._waiting.popleft, None)))
        self.put = self._waiting.append
        self.step = zip(counting, adding, strict=False).__next__

    def add(self, number: float) -> None:
        """Count a time, in seconds."""
        self.put(number)
        try:
            self.step()
        except IndexError:
            pass

    @property
    def total(self) -> float:
        """The sum; an ``int`` if only such were added."""
        self._count_all()
        return self._last[-1]

    @property
    def counts(self) -> tuple[int, ...]:
        """How many times are in each range, and above the last bound."""
        self._count_all()
        return tuple(map(_taken, self._counters))

    def _count_all(self) -> None:
        """Count also what an exception between the two steps has left."""
        while self._waiting:
            with suppress(IndexError):
                self.step()
