"""What lacks for a moment ends nothing: no thread to be had, no file, no memory; and our threads have no one's context.

That a thread cannot be started is made up where Python starts it: no limit holds for root. Files lack really, in the
programs of ``tests/programs/lacks.py``.
"""

import contextvars
import gc
import logging
import socket
import threading
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aether_sync import (
    ConnectError,
    DeadlineExceededError,
    Delivery,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Runner,
    StoreError,
)
from aether_sync._runtime.reporter import Kind, Reporter, logger
from aether_sync._runtime.threads import NoThreadError, make_thread, start
from aether_sync.stores.base import ANY_VERSION

from ..programs import lacks
from ..programs.run import run
from ..support.common import PATIENCE, eventually, first_of, make_event
from ..support.inside import buffer_of, scheduler_of

MakeBus = Callable[..., NATSEventBus]
MakeStore = Callable[..., JetStreamEventStore]


class NoThreads:
    """While it lasts, threads of some name cannot be started; it counts who wanted to."""

    def __init__(self) -> None:
        self.refused = 0

    @contextmanager
    def called(self, name: str, error: Callable[[], Exception] | None = None) -> Iterator[None]:
        original = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            if thread.name.startswith(name):
                self.refused += 1
                raise RuntimeError("can't start new thread") if error is None else error()
            original(thread)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            yield


@pytest.fixture
def no_threads() -> NoThreads:
    """Whose threads are refused."""
    return NoThreads()


LACKS: list[Callable[[], Exception]] = [lambda: RuntimeError("can't start new thread"), MemoryError]


@pytest.mark.parametrize("lack", LACKS, ids=["thread", "memory"])
def test_a_lack_of_threads_passes_and_the_end_of_the_interpreter_does_not(
    no_threads: NoThreads, lack: Callable[[], Exception]
) -> None:
    with no_threads.called("aether-x", lack), pytest.raises(NoThreadError) as caught:
        start(make_thread(print, name="aether-x"))
    assert caught.value.is_passing
    with (
        no_threads.called("aether-x", lambda: RuntimeError("can't create new thread at interpreter shutdown")),
        pytest.raises(NoThreadError) as caught,
    ):
        start(make_thread(print, name="aether-x"))
    assert not caught.value.is_passing


# -- the first use


@pytest.mark.both_loops
@pytest.mark.parametrize("name", ["aether-loop-maker", "aether-loop"])
def test_a_first_use_without_a_thread_says_so_and_the_next_one_tries_again(
    make_bus: MakeBus, no_threads: NoThreads, name: str
) -> None:
    bus = make_bus()
    with no_threads.called(name):
        assert not bus.try_publish("n", make_event())
        for use in (bus.start, lambda: bus.publish("n", make_event()), lambda: bus.subscribe("n"), bus.wait_connected):
            with pytest.raises(ConnectError, match=r"can't start new thread\. The next call tries again; .*ulimit"):
                use()
    with bus.subscribe("n") as events:
        bus.publish("n", make_event(1))
        assert events.get(timeout=PATIENCE).actor_id == "thing-1"
    assert bus.close()


