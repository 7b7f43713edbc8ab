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

from aether_sync._values.counting import Count, Sum, Times

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
