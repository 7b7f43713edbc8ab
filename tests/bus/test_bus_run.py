"""``bus.run()``: a handler on threads of its own."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from aether_sync import (
    CloseReport,
    Event,
    EventBus,
    InvalidOptionError,
    NATSEventBus,
    SubscriptionFilter,
    current_handling,
    flush_logs,
)

from ..support.common import PATIENCE, UNIT, eventually, make_event, numbers

pytestmark = pytest.mark.concurrent


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What handlers wait for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


def test_events_of_other_nodes_in_order(make_bus: Callable[..., NATSEventBus]) -> None:
    here, there, got = make_bus(), make_bus(), list[Event]()
    with here.run("n.*", got.append, filter=SubscriptionFilter(event_types={"Happened"})) as runner:
        for n in range(100):
            there.publish("n.a", make_event(n, event_type=("Happened", "Other")[n % 2]))
        eventually(lambda: len(got) == 50)
        assert runner.metrics().handled == 50
        assert runner.health().ok
    assert numbers(got) == list(range(0, 100, 2))
    assert not runner.health().alive
    assert runner.wait(0)


def test_a_failure_is_logged_once_and_counted_and_ends_nothing(
    local_bus: EventBus, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(event: Event) -> None:
        raise LookupError(event.actor_id)

    with local_bus.run("n", fail) as runner:
        local_bus.publish_many("n", [make_event(n) for n in range(5)])
        eventually(lambda: runner.metrics().failed == 5)
        assert runner.health().ok
    flush_logs()
    (record,) = caplog.records
    assert "test_a_failure_is_logged_once_and_counted_and_ends_nothing" in record.getMessage()
    assert record.exc_info
    assert record.actor == "thing-0"  # type: ignore[attr-defined]
    assert record.kind == "handler_failed"  # type: ignore[attr-defined]


def test_what_a_handler_sets_ends_with_it(local_bus: EventBus) -> None:
    seen: list[object] = []
    with local_bus.run("n", lambda event: seen.append(current_handling())):
        local_bus.publish("n", make_event(1))
        eventually(lambda: seen)
    assert getattr(seen[0], "actor", None) == "thing-1"


def test_closing_handles_what_is_queued_within_the_time(local_bus: EventBus, go_on: threading.Event) -> None:
    got: list[Event] = []

    def handle(event: Event) -> None:
        go_on.wait(PATIENCE)
        got.append(event)

    runner = local_bus.run("n", handle)
    local_bus.publish_many("n", [make_event(n) for n in range(10)])
    eventually(lambda: runner.metrics().busy == 1)
    assert runner.close(0.05 * UNIT) == CloseReport(handlers_left=1, timed_out=True)
    assert runner.metrics().dropped == 9
    go_on.set()
    assert runner.close(PATIENCE)
    assert len(got) == 1


def test_closing_the_bus_ends_it_behind_what_is_queued(go_on: threading.Event) -> None:
    bus, got = EventBus(), list[Event]()
    runner = bus.run("n", lambda event: (go_on.wait(PATIENCE), got.append(event)))
    bus.publish_many("n", [make_event(n) for n in range(10)])
    assert bus.close()
    assert not runner.wait(0)
    go_on.set()
    assert runner.wait(PATIENCE)
    assert len(got) == 10


def test_a_handler_may_close_it(local_bus: EventBus) -> None:
    reports: list[CloseReport] = []
    runner = local_bus.run("n", lambda event: reports.append(runner.close(PATIENCE)), threads=3)
    local_bus.publish_many("n", [make_event(n) for n in range(3)])
    assert runner.wait(PATIENCE)
    assert reports
    assert all(reports)


def test_a_handler_that_hangs_is_told_where_somebody_says_how_long_it_may_take(
    local_bus: EventBus, go_on: threading.Event
) -> None:
    with local_bus.run("n", lambda _: go_on.wait(PATIENCE)) as runner:
        local_bus.publish("n", make_event(1))
        eventually(lambda: runner.health().numbers["handlers"] == 1)
        assert runner.health().ok
        health = runner.health(hung_after=1e-9)
        assert not health.alive
        assert "has run for" in health.reasons[0]
        go_on.set()


@pytest.mark.parametrize(
    ("handler", "options", "says"),
    [
        (3, {}, "must be a function"),
        (lambda: None, {}, "must take an Event"),
        (print, {"threads": 0}, "threads"),
        (print, {"thread_start": 3}, "thread_start"),
        (print, {"maxsize": 0}, "maxsize"),
    ],
)
def test_what_is_wrong_begins_nothing(local_bus: EventBus, handler: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidOptionError, match=says):
        local_bus.run("n", handler, **options)
    assert local_bus.metrics().active_subscriptions == 0
