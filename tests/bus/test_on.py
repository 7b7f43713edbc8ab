"""``on()`` of a connection and a bus: when callbacks are called, with what, and that they harm nobody."""

import gc
import logging
import os
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from aether_sync import Connection, EventBus, InvalidOptionError, NATSEventBus, NATSServer, Notice, flush_logs
from aether_sync._runtime.reporter import Kind, logger

from ..support.common import PATIENCE, UNIT, Keep, eventually, make_event, run_threads
from ..support.inside import engine_of, outbox_of, slot_of
from ..support.proxy import Proxy

MakeBus = Callable[..., NATSEventBus]
KINDS = ("connected", "disconnected", "reconnected", "uncertain", "dropped", "closed")


class Story(logging.Handler):
    """Writes down, in one list, what is logged and what callbacks are called with."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.told.append(record)

    def all(self) -> dict[str, Any]:
        return dict.fromkeys(KINDS, self.told.append)

    @property
    def notices(self) -> list[Notice]:
        return [one for one in self.told if isinstance(one, Notice)]

    @property
    def kinds(self) -> list[str]:
        return [one.kind for one in self.notices]

    def logged(self, kind: Kind) -> list[Any]:
        return [one for one in self.told if not isinstance(one, Notice) and one.kind == kind]


@pytest.fixture
def story() -> Iterator[Story]:
    handler, level = Story(), logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.setLevel(level)
    logger.removeHandler(handler)


@pytest.fixture
def connection(server: NATSServer) -> Iterator[Connection]:
    connection = Connection(server.url)
    yield connection
    connection.close()


def overflow(bus: EventBus, name: str = "n") -> None:
    with bus.subscribe(name, maxsize=1):
        bus.publish_many(name, [make_event()] * 3)


def nothing(_: Notice) -> None:
    pass


@pytest.mark.fault
def test_the_life_of_a_connection_in_order_with_its_records(server: NATSServer, prefix: str, story: Story) -> None:
    with Proxy(server.port) as proxy:
        bus = NATSEventBus(f"nats://me:secret@127.0.0.1:{proxy.port}", prefix=prefix, ping_interval=UNIT)
        bus.on(**story.all())
        bus.start()
        proxy.mute()
        bus.publish("n", make_event())
        eventually(lambda: outbox_of(bus).depth()[0] == 0, "the write")
        proxy.cut()
        proxy.restore()
        eventually(lambda: "reconnected" in story.kinds, "another connection")
        overflow(bus)
        bus.close()
    assert flush_logs(PATIENCE)
    assert story.kinds == ["connected", "disconnected", "uncertain", "reconnected", "dropped", "closed"]
    for kind, notice in (
        (Kind.DISCONNECTED, "disconnected"),
        (Kind.UNCERTAIN, "uncertain"),
        (Kind.RECONNECTED, "reconnected"),
        (Kind.DROPS, "dropped"),
    ):
        at = story.told.index(story.logged(kind)[0])
        following = next(one for one in story.told[at:] if isinstance(one, Notice))
        assert following.kind == notice
    connected, disconnected, uncertain, reconnected, dropped, closed = story.notices
    assert {one.url for one in story.notices} == {f"nats://127.0.0.1:{proxy.port}"}
    assert (connected.reason, connected.seconds < PATIENCE) == ("", True)
    assert disconnected.reason
    assert disconnected.reason in story.logged(Kind.DISCONNECTED)[0].getMessage()
    assert uncertain.counts == {"uncertain": 1}
    assert 0 < reconnected.seconds < PATIENCE
    assert (dropped.subscription, dropped.counts) == ("'n'", {"maxsize": 2})
    assert "maxsize=1" in dropped.reason
    assert closed.counts == {"uncertain": 1}  # no flush() has reported it
    assert closed.reason == "closing left something undone"
    assert "secret" not in repr(story.notices)
    assert pickle.loads(pickle.dumps(story.notices)) == story.notices


@pytest.mark.fault
def test_that_it_is_connected_again_says_why_it_was_not(server: NATSServer, prefix: str, story: Story) -> None:
    with Proxy(server.port) as proxy, NATSEventBus(proxy.url, prefix=prefix, connect_timeout=0.3 * UNIT) as bus:
        bus.on(disconnected=story.told.append, reconnected=story.told.append)
        proxy.mute()  # so that an attempt fails by its timeout
        proxy.drop()
        eventually(lambda: story.logged(Kind.CONNECT_FAILED), "an attempt that fails")
        proxy.restore()
        eventually(lambda: "reconnected" in story.kinds, "another connection")
    disconnected, reconnected = story.notices
    assert reconnected.reason == disconnected.reason
    assert reconnected.reason not in story.logged(Kind.CONNECT_FAILED)[0].getMessage()


def test_a_callback_finds_the_state_that_it_is_told_of(connection: Connection) -> None:
    found: list[object] = []
    connection.on(
        connected=lambda _: found.append(connection.is_connected),
        closed=lambda _: found.append((connection.closed, connection.is_connected)),
    )
    connection.start()
    eventually(lambda: found)
    connection.close()
    assert found == [True, (True, False)]


def test_an_exception_is_logged_and_harms_nobody(connection: Connection, story: Story) -> None:
    def fail(notice: Notice) -> None:
        raise SystemExit(f"of {notice.kind}")

    connection.on(connected=fail, closed=fail)
    connection.on(connected=story.told.append, closed=story.told.append)
    connection.start()
    connection.close()
    assert story.kinds == ["connected", "closed"]
    assert [str(record.exc_info[1]) for record in story.logged(Kind.CALLBACK_FAILED)] == ["of connected", "of closed"]
    assert {record.levelname for record in story.logged(Kind.CALLBACK_FAILED)} == {"ERROR"}


def test_callbacks_use_the_library(make_bus: MakeBus, keep: Keep) -> None:
    bus, done = make_bus(), threading.Event()
    found: list[object] = []

    def act(notice: Notice) -> None:
        bus.publish("n", make_event(7))
        bus.flush(PATIENCE)
        found.append(bus.health().ok)
        found.append(flush_logs(PATIENCE))  # it cannot wait for itself
        bus.on(closed=lambda notice: found.append(notice.kind))
        bus.close(PATIENCE)
        found.append("returned")
        done.set()

    events = keep(bus.subscribe("n"))
    bus.on(dropped=act)
    overflow(bus, "other")
    assert done.wait(PATIENCE)
    assert flush_logs(PATIENCE)
    assert found == [True, False, "returned", "closed"]
    assert [event.data for event in events] == [{"n": 7}]


def test_off(connection: Connection, story: Story) -> None:
    off = connection.on(connected=story.told.append, closed=story.told.append)
    again = connection.on(closed=story.told.append)
    connection.start()
    assert flush_logs(PATIENCE)
    off()
    off()
    connection.close()
    assert story.kinds == ["connected", "closed"]
    again()


def test_off_holds_for_what_waits_already(local_bus: EventBus, story: Story) -> None:
    go = threading.Event()
    local_bus.on(dropped=lambda _: go.wait(PATIENCE))
    off = local_bus.on(dropped=story.told.append)
    overflow(local_bus)
    off()
    go.set()
    assert flush_logs(PATIENCE)
    assert story.notices == []


# -- the end


@pytest.mark.parametrize("is_used", [True, False])
def test_closed_comes_once_and_also_to_who_comes_late(connection: Connection, story: Story, is_used: bool) -> None:
    connection.on(**story.all())
    if is_used:
        connection.start()
    connection.close()
    connection.close()
    assert story.kinds == ["connected", "closed"][not is_used :]
    assert story.notices[-1].reason == ""
    connection.on(closed=story.told.append)
    connection.on(connected=story.told.append)
    assert flush_logs(PATIENCE)
    assert story.kinds[-2:] == ["closed", "closed"]
    assert story.notices[-1] == story.notices[-2]


@pytest.mark.concurrent
def test_closed_comes_once_whenever_it_is_registered(server: NATSServer) -> None:
    for _ in range(5):
        connection = Connection(server.url)
        connection.start()
        calls = [[0] for _ in range(60)]

        def register(mine: list[list[int]], connection: Connection = connection) -> None:
            for one in mine:

                def count(_: Notice, one: list[int] = one) -> None:
                    one[0] += 1

                connection.on(closed=count)

        run_threads(
            *(lambda mine=calls[n::3]: register(mine) for n in range(3)),  # type: ignore[misc]
            connection.close,
            connection.close,
        )
        assert flush_logs(PATIENCE)
        assert calls == [[1]] * 60


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_end_by_an_error(connection: Connection, story: Story) -> None:
    connection.on(**story.all())
    connection.start()

    def fail() -> None:
        raise SystemExit

    engine_of(connection).loop.post(fail)
    eventually(lambda: story.kinds == ["connected", "closed"])
    assert story.notices[-1].reason == "the thread of the connection has ended"
    found = connection.health()
    assert (found.ok, found.alive) == (False, False)
    connection.close()
    assert flush_logs(PATIENCE)
    assert story.kinds == ["connected", "closed"]


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
def test_a_connection_that_is_dropped(server: NATSServer, story: Story) -> None:
    connection = Connection(server.url)
    connection.on(**story.all())
    connection.start()
    del connection
    gc.collect()
    eventually(lambda: "closed" in story.kinds)
    assert story.notices[-1].reason.startswith("it was dropped without close()")


def test_a_frozen_callback_costs_a_close_a_second(connection: Connection) -> None:
    go = threading.Event()
    connection.on(connected=lambda _: go.wait(PATIENCE))
    connection.start()
    began = time.monotonic()
    assert connection.close(PATIENCE)
    assert time.monotonic() - began < PATIENCE / 2
    go.set()


def test_a_blocked_callback_keeps_little_and_not_the_end(local_bus: EventBus, story: Story) -> None:
    go = threading.Event()
    local_bus.on(dropped=lambda _: go.wait(PATIENCE))
    local_bus.on(**story.all())
    for n in range(1_300):
        local_bus._listeners.tell("dropped", subscription=str(n))
    waiting = local_bus._reporter._messages.qsize()
    assert 1_900 < waiting <= 2_000
    local_bus.close(0)
    assert local_bus._reporter._messages.qsize() <= waiting + 4
    go.set()
    assert flush_logs(PATIENCE)
    assert story.kinds[-1] == "closed"
    assert len(story.kinds) > 900


def test_a_flood_of_records_leaves_room_for_callbacks(local_bus: EventBus, story: Story) -> None:
    go = threading.Event()
    local_bus.on(dropped=lambda _: go.wait(PATIENCE))
    local_bus._listeners.tell("dropped")
    local_bus.on(**story.all())
    for _ in range(2_000):
        local_bus._reporter.warning(Kind.DROPS, "one more")
    local_bus._listeners.tell("dropped", subscription="the last")
    go.set()
    assert flush_logs(PATIENCE)
    assert [one.subscription for one in story.notices] == ["the last"]


def test_nothing_comes_after_the_end(local_bus: EventBus, story: Story) -> None:
    """Not even what another thread began to tell before it."""
    local_bus.on(**story.all())
    (listener,) = local_bus._listeners._all
    local_bus.close()
    local_bus._reporter.call(listener.call, Notice(kind="dropped"))
    assert flush_logs(PATIENCE)
    assert story.kinds == ["closed"]


# -- buses


def test_a_local_bus_tells_of_drops_and_its_end(story: Story) -> None:
    with EventBus() as bus:
        bus.on(**story.all())
        overflow(bus)
    assert story.kinds == ["dropped", "closed"]
    assert {one.url for one in story.notices} == {""}


def test_buses_on_a_shared_connection(make_bus: MakeBus, connection: Connection) -> None:
    stories = one_story, other_story, whole_story = [Story() for _ in range(3)]
    one, other = make_bus(connection), make_bus(connection)
    for told, story in zip((one, other, connection), stories, strict=True):
        told.on(**story.all())  # type: ignore[attr-defined]
    one.start()
    overflow(one, "mine")
    assert flush_logs(PATIENCE)
    one.close()
    connection.close()
    other.close()
    assert flush_logs(PATIENCE)
    assert one_story.kinds == ["connected", "dropped", "closed"]
    assert other_story.kinds == ["connected", "closed"]
    assert whole_story.kinds == ["connected", "dropped", "closed"]
    late = Story()
    one.on(**late.all())
    make_bus(connection).on(**late.all())
    assert flush_logs(PATIENCE)
    assert late.kinds == ["closed", "closed"]


def test_what_arrives_and_is_dropped_is_told(make_bus: MakeBus, story: Story) -> None:
    here, there = make_bus(), make_bus()
    here.on(dropped=story.told.append)
    with here.subscribe("n", maxsize=1):
        there.publish_many("n", [make_event()] * 3)
        eventually(lambda: story.kinds == ["dropped"])
    assert story.notices[0].url == here.connection.health().about.removeprefix("the connection to ")


def test_callbacks_of_a_bus_go_with_it(connection: Connection, make_bus: MakeBus, prefix: str) -> None:
    bus, story = NATSEventBus(connection, prefix=prefix), Story()
    bus.on(**story.all())
    del bus
    gc.collect()
    connection.start()
    assert flush_logs(PATIENCE)
    assert story.told == []
    assert len(slot_of(connection).listeners._below) == 0


# -- in general


def test_who_asks_for_nothing_pays_nothing(make_bus: MakeBus) -> None:
    bus = make_bus()
    before = set(threading.enumerate())
    bus.start()
    bus.publish("n", make_event())
    bus.flush(PATIENCE)
    new = {thread.name for thread in set(threading.enumerate()) - before}
    assert not [name for name in new if name.startswith("aether-log")]


@pytest.mark.parametrize("make", [EventBus, lambda: NATSEventBus("nats://h"), lambda: Connection("nats://h")])
def test_bad_input(make: Callable[[], Any]) -> None:
    async def unrun(_: Notice) -> None: ...

    def generator(_: Notice) -> Iterator[None]:
        yield

    def refused(match: str) -> Any:
        return pytest.raises(InvalidOptionError, match=match)

    with closing(make()) as one:
        with refused(r"^on\(\) takes callbacks: connected=, disconnected=, "):
            one.on()
        with pytest.raises(
            InvalidOptionError, match=r"^disconnected must be a function that is called with a Notice, not 3"
        ):
            one.on(connected=nothing, disconnected=3)
        with pytest.raises(
            InvalidOptionError, match=r"^closed must not be an `async def`, as .*: pass a plain function"
        ):
            one.on(closed=unrun)
        with refused(r"^dropped must not be a generator function"):
            one.on(dropped=generator)
        with pytest.raises(
            InvalidOptionError, match=r"^closed is called with one argument, a Notice, and .* takes \(\)"
        ):
            one.on(closed=lambda: None)
        with pytest.raises(
            InvalidOptionError, match=r"^on\(\) has no callback 'disconnect': did you mean disconnected"
        ):
            one.on(disconnect=nothing)
        with refused(r"^on\(\) has no callback 'x': it has connected, disconnected, "):
            one.on(connected=nothing, x=None)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
def test_in_a_forked_child(server: NATSServer, prefix: str) -> None:
    program = f"""
import os, warnings
from aether_sync import NATSEventBus, flush_logs

warnings.simplefilter("ignore", DeprecationWarning)
told = []
bus = NATSEventBus({server.url!r}, prefix={prefix!r})
bus.on(connected=told.append, closed=told.append)
bus.start()
assert flush_logs(20) and [one.kind for one in told] == ["connected"]
if not (child := os.fork()):
    told.clear()
    bus.start()
    bus.close()
    os._exit([one.kind for one in told] != ["connected", "closed"])
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert flush_logs(20) and len(told) == 1
bus.close()
assert [one.kind for one in told] == ["connected", "closed"]
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE * 3)
