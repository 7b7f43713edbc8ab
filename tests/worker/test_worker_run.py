"""``worker.run()`` in a process: signals, the grace, and what the exit status tells."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    Consumer,
    Delivery,
    Event,
    InMemoryEventStore,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    Runner,
    Worker,
    WorkerError,
)

from ..programs import workers as programs
from ..programs.run import finish, start
from ..support.common import PATIENCE, eventually, first_of

pytestmark = [pytest.mark.concurrent, pytest.mark.slow]


def said(process: subprocess.Popen[str], *lines: str) -> None:
    assert process.stdout is not None
    for line in lines:
        assert process.stdout.readline() == f"{line}\n"


@pytest.mark.parametrize("sent", first_of([signal.SIGTERM, signal.SIGINT]))
def test_a_signal_lets_what_runs_come_to_its_end(
    server: NATSServer, prefix: str, sent: signal.Signals, make_bus: Callable[..., NATSEventBus]
) -> None:
    with make_bus().subscribe("done") as done:
        process = start(programs.runs, server.url, prefix, "moment", 20)
        said(process, "begun")
        process.send_signal(sent)
        process.send_signal(sent)  # at once: the same one
        assert finish(process) == "handled\nended True True\n"
        assert done.get(timeout=PATIENCE).event_type == "Done", "what the handler has published is sent"
    with JetStreamEventStore(server.url, f"{prefix}-s") as store:
        state = store.consumer("c").state()
        assert state is not None
        assert (state.acknowledged, state.unacknowledged) == (1, 0)


@pytest.mark.slow
def test_what_takes_longer_than_the_grace_is_told_by_the_status(server: NATSServer, prefix: str) -> None:
    process = start(programs.runs, server.url, prefix, "for ever", 0.1)
    said(process, "begun")
    begun = time.monotonic()
    process.send_signal(signal.SIGTERM)
    finish(process, status=3, says="leaves handlers behind")
    assert time.monotonic() - begun < PATIENCE / 2


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once(server: NATSServer, prefix: str) -> None:
    process = start(programs.runs, server.url, prefix, "for ever", 1000)
    said(process, "begun")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.7)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    finish(process, status=128 + signal.SIGINT)


@pytest.mark.slow
def test_what_ends_a_handler_ends_the_program(server: NATSServer, prefix: str) -> None:
    process = start(programs.fails, server.url, prefix)
    finish(process, status=1, says="aether_sync.errors.StoreError")


@pytest.mark.slow
def test_a_signal_while_it_waits_for_a_server(free_port: int) -> None:
    process = start(programs.waits_for_a_server, f"nats://127.0.0.1:{free_port}")
    said(process, "waiting")
    process.send_signal(signal.SIGTERM)
    assert finish(process, says=None) == "ended\n"


def test_a_signal_while_a_handler_is_just_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    run, done = Consumer.run, list[str]()

    def run_slowly(*args: Any, **options: Any) -> Runner:
        runner = run(*args, **options)
        time.sleep(0.2)  # the worker does not know of the runner yet
        return runner

    monkeypatch.setattr(Consumer, "run", run_slowly)
    store = InMemoryEventStore()
    worker = Worker(store=store)

    @worker.consume("c")
    def handle(delivery: Delivery) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.4)
        done.append("whole")

    store.append("a", Event(event_type="T", actor_id="a"), expected_version=ANY_VERSION)
    worker.run(grace=PATIENCE)
    assert done == ["whole"]
    assert store.closed


def test_on_another_thread_it_is_refused(local_bus: object) -> None:
    worker = Worker(bus=local_bus)  # type: ignore[arg-type]
    worker.on("n")(lambda event: None)
    found: list[BaseException] = []

    def run() -> None:
        try:
            worker.run()
        except WorkerError as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join(PATIENCE)
    assert "in the main thread alone: call start() here" in str(found)
    worker.start()  # nothing has begun
    worker.close()


def test_the_signal_handlers_of_before_are_back(local_bus: object) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    worker = Worker(bus=local_bus)  # type: ignore[arg-type]
    worker.on("n")(lambda event: worker.close())

    def publish() -> None:
        eventually(lambda: worker.health().ok)
        worker.bus.publish("n", Event(event_type="T", actor_id="a"))  # type: ignore[union-attr]

    threading.Thread(target=publish).start()
    worker.run(grace=PATIENCE)
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_process_that_a_handler_forks_has_the_signal_handlers_of_before() -> None:
    assert finish(start(programs.forks)) == f"{{-{int(signal.SIGTERM)}}}\n10\nended\n"


@pytest.mark.slow
def test_what_runs_at_the_end_of_a_program_that_says_nothing_is_waited_for() -> None:
    assert finish(start(programs.ends_without_a_word)) == "done\n"
