"""The registry of interests: what the server is told, and in which order."""

from collections.abc import Callable

from aether_sync import NATSEventBus
from aether_sync._deadline import Deadline
from aether_sync._nats.receive import EventInterest

from .conftest import PATIENCE, Monitor, eventually


def test_an_interest_that_is_entered_as_the_connection_comes_back_is_subscribed_once(
    make_bus: Callable[..., NATSEventBus], monitor: Monitor
) -> None:
    """Between the two SUBs, of which the first is confirmed, it would be deaf."""
    bus = make_bus()
    bus.start()
    engine = bus.connection._engine
    assert engine is not None
    subscriber, wire = engine.link.subscriber, engine.link._wire
    assert wire is not None
    subject = f"{bus._prefix}.events.n"
    interest = EventInterest(bus._inbox, subject, "n", None)
    before = wire._sid

    def come_back() -> None:
        subscriber.pause()
        subscriber.enter(interest)
        subscriber.resume(wire, then=lambda wire: None)

    engine.loop.post(come_back)
    interest.confirmed.wait(Deadline(PATIENCE))
    bus.connection.flush(PATIENCE)
    assert wire._sid == before + 1
    assert monitor.subscriptions_of(bus) == [(subject, "")]
    engine.loop.post(subscriber.leave, interest)
    eventually(lambda: monitor.subscriptions_of(bus) == [], "no subscription")
