"""The fast reader, against nats-py's own parser: however a stream is cut, nothing is torn, lost or taken twice."""

import asyncio
import gc
import random
import sys
from collections.abc import Callable
from itertools import accumulate, pairwise
from typing import Any

import pytest
from hypothesis import strategies as st

from aether_sync import NATSEventBus, NATSServer
from aether_sync._nats import fast_reader as room
from aether_sync._nats.fast_reader import LARGEST_MESSAGE, FastReader

from ..fuzz import fast_reader as target
from ..fuzz.fast_reader import OTHERS, OURS, Incoming, Stock, check_against_nats_py, expected, take
from ..support.common import PATIENCE, first_of, make_event
from ..support.properties import for_all
from ..support.raw import RawClient, forged

MakeBus = Callable[..., NATSEventBus]

# -- streams


subjects = st.sampled_from(
    [b"a", b"aether.events.n", "aether.events.größe".encode(), b"x.y.z", b"\xff.\xfe", b"long." * 2000 + b"x"]
)
payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from(
        [b"", b"\r\n", b"MSG a 1 3\r\nabc\r\n", b"\r\nMSG a 22 1\r\nx\r\n", b"PONG\r\n", b"\r", b"x" * 500]
    ),
)
replies = st.sampled_from([(), (b"_INBOX.abc",), (b"7",)])
gaps = st.sampled_from([b" ", b" ", b"\t", b"  ", b" \t "])
sids = st.sampled_from([b"%d" % sid for sid in OURS + OTHERS] + [b"001", b"0404"])
headers = st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\nc: MSG a 1 0\r\n\r\n"])


def msg(sid: bytes, subject: bytes, payload: bytes, reply: tuple[bytes, ...] = (), gap: bytes = b" ") -> bytes:
    return gap.join([b"MSG", subject, sid, *reply, b"%d" % len(payload)]) + b"\r\n" + payload + b"\r\n"


def hmsg(
    sid: bytes, subject: bytes, payload: bytes, headers: bytes, reply: tuple[bytes, ...] = (), gap: bytes = b" "
) -> bytes:
    sizes = [b"%d" % len(headers), b"%d" % len(headers + payload)]
    return gap.join([b"HMSG", subject, sid, *reply, *sizes]) + b"\r\n" + headers + payload + b"\r\n"


controls = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n",
        b'INFO {"a":1}\r\n',
        b'INFO {"a":"%b"}\r\n' % (b"MSG a 1 3 " * 3000),
    ]
)
frames = st.one_of(
    st.builds(msg, sids, subjects, payloads, replies, gaps),
    st.builds(hmsg, sids, subjects, payloads, headers, replies, gaps),
    controls,
)


def cut(stream: bytes, places: set[int]) -> list[bytes]:
    inside = sorted(place for place in places if 0 < place < len(stream))
    return [stream[start:end] for start, end in pairwise([0, *inside, len(stream)])]


