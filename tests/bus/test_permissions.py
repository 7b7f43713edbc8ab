"""What a server forbids: denied subscriptions and publishes, told apart by their position between PONGs."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync import (
    AetherError,
    ConnectError,
    Connection,
    DeadlineExceededError,
    DeliveryUncertainError,
    InvalidNamespaceError,
    JetStreamEventStore,
    NATSEventBus,
    NATSServer,
    PermissionDeniedError,
    Subscription,
    flush_logs,
)
from aether_sync._nats.reasons import Refusal, refusal

from ..support.common import PATIENCE, UNIT, Keep, Monitor, eventually, first_of, make_event, numbers, run_threads
from ..support.fake_server import FakeServer, Peer, polite
from ..support.inside import reconfigure

SECURITY_PAGE = Path(__file__).parents[2] / "aether_sync" / "guide" / "security.md"

CONFIG = """
authorization {
  users: [{
    user: "u", password: "p", permissions: {
      publish: { allow: ["t.events.open.>", "_INBOX.>"] }
      subscribe: { allow: ["t.events.open.>", "t.events.*"], deny: ["t.events.secret", "t.events.Mixed"] }
    }
  }]
}
"""


@pytest.fixture(scope="module")
def strict() -> Iterator[str]:
    """The URL of a server that forbids most."""
    with NATSServer(config=CONFIG) as server:
        yield server.url.replace("nats://", "nats://u:p@")


@pytest.fixture
def bus(strict: str) -> Iterator[NATSEventBus]:
    with NATSEventBus(strict, prefix="t") as bus:
        yield bus


def test_a_denied_subscription_raises_and_leaves_nothing(bus: NATSEventBus) -> None:
    for _ in range(2):
        with pytest.raises(PermissionDeniedError, match=r"'t\.events\.secret'"):
            bus.subscribe("secret", timeout=PATIENCE)
    with pytest.raises(PermissionDeniedError):
        bus.subscribe("open.a", "secret", "open.b", timeout=PATIENCE)
    with pytest.raises(PermissionDeniedError, match="'g'"):
        bus.subscribe("secret", queue_group="g", timeout=PATIENCE)
    metrics = bus.metrics()
    assert (metrics.active_subscriptions, metrics.subscribe_errors) == (0, 4)
    with bus.subscribe("open.a") as events:
        bus.publish("open.a", make_event(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]


@pytest.mark.concurrent
def test_errors_find_the_subscription_they_are_about(bus: NATSEventBus) -> None:
    subscriptions: list[Subscription] = []

    def denied(pattern: str) -> Callable[[], None]:
        def subscribe() -> None:
            for _ in range(20):
                with pytest.raises(PermissionDeniedError):
                    bus.subscribe(pattern, timeout=PATIENCE)

        return subscribe

    def allowed(pattern: str) -> Callable[[], None]:
        def subscribe() -> None:
            for _ in range(20):
                subscriptions.append(bus.subscribe(pattern, timeout=PATIENCE))

        return subscribe

    run_threads(denied("Mixed"), allowed("mixed"), denied("secret"), allowed("open.x"), denied("Mixed"))
    assert len(subscriptions) == 40
    assert not any(subscription.closed for subscription in subscriptions)
    for subscription in subscriptions:
        subscription.close()


def test_what_is_refused_on_a_shared_connection_is_no_error_of_a_bus(strict: str) -> None:
    """The server names the subject, which several buses may publish to."""
    with Connection(strict) as connection:
        one, other = (NATSEventBus(connection, prefix="t") for _ in range(2))
        one.publish("forbidden", make_event())
        with pytest.raises(DeliveryUncertainError):
            one.flush(PATIENCE)
        counts = [
            (bus.metrics().published, bus.metrics().publish_errors, bus.metrics().rejected) for bus in (one, other)
        ]
        assert counts == [(1, 0, 1), (0, 0, 1)]


def test_denied_publishes_are_raised_at_the_next_flush(bus: NATSEventBus, caplog: pytest.LogCaptureFixture) -> None:
    bus.publish("open.a", make_event())
    bus.publish("Forbidden", make_event())
    bus.publish_many("forbidden", [make_event()] * 2)
    with pytest.raises(DeliveryUncertainError, match="forbidden") as caught:
        bus.flush(PATIENCE)
    assert (caught.value.rejected, caught.value.uncertain) == (3, 0)
    bus.flush(PATIENCE)  # told once
    assert bus.metrics().publish_errors == 3
    assert flush_logs(PATIENCE)
    assert "refused" in caplog.text
    bus.publish("forbidden", make_event())
    report = bus.close()
    assert not report
    assert report.rejected == 1


def test_a_refused_event_is_told_from_a_refused_command(strict: str) -> None:
    with NATSEventBus(strict, prefix="$JS") as bus:
        bus.publish("n", make_event())
        with pytest.raises(DeliveryUncertainError, match=re.escape("no permission to publish to '$JS.events.n'")):
            bus.flush(PATIENCE)


@pytest.mark.fault
def test_a_right_that_is_gone_after_a_restart_ends_all_who_had_it(keep: Keep) -> None:
    """Two buses share a connection and a subject; one is confirmed, the other subscribes while the server is away."""
    right = 'authorization: {users: [{user: "u", password: "p"}]}'
    with NATSServer(config=right) as server:
        url = server.url.replace("nats://", "nats://u:p@")
        with Connection(url) as connection:
            one, other = NATSEventBus(connection, prefix="t"), NATSEventBus(connection, prefix="t")
            had = keep(one.subscribe("secret"))
            server.stop()
            eventually(lambda: not connection.is_connected, "the disconnect")

            def subscribe() -> None:
                with pytest.raises(PermissionDeniedError):
                    other.subscribe("secret", timeout=PATIENCE)

            def come_back() -> None:
                reconfigure(server, CONFIG)
                server.start()

            run_threads(subscribe, come_back)
            with pytest.raises(PermissionDeniedError):
                had.get(timeout=PATIENCE)


def test_rights_that_are_revoked_end_the_subscription(caplog: pytest.LogCaptureFixture) -> None:
    with NATSServer(config='authorization: {users: [{user: "u", password: "p"}]}') as server:
        url = server.url.replace("nats://", "nats://u:p@")
        with NATSEventBus(url, prefix="t") as bus, bus.subscribe("secret") as events, bus.subscribe("open.a") as others:
            bus.publish("secret", make_event(1))
            bus.flush(PATIENCE)
            server.reload(CONFIG)
            with pytest.raises(PermissionDeniedError):
                list(events)
            assert bus.wait_connected(PATIENCE)
            eventually(lambda: not others.closed and bus.is_connected)
            bus.publish("open.a", make_event(2))
            assert numbers([others.get(timeout=PATIENCE)]) == [2]


# -- a deny inside of what is allowed, queue groups, and rights that change

RESTRICTED = """
authorization {
  users: [{
    user: "u", password: "p", permissions: {
      publish: { allow: ["t.events.>"], deny: [%s] }
      subscribe: {
        allow: ["t.events.wild.*", "t.events.jobs workers", "t.events.both", "t.events.both readers"]
        deny: ["t.events.wild.secret", "t.events.both writers"]
      }
    }
  }]
}
"""


@pytest.fixture
def restricted() -> Iterator[NATSServer]:
    with NATSServer(config=RESTRICTED % "") as server:
        yield server


@pytest.fixture
def nodes(restricted: NATSServer) -> Iterator[tuple[NATSEventBus, NATSEventBus]]:
    url = restricted.url.replace("nats://", "nats://u:p@")
    with NATSEventBus(url, prefix="t") as here, NATSEventBus(url, prefix="t") as there:
        yield here, there


def test_a_deny_inside_an_allowed_wildcard_keeps_events_away_in_silence(
    nodes: tuple[NATSEventBus, NATSEventBus], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    with here.subscribe("wild.*") as events, there.subscribe("wild.*") as own:
        for n, namespace in enumerate(("wild.secret", "wild.open", "wild.secret", "wild.open")):
            there.publish(namespace, make_event(n))
        there.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)]) == [1, 3]
        assert numbers(own.get_batch(9, timeout=0)) == [0, 1, 2, 3]  # on its own node no server stands between
        assert (events.stats().offered, here.metrics().received) == (2, 2)
        assert not events.closed
        with pytest.raises(PermissionDeniedError, match=r"'t\.events\.wild\.secret'"):
            here.subscribe("wild.secret", timeout=PATIENCE)
    assert [record for record in caplog.records if "permits no" not in record.getMessage()] == []


def test_a_right_may_be_for_one_queue_group(nodes: tuple[NATSEventBus, NATSEventBus]) -> None:
    here, there = nodes
    with here.subscribe("jobs", queue_group="workers") as jobs, here.subscribe("both", queue_group="readers"):
        there.publish("jobs", make_event(1))
        assert numbers([jobs.get(timeout=PATIENCE)]) == [1]
        for namespace, group in (("jobs", "idlers"), ("both", "writers"), ("jobs", "Workers")):
            with pytest.raises(PermissionDeniedError, match=f"'t.events.{namespace}' in queue group '{group}'"):
                here.subscribe(namespace, queue_group=group, timeout=PATIENCE)
        there.publish("jobs", make_event(2))
        assert numbers([jobs.get(timeout=PATIENCE)]) == [2]


@pytest.mark.fault
def test_a_right_to_publish_that_is_revoked_and_given_back(
    restricted: NATSServer, nodes: tuple[NATSEventBus, NATSEventBus], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = nodes
    with here.subscribe("wild.*") as events:
        there.publish("wild.open", make_event(1))
        there.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [1]

        restricted.reload(RESTRICTED % '"t.events.wild.open"')
        assert there.wait_connected(PATIENCE)
        there.publish("wild.open", make_event(2))
        there.publish("wild.more", make_event(3))
        with pytest.raises(DeliveryUncertainError, match=r"publish to 't\.events\.wild\.open'") as caught:
            there.flush(PATIENCE)
        assert (caught.value.rejected, caught.value.uncertain) == (1, 0)
        assert flush_logs(PATIENCE)
        assert "refused by the server" in caplog.text
        assert numbers([events.get(timeout=PATIENCE)]) == [3]

        restricted.reload(RESTRICTED % "")
        assert there.wait_connected(PATIENCE)
        there.publish("wild.open", make_event(4))
        there.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [4]


# -- what the guide tells to configure


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NATSEventBus]]:
    """Makes buses of the users in the guide's configuration."""
    (config,) = re.findall(r"^```conf\n(.*?)^```$", SECURITY_PAGE.read_text(encoding="utf-8"), re.M | re.S)
    for name in ("A", "B", "AUDIT"):
        monkeypatch.setenv(f"PASSWORD_{name}", f"the-password-of-{name.lower()}")
    with NATSServer(config=config) as server, ExitStack() as open_ones:

        def login(user: str, **options: Any) -> NATSEventBus:
            bus = NATSEventBus(server.url, user=user, password=f"the-password-of-{user}", **options)
            return open_ones.enter_context(bus)

        yield login


