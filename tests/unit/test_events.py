"""Events: what they are made of, their metadata, and reading their data as typed values."""

import copy
import dataclasses
import multiprocessing
import pickle
import random
import re
import types
import uuid
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pytest

from aether_sync.errors import DecodingError, InvalidEventError, InvalidOptionError
from aether_sync.events import EVENT_STORED, Event, EventStored

from ..support.values import (
    MOMENT,
    NAMESPACE,
    Color,
    Line,
    Moment,
    Settings,
    Text,
    Whole,
    decoded,
    envelope,
    event,
    over_the_wire,
)

# -- an event


def test_an_event_fills_in_what_is_left_out():
    before = datetime.now(UTC)
    one, other = event(), event()
    assert re.fullmatch("[0-9a-f]{32}", one.id)
    assert one.id != other.id
    assert before <= one.timestamp <= datetime.now(UTC)
    assert (one.version, one.data, one.command_id, one.metadata, one.namespace) == (0, None, "", {}, "")
    assert one.timestamp.tzinfo is UTC


def test_an_event_is_frozen_and_takes_keywords_only():
    with pytest.raises(AttributeError):
        event().version = 3
    with pytest.raises(TypeError):
        Event("OrderPlaced", "order-1")
    with pytest.raises(TypeError):
        event(versoin=1)
    with pytest.raises(TypeError):
        Event(event_type="x")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[(name, value) for name in ("id", "event_type", "actor_id") for value in ("", None, 3, b"x")],
        *[("command_id", value) for value in (None, 3, b"")],
        *[("namespace", value) for value in (None, 3)],
        *[("version", value) for value in (-1, 2**63, 2**80, True, False, 1.0, "1", None)],
        *[("data", value) for value in ([], (), "", "x", 0, {1}, object())],
        *[("timestamp", value) for value in (None, "2026-01-02T03:04:05Z", 0, datetime(2026, 1, 2), date(2026, 1, 2))],
        ("timestamp", datetime.min.replace(tzinfo=timezone(timedelta(hours=1)))),
        ("timestamp", datetime.max.replace(tzinfo=timezone(timedelta(hours=-1)))),
        *[("metadata", value) for value in (None, [], "", {"a": 1}, {1: "a"}, {"a": None}, {b"a": "b"})],
    ],
)
def test_wrong_values_name_the_field(field, value):
    with pytest.raises(InvalidEventError, match=f"^(a )?{field}"):
        event(**{field: value})
    if field != "metadata":
        with pytest.raises(InvalidEventError, match=f"^(a )?{field}"):
            event(metadata={"a": "b"}, **{field: value})


def test_subclasses_become_the_plain_type():
    one = event(
        id=Text("i"),
        event_type=Color.RED,
        actor_id=Text("a"),
        version=Whole(3),
        command_id=Text("c"),
        metadata=Settings(x=Text("y")),
    )
    fields = (one.id, one.event_type, one.actor_id, one.command_id, one.metadata["x"], one.version)
    assert fields == ("i", "red", "a", "c", "y", 3)
    assert [type(field) for field in fields] == [str] * 5 + [int]
    assert type(one.metadata) is dict
    assert event(version=2**63 - 1).version == 2**63 - 1