@st.composite
def streams_in_pieces(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = b"".join(draw(st.lists(frames, min_size=1, max_size=12)))
    return stream, cut(stream, draw(st.sets(st.integers(0, len(stream)), max_size=10)))


@for_all(streams_in_pieces(), examples=(100, 400))
def test_however_it_is_cut_it_is_what_nats_py_reads(given: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = given
    taken = take(pieces)
    assert not taken.is_broken
    check_against_nats_py(stream, taken)


@for_all(st.lists(frames.filter(lambda frame: len(frame) < 600), min_size=2, max_size=4), examples=(10, 40))
def test_at_every_single_cut(chosen: list[bytes]) -> None:
    stream = b"".join(chosen)
    whole = take([stream])
    for place in range(1, len(stream)):
        assert take(cut(stream, {place})) == whole, stream[:place]
    assert take(cut(stream, set(range(len(stream))))) == whole


@for_all(st.binary(max_size=200), st.sets(st.integers(0, 200), max_size=6), examples=(100, 400))
def test_anything_at_all_is_read_the_same_in_pieces(noise: bytes, places: set[int]) -> None:
    stream = noise.replace(b"\x00", b"MSG a 1 2\r\n") + b"\r\n"
    assert take(cut(stream, places)) == take([stream]) == expected(stream)


@for_all(st.binary(max_size=200), examples=(100, 400))
def test_what_the_fuzzer_tries(data: bytes) -> None:
    target.check(data)


def test_a_message_of_the_largest_size_that_is_usual_cut_near_its_ends() -> None:
    payload = random.Random(1).randbytes(2**20)
    before, after = msg(b"22", b"b", b"before"), msg(b"22", b"b", b"after") + b"PONG\r\n"
    for frame in (msg(b"1", b"a", payload), hmsg(b"1", b"a", payload, b"NATS/1.0\r\n\r\n")):
        stream, end = before + frame + after, len(before + frame)
        for near in (len(before), end):
            for place in range(near - 50, near + 51):
                taken = take(cut(stream, {place}))
                assert taken.ours == {1: [("a", payload)], 22: [("b", b"before"), ("b", b"after")]}, place
                assert taken.rest == b"PONG\r\n"


@for_all(
    st.lists(frames, min_size=1, max_size=8),
    st.floats(0, 1),
    st.sets(st.integers(0, 5000), max_size=6),
    examples=(50, 200),
)
def test_a_message_is_ours_if_its_sid_is_when_the_message_is_whole(
    chosen: list[bytes], moment: float, places: set[int]
) -> None:
    """Unsubscribed or subscribed at any moment, in the middle of a message, too."""
    stream = b"".join(chosen)
    change = int(moment * len(stream))
    whole = {end for end in accumulate(map(len, chosen)) if end <= change}
    for before, after in ((set(OURS), set[int]()), (set[int](), set(OURS))):
        stock, inbox = Stock(), Incoming()
        interests = dict.fromkeys(before, inbox)
        reader = FastReader(stock, interests, Incoming.deliver, lambda what: None)  # type: ignore[arg-type]
        at = 0
        for piece in cut(stream, places | {change}):
            if at == change:
                interests.clear()
                interests.update(dict.fromkeys(after, inbox))
            reader.take(piece)
            at += len(piece)
        early, late = chosen[: len(whole)], chosen[len(whole) :]
        mine, others = (early, late) if before else (late, early)
        taken = [take([frame]) for frame in mine]
        assert inbox.delivered == [message for one in taken for sid in OURS for message in one.ours[sid]]
        rests = [one.rest for one in taken]
        assert stock.got == b"".join(rests + others if before else others + rests)


def test_messages_come_before_what_was_behind_them_in_one_piece_and_each_to_its_own() -> None:
    log: list[object] = []

    class Noting(Stock):
        def data_received(self, data: bytes) -> None:
            log.append(data)

    inboxes = {1: Incoming(), 2: Incoming(), 3: Incoming()}
    interests = inboxes | {33: inboxes[3]}

    def deliver(inbox: Any) -> None:
        log.append((inbox, [payload for _, _, run in inbox.arrived for payload in run]))
        inbox.arrived = []

    reader = FastReader(Noting(), interests, deliver, log.append)  # type: ignore[arg-type]
    order = [(b"3", b"0"), (b"1", b"1"), (b"3", b"2"), (b"9", b"3"), (b"33", b"4"), (b"1", b"5")]
    reader.take(b"PONG\r\n" + b"".join(msg(sid, b"a", n) for sid, n in order) + b"PING\r\n" + b"MSG a 2 1\r\n6")
    assert log == [
        (inboxes[3], [b"0", b"2", b"4"]),
        (inboxes[1], [b"1", b"5"]),
        b"PONG\r\n" + msg(b"9", b"a", b"3") + b"PING\r\n",
    ]
    del log[:]
    reader.take(b"\r\n")
    assert log == [(inboxes[2], [b"6"])]


class Mail(Incoming):
    """As an interest whose messages arrive with line and headers."""

    whole = True


@for_all(
    st.lists(st.tuples(st.sampled_from([b"1", b"22", b"5", b"6"]), st.integers(0, 2)), max_size=20),
    st.sets(st.integers(0, 500), max_size=3),
    st.booleans(),
    examples=(100, 400),
)
def test_events_and_answers_that_come_in_turn(order: list[tuple[bytes, int]], places: set[int], replies: bool) -> None:
    """A connection of a bus and a store: lines of events come again, and those of answers are read another way."""
    inboxes = {1: Incoming(), 22: Incoming(), 5: Mail(), 6: Mail()}
    broken: list[str] = []
    reader = FastReader(Stock(), inboxes, lambda inbox: None, broken.append)  # type: ignore[arg-type]
    sent: dict[int, list[bytes]] = {sid: [] for sid in inboxes}
    stream = b""
    for sid, size in order:
        payload, reply = b"%05d" % len(stream) + b"x" * size, (b"reply",) if replies and sid > b"4" else ()
        sent[int(sid)].append(payload)
        stream += hmsg(sid, b"a", payload, b"NATS/1.0\r\n\r\n", reply) if size % 2 else msg(sid, b"a", payload, reply)
    for piece in cut(stream, places):
        reader.take(piece)
    got = {sid: [payload for *_, run in inboxes[sid].arrived for payload in run] for sid in (1, 22)}
    got |= {sid: [payload for *_, payload in inboxes[sid].arrived] for sid in (5, 6)}  # type: ignore[misc]
    assert (got, broken) == (sent, [])


def test_a_transport_reads_into_its_buffer_again_and_again() -> None:
    inbox = Incoming()
    reader = FastReader(Stock(), {1: inbox}, lambda inbox: inbox.deliver(), lambda what: None)  # type: ignore[arg-type, attr-defined]
    sent = [msg(b"1", b"a", b"%d" % n) for n in range(3)]
    for piece in (sent[0] + sent[1][:5], sent[1][5:], sent[2]):
        buffer = reader.get_buffer(-1)
        assert len(buffer) >= 65_536
        buffer[: len(piece)] = piece
        reader.buffer_updated(len(piece))
    assert [payload for _, payload in inbox.delivered] == [b"0", b"1", b"2"]


def test_connections_on_which_nothing_is_read_have_no_buffer() -> None:
    """It is large, and hundreds of connections may be idle."""

    def read(reader: FastReader) -> int:
        buffer = reader.get_buffer(-1)
        buffer[:6] = b"PING\r\n"
        reader.buffer_updated(6)
        return id(buffer.obj)

    readers = [FastReader(Stock(), {}, lambda inbox: None, lambda what: None) for _ in range(20)]  # type: ignore[arg-type]
    used = {read(reader) for reader in readers * 2}
    assert len(used) == 1
    at_once = [reader.get_buffer(-1).obj for reader in readers]  # as on as many threads
    assert len(set(map(id, at_once))) == len(readers)


def test_an_interest_is_the_one_under_its_sid() -> None:
    inbox = Incoming()
    interests = {1: Incoming(), 2: Incoming()}
    for interest in interests.values():
        interest.inbox = inbox
    reader = FastReader(Stock(), interests, lambda inbox: None, lambda what: None)  # type: ignore[arg-type]
    reader.take(msg(b"2", b"a", b"x") + msg(b"1", b"a", b"y"))
    assert inbox.arrived == [(interests[2], "a", [b"x"]), (interests[1], "a", [b"y"])]


@pytest.mark.parametrize(
    "line", [b"", b"msg a 1 2", b"what", b" MSG a 1 2", b"PING ", b"PUB a 1", b"-ERR", b"+OK MSG a 1 2", b"H", b"MS"]
)
def test_what_is_no_message_is_left_to_nats_py(line: bytes) -> None:
    after = b"PONG\r\n"
    assert take([line + b"\r\n" + msg(b"1", b"a", b"x") + after]) == (
        {1: [("a", b"x")], 22: []},
        line + b"\r\n" + after,
        False,
    )


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 -5", b"MSG a 1 +5", b"MSG a 1 1_0", b"MSG a x 1", b"MSG a 1", b"MSG a 1 r r 1", b"MSG",
        b"HMSG a 1 9 3", b"HMSG a 1 3", b"HMSG a 1 3 +5", b"HMSG a 1 -3 5", b"HMSG a 1 r r 3 5", b"MSG a 1 \xb2",
        b"MSG a +1 5", b"MSG a 1_0 5", b"MSG a -1 5", b"MSG a 1 5 ", b"MSG a 1\x0b5", b"MSG a\n1 5", b"MSG a\r1 5",
        b"MSG a\nb 1 5", b"MSG a\rb 1 5", b"MSG a 1 r\ns 5",
        b"MSGS a 1 5", b"MSG a \xd9\xa1 5", b"MSG a 1 \xd9\xa5", b"MSG a %b 5" % (b"9" * 5000),
        b"MSG a 1 %b" % (b"9" * 5000),
        b"HMSG a 1 %b 5" % (b"9" * 5000),
    ],
)  # fmt: skip
def test_a_message_whose_end_is_unknown_ends_the_connection(line: bytes) -> None:
    """nats-py, which takes some of them, would look for the next line elsewhere than we."""
    stream = msg(b"1", b"a", b"x") + line + b"\r\n" + msg(b"1", b"a", b"inside")
    assert take([stream]) == ({1: [("a", b"x")], 22: []}, b"", True)


