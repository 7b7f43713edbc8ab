import collections
import contextlib
import copy
import dataclasses
import enum
import itertools
import json
import multiprocessing
import pickle
import random
import re
import sys
import threading
import types
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_sync import events
from aether_sync._codec import decoding, encoding
from aether_sync._codec import envelope as envelopes
from aether_sync._codec.decoding import decode_event, decode_run
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync.errors import AetherError, DecodingError, EncodingError, InvalidEventError, InvalidOptionError
from aether_sync.events import EVENT_STORED, Event, EventStored

from ..support.common import run_threads

NAMESPACE = "tenant-a.orders"
MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Real(float):
    pass


class Moment(datetime):
    pass


class Color(enum.StrEnum):
    RED = "red"


class Old(str, enum.Enum):  # noqa: UP042  # the shape of Django's TextChoices
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


class Plain(enum.Enum):
    TEXT = "text"
    PAIR = (1, "x")


class Settings(Mapping):
    def __init__(self, **values):
        self.values_ = values

    def __getitem__(self, key):
        return self.values_[key]

    def __iter__(self):
        return iter(self.values_)

    def __len__(self):
        return len(self.values_)


Point = collections.namedtuple("Point", "x y")


@dataclasses.dataclass
class Line:
    qty: int
    at: datetime | None = None
    key: uuid.UUID | None = None
    price: Decimal | None = None


def event(**fields):
    return Event(**{"event_type": "OrderPlaced", "actor_id": "order-1", **fields})


def over_the_wire(one):
    return decode_event(encode_event(one), NAMESPACE)


def envelope(text='"data":null', **changes):
    fields = {"id": "1", "eventType": "T", "actorId": "a-1", "timestamp": "2026-01-02T03:04:05Z", **changes}
    body = json.dumps({key: value for key, value in fields.items() if value is not ...})[1:-1]
    return f'{{"node_id":"n","namespace_id":"{NAMESPACE}","event":{{{body},{text}}}}}'.encode()


def decode_envelope(payload, namespace):
    """Read it, carefully and as one of a run, and see that both come to the same."""
    found, errors = [], []
    try:
        found.append(decoding.decode_envelope(payload, namespace))
    except DecodingError as error:
        errors.append(error)
    events_, kept = decode_run([payload], namespace, None, errors.append)
    assert kept == [payload] * len(found)
    assert outcome(events_) == outcome(one for _, one in found)
    assert len(errors) == 2 - 2 * len(found)
    assert len({str(error) for error in errors}) <= 1
    if errors:
        raise errors[0]
    return found[0]


def outcome(events_):
    return [
        (one._fact(), one.namespace, type(one), type(one.data), one.timestamp.tzinfo, repr(one.data)) for one in events_
    ]


def decoded(payload):
    return decode_envelope(payload, NAMESPACE)[1]


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


@pytest.mark.parametrize("kind", [3, "Line", object(), list["Nope"]])
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


# -- writing


def test_the_json_is_as_designed():
    one = event(
        id="1",
        version=3,
        data={"qty": 3, "é": None},
        command_id="c",
        metadata={"userId": "u"},
        timestamp=MOMENT,
        namespace="x",
    )
    assert (
        encode_event(one)
        == (
            '{"id":"1","eventType":"OrderPlaced","actorId":"order-1","commandId":"c","version":3,"data":{"qty":3,"é":null},'
            '"metadata":{"userId":"u"},"timestamp":"2026-01-02T03:04:05.678901Z"}'
        ).encode()
    )
    assert encode_event(event(id="1", timestamp=MOMENT.replace(microsecond=0))) == (
        b'{"id":"1","eventType":"OrderPlaced","actorId":"order-1","version":0,"data":null,"timestamp":"2026-01-02T03:04:05Z"}'
    )


def test_the_envelope_is_as_designed():
    writer = EnvelopeWriter('no"de')
    one = event(data={"qty": 3})
    payload = writer.write("é.b", encode_event(one))
    assert writer.own_mark == b'{"node_id":"no\\"de",'
    assert payload.startswith(writer.own_mark)
    assert list(json.loads(payload)) == ["node_id", "position", "namespace_id", "event"]
    assert json.loads(payload)["namespace_id"] == "é.b"
    node_id, received = decode_envelope(payload, "é.b")
    assert (node_id, received, received.namespace) == ('no"de', one, "é.b")


