"""What a connection may be given to connect to."""

import re
from pathlib import Path

import pytest

from aether_sync import Connection, JetStreamEventStore, NATSCluster, NATSEventBus, NATSServer, SQLite
from aether_sync._nats.checks import check_servers
from aether_sync.errors import InvalidOptionError


@pytest.mark.parametrize(
    ("given", "servers"),
    [
        ("host", ("nats://host",)),
        ("nats://a:1, tls://b:2", ("nats://a:1", "tls://b:2")),
        (["nats://a:1", "b"], ("nats://a:1", "nats://b")),
        ("TLS://a:1, NATS://b", ("tls://a:1", "nats://b")),
        ("u:p@a:1,b,nats://v:q@c:1", ("nats://u:p@a:1", "nats://b", "nats://v:q@c:1")),
        (["nats://me:1,2@host"], ("nats://me:1,2@host",)),
        ("nats://me:p%2Fss%40@host:4222", ("nats://me:p%2Fss%40@host:4222",)),
    ],
)
def test_urls_are_completed(given: str | list[str], servers: tuple[str, ...]) -> None:
    assert check_servers(given) == servers


@pytest.mark.parametrize(
    "url",
    [
        "http://me:secret@host", "nats://me:secret@:4222", "nats://me:secret@host:0",
        "nats://me:secret@host:port", "nats://me:secret@[host", "nats://me:secret@.host:4222",
        "nats://me:secret@foo..bar:4222", f"nats://me:secret@{'a' * 64}", "nats://me:secret@\udcff",
        "nats://me:secret@a\0b",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_server_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(
        InvalidOptionError, match=r"no server URL, as far as it may be shown: .* escape / \? # @"
    ) as info:
        check_servers(url)
    assert "secret" not in str(info.value)


@pytest.mark.parametrize(
    "url",
    [
        "nats://me:secret/more@host:4222", "nats://me:1/secret@host:4222", "tls://me:secret?more@host:4222",
        "nats://me:secret#more@host:4222", "me:secret/more@host:4222",
    ],
)  # fmt: skip
def test_a_password_that_is_not_escaped_is_told_first(url: str) -> None:
    words = r"^the user or the password in a server URL has a / \? or # in it: .* it is '(nats|tls)://host:4222'$"
    with pytest.raises(InvalidOptionError, match=words) as info:
        check_servers(url)
    assert "secret" not in str(info.value)


def test_a_relative_path_where_the_working_directory_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for make in (
        lambda: NATSServer(store_dir="data"),
        lambda: NATSServer(log_file="log"),
        lambda: NATSCluster(store_dir="data"),
        lambda: SQLite("x.db"),
    ):
        with pytest.raises(InvalidOptionError, match="within the working directory, which is not there any more"):
            make()


@pytest.mark.parametrize("url", ["http://host:4222", "HTTPS://host", "redis://host:6379", "amqp+ssl://host"])
def test_what_was_given_is_shown(url: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"shown: {re.escape(repr(url.replace('HTTPS', 'https')))};"):
        check_servers(url)


@pytest.mark.parametrize("scheme", ["ws", "wss", "WS"])
def test_websocket_is_not_spoken(scheme: str) -> None:
    with pytest.raises(InvalidOptionError, match=f"'{scheme.lower()}://host:80'; .*does not speak WebSocket") as info:
        check_servers(f"{scheme}://me:secret@host:80")
    assert "secret" not in str(info.value)


@pytest.mark.parametrize("make", [NATSEventBus, JetStreamEventStore])
def test_options_are_refused_beside_a_connection_that_is_made(make: type) -> None:
    with (
        Connection("nats://127.0.0.1:1", connect="background") as connection,
        pytest.raises(InvalidOptionError, match="name, user: give that to the Connection, which is shared"),
    ):
        make(connection, name="n", user="u")
