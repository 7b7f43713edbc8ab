"""The registry of interests: what the server is told, and in which order."""

from collections.abc import Callable

from aether_sync import NATSEventBus
from aether_sync._bus.incoming import EventInterest
from aether_sync._runtime.deadline import Deadline

from ..support.common import PATIENCE, Monitor, eventually
from ..support.inside import client_of, engine_of, prefix_of


def test_an_interest_that_is_entered_as_the_connection_comes_back_is_subscribed_once(
    make_bus: Callable[..., NATSEventBus], monitor: Monitor
) -> None:
    """Between the two SUBs, of which the first is confirmed, it would be deaf."""
    bus = make_bus()
    bus.start()
    engine, client = engine_of(bus), client_of(bus)
    subscriber = engine.link.subscriber
    subject = f"{prefix_of(bus)}.events.n"
    interest = EventInterest(bus._inbox, subject, "n", None)
    before = client._sid

    def come_back() -> None:
        subscriber.pause()
        subscriber.subscribe(interest)
        subscriber.resume(client, then=lambda client: None)

    engine.loop.post(come_back)
    interest.confirmed.wait(Deadline(PATIENCE))
    bus.connection.flush(PATIENCE)
    assert client._sid == before + 1
    assert monitor.subscriptions_of(bus) == [(subject, "")]
    engine.loop.post(subscriber.unsubscribe, interest)
    eventually(lambda: monitor.subscriptions_of(bus) == [], "no subscription")
