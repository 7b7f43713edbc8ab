"""What a server forbids: denied subscriptions and publishes, told apart by their position between PONGs."""

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from aether_sync import (
    Connection,
    DeliveryUncertainError,
    NATSEventBus,
    NatsServer,
    PermissionDeniedError,
    Subscription,
)

from .conftest import PATIENCE, eventually, make_event, run_threads
from .suites import Keep, numbers

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
    with NatsServer(config=CONFIG) as server:
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
    eventually(lambda: "refused" in caplog.text, "a log record")
    bus.publish("forbidden", make_event())
    report = bus.close()
    assert not report
    assert report.rejected == 1


@pytest.mark.fault
def test_a_right_that_is_gone_after_a_restart_ends_all_who_had_it(keep: Keep) -> None:
    """Two buses share a connection and a subject; one is confirmed, the other subscribes while the server is away."""
    right = 'authorization: {users: [{user: "u", password: "p"}]}'
    with NatsServer(config=right) as server:
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
                server._config = CONFIG
                server.start()

            run_threads(subscribe, come_back)
            with pytest.raises(PermissionDeniedError):
                had.get(timeout=PATIENCE)


def test_rights_that_are_revoked_end_the_subscription(caplog: pytest.LogCaptureFixture) -> None:
    with NatsServer(config='authorization: {users: [{user: "u", password: "p"}]}') as server:
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
def restricted() -> Iterator[NatsServer]:
    with NatsServer(config=RESTRICTED % "") as server:
        yield server


@pytest.fixture
def nodes(restricted: NatsServer) -> Iterator[tuple[NATSEventBus, NATSEventBus]]:
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
    restricted: NatsServer, nodes: tuple[NATSEventBus, NATSEventBus], caplog: pytest.LogCaptureFixture
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
        eventually(lambda: "refused by the server" in caplog.text)
        assert numbers([events.get(timeout=PATIENCE)]) == [3]

        restricted.reload(RESTRICTED % "")
        assert there.wait_connected(PATIENCE)
        there.publish("wild.open", make_event(4))
        there.flush(PATIENCE)
        assert numbers([events.get(timeout=PATIENCE)]) == [4]


# -- what the README tells to configure


@pytest.fixture
def tenants(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., NATSEventBus]]:
    """Makes buses of the users in the README's configuration."""
    (config,) = re.findall(
        r"^```conf\n(.*?)^```$", (Path(__file__).parent.parent / "README.md").read_text(), re.M | re.S
    )
    for name in ("A", "B", "AUDIT"):
        monkeypatch.setenv(f"PASSWORD_{name}", f"the-password-of-{name.lower()}")
    with NatsServer(config=config) as server, ExitStack() as open_ones:

        def login(user: str, **options: Any) -> NATSEventBus:
            bus = NATSEventBus(server.url, user=user, password=f"the-password-of-{user}", **options)
            return open_ones.enter_context(bus)

        yield login


def test_the_readmes_configuration_keeps_tenants_apart(tenants: Callable[..., NATSEventBus]) -> None:
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


@pytest.mark.parametrize("pattern", [">", "*", "*.orders", "tenant-*", "tenant-b.>", "tenant-b", "tenant-a*.>"])
def test_no_pattern_of_a_tenant_reaches_into_another(pattern: str, tenants: Callable[..., NATSEventBus]) -> None:
    for bus in (tenants("a"), tenants("a", prefix="other")):
        with pytest.raises(PermissionDeniedError):
            bus.subscribe(pattern, timeout=PATIENCE)
        if ">" not in pattern[:-1] and "*" not in pattern:
            with pytest.raises(PermissionDeniedError):
                bus.subscribe(pattern, queue_group="theirs", timeout=PATIENCE)
