"""Any bytes, cut anywhere, through the fast reader: ours come out whole, once and in order, the rest as it was.

Half of the inputs are raw; the others choose frames of a grammar, with a few bytes of the result changed.
"""

import asyncio
import re
from collections.abc import Coroutine, Iterator
from itertools import accumulate, cycle, pairwise, takewhile
from typing import Any, NamedTuple

from .run import fuzz, instrumented

with instrumented(__name__):
    from nats.protocol.parser import Parser

    from aether_sync._nats.fast_reader import LARGEST_MESSAGE, FastReader

OURS, OTHERS = (1, 22), (3, 404)


class Stock(asyncio.Protocol):
    """Where all goes that is not ours."""

    def __init__(self) -> None:
        self.got = b""
        self.told: list[str] = []

    def data_received(self, data: bytes) -> None:
        assert data
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


class Incoming:
    """As far as a fast reader knows one; an interest, too."""

    whole = False

    def __init__(self) -> None:
        self.inbox = self
        self.arrived: list[tuple[Any, str, list[bytes]]] = []
        self.delivered: list[tuple[str, bytes]] = []

    def deliver(self) -> None:
        assert self.arrived
        assert all(interest is self for interest, _, _ in self.arrived)
        self.delivered += [(subject, payload) for _, subject, payloads in self.arrived for payload in payloads]
        self.arrived = []


class Taken(NamedTuple):
    """What becomes of a stream."""

    ours: dict[int, list[tuple[str, bytes]]]  #: by sid
    rest: bytes  #: for nats-py
    is_broken: bool


def take(pieces: list[bytes]) -> Taken:
    """Have a fast reader take a stream, until it says that the stream is broken."""
    stock, inboxes, complaints = Stock(), {sid: Incoming() for sid in OURS}, list[str]()
    reader = FastReader(stock, inboxes, lambda inbox: inbox.deliver(), complaints.append)  # type: ignore[arg-type, attr-defined]
    received = 0
    for piece in pieces:
        reader.take(piece)
        received += len(piece)
        assert reader.received == received
        if complaints:
            break
    return Taken({sid: inbox.delivered for sid, inbox in inboxes.items()}, stock.got, bool(complaints))


# -- what should become of it, told plainly

_GAP = rb"[ \t]+"
_WORD = rb"([^ \t\r\n]+)"
_MSG = re.compile(_GAP.join([rb"MSG", _WORD, rb"(\d{1,18})", rb"(?:" + _WORD + _GAP + rb")?()(\d{1,18})"]))
_HMSG = re.compile(
    _GAP.join([rb"HMSG", _WORD, rb"(\d{1,18})", rb"(?:" + _WORD + _GAP + rb")?(\d{1,18})", rb"(\d{1,18})"])
)


def expected(stream: bytes) -> Taken:
    """Read a stream from its beginning to its end, a line after the other."""
    ours: dict[int, list[tuple[str, bytes]]] = {sid: [] for sid in OURS}
    rest = b""
    while b"\r\n" in stream:
        line, _, after = stream.partition(b"\r\n")
        if not line.startswith((b"MSG", b"HMSG")):
            stream, rest = after, rest + line + b"\r\n"
            continue
        words = _MSG.fullmatch(line) or _HMSG.fullmatch(line)
        if words is None or int(words[4] or 0) > int(words[5]):
            return Taken(ours, rest, True)
        sid, headers, size = int(words[2]), int(words[4] or 0), int(words[5])
        if len(after) < size + 2:
            return Taken(ours, rest, size + 2 > LARGEST_MESSAGE)
        frame, stream = line + b"\r\n" + after[: size + 2], after[size + 2 :]
        try:
            ours[sid].append((words[1].decode(), after[headers:size]))
        except (KeyError, UnicodeDecodeError):
            if not {*b"\v\f"} & {*line}:  # nats-py would take a part of a word for the sid
                rest += frame
    return Taken(ours, rest, False)


class Model:
    """nats-py's client, as far as its parser knows it: it writes down what it is told."""

    def __init__(self) -> None:
        self.ours: dict[int, list[tuple[str, bytes]]] = {sid: [] for sid in OURS}
        self.others: list[object] = []

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        try:
            self.ours[sid].append((subject.decode(), data))
        except (KeyError, UnicodeDecodeError):
            self.others.append((sid, subject, reply, data, headers))

    def __getattr__(self, name: str) -> Any:
        async def note(*args: object) -> None:
            self.others.append((name, *args))

        return note


def read(stream: bytes) -> Model:
    """Have nats-py's own parser read a stream."""
    model = Model()
    _run(Parser(model).parse(stream))
    return model


def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        work.send(None)
    except StopIteration:
        return
    raise AssertionError("the parser waits")


#: What a server sends. At other lines nats-py gives up, or reads over their ends.
_SERVERS = re.compile(
    rb"(?:PING|PONG|\+OK|INFO \{\}|-ERR '[ -&(-~]+'"
    rb"|MSG[ \t]+[^\s]+[ \t]+\d{1,18}[ \t]+(?:[^\s]+[ \t]+)?(?P<plain>\d{1,18})"
    rb"|HMSG[ \t]+[^\s]+[ \t]+\d{1,18}[ \t]+(?:[^\s]+[ \t]+)?(?P<headers>\d{1,18})[ \t]+(?P<size>\d{1,18}))\r\n"
)