@pytest.mark.parametrize(
    "stamp",
    [
        datetime(2026, 1, 2, 5, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
        datetime(2026, 1, 2, 4, 4, 5, 678901, tzinfo=ZoneInfo("Europe/Berlin")),
        Moment(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        Moment(2026, 1, 2, 5, 4, 5, 678901, tzinfo=timezone(timedelta(hours=2))),
    ],
)
def test_timestamps_are_kept_in_utc(stamp):
    kept = event(timestamp=stamp).timestamp
    assert kept == MOMENT
    assert kept.tzinfo is UTC
    assert type(kept) is datetime


def test_the_second_time_the_clock_shows_half_past_two_is_another_moment():
    berlin = ZoneInfo("Europe/Berlin")
    first, second = (datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1))
    assert event(timestamp=second).timestamp - event(timestamp=first).timestamp == timedelta(hours=1)


def test_an_event_does_not_follow_the_metadata_it_was_made_of():
    for metadata in ({}, {"a": "b"}):
        one = event(metadata=metadata)
        metadata["c"] = "d"
        assert "c" not in one.metadata


def test_data_is_not_copied():
    data = {"qty": 3}
    assert event(data=data).data is data


def test_events_are_equal_by_value_wherever_they_were_received():
    one = event(data={"qty": 3}, timestamp=MOMENT)
    twin = one.replace(namespace="elsewhere")
    assert one == twin
    assert not one != twin  # noqa: SIM202
    assert hash(one) == hash(twin)
    assert len({one, twin}) == 1
    changes = {
        "id": "x",
        "event_type": "x",
        "actor_id": "x",
        "version": 9,
        "data": {},
        "command_id": "x",
        "metadata": {"a": "b"},
        "timestamp": MOMENT + timedelta(microseconds=1),
    }
    for field, value in changes.items():
        assert one != one.replace(**{field: value}), field
        assert not one == one.replace(**{field: value}), field  # noqa: SIM201
    assert one != "x"
    assert one.replace(namespace="elsewhere").namespace == "elsewhere"
    with pytest.raises(InvalidEventError):
        one.replace(version=-1)


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, *(lambda one, p=p: pickle.loads(pickle.dumps(one, p)) for p in range(2, 6))]
)
def test_an_event_can_be_copied_and_pickled(duplicate):
    one = event(data={"a": [1]}, metadata={"a": "b"}, timestamp=MOMENT, namespace=NAMESPACE)
    twin = duplicate(one)
    assert twin == one
    assert twin.namespace == NAMESPACE
    received = over_the_wire(one)
    assert duplicate(received) == received
    assert duplicate(received).namespace == NAMESPACE


def test_ids_differ_after_a_fork():
    context = multiprocessing.get_context("fork")
    with context.Pool(2) as pool:
        ids = pool.map(_made_id, range(8))
    assert len({*ids, event().id}) == 9


def test_ids_do_not_follow_a_seed():
    ids = []
    for _ in range(2):
        random.seed(1)
        ids.append(event().id)
    assert len(set(ids)) == 2


def _made_id(_):
    return event().id


def test_the_repr_is_short_whatever_the_data():
    shown = repr(event(id="1", version=3, data={"qty": 3}, timestamp=MOMENT))
    assert shown == (
        "Event(event_type='OrderPlaced', actor_id='order-1', version=3, data={'qty': 3}, id='1', "
        "timestamp=2026-01-02T03:04:05.678901+00:00)"
    )
    assert "namespace='x'" in repr(event(namespace="x"))

    class Broken:
        def __repr__(self):
            raise RuntimeError

    cycle: dict[str, Any] = {}
    cycle["self"] = cycle
    everything: list[Any] = [
        {str(n): "x" * 1000 for n in range(100_000)},
        {"a": [[["x" * 99] * 999] * 999]},
        {"a": "x" * 10**7},
        {"a": Broken()},
        {"a": 10**5000},
        {1: 1, "b": 2},
        cycle,
        Settings(a=1),
        types.MappingProxyType({"a": "x" * 10**6}),
    ]
    for data in everything:
        assert len(repr(event(data=data))) < 500
    assert len(repr(event(event_type="x" * 10**6, actor_id="x" * 10**6, id="x" * 10**6, namespace="x" * 10**6))) < 500


# -- metadata


def test_well_known_metadata_are_properties():
    one = event(metadata={"correlationId": "1", "causationId": "2", "userId": "3", "traceId": "4", "spanId": "5"})
    assert (one.correlation_id, one.causation_id, one.user_id, one.trace_id, one.span_id) == ("1", "2", "3", "4", "5")
    bare = event()
    assert (bare.correlation_id, bare.causation_id, bare.user_id, bare.trace_id, bare.span_id) == ("",) * 5


def test_with_metadata_merges():
    one = event(metadata={"userId": "3", "x": "y"})
    other = one.with_metadata(user_id=None, trace_id="4", causationId="2", **{"any key": "z"})
    assert other.metadata == {"x": "y", "traceId": "4", "causationId": "2", "any key": "z"}
    assert one.metadata == {"userId": "3", "x": "y"}
    assert (other.id, other.timestamp) == (one.id, one.timestamp)
    assert one.with_metadata(nothing=None) == one
    with pytest.raises(InvalidEventError, match="metadata"):
        one.with_metadata(user_id=3)


