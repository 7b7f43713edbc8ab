"""The worker: what happens to events, to errors, and to what runs when it ends."""

import logging
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from aether_sync import (
    ANY_VERSION,
    ConnectError,
    Delivery,
    Event,
    EventBus,
    Failure,
    HandlingContext,
    InMemoryEventStore,
    InvalidOptionError,
    JetStreamEventStore,
    NATSEventBus,
    RetryPolicy,
    SQLite,
    StoreError,
    StreamMismatchError,
    SubscriptionOverflowError,
    Worker,
    WorkerError,
    current_handling,
    flush_logs,
)
from aether_sync._runtime import handler_threads
from aether_sync._runtime.threads import NoThreadError
from aether_sync.stores.consumers.retry_policy import doubling, pause_after

from ..support.common import PATIENCE, UNIT, eventually, make_event, numbers, run_threads
from ..support.stores import event, save

pytestmark = pytest.mark.concurrent


@pytest.fixture
def bus() -> Iterator[EventBus]:
    with EventBus() as bus:
        yield bus


@pytest.fixture
def memory() -> Iterator[InMemoryEventStore]:
    with InMemoryEventStore() as store:
        yield store


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What handlers wait for; set at the latest when the test ends."""
    event = threading.Event()
    yield event
    event.set()


class TestHandling:
    def test_events_of_the_bus_and_of_the_store_across_nodes(
        self, make_bus: Callable[..., NATSEventBus], make_store: Callable[..., JetStreamEventStore], tmp_path: Path
    ) -> None:
        bus, store = make_bus(), make_store(stream=f"s{uuid.uuid4().hex}")
        worker = Worker(bus=bus, store=store)
        seen: list[Event] = []
        mailed: list[int] = []
        worker.on("n.*")(seen.append)

        @worker.consume("mailer")
        def mail(delivery: Delivery) -> None:
            mailed.append(delivery.sequence)

        read = worker.project(store.project("p", lambda db, stored: None, into=SQLite(tmp_path / "read.db")))
        with worker:
            make_bus().publish("n.a", make_event(1))
            save(store, 20)
            store.consumer("mailer").wait_for(20, timeout=PATIENCE)
            read.wait_for(20, timeout=PATIENCE)
            eventually(lambda: seen)
            assert worker.health(timeout=PATIENCE).ok
        assert numbers(seen) == [1]
        assert sorted(mailed) == list(range(1, 21))
        assert not bus.closed
        assert not store.closed
        assert read.closed

    def test_one_thread_keeps_the_order(self, bus: EventBus) -> None:
        worker, got = Worker(bus=bus), list[Event]()
        worker.on("n")(got.append)
        with worker:
            bus.publish_many("n", [make_event(n) for n in range(200)])
            worker.drain(PATIENCE)
        assert numbers(got) == list(range(200))

    def test_several_threads_run_at_a_time(self, bus: EventBus) -> None:
        worker, together = Worker(bus=bus), threading.Barrier(3)
        worker.on("n", threads=3)(lambda _: together.wait(PATIENCE))
        with worker:
            bus.publish_many("n", [make_event(n) for n in range(3)])
            eventually(lambda: worker.metrics().handlers[0].handled == 3)

    def test_a_queue_group_shares_the_events_and_each_member_leaves_out_what_nobody_wants(
        self, make_bus: Callable[..., NATSEventBus]
    ) -> None:
        workers, got = [], list[Event]()
        for _ in range(2):
            worker = Worker(bus=make_bus())
            worker.on("n", queue_group="g", event_types={"Wanted"}, threads=2)(got.append)
            worker.start(PATIENCE)
            workers.append(worker)
        publisher = make_bus()
        publisher.publish_many("n", [make_event(n, event_type=("Wanted", "Other")[n % 2]) for n in range(100)])
        publisher.flush()

        def counted() -> int:
            found = [worker.metrics().handlers[0] for worker in workers]
            return sum(one.handled for one in found)

        eventually(lambda: counted() == 100)  # what is left out is a call that returned
        assert sorted(numbers(got)) == list(range(0, 100, 2))
        assert sum(worker.metrics().handlers[0].passed_by for worker in workers) == 50
        run_threads(*(worker.close for worker in workers))

    def test_the_handler_is_in_the_context_of_its_event(self, bus: EventBus, memory: InMemoryEventStore) -> None:
        contexts: list[HandlingContext | None] = []
        worker = Worker(bus=bus, store=memory)
        worker.on("n")(lambda event: contexts.append(current_handling()))
        worker.consume("c")(lambda delivery: contexts.append(current_handling()))
        with worker:
            bus.publish("n", make_event(1, actor_id="on"))
            memory.append("consume", event("consume"), expected_version=ANY_VERSION)
            eventually(lambda: len(contexts) == 2)
        found = {one.actor: (one.namespace, one.consumer) for one in contexts if one is not None}
        assert found == {"on": ("n", ""), "consume": ("", "c")}


class TestAround:
    def test_the_workers_own_is_outermost_and_gets_what_it_asks_for(
        self, bus: EventBus, memory: InMemoryEventStore
    ) -> None:
        said: list[str] = []

        @contextmanager
        def outer() -> Iterator[None]:
            said.append("outer")
            yield
            said.append("left")

        @contextmanager
        def inner(event: Event) -> Iterator[None]:
            said.append(f"inner {event.actor_id}")
            yield

        worker = Worker(bus=bus, store=memory, around=[outer])
        worker.on("n", around=[inner])(lambda event: said.append("on"))
        with worker:
            bus.publish("n", make_event(1))
            eventually(lambda: len(said) == 4)
        assert said == ["outer", "inner thing-1", "on", "left"]

    def test_it_sees_errors_and_may_suppress_them(self, memory: InMemoryEventStore) -> None:
        worker = Worker(store=memory)
        worker.consume("c", around=[lambda: suppress(ZeroDivisionError)])(lambda delivery: 1 / 0)
        with worker:
            save(memory, 1)
            memory.consumer("c").wait_for(1, timeout=PATIENCE)
        assert (worker.metrics().handlers[0].handled, worker.metrics().handlers[0].failed) == (1, 0)

    def test_hooks_of_threads(self, bus: EventBus, memory: InMemoryEventStore) -> None:
        began, ended = list[int](), list[int]()
        worker = Worker(
            bus=bus,
            store=memory,
            thread_start=lambda: began.append(threading.get_ident()),
            thread_exit=lambda: ended.append(threading.get_ident()),
        )
        handled: set[int] = set()
        worker.on("n", threads=2)(lambda event: handled.add(threading.get_ident()))
        worker.consume("c", threads=3)(lambda delivery: handled.add(threading.get_ident()))
        with worker:
            bus.publish_many("n", [make_event(n) for n in range(10)])
            save(memory, 10)
            memory.consumer("c").wait_for(10, timeout=PATIENCE)
            eventually(lambda: len(began) == 5)
            assert not ended
        assert sorted(began) == sorted(ended)
        assert handled <= set(began)

    @pytest.mark.parametrize("kind", ["on", "consume"])
    def test_a_thread_start_that_raises_ends_the_handler(
        self, bus: EventBus, memory: InMemoryEventStore, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Worker(bus=bus, store=memory, thread_start=lambda: {}[0])
        (worker.on("n") if kind == "on" else worker.consume("c"))(lambda given: None)
        worker.start(PATIENCE)
        with pytest.raises(WorkerError, match="thread_start has raised KeyError"):
            worker.wait(PATIENCE)
        health = worker.health()
        assert not health.ok
        assert not health.alive
        assert "thread_start has raised" in str(health.reasons)
        worker.close()
        flush_logs()
        assert [one.kind for one in caplog.records] == ["runner_ended"]  # type: ignore[attr-defined]

    def test_a_thread_exit_that_raises_is_logged(self, bus: EventBus, caplog: pytest.LogCaptureFixture) -> None:
        worker = Worker(bus=bus, thread_exit=lambda: {}[0])
        worker.on("n")(lambda event: None)
        with worker:
            pass
        flush_logs()
        assert [one.getMessage() for one in caplog.records] == ["thread_exit has raised"]


class TestErrors:
    def test_they_are_logged_once_with_the_event_and_told_and_counted(
        self, bus: EventBus, memory: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[Failure] = []
        worker = Worker(bus=bus, store=memory, on_error=told.append)

        @worker.on("n")
        def on(event: Event) -> None:
            raise ZeroDivisionError(event.actor_id)

        @worker.consume("c", max_deliver=2, retry_delay=0.01)
        def consume(event: Event) -> None:
            raise ZeroDivisionError(event.actor_id)

        with worker:
            bus.publish_many("n", [make_event(n) for n in range(3)])
            save(memory, 1)
            eventually(lambda: len(told) == 5)
            eventually(lambda: memory.consumer("c").dead_letters())
        flush_logs()
        first, second = worker.metrics().handlers
        assert (first.kind, first.handled, first.failed) == ("on", 0, 3)
        assert (second.kind, second.of, second.failed, second.dead_letters) == ("consume", "c", 2, 1)
        assert {one.handler.rpartition(".")[2] for one in told} == {"on", "consume"}
        assert [one.delivery is None for one in told].count(True) == 3
        assert all(one.event and one.event.actor_id == str(one.error) for one in told)
        failed = [one for one in caplog.records if one.kind == "handler_failed"]  # type: ignore[attr-defined]
        assert len(failed) == 2
        assert all(one.levelno == logging.ERROR and one.exc_info and one.event_id for one in failed)  # type: ignore[attr-defined]

    def test_an_on_error_that_raises_changes_nothing(
        self, memory: InMemoryEventStore, caplog: pytest.LogCaptureFixture
    ) -> None:
        def tell(failure: Failure) -> None:
            raise LookupError

        worker, tries = Worker(store=memory, on_error=tell), list[int]()

        @worker.consume("c", retry_delay=0.01)
        def consume(delivery: Delivery) -> None:
            tries.append(delivery.attempt)
            if delivery.attempt == 1:
                raise ZeroDivisionError

        with worker:
            save(memory, 1)
            memory.consumer("c").wait_for(1, timeout=PATIENCE)
        flush_logs()
        assert tries == [1, 2]
        assert {one.getMessage().partition(" ")[0] for one in caplog.records} == {"on_error", "the"}

    def test_what_returns_a_coroutine_has_failed(self, bus: EventBus) -> None:
        async def work() -> None: ...

        worker = Worker(bus=bus)
        worker.on("n")(lambda event: work())
        with worker:
            bus.publish("n", make_event(1))
            eventually(lambda: worker.metrics().handlers[0].failed == 1)

    def test_even_an_exit_ends_nothing(self, bus: EventBus) -> None:
        worker = Worker(bus=bus)

        @worker.on("n")
        def leave(event: Event) -> None:
            raise SystemExit

        with worker:
            bus.publish_many("n", [make_event(n) for n in range(3)])
            eventually(lambda: worker.metrics().handlers[0].failed == 3)
            assert worker.health().ok

    @pytest.mark.slow
    def test_a_consumer_that_is_deleted_ends_the_wait(self, store: JetStreamEventStore) -> None:
        worker = Worker(store=store)
        worker.consume("c")(lambda delivery: None)
        worker.consume("other")(lambda delivery: None)
        worker.start(PATIENCE)
        store.consumer("c").delete()
        with pytest.raises(StoreError, match="'c'"):
            worker.wait(PATIENCE)
        assert not worker.health().alive
        assert worker.drain(PATIENCE)

    def test_an_overflow_that_fails_ends_the_wait(self, bus: EventBus, go_on: threading.Event) -> None:
        worker = Worker(bus=bus)
        worker.on("n", maxsize=1, overflow="fail")(lambda _: go_on.wait(PATIENCE))
        worker.start()
        for n in range(10):
            bus.publish("n", make_event(n))
        go_on.set()
        with pytest.raises(SubscriptionOverflowError):
            worker.wait(PATIENCE)
        worker.close()


class TestRetries:
    def test_delays_by_the_policy(self) -> None:
        policy = RetryPolicy((1, 10), jitter=0)
        assert [pause_after(policy, failures) for failures in (1, 2, 3, 99)] == [1.0, 10.0, 10.0, 10.0]
        found = {pause_after(RetryPolicy((1,), jitter=0.5), 1) for _ in range(100)}
        assert len(found) > 10
        assert all(1 <= pause <= 1.5 for pause in found)

    def test_of_seconds_they_double_up_to_a_minute(self) -> None:
        policy = doubling(1.0)
        assert [pause_after(policy, failures) for failures in (1, 2, 3, 6, 7, 1000)] == [1, 2, 4, 32, 60, 60]
        assert pause_after(doubling(1e-300), 1000) < 1e-280
        assert [pause_after(doubling(40), failures) for failures in (1, 2, 3)] == [40, 60, 60]
        assert [pause_after(doubling(300), failures) for failures in (1, 2, 1000)] == [300, 300, 300], (
            "as you have said"
        )

    @pytest.mark.parametrize(
        ("policy", "tries"),
        [
            (RetryPolicy((0.01,), never=(ValueError,)), 1),
            (RetryPolicy((0.01,), only=(OSError,)), 1),
            (RetryPolicy((0.01,), only=(LookupError, ValueError)), 3),
            (RetryPolicy((0.01,), never=(OSError,)), 3),
        ],
    )
    def test_after_which_errors(self, memory: InMemoryEventStore, policy: RetryPolicy, tries: int) -> None:
        worker, seen = Worker(store=memory), list[int]()

        @worker.consume("c", max_deliver=3, retry_delay=policy)
        def consume(delivery: Delivery) -> None:
            seen.append(delivery.attempt)
            raise UnicodeError("as it is")

        with worker:
            save(memory, 1)
            eventually(lambda: memory.consumer("c").dead_letters())
        assert seen == list(range(1, tries + 1))
        (letter,) = memory.consumer("c").dead_letters()
        assert letter.reason == "UnicodeError: as it is"


class TestItsEnd:
    def test_a_drain_handles_what_is_queued_and_a_close_drops_it(self, bus: EventBus, go_on: threading.Event) -> None:
        for end in ("drain", "close"):
            go_on.clear()
            worker, got = Worker(bus=bus), list[Event]()
            worker.on("n")(lambda event, got=got: (go_on.wait(PATIENCE), got.append(event)))  # type: ignore[misc]
            worker.start()
            bus.publish_many("n", [make_event(n) for n in range(10)])
            eventually(lambda worker=worker: worker.metrics().handlers[0].busy == 1)  # type: ignore[misc]
            threading.Timer(0.05, go_on.set).start()
            assert getattr(worker, end)(PATIENCE)
            assert len(got) == (10 if end == "drain" else 1)
            assert worker.metrics().handlers[0].dropped == (0 if end == "drain" else 9)

    def test_a_handler_that_takes_too_long_is_left_behind(
        self, bus: EventBus, memory: InMemoryEventStore, go_on: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker = Worker(bus=bus, store=memory)
        worker.on("n")(lambda _: go_on.wait(PATIENCE))
        worker.consume("c")(lambda _: go_on.wait(PATIENCE))
        worker.start()
        bus.publish_many("n", [make_event(n) for n in range(10)])
        save(memory, 1)
        eventually(lambda: worker.health().numbers["handlers"] == 2)
        report = worker.drain(0.1 * UNIT)
        assert (report.handlers_left, report.timed_out) == (2, True)
        assert worker.metrics().handlers[0].dropped == 9
        flush_logs()
        assert [one.kind for one in caplog.records] == ["handlers_left"] * 2  # type: ignore[attr-defined]
        go_on.set()
        eventually(lambda: worker.drain(PATIENCE))

    def test_what_no_handler_has_begun_is_given_back(self, store: JetStreamEventStore, go_on: threading.Event) -> None:
        worker = Worker(store=store)
        worker.consume("c", threads=1)(lambda _: go_on.wait(PATIENCE))
        worker.start()
        save(store, 50)
        eventually(lambda: worker.metrics().handlers[0].busy and store.consumers()[0].unacknowledged > 1)
        threading.Timer(0.1, go_on.set).start()
        assert worker.drain(PATIENCE)
        other, got = Worker(store=store), list[int]()
        other.consume("c")(lambda delivery: got.append(delivery.sequence))
        with other:
            store.consumer("c").wait_for(50, timeout=PATIENCE)
        assert sorted(got) == list(range(2, 51))

    @pytest.mark.parametrize("kind", ["on", "consume"])
    def test_a_handler_may_end_it(self, bus: EventBus, memory: InMemoryEventStore, kind: str) -> None:
        worker, reports = Worker(bus=bus, store=memory), list[object]()
        register = worker.on("n", threads=2) if kind == "on" else worker.consume("c", threads=2)
        register(lambda given: reports.append(worker.drain(PATIENCE)))
        worker.start()
        for actor in ("a", "b"):
            bus.publish("n", make_event(1))
            memory.append(actor, event(actor), expected_version=ANY_VERSION)
        assert worker.wait(PATIENCE)
        eventually(lambda: reports)
        assert worker.drain(PATIENCE)
        assert all(reports)

    def test_it_starts_once(self, bus: EventBus) -> None:
        worker = Worker(bus=bus)
        worker.on("n")(lambda event: None)
        worker.start()
        with pytest.raises(WorkerError, match="started already"):
            worker.start()
        with pytest.raises(WorkerError, match="started already: give it the handler"):
            worker.on("m")(lambda event: None)
        assert worker.health().ok, "neither has harmed it"
        worker.close()
        with pytest.raises(WorkerError, match="closed already"):
            worker.start()
        assert worker.close()

    def test_a_start_that_fails_ends_what_has_begun(
        self, make_store: Callable[..., JetStreamEventStore], bus: EventBus
    ) -> None:
        store = make_store()
        store.consumer("c", max_deliver=7).iterate().close()
        worker = Worker(bus=bus, store=store)
        worker.on("n")(lambda event: None)
        worker.consume("c", max_deliver=5)(lambda delivery: None)
        with pytest.raises(StreamMismatchError, match=r"'c'.*max_deliver is 7, not 5"):
            worker.start(PATIENCE)
        assert worker.closed
        assert bus.metrics().active_subscriptions == 0

    @pytest.mark.parametrize("at", [1, 2])
    def test_a_thread_that_cannot_be_had_ends_what_has_begun(
        self, bus: EventBus, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        started: list[threading.Thread] = []

        def start(thread: threading.Thread) -> None:
            started.append(thread)
            if len(started) > at:
                raise NoThreadError("no memory", is_passing=True)
            thread.start()

        monkeypatch.setattr(handler_threads, "start", start)
        worker = Worker(bus=bus)
        worker.every(60)(lambda: None)
        worker.on("n", threads=3)(lambda event: None)
        with pytest.raises(WorkerError, match="no thread for a handler: no memory"):
            worker.start()
        assert worker.closed
        assert bus.metrics().active_subscriptions == 0
        for thread in started[:at]:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def test_an_exception_of_a_signal_handler_in_the_middle_of_its_start(
        self, make_store: Callable[..., JetStreamEventStore], bus: EventBus
    ) -> None:
        worker = Worker(bus=bus, store=make_store("nats://127.0.0.1:1", connect="background"))
        worker.on("n")(lambda event: None)
        worker.consume("c")(lambda delivery: None)

        def interrupt(*_: object) -> None:
            raise InterruptedError

        before = signal.signal(signal.SIGALRM, interrupt)
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            with pytest.raises(InterruptedError):
                worker.start()
        finally:
            signal.signal(signal.SIGALRM, before)
        assert worker.closed
        assert bus.metrics().active_subscriptions == 0

    def test_a_closed_store_ends_the_wait(self, bus: EventBus, memory: InMemoryEventStore) -> None:
        worker = Worker(store=memory)
        worker.consume("c")(lambda delivery: None)
        worker.start()
        memory.close()
        assert worker.wait(PATIENCE)
        worker.close()

    def test_what_is_left_of_a_runner_are_handlers_and_no_other_threads(
        self, memory: InMemoryEventStore, go_on: threading.Event, caplog: pytest.LogCaptureFixture
    ) -> None:
        worker, leaving = Worker(store=memory, thread_exit=lambda: go_on.wait(PATIENCE)), threading.Event()
        worker.consume("quick", threads=2)(lambda _: None)
        worker.consume("slow", threads=2)(lambda _: leaving.wait(PATIENCE))
        worker.start()
        save(memory, 1)
        eventually(lambda: worker.health().numbers["handlers"] == 1)
        assert worker.drain(0.2 * UNIT).handlers_left == 1
        flush_logs()
        said = {one.consumer: one.getMessage() for one in caplog.records}  # type: ignore[attr-defined]
        leaving.set()
        go_on.set()
        assert said["slow"].count("aether-worker") == 1
        assert "leaves handlers behind, on aether-worker-" in said["slow"]
        assert "leaves threads behind that call no handler, aether-worker-" in said["quick"]
        eventually(lambda: not [one for one in threading.enumerate() if one.name.startswith("aether-worker")])

    def test_a_projection_that_it_cannot_close_or_begin_is_refused(
        self, memory: InMemoryEventStore, tmp_path: Path
    ) -> None:
        projection = memory.project("p", lambda db, stored: None, into=SQLite(tmp_path / "read.db"))
        with InMemoryEventStore() as other:
            for worker, says in ((Worker(), "has none"), (Worker(store=other), "has another one")):
                with pytest.raises(InvalidOptionError, match=f"projection 'p' is of a store .* {says}"):
                    worker.project(projection)
        projection.start(PATIENCE)
        with pytest.raises(InvalidOptionError, match="projection 'p' is started already: the worker starts it"):
            Worker(store=memory).project(projection)

    def test_a_close_while_it_starts(self, memory: InMemoryEventStore, go_on: threading.Event) -> None:
        worker = Worker(store=memory)
        for n in range(20):
            worker.consume(f"c{n}")(lambda delivery: None)

        def start() -> None:
            with suppress(WorkerError):
                worker.start()

        run_threads(start, worker.close)
        worker.close()
        assert not worker.health().ok
        with suppress(WorkerError):  # it may have come first
            worker.start()
        worker.close()

    def test_in_a_forked_child_it_may_be_started(self, bus: EventBus) -> None:
        worker, got, turns = Worker(bus=bus), list[Event](), list[int]()
        worker.on("n")(got.append)
        worker.every(1000)(lambda: turns.append(os.getpid()))
        worker.start()
        bus.publish("n", make_event(1))
        eventually(lambda: got and turns and worker.metrics().handlers[0].handled)
        read, write = os.pipe()
        child = os.fork()
        if not child:
            with suppress(BaseException):
                assert not worker.health().ok
                assert worker.metrics().handlers[0].handled == 0
                with worker:
                    bus.publish("n", make_event(2))
                    eventually(lambda: os.getpid() in turns)
                    assert worker.drain(PATIENCE)
                os.write(write, str(numbers(got)).encode())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(write)
        assert os.read(read, 99) == b"[1, 2]"
        os.close(read)
        assert worker.health().ok
        worker.close()


class TestAState:
    def test_of_one_that_is_not_started(self, bus: EventBus) -> None:
        worker = Worker(bus=bus)
        worker.on("n", threads=2)(lambda event: None)
        health = worker.health()
        assert (health.ok, health.alive) == (False, True)
        (metrics,) = worker.metrics().handlers
        assert (metrics.threads, metrics.handled, metrics.of) == (2, 0, "n")
        assert "not started" in repr(worker)
        with pytest.raises(WorkerError, match="nothing to do"):
            Worker(bus=bus).start()

    def test_a_server_that_is_away_is_the_error_of_the_start(self, make_bus: Callable[..., NATSEventBus]) -> None:
        worker = Worker(bus=make_bus("nats://127.0.0.1:1", connect_timeout=0.1))
        worker.on("n")(lambda event: None)
        with pytest.raises(ConnectError, match="not connected"):
            worker.start(PATIENCE)
        assert worker.closed


@pytest.mark.parametrize(
    ("name", "written"),
    [("on", "@worker.on('orders')"), ("consume", "@worker.consume('mailer')"), ("every", "@worker.every(60)")],
)
def test_a_decorator_without_parentheses_is_refused(
    name: str, written: str, bus: EventBus, memory: InMemoryEventStore
) -> None:
    decorator = getattr(Worker(bus=bus, store=memory), name)
    with pytest.raises(InvalidOptionError, match=rf"^@worker.{name} over .*make_event has no parentheses") as caught:
        decorator(make_event)
    assert str(caught.value).endswith(f": write {written}")


def test_a_store_that_would_keep_what_the_bus_publishes_is_refused() -> None:
    with pytest.raises(InvalidOptionError, match="a store of stream 'shop' would keep what a bus with prefix 'shop'"):
        Worker(bus=NATSEventBus(prefix="shop"), store=JetStreamEventStore(stream="shop"))
