"""Log records: what they carry, that they can be waited for, and that a handler holds nobody up."""

import ast
import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextvars import Context, ContextVar
from pathlib import Path
from typing import Any

import pytest

import aether_sync
from aether_sync import (
    ANY_VERSION,
    CloseReport,
    Connection,
    DeliveryUncertainError,
    EventBus,
    EventStore,
    HandlingContext,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Notice,
    PermissionDeniedError,
    Snapshot,
    StoreError,
    current_handling,
    flush_logs,
)
from aether_sync._bus.routing import Targets
from aether_sync._runtime.reporter import Burst, Kind, Reporter, logger
from aether_sync._values.shown import explained

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, run_threads
from ..support.inside import outbox_of
from ..support.proxy import Proxy
from ..support.raw import RawClient
from ..support.signals import before

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]
PACKAGE = Path(aether_sync.__file__).parent


class Handler(logging.Handler):
    """Keeps what it is given; does something first."""

    def __init__(self, first: Callable[[logging.LogRecord], object] = lambda _: None) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []
        self._first = first

    def emit(self, record: logging.LogRecord) -> None:
        self._first(record)
        self.records.append(record)

    def of(self, kind: Kind) -> list[Any]:
        return [record for record in self.records if record.__dict__["kind"] == kind]


Use = Callable[..., Handler]


@pytest.fixture
def use() -> Iterator[Use]:
    """Adds handlers, and takes them away."""
    used: list[Handler] = []

    def add(first: Callable[[logging.LogRecord], object] = lambda _: None) -> Handler:
        handler = Handler(first)
        used.append(handler)
        logger.addHandler(handler)
        return handler

    level = logger.level
    logger.setLevel(logging.INFO)
    yield add
    logger.setLevel(level)
    for handler in used:
        logger.removeHandler(handler)


@pytest.fixture
def raw(server: NATSServer) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client


@pytest.fixture
def reporter() -> Iterator[Reporter]:
    reporter = Reporter()
    yield reporter
    reporter.close(PATIENCE)


def overflow(bus: EventBus) -> None:
    with bus.subscribe("n", maxsize=1):
        bus.publish_many("n", [make_event()] * 3)


def ignore_a_snapshot(store: EventStore) -> None:
    """Have a store log that it ignores a snapshot."""
    actor_id = f"of-{threading.get_ident()}-{time.monotonic_ns()}"
    store.append(actor_id, make_event(actor_id=actor_id), expected_version=0)
    store.save_snapshot(Snapshot(actor_id=actor_id, version=1, state={}))
    assert store.load(actor_id, schema_version=2).snapshot is None


# -- waiting for records


