"""``LoopThread``: work posted by threads, and its end."""

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Never

import pytest

from aether_sync import BusClosedError, DeadlineExceededError, WrongThreadError
from aether_sync._runtime.deadline import Deadline
from aether_sync._runtime.event_loop import StockLoop, new_loop
from aether_sync._runtime.loop_thread import LoopThread

from ..support.common import PATIENCE, eventually, run_threads

pytestmark = pytest.mark.both_loops


async def answer(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def fail() -> Never:
    raise ValueError("no")


async def hang(cancelled: list[bool]) -> None:
    try:
        await asyncio.sleep(1e6)
    finally:
        cancelled.append(True)


def make_loop(report: Callable[[str], object] = print) -> LoopThread:
    fast = os.environ["AETHER_SYNC_UVLOOP"] == "1"
    loop = new_loop(fast, pytest.fail)
    assert isinstance(loop, StockLoop) != fast
    return LoopThread(loop, report)


@pytest.fixture
def loop() -> LoopThread:
    return make_loop()


def test_calls_bring_results_and_errors(loop: LoopThread) -> None:
    loop.start()
    loop.start()
    assert loop.call(answer, 7, deadline=Deadline(PATIENCE)) == 7
    with pytest.raises(ValueError, match="no"):
        loop.call(fail, deadline=Deadline(PATIENCE))
    assert loop.stop(Deadline(PATIENCE))


def test_what_is_posted_before_the_start_runs_first(loop: LoopThread) -> None:
    order: list[int] = []
    for n in range(3):
        loop.post(order.append, n)
    loop.start()
    loop.call(answer, 0, deadline=Deadline(PATIENCE))
    assert order == [0, 1, 2]
    assert loop.stop(Deadline(PATIENCE))


def test_a_call_that_takes_too_long_is_cancelled(loop: LoopThread) -> None:
    loop.start()
    cancelled: list[bool] = []
    with pytest.raises(DeadlineExceededError):
        loop.call(hang, cancelled, deadline=Deadline(0.01))
    loop.call(answer, 0, deadline=Deadline(PATIENCE))
    loop.call(answer, 0, deadline=Deadline(PATIENCE))
    assert cancelled == [True]
    assert loop.stop(Deadline(PATIENCE))


def test_its_own_thread_is_refused(loop: LoopThread) -> None:
    async def call_again() -> None:
        loop.call(answer, 0, deadline=Deadline(0))

    loop.start()
    with pytest.raises(WrongThreadError, match="aether-loop"):
        loop.call(call_again, deadline=Deadline(PATIENCE))
    assert loop.stop(Deadline(PATIENCE))


@pytest.mark.concurrent
def test_stopping_strands_nobody(loop: LoopThread) -> None:
    loop.start()
    waiting = threading.Barrier(5)
    cancelled: list[bool] = []

    def call() -> None:
        waiting.wait(PATIENCE)
        with pytest.raises(BusClosedError):
            while True:
                loop.call(hang, cancelled, deadline=Deadline(PATIENCE))

    def stop() -> None:
        waiting.wait(PATIENCE)
        assert loop.stop(Deadline(PATIENCE))

    run_threads(call, call, call, call, stop)
    with pytest.raises(BusClosedError):
        loop.post(print)
    loop.call_soon(print)  # type: ignore[arg-type]
    assert loop.stop(Deadline(0))


def test_a_loop_that_never_ran_is_closed(loop: LoopThread) -> None:
    assert loop.stop(Deadline(0))
    assert loop.stop(Deadline(PATIENCE))


def test_what_is_repeated_goes_on_after_a_mistake() -> None:
    reports: list[str] = []
    loop = make_loop(reports.append)
    loop.start()
    calls: list[int] = []

    def work() -> bool:
        calls.append(len(calls))
        if len(calls) == 2:
            raise MemoryError
        return len(calls) < 4

    loop.repeat(0.001, work)
    eventually(lambda: len(calls) == 4)
    assert len(reports) == 1
    assert loop.stop(Deadline(PATIENCE))


def test_what_goes_wrong_is_reported() -> None:
    reports: list[str] = []
    loop = make_loop(reports.append)
    loop.start()
    loop.post(lambda: 1 // 0)
    loop.call(answer, 0, deadline=Deadline(PATIENCE))
    assert len(reports) == 1
    assert "ZeroDivisionError" in reports[0]
    assert loop.stop(Deadline(PATIENCE))


@pytest.mark.parametrize("turns", range(1, 6))
def test_what_a_late_callback_begins_is_ended_too(loop: LoopThread, turns: int) -> None:
    """Whatever turn of the end it comes in: else Python says that a coroutine was never awaited."""
    cancelled: list[bool] = []
    begun: list[asyncio.Task[None]] = []

    def later(left: int) -> None:
        running = asyncio.get_running_loop()
        if left:
            running.call_soon(later, left - 1)
        else:
            begun.append(running.create_task(hang(cancelled)))

    async def at_the_end() -> None:
        try:
            await asyncio.sleep(1e6)
        finally:
            later(turns)

    def begin() -> None:
        begun.append(asyncio.get_running_loop().create_task(at_the_end()))

    loop.start()
    loop.post(begin)
    loop.call(answer, 1, deadline=Deadline(PATIENCE))
    assert loop.stop(Deadline(PATIENCE))
    assert all(task.done() for task in begun)