def test_positions_are_numbers_of_one_width_and_anything_else_of_that_name_is_read_over():
    writer = EnvelopeWriter("%d\n%")
    around = writer.around("a%s.b")
    payloads = [writer.write("a%s.b", encode_event(event(id=f"e{n}"))) for n in range(3)]
    assert [json.loads(payload)["position"] - 10**15 for payload in payloads] == [0, 1, 2]
    assert {len(payload) - len(encode_event(event(id="e0"))) for payload in payloads} == {around}
    for other in (b"-1", b'"x"', b"null", b"[[1]]", b"1e400", b"9" * 5000):
        forged_ = payloads[0].replace(b"%d" % 10**15, other)
        assert decode_envelope(forged_, "a%s.b")[1].id == "e0"
        assert decode_run([forged_], "a%s.b", None, pytest.fail)[0][0].id == "e0"
    without = payloads[0].replace(b'"position":%d,' % 10**15, b"")
    assert decode_run([without], "a%s.b", None, pytest.fail)[0][0].id == "e0"


def test_a_position_is_given_once():
    writer = EnvelopeWriter("n")
    taken = [set() for _ in range(4)]
    run_threads(*(lambda mine=mine: mine.update(next(writer.positions) for _ in range(20_000)) for mine in taken))
    assert len(set().union(*taken)) == 80_000


def test_the_writer_forgets_namespaces(monkeypatch):
    monkeypatch.setattr(envelopes, "_TEMPLATES_KEPT", 3)
    writer = EnvelopeWriter("n")
    for n in range(20):
        assert json.loads(writer.write(f"a.{n % 7}", b"1")) == {
            "node_id": "n",
            "position": 10**15 + n,
            "namespace_id": f"a.{n % 7}",
            "event": 1,
        }
        assert len(writer._templates) <= 3


KEY = uuid.UUID(int=5)
ARRIVES = [
    (None, None),
    (True, True),
    (0, 0),
    (-(2**63), -(2**63)),
    (2**53 + 1, 2**53 + 1),
    (10**100, 10**100),
    (1.5, 1.5),
    (1e300, 1e300),
    ("é\u2028\0😀", "é\u2028\0😀"),
    ("null NaN", "null NaN"),
    (Text("safe"), "safe"),
    (Color.RED, "red"),
    (Old.A, "a"),
    (Level.LOW, 1),
    (Plain.TEXT, "text"),
    (Plain.PAIR, [1, "x"]),
    (Whole(3), 3),
    (Real(2.5), 2.5),
    ((1, (2,)), [1, [2]]),
    (Point(1, 2), [1, 2]),
    ({"a": {"b": [{}]}}, {"a": {"b": [{}]}}),
    ({Text("k"): 1, Color.RED: 2, Old.A: Text("x")}, {"k": 1, "red": 2, "a": "x"}),
    (collections.OrderedDict(a=1), {"a": 1}),
    (collections.defaultdict(int, a=1), {"a": 1}),
    (collections.UserDict(a=Text("x")), {"a": "x"}),
    (types.MappingProxyType({"a": None}), {"a": None}),
    (Settings(a=(1,)), {"a": [1]}),
    (MOMENT, "2026-01-02T03:04:05.678901Z"),
    (MOMENT.replace(tzinfo=None), "2026-01-02T03:04:05.678901"),
    (MOMENT.replace(microsecond=0), "2026-01-02T03:04:05Z"),
    (MOMENT.astimezone(timezone(timedelta(hours=2))), "2026-01-02T05:04:05.678901+02:00"),
    (datetime(1880, 1, 1, tzinfo=ZoneInfo("Europe/Berlin")), "1879-12-31T23:06:32Z"),
    (Moment(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4, 5), "03:04:05"),
    (timedelta(days=1, seconds=1), "P1DT1S"),
    (KEY, str(KEY)),
    (Decimal("1.50"), "1.50"),
    (Decimal("1E+400"), "1E+400"),
]