def test_the_guides_configuration_keeps_tenants_apart(tenants: Callable[..., NATSEventBus]) -> None:
    a, b, audit = tenants("a"), tenants("b"), tenants("audit")
    with a.subscribe("tenant-a.>") as of_a, b.subscribe("tenant-b.>", "tenant-b") as of_b, audit.subscribe(">") as all_:
        for n, namespace in enumerate(("tenant-b", "tenant-b.orders", "tenant-a.orders", "elsewhere")):
            a.publish(namespace, make_event(n))
        with pytest.raises(DeliveryUncertainError, match="elsewhere") as caught:
            a.flush(PATIENCE)
        assert caught.value.rejected == 3
        b.publish("tenant-b", make_event(10))
        b.publish("tenant-b.orders", make_event(11))
        b.publish("tenant-a.orders", make_event(12))
        with pytest.raises(DeliveryUncertainError):
            b.flush(PATIENCE)
        audit.publish("tenant-a.orders", make_event(13))
        with pytest.raises(DeliveryUncertainError):
            audit.flush(PATIENCE)
        tenants("a").publish("tenant-a.orders", make_event(14))
        assert numbers([of_a.get(timeout=PATIENCE), of_a.get(timeout=PATIENCE)]) == [2, 14]
        assert numbers([of_b.get(timeout=PATIENCE), of_b.get(timeout=PATIENCE)]) == [10, 11]
        assert sorted(numbers([all_.get(timeout=PATIENCE) for _ in range(5)])) == [2, 10, 11, 13, 14]  # 13 is its own
        assert [one.get_batch(9, timeout=0) for one in (of_a, of_b, all_)] == [[], [], []]


