"""Reading events and envelopes, whoever wrote them; and timestamps, there and back."""

import contextlib
import copy
import itertools
import pickle
import re
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_sync import events
from aether_sync._codec import decoding, encoding
from aether_sync._codec import envelope as envelopes
from aether_sync._codec.decoding import decode_event, decode_run, decode_stored, decode_stored_run
from aether_sync._codec.encoding import encode_event
from aether_sync._codec.envelope import EnvelopeWriter
from aether_sync.errors import AetherError, DecodingError, InvalidEventError
from aether_sync.events import Event

from ..support.values import (
    MOMENT,
    NAMESPACE,
    Text,
    decode_envelope,
    decoded,
    envelope,
    event,
    outcome,
    over_the_wire,
)

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
            decoding.decode_envelope(GO, NAMESPACE)
            decode_run([GO], NAMESPACE, None, [].append)
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


@settings(max_examples=150)
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


def test_a_run_of_stored_events_is_read_as_each_of_it_is() -> None:
    stored = encode_event(event(timestamp=MOMENT, metadata={"a": "b"}))
    payloads = [payload[payload.index(b'{"id"') :].removesuffix(b"}") for payload in other_payloads()]
    payloads += [stored[:at] + stored[at + 1 :] for at in range(len(stored))]
    assert decode_stored_run([stored]) == [decode_stored(stored)]
    assert [type(one) for one in decode_stored_run([stored, b"", stored])] == [Event, DecodingError, Event]
    read, found = [], decode_stored_run(payloads)
    for payload in payloads:
        try:
            read.append(decode_stored(payload))
        except DecodingError as error:
            read.append(error)
    assert [one if isinstance(one, Event) else str(one) for one in found] == [
        one if isinstance(one, Event) else str(one) for one in read
    ]
    assert outcome([one for one in found if isinstance(one, Event)]) == outcome(
        [one for one in read if isinstance(one, Event)]
    )
    assert 100 < sum(isinstance(one, Event) for one in found) < len(found) - 100


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
    assert events.__all__ == [
        "ANNOUNCEMENTS",
        "EVENT_STORED",
        "MAX_VERSION",
        "PROJECTION_ADVANCED",
        "CarriedMetadata",
        "Event",
        "EventStored",
        "ProjectionAdvanced",
        "Types",
        "event_class",
        "made_of",
    ]
    assert decoding.__all__ == [
        "decode_envelope",
        "decode_event",
        "decode_run",
        "decode_stored",
        "decode_stored_run",
        "is_not_utf8",
    ]
    assert encoding.__all__ == ["encode_and_copy", "encode_event", "encode_read"]
    assert envelopes.__all__ == ["FIRST_POSITION", "POSITION_ENDS", "POSITION_MARK", "EnvelopeWriter"]
