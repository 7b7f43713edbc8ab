"""Coroutines that read a subscription: on event loops of the user, beside threads, cancelled, interrupted, forked."""

import asyncio
import contextlib
import gc
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from typing import Any, TypeVar

import pytest
import uvloop

from aether_sync import EventBus, NATSEventBus, Subscription, SubscriptionClosedError, SubscriptionOverflowError
from aether_sync._bus.queue import EventQueue
from aether_sync._bus.readers import Readers, _Ticket
from aether_sync._runtime.waits import ParkingLot

from ..support.common import PATIENCE, UNIT, Keep, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import waiting_readers
from ..support.signals import before

T = TypeVar("T")
Run = Callable[[Coroutine[Any, Any, T]], T]


@pytest.fixture(params=["asyncio", "uvloop"])
def new_loop(request: pytest.FixtureRequest) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes event loops as a user does."""
    if request.param == "asyncio":
        return asyncio.new_event_loop
    return uvloop.new_event_loop


@pytest.fixture
def run(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> Run[Any]:
    """Runs a coroutine to its end, within the patience of a test, as ``asyncio.run()`` does."""

    async def bounded(work: Coroutine[Any, Any, T]) -> T:
        async with asyncio.timeout(PATIENCE * 2):
            return await work

    def run(work: Coroutine[Any, Any, T]) -> T:
        with asyncio.Runner(loop_factory=new_loop) as runner:
            return runner.run(bounded(work))

    return run


async def read_all(events: Subscription) -> list[int]:
    return [event.data["n"] async for event in events]  # type: ignore[index]


async def waiting(events: Subscription, count: int) -> None:
    """Return when so many readers wait."""
    while waiting_readers(events._queue) != count:
        await asyncio.sleep(0.001)


# -- one reader


def test_what_is_queued_comes_in_order_and_then_the_end(local_bus: EventBus, run: Run[Any]) -> None:
    events = local_bus.subscribe("n")
    for n in range(1_000):
        local_bus.publish("n", make_event(n))
    events.close()
    assert run(read_all(events)) == list(range(1_000))
    assert run(read_all(events)) == []


def test_a_coroutine_that_waits_is_woken(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> list[int]:
        got = []
        for n in range(20):
            task = asyncio.create_task(anext(events))
            await waiting(events, 1)
            await asyncio.to_thread(local_bus.publish, "n", make_event(n))
            got.append(await task)
        return numbers(got)

    assert run(read()) == list(range(20))


def test_events_come_from_another_node(make_bus: Callable[..., NATSEventBus], keep: Keep, run: Run[Any]) -> None:
    here, there = make_bus(), make_bus()

    async def read() -> list[int]:
        events = keep(await asyncio.to_thread(here.subscribe, "n"))
        reading = asyncio.create_task(read_all(events))
        await waiting(events, 1)
        for n in range(50):
            await asyncio.to_thread(there.publish, "n", make_event(n))
        await asyncio.to_thread(there.flush, PATIENCE)
        while events.stats().offered < 50:
            await asyncio.sleep(0.001)
        events.close()
        return await reading

    assert run(read()) == list(range(50))


@pytest.mark.parametrize("how", ["subscription", "bus"])
def test_a_close_ends_a_coroutine_that_waits(local_bus: EventBus, run: Run[Any], how: str) -> None:
    events = local_bus.subscribe("n")

    async def read() -> list[int]:
        reading = asyncio.create_task(read_all(events))
        await waiting(events, 1)
        await asyncio.to_thread(events.close if how == "subscription" else local_bus.close)
        return await reading

    assert run(read()) == []


def test_a_failure_is_raised_after_what_was_queued(local_bus: EventBus, run: Run[Any]) -> None:
    events = local_bus.subscribe("n", maxsize=2, overflow="fail")
    for n in range(4):
        local_bus.publish("n", make_event(n))
    got: list[int] = []

    async def read() -> None:
        async for event in events:
            got.extend(numbers([event]))

    for _ in range(2):
        with pytest.raises(SubscriptionOverflowError, match="'n' overflowed"):
            run(read())
    assert got == [0, 1]


def test_a_failure_wakes_a_coroutine_that_waits(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> None:
        reading = asyncio.create_task(read_all(events))
        await waiting(events, 1)
        await asyncio.to_thread(events._queue.close, failure=SubscriptionOverflowError("too much"))
        await reading

    with pytest.raises(SubscriptionOverflowError, match="too much"):
        run(read())


def test_a_timeout_ends_a_wait_and_the_next_one_goes_on(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> int:
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.01):
                    await anext(events)
            assert waiting_readers(events._queue) == 0
        local_bus.publish("n", make_event(7))
        async with asyncio.timeout(PATIENCE):
            (got,) = numbers([await anext(events)])
        return got

    assert run(read()) == 7


def test_a_queue_that_is_never_empty_does_not_stop_the_loop(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> int:
        taken = 0
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.05):
                async for _ in events:
                    taken += 1
                    local_bus.publish("n", make_event())
        return taken

    local_bus.publish("n", make_event())
    assert run(read()) > 1


def test_a_loop_goes_on_while_another_thread_is_putting_at_the_end(local_bus: EventBus, run: Run[Any]) -> None:
    """The queue is closed, and the thread that was putting an event just then is held up. Another thread waits for it.

    Here it is the loop itself that goes on with it, so if the loop were held up, the event would be missed.
    """
    events = local_bus.subscribe("n")
    queue = events._queue

    def go_on() -> None:
        queue._events.append(make_event(5))
        queue._put_lock.release()

    async def read() -> list[int]:
        assert queue._put_lock.acquire(blocking=False)
        events.close()
        asyncio.get_running_loop().call_soon(go_on)
        return await read_all(events)

    assert run(read()) == [5]


def test_a_wait_costs_its_loop_no_task(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> set[int]:
        tasks = set()
        async for _ in events:
            tasks.add(len(asyncio.all_tasks()))
            if events.stats().delivered == 100:
                break
        return tasks

    publishing = threading.Thread(target=lambda: [local_bus.publish("n", make_event(n)) for n in range(100)])
    publishing.start()
    assert run(read()) == {1}
    publishing.join(PATIENCE)


# -- several readers


@pytest.mark.concurrent
def test_each_event_goes_to_one_reader_of_several_loops_and_threads(
    local_bus: EventBus, run: Run[Any], fast_switching: None
) -> None:
    events = local_bus.subscribe("n", maxsize=1_000_000)
    each, publishers = 1_500, 3
    got: list[list[int]] = []

    def in_a_loop() -> None:
        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(read_all(events)) for _ in range(5)]
            got.extend(task.result() for task in tasks)

        run(read())

    def in_a_thread() -> None:
        got.append(numbers(list(events)))

    def publish(publisher: int) -> None:
        for n in range(each):
            local_bus.publish("n", make_event(publisher * each + n))
            if n % 50 == 0:
                time.sleep(0.0005)  # so that the readers wait again

    def publish_all() -> None:
        run_threads(*(partial(publish, publisher) for publisher in range(publishers)))
        events.close()

    run_threads(in_a_loop, in_a_loop, in_a_thread, in_a_thread, publish_all)
    assert sorted(n for one in got for n in one) == list(range(each * publishers))
    assert (events.stats().delivered, events.stats().pending) == (each * publishers, 0)


@pytest.mark.concurrent
def test_each_event_wakes_a_reader(local_bus: EventBus, run: Run[Any]) -> None:
    """A batch wakes as many as it has events, be they threads or coroutines."""
    events = local_bus.subscribe("n")
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(numbers([events.get(timeout=PATIENCE)])))

    async def read() -> None:
        tasks = [asyncio.create_task(anext(events)) for _ in range(3)]
        await waiting(events, 3)
        thread.start()
        await waiting(events, 4)
        await asyncio.to_thread(local_bus.publish_many, "n", [make_event(n) for n in range(4)])
        got.extend(numbers(list(await asyncio.gather(*tasks))))

    run(read())
    thread.join(PATIENCE)
    assert sorted(got) == [0, 1, 2, 3]
    events.close()


@pytest.mark.concurrent
def test_a_reader_wakes_the_next_one_where_a_wake_up_was_lost(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> list[int]:
        tasks = [asyncio.create_task(anext(events)) for _ in range(2)]
        await waiting(events, 2)
        events._queue._events.extend(make_event(n) for n in range(3))
        return numbers([await anext(events), *await asyncio.gather(*tasks)])

    assert sorted(run(read())) == [0, 1, 2]


# -- cancellation


@pytest.mark.parametrize("when", ["before its wake-up", "after its wake-up"])
def test_a_cancelled_reader_leaves_the_event_to_another(
    local_bus: EventBus, keep: Keep, run: Run[Any], when: str
) -> None:
    events = keep(local_bus.subscribe("n"))

    async def read() -> list[int]:
        first, second = asyncio.create_task(anext(events)), asyncio.create_task(anext(events))
        await waiting(events, 2)
        if when == "before its wake-up":
            first.cancel()
        local_bus.publish("n", make_event(1))  # on the loop's own thread: no coroutine runs before the next await
        if when == "after its wake-up":
            first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        return numbers([await second])

    assert run(read()) == [1]


@pytest.mark.parametrize("when", ["before its wake-up", "after its wake-up"])
def test_a_cancelled_reader_leaves_the_event_to_a_thread(
    local_bus: EventBus, keep: Keep, run: Run[Any], when: str
) -> None:
    events = keep(local_bus.subscribe("n"))
    got: list[int] = []
    thread = threading.Thread(target=lambda: got.extend(numbers([events.get(timeout=PATIENCE)])))

    async def read() -> None:
        task = asyncio.create_task(anext(events))
        await waiting(events, 1)
        thread.start()
        await waiting(events, 2)
        if when == "before its wake-up":
            task.cancel()
        local_bus.publish("n", make_event(1))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(read())
    thread.join(PATIENCE)
    assert got == [1]


@pytest.mark.concurrent
@pytest.mark.parametrize("cut_off", first_of(["wait_for", "cancel", "timeout"]))
def test_cancellations_at_any_moment_lose_no_event_and_no_wake_up(
    local_bus: EventBus, run: Run[Any], cut_off: str
) -> None:
    events = local_bus.subscribe("n", maxsize=1_000_000)
    total, cancelled = 1_200, Counter[str]()
    got: list[int] = []
    over = threading.Event()

    def publish() -> None:
        for n in range(total):
            local_bus.publish("n", make_event(n))
            time.sleep(random.choice((0, 0, 0.0001, 0.0005)))
        eventually(lambda: events.stats().delivered == total, "the last event to be taken")
        over.set()
        events.close()

    async def take_one() -> None:
        event = await anext(events)
        got.extend(numbers([event]))

    async def read(chance: random.Random) -> None:
        while not over.is_set():
            soon = chance.choice((0, 0.0001, 0.001))
            try:
                if cut_off == "cancel":
                    task = asyncio.create_task(take_one())
                    await asyncio.sleep(soon)
                    task.cancel()
                    await task
                elif cut_off == "timeout":
                    async with asyncio.timeout(soon):
                        await take_one()
                else:
                    await asyncio.wait_for(take_one(), soon)
            except (asyncio.CancelledError, TimeoutError):
                cancelled[cut_off] += 1
            except StopAsyncIteration:
                return

    def in_a_loop(seed: int) -> None:
        async def read_side_by_side() -> None:
            async with asyncio.TaskGroup() as group:
                for n in range(4):
                    group.create_task(read(random.Random(seed * 10 + n)))

        run(read_side_by_side())

    run_threads(publish, partial(in_a_loop, 1), partial(in_a_loop, 2))
    assert sorted(got) == list(range(total))
    assert cancelled[cut_off] >= 200


@pytest.mark.concurrent
def test_a_thread_is_woken_though_coroutines_before_it_are_cancelled(local_bus: EventBus, run: Run[Any]) -> None:
    """The event reaches a coroutine, or the thread behind them in the line, with no further event to wake it."""

    def one_round(pause: float) -> None:
        events = local_bus.subscribe("n")
        got: list[int] = []
        thread = threading.Thread(target=lambda: got.extend(numbers([next(events)])))

        async def cancel() -> None:
            tasks = [asyncio.create_task(anext(events)) for _ in range(3)]
            await waiting(events, 3)
            thread.start()
            await waiting(events, 4)
            publishing = asyncio.create_task(asyncio.to_thread(local_bus.publish, "n", make_event(1)))
            await asyncio.sleep(pause)
            for task in tasks:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            await publishing
            if taken := [one for one in done if not isinstance(one, BaseException)]:
                got.extend(numbers(taken))
                await asyncio.to_thread(local_bus.publish, "n", make_event(2))  # for the thread

        run(cancel())
        thread.join(PATIENCE)
        assert not thread.is_alive()
        assert sorted(got) in ([1], [1, 2])
        events.close()

    for pause in (0, 0.0001, 0.0002, 0.0005) * 8:
        one_round(pause)


# -- loops that end


def begin_to_wait(events: Subscription, loop: asyncio.AbstractEventLoop, count: int = 1) -> None:
    """Let coroutines of a loop wait, and the loop stop."""
    loop.set_exception_handler(lambda *_: None)  # it tells of tasks that are destroyed while they wait
    others = waiting_readers(events._queue)
    for _ in range(count):
        loop.create_task(anext(events))  # type: ignore[arg-type]  # the queue keeps it
    loop.run_until_complete(waiting(events, others + count))


@contextlib.contextmanager
def reading_one(events: Subscription) -> Iterator[None]:
    """A thread waits behind all others for one event."""
    others, got = waiting_readers(events._queue), []
    thread = threading.Thread(target=lambda: got.append(events.get(timeout=PATIENCE)))
    thread.start()
    eventually(lambda: waiting_readers(events._queue) == others + 1, "a parked thread")
    yield
    thread.join(PATIENCE)
    assert len(got) == 1


def test_a_loop_that_was_closed_while_a_coroutine_waits_swallows_no_wake_up(
    local_bus: EventBus, keep: Keep, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    events, loop = keep(local_bus.subscribe("n")), new_loop()
    begin_to_wait(events, loop)
    with reading_one(events):
        loop.close()
        local_bus.publish("n", make_event(1))
    gc.collect()
    assert not events._queue._readers._coroutines


def test_a_loop_that_is_closed_after_a_wake_up_swallows_none(
    local_bus: EventBus, keep: Keep, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    events, loop = keep(local_bus.subscribe("n")), new_loop()
    begin_to_wait(events, loop)
    with reading_one(events), before(_Ticket.release, "if loop.is_closed()", loop.close):
        local_bus.publish("n", make_event(1))


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # of the loop, and of its sockets
def test_a_loop_that_was_stopped_for_good_passes_its_wake_up_on_when_it_is_collected(
    local_bus: EventBus, keep: Keep
) -> None:
    """On asyncio's own loop: uvloop's, if it is not closed, is never collected."""
    events = keep(local_bus.subscribe("n"))
    begin_to_wait(events, asyncio.new_event_loop())
    with reading_one(events):
        local_bus.publish("n", make_event(1))
        gc.collect()


def test_many_coroutines_of_closed_loops_are_left_out(
    local_bus: EventBus, keep: Keep, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    events = keep(local_bus.subscribe("n"))
    for _ in range(5):
        loop = new_loop()
        begin_to_wait(events, loop, 300)
        loop.close()
    local_bus.publish("n", make_event(1))
    assert waiting_readers(events._queue) == 0
    assert numbers([events.get(timeout=0)]) == [1]


def test_coroutines_of_many_closed_loops_are_left_out_at_once(local_bus: EventBus, keep: Keep) -> None:
    """However many there are, who publishes meets no limit of the recursion."""
    events = keep(local_bus.subscribe("n"))
    for _ in range(500):
        loop = asyncio.new_event_loop()
        begin_to_wait(events, loop)
        loop.close()
    with reading_one(events):
        local_bus.publish("n", make_event(1))
    assert waiting_readers(events._queue) == 0


@pytest.mark.concurrent
@pytest.mark.parametrize("total", first_of([150, 600]))
def test_loops_that_are_closed_meanwhile(local_bus: EventBus, run: Run[Any], total: int) -> None:
    """Programs that begin, wait, and end by an exception, while events come: each event reaches somebody."""
    events = local_bus.subscribe("n", maxsize=1_000_000)
    got: list[int] = []

    def publish() -> None:
        for n in range(total):
            local_bus.publish("n", make_event(n))
            time.sleep(0.0003)
        eventually(lambda: events.stats().delivered == total, "the last event to be taken")
        events.close()

    def come_and_go() -> None:
        class Over(Exception):
            pass

        async def read() -> None:
            async for event in events:
                got.extend(numbers([event]))

        async def program() -> None:
            tasks = [asyncio.create_task(read()) for _ in range(3)]
            await asyncio.sleep(0.002)
            if not all(task.done() for task in tasks):
                raise Over

        while not events.closed:
            with contextlib.suppress(Over):
                run(program())

    run_threads(publish, come_and_go, come_and_go)
    assert sorted(got) == list(range(total))


# -- handlers


class Interrupt(Exception):
    pass


def interrupt() -> None:
    raise Interrupt


@contextlib.contextmanager
def reading_in_a_thread(events: Subscription, run: Run[Any], readers: int = 1) -> Iterator[list[int]]:
    """Coroutines read a subscription in another thread until it is closed."""
    got: list[int] = []

    async def read() -> None:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(read_all(events)) for _ in range(readers)]
        got.extend(n for task in tasks for n in task.result())

    thread = threading.Thread(target=lambda: run(read()), daemon=True)
    thread.start()
    eventually(lambda: waiting_readers(events._queue) == readers, "coroutines that wait")
    yield got
    events.close()
    thread.join(PATIENCE)
    assert not thread.is_alive()


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (ParkingLot.wake, "deque(map("),
        (_Ticket.release, "loop = self.future"),
        (_Ticket.release, "loop.call_soon_threadsafe"),
        (_Ticket.release, "if loop.is_closed()"),
        (EventQueue.offer, "self._readers.wake(len(events))"),
    ],
)
def test_a_publisher_that_is_interrupted_while_it_wakes_a_coroutine(
    local_bus: EventBus, run: Run[Any], function: Callable[..., Any], line: str
) -> None:
    events = local_bus.subscribe("n")
    with reading_in_a_thread(events, run) as got:
        with pytest.raises(Interrupt), before(function, line, interrupt):
            local_bus.publish("n", make_event(1))
        eventually(lambda: events.stats().delivered == 1, "the event to be taken")
    assert got == [1]


@pytest.mark.parametrize("line", ["loop.call_soon_threadsafe", "loop = self.future"])
def test_a_close_that_is_interrupted_while_it_wakes_a_coroutine(local_bus: EventBus, run: Run[Any], line: str) -> None:
    events = local_bus.subscribe("n")
    with reading_in_a_thread(events, run, readers=3):
        with pytest.raises(Interrupt), before(_Ticket.release, line, interrupt):
            events._queue.close()
        eventually(lambda: not events._queue._readers._coroutines, "the end of all three")


@pytest.mark.parametrize("act", ["publishes", "closes"])
@pytest.mark.parametrize("line", ["loop.call_soon_threadsafe", "if loop.is_closed()"])
def test_a_handler_amid_a_wake_up(local_bus: EventBus, run: Run[Any], act: str, line: str) -> None:
    events = local_bus.subscribe("n")
    handler: Callable[[], object] = (
        partial(local_bus.publish, "n", make_event(2)) if act == "publishes" else events.close
    )
    with reading_in_a_thread(events, run, readers=2) as got:
        with before(_Ticket.release, line, handler):
            local_bus.publish("n", make_event(1))
        if act == "publishes":
            eventually(lambda: events.stats().delivered == 2, "both events to be taken")
    assert sorted(got) == ([1, 2] if act == "publishes" else [1])


@pytest.mark.parametrize("line", ["self._coroutines.add(ticket)", "self.parked.append(ticket)", "if not ready()"])
@pytest.mark.parametrize("act", ["publishes", "closes"])
def test_a_handler_over_a_coroutine_that_is_about_to_wait(
    local_bus: EventBus, keep: Keep, run: Run[Any], line: str, act: str
) -> None:
    events = keep(local_bus.subscribe("n"))
    handler: Callable[[], object] = (
        partial(local_bus.publish, "n", make_event(1)) if act == "publishes" else partial(local_bus.close, PATIENCE)
    )

    async def read() -> list[int]:
        with before(Readers.wait_in_coroutine, line, handler), contextlib.suppress(StopAsyncIteration):
            return numbers([await anext(events)])
        return []

    assert run(read()) == ([1] if act == "publishes" else [])


def test_a_cancelled_coroutine_that_is_interrupted_as_it_passes_a_wake_up_on_takes_none_along(
    local_bus: EventBus, keep: Keep, run: Run[Any]
) -> None:
    """The exception ends its task, and the loop goes on."""
    events = keep(local_bus.subscribe("n"))

    async def leave() -> None:
        task = asyncio.create_task(anext(events))
        await waiting(events, 1)
        with reading_one(events):
            local_bus.publish("n", make_event(1))
            task.cancel()
            with before(ParkingLot.wake, "if self.parked", interrupt), pytest.raises(Interrupt):
                await task
            begun = time.monotonic()
        assert time.monotonic() - begun < PATIENCE / 2, "the thread slept beside the event"

    run(leave())


@pytest.mark.concurrent
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised in a weak reference's callback
@pytest.mark.parametrize("seconds", first_of([0.25 * UNIT, UNIT]))
def test_handlers_that_raise_at_any_moment_leave_no_coroutine_asleep(
    local_bus: EventBus, run: Run[Any], seconds: float
) -> None:
    events = local_bus.subscribe("n", maxsize=1_000_000)
    interrupted = accepted = 0

    def interrupt_it(*_: object) -> None:
        raise Interrupt

    with reading_in_a_thread(events, run, readers=3):
        handler = signal.signal(signal.SIGALRM, interrupt_it)
        try:
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                try:
                    signal.setitimer(signal.ITIMER_REAL, random.uniform(0.00005, 0.0005))
                    for _ in range(
                        100
                    ):  # not for ever: what a handler raises in a finalizer or a callback is only printed
                        local_bus.publish("n", make_event(accepted))
                        accepted += 1
                        time.sleep(0.00005)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except Interrupt:
                    interrupted += 1
                eventually(lambda: not events._queue._events, "all events to be taken, with no other to wake a reader")
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_IGN)
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, handler)
    assert interrupted > 0
    assert events.stats().offered >= accepted


# -- forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_a_forked_child_is_told_and_the_parents_coroutine_reads_on(local_bus: EventBus, run: Run[Any]) -> None:
    events = local_bus.subscribe("n")

    def child() -> int:
        async def read() -> int:
            with pytest.raises(SubscriptionClosedError, match="made before the fork"):
                await anext(events)
            own = local_bus.subscribe("n")
            local_bus.publish("n", make_event(3))
            return numbers([await anext(own)])[0]

        return run(read())  # type: ignore[no-any-return]

    with reading_in_a_thread(events, run, readers=2) as got:
        pid = os.fork()
        if not pid:
            code = 1
            with contextlib.suppress(BaseException):
                code = 0 if child() == 3 else 2
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        for n in range(2):
            local_bus.publish("n", make_event(n))
        eventually(lambda: events.stats().delivered == 2, "both events to be taken")
    assert sorted(got) == [0, 1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork() here")
def test_a_fork_by_a_coroutine_while_another_waits(local_bus: EventBus, keep: Keep, run: Run[Any]) -> None:
    """The child tells the loop nothing: the two processes share what wakes it."""
    events = keep(local_bus.subscribe("n"))
    told: list[object] = []

    async def fork() -> list[int]:
        task = asyncio.create_task(anext(events))
        await waiting(events, 1)
        loop = asyncio.get_running_loop()
        tell = loop.call_soon_threadsafe
        loop.call_soon_threadsafe = lambda *about: told.append(about) or tell(*about)  # type: ignore[method-assign]
        pid = os.fork()
        if not pid:
            os._exit(len(told) + waiting_readers(events._queue))
        _, status = os.waitpid(pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        local_bus.publish("n", make_event(1))
        return numbers([await task])

    assert run(fork()) == [1]
    assert told
