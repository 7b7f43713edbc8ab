"""Counting without a lock: nothing is lost, whatever threads, signal handlers and tracers do."""

import gc
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from types import FrameType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import CallMetrics, VersionConflictError
from aether_sync._values.counting import Count, Sum, Times
from aether_sync.stores._measuring import RunnerCounts, StoreCounts

from ..support.common import run_threads, tracing

EACH = 5_000


@pytest.mark.concurrent
@pytest.mark.parametrize("is_traced", [False, True])
def test_threads_lose_no_count(fast_switching: None, is_traced: bool) -> None:
    counted, added, timed = Count(), Sum(), Times((1.0, 2.0))
    done = threading.Event()

    def count() -> None:
        for n in range(EACH):
            counted.one()
            counted.many(3)
            added.add(7)
            timed.add(float(n % 3))

    def look() -> None:
        last = 0
        while not done.is_set():
            total = added.total
            assert last <= total <= 4 * EACH * 7
            last = total

    looker = threading.Thread(target=look)
    looker.start()
    with tracing() if is_traced else nullcontext():
        run_threads(count, count, count, count)
    done.set()
    looker.join()
    assert counted.count == counted.count == 4 * EACH * 4
    assert added.total == added.total == 4 * EACH * 7
    of_each = [sum(n % 3 == kind for n in range(EACH)) for kind in (0, 1, 2)]
    assert timed.counts == (4 * (of_each[0] + of_each[1]), 4 * of_each[2], 0)
    assert timed.total == 4 * (of_each[1] + 2 * of_each[2])


def numbers_of(store: StoreCounts, runner: RunnerCounts) -> tuple[float, ...]:
    """Return all numbers of two snapshots, of which none goes down, and see whether they fit together."""
    of_store, of_runner = store.snapshot(), runner.snapshot(dead_letters=0)
    call = of_store.calls.get("save", CallMetrics())
    assert of_store.conflicts <= call.errors <= call.calls == call.seconds.count
    assert of_runner.handled + of_runner.failed == of_runner.seconds.count
    return (
        call.calls, call.errors, call.seconds.sum, of_store.conflicts, of_store.version_hits, of_store.version_misses,
        of_runner.handled, of_runner.failed, of_runner.seconds.sum,
    )  # fmt: skip


def not_less(before: tuple[float, ...], after: tuple[float, ...]) -> bool:
    return all(one <= other for one, other in zip(before, after, strict=True))


def conflict() -> VersionConflictError:
    return VersionConflictError("a", 1, 1)


@pytest.mark.concurrent
def test_no_number_of_a_snapshot_goes_down(fast_switching: None) -> None:
    store, runner = StoreCounts(), RunnerCounts()

    def work() -> None:
        for n in range(1_200):
            if n % 2:
                store.failed("save", conflict(), 0.01)
                runner.failed(0.0)
            else:
                store.calls["save"].returned.add(0.01)
                runner.handled(0.0)
            if n % 3:
                store.version_hits()
            else:
                store.version_misses()

    def look() -> None:
        last = numbers_of(store, runner)
        for _ in range(200):
            now = numbers_of(store, runner)
            assert not_less(last, now)
            last = now

    run_threads(look, work, work, work)
    found, handled = store.snapshot(), runner.snapshot(dead_letters=0).handled
    assert (found.version_hits, found.version_misses, found.conflicts, handled) == (2_400, 1_200, 1_800, 1_800)


def test_a_snapshot_in_the_middle_of_a_count_is_consistent() -> None:
    """Whoever looks in the middle of an error does not see a call that went well, which is gone a moment later."""
    for number in range(500):
        store, runner = StoreCounts(), RunnerCounts()
        store.calls["save"].returned.add(0.01)
        seen: list[tuple[float, ...]] = []

        def look(
            store: StoreCounts = store, runner: RunnerCounts = runner, seen: list[tuple[float, ...]] = seen
        ) -> None:
            seen.append(numbers_of(store, runner))

        with at_opcode(number, look):
            runner.failed(0.0)
            store.failed("save", conflict(), 0.01)
        if not seen:
            assert number > 20
            return
        assert not_less(seen[0], numbers_of(store, runner))
    pytest.fail("it has no end")


@given(st.lists(st.integers(0, 10**12)))
def test_sums_are_exact(numbers: list[int]) -> None:
    counted, added = Count(), Sum()
    for number in numbers:
        counted.many(number)
        added.add(number)
    assert added.total == counted.count == sum(numbers)


@given(st.lists(st.floats(0, 100)))
def test_a_time_counts_in_the_range_that_ends_at_or_after_it(seconds: list[float]) -> None:
    bounds = (0.001, 1.0, 5.0, 30.0)
    times = Times(bounds)
    for one in (*seconds, *bounds):
        times.add(one)
    lows = (-1.0, *bounds)
    highs = (*bounds, float("inf"))
    expected = [sum(low < one <= high for one in (*seconds, *bounds)) for low, high in zip(lows, highs, strict=True)]
    assert times.counts == tuple(expected)
    assert times.total == pytest.approx(sum(seconds) + sum(bounds))


class InterruptError(Exception): ...


@contextmanager
def at_opcode(number: int, action: Callable[[], object]) -> Iterator[None]:
    """Within the ``with``, act before the opcode of that number, as a signal handler does that comes there."""
    left = number

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left < 0:
                sys.settrace(None)
                action()
        return trace

    earlier, collects = sys.gettrace(), gc.isenabled()
    gc.disable()  # what the collector calls is traced as well, and may be of another library
    sys._getframe().f_trace_opcodes = True  # Python 3.12 looks for it only when tracing begins
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(earlier)
        if collects:
            gc.enable()


@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("kind", ["many", "sum", "times"])
def test_a_handler_may_count_in_the_middle_of_a_count(kind: str, raises: bool) -> None:
    """If it raises, the count that it interrupts is lost, or not; nothing else is."""
    for number in range(300):
        counted, added, timed = Count(), Sum(), Times((1.0, 2.0))
        add: Callable[[int], object] = {"many": counted.many, "sum": added.add, "times": timed.add}[kind]
        came = False

        def act(add: Callable[[int], object] = add) -> None:
            nonlocal came
            came = True
            add(1)
            if raises:
                raise InterruptError

        with suppress(InterruptError), at_opcode(number, act):
            add(1)
        add(1)
        total = {"many": counted.count, "sum": added.total, "times": timed.total}[kind]
        assert total in ((2, 3) if raises else (2 + came,))
        if kind == "times":
            assert sum(timed.counts) - total in ((0, 1) if raises else (0,))
        if not came:
            assert number > 5
            return
    pytest.fail("it has no end")
