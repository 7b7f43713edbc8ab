"""``diagnose()``: what it finds on real servers, each with something wrong, and that it leaves nothing behind."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import freezegun
import pytest

from aether_sync import (
    ANY_VERSION,
    BusClosedError,
    Connection,
    Finding,
    InvalidNamespaceError,
    InvalidOptionError,
    JetStreamEventStore,
    MalformedRecordError,
    NATSCluster,
    NATSEventBus,
    NATSServer,
    diagnose,
)
from aether_sync.stores._jetstream.names import Names
from aether_sync.stores._jetstream.stream import settings
from aether_sync.stores.doctor import questions

from ..support.common import PATIENCE, UNIT, Monitor, eventually, first_of, make_event, run_threads
from ..support.credentials import Account, Certificates, Operator, User
from ..support.inside import names_of
from ..support.raw import RawClient
from ..support.stores import ask, save

pytestmark = pytest.mark.usefixtures("prefix")

BUS = ["aether.events.>"]
#: The rights of a user who only reads a store: see the guide's page on security.
READING = [f"$JS.API.{what}.events" for what in ("STREAM.INFO", "STREAM.MSG.GET", "DIRECT.GET")]


def users(**rights: dict[str, Any] | None) -> str:
    """Make the configuration of users, by their names, with their permissions; None for one without limits."""
    listed = [
        {"user": name, "password": "p"} | ({} if permissions is None else {"permissions": permissions})
        for name, permissions in rights.items()
    ]
    return f"authorization {{ users: {json.dumps(listed)} }}\n"


def look(url: str, user: str = "", timeout: float = PATIENCE, **options: Any) -> list[Finding]:
    """Diagnose with a connection of its own."""
    connection = Connection(url, **{"user": user, "password": "p"} if user else {})
    try:
        return diagnose(connection, timeout=timeout, **options)
    finally:
        connection.close()


def of(topic: str, findings: list[Finding]) -> list[Finding]:
    """Return the findings of a topic."""
    return [one for one in findings if one.topic == topic]


def troubles(findings: list[Finding]) -> dict[str, Finding]:
    """Return by topic what is not well, except when the server syncs, which is by default never well."""
    return {one.topic: one for one in findings if one.level != "ok" and one.topic != "sync to disk"}


@contextmanager
def monitored(config: str = "", **options: Any) -> Iterator[tuple[NATSServer, str]]:
    """A server, and the URL of its monitoring port."""
    monitor = Monitor()
    with closing(monitor.free), NATSServer(config=f"{config}\n{monitor.config}", **options) as server:
        yield server, f"http://127.0.0.1:{monitor.port}"


# -- all there is


def test_all_is_well(server: NATSServer, monitor: Monitor, store: JetStreamEventStore) -> None:
    save(store, 10)
    findings = look(server.url, stream=store.stream, monitor=f"http://127.0.0.1:{monitor.port}")
    assert troubles(findings) == {}
    assert {
        "server", "login", "tls", "permissions", "round trip", "clock", "limits", "memory", "jetstream", "stream",
        "settings", "duplicate window", "replicas", "actors", "saves", "consumers",
    } <= {one.topic for one in findings}  # fmt: skip
    assert not [one for one in findings if one.level == "ok" and one.advice]


@pytest.mark.parametrize("with_monitor", [False, True])
def test_a_bus_alone_needs_no_jetstream(monkeypatch: pytest.MonkeyPatch, with_monitor: bool) -> None:
    monkeypatch.setattr("aether_sync.stores._jetstream.api._STARTING", 0.2 * UNIT)
    with monitored(jetstream=False) as (server, port):
        options = {"monitor": port} if with_monitor else {}
        assert troubles(look(server.url, store=False, **options)) == {}
        (found,) = of("jetstream", look(server.url, **options))
        assert found.level == "bad"
        assert "bus" in found.advice
        (clock,) = of("clock", look(server.url, store=False, **options))
        assert "within 0.0" in clock.message


def test_no_server(free_port: int) -> None:
    connection = Connection(f"nats://127.0.0.1:{free_port}", connect_timeout=0.2 * UNIT)
    with closing(connection):
        (found,) = diagnose(connection, timeout=UNIT)
    assert (found.level, found.topic) == ("bad", "connection")


class Undecided:
    """Neither true nor false."""

    def __bool__(self) -> bool:
        raise ArithmeticError


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"monitor": "localhost:8222"}, InvalidOptionError),
        ({"monitor": 8222}, InvalidOptionError),
        ({"patterns": "orders.>"}, InvalidOptionError),
        ({"patterns": ["orders..>"]}, InvalidNamespaceError),
        ({"prefix": "a.b"}, ValueError),
        ({"stream": ""}, InvalidOptionError),
        ({"namespace": ""}, InvalidOptionError),
        ({"replicas": 0}, InvalidOptionError),
        ({"store": Undecided()}, InvalidOptionError),
        ({"timeout": -1}, InvalidOptionError),
    ],
)
def test_bad_input(options: dict[str, Any], error: type[Exception]) -> None:
    connection = Connection("nats://127.0.0.1:1")
    with pytest.raises(error):
        diagnose(connection, **options)
    assert repr(connection).endswith("new>"), "nothing was begun"


def test_what_is_no_connection() -> None:
    with pytest.raises(InvalidOptionError, match="must be a Connection"):
        diagnose("nats://127.0.0.1:1")  # type: ignore[arg-type]
    connection = Connection("nats://127.0.0.1:1")
    connection.close()
    with pytest.raises(BusClosedError):
        diagnose(connection)


# -- the monitoring port


def whole(findings: list[Finding]) -> str:
    return "\n".join(f"{one.message} {one.advice}" for one in findings)


@pytest.mark.parametrize("store", [False, True])
def test_a_monitoring_port_that_does_not_answer_is_one_finding(
    server: NATSServer, monitor: Monitor, free_port: int, store: bool
) -> None:
    nothing, below = f"http://127.0.0.1:{free_port}", f"http://127.0.0.1:{monitor.port}/varz"
    for url, words in ((nothing, "does not answer"), (below, "is no monitoring port of a nats-server")):
        findings = look(server.url, monitor=url, store=store)
        (found,) = of("monitor", findings)
        assert found.level == "warn"
        assert found.message.startswith(f"{url} {words}")
        assert "--monitor" not in whole(findings), "it was given"
        assert [one for one in findings if one.level != "ok"] == [found]


def test_a_monitoring_port_of_another_server_is_not_believed(server: NATSServer) -> None:
    with monitored() as (_, port):
        findings = look(server.url, monitor=port)
    (found,) = of("monitor", findings)
    assert (found.level, found.message.startswith(f"{port} is of another server, '")) == ("warn", True)
    assert not {"memory", "health", "sync to disk"} & {one.topic for one in findings}


def test_a_monitoring_port_of_a_server_of_the_cluster_counts() -> None:
    with NATSCluster(3) as cluster:
        name = cluster.servers[1].url
        ports = [f"http://127.0.0.1:{port}" for port in cluster._monitors]
        eventually(lambda: "of this server" in whole(of("monitor", look(name, store=False, monitor=ports[1]))))
        eventually(lambda: "has a route to this" in whole(of("monitor", look(name, store=False, monitor=ports[0]))))
        assert of("memory", look(name, store=False, monitor=ports[0]))


# -- rights


def test_a_user_of_a_bus_gets_no_contradictions(guarded: NATSServer) -> None:
    findings = look(guarded.url, "tenant")
    (found,) = of("round trip", findings)
    assert "gets no answers" not in found.message
    bad = [one for one in findings if one.level == "bad"]
    assert [one.topic for one in bad] == ["permissions"], "one cause, told once"
    assert "grant publish $JS.API.STREAM.INFO.events" in bad[0].advice
    assert "not there yet" not in whole(findings), "which he cannot know"


@pytest.fixture
def guarded() -> Iterator[NATSServer]:
    """A server with users who have some rights each."""
    rights = users(
        all=None,
        reader={"publish": READING, "subscribe": ["_INBOX.>"]},
        bus={"publish": BUS, "subscribe": BUS},
        tenant={"publish": ["aether.events.a.>"], "subscribe": ["aether.events.a.>", "_INBOX.>"]},
        nobody={"publish": {"deny": ">"}, "subscribe": {"deny": ">"}},
    )
    with NATSServer(config=f"{rights}no_auth_user: all") as server:
        yield server


def test_a_user_without_limits_is_not_tried(guarded: NATSServer, tmp_path: Path) -> None:
    (found,) = of("permissions", look(guarded.url, "all"))
    assert found.level == "ok"
    assert "'all'" in found.message
    assert "Violation" not in guarded.log_path.read_text()


def test_rights_that_are_missing_are_named(guarded: NATSServer) -> None:
    with JetStreamEventStore(guarded.url, user="all", password="p") as store:
        save(store, 1)
    findings = of("permissions", look(guarded.url, "reader"))
    assert [one.level for one in findings if one.level == "bad"] == []
    refused = {one.message.split("may not ")[1].split(":")[0]: one for one in findings if one.level == "warn"}
    assert set(refused) == {
        "publish to '>' on the bus", "subscribe to '>' on the bus", "load snapshots", "save events", "save snapshots",
        "follow the store", "run durable consumers", "list consumers", "read dead letters", "discard dead letters",
    }  # fmt: skip
    assert refused["save events"].advice == "grant publish events.events.>, if this user is to save events"
    assert "publish events.events.aether-doctor.aether-doctor" in refused["save events"].message
    assert refused["follow the store"].advice.startswith(
        "grant publish $JS.API.CONSUMER.*.events.*, publish $JS.API.CONSUMER.MSG.NEXT.events.*, if"
    )
    (allowed,) = [one for one in findings if one.level == "ok"]
    assert allowed.message == "this user may get answers from JetStream, read events"


def test_what_is_granted_as_advised_is_well(guarded: NATSServer) -> None:
    findings = look(guarded.url, "nobody")
    assert {one.level for one in of("permissions", findings)} == {"warn", "bad"}
    granted: dict[str, list[str]] = {"publish": ["$JS.API.INFO", "$JS.API.STREAM.CREATE.>"], "subscribe": []}
    for one in of("permissions", findings):
        for right in one.advice.removeprefix("grant ").split(", if this")[0].split(", "):
            verb, subject = right.split(" ")
            granted[verb].append(subject)
    guarded.reload(users(all=None, nobody=granted) + "no_auth_user: all")
    with JetStreamEventStore(guarded.url, user="all", password="p") as store:
        save(store, 1)
    findings = of("permissions", look(guarded.url, "nobody"))
    assert {one.level for one in findings} == {"ok"}


def test_patterns_that_are_named_are_vital(guarded: NATSServer) -> None:
    mine = of("permissions", look(guarded.url, "tenant", store=False, patterns=["a.>", "a.orders"]))
    assert [one.level for one in mine] == ["ok"]
    others = of("permissions", look(guarded.url, "tenant", store=False, patterns=["a.>", "b-*.x"]))
    assert [one.level for one in others] == ["bad", "bad", "ok"]
    assert [one.advice for one in others[:2]] == [
        "grant publish aether.events.*.x",
        "grant subscribe aether.events.*.x",
    ]


def test_a_user_of_a_bus_who_gets_no_answers(guarded: NATSServer) -> None:
    findings = look(guarded.url, "bus", store=False, patterns=[">"])
    assert troubles(findings) == {}
    assert "not measured" in of("round trip", findings)[0].message


def test_nothing_is_left_behind(guarded: NATSServer, caplog: pytest.LogCaptureFixture) -> None:
    with NATSEventBus(guarded.url, user="all", password="p") as bus, bus.subscribe(">") as events:
        with RawClient(guarded.port) as raw:
            for subject in ("aether.>", "events.>", "events~snapshots.>", "events~dead-letters.>", "$JS.ACK.>"):
                raw.subscribe(subject)
            raw.flush()
            for user in ("all", "reader", "bus", "tenant", "nobody"):
                look(guarded.url, user, timeout=UNIT)
            bus.flush()
            assert raw.drain() == 0
        assert events.stats().offered == 0
        assert bus.metrics().decode_errors == 0
    with JetStreamEventStore(guarded.url, user="all", password="p") as store:
        assert ask(store, "INFO")["streams"] == 0
    assert [one.kind for one in caplog.records if "aether-doctor" in one.getMessage()] == []


def test_a_bus_goes_on_beside_two_of_them(guarded: NATSServer) -> None:
    """Over a connection that a bus uses as well, each refusal is taken for that of the trial which it answers."""
    connection = Connection(guarded.url, user="tenant", password="p")
    found: list[list[str]] = []

    def examine() -> None:
        for _ in range(3):
            findings = of("permissions", diagnose(connection, store=False, patterns=["a.>", "b"]))
            found.append([one.level for one in findings])

    with closing(connection), NATSEventBus(connection) as bus, bus.subscribe("a.>") as events:

        def publish() -> None:
            for n in range(100):
                bus.publish("a.orders", make_event(n))

        run_threads(examine, examine, publish)
        bus.flush()
        got: list[int] = []
        while len(got) < 100:
            got += [event.data["n"] for event in events.get_batch(100, timeout=PATIENCE) if event.data]
        metrics = bus.metrics()
    assert got == list(range(100))
    assert found == [["bad", "bad", "ok"]] * 6
    assert (metrics.confirmed, metrics.rejected, metrics.uncertain, metrics.reconnects) == (100, 0, 0, 0)


# -- TLS and login


@pytest.mark.parametrize(
    ("left", "level", "words"),
    [(100, "ok", "100 days"), (10, "warn", "10 days"), (1, "bad", "24 hours")],
)
def test_a_certificate_that_expires(tmp_path: Path, left: int, level: str, words: str) -> None:
    certificates = Certificates(tmp_path)
    config = certificates.config(valid_for=timedelta(days=left, minutes=5))
    with NATSServer(config=config) as server:
        connection = Connection(server.url, tls=certificates.trusting())
        with closing(connection):
            state, expires = of("tls", diagnose(connection, store=False))
    assert (state.level, expires.level) == ("ok", level)
    assert "with a verified certificate" in state.message
    assert words in expires.message


def test_a_certificate_that_is_not_verified(tmp_path: Path) -> None:
    certificates = Certificates(tmp_path)
    with NATSServer(config=certificates.config()) as server:
        for is_verified in (True, False):
            context = certificates.trusting()
            context.check_hostname = False
            if not is_verified:
                context.verify_mode = 0  # type: ignore[assignment]  # ssl.CERT_NONE
            connection = Connection(server.url, tls=context)
            with closing(connection):
                found = of("tls", diagnose(connection, store=False))[0]
            assert found.level == "warn"
            assert ("may be of any host" if is_verified else "not verified") in found.message


def own_address() -> str:
    """Return an address of this machine that is not its loopback's."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))  # which sends nothing
        except OSError:
            pytest.skip("this machine has no other address")
        return str(sock.getsockname()[0])


