"""Typed events: what ``append()`` takes, and ``event.value`` on every way of reading."""

import pickle
from collections.abc import Callable

import pytest

from aether_sync import (
    ANY_VERSION,
    NO_EVENTS,
    Event,
    EventTypeError,
    EventTypes,
    InvalidEventError,
    InvalidOptionError,
    UnknownEventTypeError,
)
from aether_sync.stores.event_store import EventStore

from ...support.common import PATIENCE
from ...support.stores import take_batches
from ...support.typed import Cancelled, Placed, Refunded, old, typed
from .base import is_empty

#: Each way of reading an actor's events.
WAYS: dict[str, Callable[[EventStore], list[Event]]] = {
    "get_events": lambda store: store.get_events("a"),
    "backwards": lambda store: store.get_events("a", reverse=True)[::-1],
    "again": lambda store: store.get_events("a") and store.get_events("a"),
    "iter_events": lambda store: list(store.iter_events("a")),
    "with errors": lambda store: [one.event for one in store.get_events_with_errors("a").events],
    "together": lambda store: store.read_together("a")["a"],
    "read_all": lambda store: [one.event for one in store.read_all(actors="a")],
    "load": lambda store: store.load("a").events,
    "follow": lambda store: _followed(store),
    "one by one": lambda store: [one for n in (1, 2, 3, 4) for one in store.get_events("a", n, n)],
}


def _followed(store: EventStore) -> list[Event]:
    with store.follow(actors="a") as follower:
        taken = [follower.get(timeout=PATIENCE), next(follower), *take_batches(follower, 2)]
    return [one.event for one in taken]


