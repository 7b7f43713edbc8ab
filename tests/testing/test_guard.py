"""``Guard``: what a test leaves behind is told by name, and what fails on another thread fails the test."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    Connection,
    Event,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    SQLite,
    Worker,
)
from aether_sync.testing import LogRecorder, _guard
from aether_sync.testing._guard import Guard

from ..support.common import PATIENCE, eventually, first_of


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "_GRACE", 0.2)


def event() -> Event:
    return Event(event_type="OrderPlaced", actor_id="order-1")


@contextmanager
def told(*parts: str) -> Iterator[LogRecorder]:
    """Within is a test that is told this; nothing if there is nothing to tell."""
    with LogRecorder() as logs:
        guard = Guard(logs)
        yield logs
        said = guard.complaint()
    assert bool(said) == bool(parts), said
    for part in parts:
        assert part in said


# -- what is left


def test_a_test_that_closes_everything_passes(server: NATSServer, prefix: str) -> None:
    with told(), NATSEventBus(server.url, prefix=prefix) as bus, JetStreamEventStore(bus.connection, prefix) as store:
        with bus.subscribe("n") as events, EventBus() as local, local.subscribe("n"):
            bus.publish("n", event())
            events.get(timeout=PATIENCE)
        store.append("order-1", event(), expected_version=0)
        with store.consumer("c").run(lambda delivery: None):
            store.consumer("c").wait_for(1, timeout=PATIENCE)


def test_an_unclosed_bus_is_named(server: NATSServer) -> None:
    with told("  - <NATSEventBus ", " is not closed"):
        bus = NATSEventBus(server.url)
        subscription = bus.subscribe("orders.*")
    subscription.close()
    bus.close()


def test_what_was_there_before_may_be_used_for_the_first_time(server: NATSServer, prefix: str) -> None:
    bus, connection = NATSEventBus(server.url, prefix=prefix), Connection(server.url)
    with told():
        bus.publish("n", event())
        connection.start()
    bus.close()
    connection.close()


def test_an_unclosed_store_and_its_runner_are_named(server: NATSServer, prefix: str) -> None:
    with told(f"  - <JetStreamEventStore '{prefix}' ", "  - <Runner of 'c'> is not closed"):
        store = JetStreamEventStore(server.url, prefix)
        store.append("order-1", event(), expected_version=0)
        store.consumer("c").run(lambda delivery: None)
    store.close()


def test_an_unclosed_connection_is_named(server: NATSServer) -> None:
    with told("  - <Connection nats://", " is not closed"):
        connection = Connection(server.url)
        connection.start()
    connection.close()


@pytest.mark.parametrize("is_new", [True, False])
def test_an_open_subscription_is_named(is_new: bool, local_bus: EventBus) -> None:
    with told("  - a subscription to 'orders.*' is not closed, of <EventBus "):
        bus = EventBus() if is_new else local_bus
        subscription = bus.subscribe("orders.*")
    subscription.close()


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_dropped_subscription_is_told_by_its_warning(local_bus: EventBus) -> None:
    with told():
        local_bus.subscribe("orders.*")


def reads(bus: EventBus, ready: threading.Event) -> None:
    with bus.subscribe("orders.*") as events:
        ready.set()
        for _ in events:
            pass


def test_a_thread_within_a_call_is_named_with_its_place(local_bus: EventBus) -> None:
    with told(f"  - thread 'reader' still runs, in reads() at {__file__}:"):
        ready = threading.Event()
        thread = threading.Thread(target=reads, args=(local_bus, ready), name="reader", daemon=True)
        thread.start()
        ready.wait(PATIENCE)
    local_bus.close()
    thread.join(PATIENCE)


@pytest.mark.parametrize("daemon", [True, False])
def test_another_thread_is_named_if_python_would_wait_for_it(daemon: bool) -> None:
    with told(*([] if daemon else ["  - thread 'other' still runs"])):
        end = threading.Event()
        thread = threading.Thread(target=end.wait, name="other", daemon=daemon)
        thread.start()
    end.set()
    thread.join(PATIENCE)


def test_a_thread_that_is_just_ending_is_waited_for() -> None:
    with told():
        threading.Timer(0.05, lambda: None).start()


def test_threads_of_a_pool_are_left_out() -> None:
    with concurrent.futures.ThreadPoolExecutor() as pool, told():
        pool.submit(print).result(PATIENCE)


# -- what fails on another thread


def fails(*_: object) -> None:
    raise RuntimeError("the till is empty")


MESSAGES = (
    "while this test ran: the handler of consumer 'till' failed with event 1 (of order-1), attempt 1 of 1",
    "Traceback (most recent call last):",
    f'File "{__file__}"',
    "RuntimeError: the till is empty",
    "call aether_logs.expect('handler_failed')",
)


def work(store: InMemoryEventStore | JetStreamEventStore, handler: Callable[..., object] = fails) -> None:
    store.append("order-1", event(), expected_version=0)
    consumer = store.consumer("till", max_deliver=1)
    with consumer.run(handler), suppress(TimeoutError):
        consumer.wait_for(1, timeout=PATIENCE)


def test_a_handler_that_fails_fails_the_test(store: JetStreamEventStore) -> None:
    with told(*MESSAGES):
        work(store)


def test_a_handler_in_memory_as_well() -> None:
    with told(*MESSAGES), InMemoryEventStore() as store:
        work(store)


def test_a_failure_that_is_expected_is_none() -> None:
    with told() as logs, InMemoryEventStore() as store:
        work(store)
        logs.expect("handler_failed", consumer="till", within=PATIENCE)


@pytest.mark.parametrize("of", ["the bus", "the store"])
def test_a_handler_of_a_worker_that_fails_fails_the_test(of: str, local_bus: EventBus) -> None:
    with (
        told("while this test ran: the handler ", f'File "{__file__}"', "RuntimeError: the till is empty"),
        InMemoryEventStore() as store,
    ):
        has_run = threading.Event()

        def handler() -> None:
            has_run.set()
            fails()

        worker = Worker(bus=local_bus, store=store)
        worker.on("n")(lambda event: handler())
        worker.consume("c", max_deliver=1)(lambda delivery: handler())
        with worker:
            if of == "the bus":
                local_bus.publish("n", event())
            else:
                store.append("order-1", event(), expected_version=0)
            assert has_run.wait(PATIENCE)


def test_each_of_many_failures_is_told_and_those_of_one_kind_together() -> None:
    raised = "RuntimeError: the till is empty"
    with (
        told("(of order-0)", "and 49 more that were raised there:", f"(of order-49), attempt 1 of 1: {raised}"),
        InMemoryEventStore() as store,
    ):
        fail_often(store, 50)
    with told() as logs, InMemoryEventStore() as store:
        fail_often(store, 2)
        logs.expect("handler_failed", actor="order-0", within=PATIENCE)
        logs.expect("handler_failed", actor="order-1", within=PATIENCE)


def fail_often(store: InMemoryEventStore, times: int) -> None:
    for number in range(times):
        store.append(f"order-{number}", event().replace(actor_id=f"order-{number}"), expected_version=0)
    consumer = store.consumer("till", max_deliver=1)
    with consumer.run(fails, threads=1):
        consumer.wait_for(times, timeout=PATIENCE)


def test_a_failure_soon_after_that_of_another_test_is_told(local_bus: EventBus) -> None:
    """The first of a burst alone is logged, by a runner that outlives a test, say."""
    with local_bus.run("n", fails) as runner:
        for _ in "12":
            with told("the till is empty"):
                failed = runner.metrics().failed
                local_bus.publish("n", event())
                eventually(lambda failed=failed: runner.metrics().failed > failed)


@pytest.mark.parametrize("bus_is_closed", [False, True])
def test_a_worker_is_named_also_if_it_has_ended_with_its_bus(bus_is_closed: bool) -> None:
    bus = EventBus()
    with LogRecorder() as logs:
        guard = Guard(logs)
        worker = leave_a_worker(bus)
        guard.note_running()
        if bus_is_closed:
            bus.close()
        said = guard.complaint()
        worker.close()
        eventually(lambda: not guard.complaint())  # its threads are just ending
    bus.close()
    assert "  - <Worker with the handler " in said
    assert said.count("  - ") == 1, "its threads, runners and subscriptions belong to it"


def leave_a_worker(bus: EventBus) -> Worker:
    worker = Worker(bus=bus)
    worker.on("n")(lambda event: None)
    worker.start()
    return worker


def test_a_worker_that_ends_in_time_is_none(local_bus: EventBus) -> None:
    with LogRecorder() as logs:
        guard = Guard(logs)
        worker = leave_a_worker(local_bus)
        guard.note_running()
        worker.close()
        assert not guard.complaint()


def project(store: InMemoryEventStore | JetStreamEventStore, bus: EventBus, path: Path) -> Any:
    projection = store.project("rows", lambda db, event: None, into=SQLite(path))
    projection.start()
    return projection


LEFT: dict[str, tuple[Callable[[InMemoryEventStore | JetStreamEventStore, EventBus, Path], Any], str]] = {
    "a runner": (lambda store, bus, path: store.consumer("c").run(print), "<Runner of 'c'> is not closed"),
    "a consumption": (lambda store, bus, path: store.consumer("c").iterate(), "<Consumption 'c'"),
    "a follower": (lambda store, bus, path: store.follow(), " is not closed"),
    "a runner of a bus": (lambda store, bus, path: bus.run("n", print), "<SubscriptionRunner of 'n'> is not closed"),
    "a projection": (project, "<Projection 'rows' "),
}


@pytest.mark.parametrize("what", LEFT)
@pytest.mark.parametrize("where", first_of(["a server", "memory"]))
def test_what_has_a_close_is_named_once(
    what: str,
    where: str,
    store: JetStreamEventStore,
    memory_store: InMemoryEventStore,
    local_bus: EventBus,
    tmp_path: Path,
) -> None:
    make, name = LEFT[what]
    with LogRecorder() as logs:
        guard = Guard(logs)
        left = make(memory_store if where == "memory" else store, local_bus, tmp_path / "rows.db")
        said = guard.complaint()
        left.close()
        eventually(lambda: not guard.complaint())  # its threads are just ending
    assert name in said
    assert said.count("  - ") == 1, said


def test_a_callback_that_fails_fails_the_test() -> None:
    with told("while this test ran: the callback for 'closed' has raised", "RuntimeError: the till is empty"):
        bus = EventBus()
        bus.on(closed=fails)
        bus.close()


def test_both_are_told() -> None:
    with told(*MESSAGES, "a subscription to 'orders.*' is not closed"), InMemoryEventStore() as store:
        bus = EventBus()
        subscription = bus.subscribe("orders.*")
        work(store)
    subscription.close()