def test_without_tls_or_login_over_the_network() -> None:
    address = own_address()
    with NATSServer(host="0.0.0.0") as server:
        found = troubles(look(f"nats://{address}:{server.port}", store=False))
        assert set(found) == {"tls", "login"}
        assert troubles(look(server.url, store=False)) == {}


def test_a_jwt_that_expires(tmp_path: Path) -> None:
    operator = Operator()
    account, system = Account(operator), Account(operator)
    config = operator.config({account: account.jwt(), system: system.jwt()}) + f"system_account: {system.key.public}\n"
    with NATSServer(config=config, jetstream=False) as server:
        for expires_in, level in ((3_700.0, "warn"), (90_000.0, "ok")):
            user = User(account)
            path = tmp_path / "user.creds"
            path.write_text(user.credentials(user.jwt(expires_in)))
            connection = Connection(server.url, credentials=path)
            with closing(connection):
                found = of("login", diagnose(connection, store=False))
            assert [one.level for one in found][-1] == level
            assert ("expires in 62 minutes" in found[-1].message) == (level == "warn")


# -- clocks, limits, memory


def test_a_clock_that_is_wrong(server: NATSServer) -> None:
    for store in (False, True):
        with freezegun.freeze_time(tz_offset=0, tick=True, auto_tick_seconds=0) as frozen:
            frozen.tick(timedelta(hours=1))
            (found,) = of("clock", look(server.url, store=store))
        assert found.level == "warn"
        assert "s behind this machine's" in found.message