class TestFlush:
    def test_what_was_caused_before_has_been_logged(self, use: Use, local_bus: EventBus) -> None:
        handler = use(lambda _: time.sleep(0.05))
        for n in range(3):
            overflow(local_bus)
            assert flush_logs(PATIENCE)
            assert len(handler.records) == n + 1

    def test_of_all_buses(self, use: Use) -> None:
        handler = use(lambda _: time.sleep(0.05))
        buses = [EventBus() for _ in range(5)]
        for bus in buses:
            overflow(bus)
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 5
        for bus in buses:
            bus.close()

    def test_with_nothing_to_wait_for_it_starts_no_thread(self) -> None:
        bus = EventBus()
        closed = EventBus()
        closed.close()
        threads = threading.active_count()
        assert flush_logs(0)
        assert threading.active_count() == threads
        bus.close()

    def test_a_handler_that_blocks_takes_the_time_that_is_given(self, use: Use, reporter: Reporter) -> None:
        go = threading.Event()
        handler = use(lambda _: go.wait(PATIENCE))
        reporter.warning(Kind.DROPS, "first")
        reporter.warning(Kind.DROPS, "second")
        began = time.monotonic()
        assert not flush_logs(0.1)
        assert time.monotonic() - began < PATIENCE / 2
        assert not flush_logs(0)
        go.set()
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 2

    def test_a_handler_that_blocks_for_ever_costs_no_more_memory(self, use: Use, reporter: Reporter) -> None:
        go = threading.Event()
        use(lambda _: go.wait(PATIENCE))
        reporter.warning(Kind.DROPS, "something")
        for _ in range(100):
            assert not flush_logs(0)
        assert reporter._messages.qsize() <= 1
        go.set()
        assert flush_logs(PATIENCE)

    def test_a_handler_of_such_a_record_does_not_wait_for_itself(self, use: Use, reporter: Reporter) -> None:
        answers: list[bool] = []
        use(lambda _: answers.append(flush_logs(None)))
        reporter.warning(Kind.DROPS, "something")
        assert flush_logs(PATIENCE)
        assert answers == [False]

    def test_a_handler_of_another_record_waits(self, use: Use, reporter: Reporter) -> None:
        handler = use(lambda _: time.sleep(0.05))
        answers: list[bool] = []
        other = logging.getLogger("tests.other")
        asking = Handler(lambda _: answers.append(flush_logs(PATIENCE)))
        other.addHandler(asking)
        reporter.warning(Kind.DROPS, "something")
        other.warning("ask")
        other.removeHandler(asking)
        assert (answers, len(handler.records)) == ([True], 1)

    def test_after_a_close(self, use: Use, local_bus: EventBus) -> None:
        handler = use()
        overflow(local_bus)
        local_bus.close()
        assert flush_logs(PATIENCE)
        local_bus._reporter.warning(Kind.DROPS, "late")
        assert flush_logs(PATIENCE)
        assert [record.getMessage() for record in handler.records][1:] == ["late"]
        local_bus._reporter.warning(Kind.DROPS, "later")
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 3

    def test_of_a_bus_that_is_gone(self, use: Use) -> None:
        handler = use(lambda _: time.sleep(0.1))
        bus = EventBus()
        overflow(bus)
        del bus
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 1

    @pytest.mark.parametrize("error", [ZeroDivisionError, SystemExit, KeyboardInterrupt, pytest.fail.Exception])
    def test_a_handler_that_raises(self, use: Use, reporter: Reporter, error: type[BaseException]) -> None:
        called: list[Notice] = []

        def fail(_: object) -> None:
            raise error

        use(fail)
        for _ in range(2):
            reporter.warning(Kind.DROPS, "something")
            reporter.call(called.append, Notice(kind="connected"))
            assert flush_logs(PATIENCE)
        assert len(called) == 2

    def test_a_record_factory_that_sets_an_attribute_of_the_same_name(self, use: Use, reporter: Reporter) -> None:
        made = logging.getLogRecordFactory()

        def make(*given: Any, **more: Any) -> logging.LogRecord:
            record = made(*given, **more)
            record.namespace = record.kind = record.pod = "the user's"
            return record

        handler = use()
        logging.setLogRecordFactory(make)
        try:
            reporter.warning(Kind.DROPS, "something", namespace="orders")
            assert flush_logs(PATIENCE)
        finally:
            logging.setLogRecordFactory(made)
        (record,) = handler.of(Kind.DROPS)
        assert (record.namespace, record.pod) == ("orders", "the user's")

    @pytest.mark.parametrize("line", ["self._messages.put(message)", "if self._to_start"])
    def test_a_signal_handler_that_flushes_while_a_record_is_put(self, use: Use, reporter: Reporter, line: str) -> None:
        handler, answers = use(), []
        reporter.warning(Kind.DROPS, "first")
        assert flush_logs(PATIENCE)
        with before(Reporter._put, line, lambda: answers.append(flush_logs(PATIENCE))):
            reporter.warning(Kind.DROPS, "second")
        assert flush_logs(PATIENCE)
        assert answers == [True]
        assert len(handler.records) == 2

    @pytest.mark.parametrize("line", ["mark = self._mark = Reply()", "self._messages.put(mark)", "return mark"])
    def test_a_signal_handler_that_causes_a_record_while_one_flushes(
        self, use: Use, reporter: Reporter, line: str
    ) -> None:
        handler = use()
        reporter.warning(Kind.DROPS, "first")
        with before(Reporter.mark, line, lambda: reporter.warning(Kind.DROPS, "second")):
            assert flush_logs(PATIENCE)
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 2

    def test_a_signal_handler_that_flushes_amid_a_publish(
        self, use: Use, local_bus: EventBus, reporter: Reporter
    ) -> None:
        answers: list[bool] = []
        use(lambda _: local_bus.publish("another", make_event()))

        def flush() -> None:
            reporter.warning(Kind.DROPS, "something")
            answers.append(flush_logs(PATIENCE))

        with before(Targets.route, "if len(self.routes)", flush):
            local_bus.publish("one", make_event())
        assert answers == [True]
        assert local_bus.metrics().published == 2

    def test_an_interrupt_in_the_middle_leaves_it_usable(self, use: Use, reporter: Reporter) -> None:
        def fail() -> None:
            raise KeyboardInterrupt

        handler = use()
        reporter.warning(Kind.DROPS, "something")
        with pytest.raises(KeyboardInterrupt), before(Reporter.mark, "self._messages.put(mark)", fail):
            flush_logs(PATIENCE)
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 1

    @pytest.mark.concurrent
    def test_many_threads_each_find_their_own_record(self, use: Use) -> None:
        handler = use()
        reporters = [Reporter() for _ in range(3)]

        def work(me: int) -> None:
            for n in range(50):
                text = f"{me}: {n}"
                reporters[n % 3].warning(Kind.DROPS, text)
                assert flush_logs(PATIENCE)
                assert any(record.getMessage() == text for record in handler.records[-200:])

        run_threads(*(lambda me=me: work(me) for me in range(4)))  # type: ignore[misc]
        for one in reporters:
            one.close(PATIENCE)

    @pytest.mark.concurrent
    def test_while_buses_are_closed(self, use: Use) -> None:
        handler = use()

        def work() -> None:
            for _ in range(20):
                bus = EventBus()
                overflow(bus)
                bus.close()
                bus._reporter.warning(Kind.DROPS, "late")

        run_threads(*[work] * 3, *[lambda: [flush_logs(PATIENCE) for _ in range(100)]] * 2)
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 120

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
    def test_in_a_forked_child(self) -> None:
        program = """
import logging, os, threading, warnings
from aether_sync import Event, EventBus, flush_logs

warnings.simplefilter("ignore", DeprecationWarning)
said, parent, held = [], os.getpid(), threading.Event()

class Handler(logging.Handler):
    def emit(self, record):
        if os.getpid() == parent:
            held.wait()
        said.append(record.kind)

logging.getLogger("aether_sync").addHandler(Handler())
bus = EventBus()

def overflow():
    with bus.subscribe("n", maxsize=1):
        bus.publish_many("n", [Event(event_type="T", actor_id="a")] * 3)

overflow()
assert not flush_logs(0.05)
if not (child := os.fork()):
    ok = flush_logs(0) and not said
    overflow()
    os._exit(0 if ok and flush_logs(20) and said == ["drops"] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
held.set()
assert flush_logs(20) and said == ["drops"]
bus.close()
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE * 3)


# -- what records carry


def test_each_record_says_what_happened(use: Use, make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    handler, bus = use(), make_bus()
    with bus.subscribe("n", maxsize=1) as events:
        raw.publish(f"{prefix}.events.n", b"no event")
        raw.flush()
        eventually(lambda: bus.metrics().decode_errors == 1)
        bus.publish_many("n", [make_event()] * 5)
        assert flush_logs(PATIENCE)
    (undecoded,), (dropped,) = handler.of(Kind.DECODE_ERROR), handler.of(Kind.DROPS)
    assert dropped.subscription == "'n'"
    assert dropped.counts == {"maxsize": 4}
    assert type(dropped.kind) is str
    assert events.stats().dropped == 4
    assert undecoded.levelno == logging.WARNING
    assert pickle.loads(pickle.dumps(dropped)).kind == "drops"


@pytest.mark.fault
def test_of_a_connection_that_is_lost_and_comes_again(use: Use, server: NATSServer, prefix: str) -> None:
    handler = use()
    with Proxy(server.port) as proxy:
        url = f"nats://me:secret@127.0.0.1:{proxy.port}"
        bus = NATSEventBus(url, prefix=prefix, ping_interval=UNIT)
        bus.start()
        proxy.mute()
        bus.publish("n", make_event())
        eventually(lambda: outbox_of(bus).depth()[0] == 0, "the write")
        proxy.cut()
        proxy.restore()
        eventually(lambda: bus.metrics().reconnects == 1 and bus.is_connected, "another connection")
        with pytest.raises(DeliveryUncertainError):
            bus.flush(PATIENCE)
        assert flush_logs(PATIENCE)
        bus.close()
    kinds = [record.__dict__["kind"] for record in handler.records]
    assert kinds.index("disconnected") < kinds.index("uncertain")
    assert "reconnected" in kinds
    assert handler.of(Kind.UNCERTAIN)[0].counts == {"uncertain": 1}
    for kind in (Kind.DISCONNECTED, Kind.RECONNECTED):
        assert {record.url for record in handler.of(kind)} == {proxy.url}
    assert "secret" not in repr([record.__dict__ for record in handler.records])


def test_of_a_server_that_is_not_there(use: Use, free_port: int) -> None:
    handler = use()
    connection = Connection(f"nats://me:secret@127.0.0.1:{free_port}", connect_timeout=0.2)
    with pytest.raises(aether_sync.ConnectError):
        connection.start()
    eventually(lambda: flush_logs(PATIENCE) and handler.of(Kind.CONNECT_FAILED))
    (record,) = handler.of(Kind.CONNECT_FAILED)
    assert record.url == f"nats://127.0.0.1:{free_port}"
    assert not handler.of(Kind.RECONNECTED)
    with NATSServer(port=free_port):
        assert connection.wait_connected(PATIENCE)
        eventually(lambda: flush_logs(PATIENCE) and handler.of(Kind.RECONNECTED))
        connection.close()


def test_of_a_close_that_leaves_something_undone(use: Use, free_port: int) -> None:
    handler = use()
    bus = NATSEventBus(f"nats://127.0.0.1:{free_port}", connect_timeout=0.1)
    with pytest.raises(aether_sync.ConnectError):
        bus.start()
    bus.publish("n", make_event())
    bus.close(0.2)
    assert flush_logs(PATIENCE)
    (record,) = handler.of(Kind.CLOSE_REPORT)
    assert record.counts == {"unsent": 1, "uncertain": 0, "rejected": 0}


def test_of_a_handler_that_fails(use: Use, store: JetStreamEventStore, server: NATSServer) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("of the handler")

    handler = use()
    store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION)
    with store.consumer("c", max_deliver=1).run(fail):
        eventually(lambda: store.consumer("c").dead_letters(), "that it is given up")
    assert flush_logs(PATIENCE)
    (failed,), (gave_up,) = handler.of(Kind.HANDLER_FAILED), handler.of(Kind.GAVE_UP)
    assert failed.exc_info[0] is ZeroDivisionError
    assert "event 1 (of a), attempt 1 of 1" in failed.getMessage()
    for one in (failed, gave_up):
        assert (one.consumer, one.sequence, one.actor, one.counts) == ("c", 1, "a", {"attempts": 1})
        assert (one.stream, one.url) == (store.stream, server.url)
        assert "consumer 'c'" in one.getMessage()


def test_of_a_handler_that_fails_it_has_the_context(use: Use, store: JetStreamEventStore) -> None:
    request: ContextVar[str] = ContextVar("request", default="")  # such as a span, or what structlog binds

    def fail(_: object) -> None:
        request.set("of the handler")
        raise ZeroDivisionError

    def look(record: logging.LogRecord) -> None:
        seen.append((request.get(), current_handling()))
        request.set("of a log handler")

    seen: list[tuple[str, HandlingContext | None]] = []
    handler = use(look)
    event = make_event(actor_id="a", id="e-2").with_metadata(correlation_id="e-1")
    store.append("a", event, expected_version=ANY_VERSION)
    with store.consumer("c", max_deliver=1).run(fail):
        eventually(lambda: store.consumer("c").dead_letters(), "that it is given up")
    assert flush_logs(PATIENCE)
    (failed,), (gave_up,) = handler.of(Kind.HANDLER_FAILED), handler.of(Kind.GAVE_UP)
    for one in (failed, gave_up):
        assert (one.event_id, one.event_type, one.correlation_id) == ("e-2", event.event_type, "e-1")
        assert not hasattr(one, "namespace"), "the store has none"
    context = HandlingContext("e-2", event.event_type, "a", "", "e-1", "c", 1)
    assert seen == [("of the handler", context)] * 2


def test_of_many_events_that_are_given_up_one_is_logged(use: Use, store: JetStreamEventStore) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError("of the handler")

    handler = use()
    for n in range(5):
        store.append(f"a-{n}", make_event(actor_id=f"a-{n}"), expected_version=ANY_VERSION)
    with store.consumer("c", max_deliver=1).run(fail):
        eventually(lambda: len(store.consumer("c").dead_letters()) == 5, "that all are given up")
    assert flush_logs(PATIENCE)
    assert len(handler.of(Kind.HANDLER_FAILED)) == len(handler.of(Kind.GAVE_UP)) == 1


def test_of_what_the_server_refuses(use: Use, prefix: str) -> None:
    """Each record of a connection says of which, and its text is the same whatever it is about."""
    rights = f'{{ publish: "{prefix}.events.a", subscribe: "{prefix}.events.a" }}'
    config = f"authorization {{ users: [ {{ user: u, password: p, permissions: {rights} }} ] }}"
    handler = use()
    with (
        NATSServer(config=config) as server,
        NATSEventBus(server.url.replace("//", "//u:p@"), prefix=prefix) as bus,
    ):
        with pytest.raises(PermissionDeniedError):
            bus.subscribe("b")
        bus.publish("b", make_event())
        with pytest.raises(DeliveryUncertainError):
            bus.flush()
        assert flush_logs(PATIENCE)
        (denied,), (rejected,) = handler.of(Kind.SUBSCRIPTION_DENIED), handler.of(Kind.REJECTED)
        assert {denied.url, rejected.url} == {server.url}
        assert (denied.msg, denied.subscription) == ("a subscription is denied: %s", f"{prefix}.events.b")
        assert rejected.counts == {"rejected": 1}


def test_a_handler_of_a_store_holds_no_lock_and_may_use_it(use: Use, store: JetStreamEventStore) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    found: list[object] = []
    use(lambda _: run_threads(lambda: found.append(store.get_latest_version("a"))))
    store.append("a", make_event(actor_id="a"), expected_version=ANY_VERSION)
    with store.consumer("c", max_deliver=1).run(fail):
        eventually(lambda: len(found) == 2, "both records")
    assert found == [1, 1]


# -- of stores


@pytest.fixture(params=["memory", "jetstream"])
def any_store(request: pytest.FixtureRequest) -> Iterator[EventStore]:
    if request.param == "jetstream":
        yield request.getfixturevalue("store")
    else:
        with InMemoryEventStore() as store:
            yield store


class TestStores:
    def test_a_handler_that_blocks_holds_up_nobody(self, use: Use, any_store: EventStore) -> None:
        go, blocked = threading.Event(), threading.Event()
        handler = use(lambda _: (blocked.set(), go.wait(PATIENCE)))
        ignore_a_snapshot(any_store)
        assert blocked.wait(PATIENCE)
        with any_store.follow() as follower:
            stored = any_store.append("a", make_event(actor_id="a"), expected_version=0)
            ignore_a_snapshot(any_store)
            assert [follower.get(timeout=PATIENCE).event.actor_id for _ in range(2)][1] == "a"
        assert stored[0].sequence == 2
        began = time.monotonic()
        any_store.close()
        assert time.monotonic() - began < PATIENCE / 2
        assert not handler.records
        go.set()
        assert flush_logs(PATIENCE)
        assert len(handler.records) == 2

    @pytest.mark.concurrent
    def test_a_handler_that_blocks_does_not_hold_up_those_of_a_runner(self, use: Use, make_store: MakeStore) -> None:
        store = make_store()
        go, blocked, handled = threading.Event(), threading.Event(), []

        def work(delivery: Any) -> None:
            if delivery.sequence == 1:
                raise ZeroDivisionError
            handled.append(delivery.sequence)

        handler = use(lambda _: (blocked.set(), go.wait(PATIENCE)))
        store.save_events(make_event(actor_id="a", version=n + 1) for n in range(3))
        runner = store.consumer("c", max_deliver=1).run(work, threads=1)
        assert blocked.wait(PATIENCE)
        store.consumer("c").wait_for(3, timeout=PATIENCE)
        assert handled == [2, 3]
        began = time.monotonic()
        assert runner.close(PATIENCE)
        assert time.monotonic() - began < PATIENCE / 2
        assert not handler.records
        go.set()
        assert flush_logs(PATIENCE)
        assert [record.__dict__["kind"] for record in handler.records] == ["handler_failed", "gave_up"]

    def test_a_handler_may_use_and_close_the_store_that_logs(self, use: Use, any_store: EventStore) -> None:
        found: list[object] = []
        loaded = threading.Event()

        def close(_: logging.LogRecord) -> None:
            loaded.wait(PATIENCE)
            any_store.append("log", make_event(actor_id="log"), expected_version=0)
            found.append(any_store.get_latest_version("log"))
            began = time.monotonic()
            any_store.close()
            found.append(time.monotonic() - began < PATIENCE / 2)

        use(close)
        ignore_a_snapshot(any_store)
        loaded.set()
        assert flush_logs(PATIENCE)
        assert found == [1, True]

    def test_a_handler_may_close_the_runner_that_logs(self, use: Use, store: JetStreamEventStore) -> None:
        def fail(_: object) -> None:
            ready.wait(PATIENCE)
            raise ZeroDivisionError

        ready, closed = threading.Event(), []
        use(lambda _: closed.append(runner.close(PATIENCE)))
        store.append("a", make_event(actor_id="a"), expected_version=0)
        runner = store.consumer("c", max_deliver=2).run(fail)
        ready.set()
        assert runner.wait(PATIENCE)
        assert flush_logs(PATIENCE)
        assert closed
        assert set(closed) == {CloseReport()}  # once more if the close had something to say

    def test_a_handler_that_raises_changes_nothing(self, use: Use, make_store: MakeStore) -> None:
        def fail(what: Any) -> None:
            if isinstance(what, logging.LogRecord) or what.attempt == 1:
                raise ZeroDivisionError

        store, handler = make_store(), use(fail)
        ignore_a_snapshot(store)
        with store.consumer("c").run(fail, retry_delay=0.01):
            store.consumer("c").wait_for(1, timeout=PATIENCE)
        store.close()
        assert flush_logs(PATIENCE)
        assert not handler.records

    @pytest.mark.slow
    @pytest.mark.concurrent
    def test_what_a_closing_runner_has_to_say_is_logged_before_it_is_closed(
        self, use: Use, store: JetStreamEventStore
    ) -> None:
        handler, go, handles = use(lambda _: time.sleep(0.03)), threading.Event(), threading.Event()
        store.append("a", make_event(actor_id="a"), expected_version=0)
        runner = store.consumer("c").run(lambda _: (handles.set(), go.wait(PATIENCE)))
        assert handles.wait(PATIENCE)
        assert not runner.close(0)
        (left,) = handler.of(Kind.HANDLERS_LEFT)
        assert "the runner of consumer 'c' leaves handlers behind, on aether-" in left.getMessage()
        go.set()
        assert runner.wait(PATIENCE)
        other = store.consumer("d").run(print)
        store.consumer("d").delete()
        with pytest.raises(StoreError):
            other.wait(PATIENCE)
        other.close()
        assert len(handler.of(Kind.RUNNER_ENDED)) == 1

    @pytest.mark.parametrize("is_shared", [False, True])
    def test_what_a_closing_store_has_to_say_is_logged_before_it_is_closed(
        self, use: Use, make_store: MakeStore, server: NATSServer, is_shared: bool
    ) -> None:
        handler, go, handles = use(lambda _: time.sleep(0.03)), threading.Event(), threading.Event()
        with Connection(server.url) as connection:
            store = make_store(connection if is_shared else server.url)
            store.append("a", make_event(actor_id="a"), expected_version=0)
            runner = store.consumer("c").run(lambda _: (handles.set(), go.wait(PATIENCE)))
            assert handles.wait(PATIENCE)
            assert store.close(0.2 * UNIT).handlers_left == 1
            assert len(handler.of(Kind.HANDLERS_LEFT)) == 1
            go.set()
            assert runner.wait(PATIENCE)

    @pytest.mark.parametrize("is_logged", [False, True])
    def test_one_in_memory_that_nobody_closes_keeps_no_thread(self, use: Use, is_logged: bool) -> None:
        handler, threads = use(), set(threading.enumerate())
        store = InMemoryEventStore()
        if is_logged:
            ignore_a_snapshot(store)
        gone = weakref.ref(store)
        del store
        gc.collect()
        assert gone() is None
        assert flush_logs(PATIENCE)
        eventually(lambda: set(threading.enumerate()) <= threads, "the end of the thread")
        assert len(handler.records) == is_logged

    def test_before_the_first_use_and_after_the_close(self, use: Use) -> None:
        handler, threads = use(), set(threading.enumerate())
        store = JetStreamEventStore("nats://127.0.0.1:1")
        reporter = store._reporter
        reporter.warning(Kind.SNAPSHOT_IGNORED, "before")
        assert flush_logs(PATIENCE)
        store.close()
        assert set(threading.enumerate()) <= threads
        reporter.warning(Kind.SNAPSHOT_IGNORED, "after")
        assert flush_logs(PATIENCE)
        assert [record.getMessage() for record in handler.records] == ["before", "after"]
        unclosed = JetStreamEventStore("nats://127.0.0.1:1")
        unclosed._reporter.warning(Kind.SNAPSHOT_IGNORED, "unclosed")
        del unclosed
        gc.collect()
        eventually(lambda: set(threading.enumerate()) <= threads, "the end of the threads")
        assert len(handler.records) == 3

    def test_after_its_connection_was_closed(self, use: Use, make_store: MakeStore) -> None:
        handler, store = use(), make_store()
        store.start()
        store.connection.close()
        threads = set(threading.enumerate())
        for _ in range(3):
            store._reporter.warning(Kind.SNAPSHOT_IGNORED, "late")
        assert flush_logs(PATIENCE)
        assert len(handler.of(Kind.SNAPSHOT_IGNORED)) == 3
        eventually(lambda: set(threading.enumerate()) <= threads, "the end of the thread")

    def test_a_traceback_is_let_go_when_it_is_logged(
        self, use: Use, reporter: Reporter, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Owned:
            """Of a user, on the stack of his handler."""

        def fail() -> None:
            owned = Owned()
            kept.append(weakref.ref(owned))
            raise ZeroDivisionError

        monkeypatch.setattr(logger, "propagate", False)  # as pytest keeps records, too
        kept: list[weakref.ref[Owned]] = []
        texts: list[str] = []
        handler = use(lambda record: texts.append(logging.Formatter().format(record)))
        try:
            fail()
        except ZeroDivisionError as error:
            reporter.error(Kind.HANDLER_FAILED, "it failed", error=error)
        eventually(lambda: handler.records)  # no flush_logs(), whose mark would take the place of what the thread keeps
        assert "raise ZeroDivisionError" in texts[0]
        handler.records.clear()
        eventually(lambda: gc.collect() >= 0 and kept[0]() is None, "that it is let go")

    def test_a_context_is_let_go_when_it_was_used(self, use: Use, reporter: Reporter) -> None:
        class Owned:
            """Of a user, in a contextvar."""

        variable: ContextVar[Owned] = ContextVar("owned")
        context, owned = Context(), Owned()
        context.run(variable.set, owned)
        kept, seen = weakref.ref(owned), []
        handler = use(lambda _: seen.append(type(variable.get())))
        reporter.warning(Kind.GAVE_UP, "given up", context=context)
        reporter.error(Kind.HANDLER_FAILED, "it failed", context=context)
        del context, owned
        eventually(lambda: len(handler.records) == 2)
        assert seen == [Owned, Owned]
        eventually(lambda: gc.collect() >= 0 and kept() is None, "that it is let go")

    @pytest.mark.concurrent
    def test_those_of_one_thread_stay_in_order(self, use: Use, reporter: Reporter) -> None:
        def work(me: int) -> None:
            for n in range(200):
                (reporter.warning if n % 2 else reporter.error)(Kind.DROPS, "%d %d", me, n)

        handler = use()
        run_threads(*(lambda me=me: work(me) for me in range(4)))  # type: ignore[misc]
        assert flush_logs(PATIENCE)
        logged = [tuple(map(int, record.getMessage().split())) for record in handler.records]
        for me in range(4):
            assert [n for one, n in logged if one == me] == list(range(200))

    @pytest.mark.parametrize("end", first_of(["", "store.close()", "del store", "sys.exit(0)"]))
    def test_at_the_end_of_the_process(self, end: str) -> None:
        program = f"""
