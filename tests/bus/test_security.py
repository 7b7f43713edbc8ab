"""Each way to be let in, right and wrong, against a real server: the reason is told at once, and no secret is shown."""

import asyncio
import json
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self
from urllib.parse import quote

import nkeys
import pytest
from nats.errors import Error

from aether_sync import (
    ConnectError,
    DeadlineExceededError,
    DeliveryUncertainError,
    InvalidOptionError,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
)
from aether_sync._nats.client import NATSClient
from aether_sync._nats.login import Login
from aether_sync._nats.options import LinkOptions
from aether_sync._nats.reasons import describe, is_refusal, shown
from aether_sync._nats.servers import Server
from aether_sync._nats.settings import Settings
from aether_sync._runtime.reporter import Reporter

from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, numbers
from ..support.credentials import Account, Certificates, Key, Operator, User
from ..support.fake_server import FakeServer, hang_up
from ..support.inside import knows_another_server, link_of
from ..support.sweep import Sweep, sweep

__all__ = ["sweep"]

PROMPTLY = 5 * UNIT  # far from connect_timeout, which is PATIENCE here
PASSWORD = "p@ss:w/örd?#%41,1"
REFUSED = "(?i)refuses these credentials.*authorization violation"


@dataclass
class Way:
    """One way to be let in."""

    config: str
    without: str  #: the configuration once the right is taken away
    right: dict[str, Any]
    wrong: dict[str, dict[str, Any]]  #: by what is wrong with it
    secrets: list[str]
    in_url: str = ""  #: the right one, as it stands in a URL
    reasons: dict[str, str] = field(default_factory=dict)  #: where another than the server's


def password_way(_: Path) -> Way:
    users = 'authorization {{ users: [ {{ user: "u@x", password: {} }} ] }}'
    return Way(
        config=users.format(json.dumps(PASSWORD, ensure_ascii=False)),
        without=users.format('"another"'),
        right={"user": "u@x", "password": PASSWORD},
        wrong={
            "wrong password": {"user": "u@x", "password": "mistaken-password"},
            "wrong user": {"user": "stranger", "password": PASSWORD},
            "nothing": {},
            "a token": {"token": PASSWORD},
        },
        secrets=[PASSWORD, "mistaken-password"],
        in_url=f"u%40x:{quote(PASSWORD, safe='')}",
    )


def token_way(_: Path) -> Way:
    return Way(
        config='authorization { token: "s3cret/t@ken" }',
        without='authorization { token: "another" }',
        right={"token": "s3cret/t@ken"},
        wrong={"wrong token": {"token": "mistaken-token"}, "nothing": {}, "user": {"user": "s3cret/t@ken"}},
        secrets=["s3cret/t@ken", "mistaken-token"],
        in_url="s3cret%2Ft%40ken",
    )


def nkey_way(directory: Path) -> Way:
    known, unknown = Key(nkeys.PREFIX_BYTE_USER), Key(nkeys.PREFIX_BYTE_USER)
    users = "authorization {{ users: [ {{ nkey: {} }} ] }}"
    files = {"known": known.seed, "unknown": unknown.seed, "cut": known.seed[:-3], "empty": "", "flipped": known.seed}
    files["flipped"] = known.seed[:20] + ("A" if known.seed[20] != "A" else "B") + known.seed[21:]
    for name, seed in files.items():
        (directory / name).write_text(f"{seed}\n")
    return Way(
        config=users.format(known.public),
        without=users.format(unknown.public),
        right={"nkeys_seed": directory / "known"},
        wrong={name: {"nkeys_seed": directory / name} for name in files if name != "known"} | {"nothing": {}},
        secrets=list(filter(None, files.values())),
        reasons=dict.fromkeys(("cut", "empty"), "has no valid nkey seed"),
    )


