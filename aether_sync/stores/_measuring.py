"""What a store and its runners count while they work, of which ``metrics()`` returns a frozen snapshot.

Any thread counts, without a lock (see ``_values/counting.py``). No number of a snapshot is less than it was in an
earlier one: each is counted by itself, and none is a difference. A snapshot is consistent: what is the sum of others is
made of them, and what is at most another is counted after it and read before it, as a conflict is after its error.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import update_wrapper
from typing import Any, TypeVar, cast

from .._runtime.fork import ForkAware, fork_aware
from .._values.clock import monotonic
from .._values.counting import Count, Sum, Times
from ..errors import UnknownOutcomeError, VersionConflictError
from ..events import Event
from ..metrics import BOUNDS, CallMetrics, RunnerMetrics, StoreMetrics, histogram_of_both

__all__ = ["RunnerCounts", "StoreCounts", "measured"]

F = TypeVar("F", bound=Callable[..., Any])


class _CallCount:
    """The calls of one method.

    Attributes:
        returned: How long those took that have returned something.
        raised: How long those took that have raised an error.
        later: Errors of iterations that had returned something before.
        returning: The two steps by which ``returned`` counts a time.
    """

    __slots__ = ("later", "raised", "returned", "returning")

    def __init__(self) -> None:
        self.returned, self.raised, self.later = Times(BOUNDS), Times(BOUNDS), Count()
        self.returning = self.returned.put, self.returned.step

    def snapshot(self) -> CallMetrics:
        """Return what was counted."""
        later = self.later.count
        seconds, _, raised = histogram_of_both(self.returned, self.raised)
        return CallMetrics(calls=seconds.count, errors=raised + later, seconds=seconds)


class _Calls(dict[str, _CallCount]):
    """The calls by the name of the method. Any thread may look one up, which takes a single step once it is there."""

    def __missing__(self, method: str) -> _CallCount:
        return self.setdefault(method, _CallCount())


class StoreCounts(ForkAware):
    """What a store counts. In a forked child it begins anew, so that what several processes count can be added.

    Attributes:
        calls: The calls that have ended, by the name of the method.
        retries: Counts an attempt to store that is made again.
        version_hits: Counts an actor whose version a save needs and knows.
        version_misses: Counts one whose version the leader is asked for before a save.
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
        self._version_hits, self._version_misses, self._kept_hits, self._kept_misses = (Count() for _ in range(4))
        self._written_alone, self._written, self._read = Count(), Sum(), Sum()
        self.retries = self._retries.one
        self.version_hits, self.version_misses = self._version_hits.one, self._version_misses.one
        self.kept_hits, self.kept_misses = self._kept_hits.one, self._kept_misses.one
        self.wrote_one, self.wrote, self.read = self._written_alone.one, self._written.add, self._read.add

    def _after_fork(self) -> None:
        self._begin()

    def failed(self, method: str, error: BaseException, seconds: float | None) -> None:
        """Count an error.

        Args:
            method: The name of the method.
            error: What was raised.
            seconds: How long the call took; None if it is counted already.
        """
        call = self.calls[method]
        if seconds is None:
            call.later.one()
        else:
            call.raised.add(seconds)
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
                    self.calls[method].returned.add(monotonic() - begun)
                number += 1
                yield event
        except GeneratorExit:  # nobody wants more
            raise
        except BaseException as error:
            self.failed(method, error, None if number else monotonic() - begun)
            raise
        else:
            if not number:
                self.calls[method].returned.add(monotonic() - begun)
        finally:
            self.read(number)

    def snapshot(self, **fields: Any) -> StoreMetrics:
        """Return what was counted, with other fields of the metrics."""
        conflicts, unknown = self._conflicts.count, self._unknown.count
        return StoreMetrics(
            calls={method: count.snapshot() for method, count in sorted(self.calls.copy().items())},
            conflicts=conflicts,
            retries=self._retries.count,
            unknown_outcomes=unknown,
            events_written=self._written_alone.count + self._written.total,
            events_read=self._read.total,
            version_hits=self._version_hits.count,
            version_misses=self._version_misses.count,
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
        self._returned, self._raised = Times(BOUNDS), Times(BOUNDS)
        self._redelivered, self._dead_letters = Count(), Count()
        self.redelivered, self.dead_letter = self._redelivered.one, self._dead_letters.one

    def _after_fork(self) -> None:
        self._begin()

    def handled(self, begun: float) -> None:
        """Count a call of the handler that began at a moment and has returned."""
        self._returned.add(monotonic() - begun)

    def failed(self, begun: float) -> None:
        """Count a call of the handler that began at a moment and has raised an error."""
        self._raised.add(monotonic() - begun)

    def snapshot(self, *, dead_letters: int, **fields: Any) -> RunnerMetrics:
        """Return what was counted, with other fields of the metrics.

        Args:
            dead_letters: Dead letters that are counted elsewhere.
            **fields: The other fields.
        """
        seconds, handled, failed = histogram_of_both(self._returned, self._raised)
        return RunnerMetrics(
            handled=handled,
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
            self._counts.failed(name, error, monotonic() - begun)
            raise
        put, step = self._counts.calls[name].returning
        put(monotonic() - begun)
        try:  # as in Times.add(), without another call: this is in the way of every call of a store
            step()
        except IndexError:
            pass
        return result

    return cast(F, update_wrapper(measuring, method))