@pytest.mark.parametrize(
    "pattern", first_of([">", "tenant-b", "tenant-a*.>", "tenant-b.>", "*", "*.orders", "tenant-*"], 4)
)
def test_no_pattern_of_a_tenant_reaches_into_another(pattern: str, tenants: Callable[..., NATSEventBus]) -> None:
    for bus in (tenants("a"), tenants("a", prefix="other")):
        with pytest.raises(PermissionDeniedError):
            bus.subscribe(pattern, timeout=PATIENCE)
        if ">" not in pattern[:-1] and "*" not in pattern:
            with pytest.raises(PermissionDeniedError):
                bus.subscribe(pattern, queue_group="theirs", timeout=PATIENCE)


# -- limits of the server, which it tells without a name, and names that it quotes


class Limited:
    """A server whose limits may be changed, and two nodes of it."""

    def __init__(self, config: str) -> None:
        self.server = NATSServer(config=config, jetstream="store" in config)
        self.server.start()
        self.here, self.there = NATSEventBus(self.server.url), NATSEventBus(self.server.url)
        self.there.start()

    def arrives(self, events: Subscription, n: int) -> bool:
        """Whether an event of the other node comes to a subscription."""
        self.there.publish(events.patterns[0], make_event(n))
        return numbers([events.get(timeout=PATIENCE)]) == [n]

    def restart(self, config: str) -> None:
        reconfigure(self.server, config)
        self.server.restart()
        assert self.here.wait_connected(PATIENCE)
        assert self.there.wait_connected(PATIENCE)

    def __enter__(self) -> "Limited":
        return self

    def __exit__(self, *_: object) -> None:
        self.here.close()
        self.there.close()
        self.server.stop()