def test_a_subject_that_is_no_text_is_left_to_nats_py() -> None:
    frame = b"MSG \xff\xfe 1 2\r\n{}\r\n"
    assert take([frame + msg(b"1", b"a", b"x")]) == ({1: [("a", b"x")], 22: []}, frame, False)


@pytest.mark.parametrize(
    ("subject", "reply"), [("a\x0bb", ()), ("a\x0c22", ()), ("a\x0b22", (b"r\x0c1",)), ("a\x00\x1f\x7f", ())]
)
def test_what_is_white_space_to_nats_py_and_not_to_a_server(subject: str, reply: tuple[bytes, ...]) -> None:
    ours, others = (msg(sid, subject.encode(), b"x", reply) for sid in (b"1", b"3"))
    is_misread = "\x00" not in subject
    taken = take([ours + others + msg(b"3", b"\xff\x0b22", b"x") + b"PONG\r\n"])
    assert taken == ({1: [(subject, b"x")], 22: []}, (b"" if is_misread else others) + b"PONG\r\n", False)


def test_no_publisher_breaks_the_connection_of_others(server: NATSServer, make_bus: MakeBus, prefix: str) -> None:
    bus, other = make_bus(), make_bus()
    with bus.subscribe("n.>") as events, bus.subscribe("m"), RawClient(server.port) as raw:
        for mean in ("n.x\x0b2", "n.x\x0c2", "n.x r\x0b2", "n.x\x0b2 r\x0b2", "n.\xa0"):
            raw.publish(f"{prefix}.events.{mean}", forged(0))
        raw.send(b"PUB %b.events.n.\xff\x0bb 0\r\n\r\n" % prefix.encode())
        raw.flush()
        other.publish("n.x", make_event(1))
        assert events.get(timeout=PATIENCE).data == {"n": 1}
        assert bus.metrics().reconnects == 0


