"""Durable consumers: each event to one of those who share it, until it is acknowledged or given up."""

import threading
import time
from typing import Any

import pytest

from aether_sync import (
    Consumption,
    DeadlineExceededError,
    Event,
    EventStore,
    InvalidOptionError,
    StoreClosedError,
    StoreError,
    StreamMismatchError,
)

from ...support.common import PATIENCE, UNIT, eventually, run_threads
from ...support.stores import ACK_WAIT, save, take_all
from .base import TwoNodes


class SharingConsumers(TwoNodes):
    """Each event goes to one of those who share a consumer."""

    def test_each_event_goes_to_one(self, store: EventStore, other: EventStore) -> None:
        save(store, 200)
        with store.consumer("c").iterate(prefetch=10) as here, other.consumer("c").iterate(prefetch=10) as there:
            taken: dict[Consumption, list[int]] = {here: [], there: []}
            while sum(map(len, taken.values())) < 200:
                for events, sequences in taken.items():
                    sequences += [one.sequence for one in events.get_batch(1, timeout=0)]
        assert sorted(taken[here] + taken[there]) == list(range(1, 201))
        assert all(taken.values())

    @pytest.mark.concurrent
    def test_threads_and_nodes_share(self, store: EventStore, other: EventStore) -> None:
        taken: list[int] = []

        with store.consumer("c").iterate(prefetch=16) as here, other.consumer("c").iterate(prefetch=16) as there:

            def work(events: Consumption) -> None:
                for delivery in events:
                    delivery.ack()
                    taken.append(delivery.sequence)
                    if len(taken) >= 3_000:
                        here.close()
                        there.close()

            run_threads(
                lambda: save(store, 3_000), *(lambda events=events: work(events) for events in (here, there) * 3)
            )
        assert sorted(taken) == list(range(1, 3_001))

    def test_it_goes_on_where_it_was(self, store: EventStore, other: EventStore) -> None:
        save(store, 20)
        with store.consumer("c").iterate() as events:
            take_all(events, 12)[-1].ack(confirm=True, timeout=PATIENCE)
        store.consumer("c").wait_for(12, timeout=PATIENCE)
        with other.consumer("c").iterate() as events:
            rest = take_all(events, 8)
        assert sorted(delivery.sequence for delivery in rest) == list(range(13, 21))

    def test_it_is_live(self, store: EventStore) -> None:
        with store.consumer("c").iterate() as events:
            with pytest.raises(DeadlineExceededError):
                events.get(timeout=0)
            assert events.get_batch(5, timeout=0) == []
            save(store, 3)
            assert [one.sequence for one in take_all(events, 3)] == [1, 2, 3]

    def test_others_consume_for_themselves(self, store: EventStore) -> None:
        save(store, 5)
        with store.consumer("c/1").iterate() as one, store.consumer("c.1 ü").iterate() as other:
            assert len(take_all(one, 5)) == len(take_all(other, 5)) == 5


class MakingConsumers(TwoNodes):
    """A consumer is made with settings, on which all agree."""

    def test_it_begins_where_it_is_told(self, store: EventStore) -> None:
        save(store, 5)
        with store.consumer("new", start="new").iterate() as new, store.consumer("later", start=3).iterate() as later:
            assert [one.sequence for one in take_all(later, 2)] == [4, 5]
            store.save_event(Event(event_type="Done", actor_id="a-0", version=7))
            assert new.get(timeout=PATIENCE).sequence == 6
        with store.consumer("later").iterate() as later:  # it goes on where it was
            assert later.get(timeout=PATIENCE).sequence in {4, 5, 6}

    def test_another_of_that_name_is_refused(self, store: EventStore) -> None:
        store.consumer("c", actors="a-1", event_types=["A", "B"], ack_wait=10).iterate().close()
        store.consumer("c", actors="a-1", event_types={"B", "A"}, ack_wait=10).iterate().close()
        with pytest.raises(
            StreamMismatchError,
            match=r"ack_wait is 10 s, not 30 s.*state\(\)\.acknowledged.*delete\(\).*start=.* "
            r"another name is a new one, which begins with the first event unless start= is given",
        ) as caught:
            store.consumer("c", actors="a-2", start=3, max_deliver=7, max_ack_pending=2).iterate()
        assert caught.value.differences == (
            "ack_wait is 10 s, not 30 s",
            "max_deliver is 5, not 7",
            "max_ack_pending is 10000, not 2",
            "actors is 'a-1', not 'a-2'",
            "event_types is ['A', 'B'], not []",
        )
        with pytest.raises(StreamMismatchError, match=r"settings: actors is 'a-1', not None\. "):
            store.consumer("c", event_types=["A", "B"], ack_wait=10).iterate()
        assert store.consumer("c").delete()
        assert not store.consumer("c").delete()
        store.consumer("c", actors="a-2").iterate().close()