@pytest.mark.parametrize(
    ("config", "excess", "why"),
    [
        ("max_subscriptions: 3", "c", "maximum subscriptions exceeded"),
        ("max_sub_tokens: 4", "a.b.c", "too many tokens"),
        (
            "accounts: {A: {users: [{user: u, password: p}], limits: {max_subs: 3}}}\nno_auth_user: u",
            "c",
            "maximum sub",
        ),
    ],
    ids=["subscriptions", "tokens", "account"],
)
def test_a_subscription_over_a_limit_is_refused_and_the_others_go_on(config: str, excess: str, why: str) -> None:
    with Limited(config) as limited:
        bus = limited.here
        kept = [bus.subscribe(namespace, timeout=PATIENCE) for namespace in ("a", "b", "b.*")]
        for _ in range(2):
            with pytest.raises(PermissionDeniedError, match=f"'aether.events.{excess}': .*{why}"):
                bus.subscribe(excess, timeout=PATIENCE)
        assert all(limited.arrives(events, n) for n, events in enumerate(kept[:2]))
        kept.pop().close()
        with bus.subscribe("d", timeout=PATIENCE) as another:
            assert limited.arrives(another, 7)
        assert bus.metrics().reconnects == 0


@pytest.mark.fault
def test_a_limit_that_was_lowered_ends_the_latest_subscriptions(caplog: pytest.LogCaptureFixture) -> None:
    with Limited("max_subscriptions: 8") as limited, limited.here as bus:
        kept = [bus.subscribe(f"n.{n}", timeout=PATIENCE) for n in range(5)]
        limited.restart("max_subscriptions: 2")
        for events in kept[2:]:
            with pytest.raises(PermissionDeniedError, match="maximum subscriptions exceeded"):
                events.get(timeout=PATIENCE)
        assert all(limited.arrives(events, n) for n, events in enumerate(kept[:2]))
        assert (bus.metrics().reconnects, bus.metrics().active_subscriptions) == (1, 2)
        assert not any(events.closed for events in kept[:2])


@pytest.mark.fault
def test_the_limit_of_tokens_that_was_lowered_ends_those_with_more() -> None:
    with Limited("max_sub_tokens: 9") as limited, limited.here as bus:
        long, short = bus.subscribe("a.b.c.d", timeout=PATIENCE), bus.subscribe("a.b", timeout=PATIENCE)
        limited.restart("max_sub_tokens: 4")
        with pytest.raises(PermissionDeniedError, match="too many tokens"):
            long.get(timeout=PATIENCE)
        assert limited.arrives(short, 1)
        assert bus.metrics().reconnects == 1


