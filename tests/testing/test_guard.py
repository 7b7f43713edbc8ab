"""``guarded()``: what a test leaves behind is told by name, and what fails on another thread fails the test."""

import concurrent.futures
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from aether_sync import (
    Connection,
    Event,
    EventBus,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Worker,
)
from aether_sync.testing import LogRecorder, _guard
from aether_sync.testing._guard import guarded

from ..support.common import PATIENCE


@pytest.fixture(autouse=True)
def _short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_guard, "_GRACE", 0.2)


def event() -> Event:
    return Event(event_type="OrderPlaced", actor_id="order-1")


@contextmanager
def told(*parts: str, failed: bool = False) -> Iterator[LogRecorder]:
    """Within is a test that is told this; nothing if there is nothing to tell."""
    said = ""
    try:
        with LogRecorder() as logs, guarded(logs, lambda: failed):
            yield logs
    except AssertionError as error:
        said = str(error)
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
    with told(f"  - <JetStreamEventStore '{prefix}' ", "  - thread 'aether-worker-", "  - thread 'aether-taker-"):
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


def test_a_test_that_failed_is_told_nothing(local_bus: EventBus) -> None:
    with told(failed=True):
        subscription = local_bus.subscribe("orders.*")
    subscription.close()


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


def test_a_worker_that_is_not_drained_is_named_by_its_threads(local_bus: EventBus) -> None:
    with told("thread 'aether-"):
        worker = Worker(bus=local_bus)
        worker.on("n")(lambda event: None)
        worker.start()
    worker.close()


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