def is_of_a_server(stream: bytes) -> bool:
    """Whether nats-py is a model for a stream."""
    position = 0
    while (line := _SERVERS.match(stream, position)) is not None:
        position = line.end()
        headers, size = line["headers"], line["plain"] or line["size"]
        if headers and not (int(headers) <= int(size) and stream.startswith(b"NATS/1.0\r\n", position)):
            return False
        position += int(size) + 2 if size else 0
    return position >= len(stream) or b"\r\n" not in stream[position:]


# -- streams

_PAYLOADS = (
    b"",
    b"{}",
    b"\r\n",
    b"\r",
    b"MSG a 1 3\r\nabc\r\n",
    b"PONG\r\n",
    b"x" * 600,
    b"12\r\n",
    b"NATS/1.0\r\n\r\n",
)


class Grammar(NamedTuple):
    """What frames are made of."""

    subjects: tuple[bytes, ...] = (b"a", b"aether.events.n", "aether.events.größe".encode(), b"\xff.\xfe", b"s" * 300)
    sids: tuple[bytes, ...] = (b"1", b"22", b"3", b"404", b"001")
    replies: tuple[tuple[bytes, ...], ...] = ((), (b"_INBOX.a",), (b"7",))
    gaps: tuple[bytes, ...] = (b" ", b" ", b"\t", b"   ")
    headers: tuple[bytes, ...] = (b"NATS/1.0\r\n\r\n", b"NATS/1.0\r\na: MSG a 1 0\r\n\r\n")
    controls: tuple[bytes, ...] = (b"PING", b"PONG", b"+OK", b"INFO {}", b"-ERR 'Permissions Violation'")


_OF_A_SERVER = Grammar()
_WILD = Grammar(
    subjects=(*_OF_A_SERVER.subjects, b"a\x0bb", b"a\x0c1"),
    sids=(*_OF_A_SERVER.sids, b"1", b"22", b"+1", b"1_0", b"x", b"9" * 5000),
    replies=(*_OF_A_SERVER.replies, (b"r\x0bs",), (b"r", b"s")),
    gaps=(*_OF_A_SERVER.gaps, b" ", b" ", b"\x0b"),
    headers=(*_OF_A_SERVER.headers, b""),
    controls=(*_OF_A_SERVER.controls, b"", b"msg a 1 2", b"-ERR "),
)


class Choices:
    """Choices made by bytes; the first of everything when they are at an end."""

    def __init__(self, data: bytes) -> None:
        self._bytes: Iterator[int] = iter(data)
        self.left = len(data)

    def number(self, below: int) -> int:
        self.left -= 1
        return next(self._bytes, 0) % below

    def of(self, choices: tuple[Any, ...]) -> Any:
        return choices[self.number(len(choices))]

    def frame(self, grammar: Grammar) -> bytes:
        kind = self.number(5)
        if kind == 0:
            return bytes(self.of(grammar.controls)) + b"\r\n"
        headers = self.of(grammar.headers) if kind > 2 else b""
        payload = self.of(_PAYLOADS)
        sizes = [b"%d" % len(headers)] * (kind > 2) + [b"%d" % len(headers + payload)]
        verb, subject, sid = b"HMSG" if kind > 2 else b"MSG", self.of(grammar.subjects), self.of(grammar.sids)
        line = bytes(self.of(grammar.gaps).join([verb, subject, sid, *self.of(grammar.replies), *sizes]))
        return line + b"\r\n" + headers + payload + b"\r\n"


def stream_of(data: bytes) -> tuple[bytes, list[bytes]]:
    """Make a stream of bytes, and cut it."""
    is_raw = data[:1] < b"\x80"
    choices = Choices(data[1:33] if is_raw else data[1:])
    sizes = [choices.number(256) for _ in range(choices.number(9))]
    stream = data[33:] if is_raw else frames_of(choices)
    return stream, cut(stream, sizes)


def frames_of(choices: Choices) -> bytes:
    """Make frames of a grammar, of all of it with a few bytes changed."""
    grammar = choices.of((_OF_A_SERVER, _WILD))
    changes = [(choices.number(256), choices.number(256)) for _ in range(choices.number(4) * (grammar is _WILD))]
    frames = []
    while choices.left > 0:
        frames.append(choices.frame(grammar))
    stream = b"".join(frames)
    for place, byte in changes:
        stream = stream[:place] + bytes([byte]) + stream[place + 1 :]
    return stream


def cut(stream: bytes, sizes: list[int]) -> list[bytes]:
    """Cut pieces of such sizes off, again and again; without sizes, single bytes."""
    ends = accumulate(cycle([size for size in sizes if size] or [1]))
    places = [0, *takewhile(lambda end: end < len(stream), ends), len(stream)]
    return [stream[start:end] for start, end in pairwise(places) if start < end]


def check(data: bytes) -> None:
    """Take a stream in pieces, and in one."""
    stream, pieces = stream_of(data)
    wanted = expected(stream)
    for cuts in (pieces, [stream] if stream else []):
        taken = take(cuts)
        assert taken == wanted, (taken, wanted)
    if is_of_a_server(stream):
        check_against_nats_py(stream, wanted)


def check_against_nats_py(stream: bytes, taken: Taken) -> None:
    assert taken.ours == read(stream).ours
    assert read(taken.rest).others == read(stream).others
    assert not any(read(taken.rest).ours.values())


if __name__ == "__main__":
    fuzz("fast_reader", check)