def test_a_store_over_a_limit_says_so_and_goes_on() -> None:
    with NATSServer(config="max_subscriptions: 1") as server, JetStreamEventStore(server.url, "s") as store:
        store.append("a-1", make_event(1, actor_id="a-1"), expected_version=0)  # its inbox is what the server takes
        with pytest.raises(PermissionDeniedError, match="maximum subscriptions exceeded"), store.follow() as events:
            next(events)
        store.append("a-1", make_event(2, actor_id="a-1"), expected_version=1)
        assert store.connection.reconnects == 0


@pytest.mark.fault
def test_a_follower_that_fits_no_more_after_a_restart_says_so() -> None:
    with NATSServer(config="max_subscriptions: 9") as server, JetStreamEventStore(server.url, "s") as store:
        store.append("a-1", make_event(1, actor_id="a-1"), expected_version=0)
        with store.follow() as events:
            next(events)
            reconfigure(server, "max_subscriptions: 1")
            server.restart()
            with pytest.raises(PermissionDeniedError, match="maximum subscriptions exceeded"):
                next(events)
        store.append("a-1", make_event(2, actor_id="a-1"), expected_version=1)
        assert store.connection.reconnects == 1


# -- a line that is too long: the server closes the connection, and says no more


TIGHT = "max_control_line: 400"  # a CONNECT has some 300
LONG, LONGER, SHORT = "x" * 400, "x" * 480, "short"


def test_a_subscription_with_too_long_a_line_costs_one_connection(own_monitor: Monitor) -> None:
    with Limited(f"{TIGHT}\n{own_monitor.config}") as limited:
        bus = limited.here
        kept = bus.subscribe(SHORT, timeout=PATIENCE)
        before = own_monitor.total_connections()
        for namespace in (LONG, LONG, LONGER, f"{LONG}.*", LONG):
            with pytest.raises(PermissionDeniedError, match="maximum control line exceeded"):
                bus.subscribe(namespace, timeout=PATIENCE)
        with bus.subscribe("x" * 300, timeout=PATIENCE) as fits:
            assert limited.arrives(fits, 1)
        assert limited.arrives(kept, 2)
        assert own_monitor.total_connections() <= before + 1


@pytest.mark.fault
def test_lines_that_are_too_long_after_a_restart_end(own_monitor: Monitor) -> None:
    with Limited(own_monitor.config) as limited:
        bus = limited.here
        long = [bus.subscribe("x" * size, timeout=PATIENCE) for size in (450, 400, 500, 420, 470, 390)]
        short = [bus.subscribe("x" * size, timeout=PATIENCE) for size in (300, 9)]
        limited.restart(f"{TIGHT}\n{own_monitor.config}")
        for events in long:
            with pytest.raises(PermissionDeniedError, match="maximum control line exceeded"):
                events.get(timeout=PATIENCE)
        assert bus.wait_connected(PATIENCE)
        assert all(limited.arrives(events, n) for n, events in enumerate(short))
        assert own_monitor.total_connections() <= 6  # its own look at itself, the other node, three attempts


@pytest.mark.fault
@pytest.mark.both_loops
@pytest.mark.parametrize("count", first_of([5_000, 1]))
def test_an_event_with_too_long_a_line_costs_one_connection(count: int) -> None:
    with Limited(TIGHT) as limited, limited.here as bus:
        others, own = bus.subscribe(SHORT, timeout=PATIENCE), limited.there.subscribe(LONG[:300], timeout=PATIENCE)
        limited.there.publish_many(LONG, [make_event()] * count)
        with pytest.raises(DeliveryUncertainError, match="may not have arrived"):
            limited.there.flush(PATIENCE)
        metrics = limited.there.metrics()
        assert (metrics.confirmed, metrics.uncertain + metrics.rejected) == (0, count)
        with limited.there.subscribe("*", timeout=PATIENCE) as local:
            for namespace in (LONG, LONGER):
                with pytest.raises(InvalidNamespaceError, match="maximum control line exceeded"):
                    limited.there.publish(namespace, make_event())
                assert not limited.there.try_publish(namespace, make_event())
            assert limited.arrives(others, 1)
            assert numbers(local.get_batch(9, timeout=0)) == [1]  # and none of those that were refused
        assert limited.there.metrics().reconnects == 1
        bus.publish(LONG[:300], make_event(2))
        assert numbers([own.get(timeout=PATIENCE)]) == [2]
        limited.there.flush(PATIENCE)
        limited.restart("")
        limited.there.publish(LONG, make_event())
        limited.there.flush(PATIENCE)


