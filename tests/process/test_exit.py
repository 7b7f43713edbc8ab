"""The end of a process: prompt, with one flush, whatever goes on in it and whatever the server does.

The programs are in ``tests/programs/exits.py``; what they published is seen here.
"""

import signal
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from aether_sync import NATSEventBus, NATSServer, Subscription

from ..programs import exits
from ..programs.run import FLAGS, finish, run, start
from ..support.common import PATIENCE, UNIT, Monitor, first_of

pytestmark = pytest.mark.both_loops

UNCLOSED = "ResourceWarning: unclosed <Connection"

#: Seconds: what a flush at exit may take, and what starting Python and the rest may.
FLUSH, REST = 5, 5 * UNIT


@pytest.fixture
def events(make_bus: Callable[..., NATSEventBus]) -> Iterator[Subscription]:
    """What the program publishes."""
    with make_bus().subscribe("n") as events:
        yield events


def assert_all_came(events: Subscription) -> None:
    assert [events.get(timeout=PATIENCE).version for _ in range(100)] == list(range(100))
    assert events.get_batch(1, timeout=0) == []


def test_an_unclosed_bus_is_flushed(server: NATSServer, prefix: str, events: Subscription) -> None:
    run(exits.unclosed, server.url, prefix, says=UNCLOSED)
    assert_all_came(events)


@pytest.mark.slow
def test_it_is_flushed_also_where_warnings_are_errors(server: NATSServer, prefix: str, events: Subscription) -> None:
    finish(start(exits.unclosed, server.url, prefix, flags=(*FLAGS, "-W", "error")), says=UNCLOSED)
    assert_all_came(events)


def test_a_bus_that_atexit_closes_is_no_unclosed_bus(server: NATSServer, prefix: str, events: Subscription) -> None:
    run(exits.closed_by_atexit, server.url, prefix)
    assert_all_came(events)


@pytest.mark.slow
def test_a_bus_that_was_collected_is_flushed_to_its_end(server: NATSServer, prefix: str, events: Subscription) -> None:
    run(exits.collected, server.url, prefix, says="unclosed")
    assert [events.get(timeout=PATIENCE).version for _ in range(20_000)] == list(range(20_000))


@pytest.mark.slow
def test_an_exception_ends_the_program(server: NATSServer, prefix: str, events: Subscription) -> None:
    run(exits.with_an_exception, server.url, prefix, status=1, says="KeyError: 'of the program'")
    assert_all_came(events)


@pytest.mark.parametrize("read", first_of(["for", "get", "async for"]))
@pytest.mark.parametrize("kind", first_of(["normal", "daemon"]))
def test_a_thread_that_iterates_comes_to_an_end(
    server: NATSServer, prefix: str, events: Subscription, kind: str, read: str
) -> None:
    output = run(exits.iterating, server.url, prefix, kind, read, within=REST, says=UNCLOSED)
    assert "ended" in output or kind == "daemon"
    assert_all_came(events)


def test_a_thread_that_iterates_a_plain_bus_comes_to_an_end() -> None:
    assert "ended" in run(exits.iterating, "", "", "normal", "for", within=REST, says="join() your threads")


def test_a_thread_finishes_what_is_queued(server: NATSServer, prefix: str, events: Subscription) -> None:
    run(exits.a_thread_works_on, server.url, prefix, says="no subscription any more")
    assert_all_came(events)


@pytest.mark.parametrize(
    ("handler", "status", "says"), first_of([("exit", 7, UNCLOSED), ("close", 0, ""), ("none", -signal.SIGTERM, "")])
)
def test_sigterm(server: NATSServer, prefix: str, events: Subscription, handler: str, status: int, says: str) -> None:
    program = start(exits.terminated, server.url, prefix, handler)
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    program.send_signal(signal.SIGTERM)
    output = finish(program, within=REST, status=status, says=says)
    if handler != "none":
        assert_all_came(events)
    if handler == "close":
        assert output == "True\n"