# -- bounds


def test_a_message_larger_than_any() -> None:
    for line in (b"MSG a 1 %d\r\n", b"HMSG a 3 12 %d\r\n"):
        assert not take([line % (LARGEST_MESSAGE - 2) + b"ab"]).is_broken  # its last line end is counted
        assert take([line % (LARGEST_MESSAGE - 1) + b"ab"]).is_broken


def test_a_line_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "LONGEST_LINE", 100)
    for sizes in ([101], [1], [50], [100, 1]):
        for line in (b"MSG " + b"x" * 96, b"\r" * 100, b"PONG" + b"\n" * 96):
            stream = b"PING\r\n" + line
            assert not take(target.cut(stream, sizes)).is_broken
            assert take(target.cut(stream + b"x", sizes)).is_broken


class Looking(FastReader):
    """Counts the bytes that it looks at."""

    looked = 0

    def _split(self, data: bytes, *args: Any) -> int:
        self.looked += len(data)
        return super()._split(data, *args)


@pytest.mark.parametrize(
    "stream",
    [
        msg(b"1", b"a", bytes(100_000)), msg(b"3", b"a", bytes(100_000)), msg(b"1", b"a", b"x" * 50) * 1000,
        msg(b"3", b"a", b"x") * 1000, b"INFO " + b"x" * 100_000 + b"\r\n", b"INFO " + b"\r" * 100_000 + b"\r\n",
        b"INFO " + b"\n" * 100_000 + b"\r\n", b"PING\r\n" * 10_000,
        b"MSG " + b"s" * 50_000 + b" 1 50000\r\n" + bytes(50_002),
        msg(b"1", b"a", b"\r\n" * 50_000),
    ],
    ids=range(10),
)  # fmt: skip
@pytest.mark.parametrize("size", first_of([3, 1, 1000]))
def test_how_often_a_byte_is_looked_at_has_a_bound(stream: bytes, size: int) -> None:
    reader = Looking(Stock(), {1: Incoming()}, Incoming.deliver, lambda what: None)  # type: ignore[dict-item, arg-type]
    for piece in target.cut(stream, [size]):
        reader.take(piece)
    assert reader.looked <= 3 * len(stream)


