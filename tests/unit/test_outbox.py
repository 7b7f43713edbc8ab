"""``Outbox``: as a state machine against a simple model, between threads and a loop, and under signal handlers."""

import asyncio
import gc
import random
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from aether_sync import BusClosedError, EventBus, NATSEventBus, PublishTimeoutError
from aether_sync._nats.outbox import Outbox
from aether_sync._nats.shortcut import Shortcut

from ..support.common import PATIENCE, UNIT, Keep, eventually, first_of, make_event, numbers, run_threads, tracing
from ..support.inside import loop_sleeps, waiting_publishers
from ..support.signals import INTERRUPTS, before, hammer

LIMIT, BYTES = 5, 50


def put(outbox: Outbox, *frames: bytes, timeout: float | None = 0) -> None:
    if len(frames) == 1:
        outbox.put(frames[0], timeout)
    else:
        outbox.put_many(len(frames), sum(map(len, frames)), lambda: frames, timeout)


def take(outbox: Outbox) -> list[bytes]:
    frames, ends = outbox.take()
    assert ends == list(accumulate(map(len, frames)))
    return frames


class OutboxMachine(RuleBasedStateMachine):
    """The outbox beside a list of frames that wait, and a list of those that the loop holds and has not written."""

    def __init__(self) -> None:
        super().__init__()
        self.outbox = Outbox(LIMIT, BYTES)
        self.waiting: list[bytes] = []
        self.held: list[bytes] = []  # taken by the loop, and not yet written
        self.accepted = 0
        self.closed = False

    @property
    def depth(self) -> tuple[int, int]:
        frames = self.waiting + self.held
        return len(frames), sum(map(len, frames))

    @rule(sizes=st.lists(st.integers(1, 15) | st.just(60), min_size=1, max_size=3) | st.just([1] * 7))
    def put(self, sizes: list[int]) -> None:
        frames = [bytes([(self.accepted + n) % 256]) * size for n, size in enumerate(sizes)]
        count, size = self.depth
        if self.closed:
            with pytest.raises(BusClosedError):
                put(self.outbox, *frames)
        elif count and (count + len(frames) > LIMIT or size + sum(sizes) > BYTES):
            with pytest.raises(PublishTimeoutError):
                put(self.outbox, *frames)
        else:
            put(self.outbox, *frames)
            self.waiting += frames
            self.accepted += len(frames)

    @rule()
    def take(self) -> None:
        assert take(self.outbox) == self.waiting
        self.held += self.waiting
        self.waiting = []

    @precondition(lambda self: self.held)
    @rule(count=st.integers(1, 10))
    def write(self, count: int) -> None:
        written, self.held = self.held[:count], self.held[count:]
        self.outbox.written(len(written), sum(map(len, written)))

    @rule(size=st.integers(0, 90))
    def interrupted(self, size: int) -> None:
        """A publisher that had counted what it then did not put in: the next take() sets it right."""
        self.outbox._bytes += size
        self.take()

    @precondition(lambda self: self.accepted > 15)
    @rule()
    def close(self) -> None:
        self.outbox.close()
        self.closed = True

    @invariant()
    def counts(self) -> None:
        assert self.outbox.depth() == self.depth
        assert self.outbox.position() == self.accepted


TestOutbox = OutboxMachine.TestCase
TestOutbox.settings = settings(max_examples=20, stateful_step_count=40, deadline=None)


class LongOutboxMachine(OutboxMachine):
    """The same, more often."""


TestOutboxForLong = pytest.mark.slow(LongOutboxMachine.TestCase)
TestOutboxForLong.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_all_or_nothing_is_accepted() -> None:
    outbox = Outbox(max_events=3, max_bytes=100)
    put(outbox, b"x", b"x")
    with pytest.raises(PublishTimeoutError, match="2 events"):
        put(outbox, b"x", b"x")
    assert (outbox.depth(), outbox.position()) == ((2, 2), 2)
    with pytest.raises(PublishTimeoutError):
        put(outbox, b"x" * 99)
    put(outbox, b"x")
    assert outbox.depth() == (3, 3)


def test_what_is_larger_than_the_outbox_goes_when_it_is_empty() -> None:
    outbox = Outbox(max_events=3, max_bytes=100)
    put(outbox, *[b"x" * 500] * 9)
    with pytest.raises(PublishTimeoutError):
        put(outbox, b"x")


def test_what_was_only_counted_keeps_nobody_out_for_ever() -> None:
    outbox = Outbox(max_events=3, max_bytes=100)
    outbox._bytes = 1_000  # by publishers that were interrupted
    put(outbox, b"x")
    assert take(outbox) == [b"x"]


