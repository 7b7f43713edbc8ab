"""Signal handlers that close one bus, or publish, in the very middle of what is done with another.

Such a close() lets go of the guards that its thread holds, so that others come by where they could not otherwise.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable

import pytest

from aether_sync import EventBus, NATSEventBus, NATSServer, Subscription
from aether_sync._bus.counting import Counters
from aether_sync._bus.index import Index
from aether_sync._bus.queue import EventQueue
from aether_sync._bus.routing import Targets
from aether_sync._nats.engine import Engine
from aether_sync._nats.outbox import Outbox
from aether_sync._nats.shortcut import Shortcut
from aether_sync._runtime.locks import outside_locks, signal_safe_lock
from aether_sync._runtime.reporter import Kind, Reporter
from aether_sync._runtime.waits import ParkingLot
from aether_sync.connection import Connection

from ..support.common import PATIENCE, UNIT, Keep, eventually, first_of, make_event, numbers, run_threads
from ..support.inside import loop_sleeps, waiting_readers
from ..support.signals import before, closing_another

MakeBus = Callable[..., NATSEventBus]


@pytest.mark.parametrize("line", ["self.parked.append(ticket)", "if ready()"])
def test_a_reader_that_is_about_to_wait_is_woken(local_bus: EventBus, line: str) -> None:
    with (
        local_bus.subscribe("n") as events,
        before(ParkingLot.wait, line, closing_another(lambda: local_bus.publish("n", make_event(1)))),
    ):
        assert numbers([events.get(timeout=PATIENCE)]) == [1]


def test_a_route_that_was_computed_before_a_subscription_came_is_not_kept(local_bus: EventBus, keep: Keep) -> None:
    came: list[Subscription] = []
    handler = closing_another(lambda: came.append(keep(local_bus.subscribe("n"))))
    with before(Targets.route, "if len(self.routes)", handler):
        local_bus.publish("n", make_event(0))
    local_bus.publish("n", make_event(1))
    assert numbers([came[0].get(timeout=PATIENCE)]) == [1]


def test_an_interest_whose_last_subscription_leaves_meanwhile_is_not_shared(make_bus: MakeBus, keep: Keep) -> None:
    here, there = make_bus(), make_bus()
    first = keep(here.subscribe("n"))
    with before(NATSEventBus._share_interest, "interest.add(target)", closing_another(first.close)):
        events = keep(here.subscribe("n", timeout=PATIENCE))
    there.publish("n", make_event(1))
    assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.concurrent
@pytest.mark.parametrize("seconds", first_of([0.25 * UNIT, UNIT]))
def test_handlers_that_close_again_and_again_lock_nobody_out(seconds: float) -> None:
    """Two threads take the same guards, in their order; handlers let go of them, and take them back."""
    bus = EventBus()
    subscriptions = [bus.subscribe(f"n.{n}") for n in range(10)]
    over = threading.Event()

    def close_another(*_: object) -> None:
        EventBus().close()
        signal.setitimer(signal.ITIMER_REAL, 0.0005)  # only now: on a busy machine they would come faster than they go

    before_ = signal.signal(signal.SIGALRM, close_another)
    other = threading.Thread(target=lambda: [bus.metrics() for _ in iter(over.is_set, True)])
    other.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            bus.metrics()
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_)
        over.set()
        other.join(PATIENCE)
    assert not other.is_alive()
    bus.close()
    assert all(subscription.closed for subscription in subscriptions)


def test_guards_are_taken_back_while_others_hold_some() -> None:
    """In the other order, at that: whoever waits for one of them holds none."""
    one, two, over = signal_safe_lock(), signal_safe_lock(), threading.Event()

    def other() -> None:
        while not over.is_set():
            with two:
                time.sleep(0.0005)
                with one:
                    pass

    thread = threading.Thread(target=other, daemon=True)
    with one, two, one:
        thread.start()
        for _ in range(50):
            with outside_locks():
                time.sleep(0.001)
            assert one._is_owned()  # type: ignore[attr-defined]
            assert two._is_owned()  # type: ignore[attr-defined]
    over.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    assert one.acquire(blocking=False)
    one.release()


def test_a_reporter_that_is_closed_while_its_thread_starts_ends_it() -> None:
    reporter = Reporter()
    with before(Reporter._start, "self._thread = thread", lambda: reporter.close(PATIENCE)):
        reporter.warning(Kind.DROPS, "something")
    assert reporter._thread is not None
    reporter._thread.join(PATIENCE)
    assert not reporter._thread.is_alive()


# -- waking


@pytest.mark.parametrize("act", ["publishes", "closes"])
def test_a_handler_between_an_event_and_its_wake_up_leaves_no_reader_asleep(local_bus: EventBus, act: str) -> None:
    events = local_bus.subscribe("n")
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.extend(numbers(events)), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    eventually(lambda: waiting_readers(events._queue) == 3, "three parked readers")
    handler = {"publishes": lambda: local_bus.publish("n", make_event(2)), "closes": lambda: local_bus.close(PATIENCE)}
    with before(ParkingLot.wake, "deque(map(", handler[act]):  # type: ignore[arg-type]
        local_bus.publish("n", make_event(1))
    local_bus.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert sorted(got) == ([1, 2] if act == "publishes" else [1])


@pytest.mark.concurrent
@pytest.mark.parametrize("seconds", first_of([0.25 * UNIT, UNIT]))
def test_handlers_that_publish_leave_no_reader_asleep(local_bus: EventBus, seconds: float) -> None:
    events = local_bus.subscribe("n", maxsize=1_000_000)
    got: list[int] = []
    threads = [threading.Thread(target=lambda: got.extend(1 for _ in events), daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    published = 0

    def publish(*_: object) -> None:
        nonlocal published
        local_bus.publish("n", make_event(0))
        published += 1
        signal.setitimer(signal.ITIMER_REAL, 0.001)

    before_ = signal.signal(signal.SIGALRM, publish)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001)
        end, own = time.monotonic() + seconds, 0
        while time.monotonic() < end:
            local_bus.publish("n", make_event(0))
            own += 1
            if own % 10 == 0:
                time.sleep(1e-4)  # so that the readers park again
    finally:
        signal.signal(signal.SIGALRM, signal.SIG_IGN)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_)
    local_bus.close()
    for thread in threads:
        thread.join(PATIENCE)
    assert not any(thread.is_alive() for thread in threads)
    assert len(got) == own + published


def test_a_close_sends_what_its_publisher_was_kept_from_announcing(make_bus: MakeBus) -> None:
    bus = make_bus()
    bus.start()
    eventually(lambda: loop_sleeps(bus), "a loop that sleeps")

    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), before(Outbox.wake, "wakeup.ring()", interrupt):
        bus.publish_many("n", [make_event(1), make_event(2)])
    begun = time.monotonic()
    assert bus.close(PATIENCE)
    assert time.monotonic() - begun < PATIENCE / 2
    assert bus.metrics().confirmed == 2


def test_an_interrupted_close_ends_what_it_began(make_bus: MakeBus, server: NATSServer) -> None:
    known = set(threading.enumerate())
    bus, there = make_bus(), make_bus()
    with there.subscribe("n") as events:
        bus.start()
        bus.publish_many("n", [make_event(n) for n in range(3)])

        def interrupt() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt), before(Engine.close, "self.loop.call(", interrupt):
            bus.close(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE) for _ in range(3)]) == [0, 1, 2]
    there.close()
    eventually(lambda: not set(threading.enumerate()) - known, "the end of its threads")


# -- what nobody waits for: who holds it may be in a log handler, and wait for a lock whose holder publishes


@pytest.mark.parametrize(
    ("function", "line"),
    [
        (EventQueue.offer, "self._offered += 1"),
        (EventQueue.offer, "self._sizes.append"),
        (EventQueue._settled_counts, "return self._counts"),
        (Shortcut.carry, "written = map("),
        (Shortcut.carry, "rest = self._rest()"),
    ],
)
def test_who_publishes_waits_for_no_other_publisher(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch, function: Callable[..., object], line: str
) -> None:
    monkeypatch.setattr("aether_sync._nats.shortcut._ALONE", 0.0)
    bus, there = make_bus(), make_bus()
    with bus.subscribe("n") as here, there.subscribe("n") as remote:
        bus.publish("n", make_event(0))
        assert numbers([here.get(timeout=PATIENCE), remote.get(timeout=PATIENCE)]) == [0, 0]
        with before(function, line, lambda: run_threads(lambda: bus.publish("n", make_event(2)))):
            bus.publish("n", make_event(1))
            here.stats()
        assert sorted(numbers([here.get(timeout=PATIENCE) for _ in range(2)])) == [1, 2]
        assert sorted(numbers([remote.get(timeout=PATIENCE) for _ in range(2)])) == [1, 2]
        assert (here.stats().offered, here.stats().delivered) == (3, 3)


@pytest.mark.parametrize("function", [Index.add, Index.remove])
def test_who_publishes_waits_for_nobody_who_comes_or_goes(
    local_bus: EventBus, keep: Keep, function: Callable[..., object]
) -> None:
    events, other = keep(local_bus.subscribe("a", "b")), keep(local_bus.subscribe("c"))
    with before(function, "self.state = state", lambda: run_threads(lambda: local_bus.publish("b", make_event(1)))):
        keep(local_bus.subscribe("*"))
        other.close()
    local_bus.publish("b", make_event(2))
    assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 2]


@pytest.mark.parametrize(
    ("function", "line"),
    [(EventBus._measure, "open_ones = "), (Counters.fold_ended, "return ")],
    ids=["bus", "counters"],
)
def test_who_publishes_waits_for_nobody_who_measures(
    local_bus: EventBus, keep: Keep, function: Callable[..., object], line: str
) -> None:
    """Neither under a namespace for the first time, nor with a subscription that fails, or was dropped."""
    failing = keep(local_bus.subscribe("f", maxsize=1, overflow="fail"))

    def publish() -> None:
        local_bus.publish("new", make_event(1))
        for n in range(3):
            local_bus.publish("f", make_event(n))
        assert not local_bus.try_publish("no namespace", make_event(1))

    with before(function, line, lambda: run_threads(publish)):
        local_bus.metrics()
    assert failing.closed
    local_bus.publish("f", make_event(3))
    metrics = local_bus.metrics()
    assert (metrics.active_subscriptions, metrics.published, metrics.publish_errors) == (0, 5, 1)


def test_who_measures_over_a_subscribe_is_told_something(local_bus: EventBus, keep: Keep) -> None:
    with before(EventBus._admit, "self._members.add", lambda: local_bus.metrics()):
        keep(local_bus.subscribe("a"))
    with before(EventBus._admit, "self._counters.fold_ended", lambda: local_bus.metrics()):
        keep(local_bus.subscribe("b"))
    assert local_bus.metrics().active_subscriptions == 2


@pytest.mark.concurrent
def test_what_is_left_to_another_publisher_comes_once_and_in_order(local_bus: EventBus, fast_switching: None) -> None:
    each, publishers = 2_000, 4
    with local_bus.subscribe("n", maxsize=1_000_000) as events:

        def publish(actor: str) -> None:
            for n in range(each):
                local_bus.publish("n", make_event(n, actor_id=actor))

        def look() -> None:
            for _ in range(500):
                events.stats()

        run_threads(*(lambda k=k: publish(f"p-{k}") for k in range(publishers)), look)
        got = events.get_batch(each * publishers, timeout=PATIENCE)
        stats = events.stats()
    for k in range(publishers):
        assert [event.data["n"] for event in got if event.actor_id == f"p-{k}"] == list(range(each))  # type: ignore[index]
    assert (stats.offered, stats.delivered, stats.dropped) == (each * publishers, each * publishers, 0)


# -- the first use


def test_a_handler_that_publishes_over_the_first_use_makes_no_second_engine(own_server: NATSServer) -> None:
    with NATSEventBus(own_server.url) as reader, reader.subscribe("n") as events:
        known = set(threading.enumerate())
        bus = NATSEventBus(own_server.url)
        with before(Connection._make_engine, "finalizer = ", lambda: bus.publish("n", make_event(1))):
            bus.publish("n", make_event(2))
        assert [one.name[:11] for one in set(threading.enumerate()) - known] == ["aether-loop"]
        bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 2]
        assert bus.close(PATIENCE)


@pytest.mark.both_loops(False)
def test_a_log_handler_publishes_over_the_first_use(own_server: NATSServer, caplog: pytest.LogCaptureFixture) -> None:
    """asyncio logs which selector it uses, at DEBUG, when a loop is made."""

    class Publishing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asyncio_log.removeHandler(self)
            bus.publish("log", make_event(1))

    asyncio_log, bus = logging.getLogger("asyncio"), NATSEventBus(own_server.url)
    caplog.set_level(logging.DEBUG, asyncio_log.name)
    with NATSEventBus(own_server.url) as reader, reader.subscribe("*") as events:
        asyncio_log.addHandler(Publishing())
        bus.publish("n", make_event(2))
        bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 2]
    assert bus.close(PATIENCE)