def jwt_way(directory: Path) -> Way:
    operator = Operator()
    account, expired_account = Account(operator), Account(operator)
    user, revoked, of_expired = User(account), User(account), User(expired_account)
    stranger = User(Account(operator))
    jwt = user.jwt()
    files = {
        "right": user.credentials(jwt),
        "expired": user.credentials(user.jwt(-10)),
        "revoked": revoked.credentials(),
        "of an expired account": of_expired.credentials(),
        "of an unknown account": stranger.credentials(),
        "with another's seed": user.credentials(jwt).replace(user.key.seed, revoked.key.seed),
        "with a changed claim": user.credentials(jwt.replace(".", ".e", 1)),
        "without a seed": user.credentials(jwt).partition("IMPORTANT")[0],
        "without a jwt": user.credentials(jwt).partition("IMPORTANT")[2],
        "with half a seed": user.credentials(jwt).replace(user.key.seed, user.key.seed[:20]),
        "empty": "",
    }
    for name, text in files.items():
        (directory / name).write_text(text)
    (directory / "binary").write_bytes(bytes(range(256)) * 64)
    of_user = account.jwt(revoked=(revoked,)), account.jwt(revoked=(revoked, user))
    expired = expired_account.jwt(-10)
    return Way(
        config=operator.config({account: of_user[0], expired_account: expired}),
        without=operator.config({account: of_user[1], expired_account: expired}),
        right={"credentials": directory / "right"},
        wrong={name: {"credentials": str(directory / name)} for name in (*files, "binary") if name != "right"},
        secrets=[jwt, user.key.seed, revoked.key.seed, stranger.key.seed, of_expired.key.seed, user.key.seed[:20]],
        reasons={
            "expired": r"refuses these credentials.*; the JWT in '.*expired' expired at 20..-..-..T..:..:..Z",
            "without a seed": "is no credentials file: there is no nkey seed in it",
            "without a jwt": "is no credentials file: there is no JWT in it",
            "with half a seed": "has no valid nkey seed",
            "empty": "there is no JWT in it",
            "binary": "there is no JWT in it",
        },
    )


WAYS = {"password": password_way, "token": token_way, "nkey": nkey_way, "jwt": jwt_way}


