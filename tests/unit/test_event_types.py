"""``EventTypes``: what is registered, what is refused, and how values are read and written."""

import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, make_dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple
from uuid import UUID

import msgspec
import pytest

from aether_sync import (
    EncodingError,
    Event,
    EventTypeError,
    EventTypes,
    InMemoryEventStore,
    InvalidEventError,
    InvalidOptionError,
    UnknownEventTypeError,
)
from aether_sync.event_types import class_of_events

from ..support.typed import Cancelled, Placed, Refunded, old, typed


@dataclass
class Nothing: ...


def refused(work: Callable[[], object], error: type[Exception] = InvalidOptionError) -> str:
    with pytest.raises(error) as caught:
        work()
    return str(caught.value)


def placed(**fields: Any) -> Event:
    return Event(**({"event_type": "Placed", "actor_id": "a"} | fields))


# -- registering


class Money:
    """A class that msgspec knows nothing of."""


@dataclass
class WithMoney:
    price: list[Money]


class Row(NamedTuple):
    a: int


class Listed(msgspec.Struct, array_like=True):
    a: int


@dataclass
class Unfinished:
    other: "NotThereYet"  # type: ignore[name-defined]  # noqa: F821


@dataclass
class Ambiguous:
    either: Placed | Nothing


@pytest.mark.parametrize(
    "cls", [int, dict, Row, Listed, WithMoney, Ambiguous, "Placed", None, Placed(1, "E"), list[int]]
)
def test_a_class_that_cannot_be_one(cls: Any) -> None:
    types = EventTypes()
    text = refused(lambda: types.event("X")(cls))
    assert "event type" in text
    assert types.names() == frozenset()


def test_decorators_that_are_swapped_are_said() -> None:
    types = EventTypes()

    def swapped() -> None:
        @dataclass
        @types.event("X")
        class X:
            a: int

    assert refused(swapped).endswith("X is not: write @dataclass below @types.event(...), and not above it")
    assert "@dataclass" not in refused(lambda: types.event("X")(Row))
    assert "@dataclass" not in refused(lambda: types.event("X")(Money))


def test_a_decorator_without_parentheses_is_said() -> None:
    types = EventTypes()
    text = refused(lambda: types.event(Placed))  # type: ignore[arg-type]
    assert "Placed has no parentheses" in text
    assert text.endswith("write @types.event('OrderPlaced')")


def test_nothing_is_registered_twice() -> None:
    types = typed()
    assert "registered already, as Placed" in refused(lambda: types.event("Placed")(Nothing))
    assert "registered already, as Cancelled" in refused(lambda: types.event("Aborted")(Nothing))
    assert "registered already, as Cancelled" in refused(lambda: types.event("X", formerly={"Aborted"})(Nothing))
    assert "registered already, as 'Placed'" in refused(lambda: types.event("X")(Placed))
    assert "already" in refused(lambda: types.upcast("Placed", version=1)(dict))
    assert types.names() == {"Placed", "Refunded", "Cancelled", "Aborted"}


@pytest.mark.parametrize("name", ["", 3, None, b"x", "EventStored", "ProjectionAdvanced", Placed])
def test_what_is_no_name(name: Any) -> None:
    types = EventTypes()
    refused(lambda: types.event(name))
    refused(lambda: types.upcast(name, version=1))
    refused(lambda: types.event("X", formerly={name}))
    refused(lambda: types.event("X", formerly=name))
    assert "twice" in refused(lambda: types.event("X", formerly=["X"]))


@pytest.mark.parametrize("version", [0, -1, "1", None, 1.0, True, 2**63])
def test_what_is_no_version(version: Any) -> None:
    refused(lambda: EventTypes().event("X", version=version))
    refused(lambda: EventTypes().upcast("X", version=version))


def test_other_arguments() -> None:
    assert "unknown must be one of" in refused(lambda: EventTypes("ignore"))  # type: ignore[arg-type]
    assert "must be a function" in refused(lambda: EventTypes().upcast("X", version=1)(3))  # type: ignore[type-var]
    assert "takes ()" in refused(lambda: EventTypes().upcast("X", version=1)(lambda: {}))  # type: ignore[arg-type, misc]
    assert "types must be an EventTypes" in refused(lambda: InMemoryEventStore(types={Placed}))  # type: ignore[arg-type]
    assert class_of_events(None) is Event


