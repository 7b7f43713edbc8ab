"""Typed events of consumers: values wherever a delivery comes from; what cannot be read is a dead letter at once."""

from typing import Any

import pytest

from aether_sync import NO_EVENTS, Delivery, Event, EventStore, EventTypeError, InvalidOptionError
from aether_sync._runtime.deadline import Deadline
from aether_sync.stores.consumers.delivery import drop_event, reload_event

from ...support.common import PATIENCE, eventually
from ...support.stores import ACK_WAIT, take_batches
from ...support.typed import Cancelled, Placed, old


class TypedConsumers:
    """A store with types that has consumers."""

    @pytest.fixture
    def store(self) -> EventStore:
        raise NotImplementedError

    def fill(self, store: EventStore) -> None:
        """Store two events that have a value, each behind one that has none."""
        wrong = Event(event_type="Refunded", actor_id="a", data={"amount": "x"})
        unknown = Event(event_type="Other", actor_id="a")
        store.append("a", wrong, Placed(1, "EUR"), unknown, Placed(2, "EUR"), expected_version=NO_EVENTS)

    def test_deliveries_have_values(self, store: EventStore) -> None:
        store.append("a", Event(actor_id="a", **old(1)), Placed(2, "USD"), Cancelled(), expected_version=NO_EVENTS)
        with store.consumer("c", event_types={Placed}, ack_wait=ACK_WAIT).iterate() as deliveries:
            first, second = take_batches(deliveries, 2)
            assert (first.event.value, second.event.value) == (Placed(1, "EUR"), Placed(2, "USD"))
            drop_event(first)
            reload_event(first, Deadline(PATIENCE))
            assert first.event.value == Placed(1, "EUR"), "also of an event that was read again"
            first.reject("because")
            second.nak()
            assert deliveries.get(timeout=PATIENCE).event.value == Placed(2, "USD")
        (letter,) = store.consumer("c").dead_letters()
        assert letter.event is not None
        assert letter.event.value == Placed(1, "EUR")
        again = store.consumer("c", event_types={Placed}, ack_wait=ACK_WAIT)
        with again.iterate(dead_letters=True) as letters:
            assert letters.get(timeout=PATIENCE).event.value == Placed(1, "EUR")

    def test_a_class_stands_for_all_of_its_names(self, store: EventStore) -> None:
        with (
            store.consumer("c", event_types={Cancelled}).iterate(),
            store.consumer("c", event_types={"Aborted", "Cancelled"}).iterate(),
        ):
            pass
        with pytest.raises(InvalidOptionError, match="Registered are"):
            store.consumer("c", event_types={int})

    def test_an_event_that_has_no_value_is_a_dead_letter_at_once(self, store: EventStore) -> None:
        self.fill(store)
        handled: list[Any] = []

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.sequence)
            handled.append(delivery.event.value)

        with store.consumer("c").run(handle, threads=1):
            eventually(lambda: handled[-1:] == [Placed(2, "EUR")])
            eventually(lambda: len(store.consumer("c").dead_letters()) == 2)
        assert handled == [1, 2, Placed(1, "EUR"), 3, 4, Placed(2, "EUR")], "neither was tried again"
        one, two = store.consumer("c").dead_letters()
        assert (one.sequence, one.attempts, two.sequence) == (1, 1, 3)
        assert "no Refunded: Expected `int`" in one.reason
        assert "not registered" in two.reason

    def test_an_error_of_another_event_is_tried_again(self, store: EventStore) -> None:
        store.append("a", Placed(1, "EUR"), expected_version=NO_EVENTS)
        tries: list[int] = []

        def handle(delivery: Delivery) -> None:
            tries.append(delivery.attempt)
            if len(tries) == 1:
                raise EventTypeError("of another event, which it has loaded", "other")
            if len(tries) == 2:
                raise InvalidOptionError("a fault of the program is not one of the event")

        with store.consumer("c").run(handle, threads=1, retry_delay=0.01):
            eventually(lambda: len(tries) == 3)
        assert store.consumer("c").dead_letters() == []

    def test_drain_makes_it_a_dead_letter_at_once_and_raises(self, store: EventStore) -> None:
        self.fill(store)
        handled: list[Any] = []

        def handle(delivery: Delivery) -> None:
            handled.append(delivery.sequence)
            handled.append(delivery.event.value)

        consumer = store.consumer("c")
        for _ in range(2):
            with pytest.raises(EventTypeError):
                consumer.drain(handle, timeout=PATIENCE)
        assert consumer.drain(handle, timeout=PATIENCE) == 1
        assert handled == [1, 2, Placed(1, "EUR"), 3, 4, Placed(2, "EUR")], "neither was tried again"
        assert [(one.sequence, one.attempts) for one in consumer.dead_letters()] == [(1, 1), (3, 1)]
        assert "no Refunded: Expected `int`" in consumer.dead_letters()[0].reason
        for _ in range(2):  # it stays where it is, and comes at once
            with pytest.raises(EventTypeError):
                consumer.drain(handle, dead_letters=True, timeout=PATIENCE)
            assert handled.pop() == 1
        assert len(consumer.dead_letters()) == 2

    def test_drain_tries_again_after_an_error_of_another_event(self, store: EventStore) -> None:
        store.append("a", Placed(1, "EUR"), expected_version=NO_EVENTS)
        values: list[Any] = []

        def fail(delivery: Delivery) -> None:
            raise EventTypeError("of another event, which it has loaded", "other")

        consumer = store.consumer("c")
        with pytest.raises(EventTypeError):
            consumer.drain(fail, timeout=PATIENCE)
        assert consumer.dead_letters() == []
        assert consumer.drain(lambda delivery: values.append(delivery.event.value), timeout=PATIENCE) == 1
        assert values == [Placed(1, "EUR")]

    def test_what_a_handler_gets_it_may_change(self, store: EventStore) -> None:
        store.append("a", Placed(1, "EUR"), expected_version=NO_EVENTS)

        def spoil(delivery: Delivery) -> None:
            assert delivery.event.data is not None
            delivery.event.data["qty"] = 99
            raise KeyError("of the handler")

        with pytest.raises(KeyError):
            store.consumer("c").drain(spoil, timeout=PATIENCE)
        values: list[Any] = []
        with store.consumer("c").run(lambda delivery: values.append(delivery.event.value)):
            eventually(lambda: values)
        assert values == [Placed(1, "EUR")]