def test_what_the_loop_holds_counts_until_it_is_written() -> None:
    outbox = Outbox(max_events=4, max_bytes=100)
    put(outbox, *[b"x"] * 4)
    assert (len(take(outbox)), outbox.depth()) == (4, (4, 4))
    with pytest.raises(PublishTimeoutError):
        put(outbox, b"x")
    outbox.written(2, 2)
    put(outbox, b"y", b"y")
    assert (outbox.depth(), outbox.position()) == ((4, 4), 6)


@pytest.mark.concurrent
def test_waiting_publishers_go_on_when_there_is_room() -> None:
    outbox = Outbox(max_events=2, max_bytes=100)
    put(outbox, b"x", b"x")
    done: list[int] = []

    def publish(n: int) -> None:
        put(outbox, b"y", timeout=PATIENCE)
        done.append(n)

    def make_room() -> None:
        while len(done) < 10:
            frames = take(outbox)
            if frames:
                outbox.written(len(frames), sum(map(len, frames)))

    run_threads(make_room, *(lambda n=n: publish(n) for n in range(10)))  # type: ignore[misc]
    assert sorted(done) == list(range(10))


def waiting(outbox: Outbox, *frames: bytes) -> threading.Thread:
    """A publisher that waits for room; returns when it does."""
    before = waiting_publishers(outbox)
    thread = threading.Thread(target=put, args=(outbox, *frames), kwargs={"timeout": PATIENCE})
    thread.start()
    eventually(lambda: waiting_publishers(outbox) > before, "a waiting publisher")
    return thread


def test_who_comes_later_does_not_pass_by_those_who_wait() -> None:
    outbox = Outbox(max_events=4, max_bytes=100)
    put(outbox, *[b"x"] * 4)
    first, second = waiting(outbox, *[b"a"] * 4), waiting(outbox, b"b")
    take(outbox)
    for _ in range(3):  # there would be room for some, but not for the first
        outbox.written(1, 1)
        with pytest.raises(PublishTimeoutError):
            put(outbox, b"z")
    outbox.written(1, 1)
    first.join(PATIENCE)
    assert take(outbox) == [b"a"] * 4
    outbox.written(4, 4)
    second.join(PATIENCE)
    assert take(outbox) == [b"b"]


def test_what_was_only_counted_keeps_nobody_waiting() -> None:
    outbox = Outbox(max_events=4, max_bytes=100)
    put(outbox, *[b"x"] * 4)
    take(outbox)
    publisher = waiting(outbox, b"y")
    outbox._bytes = 1_000  # by publishers that were interrupted
    outbox.written(4, 4)
    assert not waiting_publishers(outbox), "it would wait for its whole timeout"
    publisher.join(PATIENCE)
    assert take(outbox) == [b"y"]


def test_who_gives_up_lets_in_those_behind() -> None:
    outbox = Outbox(max_events=4, max_bytes=100)
    put(outbox, b"x", b"x")

    def publish_too_much() -> None:
        with pytest.raises(PublishTimeoutError):
            put(outbox, *[b"a"] * 4, timeout=UNIT / 4)

    def come_later() -> None:
        eventually(lambda: waiting_publishers(outbox), "a waiting publisher")
        put(outbox, b"b", timeout=PATIENCE)

    run_threads(publish_too_much, come_later)
    assert take(outbox) == [b"x", b"x", b"b"]


@pytest.mark.concurrent
def test_nobody_starves_beside_those_who_want_less() -> None:
    outbox = Outbox(max_events=100, max_bytes=2**20)
    loop = Loop(outbox)
    over = threading.Event()

    def little() -> None:
        while not over.is_set():
            put(outbox, b"x", timeout=PATIENCE)

    def much() -> None:
        try:
            for _ in range(30):
                put(outbox, *[b"y"] * 90, timeout=UNIT)
        finally:
            over.set()

    with loop.running():
        run_threads(much, little, little, little, little)
    assert loop.taken.count(b"y") == 30 * 90


@pytest.mark.parametrize("end", [Outbox.close, Outbox.seal, Outbox.disown])
def test_an_end_releases_publishers(end: Callable[[Outbox], object]) -> None:
    outbox = Outbox(max_events=1, max_bytes=100)
    put(outbox, b"x")

    def publish() -> None:
        with pytest.raises(BusClosedError):
            put(outbox, b"x", timeout=None)

    def finish() -> None:
        eventually(lambda: waiting_publishers(outbox) == 3, "three waiting publishers")
        end(outbox)

    run_threads(publish, publish, publish, finish)
    assert outbox.depth() == (1, 1)


# -- between threads and a loop