class Typed:
    """A store with types, and another one of the same events without."""

    @pytest.fixture
    def types(self) -> EventTypes:
        return typed()

    @pytest.fixture
    def store(self, types: EventTypes) -> EventStore:
        raise NotImplementedError

    def fill(self, store: EventStore) -> None:
        """Store an event of each version, and of a former name."""
        store.append("a", *(Event(actor_id="a", **old(n)) for n in (1, 2)), expected_version=NO_EVENTS)
        store.append("a", Placed(3, "CHF"), expected_version=2)
        store.append("a", Event(event_type="Aborted", actor_id="a"), expected_version=3)

    @pytest.mark.parametrize("way", WAYS)
    def test_every_way_of_reading_gives_values(self, store: EventStore, way: str) -> None:
        self.fill(store)
        read = WAYS[way](store)
        assert [one.value for one in read] == [Placed(1, "EUR"), Placed(2, "USD"), Placed(3, "CHF"), Cancelled()]
        assert read[0].data == {"count": 1}, "what is stored stays as it is"
        assert read[2].value is not read[2].value, "each access makes an object of its own"

    def test_the_last_event_and_what_saving_returns(self, store: EventStore) -> None:
        (stored,) = store.append("a", Placed(3, "EUR"), expected_version=NO_EVENTS)
        assert stored.event.value == Placed(3, "EUR")
        assert (stored.event.version, stored.event.actor_id) == (1, "a")
        again = store.save_event(stored.event)
        assert (again.duplicate, again.event.value) == (True, Placed(3, "EUR"))
        latest = store.get_latest_event("a")
        assert latest is not None
        assert latest.value == Placed(3, "EUR")
        assert (latest.event_type, latest.metadata) == ("Placed", {"schemaVersion": "3"})

    def test_values_and_events_in_one_save(self, store: EventStore, types: EventTypes) -> None:
        refund = types.to_event(Refunded(amount=1, notes={}), kind=Refunded, actor_id="a", command_id="c")
        plain = Event(event_type="Cancelled", actor_id="a", data={"reason": "x"})
        store.append("a", Cancelled("no"), plain, refund, expected_version=ANY_VERSION)
        values = [one.value for one in store.get_events("a")]
        assert values == [Cancelled("no"), Cancelled("x"), {"amount": 1, "notes": {}}]
        values[2]["notes"]["mine"] = True
        assert store.get_events("a")[2].value == {"amount": 1, "notes": {}}, "a value shares nothing with the event"

    @pytest.mark.parametrize(
        "wrong", [Placed("three", "EUR"), Placed, 3, "x", None, {"qty": 3}, [Placed(1, "E")], object()]
    )  # type: ignore[arg-type]
    def test_what_nobody_could_read_is_not_stored(self, store: EventStore, wrong: object) -> None:
        with pytest.raises(InvalidEventError):
            store.append("a", Cancelled(), wrong, expected_version=NO_EVENTS)
        assert is_empty(store)

    def test_the_field_that_does_not_fit_is_named(self, store: EventStore) -> None:
        with pytest.raises(InvalidEventError, match=r"Placed does not fit its own class.*Expected `int`.*\$\.qty"):
            store.append("a", Placed("three", "EUR"), expected_version=NO_EVENTS)  # type: ignore[arg-type]

    def test_classes_choose_event_types(self, store: EventStore) -> None:
        self.fill(store)
        assert [one.sequence for one in store.read_all(event_types={Cancelled})] == [4]
        assert [one.sequence for one in store.read_all(event_types={Cancelled, "Placed"})] == [1, 2, 3, 4]
        assert [one.sequence for one in store.read_all(event_types={"Cancelled"})] == []
        with store.follow(event_types=[Cancelled]) as follower:
            assert follower.get(timeout=PATIENCE).event.value == Cancelled()
        with pytest.raises(InvalidOptionError, match="int is no registered event type"):
            store.read_all(event_types={int})

    def test_what_is_not_known_is_said(self, store: EventStore) -> None:
        new = {"event_type": "Placed", "metadata": {"schemaVersion": "4"}}
        for fields in ({"event_type": "Other"}, new):
            store.append("a", Event(actor_id="a", **fields), expected_version=ANY_VERSION)  # type: ignore[arg-type]
        for one, what in zip(store.get_events("a"), ["not registered", "version 4"], strict=True):
            with pytest.raises(UnknownEventTypeError, match=what) as caught:
                _ = one.value
            assert caught.value.event_id == one.id

    def test_what_has_another_shape_is_said(self, store: EventStore) -> None:
        store.append("a", Event(event_type="Refunded", actor_id="a", data={"amount": "x"}), expected_version=0)
        (one,) = store.get_events("a")
        with pytest.raises(EventTypeError, match="no Refunded: Expected `int`") as caught:
            _ = one.value
        assert pickle.loads(pickle.dumps(caught.value)).event_id == one.id

    def test_an_event_leaves_its_types_behind(self, store: EventStore) -> None:
        self.fill(store)
        one = store.get_events("a")[2]
        there = pickle.loads(pickle.dumps(one))
        assert (there, hash(there), repr(there)) == (one, hash(one), repr(one))
        assert type(there) is Event
        with pytest.raises(InvalidOptionError, match="types=EventTypes"):
            _ = there.value
        assert one.replace(command_id="x").value == one.value
        with pytest.raises(InvalidOptionError, match="has no value"):
            _ = one.following(event_type="Placed", actor_id="b").value

    def test_types_of_another_store_do_not_stay(self, store: EventStore) -> None:
        other = EventTypes("pass")
        other.event("Placed")(type("Mine", (Cancelled,), {}))
        made = other.to_event(other.value_of(Event(event_type="Placed", actor_id="b")), actor_id="b")
        (stored,) = store.append("b", made, expected_version=NO_EVENTS)
        for one in (stored.event, store.get_events("b")[0], store.read_all()[0].event):
            assert one._types is store.types
        assert made._types is other


class Untyped:
    """A store without types."""

    @pytest.fixture
    def store(self) -> EventStore:
        raise NotImplementedError

    def test_a_store_without_types_has_no_values(self, store: EventStore) -> None:
        assert store.types is None
        with pytest.raises(InvalidEventError, match="types="):
            store.append("a", Placed(3, "EUR"), expected_version=NO_EVENTS)
        with pytest.raises(InvalidOptionError, match="types="):
            store.read_all(event_types={Placed})
        store.append("a", typed().to_event(Placed(3, "EUR"), actor_id="a"), expected_version=NO_EVENTS)
        for one in (store.get_events("a")[0], store.read_all()[0].event):
            assert type(one) is Event
            with pytest.raises(InvalidOptionError, match="has no value"):
                _ = one.value
