"""What a store and its runners count while they work, of which ``metrics()`` returns a frozen snapshot.

Any thread counts, without a lock (see ``_values/counting.py``). A snapshot is consistent because what is counted later
is read earlier: a call is counted before its error, and its error before its conflict; they are read the other way
round.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import update_wrapper
from typing import Any, TypeVar, cast

from .._runtime.fork import ForkAware, fork_aware
from .._values.clock import monotonic
from .._values.counting import Count, Sum, Times
from ..errors import UnknownOutcomeError, VersionConflictError
from ..events import Event
from ..metrics import BOUNDS, CallMetrics, Histogram, RunnerMetrics, StoreMetrics

__all__ = ["RunnerCounts", "StoreCounts", "measured"]

F = TypeVar("F", bound=Callable[..., Any])


class _CallCount(Times):
    """The calls of one method."""

    __slots__ = ("errors",)

    def __init__(self) -> None:
        super().__init__(BOUNDS)
        self.errors = Count()

    def snapshot(self) -> CallMetrics:
        """Return what was counted. An error is counted after its call, so errors are read first."""
        errors = self.errors.count
        seconds = _histogram(self)
        return CallMetrics(calls=seconds.count, errors=errors, seconds=seconds)


class _Calls(dict[str, _CallCount]):
    """The calls by the name of the method. Any thread may look one up, which takes a single step once it is there."""

    def __missing__(self, method: str) -> _CallCount:
        return self.setdefault(method, _CallCount())


class StoreCounts(ForkAware):
    """What a store counts. In a forked child it begins anew, so that what several processes count can be added.

    Attributes:
        calls: The calls that have ended, by the name of the method.
        retries: Counts an attempt to store that is made again.
        asked: Counts an actor whose version the leader is asked for before a save.
        wanted: Counts an actor whose version a save needs.
        kept_hits: Counts a reading of an actor whose wanted events are kept.
        kept_misses: Counts one of an actor of whose events some have to be read.
        wrote_one: Counts an event that was stored alone.
        wrote: Adds events that were stored together.
        read: Adds events that were read.
    """

    def __init__(self) -> None:
        self._begin()
        fork_aware.add(self)

    def _begin(self) -> None:
        self.calls = _Calls()
        self._conflicts, self._unknown, self._retries = Count(), Count(), Count()
        self._asked, self._wanted, self._kept_hits, self._kept_misses = Count(), Count(), Count(), Count()
        self._written_alone, self._written, self._read = Count(), Sum(), Sum()
        self.retries = self._retries.one
        self.asked, self.wanted = self._asked.one, self._wanted.one
        self.kept_hits, self.kept_misses = self._kept_hits.one, self._kept_misses.one
        self.wrote_one, self.wrote, self.read = self._written_alone.one, self._written.add, self._read.add

    def _after_fork(self) -> None:
        self._begin()

    def failed(self, method: str, error: BaseException) -> None:
        """Count an error of a call that is counted already."""
        self.calls[method].errors.one()
        if isinstance(error, VersionConflictError):
            self._conflicts.one()
        elif isinstance(error, UnknownOutcomeError):
            self._unknown.one()

    def iterated(self, method: str, events: Iterable[Event]) -> Iterator[Event]:
        """Yield events, and count a call that takes as long as the first of them takes."""
        begun, number = monotonic(), 0
        try:
            for event in events:
                if not number:
                    self.calls[method].add(monotonic() - begun)
                number += 1
                yield event
        except BaseException as error:
            if not number:
                self.calls[method].add(monotonic() - begun)
            if not isinstance(error, GeneratorExit):  # which says that nobody wants more
                self.failed(method, error)
            raise
        else:
            if not number:
                self.calls[method].add(monotonic() - begun)
        finally:
            self.read(number)

    def snapshot(self, **fields: Any) -> StoreMetrics:
        """Return what was counted, with other fields of the metrics."""
        conflicts, unknown = self._conflicts.count, self._unknown.count
        asked = self._asked.count
        return StoreMetrics(
            calls={method: count.snapshot() for method, count in sorted(self.calls.copy().items())},
            conflicts=conflicts,
            retries=self._retries.count,
            unknown_outcomes=unknown,
            events_written=self._written_alone.count + self._written.total,
            events_read=self._read.total,
            version_hits=max(0, self._wanted.count - asked),
            version_misses=asked,
            kept_hits=self._kept_hits.count,
            kept_misses=self._kept_misses.count,
            **fields,
        )


class RunnerCounts(ForkAware):
    """What a runner counts; nothing in a forked child.

    Attributes:
        redelivered: Counts a delivery that is not the first of its event.
        dead_letter: Counts an event that was rejected.
    """

    def __init__(self) -> None:
        self._begin()
        fork_aware.add(self)

    def _begin(self) -> None:
        self._times, self._failed = Times(BOUNDS), Count()
        self._redelivered, self._dead_letters = Count(), Count()
        self.redelivered, self.dead_letter = self._redelivered.one, self._dead_letters.one

    def _after_fork(self) -> None:
        self._begin()

    def handled(self, begun: float) -> None:
        """Count a call of the handler that began at a moment and has returned."""
        self._times.add(monotonic() - begun)

    def failed(self, begun: float) -> None:
        """Count a call of the handler that began at a moment and has raised an error."""
        self.handled(begun)
        self._failed.one()

    def snapshot(self, *, dead_letters: int, **fields: Any) -> RunnerMetrics:
        """Return what was counted, with other fields of the metrics.

        Args:
            dead_letters: Dead letters that are counted elsewhere.
            **fields: The other fields.
        """
        failed = self._failed.count
        seconds = _histogram(self._times)
        return RunnerMetrics(
            handled=seconds.count - failed,
            failed=failed,
            redelivered=self._redelivered.count,
            dead_letters=self._dead_letters.count + dead_letters,
            seconds=seconds,
            **fields,
        )


def measured(method: F) -> F:
    """Decorate a public method of a store: its calls are counted. It must not call another such method."""
    name = method.__name__

    def measuring(self: Any, *args: Any, **kwargs: Any) -> Any:
        begun = monotonic()
        try:
            result = method(self, *args, **kwargs)
        except BaseException as error:
            self._counts.calls[name].add(monotonic() - begun)
            self._counts.failed(name, error)
            raise
        self._counts.calls[name].add(monotonic() - begun)
        return result

    return cast(F, update_wrapper(measuring, method))


def _histogram(times: Times) -> Histogram:
    """Return the times that were counted."""
    total = times.total
    return Histogram(counts=times.counts, sum=float(total))