class Loop:
    """Takes from an outbox on a loop of its own, as the pump does, until it is told to end."""

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self.taken: list[bytes] = []
        self.ending = False
        self.sleeps = self.calls = 0

    def take(self) -> bool:
        frames = take(self.outbox)
        self.taken += frames
        self.outbox.written(len(frames), sum(map(len, frames)))
        return bool(frames)

    def at_once(self) -> bool:
        self.calls += 1
        return self.calls % 2 == 0 and self.take()

    async def _run(self) -> None:
        while True:
            if not self.take():
                if self.ending:
                    return
                self.sleeps += 1
                await self.outbox.wait(self.at_once)

    @contextmanager
    def running(self) -> Iterator[None]:
        thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self.ending = True
            while thread.is_alive():
                self.outbox.wake()
                thread.join(0.01)


@contextmanager
def frequent_switches() -> Iterator[None]:
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)


@pytest.mark.concurrent
@pytest.mark.parametrize("max_events", [3, 100, 1_000_000])
def test_every_frame_is_taken_once_in_the_order_of_its_thread(max_events: int) -> None:
    threads, each = 4, 3_000
    outbox = Outbox(max_events, 2**30)
    loop = Loop(outbox)

    def publish(thread: int) -> None:
        for n in range(each):
            put(outbox, b"%d %d" % (thread, n), timeout=PATIENCE)

    with loop.running(), frequent_switches():
        run_threads(*(lambda t=t: publish(t) for t in range(threads)))  # type: ignore[misc]
        eventually(lambda: outbox.depth() == (0, 0), "an empty outbox")
    for thread in range(threads):
        mark = b"%d " % thread
        assert [frame for frame in loop.taken if frame.startswith(mark)] == [mark + b"%d" % n for n in range(each)]
    assert outbox.position() == threads * each
    assert (outbox._bytes, outbox._held_events, outbox._held_bytes) == (0, 0, 0)


@pytest.mark.slow
@pytest.mark.concurrent
def test_the_loop_does_not_sleep_beside_a_frame() -> None:
    outbox = Outbox(100, 2**20)
    loop = Loop(outbox)
    with loop.running():
        for n in range(3_000):
            put(outbox, b"x")
            eventually(lambda n=n: len(loop.taken) > n, "the frame")  # type: ignore[misc]
    assert min(loop.sleeps, loop.calls / 2) > 1_000


@pytest.mark.concurrent
@pytest.mark.parametrize("times", first_of([20, 100]))
@pytest.mark.parametrize("together", [1, 3])
def test_what_comes_in_while_it_is_sealed_is_taken_or_refused(together: int, times: int) -> None:
    for _ in range(times):
        publish_while_it_is_sealed(together)


def publish_while_it_is_sealed(together: int) -> None:
    outbox = Outbox(1_000_000, 2**30)
    taken: list[bytes] = []
    accepted: list[bytes] = []
    started = threading.Barrier(4)

    def publish(thread: int) -> None:
        started.wait(PATIENCE)
        with suppress(BusClosedError):
            for n in range(1_000_000):
                frames = [b"%d %d %d" % (thread, n, at) for at in range(together)]
                put(outbox, *frames)
                accepted.extend(frames)

    def end() -> None:
        started.wait(PATIENCE)
        taken.extend(take(outbox))
        outbox.close()
        taken.extend(take(outbox))
        outbox.seal()

    with frequent_switches():
        run_threads(end, *(lambda t=t: publish(t) for t in range(3)))  # type: ignore[misc]
    assert sorted(taken + take(outbox)) == sorted(accepted)


def test_what_comes_after_the_end_is_refused_as_a_whole() -> None:
    outbox = Outbox(max_events=9, max_bytes=100)

    def make() -> list[bytes]:
        outbox.seal()
        return [b"1", b"2", b"3"]

    with pytest.raises(BusClosedError):
        outbox.put_many(3, 3, make, 0)
    assert outbox.depth() == (0, 0)


def test_nothing_waits_on_a_loop_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """The collector may run a finalizer there, which publishes; the loop would wait for itself."""
    outbox = Outbox(max_events=1, max_bytes=100)
    put(outbox, b"x")
    monkeypatch.setattr("aether_sync._nats.outbox.loop_threads", {threading.get_ident()})
    with pytest.raises(PublishTimeoutError, match="within 0 s"):
        put(outbox, b"x", timeout=PATIENCE)


class Cycle:
    """Garbage whose finalizer publishes, wherever the collector comes by."""

    def __init__(self, outbox: Outbox) -> None:
        self.me = self
        self.outbox = outbox

    def __del__(self) -> None:
        put(self.outbox, b"x")