@pytest.mark.both_loops
def test_without_a_thread_no_name_is_looked_up_on_the_loop(
    make_bus: MakeBus, server: NATSServer, no_threads: NoThreads, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, asked_on = socket.getaddrinfo, set()

    def getaddrinfo(host: str, *question: Any, **more: Any) -> Any:
        if host == "localhost":
            asked_on.add(threading.current_thread().name.rstrip("0123456789"))
        return original(host, *question, **more)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    bus = make_bus(server.url.replace("127.0.0.1", "localhost"), connect_timeout=0.3)
    with no_threads.called("aether-lookup"), pytest.raises(ConnectError, match=r"aether-lookup-.* cannot be started"):
        bus.start()
    assert bus.wait_connected(PATIENCE)
    assert asked_on == {"aether-lookup-"}


@pytest.mark.both_loops
@pytest.mark.fault
def test_a_first_use_without_files_says_so_and_the_next_one_tries_again(server: NATSServer, prefix: str) -> None:
    output = run(lacks.no_files, server.url, prefix)
    assert len({line.split()[1] for line in output.splitlines()}) == 1, "files were left open"


@pytest.mark.both_loops
@pytest.mark.concurrent
@pytest.mark.parametrize("count", first_of([40, 200]))
def test_a_first_use_that_is_interrupted_leaves_no_file(server: NATSServer, prefix: str, count: int) -> None:
    run(lacks.interrupted_first_uses, server.url, prefix, count, says=None)


# -- the store


@pytest.mark.fault
@pytest.mark.parametrize("what", first_of(["consume", "follow", "run"]))
def test_an_iteration_waits_for_the_thread_that_it_needs(
    own_server: NATSServer, prefix: str, no_threads: NoThreads, make_store: MakeStore, what: str
) -> None:
    """The flow breaks off with the server, and no thread can be had that begins another."""
    store, seen = make_store(own_server.url), list[int]()

    def saw(delivery: Delivery) -> None:
        seen.append(delivery.sequence)

    def iterate() -> None:
        for one in iterator:
            seen.append(one.sequence)
            if isinstance(one, Delivery):
                one.ack()

    iterator: Any = None if what == "run" else store.follow() if what == "follow" else store.consumer("c").iterate()
    runner = store.consumer("c").run(saw) if what == "run" else None
    reader = threading.Thread(target=iterate) if runner is None else None
    if reader is not None:
        reader.start()
    store.append("a-1", make_event(1, actor_id="a-1"), expected_version=ANY_VERSION)
    eventually(lambda: seen == [1], "the first event")
    with no_threads.called("aether-flow"):
        own_server.restart()
        eventually(lambda: no_threads.refused > 2, "attempts to start a thread")
        if runner is None:
            assert reader is not None
            assert reader.is_alive()
            assert not iterator.closed
        else:
            assert not runner.closed
            assert not runner.wait(timeout=0)
    store.append("a-1", make_event(2, actor_id="a-1"), expected_version=ANY_VERSION, timeout=PATIENCE)
    eventually(lambda: seen == [1, 2], "the second event")
    store.close()
    if reader is not None:
        reader.join(PATIENCE)
        assert not reader.is_alive()


@pytest.mark.parametrize("lack", [MemoryError, lambda: OSError(24, "Too many open files")], ids=["memory", "files"])
def test_a_flow_is_begun_again_until_there_is_what_it_takes(
    store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch, lack: Callable[[], Exception]
) -> None:
    with store.follow() as follower:
        original, tries = follower._renew, []

        def renew(deadline: Any) -> None:
            tries.append(deadline)
            if len(tries) < 4:
                raise lack()
            original(deadline)

        monkeypatch.setattr(follower, "_renew", renew)
        buffer_of(follower).break_off()
        with pytest.raises(DeadlineExceededError):
            follower.get(timeout=0)
        eventually(lambda: len(tries) >= 4, "another try after each lack")
        store.append("a-1", make_event(actor_id="a-1"), expected_version=0)
        assert follower.get(timeout=PATIENCE).sequence == 1


def test_a_mistake_that_ends_a_flow_is_told(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.follow() as follower:
        monkeypatch.setattr(follower, "_renew", lambda deadline: 1 // 0)
        buffer_of(follower).break_off()
        with pytest.raises(StoreError, match="cannot go on: ZeroDivisionError"):
            follower.get(timeout=PATIENCE)


@pytest.mark.parametrize("name", ["aether-taker", "aether-worker"])
def test_a_runner_without_its_threads_is_not_begun_and_the_next_one_is(
    store: JetStreamEventStore, no_threads: NoThreads, name: str
) -> None:
    seen: list[int] = []
    store.append("a-1", make_event(actor_id="a-1"), expected_version=0)
    with no_threads.called(name), pytest.raises(StoreError, match="can't start new thread"):
        store.consumer("c").run(lambda delivery: seen.append(delivery.sequence))
    with store.consumer("c").run(lambda delivery: seen.append(delivery.sequence)):
        eventually(lambda: seen == [1], "the event")


def begin_anew(runner: Runner, store: JetStreamEventStore) -> None:
    """Have a runner that waits for a delivery use what was put into it meanwhile: with the one after that."""
    store.append("a-0", make_event(actor_id="a-0"), expected_version=0)
    store.consumer("c").wait_for(1, timeout=PATIENCE)


def test_a_runner_does_without_memory_for_a_moment(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    with store.consumer("c").run(lambda delivery: seen.append(delivery.sequence)) as runner:
        original, tries = scheduler_of(runner)._put, []

        def put(deliveries: Any) -> None:
            tries.append(len(deliveries))
            if len(tries) == 1:
                raise MemoryError
            original(deliveries)

        monkeypatch.setattr(scheduler_of(runner), "_put", put)
        begin_anew(runner, store)
        store.append("a-1", make_event(actor_id="a-1"), expected_version=0)
        eventually(lambda: tries, "the second event")
        store.append("a-2", make_event(actor_id="a-2"), expected_version=0)
        eventually(lambda: 3 in seen, "the third event")
        assert not runner.closed


def test_a_mistake_that_ends_a_runner_is_told(store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    with store.consumer("c").run(lambda delivery: None) as runner:
        monkeypatch.setattr(scheduler_of(runner), "_put", lambda deliveries: 1 // 0)
        begin_anew(runner, store)
        store.append("a-1", make_event(actor_id="a-1"), expected_version=0)
        with pytest.raises(StoreError, match="ZeroDivisionError"):
            runner.wait(timeout=PATIENCE)


# -- what there is to log


def test_a_message_is_logged_once_there_is_a_thread(no_threads: NoThreads, caplog: pytest.LogCaptureFixture) -> None:
    reporter = Reporter()
    with no_threads.called("aether-log"):
        reporter.warning(Kind.INTERNAL_ERROR, "one")
    reporter.warning(Kind.INTERNAL_ERROR, "two")
    eventually(lambda: [record.getMessage() for record in caplog.records] == ["one", "two"], "both")
    reporter.close(PATIENCE)


# -- contexts

request: contextvars.ContextVar[object] = contextvars.ContextVar("request", default=None)


class Request:
    """What a web application has in its context."""


@pytest.mark.both_loops
def test_what_the_first_user_has_in_its_context_does_not_live_on(
    make_bus: MakeBus, make_store: MakeStore, own_server: NATSServer
) -> None:
    bus, store = make_bus(own_server.url), make_store(own_server.url)
    refs: list[weakref.ref[Request]] = []
    kept: list[Any] = []

    def view() -> None:
        one = Request()
        refs.append(weakref.ref(one))
        request.set(one)
        bus.publish("n", make_event())
        bus.flush(PATIENCE)
        store.append("a-1", make_event(len(kept), actor_id="a-1"), expected_version=ANY_VERSION)
        kept.extend([bus.subscribe("n"), store.follow(), store.consumer("c").run(lambda delivery: None)])

    for _ in range(2):
        contextvars.copy_context().run(view)
    gc.collect()
    eventually(lambda: gc.collect() is not None and not any(ref() for ref in refs), "the end of the requests")
    own_server.restart()  # what is begun anew is begun in nobody's
    eventually(lambda: bus.is_connected, "the connection")
    for one in kept:
        one.close()


def test_a_log_handler_sees_nothing_of_it(make_bus: MakeBus, server: NATSServer) -> None:
    seen: list[object] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(request.get())

    def use() -> None:
        request.set("the user's")
        reporter.warning(Kind.INTERNAL_ERROR, "one")

    reporter, handler = Reporter(), Handler()
    logger.addHandler(handler)
    try:
        contextvars.copy_context().run(use)
        eventually(lambda: seen == [None], "the record")
    finally:
        logger.removeHandler(handler)
        reporter.close(PATIENCE)