@pytest.mark.parametrize(("value", "arrives"), ARRIVES, ids=lambda value: type(value).__name__)
def test_what_data_may_hold(value, arrives):
    expected = json.dumps(arrives)
    for data, wanted in (
        ({"a": value}, arrives),
        ({"a": [{"b": (value,)}]}, [{"b": [arrives]}]),
        ({"a": [value, Text("x")]}, [arrives, "x"]),
    ):
        received = over_the_wire(event(data=data))
        assert received.data == {"a": wanted}
        assert type(received.data) is dict
        assert json.loads(encode_event(event(data=data)))["data"] == {"a": wanted}
    assert json.dumps(over_the_wire(event(data={"a": value})).data["a"]) == expected
    if isinstance(value, Mapping):
        assert over_the_wire(event(data=value)).data == arrives


def nested(depth, leaf=None, kind=list):
    for _ in range(depth):
        leaf = [leaf] if kind is list else kind(a=leaf)
    return leaf


class Hostile(Settings):
    def __iter__(self):
        raise KeyError("mine")


LOOP: list[Any] = []
LOOP.append(LOOP)

REFUSED = [
    {1},
    frozenset(),
    b"x",
    bytearray(b"x"),
    memoryview(b"x"),
    float("nan"),
    float("inf"),
    -float("inf"),
    Real("nan"),
    Decimal("nan"),
    Decimal("sNaN"),
    Decimal("-Infinity"),
    "\ud800",
    Text("\udfff"),
    {"\ud800": 1},
    {1: 2},
    {None: 1},
    {b"a": 1},
    {("a",): 1},
    {1.5: 1},
    {KEY: 1},
    {date(2026, 1, 1): 1},
    {Level.LOW: 1},
    {"a": {1: 2}},
    object(),
    Line(1),
    Line,
    EventStored(event_id="", actor_id="", version=1, timestamp=1),
    msgspec.Raw(b"}"),
    msgspec.UNSET,
    collections.deque([1]),
    range(3),
    iter([]),
    1 + 2j,
    10**5000,
    LOOP,
    nested(300),
    nested(100_000),
    nested(300, kind=Settings),
    nested(300, kind=dict),
    Hostile(a=1),
    enum.Enum("E", {"A": b"x"}).A,
]


@pytest.mark.parametrize("value", REFUSED, ids=lambda value: type(value).__name__)
def test_what_data_may_not_hold(value):
    for data in (
        {"a": value},
        {"a": None, "b": [1, {"c": (value,)}]},
        types.MappingProxyType({"a": value}),
        {"a": [Text("x"), value]},
    ):
        with pytest.raises(EncodingError, match=r"event 'OrderPlaced' \('7'\): data") as raised:
            encode_event(event(id="7", data=data))
        assert len(str(raised.value)) < 4_000
    if isinstance(value, Mapping):
        with pytest.raises(EncodingError):
            encode_event(event(data=value))


def test_the_error_says_where():
    with pytest.raises(EncodingError, match=r"data\['lines'\]\[1\]\['tags'\] is of type set"):
        encode_event(event(data={"lines": [{}, {"tags": {"x"}}]}))
    with pytest.raises(EncodingError, match=r": data\['lines'\] has a key of type int"):
        encode_event(event(data={"lines": {1: 2}}))
    with pytest.raises(EncodingError, match=r": data has a key that has a lone surrogate"):
        encode_event(event(data={"\ud800": 2}))
    with pytest.raises(EncodingError, match=r"data\['a'\]\[2\] is NaN"):
        encode_event(event(data={"a": (1.0, None, float("nan"))}))


def test_nesting_up_to_the_limit_is_the_same_on_every_path():
    for leaf in (None, Text("x")):
        assert over_the_wire(event(data={"a": nested(199, leaf)})).data == {"a": nested(199, leaf)}
        with pytest.raises(EncodingError, match="200 levels"):
            encode_event(event(data={"a": nested(200, leaf)}))


@pytest.mark.parametrize("field", ["id", "event_type", "actor_id", "command_id", "metadata", "key"])
def test_lone_surrogates_outside_data(field):
    values = {"metadata": {"metadata": {"a": "\ud800"}}, "key": {"metadata": {"\ud800": "a"}}}
    with pytest.raises(EncodingError, match="surrogate"):
        encode_event(event(**values.get(field, {field: "x\ud800"})))