import logging, sys, time
from aether_sync import Event, InMemoryEventStore, Snapshot

class Handler(logging.Handler):
    def emit(self, record):
        time.sleep(0.05)
        print(record.kind, flush=True)

logging.getLogger("aether_sync").addHandler(Handler())
logging.getLogger("aether_sync").setLevel(logging.INFO)
store = InMemoryEventStore()
for actor_id in ("a", "b"):
    store.append(actor_id, Event(event_type="T", actor_id=actor_id), expected_version=0)
    store.save_snapshot(Snapshot(actor_id=actor_id, version=1, state={{}}))
    store.load(actor_id, schema_version=2)
{end}
"""
        done = subprocess.run(
            [sys.executable, "-c", program], check=True, timeout=PATIENCE * 3, capture_output=True, text=True
        )
        assert (done.stdout.split(), done.stderr) == (["snapshot_ignored"] * 2, "")

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
    def test_in_a_forked_child(self) -> None:
        program = """
import logging, os, threading, warnings
from aether_sync import Event, InMemoryEventStore, JetStreamEventStore, Snapshot, flush_logs
from aether_sync._runtime.reporter import Kind

warnings.simplefilter("ignore", DeprecationWarning)
said, parent, held = [], os.getpid(), threading.Event()

class Handler(logging.Handler):
    def emit(self, record):
        if os.getpid() == parent:
            held.wait()
        said.append(record.getMessage().partition(" at version")[0])

