"""Time limits: what takes too long is reported with its stack, and interrupted only where that is allowed."""

import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    Delivery,
    Event,
    EventBus,
    Failure,
    InMemoryEventStore,
    InvalidOptionError,
    TimeLimitExceededError,
    Worker,
    flush_logs,
    interruptible,
)

from ..support.common import PATIENCE, UNIT, eventually, make_event
from ..support.stores import event

pytestmark = pytest.mark.concurrent

LIMIT = 0.1 * UNIT


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What handlers wait for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def compute_until(stop: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not stop() and time.monotonic() < end:
        sum(range(100))


def test_it_is_reported_once_with_its_stack_and_its_event(
    local_bus: EventBus, go_on: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(bus=local_bus)

    @worker.on("n", time_limit=LIMIT)
    def handle(event: Event) -> None:
        go_on.wait(PATIENCE)  # here it is

    with worker:
        local_bus.publish("n", make_event(1))
        eventually(lambda: worker.metrics().handlers[0].overdue == 1)
        eventually(lambda: "for longer than its time limit" in str(worker.health().reasons))
        time.sleep(3 * LIMIT)
        go_on.set()
        eventually(lambda: worker.health().ok)
        assert worker.metrics().handlers[0].handled == 1, "it was not interrupted"
    flush_logs()
    (record,) = caplog.records
    assert record.kind == "overdue"  # type: ignore[attr-defined]
    assert record.actor == "thing-1"  # type: ignore[attr-defined]
    text = record.getMessage()
    assert f"time limit of {LIMIT:g} s, with Happened of 'thing-1'; it is at:" in text
    assert "go_on.wait(PATIENCE)  # here it is" in text
    assert "in handle\n" in text.splitlines(keepends=True)[1], "the handler's own frame is the outermost"


def test_of_a_consumer_the_sequence_is_told_and_of_periodic_work_nothing(
    go_on: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with InMemoryEventStore() as store:
        worker = Worker(store=store)
        worker.consume("c", time_limit=LIMIT)(lambda delivery: go_on.wait(PATIENCE))
        worker.every(1000, time_limit=LIMIT)(lambda: go_on.wait(PATIENCE))
        store.append("a", event("a"), expected_version=ANY_VERSION)
        with worker:
            eventually(lambda: all(one.overdue for one in worker.metrics().handlers))
            go_on.set()
    flush_logs()
    said = sorted(one.getMessage().partition("time limit of ")[2].partition(" it is at")[0] for one in caplog.records)
    assert said == [f"{LIMIT:g} s, with {event('a').event_type} of 'a', sequence 1;", f"{LIMIT:g} s;"]


def test_what_keeps_its_limit_is_not(local_bus: EventBus) -> None:
    worker = Worker(bus=local_bus)
    worker.on("n", time_limit=PATIENCE)(lambda event: None)
    with worker:
        local_bus.publish_many("n", [make_event(n) for n in range(100)])
        eventually(lambda: worker.metrics().handlers[0].handled == 100)
        assert worker.metrics().handlers[0].overdue == 0


def test_a_block_is_interrupted_and_the_event_comes_again() -> None:
    with InMemoryEventStore() as store:
        worker, errors, after = Worker(store=store), list[BaseException](), list[int]()

        @worker.consume("c", time_limit=LIMIT, retry_delay=0.01, threads=1)
        def handle(delivery: Delivery) -> None:
            if delivery.attempt == 1:
                try:
                    with interruptible():
                        compute_until(lambda: False)
                except TimeLimitExceededError as error:
                    errors.append(error)
                    raise
            after.append(delivery.attempt)

        store.append("a", event("a"), expected_version=ANY_VERSION)
        with worker:
            store.consumer("c").wait_for(1, timeout=PATIENCE)
        assert len(errors) == 1
        assert isinstance(errors[0], TimeoutError)
        assert after == [2]
        assert worker.metrics().handlers[0].overdue == 1


@pytest.mark.parametrize("blocks", [1, 2])
def test_an_error_that_is_caught_in_its_block_comes_once(local_bus: EventBus, blocks: int) -> None:
    worker, said = Worker(bus=local_bus), list[str]()

    @worker.on("n", time_limit=LIMIT)
    def handle(event: Event) -> None:
        with ExitStack() as stack:
            for _ in range(blocks):
                stack.enter_context(interruptible())
            try:
                compute_until(lambda: False)
            except TimeLimitExceededError as error:
                said.append(type(error).__name__)
            compute_until(lambda: False if not said else next(times) > 3)
        said.append("whole")
        try:
            with interruptible():
                said.append("never")
        except TimeLimitExceededError:
            said.append("at once")

    times = iter(range(1000))
    with worker:
        local_bus.publish("n", make_event(1))
        eventually(lambda: worker.metrics().handlers[0].seconds.count)
    assert said == ["TimeLimitExceededError", "whole", "at once"]
    assert worker.metrics().handlers[0].handled == 1


def test_outside_of_its_block_a_handler_is_not_interrupted(local_bus: EventBus) -> None:
    worker, said = Worker(bus=local_bus), list[str]()

    @worker.on("n", time_limit=LIMIT)
    def handle(event: Event) -> None:
        with interruptible():
            pass
        compute_until(lambda: worker.metrics().handlers[0].overdue == 1)
        time.sleep(2 * LIMIT)
        said.append("whole")
        try:
            with interruptible():
                said.append("never")
        except TimeLimitExceededError:
            said.append("at once")

    with worker:
        local_bus.publish("n", make_event(1))
        eventually(lambda: len(said) == 2)
    assert said == ["whole", "at once"]


def test_a_call_into_c_is_interrupted_when_it_returns(local_bus: EventBus) -> None:
    worker, found = Worker(bus=local_bus), list[float]()

    @worker.on("n", time_limit=LIMIT)
    def handle(event: Event) -> None:
        begun = time.monotonic()
        try:
            with interruptible():
                time.sleep(5 * LIMIT)
        except TimeLimitExceededError:
            found.append(time.monotonic() - begun)

    with worker:
        local_bus.publish("n", make_event(1))
        eventually(lambda: found)
    assert found[0] >= 5 * LIMIT


def test_without_a_limit_a_block_does_nothing() -> None:
    with interruptible(), interruptible():
        pass


def test_a_debugger_goes_on_after_one_was_taken_back() -> None:
    """Before Python 3.12 a thread that is traced hung for ever then; it is a process of its own for that."""
    program = """
        import sys, threading, time
        from aether_sync import EventBus, Event, TimeLimitExceededError, Worker, interruptible
        from aether_sync.worker import time_limits

        def work(event: Event) -> None:
            with interruptible():
                call = time_limits._running[threading.get_ident()]
                with time_limits._lock:  # as the time limit does, and it does not arrive before the block is left
                    call.is_sent = True
                    time_limits._send(call.thread, TimeLimitExceededError)
                    time_limits._send(call.thread, None)

        with EventBus() as bus:
            worker = Worker(bus=bus)
            done = threading.Event()
            worker.on("n", time_limit=60.0)(work)
            with worker:
                bus.publish("n", Event(event_type="E", actor_id="a"))
                while not (worker.metrics().handlers[0].handled or worker.metrics().handlers[0].failed):
                    time.sleep(0.01)
            sys.settrace(lambda *_: None)
            (lambda: None)()
            sys.settrace(None)
            print("went on")
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, timeout=PATIENCE, check=False
    )
    assert done.stdout == "went on\n", done.stderr


def test_what_is_sent_reaches_nobody_else(local_bus: EventBus) -> None:
    """Handlers that end just when their time is over: no error comes later than in their blocks."""
    outcomes: list[str] = []
    lines: list[str] = []  # where an error was raised that the handler's own `except` has not seen

    def note(failure: Failure) -> None:
        lines.append(traceback.extract_tb(failure.error.__traceback__)[-1].line or "")

    worker = Worker(bus=local_bus, on_error=note)

    @worker.on("n", time_limit=0.002, threads=2)
    def handle(event: Event) -> None:
        end = time.monotonic() + 0.0005 * (event.data or {})["n"] % 0.006
        try:
            with interruptible(), interruptible():
                while time.monotonic() < end:
                    pass
        except TimeLimitExceededError:
            outcomes.append("interrupted")
        else:
            outcomes.append("done")
        for _ in range(300):  # an error that comes here is one too late
            pass

    with worker:
        local_bus.publish_many("n", [make_event(n) for n in range(120)])
        eventually(lambda: worker.metrics().handlers[0].seconds.count == 120)
        assert worker.health().alive
    assert set(lines) <= {"while time.monotonic() < end:"}, "CPython 3.13.0 has no `except` around the jump of a loop"
    assert len(outcomes) + len(lines) == 120
    assert len(lines) + outcomes.count("interrupted") > 0


@pytest.mark.parametrize("limit", [0, -1, "x", True, 1e-9])
def test_what_is_no_limit_is_refused(local_bus: EventBus, limit: Any) -> None:
    with pytest.raises(InvalidOptionError, match="time_limit must be seconds"):
        Worker(bus=local_bus).on("n", time_limit=limit)
    with pytest.raises(InvalidOptionError, match="time_limit must be seconds"):
        Worker(bus=local_bus).every(1, time_limit=limit)