def test_the_maker_of_an_event_may_change_its_data_after_encoding():
    data = {"a": [1]}
    encoded = encode_event(event(data=data))
    data["a"].append(2)
    assert decode_event(encoded, "x").data == {"a": [1]}


@pytest.mark.concurrent
@pytest.mark.parametrize("leaf", ["x", Text("x")], ids=["fast", "careful"])
def test_data_that_another_thread_changes(leaf):
    inner: dict[str, Any] = {}
    items: list[Any] = []
    stop = threading.Event()

    def churn():
        for n in itertools.count():
            inner[f"k{n % 50}"] = [leaf] * (n % 5)
            inner.pop(f"k{(n * 7) % 50}", None)
            items.append({"a": leaf})
            if n % 100 == 0:
                items.clear()
            if stop.is_set():
                return

    thread = threading.Thread(target=churn)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(1_500):
            try:
                decode_event(encode_event(event(data={"inner": inner, "items": items})), "x")
            except EncodingError:
                pass
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)


json_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**80), 2**80),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)


def containers(leaves):
    return st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(keys, inner, max_size=3)
            | st.lists(inner, max_size=3).map(tuple)
        ),
        max_leaves=12,
    )


def as_json_has_it(value):
    if isinstance(value, dict):
        return {key: as_json_has_it(item) for key, item in value.items()}
    return [as_json_has_it(item) for item in value] if isinstance(value, list | tuple) else value


some_data = st.dictionaries(keys, containers(json_leaves), max_size=4)
moments = st.datetimes(timezones=st.just(UTC))
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
some_events = st.builds(
    Event,
    id=texts,
    event_type=texts,
    actor_id=texts,
    version=st.integers(0, 2**63 - 1),
    data=st.none() | some_data,
    timestamp=moments,
    command_id=texts | st.just(""),
    metadata=st.dictionaries(keys, texts, max_size=2),
)


@given(some_events)
def test_an_event_survives_the_wire(one):
    writer = EnvelopeWriter("n")
    received = over_the_wire(one)
    assert received == one.replace(data=as_json_has_it(one.data))
    assert json.loads(encode_event(one))["data"] == as_json_has_it(one.data)
    assert decode_envelope(writer.write(NAMESPACE, encode_event(one)), NAMESPACE) == ("n", received)
    assert received.timestamp.tzinfo is UTC
    assert encode_event(received) == encode_event(one)


rich_leaves = st.one_of(
    json_leaves,
    st.uuids(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.just(UTC)),
    st.decimals(allow_nan=False, allow_infinity=False),
)


@given(st.dictionaries(keys, containers(rich_leaves), max_size=4))
def test_the_fast_path_and_the_careful_one_write_the_same(data):
    one = event(data=data)
    assert encoding._is_json(data, 1)
    assert encode_event(one) == encoding._encode_carefully(one)


bad_leaves = st.sampled_from([float("nan"), float("inf"), b"", {1}, {1: 1}, object(), "\ud800", Decimal("nan")])


@given(st.dictionaries(keys, containers(json_leaves | bad_leaves), max_size=4))
def test_bad_leaves_are_found_wherever_they_are(data):
    def is_bad(value):
        if isinstance(value, dict):
            return any(not isinstance(key, str) for key in value) or any(map(is_bad, value.values()))
        if isinstance(value, list | tuple):
            return any(map(is_bad, value))
        return value is not None and (
            not isinstance(value, str | int | float) or value == "\ud800" or value - value != 0
            if isinstance(value, float)
            else not isinstance(value, str | int) or value == "\ud800"
        )

    if is_bad(data):
        with pytest.raises(EncodingError):
            encode_event(event(data=data))
    else:
        assert over_the_wire(event(data=data)).data == as_json_has_it(data)


# -- reading