class Settling(TwoNodes):
    """What is delivered is acknowledged, given back, or delivered again."""

    def test_what_is_not_acknowledged_comes_again(self, store: EventStore) -> None:
        save(store, 1)
        with store.consumer("c", ack_wait=ACK_WAIT).iterate() as events:
            attempts = [events.get(timeout=PATIENCE) for _ in range(3)]
            assert [one.attempt for one in attempts] == [1, 2, 3]
            attempts[0].ack(confirm=True, timeout=PATIENCE)  # any of them
            assert events.get_batch(1, timeout=2 * ACK_WAIT) == []

    def test_what_is_given_back_comes_again(self, store: EventStore) -> None:
        save(store, 1)
        with store.consumer("c").iterate() as events:
            events.get(timeout=PATIENCE).nak()
            again = events.get(timeout=PATIENCE)
            assert again.attempt == 2
            begun = time.monotonic()
            again.nak(delay=0.3 * UNIT)
            assert events.get(timeout=PATIENCE).attempt == 3
            assert time.monotonic() - begun >= 0.29 * UNIT

    def test_work_in_progress_is_not_given_to_another(self, store: EventStore) -> None:
        save(store, 1)
        with store.consumer("c", ack_wait=ACK_WAIT).iterate() as events:
            delivery = events.get(timeout=PATIENCE)
            end = time.monotonic() + 3 * ACK_WAIT
            while time.monotonic() < end:
                delivery.in_progress()
                assert events.get_batch(1, timeout=ACK_WAIT / 5) == []
            assert events.get(timeout=PATIENCE).attempt == 2

    def test_an_acknowledgement_may_be_confirmed(self, store: EventStore) -> None:
        save(store, 1)
        with store.consumer("c").iterate() as events:
            delivery = events.get(timeout=PATIENCE)
            delivery.ack(confirm=True, timeout=PATIENCE)
            assert store.consumers()[0].acknowledged == 1
            delivery.ack(confirm=True, timeout=PATIENCE)
            assert delivery.settled == "acknowledged"

    def test_it_is_settled_once(self, store: EventStore) -> None:
        save(store, 2)
        with store.consumer("c").iterate() as events:
            acked, given = events.get(timeout=PATIENCE), events.get(timeout=PATIENCE)
            acked.ack()
            acked.ack()
            acked.in_progress()
            with pytest.raises(StoreError, match="acknowledged already"):
                acked.nak()
            with pytest.raises(StoreError, match="acknowledged already"):
                acked.reject("no")
            given.nak()
            given.nak()
            with pytest.raises(StoreError, match="given back already"):
                given.ack(confirm=True)
            assert events.get(timeout=PATIENCE).sequence == 2
            assert events.get_batch(1, timeout=ACK_WAIT) == []
            assert "attempt 1, given back" in repr(given)

    @pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), True, "1"])
    def test_a_delay_that_is_none(self, store: EventStore, delay: Any) -> None:
        save(store, 1)
        with store.consumer("c").iterate() as events:
            delivery = events.get(timeout=PATIENCE)
            with pytest.raises(InvalidOptionError, match=r"delay must be seconds, (0 or more|at most)"):
                delivery.nak(delay)
            with pytest.raises(InvalidOptionError, match="reason"):
                delivery.reject(delay if isinstance(delay, float) else 5)  # type: ignore[arg-type]
            delivery.ack()