def test_a_large_message_in_many_pieces_is_put_together_once() -> None:
    payload = bytes(range(256)) * 40_000
    stream = msg(b"1", b"a", payload)
    assert take(target.cut(stream, [1000])) == ({1: [("a", payload)], 22: []}, b"", False)


def test_a_line_is_read_once_and_not_taken_for_one_that_begins_like_it() -> None:
    read: list[bytes] = []

    class Reading(FastReader):
        def _read(self, line: bytes) -> Any:
            read.append(line)
            return super()._read(line)

    frames = [msg(b"1", b"s" * length, bytes(size)) for length in range(1, 30) for size in (1, 12, 123)]
    inbox = Incoming()
    reader = Reading(Stock(), {1: inbox}, Incoming.deliver, lambda what: None)  # type: ignore[dict-item, arg-type]
    for _ in range(3):
        reader.take(b"".join(frames))
    assert len(read) == len(frames)
    assert [(len(subject), len(payload)) for subject, payload in inbox.delivered] == 3 * [
        (length, size) for length in range(1, 30) for size in (1, 12, 123)
    ]


def test_lines_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LINES_KEPT", 10)
    stock = Stock()
    reader = FastReader(stock, {}, lambda inbox: None, lambda what: None)
    stream = b"".join(msg(b"5", b"a.%d" % n, b"") + b"INFO {%d}\r\n" % n for n in range(100))
    for piece in target.cut(stream, [40]):
        reader.take(piece)
        assert len(reader._lines) <= 10
    assert not any(line.startswith(b"INFO") for line in reader._lines)
    assert stock.got == stream


# -- what else a transport tells


def test_what_else_a_transport_tells_is_told_on() -> None:
    stock = Stock()
    reader = FastReader(stock, {}, lambda inbox: None, lambda what: None)
    reader.pause_writing()
    reader.resume_writing()
    assert reader.eof_received()
    reader.connection_lost(None)
    reader.connection_lost(OSError("gone"))
    assert stock.told == ["pause", "resume", "eof", "None", "OSError('gone')"]


def test_what_takes_no_bytes_is_no_stock() -> None:
    with pytest.raises(TypeError, match="BufferedProtocol"):
        FastReader(asyncio.BufferedProtocol(), {}, lambda inbox: None, lambda what: None)


def test_ever_new_subjects_leave_nothing_behind() -> None:
    """Interned, they would stay for ever from Python 3.12 on."""
    inbox = Incoming()
    reader = FastReader(Stock(), {1: inbox}, lambda inbox: inbox.arrived.clear(), lambda what: None)  # type: ignore[arg-type, attr-defined]

    def take_new(start: int) -> int:
        for n in range(start, start + 20_000):
            reader.take(msg(b"1", b"new.%d" % n, b"x"))
        gc.collect()
        return sys.getallocatedblocks()

    before = take_new(0)
    assert take_new(20_000) - before < 10_000
    assert len(reader._subjects) <= len(reader._lines) <= 4_096


def test_a_run_goes_on_over_lines_of_different_sizes() -> None:
    inbox = Incoming()
    reader = FastReader(Stock(), {1: inbox}, lambda inbox: None, lambda what: None)  # type: ignore[arg-type]
    payloads = [b"x" * n for n in range(20)]
    reader.take(b"".join(msg(b"1", b"a", payload) for payload in payloads))
    assert [run for _, _, run in inbox.arrived] == [payloads]
