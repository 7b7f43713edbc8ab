"""Writing events: what JSON has, what it has not, and that both ways of writing agree."""

import collections
import enum
import itertools
import json
import sys
import threading
import types
import uuid
from collections.abc import Mapping
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aether_sync._codec import encoding
from aether_sync._codec import envelope as envelopes
from aether_sync._codec.decoding import decode_event, decode_run
from aether_sync._codec.encoding import encode_and_copy, encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync.errors import EncodingError
from aether_sync.events import Event, EventStored

from ..support.common import run_threads
from ..support.values import (
    MOMENT,
    NAMESPACE,
    Color,
    Line,
    Moment,
    Settings,
    Text,
    Whole,
    decode_envelope,
    event,
    over_the_wire,
)


class Real(float):
    pass


class Old(str, enum.Enum):  # noqa: UP042  # the shape of Django's TextChoices
    A = "a"


class Level(enum.IntEnum):
    LOW = 1


class Plain(enum.Enum):
    TEXT = "text"
    PAIR = (1, "x")


Point = collections.namedtuple("Point", "x y")


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


@pytest.mark.parametrize("encode", [encode_event, lambda one: encode_and_copy(one, "n")])
def test_metadata_that_was_changed_into_something_else(encode):
    changed = event(metadata={"userId": "u"})
    changed.metadata["userId"] = 1
    with pytest.raises(EncodingError, match="it was changed: metadata"):
        encode(changed)


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
