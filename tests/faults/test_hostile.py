"""Input from those who mean harm: bytes that are no event and no protocol, floods, lies about who and where."""

import gc
import json
import logging
import os
import re
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aether_sync import (
    ConnectError,
    DecodingError,
    Event,
    InvalidNamespaceError,
    InvalidOptionError,
    NATSEventBus,
    NATSServer,
    flush_logs,
)
from aether_sync._codec.decoding import decode_envelope

from ..fuzz import decoder, fast_reader, namespaces, parser
from ..fuzz.run import corpus
from ..support.common import PATIENCE, UNIT, eventually, first_of, make_event, numbers
from ..support.fake_server import FakeServer
from ..support.raw import RawClient, forged

MakeBus = Callable[..., NATSEventBus]

few = settings(derandomize=True, max_examples=80, deadline=None)


@pytest.fixture
def raw(server: NATSServer) -> Iterator[RawClient]:
    with RawClient(server.port) as client:
        yield client


# -- the targets of the fuzzer, few times and always the same


@pytest.mark.parametrize("target", ["decoder", "fast_reader", "namespaces", "parser"])
def test_the_corpus_is_small_and_passes(target: str) -> None:
    inputs = corpus(target)
    assert 0 < sum(map(len, inputs)) < 7_000
    checks = {
        "decoder": decoder.check,
        "fast_reader": fast_reader.check,
        "namespaces": namespaces.check,
        "parser": parser.check,
    }
    for one in inputs:
        checks[target](one)


fragments = st.binary(max_size=8) | st.sampled_from([b"\r\n", b'"', b"{", b"[", b"\\", b"*", b".", b">", b"|", b"1e9"])