def test_limits_of_the_server() -> None:
    config = """max_connections: 5, max_subscriptions: 50, max_payload: 16MB, max_pending: 64MB
    jetstream { limits { duplicate_window: 60s, batch { max_msgs: 10, max_inflight_per_stream: 2 } } }"""
    with monitored(config) as (server, port), ExitStack() as clients:
        for _ in range(4):
            clients.enter_context(RawClient(server.port))
        found = of("limits", look(server.url, monitor=port))
    text = "\n".join(f"{one.level} {one.message}" for one in found)
    for words in (
        "warn max_payload is 16.0 MiB",
        "warn max_connections: 5 of 5",
        "warn max_subscriptions: a connection may have 50",
        "warn saves of more than 10 events",
        "warn 2 saves of several events",
        "bad duplicate_window: a stream may have 60 s",
    ):
        assert words in text
    assert all(one.advice for one in found if one.level != "ok")


def test_limits_without_a_monitoring_port(server: NATSServer) -> None:
    payload, others = of("limits", look(server.url, store=False))
    assert payload.message == "max_payload: an event may have 1.0 MiB"
    assert "--monitor" in others.message
    assert others.level == "ok"


def test_the_limits_of_an_account() -> None:
    config = "accounts { A: { users: [ {user: u, password: p} ], jetstream: { max_consumers: 1, max_streams: 2 } } }"
    with NATSServer(config=config) as server:
        with JetStreamEventStore(server.url, user="u", password="p") as store:
            save(store, 1)
            store.consumer("mailer").iterate().close()
        found = [one for one in of("account", look(server.url, "u")) if one.level == "warn"]
    assert ["consumers" in one.message for one in found] == [False, True]