@pytest.mark.concurrent
def test_what_there_is_can_be_counted_whatever_the_collector_does() -> None:
    outbox = Outbox(1_000_000, 2**30)
    threshold = gc.get_threshold()
    gc.set_threshold(2)
    try:
        for _ in range(2_000):
            put(outbox, *[b"x"] * 2)
            for _ in range(random.randrange(30)):
                put(outbox, b"x")
            Cycle(outbox)
            outbox.depth()
            frames = take(outbox)
            outbox.written(len(frames), len(frames))
    finally:
        gc.set_threshold(*threshold)
    assert outbox.position() >= 2_000 * 3


@pytest.mark.concurrent
def test_what_a_bus_published_is_counted_exactly_whatever_traces_it(local_bus: EventBus) -> None:
    def publish() -> None:
        for _ in range(300):
            local_bus.publish_many("n", events)
            local_bus.publish("n", events[0])
            local_bus.try_publish("n", events[0])

    events = [make_event(1)] * 2
    with frequent_switches(), tracing():
        run_threads(*[publish] * 8)
    assert local_bus.metrics().published == 8 * 300 * 4


# -- under signal handlers


def test_interrupted_publishers_leave_an_outbox_that_works() -> None:
    outbox = Outbox(50, 2**20)
    loop = Loop(outbox)
    with loop.running():
        hammer(INTERRUPTS // 10, lambda: put(outbox, b"x", timeout=PATIENCE))
        for _ in range(100):
            put(outbox, b"y", timeout=PATIENCE)
        eventually(lambda: loop.taken.count(b"y") == 100, "all of them")
    assert outbox.depth() == (0, 0)
    assert len(loop.taken) == outbox.position()


MakeBus = Callable[..., NATSEventBus]


@pytest.fixture
def no_shortcut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Shortcut, "carry", lambda self, frame: False)


@pytest.mark.usefixtures("no_shortcut")
def test_what_a_handler_publishes_meanwhile_is_sent_too(make_bus: MakeBus, keep: Keep) -> None:
    here, there = make_bus(), make_bus()
    events = keep(here.subscribe("n"))
    there.start()
    with before(Outbox.put, "if wakeup is not None", lambda: there.publish("n", make_event(2))):
        there.publish("n", make_event(1))
    there.publish("n", make_event(3))
    assert [numbers([events.get(timeout=PATIENCE)])[0] for _ in range(3)] == [1, 2, 3]
    there.flush(PATIENCE)
    assert there.metrics().confirmed == 3


@pytest.mark.usefixtures("no_shortcut")
def test_a_handler_closes_before_the_event_is_in(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    with (
        before(Outbox.put, "frames.append(frame)", lambda: bus.close(PATIENCE)),
        pytest.raises(BusClosedError, match="nothing was published"),
    ):
        bus.publish("n", make_event())
    metrics = bus.metrics()
    assert (metrics.published, metrics.confirmed, metrics.outbox_events) == (0, 0, 0)


@pytest.mark.usefixtures("no_shortcut")
def test_a_handler_closes_when_the_event_is_in(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    with before(Outbox.put, "if self._sealed", lambda: bus.close(PATIENCE)):
        bus.publish("n", make_event())
    metrics = bus.metrics()
    assert (metrics.published, metrics.confirmed, metrics.outbox_events) == (1, 1, 0)


@pytest.mark.usefixtures("no_shortcut")
def test_an_event_whose_publisher_was_kept_from_waking_the_loop_goes_with_a_flush(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    eventually(lambda: loop_sleeps(bus), "a sleeping loop")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), before(Outbox.put, "wakeup.ring()", interrupt):
        bus.publish("n", make_event())
    bus.flush(PATIENCE)
    assert bus.metrics().confirmed == 1


@pytest.mark.parametrize("count", [1, 2])
def test_how_long_the_oldest_frame_has_waited(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    now = 100.0
    monkeypatch.setattr("aether_sync._nats.outbox.monotonic", lambda: now)
    outbox = Outbox(100, 10_000)
    assert outbox.age() == 0.0
    put(outbox, *[b"one"] * count)
    now = 103.0
    put(outbox, *[b"two"] * count)
    assert outbox.age() == 3.0
    take(outbox)  # the loop has them, and has written none
    now = 105.0
    put(outbox, *[b"three"] * count)
    assert outbox.age() == 5.0
    outbox.written(2 * count, 6 * count)
    now = 106.0
    assert outbox.age() == 1.0
    take(outbox)
    assert outbox.age() == 1.0
    outbox.written(count, 5 * count)
    assert outbox.age() == 0.0