def mutated(originals: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes of which a few are cut out and a few put in."""

    @st.composite
    def mutate(draw: st.DrawFn) -> bytes:
        data = bytearray(draw(st.sampled_from(originals)))
        for _ in range(draw(st.integers(1, 5))):
            at = draw(st.integers(0, len(data)))
            data[at : at + draw(st.integers(0, 6))] = draw(fragments)
        return bytes(data)

    return mutate()


@few
@given(mutated(corpus("decoder")) | st.binary(max_size=60))
def test_bytes_that_claim_to_be_an_event(data: bytes) -> None:
    decoder.check(data)


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@few
@given(plain)
def test_json_of_any_shape_in_place_of_data(data: object) -> None:
    in_place_of_data = decoder.check(json.dumps(data).encode())[1]
    assert (in_place_of_data is not None) == (data is None or isinstance(data, dict))


@few
@given(mutated(corpus("namespaces")) | st.text(max_size=40).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_text_that_is_to_be_a_namespace(data: bytes) -> None:
    namespaces.check(data)


@few
@given(mutated(corpus("parser")))
def test_bytes_from_a_server_in_pieces(data: bytes) -> None:
    parser.check(data)


@pytest.mark.parametrize(
    "line",
    [
        b"-ERR\r\n", b"-ERR '\xff'\r\n", b"INFO nothing\r\n", b"INFO []\r\n",
        b"MSG a x 1\r\n", b"MSG a 1 1\xb2\r\n", b"what\r\n", b"\r\n",
        b"HMSG a 1 2\r\n", b"MSG a " + b"9" * 5000 + b" 1\r\n", b"INFO \xff\r\n", b"MSG a 1 999999999999\r\n",
    ],
    ids=lambda line: repr(line[:20]),
)  # fmt: skip
def test_a_line_that_cannot_be_read_ends_the_connection(line: bytes, caplog: pytest.LogCaptureFixture) -> None:
    small = b"MSG aether.events.n 1 %d\r\n%b\r\n" % (len(forged(1)), forged(1))
    client, target, counters = parser.feed([small + line + small])
    assert "not the NATS protocol" in str(client.lost.result())
    assert counters.snapshot()[0]["received"] == 1
    assert target.queue.stats().pending == 1
    target.queue.close()
    assert not caplog.records  # nats-py would have logged on the loop thread


@pytest.mark.parametrize(
    "unreadable",
    [b"HMSG aether.events.n 1 8 9\r\nNATS/1.0x\r\n", b"MSG aether.events.\xff 1 1\r\nx\r\n"],
    ids=["headers", "subject"],
)
def test_a_message_that_cannot_be_read_is_skipped(unreadable: bytes) -> None:
    small = b"MSG aether.events.n 1 %d\r\n%b\r\n" % (len(forged(1)), forged(1))
    client, target, counters = parser.feed([small + unreadable + small])
    assert (client.unread, str(client.lost.result())) == ([1], "nats: unexpected EOF")
    assert counters.snapshot()[0]["received"] == target.queue.stats().pending == 2
    target.queue.close()


def test_what_a_server_makes_a_client_keep_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("aether_sync._nats.parser.LONGEST_LINE", 1_000)
    pieces = [b"PUSH" * 25] * 100
    client, *_ = parser.feed(pieces)
    assert "not the NATS protocol" in str(client.lost.result())
    assert len(client._ps.buf) <= 1_100


# -- a whole link to a server that goes mad


@pytest.mark.fault
def test_a_server_that_goes_mad_is_left_at_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with FakeServer() as server, NATSEventBus(server.url, ping_interval=PATIENCE * 10) as bus, bus.subscribe("n"):
        for n, data in enumerate((b"-ERR\r\n", b"INFO []\r\n"), start=1):
            server.last.send(data)
            eventually(lambda n=n: bus.metrics().reconnects == n and bus.is_connected)
        assert "what the server sends is not the NATS protocol" in caplog.text
        bus.publish("n", make_event())
        bus.flush(PATIENCE)
        assert {record.name for record in caplog.records} == {"aether_sync"}


@pytest.mark.fault
@pytest.mark.parametrize(
    "info",
    first_of([{"connect_urls": ["[x"]}, {"max_payload": "much"}, {"connect_urls": [3]}, {"nonce": 3}]),
    ids=str,
)
def test_a_greeting_that_cannot_be_read_is_survived(info: dict[str, object]) -> None:
    with FakeServer() as server, NATSEventBus(server.url) as bus:
        good, server.info = server.info, info
        server.last.send(b"-ERR\r\n")
        eventually(lambda: len(server.peers) >= 3 or (bus.is_connected and bus.metrics().reconnects))
        server.info = good
        assert bus.wait_connected(PATIENCE)
        bus.publish("n", make_event())
        bus.flush(PATIENCE)


@pytest.mark.parametrize(
    "greeting", first_of([b'{"nonce":', b"x" * 200_000, b"[]", b"\xff"]), ids=lambda text: repr(text[:9])
)
def test_a_greeting_that_is_none_is_told(greeting: bytes) -> None:
    with FakeServer() as server:
        server.info = greeting
        bus = NATSEventBus(server.url, connect_timeout=0.4 * UNIT)
        with pytest.raises(ConnectError, match="it is no NATS server"):
            bus.start()
        bus.close()


# -- who may be where


@few
@given(text=st.text(st.one_of(st.sampled_from("ab.*> \0\t\r\n\u00a0\u2028é日"), st.characters()), max_size=8))
def test_nothing_that_is_published_reaches_another_subject(text: str, shared: "Shared") -> None:
    try:
        shared.bus.publish(text, make_event(7))
    except InvalidNamespaceError:
        return
    shared.bus.flush(PATIENCE)
    subject, _ = shared.raw.next_message()
    assert subject == f"{shared.prefix}.events.{text}"


class Shared:
    def __init__(self, bus: NATSEventBus, raw: RawClient, prefix: str) -> None:
        self.bus, self.raw, self.prefix = bus, raw, prefix


@pytest.fixture(scope="module")
def shared(server: NATSServer) -> Iterator[Shared]:
    with RawClient(server.port) as raw, NATSEventBus(server.url, prefix="hostile") as bus:
        raw.subscribe("hostile.>")
        raw.flush()
        yield Shared(bus, raw, "hostile")


@pytest.mark.parametrize("bad", ["a b", "a\r\nSUB x 1", "a\tb", "a.>", "a.*", ".a", "a.", "", "\ud800", "a\0"])
def test_no_argument_smuggles_a_command(bad: str, shared: Shared) -> None:
    bus = shared.bus
    with pytest.raises(InvalidNamespaceError):
        bus.publish(bad, make_event())
    if "*" not in bad and ">" not in bad:
        with pytest.raises(InvalidNamespaceError):
            bus.subscribe(bad)
        with pytest.raises(InvalidNamespaceError):
            NATSEventBus("nats://127.0.0.1:1", prefix=bad)
    if bad not in (".a", "a."):  # a dot means nothing there
        with pytest.raises(InvalidOptionError):
            bus.subscribe("n", queue_group=bad)


def test_an_outsider_with_this_nodes_own_id_is_taken_for_this_node(
    make_bus: MakeBus, raw: RawClient, prefix: str
) -> None:
    bus = make_bus()
    with bus.subscribe("n") as events, bus.subscribe("n", queue_group="g") as shared_ones:
        for n, node_id in enumerate([bus.node_id, "another"]):
            raw.publish(f"{prefix}.events.n", forged(n, node_id=node_id))
        raw.publish(f"{prefix}.events.n", b'{"node_id":"%b", nonsense' % bus.node_id.encode())
        spaced = re.sub(rb'^{"node_id":', b'{ "node_id" : ', forged(2, node_id=bus.node_id))
        raw.publish(f"{prefix}.events.n", spaced)
        raw.publish(f"{prefix}.events.n", forged(3))
        assert numbers([events.get(timeout=PATIENCE) for _ in range(2)]) == [1, 3]
        assert numbers([shared_ones.get(timeout=PATIENCE) for _ in range(4)]) == [0, 1, 2, 3]  # the server chose us
        assert events.get_batch(9, timeout=0) == []
        assert not events.closed
        assert bus.metrics().decode_errors == 1  # the group's: what begins as its own is not even read


def test_an_envelope_that_names_another_namespace_is_no_event(
    make_bus: MakeBus, raw: RawClient, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    with bus.subscribe("tenant-a.*") as events:
        for lie in ("tenant-b.x", "tenant-a.y", "tenant-a", "*", "", "tenant-a.x\n"):
            raw.publish(f"{prefix}.events.tenant-a.x", forged(0).replace(b'"n"', json.dumps(lie).encode(), 1))
        raw.publish(f"{prefix}.events.tenant-a.x", forged(1, "tenant-a.x"))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert bus.metrics().decode_errors == 6
        assert flush_logs(PATIENCE)
        assert "another namespace" in caplog.text
        assert len([record for record in caplog.records if "is no event" in record.getMessage()]) == 1


# -- too much


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def young_heap() -> None:
    """What other tests have left is not looked through by the collector, on whatever thread it runs.

    It stays so: pytest's own objects are frozen, too, and with those each collection of a later test takes long.
    """
    gc.collect()
    gc.freeze()


@pytest.mark.usefixtures("young_heap")
@pytest.mark.parametrize(
    ("content", "rounds", "at_most"),
    [("x" * 10_000, 100, 32), ([[[[[[[[]]]]]]]] * 600, 3, 96)],
    ids=["text", "brackets"],  # 2 bytes of text are a list of 64 bytes and more: encoded bytes are what is counted
)
def test_a_flood_takes_no_more_memory_than_was_granted(
    content: object, rounds: int, at_most: int, make_bus: MakeBus, raw: RawClient, prefix: str
) -> None:
    bus = make_bus()
    with bus.subscribe("flood.*", max_bytes=1 << 20) as drowned, bus.subscribe("calm") as calm:
        chunk = b""
        for n in range(100):
            payload = forged(n, "flood.n", data={"n": n, "content": content})
            chunk += b"PUB %b.events.flood.n %d\r\n%b\r\n" % (prefix.encode(), len(payload), payload)
        before = _resident()
        for _ in range(rounds):
            raw.send(chunk)
        raw.publish(f"{prefix}.events.calm", forged(1, "calm"))
        assert numbers([calm.get(timeout=PATIENCE)]) == [1]
        assert _resident() - before < at_most << 20
        stats = drowned.stats()
        assert stats.offered == 100 * rounds
        assert stats.pending_bytes <= 1 << 20
        assert stats.dropped_by_reason["max_bytes"] == stats.offered - stats.pending > 100
        assert bus.is_connected
        assert bus.metrics().reconnects == 0


def test_a_flood_of_rubbish_is_counted_and_said_once(
    make_bus: MakeBus, raw: RawClient, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    bus = make_bus()
    with bus.subscribe(">") as events:
        for n in range(10_000):
            raw.publish(f"{prefix}.events.r{n}", b"\x1b[2J rubbish")
        raw.publish(f"{prefix}.events.n", forged(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert bus.metrics().decode_errors == 10_000
        (interest,) = bus._interests.values()
        assert len(interest._routes) <= 4_096
        bus.close()
    assert "\x1b" not in caplog.text
    assert len([record for record in caplog.records if "is no event" in record.getMessage()]) == 1


@pytest.mark.parametrize("opening", first_of([b'[{"a":', b"[", b'{"a":']))
def test_eight_megabytes_of_nesting(opening: bytes) -> None:
    event = b'{"id":"1","eventType":"X","actorId":"a","timestamp":"2025-01-31T12:00:00Z","data":{"deep":%b'
    payload = b'{"node_id":"x","namespace_id":"n","event":' + event % (opening * (8_000_000 // len(opening)))
    with pytest.raises(DecodingError):
        decode_envelope(payload, "n")
    with (
        NATSServer(config="max_payload: 8388608") as server,
        NATSEventBus(server.url, prefix="t") as bus,
        bus.subscribe("n") as events,
        RawClient(server.port) as raw,
    ):
        raw.publish("t.events.n", payload)
        raw.publish("t.events.n", forged(1))
        assert numbers([events.get(timeout=PATIENCE)]) == [1]
        assert bus.metrics().decode_errors == 1


def test_an_event_that_is_large_is_shown_short(make_bus: MakeBus, raw: RawClient, prefix: str) -> None:
    bus = make_bus()
    with bus.subscribe("n") as events:
        long = "x" * 100_000
        raw.publish(
            f"{prefix}.events.n",
            forged(1, id=long, event_type=long, actor_id=f"{long}-\x1b[2J", metadata={long: long}, data={long: long}),
        )
        event = events.get(timeout=PATIENCE)
        assert isinstance(event, Event)
        assert len(repr(event)) < 2_000
        assert "\x1b" not in repr(event)