@pytest.mark.both_loops(False)  # slow, and the same on both
@pytest.mark.fault
@pytest.mark.parametrize("flush", first_of([1, FLUSH]))  # seconds
@pytest.mark.parametrize("fault", first_of(["kill", "stop", "pause"]))
def test_without_a_server_it_ends_in_time(own_server: NATSServer, prefix: str, fault: str, flush: int) -> None:
    noticed = "" if fault == "pause" else "noticed"
    program = start(exits.without_a_server, own_server.url, prefix, 3, noticed, flush)
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "connected\n"
    getattr(own_server, fault)()
    program.stdin.write("\n")
    begun = time.monotonic()
    finish(program, within=flush + REST, says="left something undone")
    assert time.monotonic() - begun > flush / 2, "it gave the server no time to come back"


@pytest.mark.fault
def test_a_server_that_comes_back_in_time_gets_everything(
    own_server: NATSServer, own_monitor: Monitor, prefix: str
) -> None:
    """Its name is looked up while the interpreter ends, when Python 3.12 and later start no thread any more."""
    url = own_server.url.replace("127.0.0.1", "localhost")
    program = start(exits.without_a_server, url, prefix, 1, "noticed")
    assert program.stdout is not None
    assert program.stdin is not None
    assert program.stdout.readline() == "connected\n"
    own_server.stop()
    program.stdin.write("\n")
    program.stdin.flush()
    assert program.stdout.readline() == "published\n"
    own_server.restart()
    begun = time.monotonic()
    finish(program, within=FLUSH + REST, says=UNCLOSED)
    assert time.monotonic() - begun < FLUSH, "it went on waiting"
    assert own_monitor.messages() == 1


@pytest.mark.both_loops(False)  # slow, and the same on both
@pytest.mark.fault
@pytest.mark.slow
def test_a_server_that_was_never_there(free_port: int, prefix: str) -> None:
    run(exits.never_connected, f"nats://127.0.0.1:{free_port}", prefix, within=FLUSH + REST, says="unsent=1")


@pytest.mark.fault
@pytest.mark.parametrize("seconds", first_of([1, 3]))
def test_a_name_server_that_never_answers(prefix: str, seconds: int) -> None:
    output = run(exits.names_are_never_answered, prefix, seconds, within=seconds + REST, says=UNCLOSED)
    assert "nowhere.example" in output


@pytest.mark.parametrize("method", first_of(["fork", "spawn", "forkserver"]))
def test_a_process_of_multiprocessing(server: NATSServer, prefix: str, events: Subscription, method: str) -> None:
    assert "ended" in run(exits.processes, server.url, prefix, method, says=UNCLOSED)
    assert_all_came(events)


# -- pools of threads


@pytest.mark.parametrize("what", first_of(["runner", "subscription", "follower", "consumption", "memory"]))
def test_a_pool_that_iterates_comes_to_an_end(server: NATSServer, prefix: str, what: str) -> None:
    """Its own hook, which joins it, was registered later than ours."""
    assert "ended" in run(exits.a_pool_iterates, server.url, prefix, what, "before", within=FLUSH + REST, says=None)


@pytest.mark.both_loops(False)  # slow, and the same on both
@pytest.mark.parametrize("what", first_of(["subscription", "follower", "consumption", "runner", "memory"]))
def test_nothing_begins_when_the_main_thread_is_done(server: NATSServer, prefix: str, what: str) -> None:
    output = run(exits.a_pool_iterates, server.url, prefix, what, "late", within=FLUSH + REST, says=None)
    assert "ended" in output
    assert "ClosedError" in output


@pytest.mark.parametrize("method", first_of(["fork", "spawn", "forkserver"]))
@pytest.mark.parametrize("what", first_of(["follower", "subscription"]))
def test_a_pool_in_a_process_of_multiprocessing(server: NATSServer, prefix: str, what: str, method: str) -> None:
    assert "ended" in run(exits.a_pool_in_a_process, server.url, prefix, what, method, says=None)


@pytest.mark.slow
def test_a_first_use_when_the_main_thread_is_done(server: NATSServer, prefix: str, events: Subscription) -> None:
    """It works; or, where Python starts no thread any more, the reason is plain."""
    output = run(exits.a_first_use_at_the_end, server.url, prefix, says=None)
    if "refused" in output:
        assert sys.version_info >= (3, 12)
        assert "no connection begins any more, as the interpreter ends" in output
    else:
        assert output == "published\n"
        assert_all_came(events)