@pytest.fixture(params=WAYS, scope="module")
def way(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Way:
    return WAYS[request.param](tmp_path_factory.mktemp("way"))


@pytest.fixture(scope="module")
def guarded(way: Way) -> Iterator[NATSServer]:
    with NATSServer(config=way.config, jetstream=False) as server:
        yield server


@pytest.fixture
def refuse(sweep: Sweep) -> Callable[..., float]:
    """Have a bus fail to connect, and look at all that it then shows; returns the seconds it took."""

    def refuse(url: object, reason: str, connect_timeout: float = PATIENCE, **options: Any) -> float:
        bus = NATSEventBus(url, connect_timeout=connect_timeout, **options)  # type: ignore[arg-type]
        try:
            start = time.monotonic()
            with sweep.failing(ConnectError, reason):
                bus.start()
            took = time.monotonic() - start
            bus.publish("n", make_event())
            for call in (lambda: bus.subscribe("n", timeout=0.01), lambda: bus.flush(0.01)):
                with sweep.failing(DeadlineExceededError, reason):
                    call()
            assert not bus.is_connected
            sweep.see(bus)
        finally:
            sweep.see(bus.close(0.05 * UNIT), bus)
        return took

    return refuse


def reason_of(bus: NATSEventBus) -> str:
    """Why a bus is not connected."""
    return link_of(bus).reason


# -- credentials


def test_the_right_ones_are_accepted(way: Way, guarded: NATSServer, sweep: Sweep) -> None:
    sweep.hide(*way.secrets)
    with NATSEventBus(guarded.url, **way.right) as bus, bus.subscribe("n") as events:
        bus.publish("n", make_event(1))
        bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        sweep.see(bus)


def test_wrong_ones_are_refused_at_once(
    way: Way, guarded: NATSServer, sweep: Sweep, refuse: Callable[..., float]
) -> None:
    sweep.hide(*way.secrets)
    for what, options in way.wrong.items():
        took = refuse(guarded.url, way.reasons.get(what, REFUSED), **options)
        assert took < PROMPTLY, what


@pytest.mark.parametrize("make", first_of([password_way, token_way]))
def test_what_is_in_a_url_may_be_percent_encoded(
    make: Callable[[Path], Way], tmp_path: Path, sweep: Sweep, refuse: Callable[..., float]
) -> None:
    way = make(tmp_path)
    sweep.hide(*way.secrets, way.in_url, "mistaken%2Fin-the-url", "mistaken/in-the-url")
    with NATSServer(config=way.config) as server:
        address = server.url.removeprefix("nats://")
        with NATSEventBus(f"nats://{way.in_url}@{address}") as bus:
            assert bus.is_connected
            sweep.see(bus)
        mistaken = way.in_url.partition(":")[0] + ":mistaken%2Fin-the-url"
        refuse(f"nats://{mistaken}@{address}", REFUSED)
        refuse([f"nats://{mistaken}@{address}", f"nats://{mistaken}@localhost:{server.port}"], REFUSED)


def test_each_server_is_shown_what_is_in_its_url() -> None:
    login = Login(["nats://h", "nats://u%41:p@h1", "tls://t%2F@h2:1", "nats://[::1]:3"])
    assert login.fields("h1", 4222, None) == {"user": "uA", "pass": "p"}
    assert login.fields("h2", 1, "nonce") == {"auth_token": "t/"}
    for host, port in (("h", None), ("h1", 1), ("::1", 3), ("named-by-the-cluster", 4222)):
        assert login.fields(host, port, None) == {"user": "uA", "pass": "p"}  # the first there is
    assert Login(["nats://u:p@h"], token="t").fields("h", None, None) == {"auth_token": "t"}
    assert Login(["nats://u:p@h"], user="v").fields("h", None, None) == {"user": "v", "pass": ""}
    assert Login(["nats://h"]).fields("h", None, "nonce") == {}


def test_a_key_is_not_sent_beside_what_is_in_the_url(tmp_path: Path) -> None:
    ways = nkey_way(tmp_path), jwt_way(tmp_path)
    for way, names in zip(ways, ({"nkey", "sig"}, {"jwt", "sig"}), strict=True):
        for url in ("nats://u:hunter@h", "nats://hunter@h"):
            login = Login([url], **{name: str(path) for name, path in way.right.items()})
            assert set(login.fields("h", None, "nonce")) == names
            assert login.fields("h", None, None) == {}  # the server knows no keys, and the password is for others


def test_arguments_win_over_the_url(sweep: Sweep) -> None:
    sweep.hide("right-one", "wrong-one")
    with NATSServer(config='authorization: {user: "u", password: "right-one"}') as server:
        url = server.url.replace("nats://", "nats://u:wrong-one@")
        with NATSEventBus(url, user="u", password="right-one") as bus:
            assert bus.is_connected


def test_one_refusing_server_of_several_does_not_end_the_first_attempt(sweep: Sweep) -> None:
    sweep.hide("right-one")
    with (
        NATSServer(config='authorization: {user: "u", password: "other"}') as stale,
        NATSServer(config='authorization: {user: "u", password: "right-one"}') as good,
    ):
        for _ in range(4):  # nats-py shuffles them
            with NATSEventBus([stale.url, good.url], user="u", password="right-one", connect_timeout=PATIENCE) as bus:
                assert bus.is_connected


@pytest.mark.fault
def test_servers_that_the_cluster_names_are_shown_the_urls_password(sweep: Sweep) -> None:
    sweep.hide("clu/ster")
    config = 'authorization: {user: "u", password: "clu/ster"}'
    with NATSCluster(2, config=config) as cluster:
        first = cluster.servers[0]
        with NATSEventBus(first.url.replace("nats://", "nats://u:clu%2Fster@")) as bus, bus.subscribe("n") as events:
            eventually(lambda: knows_another_server(bus), "a named server")
            first.kill()
            eventually(lambda: bus.metrics().reconnects == 1 and bus.is_connected, "the other server")
            bus.publish("n", make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]
            sweep.see(bus)


# -- wrong only after a while


@pytest.mark.fault
@pytest.mark.parametrize("way", first_of(["jwt", *(name for name in WAYS if name != "jwt")]), indirect=True)
def test_credentials_that_are_revoked_while_connected(way: Way, sweep: Sweep, caplog: pytest.LogCaptureFixture) -> None:
    sweep.hide(*way.secrets)
    with (
        NATSServer(config=way.config, jetstream=False) as server,
        NATSEventBus(server.url, **way.right) as bus,
        bus.subscribe("n") as events,
    ):
        server.reload(way.without)
        eventually(lambda: "refuses these credentials" in caplog.text, "a word about it")
        assert not bus.is_connected
        assert not bus.wait_connected(0.01)
        bus.publish("n", make_event(1))
        with sweep.failing(DeadlineExceededError, "refuses these credentials"):
            bus.flush(0.05)
        with sweep.failing(DeadlineExceededError, "refuses these credentials"):
            bus.subscribe("other", timeout=0.05)
        assert numbers(events.get_batch(9, timeout=0.05)) == [1]  # its own; the subscription waits for better times
        sweep.see(bus)
        server.reload(way.config)
        assert bus.wait_connected(PATIENCE)
        bus.flush(PATIENCE)
        with NATSEventBus(server.url, **way.right) as other:
            other.publish("n", make_event(2))
            assert numbers([events.get(timeout=PATIENCE)]) == [2]
        assert bus.metrics().reconnects >= 1


class Lease:
    """A server in operator mode, and a credentials file whose JWT does not last."""

    def __init__(self, directory: Path) -> None:
        self.operator = Operator()
        self.account = Account(self.operator)
        self.user = User(self.account)
        self.file = directory / "user.creds"
        self.secrets = [self.user.key.seed]
        self.renew(2)
        self.server = NATSServer(config=self.config(), jetstream=False)

    def config(self, **limits: int) -> str:
        return self.operator.config({self.account: self.account.jwt(**limits)})

    def renew(self, expires_in: float, **claims: object) -> None:
        jwt = self.user.jwt(expires_in, **claims)
        self.secrets.append(jwt)
        self.file.write_text(self.user.credentials(jwt))


@pytest.fixture
def lease(tmp_path: Path, sweep: Sweep) -> Iterator[Lease]:
    lease = Lease(tmp_path)
    with lease.server:
        yield lease
    sweep.hide(*lease.secrets)


@pytest.mark.fault
def test_a_jwt_that_expires_while_connected_is_renewed_from_its_file(
    lease: Lease, caplog: pytest.LogCaptureFixture
) -> None:
    with NATSEventBus(lease.server.url, credentials=lease.file) as bus, bus.subscribe("n") as events:
        eventually(lambda: not bus.is_connected, "the expiry")
        eventually(lambda: re.search(r"(?i)lost the connection to .*\(user authentication expired\)", caplog.text))
        eventually(lambda: "expired at 20" in caplog.text, "the moment")
        bus.publish("n", make_event(1))
        lease.renew(2)
        assert bus.wait_connected(PATIENCE)
        lease.renew(3600)  # before the next expiry: then it is but a short break
        eventually(lambda: bus.metrics().reconnects == 2 and bus.is_connected, "the second renewal")
        bus.flush(PATIENCE)
        with NATSEventBus(lease.server.url, credentials=lease.file) as other:
            other.publish("n", make_event(2))
            assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 2]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("broken", "reason"),  # each ends nats-py's own reconnecting
    first_of(
        [
            (None, "cannot be read: No such file or directory"),
            ("", "there is no JWT in it"),
            ("SUANOTASEED", "has no valid nkey seed"),
        ]
    ),
)
def test_a_credentials_file_that_is_broken_for_a_while(lease: Lease, broken: str | None, reason: str) -> None:
    lease.renew(3600)
    good = lease.file.read_text()
    with NATSEventBus(lease.server.url, credentials=lease.file) as bus, bus.subscribe("n") as events:
        if broken is None:
            lease.file.unlink()
        else:
            lease.file.write_text(broken and good.replace(lease.user.key.seed, broken))
        lease.server.restart()
        eventually(lambda: reason in reason_of(bus), reason)
        assert not bus.is_connected
        lease.file.write_text(good)
        assert bus.wait_connected(PATIENCE)
        with NATSEventBus(lease.server.url, credentials=lease.file) as other:
            other.publish("n", make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.fault
def test_an_account_that_is_changed_by_a_reload(lease: Lease) -> None:
    lease.renew(3600)
    with NATSEventBus(lease.server.url, credentials=lease.file) as bus, bus.subscribe("n") as events:
        lease.server.reload(lease.operator.config({lease.account: lease.account.jwt(-10)}))
        eventually(lambda: "refuses these credentials" in reason_of(bus), "the account's end")
        assert not bus.is_connected
        lease.server.reload(lease.config())
        assert bus.wait_connected(PATIENCE)
        with NATSEventBus(lease.server.url, credentials=lease.file) as other:
            other.publish("n", make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.slow
@pytest.mark.fault
def test_a_renewed_jwt_may_have_fewer_rights(lease: Lease) -> None:
    lease.renew(2)
    with (
        NATSEventBus(lease.server.url, credentials=lease.file) as bus,
        bus.subscribe("secret") as gone,
        bus.subscribe("open") as kept,
    ):
        lease.renew(3600, sub={"deny": ["aether.events.secret"]}, pub={"deny": ["aether.events.secret"]})
        with pytest.raises(PermissionDeniedError, match=r"'aether\.events\.secret'"):
            list(gone)
        assert bus.wait_connected(PATIENCE)
        bus.publish("secret", make_event(1))
        with pytest.raises(DeliveryUncertainError, match="no permission to publish"):
            bus.flush(PATIENCE)
        bus.publish("open", make_event(2))
        assert numbers([kept.get(timeout=PATIENCE)]) == [2]


def test_an_account_that_is_full(lease: Lease, sweep: Sweep) -> None:
    lease.renew(3600)
    lease.server.reload(lease.config(conn=1))
    with NATSEventBus(lease.server.url, credentials=lease.file):
        more = NATSEventBus(lease.server.url, credentials=lease.file, connect_timeout=0.6 * UNIT)
        with sweep.failing(ConnectError, "maximum account active connections exceeded"):
            more.start()
    assert more.wait_connected(PATIENCE)  # it tried on, and there is room now
    assert more.close()


# -- TLS


@dataclass
class Tls:
    """A server's ``tls`` block, a client's options, and what is to come of it: "" for a connection."""

    config: Callable[["Tls.Given"], str]
    options: Callable[["Tls.Given"], dict[str, Any]]
    reason: str = ""
    waits: bool = False  #: nothing tells it but the time

    @dataclass
    class Given:
        ours: Certificates
        theirs: Certificates


FIRST = "handshake_first: true"
VERIFY = "verify: true"
YESTERDAY = timedelta(days=-1)
NOT_ACCEPTED = "the server's certificate is not accepted: "

TLS = {
    "right": Tls(lambda g: g.ours.config(), lambda g: {"tls": g.ours.trusting()}),
    "unknown CA": Tls(
        lambda g: g.ours.config(), lambda g: {"tls": g.theirs.trusting()}, NOT_ACCEPTED + "unable to get local issuer"
    ),
    "the system's CAs": Tls(lambda g: g.ours.config(), lambda g: {}, NOT_ACCEPTED),
    "wrong host name": Tls(
        lambda g: g.ours.config("elsewhere.example"),
        lambda g: {"tls": g.ours.trusting()},
        NOT_ACCEPTED + "IP address mismatch",
    ),
    "tls_hostname": Tls(
        lambda g: g.ours.config("elsewhere.example"),
        lambda g: {"tls": g.ours.trusting(), "tls_hostname": "elsewhere.example"},
    ),
    "wrong tls_hostname": Tls(
        lambda g: g.ours.config(),
        lambda g: {"tls": g.ours.trusting(), "tls_hostname": "elsewhere.example"},
        NOT_ACCEPTED + "Hostname mismatch",
    ),
    "expired": Tls(
        lambda g: g.ours.config(valid_for=YESTERDAY),
        lambda g: {"tls": g.ours.trusting()},
        NOT_ACCEPTED + "certificate has expired",
    ),
    "no TLS there": Tls(lambda g: "", lambda g: {"tls": g.ours.trusting()}, "TLS was asked for"),
    "TLS first": Tls(
        lambda g: g.ours.config(more=FIRST), lambda g: {"tls": g.ours.trusting(), "tls_handshake_first": True}
    ),
    "TLS first, unknown CA": Tls(
        lambda g: g.ours.config(more=FIRST),
        lambda g: {"tls": g.theirs.trusting(), "tls_handshake_first": True},
        NOT_ACCEPTED,
    ),
    "TLS first, not asked for": Tls(
        lambda g: g.ours.config(more=FIRST), lambda g: {"tls": g.ours.trusting()}, "begins TLS at another moment", True
    ),
    "TLS first at one that greets first": Tls(
        lambda g: g.ours.config(),
        lambda g: {"tls": g.ours.trusting(), "tls_handshake_first": True},
        "not from the first byte|begins TLS at another moment",  # as its greeting comes within the handshake, or before
        waits=True,
    ),
    "TLS first at one without TLS": Tls(
        lambda g: "",
        lambda g: {"tls": g.ours.trusting(), "tls_handshake_first": True},
        "the server does not speak it there",
    ),
    "client certificate": Tls(
        lambda g: g.ours.config(more=VERIFY), lambda g: {"tls": g.ours.trusting(g.ours.issue("me"))}
    ),
    "no client certificate": Tls(
        lambda g: g.ours.config(more=VERIFY), lambda g: {"tls": g.ours.trusting()}, "the server wants a client's"
    ),
    "a stranger's client certificate": Tls(
        lambda g: g.ours.config(more=VERIFY),
        lambda g: {"tls": g.ours.trusting(g.theirs.issue("me"))},
        "the server does not accept this client's certificate",
    ),
    "an expired client certificate": Tls(
        lambda g: g.ours.config(more=VERIFY),
        lambda g: {"tls": g.ours.trusting(g.ours.issue("me", valid_for=YESTERDAY))},
        "the server does not accept this client's certificate.*EXPIRED",
    ),
}

#: Those that each run of the tests has; the others are slow.
TLS_BY_DEFAULT = {
    *("unknown CA", "wrong host name", "tls_hostname", "no TLS there", "TLS first", "TLS first, not asked for"),
    *("client certificate", "no client certificate", "a stranger's client certificate"),
}


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Tls.Given:
    return Tls.Given(Certificates(tmp_path_factory.mktemp("ours")), Certificates(tmp_path_factory.mktemp("theirs")))


@pytest.mark.both_loops
@pytest.mark.parametrize(
    "case",
    [
        pytest.param(case, marks=[] if name in TLS_BY_DEFAULT else [pytest.mark.slow], id=name)
        for name, case in TLS.items()
    ],
)
def test_tls(case: Tls, given: Tls.Given, sweep: Sweep, refuse: Callable[..., float]) -> None:
    sweep.hide("the-password")
    config = case.config(given) + 'authorization: {user: "u", password: "the-password"}'
    options = case.options(given) | {"user": "u", "password": "the-password"}
    with NATSServer(config=config) as server:
        if not case.reason:
            with (
                NATSEventBus(server.url, **options) as bus,
                NATSEventBus(server.url, **options) as other,
                other.subscribe("n") as events,
            ):
                bus.publish_many("n", [make_event(n, data={"n": n, "fill": "x" * 50_000}) for n in range(50)])
                bus.flush(PATIENCE)
                assert [numbers([events.get(timeout=PATIENCE)])[0] for _ in range(50)] == list(range(50))
                sweep.see(bus)
        elif case.waits:
            refuse(server.url, case.reason, connect_timeout=0.6 * UNIT, **options)
        else:
            assert refuse(server.url, case.reason, **options) < PROMPTLY


@pytest.mark.fault
def test_a_certificate_that_is_renewed_too_late(given: Tls.Given, sweep: Sweep) -> None:
    sweep.hide("the-password")
    password = 'authorization: {user: "u", password: "the-password"}'
    with (
        NATSServer(config=given.ours.config() + password) as server,
        NATSEventBus(server.url, tls=given.ours.trusting(), user="u", password="the-password") as bus,
        bus.subscribe("n") as events,
    ):
        server.reload(given.ours.config(valid_for=YESTERDAY) + password)
        bus.flush(PATIENCE)  # who is in stays in
        server.restart()
        eventually(lambda: not bus.is_connected)
        bus.publish("n", make_event(1))
        expired = "certificate has expired"
        eventually(lambda: expired in reason_of(bus), expired)
        with sweep.failing(DeadlineExceededError, expired):
            bus.flush(0.05)
        server.reload(given.ours.config() + password)
        assert bus.wait_connected(PATIENCE)
        bus.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.fault
def test_a_client_certificate_whose_user_is_taken_away(given: Tls.Given, sweep: Sweep) -> None:
    chain, key = given.ours.issue("me@example.org")
    sweep.hide(key.read_text().splitlines()[1])
    tls = given.ours.config(more="verify_and_map: true")
    users = 'authorization {{ users: [ {{ user: "{}@example.org" }} ] }}'
    with (
        NATSServer(config=tls + users.format("me")) as server,
        NATSEventBus(server.url, tls=given.ours.trusting((chain, key))) as bus,
        bus.subscribe("n") as events,
    ):
        server.reload(tls + users.format("you"))
        eventually(lambda: "refuses these credentials" in reason_of(bus), "the refusal")
        assert not bus.is_connected
        sweep.see(bus)
        server.reload(tls + users.format("me"))
        assert bus.wait_connected(PATIENCE)
        bus.flush(PATIENCE)
        with NATSEventBus(server.url, tls=given.ours.trusting((chain, key))) as other:
            other.publish("n", make_event(1))
            assert numbers([events.get(timeout=PATIENCE)]) == [1]


# -- servers that are none


def test_a_server_that_hangs_up_in_place_of_an_answer(sweep: Sweep, refuse: Callable[..., float]) -> None:
    sweep.hide("the-password")
    with FakeServer(hang_up, auth_required=True) as impostor:
        options = {"user": "u", "password": "the-password", "connect_timeout": UNIT}
        refuse(impostor.url, "closed the connection before it had answered", **options)
        assert b"the-password" in impostor.peers[0].lines[0]  # it does ask for it


def test_what_a_write_does_not_know_the_reader_does() -> None:
    alert = ssl.SSLError(1, "a TLS alert")

    class Transport:
        _io_writer = None
        _io_reader = SimpleNamespace(exception=lambda: alert)

        async def readline(self) -> bytes:
            return b"INFO {}\r\n"

        def write(self, _: bytes) -> None: ...

        async def drain(self) -> None:
            raise ConnectionResetError("Connection lost")

        def close(self) -> None: ...

        async def wait_closed(self) -> None: ...

    class Cut(NATSClient):
        async def _select_next_server(self) -> None:
            (self._current_server,) = self._server_pool
            self._transport = Transport()  # type: ignore[assignment]

    async def connect() -> None:
        options = LinkOptions(
            settings=Settings(servers=("nats://h",)), name="n", connect_timeout=PATIENCE, ping_interval=1
        )
        nobody: Callable[..., None] = lambda *_: None  # noqa: E731
        client = Cut(
            Server("nats://h"), options.login(), Reporter(), refused=nobody, unreadable=nobody, informed=nobody
        )
        await client.open(options)

    with pytest.raises(ssl.SSLError, match="a TLS alert"):
        asyncio.run(connect())


@pytest.mark.parametrize(
    ("error", "words", "refuses"),
    [
        (ConnectionResetError("reset"), "reset", False),
        (Error("nats: 'maximum connections exceeded'"), "maximum connections exceeded", False),
        (Error("nats: 'Authorization Violation'"), "the server refuses these credentials", True),
        (Error("nats: user authentication revoked"), "the server refuses these credentials", True),
        (Error("nats: account authentication expired"), "the server refuses these credentials", True),
        (ConnectionRefusedError(), "connection refused: nothing listens there", False),
        (ssl.SSLEOFError(8, "EOF occurred"), "TLS failed: EOF occurred", False),
        (ssl.SSLError(1, "no shared cipher"), "TLS failed: no shared cipher", True),
        (ssl.SSLCertVerificationError(1, "odd"), "the server's certificate is not accepted", True),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_a_refusal(error: Exception, words: str, refuses: bool) -> None:
    assert words in describe(error)
    assert is_refusal(error) == refuses


def test_nothing_is_said_to_a_server_without_the_tls_that_was_asked_for(
    given: Tls.Given, sweep: Sweep, refuse: Callable[..., float]
) -> None:
    sweep.hide("the-password")
    with FakeServer(hang_up, auth_required=True, nonce="abc") as impostor:
        options = {"user": "u", "password": "the-password", "tls": given.ours.trusting()}
        assert refuse(impostor.url, "nothing was sent to it", **options) < PROMPTLY
        assert [peer.lines for peer in impostor.peers if peer.lines] == []


class Meddler:
    """Stands between clients and a server: names another server in the plain ``INFO``, and lets TLS pass."""

    def __init__(self, server: NATSServer, named: str) -> None:
        self._server, self._named = server, named
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tls://127.0.0.1:{self._listener.getsockname()[1]}"
        self.altered = 0
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._server.port))
                self._ends += [client, there]
                with there.makefile("rb", buffering=0) as lines:
                    told = json.loads(lines.readline().removeprefix(b"INFO "))
                client.sendall(b"INFO %b\r\n" % json.dumps(told | {"connect_urls": [self._named]}).encode())
                self.altered += 1
                for ends in ((client, there), (there, client)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while piece := source.recv(65_536):
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        for end in self._ends:
            end.close()


def test_who_is_not_verified_names_no_server(given: Tls.Given) -> None:
    """Else it would have the password sent to a server of its own, which has a good certificate for its own name."""
    with (
        FakeServer(hang_up) as other,
        FakeServer(hang_up, tls_required=True, connect_urls=[f"localhost:{other.port}"]) as impostor,
        NATSEventBus(
            impostor.url.replace("nats", "tls"),
            tls=given.ours.trusting(),
            user="u",
            password="the-password",
            connect="background",
            connect_timeout=UNIT,
        ) as bus,
    ):
        impostor.answer = lambda peer, _: peer.cut()
        eventually(lambda: len(impostor.peers) >= 3, "attempts")
        assert len(link_of(bus).connector.servers) == 1
        assert other.peers == []


def test_who_does_not_let_us_in_names_no_server() -> None:
    with (
        FakeServer(hang_up) as other,
        FakeServer(hang_up, connect_urls=[f"127.0.0.1:{other.port}"]) as first,
        NATSEventBus(first.url, user="u", password="the-password", connect="background", connect_timeout=UNIT) as bus,
    ):
        eventually(lambda: len(first.peers) >= 3, "attempts")
        assert len(link_of(bus).connector.servers) == 1
        assert other.peers == []


def test_what_is_said_before_tls_names_no_server(given: Tls.Given) -> None:
    with (
        NATSServer(config=given.ours.config()) as server,
        Meddler(server, "localhost:1") as meddler,
        NATSEventBus(meddler.url, tls=given.ours.trusting()) as bus,
    ):
        bus.flush(PATIENCE)
        assert bus.is_connected
        assert meddler.altered
        assert not knows_another_server(bus)


@pytest.mark.fault
@pytest.mark.parametrize("first", first_of([False, True]), ids=["upgrade", "handshake_first"])
def test_servers_that_the_cluster_names_over_tls(first: bool, given: Tls.Given) -> None:
    config = given.ours.config(more=FIRST if first else "")
    with NATSCluster(2, config=config) as cluster:
        one = cluster.servers[0]
        with NATSEventBus(one.url, tls=given.ours.trusting(), tls_handshake_first=first) as bus:
            eventually(lambda: knows_another_server(bus), "a named server")
            one.kill()
            eventually(lambda: bus.metrics().reconnects == 1 and bus.is_connected, "the other server")


# -- what is shown


@pytest.mark.parametrize(
    "url",
    [
        "nats://u:the/hunter@h:4222", "nats://u:the?hunter@h", "nats://u:the#hunter@h", "nats://u:hunter",
        "nats://u:hun,ter@h", "nats://u:hunter@[h", "nats://u:hunter@h:99999", "u:hun://ter@h:x",
        "nats://hunter@h\u2100:4222", "http://u:hunter@h", "nats://u:hunter@", "nats://hunter@:4222",
        "nats://u:12/hunter@h", "nats://u:hunter@a@h:x", "nats://u:1234,5678@h", "1234,5678@h", "nats://u:p@1234,5678@h",
        "nats://u:1234,9,5678@h",
    ],
)  # fmt: skip
def test_a_bad_url_is_refused_without_its_password(url: str, sweep: Sweep) -> None:
    sweep.hide("hunter", "hun,ter", "hun://ter", "1234", "5678")
    with sweep.failing(InvalidOptionError, "URL.*%2C"):
        NATSEventBus(url)


@pytest.mark.parametrize(
    ("url", "safe"),
    [
        ("nats://u:p@h:4222", "nats://h:4222"), ("h", "nats://h"), ("t@h:1", "nats://h:1"), ("tls://h/", "tls://h/"),
        ("nats://u:p@[::1]:4222", "nats://[::1]:4222"), ("nats://u:p", "nats://u..."), ("u:a://b@h", "nats://h"),
        ("http://u:p@h:1", "http://h:1"), ("ftp://h", "ftp://h"), ("a://b@h", "nats://h"),
        ("nats://u:a/b@h", "nats://h"), ("nats://u:a@b@h", "nats://h"), ("", "nats://"), ("nats://u:a#b", "nats://u..."),
    ],
)  # fmt: skip
def test_what_is_shown_of_a_url(url: str, safe: str) -> None:
    assert shown(url) == safe


@pytest.mark.parametrize("has", ["", ', password: ""'])
def test_a_user_need_not_have_a_password(has: str) -> None:
    with NATSServer(config=f"authorization {{ users: [ {{ user: u{has} }} ] }}") as server:
        for given in ({"user": "u"}, {"user": "u", "password": ""}):
            with NATSEventBus(server.url, **given) as bus:  # type: ignore[arg-type]
                assert bus.is_connected


@pytest.mark.parametrize("options", [{"password": "secret-one"}, {"token": 12345678}, {"user": b"secret-one"}])
def test_credentials_that_cannot_be_ones(options: dict[str, Any], sweep: Sweep) -> None:
    sweep.hide("secret-one", "12345678")
    with sweep.failing(InvalidOptionError, "password|token|user"):
        NATSEventBus(**options)


def test_a_secret_in_place_of_its_file_is_not_shown(sweep: Sweep) -> None:
    user = User(Account(Operator()))
    jwt = user.jwt()
    sweep.hide(user.key.seed, jwt)
    for options in ({"nkeys_seed": user.key.seed}, {"credentials": user.credentials(jwt)}, {"credentials": jwt}):
        with sweep.failing(InvalidOptionError, "is the path of a file, and there is none$"):
            NATSEventBus(**options)  # type: ignore[arg-type]
    with sweep.failing(InvalidOptionError, "there is none at 'my.creds'"):
        NATSEventBus(credentials="my.creds")


@pytest.mark.parametrize(
    ("command", "password"),
    [
        (["pub", "n"], "mis/taken"),
        pytest.param(["sub", "n", "--count", "1"], "mis/taken", marks=pytest.mark.slow),
        pytest.param(["pub", "n"], "ri/ght", marks=pytest.mark.slow),
        pytest.param(["sub", "--help"], "ri/ght", marks=pytest.mark.slow),
    ],
)
def test_the_command_line_shows_none(command: list[str], password: str, sweep: Sweep) -> None:
    sweep.hide(password, f"u:{password}")
    with NATSServer(config='authorization: {user: "u", password: "ri/ght"}') as server:
        url = server.url.replace("nats://", f"nats://u:{quote(password, safe='')}@")
        done = subprocess.run(
            [sys.executable, "-X", "dev", "-m", "aether_sync", *command],
            env={"NATS_URL": url, "PATH": "", "COLUMNS": "200"},
            input='{"eventType": "X", "actorId": "x"}\n',
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    sweep.see(done.stdout, done.stderr)
    refused = password == "mis/taken"
    assert done.returncode == int(refused), done.stderr
    assert ("refuses these credentials" in done.stderr) == refused


def test_the_sweep_finds_what_is_shown(caplog: pytest.LogCaptureFixture) -> None:
    for show in (
        lambda sweep: sweep.see(["a-secret"]),
        lambda sweep: sweep.see(ValueError("a-secret")),
        lambda sweep: sweep.see("x%2Fsecret"),
        lambda sweep: sweep.see("header.claims.signature".replace("claims", "claimz")),
    ):
        sweep = Sweep()
        sweep.hide("a-secret", "x/secret", "headers.claims.signature")
        sweep.check("nothing of it")
        show(sweep)
        with pytest.raises(AssertionError, match="a secret is shown"):
            sweep.check("")
    with pytest.raises(AssertionError, match="no secret was named"):
        Sweep().check("")


def test_a_tls_context_is_not_read(given: Tls.Given, sweep: Sweep) -> None:
    chain, key = given.ours.issue("me")
    sweep.hide(key.read_text().splitlines()[1])
    context = given.ours.trusting((chain, key))
    assert isinstance(context, ssl.SSLContext)
    sweep.see(NATSEventBus("tls://127.0.0.1:1", tls=context))