def test_upcasters_fit_the_version() -> None:
    types = EventTypes()
    types.upcast("Placed", version=3)(dict)  # before the type: the order in which modules are imported is free
    assert "raise that to 4" in refused(lambda: types.event("Placed", version=3)(Placed))
    types.event("Placed", version=4, formerly={"Made"})(Placed)
    assert "raise that to 5; or say version=3 if it leads to version 4" in refused(
        lambda: types.upcast("Placed", version=4)(dict)
    )
    assert "former name: register the upcaster for 'Placed'" in refused(lambda: types.upcast("Made", version=1)(dict))
    early = EventTypes()
    early.upcast("Made", version=1)(dict)
    assert "a former name: register it for 'Placed'" in refused(
        lambda: early.event("Placed", version=4, formerly={"Made"})(Placed)
    )


def test_what_is_missing_is_said_at_the_first_use() -> None:
    types = EventTypes()
    types.event("Placed", version=4)(Placed)
    types.upcast("Placed", version=2)(dict)
    types.upcast("Unknown", version=1)(dict)
    types.event("Unfinished")(Unfinished)
    with InMemoryEventStore(types=types) as store:
        uses: list[Callable[[], object]] = [
            types.check,
            lambda: store.append("a", Placed(1, "E"), expected_version=0),
            lambda: store.read_all(event_types={Placed}),
            lambda: types.value_of(placed()),
        ]
        for use in uses:
            text = refused(use)
            assert "'Placed' is of version 4, and has no upcaster from version 1; " in text
            assert "has no upcaster from version 3; " in text
            assert "from version 2" not in text
            assert "Unfinished refers to a class that is not there" in text
            assert "upcaster of 'Unknown', which is not registered" in text
        assert store.last_sequence() == 0


def test_a_class_may_refer_to_one_that_comes_later(monkeypatch: pytest.MonkeyPatch) -> None:
    types = EventTypes()
    types.event("Unfinished")(Unfinished)
    monkeypatch.setitem(globals(), "NotThereYet", Placed)
    event = types.to_event(Unfinished(Placed(1, "E")), actor_id="a")
    assert event.value == Unfinished(Placed(1, "E"))


def test_types_are_added_while_others_are_used() -> None:
    types = typed()
    assert types.value_of(placed(data={"count": 1})) == Placed(1, "EUR")
    with pytest.raises(UnknownEventTypeError):
        types.value_of(Event(event_type="Nothing", actor_id="a"))
    assert types.event("Nothing")(Nothing) is Nothing
    assert types.value_of(Event(event_type="Nothing", actor_id="a")) == Nothing()


