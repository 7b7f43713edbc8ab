"""``drain()``: everything that is there is handled, on the caller's thread; a failure is raised."""

import threading
from typing import Any

import pytest

from aether_sync import (
    ANY_VERSION,
    DeadlineExceededError,
    Delivery,
    Event,
    EventStore,
    InvalidOptionError,
    StoreClosedError,
    StreamMismatchError,
    current_handling,
)

from ...support.common import PATIENCE, UNIT, eventually
from ...support.stores import ACK_WAIT, save
from .base import TwoNodes


class Failing:
    """A handler that fails with some events, and notes what it had."""

    def __init__(self, *sequences: int) -> None:
        self.sequences = set(sequences)
        self.had: list[tuple[int, int]] = []

    def __call__(self, delivery: Delivery) -> None:
        self.had.append((delivery.sequence, delivery.attempt))
        if delivery.sequence in self.sequences:
            raise KeyError("of the handler")


class Draining(TwoNodes):
    """What is there is handled on the caller's thread."""

    def test_everything_that_is_there_is_handled_here_in_order(self, store: EventStore) -> None:
        save(store, 10)
        had: list[int] = []

        def handle(delivery: Delivery) -> None:
            assert threading.current_thread() is here
            context = current_handling()
            assert context is not None
            assert (context.consumer, context.sequence) == ("c", delivery.sequence)
            had.append(delivery.sequence)

        here, consumer = threading.current_thread(), store.consumer("c")
        assert consumer.drain(handle, timeout=PATIENCE) == 10
        assert had == [*range(1, 11)]
        state = consumer.state()
        assert state is not None
        assert (state.acknowledged, state.waiting, state.unacknowledged) == (10, 0, 0)
        assert consumer.drain(handle, timeout=PATIENCE) == 0
        assert not [one.name for one in threading.enumerate() if one.name.startswith("aether-worker")]

    def test_what_the_handler_stores_is_handled_too(self, store: EventStore) -> None:
        save(store, 3)

        def handle(delivery: Delivery) -> None:
            if delivery.event.event_type == "Done":
                event = Event(event_type="Followed", actor_id=delivery.event.actor_id)
                store.append(event.actor_id, event, expected_version=ANY_VERSION)

        assert store.consumer("c").drain(handle, timeout=PATIENCE) == 6

    def test_only_what_is_wanted_is_handled(self, store: EventStore) -> None:
        save(store, 10)
        failing = Failing()
        assert store.consumer("c", actors="a-3").drain(failing, timeout=PATIENCE) == 1
        assert store.consumer("d", event_types=["Other"]).drain(failing, timeout=PATIENCE) == 0
        assert failing.had == [(4, 1)]

    def test_a_failure_is_raised_and_comes_first_the_next_time(self, store: EventStore) -> None:
        save(store, 4)
        failing, consumer = Failing(2), store.consumer("c")
        with pytest.raises(KeyError, match="of the handler"):
            consumer.drain(failing, timeout=PATIENCE)
        failing.sequences = set()
        assert consumer.drain(failing, timeout=PATIENCE) == 3
        assert sorted(failing.had) == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)], "nothing else has lost an attempt"

    def test_what_fails_each_time_becomes_a_dead_letter_and_nothing_else_does(self, store: EventStore) -> None:
        save(store, 4, actors=1)
        failing, consumer = Failing(2), store.consumer("c", max_deliver=2)
        for _ in range(2):
            with pytest.raises(KeyError):
                consumer.drain(failing, timeout=PATIENCE)
        (letter,) = consumer.dead_letters()
        assert (letter.sequence, letter.attempts, letter.reason) == (2, 2, "KeyError: 'of the handler'")
        assert consumer.drain(failing, timeout=PATIENCE) == 2
        assert failing.had == [(1, 1), (2, 1), (2, 2), (3, 1), (4, 1)]

    def test_dead_letters_are_handled(self, store: EventStore) -> None:
        save(store, 2)
        consumer = store.consumer("c")
        assert consumer.drain(lambda one: one.reject("no"), timeout=PATIENCE) == 2
        failing = Failing(1)
        with pytest.raises(KeyError):
            consumer.drain(failing, dead_letters=True, timeout=PATIENCE)
        failing.sequences = set()
        assert consumer.drain(failing, dead_letters=True, timeout=PATIENCE) >= 1
        eventually(lambda: consumer.dead_letters() == [])

    def test_a_handler_may_settle_it_itself(self, store: EventStore) -> None:
        save(store, 3)
        consumer, had = store.consumer("c"), []

        def handle(delivery: Delivery) -> None:
            had.append((delivery.sequence, delivery.attempt))
            if delivery.sequence == 1:
                delivery.ack()
            elif delivery.sequence == 2:
                delivery.reject("no")
            elif delivery.attempt == 1:
                delivery.nak()

        consumer.drain(handle, timeout=PATIENCE)
        assert sorted(had) == [(1, 1), (2, 1), (3, 1), (3, 2)]
        assert [one.sequence for one in consumer.dead_letters()] == [2]

    def test_what_is_deferred_or_worked_on_is_not_waited_for(self, store: EventStore, other: EventStore) -> None:
        save(store, 3)
        with other.consumer("c").iterate(prefetch=1) as events:
            taken = events.get(timeout=PATIENCE)
            events.close()
            failing = Failing()
            store.consumer("c").drain(lambda one: one.nak(PATIENCE), timeout=PATIENCE)
            assert store.consumer("c").drain(failing, timeout=PATIENCE) == 0
            taken.ack(confirm=True, timeout=PATIENCE)

    def test_a_handler_may_take_its_time(self, store: EventStore) -> None:
        save(store, 1)
        failing = Failing()

        def handle(delivery: Delivery) -> None:
            failing(delivery)
            threading.Event().wait(2 * ACK_WAIT)

        assert store.consumer("c", ack_wait=ACK_WAIT).drain(handle, timeout=PATIENCE) == 1
        assert store.consumer("c", ack_wait=ACK_WAIT).drain(handle, timeout=PATIENCE) == 0
        assert failing.had == [(1, 1)]

    def test_an_interrupt_gives_the_event_back(self, store: EventStore) -> None:
        save(store, 2)

        def interrupted(_: Delivery) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.consumer("c").drain(interrupted, timeout=PATIENCE)
        failing = Failing()
        assert store.consumer("c").drain(failing, timeout=PATIENCE) == 2
        assert sorted(failing.had) == [(1, 2), (2, 1)]

    def test_a_handler_may_close_the_store(self, store: EventStore) -> None:
        save(store, 2)
        with pytest.raises(StoreClosedError):
            store.consumer("c").drain(lambda one: (one.ack(), store.close()), timeout=PATIENCE)

    @pytest.mark.parametrize(
        "wrong",
        [{"handler": None}, {"handler": lambda: 1}, {"dead_letters": 1}, {"timeout": -1}, {"timeout": "1"}],
        ids=["no handler", "takes nothing", "dead_letters", "timeout", "a text"],
    )
    def test_what_cannot_be_is_refused(self, store: EventStore, wrong: dict[str, Any]) -> None:
        with pytest.raises(InvalidOptionError):
            store.consumer("c").drain(**{"handler": print} | wrong)

    def test_other_settings_are_refused(self, store: EventStore) -> None:
        store.consumer("c").drain(print, timeout=PATIENCE)
        with pytest.raises(StreamMismatchError, match="max_deliver is 5, not 6"):
            store.consumer("c", max_deliver=6).drain(print, timeout=PATIENCE)

    def test_it_does_not_wait_for_ever_where_others_hold_all(self, store: EventStore, other: EventStore) -> None:
        save(store, 3)
        with other.consumer("c", max_ack_pending=1).iterate(prefetch=1) as events:
            events.get(timeout=PATIENCE)
            with pytest.raises(DeadlineExceededError):
                store.consumer("c", max_ack_pending=1).drain(print, timeout=0.5 * UNIT)
