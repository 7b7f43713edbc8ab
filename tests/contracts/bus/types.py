"""Typed events: ``event.value`` of what arrives."""

import pytest

from aether_sync import Event, EventBus, EventTypes, InvalidOptionError, SubscriptionFilter, UnknownEventTypeError
from aether_sync.events import EventStored

from ...support.common import PATIENCE
from ...support.typed import Cancelled, Placed, old, typed
from .base import TwoNodes


class Typed(TwoNodes):
    """The subscribing node has types, and whoever publishes there."""

    @pytest.fixture
    def types(self) -> EventTypes:
        return typed()

    def test_what_arrives_has_values(self, here: EventBus, there: EventBus) -> None:
        types = here.types
        assert types is not None
        with here.subscribe("n") as events, here.subscribe("n") as others:
            for bus in (here, there):
                bus.publish("n", types.to_event(Placed(3, "EUR"), actor_id="a"))
                bus.publish_many("n", [Event(actor_id="a", **old(1)), Event(event_type="Other", actor_id="a")])
                for reader in (events, others):
                    assert reader.get(timeout=PATIENCE).value == Placed(3, "EUR")
                    assert reader.get(timeout=PATIENCE).value == Placed(1, "EUR")
                    with pytest.raises(UnknownEventTypeError):
                        _ = reader.get(timeout=PATIENCE).value

    def test_an_announcement_has_a_value(self, here: EventBus, there: EventBus) -> None:
        with here.subscribe_to_event_stored("n") as events:
            there.publish("n", EventStored.of(Event(event_type="T", actor_id="a", version=2), 7))
            assert events.get(timeout=PATIENCE).value.sequence == 7

    def test_classes_choose_event_types(self, here: EventBus, there: EventBus) -> None:
        chosen = SubscriptionFilter(event_types={Cancelled}, types=here.types)
        with here.subscribe("n", filter=chosen) as events:
            for name in ("Placed", "Aborted", "Cancelled"):
                there.publish("n", Event(event_type=name, actor_id="a"))
            assert [events.get(timeout=PATIENCE).event_type for _ in range(2)] == ["Aborted", "Cancelled"]
        with pytest.raises(InvalidOptionError, match="types="):
            SubscriptionFilter(event_types={Cancelled})