GO = (
    (  # Go's encoding/json: struct fields in order, map keys sorted, <, >, & and U+2028 escaped, time.RFC3339Nano
        rb'{"node_id":"node-go-1","namespace_id":"tenant-a.orders","event":{"id":"evt-1","eventType":"OrderPlaced",'
        rb'"actorId":"order-1","version":3,"data":{"big":9007199254740993,'
        rb'"html":"\u003ca href=\"x\"\u003e\u0026","line":"a\u2028b",'
        rb'"name":"J\xc3\xbcrgen \xf0\x9f\x98\x80","price":12.5,"tags":["a",null],"tiny":1e-9,"huge":1e+21},'
        rb'"timestamp":"2026-01-02T05:04:05.123456789+02:00"}}'
    )
    .replace(rb"\xc3\xbc", "ü".encode())
    .replace(rb"\xf0\x9f\x98\x80", "😀".encode())
)


def test_what_go_writes():
    node_id, one = decode_envelope(GO, NAMESPACE)
    assert node_id == "node-go-1"
    assert one.namespace == NAMESPACE
    assert one == Event(
        id="evt-1",
        event_type="OrderPlaced",
        actor_id="order-1",
        version=3,
        data={
            "big": 2**53 + 1,
            "html": '<a href="x">&',
            "line": "a\u2028b",
            "name": "Jürgen 😀",
            "price": 12.5,
            "tags": ["a", None],
            "tiny": 1e-9,
            "huge": 1e21,
        },
        timestamp=datetime(2026, 1, 2, 3, 4, 5, 123456, tzinfo=UTC),
    )
    assert encode_event(one.replace(namespace="")) == encode_event(one)


def test_what_go_writes_of_a_bare_event():
    payload = (
        b'{"node_id":"g","namespace_id":"tenant-a.orders","event":{"id":"1","eventType":"T","actorId":"a","commandId":"c",'
        b'"version":0,"data":null,"metadata":{"correlationId":"x"},"timestamp":"0001-01-01T00:00:00Z"}}'
    )
    one = decoded(payload)
    assert (one.data, one.command_id, one.correlation_id) == (None, "c", "x")
    assert one.timestamp == datetime(1, 1, 1, tzinfo=UTC)
    assert over_the_wire(one) == one


def test_optional_and_unknown_keys():
    bare = decoded(
        b'{"x":[1],"event":{"timestamp":"2026-01-02T03:04:05Z","actorId":"a","eventType":"T","id":"1"},"namespace_id":"tenant-a.orders","node_id":""}'
    )
    assert (bare.version, bare.data, bare.command_id, bare.metadata) == (0, None, "", {})
    for extra in (
        '"namespace":"other"',
        '"namespace":5',
        '"namespace":{"a":[1]}',
        '"metadata":null',
        '"data":null',
        '"x":1e999',
        '"event_type":5',
        '"id":"0","id":"1"',
    ):
        one = decoded(envelope(extra))
        assert (one.namespace, one.metadata, one.id) == (NAMESPACE, {}, "1")
    assert decoded(envelope('"data":{"a":1},"data":{"b":2}')).data == {"b": 2}


SECRET = "s3cret"
numbers = itertools.count()


