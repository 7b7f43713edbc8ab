"""``BrokenLink``: what is said to a wrong one. What it does to a link, the tests of the bus and the store use."""

import threading
from typing import Any

import pytest

from aether_sync import Event, InvalidOptionError, NATSEventBus, NATSServer
from aether_sync.testing import BrokenLink

from ..support.common import PATIENCE, UNIT, eventually


def names() -> set[str]:
    return {thread.name for thread in threading.enumerate() if thread.name.startswith("aether-broken-link-")}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("nats://u:secret@127.0.0.1:1", "nats://u:secret@127.0.0.1:{}"),
        ("127.0.0.1:1", "nats://127.0.0.1:{}"),
        ("localhost", "nats://127.0.0.1:{}"),
        ("tls://[::1]:1", "tls://127.0.0.1:{}"),
        ("ws://127.0.0.1:1/path", "ws://127.0.0.1:{}/path"),
    ],
)
def test_its_url_is_that_of_the_server_elsewhere(url: str, shown: str) -> None:
    with BrokenLink(url) as link:
        assert link.url == shown.format(link.port)
        assert "secret" not in repr(link)


def test_the_login_goes_through() -> None:
    with NATSServer(config='authorization { user: "u", password: "secret" }') as server:
        url = server.url.replace("://", "://u:secret@")
        with BrokenLink(url) as link, NATSEventBus(link.url) as bus:
            bus.start()
            assert link.links == 1


def test_a_bus_finds_it_cut_stalled_slow_and_whole(server: NATSServer, prefix: str) -> None:
    event = Event(event_type="Happened", actor_id="thing-1")
    with (
        BrokenLink(server.url) as link,
        NATSEventBus(server.url, prefix=prefix) as near,
        NATSEventBus(link.url, prefix=prefix) as far,
        near.subscribe("n") as events,
    ):
        far.publish("n", event)
        assert events.get(timeout=PATIENCE).id == event.id
        far.flush(PATIENCE)  # or it is uncertain when the link breaks
        for harm in (link.cut, link.drop):
            harm()
            eventually(lambda: not far.is_connected, "the end of the connection")
            link.restore()
            assert far.wait_connected(PATIENCE)
        for harm in (
            link.stall,
            lambda: link.slow_down(delay=0.3 * UNIT),
            lambda: link.slow_down(bytes_per_second=100),
        ):
            harm()
            far.publish("n", event)
            assert events.get_batch(1, timeout=0.1 * UNIT) == []
            link.restore()
            assert events.get(timeout=PATIENCE).id == event.id
        link.mute()
        far.publish("n", event)
        assert events.get(timeout=PATIENCE).id == event.id, "the server hears it"
        with pytest.raises(TimeoutError):
            far.flush(0.1 * UNIT)
        link.restore()
        far.flush(PATIENCE)


def test_its_threads_end(server: NATSServer) -> None:
    before = names()
    with BrokenLink(server.url) as link, NATSEventBus(link.url) as bus:
        bus.start()
        link.stall()
        assert len(names() - before) == 3
    link.close()
    assert names() == before
    assert repr(link) == f"<BrokenLink to 127.0.0.1:{server.port} closed>"


@pytest.mark.parametrize(
    "url", [None, 5, "", "nats://", "nats://a:1,nats://b:2", "nats://h:port", "nats://[::1", ["h"]]
)
def test_a_wrong_url_is_refused(url: Any) -> None:
    with pytest.raises(InvalidOptionError, match="url must be"):
        BrokenLink(url)


def test_a_password_in_a_wrong_url_is_not_shown() -> None:
    with pytest.raises(InvalidOptionError) as caught:
        BrokenLink("nats://u:secret@h:port")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("delay", {"delay": -1}),
        ("delay", {"delay": 0}),
        ("delay", {"delay": "1"}),
        ("bytes_per_second", {"bytes_per_second": 0}),
        ("bytes_per_second", {"bytes_per_second": float("inf")}),
        ("bytes_per_second", {"bytes_per_second": "1"}),
        ("takes a delay in seconds", {}),
    ],
)
def test_a_wrong_slowness_is_refused(name: str, options: Any) -> None:
    with BrokenLink("127.0.0.1:1") as link, pytest.raises(InvalidOptionError, match=name):
        link.slow_down(**options)


@pytest.mark.parametrize("buffer", [-1, 1.5, "1", None])
def test_a_wrong_buffer_is_refused(buffer: Any) -> None:
    before = names()
    with pytest.raises(InvalidOptionError, match="buffer must be"):
        BrokenLink("127.0.0.1:1", buffer=buffer)
    assert names() == before
    with BrokenLink("127.0.0.1:1") as link, pytest.raises(InvalidOptionError, match="reset must be"):
        link.cut(reset=buffer)
