"""Signal handlers that close one bus, or publish, in the very middle of what is done with another.

Such a close() lets go of the guards that its thread holds, so that others come by where they could not otherwise.
"""

import signal
import threading
import time
from collections.abc import Callable

import pytest

from aether_sync import EventBus, NATSEventBus, Subscription
from aether_sync._reporter import Kind, Reporter
from aether_sync._routing import Targets
from aether_sync._waiting import Parking, guard, outside_guards

from .conftest import PATIENCE, UNIT, make_event, run_threads
from .steps import before
from .suites import Keep, numbers

MakeBus = Callable[..., NATSEventBus]


def closing_another(meanwhile: Callable[[], object] = lambda: None) -> Callable[[], None]:
    """What a handler does: it closes a bus, and while that takes its time, something else happens in another thread."""

    class Slow(EventBus):
        def _finish(self, deadline: object) -> object:  # type: ignore[override]
            run_threads(meanwhile)
            return super()._finish(deadline)  # type: ignore[arg-type]

    other = Slow()
    return lambda: other.close(PATIENCE)  # type: ignore[return-value, func-returns-value]


@pytest.mark.parametrize("line", ["self.parked.append(ticket)", "if ready()"])
def test_a_reader_that_is_about_to_wait_is_woken(local_bus: EventBus, line: str) -> None:
    with (
        local_bus.subscribe("n") as events,
        before(Parking.wait, line, closing_another(lambda: local_bus.publish("n", make_event(1)))),
    ):
        assert numbers([events.get(timeout=PATIENCE)]) == [1]


def test_a_route_that_was_computed_before_a_subscription_came_is_not_kept(local_bus: EventBus, keep: Keep) -> None:
    came: list[Subscription] = []
    handler = closing_another(lambda: came.append(keep(local_bus.subscribe("n"))))
    with before(Targets.route, "if len(self._routes)", handler):
        local_bus.publish("n", make_event(0))
    local_bus.publish("n", make_event(1))
    assert numbers([came[0].get(timeout=PATIENCE)]) == [1]


def test_an_interest_whose_last_subscription_leaves_meanwhile_is_not_shared(make_bus: MakeBus, keep: Keep) -> None:
    here, there = make_bus(), make_bus()
    first = keep(here.subscribe("n"))
    with before(NATSEventBus._enter, "interest.add(target)", closing_another(first.close)):
        events = keep(here.subscribe("n", timeout=PATIENCE))
    there.publish("n", make_event(1))
    assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.concurrent
def test_handlers_that_close_again_and_again_lock_nobody_out() -> None:
    """Two threads take the same guards, in their order; handlers let go of them, and take them back."""
    bus = EventBus()
    subscriptions = [bus.subscribe(f"n.{n}") for n in range(10)]
    over = threading.Event()
    before_ = signal.signal(signal.SIGALRM, lambda *_: EventBus().close())
    other = threading.Thread(target=lambda: [bus.metrics() for _ in iter(over.is_set, True)])
    other.start()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0005)
        end = time.monotonic() + UNIT
        while time.monotonic() < end:
            bus.metrics()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before_)
        over.set()
        other.join(PATIENCE)
    assert not other.is_alive()
    bus.close()
    assert all(subscription.closed for subscription in subscriptions)


def test_guards_are_taken_back_while_others_hold_some() -> None:
    """In the other order, at that: whoever waits for one of them holds none."""
    one, two, over = guard(), guard(), threading.Event()

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
            with outside_guards():
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