def test_a_question_with_too_long_a_line_is_refused_from_the_second_time_on() -> None:
    with NATSServer(config=TIGHT) as server, JetStreamEventStore(server.url, "s") as store:
        long = "a-" + "1" * 400
        for round_ in range(4):
            with pytest.raises(AetherError, match="maximum control line exceeded" if round_ else None):
                store.append(long, make_event(actor_id=long), expected_version=0)
            store.append("a-1", make_event(actor_id="a-1"), expected_version=round_)
        assert store.connection.reconnects == 1


QUOTED = ['a"b', "a\\b", 'a\\"b"', "é", "a'b", "Case", "\U0001f680"]


@pytest.mark.both_loops
@pytest.mark.parametrize("namespace", QUOTED)
@pytest.mark.parametrize("lean", [pytest.param("0", marks=pytest.mark.slow), "1"])
def test_a_refusal_is_known_however_the_name_is_quoted(
    namespace: str, lean: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AETHER_SYNC_LEAN", lean)
    right = 'subscribe: ["t.events.ok", "_INBOX.>"], publish: ["t.events.ok"]'
    with (
        NATSServer(
            config=f"authorization {{ users: [{{user: u, password: p, permissions: {{ {right} }} }}] }}"
        ) as server,
        NATSEventBus(server.url.replace("//", "//u:p@"), prefix="t") as bus,
    ):
        for group in (None, "g", 'g"\\'):
            with pytest.raises(PermissionDeniedError):
                bus.subscribe(namespace, queue_group=group, timeout=PATIENCE)
        bus.publish(namespace, make_event())
        with pytest.raises(DeliveryUncertainError) as caught:
            bus.flush(PATIENCE)
        assert caught.value.reasons == (f"no permission to publish to {'t.events.' + namespace!r}",)


# -- credentials that are words of what the server says

WORDS = [
    ("tenant-a", "s3cret"),
    ("u", "orders"),
    ("Publish", "Violation"),
    ("events", "subscription"),
    ("u", "workers"),
]


@pytest.mark.parametrize(("user", "password"), WORDS)
@pytest.mark.parametrize("in_url", first_of([True, False]), ids=["url", "options"])
def test_a_refusal_is_known_whatever_the_user_is_called(
    user: str, password: str, in_url: bool, caplog: pytest.LogCaptureFixture
) -> None:
    right = 'subscribe: ["none", "_INBOX.>"], publish: ["aether.events.public"]'
    users = f'authorization {{ users: [{{user: "{user}", password: "{password}", permissions: {{ {right} }} }}] }}'
    with NATSServer(config=users, jetstream=True) as server:
        given: dict[str, str] = {} if in_url else {"user": user, "password": password}
        url = server.url.replace("//", f"//{user}:{password}@") if in_url else server.url
        with NATSEventBus(url, **given) as bus:  # type: ignore[arg-type]
            bus.publish("tenant-a.orders", make_event())
            with pytest.raises(DeliveryUncertainError) as caught:
                bus.flush(PATIENCE)
            assert (caught.value.rejected, caught.value.uncertain) == (1, 0)
            assert caught.value.reasons == ("no permission to publish to 'aether.events.tenant-a.orders'",)
            for group in (None, "workers"):
                with pytest.raises(PermissionDeniedError, match=r"'aether\.events\.tenant-a\.orders'"):
                    bus.subscribe("tenant-a.orders", queue_group=group, timeout=PATIENCE)
            with pytest.raises(PermissionDeniedError):
                JetStreamEventStore(bus.connection, "orders").last_sequence(timeout=PATIENCE)
            assert (bus.metrics().rejected, bus.metrics().reconnects) == (1, 0)
    assert flush_logs(PATIENCE)
    assert "tenant-a.orders" in caplog.text
    assert "quotes the CONNECT" not in caplog.text


@pytest.mark.parametrize("password", ["Authorization", "Violation", "nats", "'Authorization Violation'"])
def test_refused_credentials_are_known_whatever_they_are(password: str) -> None:
    with NATSServer(config='authorization { users: [{user: "u", password: "another"}] }') as server:
        bus = NATSEventBus(server.url, user="Authorization Violation", password=password, connect_timeout=PATIENCE)
        with pytest.raises(ConnectError, match=r"refuses these credentials \(Authorization Violation\)"):
            bus.start()
        bus.close()


# -- errors that cannot be read: they may be about anything

UNREADABLE = [
    "tell me: the-password",
    *first_of(["Permissions Violation for Publish to all", "Permissions Violation", "Something New"]),
]


@pytest.mark.both_loops
@pytest.mark.parametrize("said", UNREADABLE)
@pytest.mark.parametrize("lean", first_of("10"))
def test_a_pong_behind_an_error_that_cannot_be_read_confirms_nothing(
    said: str, lean: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("AETHER_SYNC_LEAN", lean)

    def answer(peer: Peer, line: bytes) -> bytes | None:
        if line == b"PING" and any(b"aether.events.n" in one for one in peer.lines):
            return f"-ERR '{said}'\r\nPONG\r\n".encode()  # in one packet
        return polite(peer, line)

    with (
        FakeServer(answer) as fake,
        NATSEventBus(fake.url, user="u", password="the-password", ping_interval=PATIENCE) as bus,
    ):
        bus.publish("n", make_event())
        with pytest.raises(DeliveryUncertainError) as caught:
            bus.flush(PATIENCE)
        assert (caught.value.rejected, caught.value.uncertain, bus.metrics().confirmed) == (0, 1, 0)
        assert bus.wait_connected(PATIENCE)
        with pytest.raises(DeadlineExceededError, match=r"no subscription to 'aether\.events\.n'"):
            bus.subscribe("n", timeout=UNIT / 4)
    assert flush_logs(PATIENCE)
    assert "the-password" not in caplog.text
    assert ("an error that quotes the CONNECT" if "password" in said else said) in caplog.text


@pytest.mark.fault
def test_a_right_that_is_gone_after_a_restart_is_that_of_one_case() -> None:
    with (
        NATSServer(config='authorization { users: [{user: "u", password: "p"}] }') as server,
        NATSEventBus(server.url.replace("//", "//u:p@"), prefix="t") as bus,
    ):
        small, large = bus.subscribe("orders"), bus.subscribe("Orders")
        reconfigure(
            server,
            RESTRICTED.replace('deny: ["t.events.wild.secret"', 'deny: ["t.events.orders"').replace(
                'allow: ["t.events.wild.*"', 'allow: ["t.events.>"'
            )
            % "",
        )
        server.restart()
        with pytest.raises(PermissionDeniedError, match="orders"):
            small.get(timeout=PATIENCE)
        assert bus.wait_connected(PATIENCE)
        bus.flush(PATIENCE)
        assert not large.closed


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters=" ")))  # no subject has a space
def test_quoting_is_undone(text: str) -> None:
    """As Go quotes it (``strconv.Quote``), for which everything that is not ASCII may be escaped or not."""
    for printable in (False, True):
        quoted = "".join(go_quoted(char, printable) for char in text)
        assert refusal(f'Permissions Violation for Publish to "{quoted}"') == Refusal(text)


def go_quoted(char: str, printable: bool) -> str:
    if char in '"\\':
        return "\\" + char
    if char in "\a\b\f\n\r\t\v":
        return "\\" + "abfnrtv"["\a\b\f\n\r\t\v".index(char)]
    if char < " " or char == "\x7f":
        return f"\\x{ord(char):02x}"
    if char < "\x7f" or printable:
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 0x10000 else f"\\U{ord(char):08x}"


def test_what_an_err_is_about() -> None:
    assert refusal('Permissions Violation for Subscription to "a" using queue "q (sid \\"1\\")"') == Refusal(None)
    assert refusal('Permissions Violation for Subscription to "a" using queue "q" (sid "12")') == Refusal(None, 12)
    assert refusal('Permissions Violation for Publish to "a\\xff"') == Refusal("a\udcff")
    assert refusal('Permissions Violation for Publish with Reply of "a"') == Refusal(None, reply="a")
    assert refusal('Permissions Violation for Publish to "CONNECT {\\"pass\\": \\"secret\\"}"') is None
    assert refusal("maximum control line exceeded") is None