class DeadLetters(TwoNodes):
    """What is given up is kept, and can be handled again."""

    def test_what_is_rejected_is_there_at_once(self, store: EventStore) -> None:
        save(store, 3)
        with store.consumer("c").iterate() as events:
            first, second, third = (events.get(timeout=PATIENCE) for _ in range(3))
            third.reject("no \udc80 good")
            first.reject("none")
            second.ack()
            third.reject("once more")
        found = store.consumer("c").dead_letters()
        assert [(one.sequence, one.event, one.attempts, one.reason) for one in found] == [
            (1, first.event, 1, "none"),
            (3, third.event, 1, "no ? good"),
        ]
        assert all(abs(one.timestamp.timestamp() - time.time()) < PATIENCE for one in found)
        assert [one.sequence for one in store.consumer("c").dead_letters(limit=1)] == [
            3
        ]  # which was the first to be there
        assert store.consumer("other").dead_letters() == []

    @pytest.mark.parametrize("text", ["x", "\0", "\U0001f600"])
    def test_of_a_long_reason_the_beginning_is_there(self, store: EventStore, text: str) -> None:
        save(store, 1)
        with store.consumer("c").iterate() as events:
            events.get(timeout=PATIENCE).reject(text * 1_000_000)
        (found,) = store.consumer("c").dead_letters()
        assert found.reason == f"{text * 4_000}... (cut: it has 1,000,000 characters)"

    def test_what_was_delivered_in_vain_is_there(self, store: EventStore) -> None:
        save(store, 2)
        with store.consumer("c", ack_wait=ACK_WAIT, max_deliver=2).iterate() as events:
            got = []
            while len(got) < 3:
                got.append(events.get(timeout=PATIENCE))
                if got[-1].sequence == 2:
                    got[-1].ack()
            eventually(
                lambda: events.get_batch(1, timeout=0) == [] and store.consumer("c").dead_letters(), "it to be given up"
            )
            (found,) = store.consumer("c").dead_letters()
            assert (found.sequence, found.attempts, found.event) == (1, 2, got[0].event)
            assert "never acknowledged" in found.reason
            store.consumer("c").wait_for(2, timeout=PATIENCE)

    def test_it_is_worked_on_again(self, store: EventStore, other: EventStore) -> None:
        save(store, 20)
        with store.consumer("c").iterate() as events:
            for _ in range(20):
                events.get(timeout=PATIENCE).reject("later")
        with (
            store.consumer("c").iterate(dead_letters=True, prefetch=5) as here,
            other.consumer("c").iterate(dead_letters=True, prefetch=5) as there,
        ):
            first, other = here.get(timeout=PATIENCE), there.get(timeout=PATIENCE)
            assert first.event == store.get_events(first.event.actor_id)[first.event.version - 1]
            first.nak()
            rest = [here.get(timeout=PATIENCE) for _ in range(4)]
            for one in (other, *rest):
                one.ack(confirm=True, timeout=PATIENCE)
            here.close()
            taken = [other, *rest, *take_all(there, 15)]
        assert sorted(one.sequence for one in taken) == list(range(1, 21))
        eventually(lambda: store.consumer("c").dead_letters() == [])

    def test_what_is_rejected_once_more_stays(self, store: EventStore) -> None:
        save(store, 2)
        with store.consumer("c").iterate() as events:
            for _ in range(2):
                events.get(timeout=PATIENCE).reject("no")
        with store.consumer("c").iterate(dead_letters=True) as events:
            events.get(timeout=PATIENCE).reject("still no")
            take_all(events, 1)
            assert events.get_batch(1, timeout=ACK_WAIT) == []
        eventually(lambda: [one.sequence for one in store.consumer("c").dead_letters()] == [1])
        assert store.consumer("c").discard_dead_letter(1)
        assert not store.consumer("c").discard_dead_letter(1)
        assert store.consumer("c").dead_letters() == []

    def test_one_that_is_not_wanted_stays(self, store: EventStore) -> None:
        save(store, 4)
        with store.consumer("c").iterate() as events:
            for _ in range(4):
                events.get(timeout=PATIENCE).reject("no")
        wanted = store.consumer("c", actors="a-1", event_types={"Done"})
        with wanted.iterate(dead_letters=True) as events:
            assert [one.event.actor_id for one in take_all(events, 1)] == ["a-1"]
            assert events.get_batch(1, timeout=ACK_WAIT) == []
        eventually(lambda: [one.sequence for one in wanted.dead_letters()] == [1, 3, 4])


