"""The lean way in, against nats-py's own parser: however a stream is cut, nothing is torn, lost or taken twice."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nats.protocol.parser import Parser

from aether_sync._nats import intake as room
from aether_sync._nats.intake import Intake

OURS, OTHERS = (1, 22), (3, 404)


class Stock(asyncio.Protocol):
    """Where all goes that is not ours."""

    def __init__(self) -> None:
        self.got = b""
        self.told: list[str] = []

    def data_received(self, data: bytes) -> None:
        self.got += data

    def pause_writing(self) -> None:
        self.told.append("pause")

    def resume_writing(self) -> None:
        self.told.append("resume")

    def eof_received(self) -> bool:
        self.told.append("eof")
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.told.append(repr(exc))


class Inbox:
    """As far as an intake knows one; an interest, too."""

    def __init__(self) -> None:
        self.inbox = self
        self.arrived: list[tuple[Any, str, list[bytes]]] = []
        self.delivered: list[tuple[str, bytes]] = []

    def deliver(self) -> None:
        assert self.arrived
        self.delivered += [(subject, payload) for _, subject, payloads in self.arrived for payload in payloads]
        self.arrived = []


def take(pieces: list[bytes]) -> tuple[list[tuple[str, bytes]], bytes, list[str]]:
    """What an intake makes of a stream: messages of ours, what nats-py is to read, and complaints."""
    stock, inbox, complaints = Stock(), Inbox(), list[str]()
    intake = Intake(stock, dict.fromkeys(OURS, inbox), lambda inbox: inbox.deliver(), complaints.append)  # type: ignore[arg-type, attr-defined]
    for piece in pieces:
        intake.data_received(piece)
    assert intake.received == sum(map(len, pieces))
    return inbox.delivered, stock.got, complaints


class Model:
    """nats-py's client, as far as its parser knows it: it writes down what it is told."""

    def __init__(self) -> None:
        self.ours: list[tuple[str, bytes]] = []
        self.others: list[object] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        if sid in OURS:
            self.ours.append((subject.decode(), data))
        else:
            self.others.append((sid, subject, reply, data, headers))

    def __getattr__(self, name: str) -> Any:
        async def note(*args: object) -> None:
            self.others.append((name, *args))

        return note


def read(stream: bytes) -> Model:
    """Have nats-py read a stream."""
    model = Model()
    asyncio.run(Parser(model).parse(stream))
    return model


# -- streams

subjects = st.sampled_from(["a", "aether.events.n", "aether.events.größe", "x.y.z"])
payloads = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([b"", b"\r\n", b"MSG a 1 3\r\nabc\r\n", b"PONG\r\n", b"\r", b"x" * 500]),
)
replies = st.sampled_from(["", "_INBOX.abc "])


def msg(sid: int, subject: str, reply: str, payload: bytes) -> bytes:
    return f"MSG {subject} {sid} {reply}{len(payload)}\r\n".encode() + payload + b"\r\n"


def hmsg(sid: int, subject: str, reply: str, payload: bytes, headers: bytes) -> bytes:
    sizes = f"{len(headers)} {len(headers) + len(payload)}"
    return f"HMSG {subject} {sid} {reply}{sizes}\r\n".encode() + headers + payload + b"\r\n"


sids = st.sampled_from(OURS + OTHERS)
headers = st.sampled_from([b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: b\r\nc: d\r\n\r\n"])
controls = st.sampled_from(
    [
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'Permissions Violation for Publish to \"a\"'\r\n",
        b'INFO {"a":1}\r\n',
    ]
)
frames = st.one_of(
    st.builds(msg, sids, subjects, replies, payloads),
    st.builds(hmsg, sids, subjects, replies, payloads, headers),
    controls,
)


@st.composite
def streams_in_pieces(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    stream = b"".join(draw(st.lists(frames, max_size=12)))
    cuts = sorted(draw(st.sets(st.integers(0, len(stream)), max_size=10)))
    return stream, [stream[start:end] for start, end in pairwise([0, *cuts, len(stream)]) if start < end]


@given(streams_in_pieces())
@settings(max_examples=400, deadline=None)
def test_however_it_is_cut_it_is_what_nats_py_reads(given: tuple[bytes, list[bytes]]) -> None:
    stream, pieces = given
    ours, rest, complaints = take(pieces)
    model = read(stream)
    assert ours == model.ours
    assert read(rest).others == model.others
    assert read(rest).ours == []
    assert not complaints


@given(st.lists(frames, min_size=2, max_size=4))
@settings(max_examples=40, deadline=None)
def test_at_every_single_cut(chosen: list[bytes]) -> None:
    stream = b"".join(chosen)
    whole = take([stream])
    for cut in range(1, len(stream)):
        assert take([stream[:cut], stream[cut:]]) == whole, stream[:cut]
    assert take([stream[at : at + 1] for at in range(len(stream))]) == whole


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
@settings(max_examples=400, deadline=None)
def test_anything_at_all_is_read_the_same_in_pieces(noise: bytes, cuts: list[int]) -> None:
    stream = noise.replace(b"\x00", b"MSG a 1 2\r\n")
    places = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    assert take([stream[start:end] for start, end in pairwise(places)]) == take([stream])


# -- single things


@pytest.mark.parametrize(
    "line",
    [
        b"MSG a 1 -5", b"MSG a 1 1_0", b"MSG a x 1", b"MSG a 1", b"MSG a 1 r r 1", b"MSG", b"", b"HMSG a 1 9 3",
        b"HMSG a 1 3", b"msg a 1 2", b"what", b"MSG a 1 \xb2",
    ],
)  # fmt: skip
def test_what_is_no_message_is_left_to_nats_py(line: bytes) -> None:
    assert take([line + b"\r\nPONG\r\n"]) == ([], line + b"\r\nPONG\r\n", [])


def test_a_subject_that_is_no_text_is_left_to_nats_py() -> None:
    frame = b"MSG \xff\xfe 1 2\r\n{}\r\n"
    assert take([frame + msg(1, "a", "", b"x")]) == ([("a", b"x")], frame, [])


def test_a_message_larger_than_any_and_a_line_that_does_not_end(monkeypatch: pytest.MonkeyPatch) -> None:
    assert take([b"MSG a 1 999999999999\r\nab"])[2] == ["a message that no server may send"]
    monkeypatch.setattr(room, "LONGEST_LINE", 100)
    assert take([b"INFO " + b"x" * 200])[2] == ["a line that does not end"]


def test_a_large_message_in_many_pieces_is_put_together_once() -> None:
    payload = bytes(range(256)) * 40_000
    stream = msg(1, "a", "", payload)
    ours, rest, _ = take([stream[at : at + 1000] for at in range(0, len(stream), 1000)])
    assert (ours, rest) == ([("a", payload)], b"")


def test_what_else_a_transport_tells_is_told_on() -> None:
    stock = Stock()
    intake = Intake(stock, {}, lambda inbox: None, lambda what: None)
    intake.pause_writing()
    intake.resume_writing()
    assert intake.eof_received()
    intake.connection_lost(None)
    assert stock.told == ["pause", "resume", "eof", "None"]


def test_lines_are_kept_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_LINES_KEPT", 10)
    intake = Intake(Stock(), {}, lambda inbox: None, lambda what: None)
    for n in range(100):
        intake.data_received(msg(5, f"a.{n}", "", b""))
    assert len(intake._lines) <= 10