def test_a_following_event_carries_the_conversation_on():
    first = event(metadata={"userId": "u", "traceId": "t", "spanId": "s", "x": "y"})
    second = first.following(event_type="OrderPaid", actor_id="order-1", version=2, data={"a": 1}, command_id="c")
    assert second.metadata == {"correlationId": first.id, "causationId": first.id, "userId": "u", "traceId": "t"}
    assert (second.event_type, second.version, second.data, second.command_id) == ("OrderPaid", 2, {"a": 1}, "c")
    assert second.id != first.id
    third = second.following(event_type="T", actor_id="a", metadata={"userId": "other", "z": "1"})
    assert (third.correlation_id, third.causation_id, third.user_id) == (first.id, second.id, "other")
    assert third.metadata["z"] == "1"
    with pytest.raises(InvalidEventError):
        first.following(event_type="", actor_id="a")
    with pytest.raises(InvalidEventError):
        first.following(event_type="T", actor_id="a", metadata=3)


# -- typed data


def test_data_as():
    class Typed(TypedDict):
        qty: int

    class Struct(msgspec.Struct):
        qty: int

    key = uuid.uuid4()
    one = event(data={"qty": 3, "at": MOMENT, "key": key, "price": Decimal("1.50"), "more": 1})
    for each in (one, over_the_wire(one)):
        assert each.data_as(Line) == Line(3, MOMENT, key, Decimal("1.50"))
        assert each.data_as(Typed) == {"qty": 3}
        assert each.data_as(Struct) == Struct(3)
        assert each.data_as(dict) == each.data
    assert over_the_wire(event(data={"1": 2})).data_as(dict[int, int]) == {1: 2}
    assert event(data=types.MappingProxyType({"qty": Text("3")})).data_as(dict[str, str]) == {"qty": "3"}


@pytest.mark.parametrize("data", [{"qty": "3"}, {}, None, {"qty": 3.0}, {"qty": 3, "at": "yesterday"}])
def test_data_of_another_shape(data):
    with pytest.raises(DecodingError, match=r"'OrderPlaced' \('7'\) is no Line: ") as raised:
        event(id="7", data=data).data_as(Line)
    assert isinstance(raised.value.__cause__, msgspec.ValidationError)


def test_the_error_says_where_data_differs():
    @dataclasses.dataclass
    class Order:
        lines: list[Line]

    with pytest.raises(DecodingError, match=r"is no Order: .*`\$\.lines\[1\]\.qty`"):
        event(data={"lines": [{"qty": 1}, {"qty": "x"}]}).data_as(Order)


@pytest.mark.parametrize("kind", [3, "Line", object(), list["Nope"]])  # noqa: F821
def test_types_that_cannot_be(kind):
    with pytest.raises(InvalidOptionError, match="data_as"):
        event(data={}).data_as(kind)


def test_event_stored():
    stored = event(id="1", version=7, timestamp=MOMENT)
    told = EventStored.of(stored, sequence=42)
    assert (told.event_type, told.actor_id, told.version) == (EVENT_STORED, "order-1", 7)
    assert told.data == {"eventId": "1", "actorId": "order-1", "version": 7, "timestamp": 1767323045, "sequence": 42}
    assert told.id != stored.id
    expected = EventStored(event_id="1", actor_id="order-1", version=7, timestamp=1767323045, sequence=42)
    assert told.data_as(EventStored) == over_the_wire(told).data_as(EventStored) == expected
    assert "sequence" not in EventStored.of(stored).data
    assert EventStored.of(stored).data_as(EventStored).sequence is None
    assert (
        EventStored.of(stored.replace(timestamp=datetime(1969, 12, 31, 23, 59, 59, 1, tzinfo=UTC))).data["timestamp"]
        == -1
    )
    with pytest.raises(AttributeError):
        expected.version = 3


def test_event_stored_as_go_writes_it():
    payload = envelope(
        '"data":{"actorId":"order-1","eventId":"e","timestamp":1767323045,"version":9007199254740993,"extra":{}}'
    )
    assert decoded(payload).data_as(EventStored) == EventStored(
        event_id="e", actor_id="order-1", version=2**53 + 1, timestamp=1767323045
    )
    for number in ("3.0", "3e0", "0.3E1"):  # to who reads JSON into float64 all are the same
        stored = decoded(envelope(f'"data":{{"actorId":"a","eventId":"e","timestamp":1,"version":{number}}}'))
        assert type(stored.data_as(EventStored).version) is int
    for number in ("3.5", '"3"', "null"):
        with pytest.raises(DecodingError, match=r"\$\.version"):
            decoded(envelope(f'"data":{{"actorId":"a","eventId":"e","timestamp":1,"version":{number}}}')).data_as(
                EventStored
            )