class EndingConsumptions(TwoNodes):
    """An iteration ends when it, its store or its consumer does."""

    @pytest.mark.parametrize("what", ["consumption", "store"])
    def test_iteration_ends(self, store: EventStore, other: EventStore, what: str) -> None:
        save(store, 1)
        events, begun = store.consumer("c").iterate(), threading.Event()

        def close() -> None:
            begun.wait(PATIENCE)
            (events if what == "consumption" else store).close()

        def iterate() -> None:
            for delivery in events:
                delivery.ack()
                begun.set()

        run_threads(iterate, iterate, iterate, close)
        assert events.closed
        with pytest.raises(StoreClosedError):
            events.get()
        with pytest.raises(StoreClosedError):
            events.get_batch(1)
        assert list(events) == []
        events.close()

    def test_a_consumer_that_was_deleted_ends_it(self, store: EventStore, other: EventStore) -> None:
        with store.consumer("c").iterate() as events:
            store.consumer("c").delete()
            with pytest.raises(StoreError, match="there is no consumer 'c'"):
                events.get(timeout=PATIENCE)
            lengths = []
            for _ in range(3):
                with pytest.raises(StoreError, match="there is no consumer 'c'") as caught:
                    next(events)
                lengths.append(len(caught.traceback))
            assert len(set(lengths)) == 1, "each call raises an error with a traceback of its own"


class ConsumerObjects(TwoNodes):
    """A consumer tells how far it is."""

    def test_its_state_is_the_servers(self, store: EventStore) -> None:
        consumer = store.consumer("c", actors="a-1")
        assert consumer.state(timeout=PATIENCE) is None
        save(store, 10)
        assert consumer.state(timeout=PATIENCE) is None
        with consumer.iterate() as events:
            eventually(lambda: consumer.state(timeout=PATIENCE) == store.consumers()[0])
            delivery = events.get(timeout=PATIENCE)
            delivery.ack(confirm=True, timeout=PATIENCE)
        state = consumer.state(timeout=PATIENCE)
        assert state is not None
        assert (state.name, state.waiting, state.unacknowledged) == ("c", 0, 0)
        assert state.acknowledged >= delivery.sequence

    def test_a_name_that_nobody_has_has_no_dead_letters(self, store: EventStore) -> None:
        save(store, 1)
        consumer = store.consumer("c")
        with consumer.iterate() as events:
            events.get(timeout=PATIENCE).reject("no")
        assert consumer.delete()
        assert (consumer.state(), len(consumer.dead_letters())) == (None, 1), "they stay"
        nobody = store.consumer("mialer")
        assert (nobody.state(), nobody.dead_letters()) == (None, [])

    def test_a_closed_store_has_none(self, store: EventStore) -> None:
        consumer = store.consumer("c")
        store.close()
        for use in (consumer.iterate, consumer.state, consumer.delete, lambda: store.consumer("c")):
            with pytest.raises(StoreClosedError):
                use()


class WaitingForConsumers(TwoNodes):
    """Whoever waits for a consumer sees what it has built."""

    def test_it_returns_when_all_is_acknowledged(self, store: EventStore) -> None:
        save(store, 10)
        with store.consumer("c", actors="a-1").iterate() as events:
            delivery = events.get(timeout=PATIENCE)
            with pytest.raises(DeadlineExceededError, match=r"all up to [01] is, 1 events are being worked on, 0 wait"):
                store.consumer("c").wait_for(10, timeout=0.3 * UNIT)
            run_threads(lambda: store.consumer("c").wait_for(10, timeout=PATIENCE), delivery.ack)
            store.consumer("c").wait_for(0)
            stored = store.save_event(Event(event_type="Done", actor_id="a-1", version=2))
            with pytest.raises(DeadlineExceededError, match="event 11"):
                store.consumer("c").wait_for(stored.sequence, timeout=0.3 * UNIT)
            take_all(events, 1)
            store.consumer("c").wait_for(stored.sequence, timeout=PATIENCE)

    def test_it_is_not_held_up_by_what_is_not_wanted(self, store: EventStore) -> None:
        save(store, 10)
        with (
            store.consumer("none", actors="b-1").iterate(),
            store.consumer("new", start="new").iterate(),
            store.consumer("x", start=10).iterate(),
        ):
            for name in ("none", "new", "x"):
                store.consumer(name).wait_for(10, timeout=PATIENCE)