@pytest.mark.concurrent
def test_threads_may_register() -> None:
    types, taken = EventTypes(), list[str]()

    def register(number: int) -> None:
        for at in range(50):
            try:
                types.event(f"T{at}")(type(f"C{number}", (Nothing,), {}))
                taken.append(f"T{at}")
            except InvalidOptionError:
                pass
            types.names()

    threads = [threading.Thread(target=register, args=(number,)) for number in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(taken) == sorted(types.names()) == sorted(f"T{at}" for at in range(50))


def test_it_is_collected() -> None:
    gone = weakref.ref(class_of_events(typed()))
    gc.collect()
    assert gone() is None
    assert repr(typed()) == "<EventTypes Cancelled 1, Placed 3, Refunded 1>"


# -- writing and reading


class Colour(Enum):
    RED = "red"


@dataclass(frozen=True)
class Rich:
    moment: datetime
    day: date
    span: timedelta
    id: UUID
    price: Decimal
    raw: bytes
    colour: Colour
    tags: frozenset[str]
    pair: tuple[int, str]
    by_day: dict[date, int] = field(default_factory=dict)
    more: Placed | None = None


RICH = Rich(
    datetime(2026, 1, 2, 3, 4, 5, 6, UTC), date(2026, 1, 2), timedelta(seconds=1.5), UUID(int=7), Decimal("1.50"), b"x",
    Colour.RED, frozenset({"a"}), (1, "x"), {date(2026, 1, 2): 3}, Placed(1, "E"),
)  # fmt: skip


def test_a_value_comes_back_as_it_was() -> None:
    types = EventTypes()
    types.event("Rich")(Rich)
    with InMemoryEventStore(types=types) as store:
        store.append("a", RICH, expected_version=0)
        assert store.get_events("a")[0].value == RICH


def test_attrs_classes() -> None:
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Shipped:
        weight: float
        to: str = "home"

    types = EventTypes()
    types.event("Shipped")(Shipped)
    assert types.to_event(Shipped(1.5), actor_id="a").value == Shipped(1.5)


def test_an_attrs_class_with_a_private_field_is_refused() -> None:
    """msgspec leaves that field out of what it writes, and says nothing."""
    attrs = pytest.importorskip("attrs")

    @attrs.define
    class Shipped:
        weight: float
        _discount: int = 0

    for cls in (Shipped, make_dataclass("Order", [("parts", list[Shipped])])):
        with pytest.raises(InvalidOptionError, match="_discount of the attrs class Shipped would not be written"):
            EventTypes().event("T")(cls)


def test_a_private_field_of_a_dataclass_is_stored() -> None:
    shipped = make_dataclass("Shipped", [("weight", float), ("_discount", int, 0)])
    types = EventTypes()
    types.event("T")(shipped)
    assert types.to_event(shipped(1.5, 3), actor_id="a").value == shipped(1.5, 3)


def test_to_event() -> None:
    types, cause = typed(), Event(event_type="T", actor_id="b", metadata={"userId": "u", "schemaVersion": "7"})
    event = types.to_event(
        Placed(1, "E"), actor_id="a", version=3, command_id="c", metadata={"x": "y"}, caused_by=cause
    )
    assert (event.actor_id, event.version, event.command_id, event.event_type) == ("a", 3, "c", "Placed")
    assert event.metadata["x"] == "y"
    assert (event.causation_id, event.correlation_id, event.user_id) == (cause.id, cause.id, "u")
    assert event.metadata["schemaVersion"] == "3"
    assert "schemaVersion" not in types.to_event(Cancelled(), actor_id="a", metadata={"schemaVersion": "9"}).metadata
    assert types.to_event({"amount": 1, "notes": {}}, kind=Refunded, actor_id="a").data == {"amount": 1, "notes": {}}


class Cyclic(msgspec.Struct):
    other: "Cyclic | None" = None


@dataclass
class Loose:
    anything: Any


@dataclass
class Checked:
    n: int

    def __post_init__(self) -> None:
        if self.n < 0:
            raise KeyError("negative")


def test_values_that_are_refused() -> None:
    types = typed()
    for cls in (Cyclic, Loose, Checked):
        types.event(cls.__name__)(cls)
    cycle, negative = Cyclic(), Checked(1)
    cycle.other, negative.n = cycle, -1
    make = types.to_event
    assert "contains itself" in refused(lambda: make(cycle, actor_id="a"), EncodingError)
    assert "Loose cannot be written" in refused(lambda: make(Loose(object()), actor_id="a"), EncodingError)
    assert "KeyError: 'negative'" in refused(lambda: make(negative, actor_id="a"), InvalidEventError)
    assert "pass that as kind=" in refused(lambda: make({"amount": 1}, actor_id="a"), InvalidEventError)
    assert "register it with" in refused(lambda: make(3, actor_id="a"), InvalidEventError)
    assert "register it with" in refused(lambda: make(3, actor_id="a", kind=[]), InvalidEventError)  # type: ignore[arg-type]
    wrong = {"amount": "x"}
    assert "$.amount" in refused(lambda: make(wrong, kind=Refunded, actor_id="a"), InvalidEventError)
    assert "actor_id" in refused(lambda: make(Cancelled(), actor_id=""), InvalidEventError)
    assert "metadata" in refused(lambda: make(Cancelled(), actor_id="a", metadata=3), InvalidEventError)  # type: ignore[arg-type]
    assert "an Event is wanted" in refused(lambda: make(Cancelled(), actor_id="a", caused_by=3), InvalidEventError)  # type: ignore[arg-type]
    assert "an Event is wanted" in refused(lambda: types.value_of(3), InvalidEventError)  # type: ignore[arg-type]
    with InMemoryEventStore(types=types) as store:
        refused(lambda: store.append("a", Loose(float("nan")), expected_version=0), EncodingError)
        assert store.last_sequence() == 0


@pytest.mark.parametrize("version", ["", "0", "-1", "x", "1.0", "٣", "9" * 30, " 2"])
def test_a_version_that_is_none(version: str) -> None:
    text = refused(lambda: typed().value_of(placed(metadata={"schemaVersion": version})), EventTypeError)
    assert "which is no version" in text


def test_unknown_events_pass_if_so_wished() -> None:
    types = typed("pass")
    newer = placed(metadata={"schemaVersion": "4"})
    other = Event(event_type="Other", actor_id="a", metadata={"schemaVersion": "x"})
    assert types.value_of(newer) is newer
    assert types.value_of(other) is other
    assert (types.knows(newer), types.knows(other), types.knows(placed())) == (False, False, True)
    with pytest.raises(EventTypeError):
        types.value_of(placed(data={"count": "x"}))


def test_an_upcaster_has_a_dict_of_its_own() -> None:
    types = EventTypes()
    types.event("Placed", version=2)(Placed)
    seen = []

    @types.upcast("Placed", version=1)
    def change(data: dict[str, Any]) -> dict[str, Any]:
        seen.append(data)
        data["lines"].clear()
        return {"qty": data.pop("n"), "currency": "EUR"}

    event = placed(data={"n": 1, "lines": [{"a": 1}]})
    assert types.value_of(event) == types.value_of(event) == Placed(1, "EUR")
    assert event.data == {"n": 1, "lines": [{"a": 1}]}
    assert seen[0] is not seen[1]
    assert types.upcasted(event).data == {"qty": 1, "currency": "EUR"}


@pytest.mark.parametrize("returned", [None, [], "x", 3, {"qty": "x"}, {}, {1: 2}])
def test_an_upcaster_that_returns_nonsense(returned: Any) -> None:
    types = EventTypes()
    types.event("Placed", version=2)(Placed)
    types.upcast("Placed", version=1)(lambda _: returned)  # type: ignore[misc]
    event = placed(data={"n": 1})
    for read in (types.value_of, types.upcasted):
        text = refused(lambda: read(event), EventTypeError)  # noqa: B023
        assert "Placed" in text
        assert event.id in text


def test_an_upcaster_that_raises() -> None:
    types = EventTypes()
    types.event("Placed", version=2)(Placed)

    @types.upcast("Placed", version=1)
    def fail(data: dict[str, Any]) -> dict[str, Any]:
        raise KeyError("currency")

    with pytest.raises(EventTypeError, match="upcaster of 'Placed' from version 1 failed: KeyError") as caught:
        types.value_of(placed(data={"n": 1}))
    assert isinstance(caught.value.__cause__, KeyError)
    assert caught.value.event_id in str(caught.value)
    deep: Any = {}
    for _ in range(20_000):
        deep = {"a": deep}
    with pytest.raises(EventTypeError, match="nested too deeply"):
        types.value_of(placed(data=deep))


def test_upcasted() -> None:
    types = typed()
    first = types.upcasted(Event(actor_id="a", **old(1)))
    assert (first.data, first.metadata) == ({"qty": 1, "currency": "EUR"}, {"schemaVersion": "3"})
    renamed = types.upcasted(Event(event_type="Aborted", actor_id="a", data={"reason": "x", "more": 1}))
    assert (renamed.event_type, renamed.data, renamed.metadata) == ("Cancelled", {"reason": "x", "more": 1}, {})
    newest = types.to_event(Placed(1, "E"), actor_id="a")
    assert types.upcasted(newest) is newest
    other = Event(event_type="Other", actor_id="a")
    assert types.upcasted(other) is other


def test_a_value_without_data() -> None:
    assert typed().value_of(Event(event_type="Cancelled", actor_id="a", data=None)) == Cancelled()


def test_events_of_two_registries_are_equal() -> None:
    one, other = typed(), typed()
    event = one.to_event(Placed(1, "E"), actor_id="a")
    there = pickle.loads(pickle.dumps(event))
    same = other.upcasted(event)
    assert event == there == same
    assert hash(event) == hash(there)
    assert msgspec.json.encode(event) == msgspec.json.encode(there)
    assert msgspec.structs.asdict(event) == msgspec.structs.asdict(there)
    assert (repr(event), type(event).__name__, type(event).__module__) == (repr(there), "Event", "aether_sync.events")
    assert not gc.is_tracked(event)


def test_a_value_shares_nothing_with_its_event() -> None:
    event = Event(event_type="Refunded", actor_id="a", data={"amount": 1, "notes": {"deep": [1]}})
    types = typed()
    value = types.value_of(event)
    value["notes"]["deep"].append(2)
    assert types.value_of(event) == event.data == {"amount": 1, "notes": {"deep": [1]}}


def test_a_field_that_old_events_do_not_have_is_told_with_the_remedy() -> None:
    types = typed()

    @types.event("Shipped")
    @dataclass
    class Shipped:
        to: str
        weight: int

    def value(data: dict[str, Any]) -> object:
        return types.value_of(Event(event_type="Shipped", actor_id="a", data=data))

    advice = "missing required field `weight`. Give the class a new version, and upcast"
    assert advice in refused(lambda: value({"to": "x"}), EventTypeError)
    assert "new version" not in refused(lambda: value({"to": "x", "weight": "y"}), EventTypeError)
