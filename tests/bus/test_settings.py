"""Settings of each source against real servers: the right credentials are accepted, wherever they come from."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nkeys
import pytest

from aether_sync import ConnectError, Connection, InvalidOptionError, JetStreamEventStore, NATSEventBus, NATSServer

from ..support.common import PATIENCE, eventually, make_event
from ..support.contexts import Contexts, contexts
from ..support.credentials import Account, Certificates, Key, Operator, User
from ..support.fake_server import FakeServer
from ..support.sweep import Sweep, sweep

__all__ = ["contexts", "sweep"]


@dataclass
class Way:
    """One way to be let in."""

    config: str
    environ: dict[str, str]
    context: dict[str, str]
    options: dict[str, Any]
    secrets: list[str] = field(default_factory=list)


def password_way(_: Path) -> Way:
    return Way(
        'authorization { users: [ { user: shop, password: "p@ss/w:rd" } ] }',
        {"NATS_USER": "shop", "NATS_PASSWORD": "p@ss/w:rd"},
        {"user": "shop", "password": "p@ss/w:rd"},
        {"user": "shop", "password": "p@ss/w:rd"},
        ["p@ss/w:rd"],
    )


def token_way(_: Path) -> Way:
    token = "t@ken/s3cret"
    return Way(
        f'authorization {{ token: "{token}" }}', {"NATS_TOKEN": token}, {"token": token}, {"token": token}, [token]
    )


def nkey_way(folder: Path) -> Way:
    key, path = Key(nkeys.PREFIX_BYTE_USER), folder / "user.nk"
    path.write_text(key.seed)
    return Way(
        f"authorization {{ users: [ {{ nkey: {key.public} }} ] }}",
        {"NATS_NKEY": str(path)},
        {"nkey": str(path)},
        {"nkeys_seed": path},
        [key.seed],
    )


def creds_way(folder: Path) -> Way:
    operator = Operator()
    account, system = Account(operator), Account(operator)
    user, path = User(account), folder / "user.creds"
    path.write_text(user.credentials())
    known = {account: account.jwt(mem_storage=-1, disk_storage=-1), system: system.jwt()}
    return Way(
        f"system_account: {system.key.public}\n{operator.config(known)}",
        {"NATS_CREDS": str(path)},
        {"creds": str(path)},
        {"credentials": str(path)},
        [user.key.seed],
    )


def jwt_way(folder: Path) -> Way:
    """A JWT and its seed that stand in the context itself, and a file for the others."""
    way = creds_way(folder)
    text = Path(way.environ["NATS_CREDS"]).read_text().splitlines()
    return Way(way.config, way.environ, {"user_jwt": text[1], "user_seed": way.secrets[0]}, way.options, way.secrets)


def certificate_way(folder: Path) -> Way:
    ours = Certificates(folder)
    cert, key = (str(path) for path in ours.issue("shop"))
    ca = str(folder / "ca.pem")
    return Way(
        ours.config(more="verify: true"),
        {"NATS_CA": ca, "NATS_CERT": cert, "NATS_KEY": key},
        {"ca": ca, "cert": cert, "key": key},
        {"tls_ca": ca, "tls_cert": cert, "tls_key": key},
        [Path(key).read_text().splitlines()[1]],
    )


WAYS = {
    "password": password_way,
    "token": token_way,
    "nkey": nkey_way,
    "creds": creds_way,
    "jwt": jwt_way,
    "certificate": certificate_way,
}


@pytest.fixture(params=WAYS, scope="module")
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    return WAYS[request.param](tmp_path_factory.mktemp("way"))


@pytest.fixture(scope="module")
def guarded(way: Way) -> Iterator[NATSServer]:
    with NATSServer(config=way.config) as server:
        yield server


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, str]], None]:
    def set_environment(values: dict[str, str]) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_environment


@pytest.mark.parametrize("source", ["arguments", "environment", "context", "context in the environment"])
def test_each_source_lets_in(
    way: Way,
    guarded: NATSServer,
    source: str,
    contexts: Contexts,
    set_environment: Callable[[dict[str, str]], None],
    sweep: Sweep,
) -> None:
    sweep.hide(*way.secrets)
    contexts.add("prod", url=guarded.url, **way.context)
    if source == "arguments":
        connection = Connection(guarded.url, **way.options)
    elif source == "environment":
        set_environment({"NATS_URL": guarded.url, **way.environ})
        connection = Connection()
    elif source == "context":
        connection = Connection.from_context("prod")
    else:
        set_environment({"NATS_CONTEXT": "prod"})
        connection = Connection()
    with connection, NATSEventBus(connection) as bus:
        bus.publish("n", make_event())
        bus.flush(PATIENCE)
        sweep.see(bus)


def test_a_bus_and_a_store_of_the_environment(
    way: Way, guarded: NATSServer, set_environment: Callable[[dict[str, str]], None]
) -> None:
    set_environment(way.environ)
    with NATSEventBus(guarded.url) as bus, JetStreamEventStore(guarded.url) as store:  # the URL has no credentials
        bus.flush(PATIENCE)
        assert store.get_events("nobody", timeout=PATIENCE) == []


def test_arguments_win(way: Way, guarded: NATSServer, set_environment: Callable[[dict[str, str]], None]) -> None:
    set_environment(dict.fromkeys(way.environ, "no-such"))
    with NATSEventBus(guarded.url, **way.options) as bus:
        bus.flush(PATIENCE)


def test_the_server_of_a_test_needs_nothing_of_the_environment(
    way: Way, server: NATSServer, set_environment: Callable[[dict[str, str]], None]
) -> None:
    set_environment(dict.fromkeys(way.environ, "no-such") | {"NATS_CONTEXT": "no-such"})
    with NATSEventBus(server.url, trust_env=False) as bus:
        bus.flush(PATIENCE)


# -- what is sent to whom


@pytest.mark.parametrize(
    ("environ", "context"),
    [
        ({"NATS_USER": "of-env", "NATS_PASSWORD": "of-env"}, {"token": "of-context"}),
        ({"NATS_TOKEN": "of-env"}, {}),
        ({}, {"user": "of-context", "password": "of-context"}),
    ],
)
def test_a_url_with_credentials_of_its_own_gets_no_others(
    contexts: Contexts,
    set_environment: Callable[[dict[str, str]], None],
    environ: dict[str, str],
    context: dict[str, str],
) -> None:
    contexts.add("c", **context)
    set_environment({**environ, "NATS_CONTEXT": "c"})
    with FakeServer(nonce="abc") as fake:
        address = fake.url.removeprefix("nats://")
        for own in ("of-url:secret", "of-url"):
            for make in (NATSEventBus, JetStreamEventStore, Connection):
                it = make(f"nats://{own}@{address}", connect="background")
                connection = it if isinstance(it, Connection) else it.connection
                assert connection.wait_connected(PATIENCE)
                (connect,) = [line for line in fake.last.lines if line.startswith(b"CONNECT")]
                assert b"of-url" in connect
                assert b"of-env" not in connect
                assert b"of-context" not in connect
                it.close()


# -- what is wrong


@pytest.mark.parametrize("make", [Connection, NATSEventBus, JetStreamEventStore])
def test_a_wrong_setting_is_told_before_anything_is_done(
    make: type, set_environment: Callable[[dict[str, str]], None], contexts: Contexts
) -> None:
    contexts.add("c", ca="no/such.pem")
    files = len(os.listdir("/proc/self/fd"))
    set_environment({"NATS_CONTEXT": "c"})
    with pytest.raises(InvalidOptionError, match=r"ca of the context 'c' is the path of a file.*'no/such\.pem'"):
        make()
    assert len(os.listdir("/proc/self/fd")) == files


def test_a_server_without_tls_gets_nothing_where_the_environment_names_authorities(
    server: NATSServer, tmp_path: Path, set_environment: Callable[[dict[str, str]], None]
) -> None:
    Certificates(tmp_path)
    set_environment({"NATS_CA": str(tmp_path / "ca.pem"), "NATS_TOKEN": "t"})
    with (
        pytest.raises(ConnectError, match="TLS was asked for, and the server does not require it"),
        NATSEventBus(server.url),
    ):
        pass


def test_a_renewed_certificate_counts_from_the_next_attempt_on(tmp_path: Path) -> None:
    ours, folder = Certificates(tmp_path), tmp_path / "files"
    folder.mkdir()
    cert, key = folder / "cert.pem", folder / "key.pem"

    def renew(name: str) -> None:
        for path, issued in zip((cert, key), ours.issue(name), strict=True):
            path.write_bytes(issued.read_bytes())

    renew("first@example.com")
    users = 'authorization {{ users: [ {{ user: "{}" }} ] }}\n'
    config = ours.config(more="verify_and_map: true")
    with NATSServer(config=config + users.format("first@example.com")) as server:
        files = {"tls_ca": tmp_path / "ca.pem", "tls_cert": cert, "tls_key": key}
        with NATSEventBus(server.url, **files) as bus:
            bus.flush(PATIENCE)
            server.reload(config + users.format("second@example.com"))
            eventually(lambda: not bus.is_connected, "the end of the first user")
            renew("second@example.com")
            assert bus.wait_connected(PATIENCE)
            bus.flush(PATIENCE)
