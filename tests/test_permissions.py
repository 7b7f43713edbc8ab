"""What a server forbids: denied subscriptions and publishes, told apart by their position between PONGs."""

from collections.abc import Callable, Iterator

import pytest

from aether_sync import DeliveryUncertainError, NATSEventBus, NatsServer, PermissionDeniedError, Subscription

from .conftest import PATIENCE, eventually, make_event, run_threads
from .suites import numbers

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