@pytest.mark.parametrize(
    "payload",
    [
        *[
            b"",
            b"null",
            b"[]",
            b"3",
            b'"x"',
            b"{}",
            b"{",
            b"\xff",
            b'{"node_id":"\xff"}',
            b"\xef\xbb\xbf{}",
            b"not json s3cret",
            b"NaN",
        ],
        *[envelope(**{key: value}) for key in ("id", "eventType", "actorId") for value in ("", ..., None, 3, [SECRET])],
        *[envelope(version=value) for value in (-1, 2**63, 2**64, 10**400, 1.5, 3.0, "3", None, True, SECRET)],
        *[
            envelope(f'"data":{text}')
            for text in (
                "[]",
                '"s3cret"',
                "3",
                "true",
                '{"s3cret":nan}',
                '{"s3cret":1e999}',
                '{"s3cret":"\\ud800"}',
                '{"a":1}}}',
            )
        ],
        *[
            envelope(f'"metadata":{text}')
            for text in ("[]", '{"s3cret":1}', '{"a":null}', '"s3cret"', '{"a":{"s3cret":1}}')
        ],
        *[envelope(commandId=value) for value in (3, None, [SECRET])],
        *[envelope(timestamp=value) for value in (..., None, 3, "", SECRET, [SECRET])],
        envelope() + b"x",
        envelope() + envelope(),
        envelope().replace(b"tenant-a.orders", b"tenant-b.s3cret"),
        envelope().replace(b'"tenant-a.orders"', b"5"),
        envelope().replace(b'"n"', b"null"),
        envelope().replace(b'"node_id":"n",', b""),
        envelope().replace(b'"namespace_id":"tenant-a.orders",', b""),
        b'{"node_id":"n","namespace_id":"tenant-a.orders"}',
        b'{"node_id":"n","namespace_id":"tenant-a.orders","event":null}',
        b'{"node_id":"n","namespace_id":"tenant-a.orders","event":[]}',
        envelope('"data":{"s3cret":' + "[" * 4_000_000 + "]" * 4_000_000 + "}"),
        b"[" * 8_000_000,
        b'{"event":' * 1_000_000,
        envelope('"data":{"s3cret":"' + "\\ud800" + '"}'),
        envelope('"data":{"s3cret":"').replace(b"s3cret", b"s3cret\xff"),
    ],
    ids=lambda payload: str(next(numbers)),
)
def test_what_is_no_event(payload):
    with pytest.raises(DecodingError) as raised:
        decode_envelope(payload, NAMESPACE)
    shown = f"{raised.value} {raised.value!r} {raised.value.__cause__!r}"
    assert SECRET not in shown
    assert len(shown) < 400


@given(st.binary(max_size=60))
def test_random_bytes_raise_nothing_else(payload):
    for decode in (decode_envelope, decode_event):
        with pytest.raises(DecodingError):
            decode(payload, NAMESPACE)


@given(st.data())
def test_mutated_envelopes_raise_nothing_else(data):
    payload = bytearray(GO)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(payload) - 1))
        cut = data.draw(st.integers(0, 3))
        payload[at : at + cut] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b'"', b"{", b"}", b"null", b"\\", b"-", b"9e9"])
        )
    try:
        node_id, one = decode_envelope(bytes(payload), NAMESPACE)
    except DecodingError as error:
        assert not re.search("Jürgen|node-go", str(error))  # noqa: PT017
    else:
        assert isinstance(node_id, str)
        assert one.replace() == one  # goes through the checks of the constructor
        assert over_the_wire(one) == one


def test_decoding_at_the_end_of_the_stack():
    def deeper():
        try:
            deeper()
        except RecursionError:
            pass
        try:
            decode_envelope(GO, NAMESPACE)
            encode_event(event(data={"a": [Text("x")]}))
        except (AetherError, RecursionError):
            pass

    deeper()


# -- timestamps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-01-02T03:04:05Z", (2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05.6Z", (2026, 1, 2, 3, 4, 5, 600000)),
        ("2026-01-02T03:04:05.678901Z", (2026, 1, 2, 3, 4, 5, 678901)),
        ("2026-01-02T03:04:05.999999999Z", (2026, 1, 2, 3, 4, 5, 999999)),
        ("2026-12-31T23:59:59.999999999+00:00", (2026, 12, 31, 23, 59, 59, 999999)),
        ("2026-01-02T03:04:05.0000009999999999999Z", (2026, 1, 2, 3, 4, 5, 0)),
        ("2026-01-02t03:04:05z", (2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05+02:00", (2026, 1, 2, 1, 4, 5)),
        ("2026-01-02T03:04:05.5-23:59", (2026, 1, 3, 3, 3, 5, 500000)),
        ("2026-01-02T03:04:05-00:00", (2026, 1, 2, 3, 4, 5)),
        ("2024-02-29T00:00:00Z", (2024, 2, 29)),
        ("0001-01-01T00:00:00Z", (1, 1, 1)),
        ("9999-12-31T23:59:59.999999999Z", (9999, 12, 31, 23, 59, 59, 999999)),
        ("0001-01-01T01:00:00+01:00", (1, 1, 1)),
    ],
)
def test_timestamps_read(text, expected):
    one = decoded(envelope(timestamp=text))
    assert one.timestamp == datetime(*expected, tzinfo=UTC)
    assert one.timestamp.tzinfo is UTC
    assert type(one.timestamp) is datetime