def test_connections_that_were_cut_because_they_did_not_read() -> None:
    with monitored('max_payload: 65536, max_pending: 65536, write_deadline: "100ms"') as (server, port):
        assert of("slow consumers", look(server.url, store=False, monitor=port)) == []
        with RawClient(server.port) as slow, RawClient(server.port) as raw:
            slow.subscribe("x")
            slow.flush()

            def find() -> list[Finding]:
                for _ in range(200):
                    raw.publish("x", bytes(50_000))
                raw.flush()
                return of("slow consumers", look(server.url, store=False, monitor=port))

            eventually(find, "the slow consumer")
            (found,) = find()
        assert found.level == "warn"


@pytest.mark.slow
def test_memory_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch, server: NATSServer, monitor: Monitor) -> None:
    monkeypatch.setenv("GOMEMLIMIT", "64KiB")
    with monitored() as (small, port):
        with JetStreamEventStore(small.url) as store:
            save(store, 30, actors=30)
        found = troubles(look(small.url, monitor=port))
    assert found["memory"].level == "bad"
    assert "of about 14.6 KiB; it has 64.0 KiB" in found["actors"].message


# -- the store


def test_a_consumer_that_nobody_runs(server: NATSServer, store: JetStreamEventStore) -> None:
    store.start()
    store.consumer("mailer").iterate().close()
    save(store, 3)
    with store.consumer("busy").iterate() as deliveries:
        deliveries.get(timeout=PATIENCE)
        found = troubles(look(server.url, stream=store.stream))
    assert set(found) == {"consumer mailer"}
    assert "3 events before it, and nobody asks for them" in found["consumer mailer"].message


