"""The loop of uvloop: when it is used, what it leaves alone, and what it does not do by itself."""

import asyncio
import logging
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import uvloop

from aether_sync import ConnectError, NATSEventBus
from aether_sync._runtime.event_loop import StockLoop, new_loop

from ..support.common import PATIENCE, make_event, numbers
from ..support.inside import event_loop_of

MakeBus = Callable[..., NATSEventBus]


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AETHER_SYNC_UVLOOP", "1")


def loop_of(bus: NATSEventBus) -> asyncio.AbstractEventLoop:
    bus.start()
    return event_loop_of(bus)


# -- when it is used


def test_it_is_used_where_it_is_installed(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AETHER_SYNC_UVLOOP")
    assert isinstance(loop_of(make_bus()), uvloop.Loop)


def test_it_can_be_turned_off(make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AETHER_SYNC_UVLOOP", "0")
    assert isinstance(loop_of(make_bus()), StockLoop)


@pytest.fixture
def not_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aether_sync._runtime.uvloop", raising=False)


@pytest.mark.usefixtures("not_imported")
def test_without_it_nothing_is_said(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "uvloop", None)
    bus = make_bus()
    assert isinstance(loop_of(bus), StockLoop)
    bus.close()
    assert not caplog.records


@pytest.mark.usefixtures("not_imported")
def test_one_that_is_not_fit_is_not_used_and_it_is_said(
    make_bus: MakeBus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Another(asyncio.SelectorEventLoop):
        """One that does not tell its epoll."""

    monkeypatch.setattr(uvloop, "Loop", Another)
    bus = make_bus()
    assert isinstance(loop_of(bus), StockLoop)
    bus.close()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "asyncio's own event loop is used: this uvloop" in record.getMessage()


def test_one_that_was_made_for_nothing_leaves_no_file() -> None:
    assert not isinstance(new_loop(True, pytest.fail), StockLoop)


# -- what it leaves alone


def test_importing_this_library_does_not_import_it() -> None:
    program = "import sys, aether_sync, aether_sync.nats_bus; assert 'uvloop' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=PATIENCE)


def test_asyncio_and_signals_stay_the_users(make_bus: MakeBus) -> None:
    def state() -> list[object]:
        handlers: list[object] = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGCHLD)]
        wakeup = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(wakeup)
        return [*handlers, wakeup]

    async def mine() -> asyncio.AbstractEventLoop:
        return asyncio.get_running_loop()

    before = state()
    with make_bus() as bus, bus.subscribe("n") as events:
        bus.publish("n", make_event(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert state() == before
        assert not isinstance(asyncio.run(mine()), uvloop.Loop)


# -- what it does not do by itself: tell which sockets it has


def test_an_attempt_that_is_given_up_leaves_nothing(make_bus: MakeBus) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        others = [socket.socket() for _ in range(4)]
        try:
            for other in others:  # what does not fit into the backlog waits for an answer
                other.setblocking(False)
                other.connect_ex(full.getsockname())
            bus = make_bus(f"nats://127.0.0.1:{full.getsockname()[1]}", connect_timeout=0.2)
            with pytest.raises(ConnectError, match="no answer"):
                bus.start()
            bus.close()
        finally:
            for other in others:
                other.close()