logging.getLogger("aether_sync").addHandler(Handler())
logging.getLogger("aether_sync").setLevel(logging.INFO)
here, there = InMemoryEventStore(), JetStreamEventStore("nats://127.0.0.1:1")

def cause(actor_id):
    here.append(actor_id, Event(event_type="T", actor_id=actor_id), expected_version=0)
    here.save_snapshot(Snapshot(actor_id=actor_id, version=1, state={}))
    here.load(actor_id, schema_version=2)
    there._reporter.warning(Kind.SNAPSHOT_DISCARDED, f"{actor_id} of another")

cause("before")
assert not flush_logs(0.05)
if not (child := os.fork()):
    ok = flush_logs(0) and not said
    cause("after")
    here.close()
    there.close()
    os._exit(0 if ok and sorted(said) == ["after of another", "the snapshot of actor 'after'"] else 1)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
held.set()
assert flush_logs(20) and sorted(said) == ["before of another", "the snapshot of actor 'before'"]
here.close()
there.close()
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE * 3)


# -- that none is without


@pytest.fixture(scope="module")
def calls() -> list[tuple[Path, ast.Call]]:
    return [
        (path.relative_to(PACKAGE), node)
        for path in sorted(PACKAGE.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    ]


def is_logging(called: ast.expr) -> bool:
    if isinstance(called, ast.Attribute) and called.attr in ("warning", "error", "info", "burst"):
        return "reporter" in ast.unparse(called.value)
    return False


def test_every_call_says_its_kind(calls: list[tuple[Path, ast.Call]]) -> None:
    logging_calls = [(path, node) for path, node in calls if is_logging(node.func)]
    assert len(logging_calls) > 20
    kinds = set()
    for path, node in logging_calls:
        kind = ast.unparse(node.args[0])
        assert kind.startswith("Kind."), f"{path}:{node.lineno} logs without a kind"
        kinds.add(kind.removeprefix("Kind."))
    # By internal_error(), by the call of a callback, and bound to it in advance.
    elsewhere = {"INTERNAL_ERROR", "CALLBACK_FAILED", "EVENT_LOOP"}
    assert kinds | elsewhere == set(Kind.__members__)


def test_nobody_else_logs(calls: list[tuple[Path, ast.Call]]) -> None:
    own = [(path, ast.unparse(node.func)) for path, node in calls if "logger" in ast.unparse(node.func).lower()]
    allowed = {"reporter.py", "node.py", "_commands.py", "_embedded.py", "_logs.py"}  # all but one choose what is shown
    allowed.add("_after_response.py")  # which uses the logger of the user's application
    assert {path.name for path, _ in own} <= allowed
    assert sorted(called for path, called in own if path.name == "reporter.py") == [
        "logger.handle", "logger.isEnabledFor", "logger.makeRecord", "logging.getLogger",
    ]  # fmt: skip


def test_what_goes_on_and_on_is_logged_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("aether_sync._runtime.reporter.monotonic", lambda: now)
    burst, logged = Burst(), []
    for _ in range(1_300):
        if burst.opens():
            logged.append(now - 1_000.0)
        now += 0.1
    assert logged == [0.0, pytest.approx(60.1), pytest.approx(120.2)]
    now += 5.1
    assert burst.opens(), "the first after a quiet time"


def test_what_no_file_can_write_is_escaped_in_errors() -> None:
    assert explained(ValueError("a \ud800")) == "ValueError: a \\ud800"