BAD_TIMESTAMPS = [
    *[
        "2026-01-02T03:04:05",
        "2026-01-02",
        "20260102T030405Z",
        "2026-W01-5T03:04:05Z",
        "2026-01-02T03:04Z",
        "2026-01-02T03Z",
    ],
    *[
        "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05,5Z",
        "2026-01-02T03:04:05.Z",
        "2026-01-02T03:04:05.5",
        "2026-01-02T03:04:05+02",
    ],
    *[
        "2026-01-02T03:04:05+0200",
        "2026-01-02T03:04:05+02:00:00",
        "2026-01-02T03:04:05+24:00",
        "2026-01-02T03:04:05+02:60",
    ],
    *[
        "2026-12-31T23:59:60Z",
        "2026-01-02T24:00:00Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "0000-01-01T00:00:00Z",
    ],
    *[
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
        "2026-01-02T03:04:05Z ",
        " 2026-01-02T03:04:05Z",
        "2026-01-02T03:04:05ZZ",
    ],
    *[
        "2026-01-02T03:04:05.12x4567Z",
        "2026-01-02T03:04:05.1234567x9Z",
        "2026-01-02T03:04:05.123456 Z",
        "2026-01-02T03:04:05.1+02:00Z",
    ],
    *[
        "\uff12\uff1026-01-02T03:04:05Z",
        "2026-01-02T03:04:05.1\uff123Z",
        "2026-01-02é03:04:05Z",
        "2026-01-02T03:04:05é5Z",
        "-026-01-02T03:04:05Z",
        "1767323045",
    ],
    *[
        "2026-01-02T03:04:05.1234567\u0661Z",
        "2026-01-02T03:04:05.123\n",
        "2026-01-02T03:04:05Z\n",
        "",
        "Z",
        "2026-01-02T-3:04:05.5Z",
    ],
]


@pytest.mark.parametrize("text", BAD_TIMESTAMPS)
def test_what_is_no_timestamp(text):
    with pytest.raises(DecodingError, match="timestamp") as raised:
        decoded(envelope(timestamp=text))
    assert len(text) < 10 or text not in str(raised.value)


SHAPE = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?([Zz]|[+-][0-9]{2}:[0-9]{2})\Z"
)


def model_timestamp(text):
    """RFC 3339, section 5.6, by its own arithmetic; None for what it is not, or what datetime does not have."""
    found = SHAPE.match(text)
    if not found:
        return None
    *numbers, fraction, offset = found.groups()
    shift = timedelta(0)
    if offset not in "Zz":
        hours, minutes = int(offset[1:3]), int(offset[4:])
        if hours > 23 or minutes > 59:
            return None
        shift = timedelta(hours=hours, minutes=minutes) * (-1 if offset[0] == "-" else 1)
    try:
        moment = datetime(*map(int, numbers), int((fraction or "0")[:6].ljust(6, "0")), tzinfo=UTC)
        return moment - shift
    except (ValueError, OverflowError):
        return None


@settings(max_examples=500)
@given(st.data())
def test_timestamps_agree_with_a_model(data):
    moment = data.draw(st.datetimes())
    digits = data.draw(st.text("0123456789", max_size=12))
    offset = data.draw(
        st.sampled_from(["Z", "z", "+00:00", "-00:00", "+02:00", "-11:30", "+23:59", "+24:00", "+0200", ""])
    )
    text = (
        moment.strftime(data.draw(st.sampled_from(["%Y-%m-%dT%H:%M:%S", "%G-W%V-%uT%H:%M:%S", "%Y%m%dT%H%M%S"])))
        + (f".{digits}" if digits else "")
        + offset
    )
    for _ in range(data.draw(st.integers(0, 2))):
        at = data.draw(st.integers(0, len(text)))
        text = (
            text[:at]
            + data.draw(st.sampled_from("0169-:.TtZzW+, \u0661é\0"))
            + text[at + data.draw(st.integers(0, 1)) :]
        )
    expected = model_timestamp(text)
    try:
        read = decoding._read_timestamp(text)
    except ValueError:
        read = None
    assert read == expected
    assert read is None or read.tzinfo is UTC