def test_a_bus_that_publishes_into_the_stream(server: NATSServer, store: JetStreamEventStore, prefix: str) -> None:
    """Its prefix is the name of the stream. Whoever reads what it has published is told the same."""
    store.append("thing-1", make_event(1), expected_version=ANY_VERSION)
    with NATSEventBus(server.url, prefix=prefix) as bus:
        bus.publish("events", make_event(2))
        bus.publish("a.b", make_event(3))
        bus.flush(PATIENCE)
    found = look(server.url, stream=prefix, prefix=prefix)
    assert [one.level for one in of("prefix", found)] == ["bad"]
    (records,) = of("records", found)
    assert f"2 of the latest 3 are no events, the last at sequence 3, of '{prefix}.events.a.b'" in records.message
    assert f"to '{prefix}'" in records.advice
    with pytest.raises(
        MalformedRecordError, match=f"a bus with the prefix '{prefix}', which is the name of the stream"
    ):
        store.read_all(1)


def test_a_long_duplicate_window(server: NATSServer, store: JetStreamEventStore, prefix: str) -> None:
    wanted = settings(Names(prefix, None), 1) | {"duplicate_window": 7_200 * 10**9}
    ask(store, f"STREAM.CREATE.{names_of(store).stream}", wanted)
    (found,) = troubles(look(server.url, stream=prefix)).values()
    assert (found.topic, found.level) == ("duplicate window", "warn")
    assert "7200 s" in found.message


def test_of_large_events_a_part_is_read(
    server: NATSServer, store: JetStreamEventStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(questions, "_LATEST_BYTES", 200_000)
    monkeypatch.setattr(questions, "_FEW", 2)
    events = [make_event(actor_id=f"a{n}", data={"x": "y" * 10_000}) for n in range(40)]
    for event in events:
        store.append(event.actor_id, event, expected_version=0)
    (found,) = of("saves", look(server.url, stream=store.stream))
    assert found.level == "ok"
    count = int(found.message.split("latest ")[1].split(" ")[0])
    assert 10 <= count < 20


def test_all_small_events_are_read_in_order(server: NATSServer, store: JetStreamEventStore) -> None:
    save(store, 100, actors=10)
    (found,) = of("saves", look(server.url, stream=store.stream))
    assert (found.level, found.message) == ("ok", "all whole, among the latest 100 records")


# -- what answers, and is no monitoring port


@contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """An HTTP server that answers everything in the same way; its URL."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    asked.clear()
    with HTTPServer(("127.0.0.1", 0), Handler) as port:
        thread = threading.Thread(target=port.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{port.server_port}"
        finally:
            port.shutdown()
            thread.join()


asked: list[str | None] = []


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, b'{"timestamp":"x","status":404,"error":"Not Found","path":"/varz"}'),
        (200, b'{"server_id": "x", "version": "1", "jetstream": true}'),
        *first_of(
            [
                (200, b"<html>"),
                (200, b'{"jetstream": true}'),
                (200, b"{}"),
                (200, b"[]"),
                (200, b""),
            ]
        ),
    ],
)
def test_what_is_no_monitoring_port(server: NATSServer, status: int, body: bytes) -> None:
    with answering(status, body) as port:
        findings = look(server.url, monitor=port)
    assert of("health", findings) == []
    (found,) = of("monitor", findings)
    assert f"{port} is no monitoring port of a nats-server" in found.message
    assert len(asked) == 1, "it was asked nothing else"


def test_a_monitoring_port_that_answers_too_much(server: NATSServer) -> None:
    with answering(200, b" " * 5_000_000) as port:
        (found,) = of("monitor", look(server.url, monitor=port))
    assert "more than" in found.message


def test_a_monitoring_port_that_never_ends(server: NATSServer) -> None:
    is_over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            client, _ = listener.accept()
            with client, suppress(OSError):
                client.sendall(b"HTTP/1.0 200 OK\r\n\r\n{")
                while not is_over.wait(0.1 * UNIT):
                    client.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        begun = time.monotonic()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        (found,) = of("monitor", look(server.url, monitor=url, timeout=UNIT))
        took = time.monotonic() - begun
        is_over.set()
        thread.join()
    assert "does not answer (timed out)" in found.message
    assert took < PATIENCE


SECRET = "hunter2sekret"


def test_a_password_of_the_monitoring_port_is_sent_and_not_shown(server: NATSServer) -> None:
    with answering(401, SECRET.encode()) as port:
        findings = look(server.url, monitor=port.replace("//", f"//admin:{SECRET}@"))
        assert asked == ["Basic YWRtaW46aHVudGVyMnNla3JldA=="]
    assert SECRET not in str(findings)
    assert "it said 401" in of("monitor", findings)[0].message
    for scheme in ("htp", "nats"):
        with pytest.raises(InvalidOptionError, match="monitoring port") as raised:
            look(server.url, monitor=f"{scheme}://admin:{SECRET}@h:1")
        assert SECRET not in str(raised.value)


def test_the_token_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Servers before 2.12 return the token as the name of the user."""
    ask_user = questions._Asking._ask_user

    def older(asking: Any) -> dict[str, Any]:
        answer = ask_user(asking)
        answer["data"]["user"] = SECRET
        return answer

    monkeypatch.setattr(questions._Asking, "_ask_user", older)
    with NATSServer(config=f'authorization {{ token: "{SECRET}" }}') as server:
        connection = Connection(server.url, token=SECRET)
        with closing(connection):
            findings = diagnose(connection)
    assert SECRET not in str(findings)
    assert "***" not in str(findings)
    assert [one.level for one in of("login", findings)] == ["ok"]


def test_no_secret_of_the_connection_is_shown(server: NATSServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "server_info", lambda _: {"version": f"of {SECRET}"})
    connection = Connection(server.url, user="shop", password=SECRET)
    with closing(connection):
        findings = diagnose(connection, store=False)
    assert SECRET not in str(findings)
    assert "'of ***'" in of("server", findings)[0].message


# -- a cluster


@pytest.mark.slow
def test_a_cluster_that_loses_its_servers() -> None:
    with NATSCluster(3) as cluster:
        port = f"http://127.0.0.1:{cluster._monitors[0]}"
        first, second, third = cluster.servers

        def cluster_of(**options: Any) -> list[Finding]:
            return of("cluster", look(first.url, store=False, **options))

        with JetStreamEventStore(first.url, replicas=3) as store:
            save(store, 10)
        eventually(lambda: [one.level for one in cluster_of(monitor=port)] == ["ok"], "a cluster that is complete")
        (found,) = cluster_of(monitor=port)
        assert "3 addresses for clients" in found.message
        assert [one.level for one in cluster_of()] == ["ok"]
        third.kill()
        eventually(lambda: {one.level for one in cluster_of(monitor=port)} == {"warn"})
        assert any("2 of 3 servers are there" in one.message for one in cluster_of(monitor=port))
        second.kill()
        is_alone: Callable[[], object] = lambda: any(  # noqa: E731
            one.level == "bad" and "JetStream has no leader" in one.message for one in cluster_of(monitor=port)
        )
        eventually(is_alone, "the loss of the leader")
        assert any("1 of 3 servers are there" in one.message for one in cluster_of(monitor=port))
        eventually(lambda: [one.level for one in cluster_of()] == ["warn"], "the loss of the others")
        begun = time.monotonic()
        (jetstream,) = of("jetstream", look(first.url, replicas=3, timeout=UNIT))
        assert jetstream.level == "bad"
        assert (
            "no leader" in jetstream.message or "or it has no leader" in jetstream.advice
        )  # it may say nothing at all
        assert time.monotonic() - begun < PATIENCE