STAMP = rb'"timestamp":"2026-01-02T03:04:05.678901Z"'
TIMES = [
    *("03:04:05.678901Z", "03:04:05.1Z", "03:04:05.6789019Z", "03:04:05.678901999Z", "03:04:05Z", "03:04:60.000001Z"),
    *("03:04:05.678901z", "03:04:05+01:00", "03:04:05.67+01:00", "24:00:00.000000Z", "03:04:05,678901Z"),
]
MORE = [
    *(b'"metadata":null', b'"namespace":"x"', b'"version":-1', b'"id":""', b'"data":[]', b'"event":{}', b'"node_id":3'),
    *(
        b'"commandId":null',
        b'"metadata":{"a":1}',
        b'"namespace_id":"x"',
        STAMP,
        b'"x":{%b}' % STAMP,
        b"\xff",
        b'"',
        b"}",
    ),
]


def other_payloads():
    payload = EnvelopeWriter("n").write(NAMESPACE, encode_event(event(timestamp=MOMENT, metadata={"a": "b"})))
    for between, rest in itertools.product("Tt x", TIMES):
        yield payload.replace(STAMP, f'"timestamp":"2026-01-02{between}{rest}"'.encode())
    for at in range(len(payload) - 60, len(payload) + 1):
        yield from (payload[:at] + bytes([byte]) + payload[at + 1 :] for byte in b' ,:{}"0TZz.-')
        yield from (payload[:at] + more + payload[at:] for one in MORE for more in (one, b"," + one, one + b","))
        yield payload[:at] + payload[at + 1 :]
    yield payload.replace(b"tenant-a", b"tenant-b")
    for stamp in (b"2026-01-02T03:04:05.6789019Z", b"2026-01-02T03:04:05+01:00"):
        yield payload.replace(STAMP, b'"timestamp":"%b",%b' % (stamp, STAMP.replace(b"tim", b"Tim")))
        yield payload.replace(STAMP, b'"timestamp":"%b"  ' % stamp)


def test_a_run_is_read_as_each_of_it_is() -> None:
    payloads = list(other_payloads())
    good = []
    for payload in payloads:
        with contextlib.suppress(DecodingError):
            good.append(decode_envelope(payload, NAMESPACE)[1])
    refused: list[DecodingError] = []
    events_, kept = decode_run(payloads, NAMESPACE, None, refused.append)
    assert outcome(events_) == outcome(good)
    assert len(kept) == len(good) == len(payloads) - len(refused)
    assert 100 < len(good) < len(payloads) - 100


def test_a_run_leaves_a_node_out() -> None:
    quick = [EnvelopeWriter(name).write(NAMESPACE, encode_event(event(id=name, timestamp=MOMENT))) for name in "aba"]
    careful = [payload.replace(b'"}}', b'" }}') for payload in quick]
    events_, kept = decode_run([*quick, *careful], NAMESPACE, "a", pytest.fail)
    assert [one.id for one in events_] == ["b", "b"]
    assert kept == [quick[1], careful[1]]


def test_the_quick_way_reads_the_fields_of_an_event_in_their_order():
    assert decoding._Ready.__struct_fields__ == Event.__struct_fields__
    one = decoded(EnvelopeWriter("n").write(NAMESPACE, encode_event(event(timestamp=MOMENT, data={"a": [1]}))))
    assert type(one) is Event
    assert pickle.loads(pickle.dumps(one)) == copy.copy(one) == one.replace() == one
    assert msgspec.json.decode(msgspec.json.encode(one))["namespace"] == NAMESPACE
    with pytest.raises(InvalidEventError):
        one.replace(version=-1)
    with pytest.raises(AttributeError):
        one.version = 3


def test_names():
    assert events.__all__ == ["EVENT_STORED", "MAX_VERSION", "Event", "EventStored"]
    assert decoding.__all__ == ["decode_envelope", "decode_event", "decode_run", "decode_stored"]
    assert encoding.__all__ == ["encode_and_copy", "encode_event", "encode_read"]
    assert envelopes.__all__ == ["FIRST_POSITION", "POSITION_ENDS", "POSITION_MARK", "EnvelopeWriter"]
