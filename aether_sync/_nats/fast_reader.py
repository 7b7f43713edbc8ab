r"""The fast way to read: messages for our interests are cut out of the stream; nats-py reads all the rest.

The reader stands between asyncio's transport and nats-py's own reader. It knows two lines of the protocol
(https://docs.nats.io/reference/reference-protocols/nats-protocol)::

    MSG <subject> <sid> [reply-to] <#bytes>\r\n<payload>\r\n
    HMSG <subject> <sid> [reply-to] <#header bytes> <#total bytes>\r\n<headers><payload>\r\n

Everything else, and messages for other sids, are handed on unchanged and in order, and nats-py reads them in a task of
its own. That includes PONGs, so a PONG is handled after the messages that came before it. Nothing here waits, and a
batch is as large as what the socket gave.
"""

import asyncio
import re
import sys
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from .interest import Arrivals, Interest

__all__ = ["LARGEST_MESSAGE", "LONGEST_LINE", "FastReader"]

_LINES_KEPT = 4_096  # lines of one subject differ only in the size of the payload, so most come again
_READ_AT_ONCE = 2**20  # bytes; beside a thread that computes, each read may wait 5 ms for the GIL
_BUFFERS_KEPT = 4  # while no connection reads
LONGEST_LINE = 2**20  #: bytes; an INFO that names every server of a large cluster has thousands
LARGEST_MESSAGE = 128 * 2**20  #: bytes, headers included: twice what a server can be told to take

# A server separates the words of a line by spaces. nats-py also splits at a vertical tab or a form feed, which a
# publisher can put into a subject or a reply. A message with one for a sid that is not ours would be misread, and is
# not handed on.
_MISREAD = re.compile(rb"[\v\f]")
_HEAD = re.compile(
    rb"(?:MSG|(H)MSG)[ \t]++([^ \t\r\n]++)[ \t]++(\d{1,18})"
    rb"(?:[ \t]++[^ \t\r\n]++)?(?(1)[ \t]++(\d{1,18}))[ \t]++(\d{1,18})"
)
_WORDS = {b"MSG": 5, b"HMSG": 6}  # in a line with a reply
_Head = tuple[int, str, int, int]  # sid, subject, bytes of headers, bytes in all with the last line end
_buffers: deque[memoryview] = deque(maxlen=_BUFFERS_KEPT)  # shared by all connections; each has one only while it reads
_NOT_OURS = -1  # in place of a sid
_UNREADABLE: _Head = _NOT_OURS, "", 0, sys.maxsize  # it is unknown where the next line begins: ends the connection


class _Sizes(dict[bytes, int]):
    """Numbers by how they are written in lines: most come again, and looking one up takes a third of the time."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _LINES_KEPT:
            self.clear()
        size = self[word] = int(word)
        return size


class FastReader(asyncio.BufferedProtocol):
    """Reads what a transport receives, until the connection is lost.

    Args:
        stock: The protocol that the transport had before.
        interests: Our interests by sid; looked up for each message, so it may change.
        deliver: Called with each inbox that has got messages.
        broken: Called with the reason when the bytes cannot be the NATS protocol.
        losing: Called before nats-py is told that the connection broke.

    Raises:
        TypeError: ``stock`` does not read as nats-py's reader does.
    """

    def __init__(
        self,
        stock: asyncio.BaseProtocol,
        interests: Mapping[int, Interest],
        deliver: Callable[[Arrivals], None],
        broken: Callable[[str], None],
        losing: Callable[[], None] = lambda: None,
    ) -> None:
        if not isinstance(stock, asyncio.Protocol):
            raise TypeError(f"{type(stock).__name__} is no protocol that takes bytes")
        self._stock = stock
        self._interests = interests
        self._deliver = deliver
        self._broken = broken
        self._losing = losing
        self._lines: dict[bytes, _Head] = {}  # what lines said that were read before
        self._subjects: dict[bytes, str] = {}  # in those: one object for each, so that a run is recognised by identity
        self._sizes = _Sizes()
        self._rest: list[bytes] = []  # the beginning of a line or a message
        self._missing = 0  # bytes until that is complete, or the line is too long
        self._in_line = False  # whether it is the beginning of a line
        self.received = 0  #: bytes ever
        self._buffer: memoryview | None = None  # only during a read, in which nothing else runs on this thread

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._buffer is None:  # else nothing was read the last time
            try:
                self._buffer = _buffers.pop()  # the last one, which is still in the processor's cache
            except IndexError:
                self._buffer = memoryview(bytearray(_READ_AT_ONCE))
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        buffer, self._buffer = self._buffer, None
        assert buffer is not None
        data = bytes(buffer[:nbytes])
        _buffers.append(buffer)
        self.take(data)

    def take(self, data: bytes) -> None:
        """Take bytes that have arrived, and keep what is incomplete."""
        self.received += len(data)
        if self._rest:
            self._missing -= len(data)
            waits = self._missing > 0 and not (self._in_line and _ends_line(self._rest[-1], data))
            self._rest.append(data)
            if waits:
                return
            data = b"".join(self._rest)
            self._rest.clear()
        filled: list[Arrivals] = []
        foreign: list[bytes] = []
        taken = self._split(data, filled, foreign)
        if taken < len(data):
            self._rest.append(data[taken:])
        for inbox in filled:
            self._deliver(inbox)
        if foreign:
            self._stock.data_received(b"".join(foreign))

    def _split(self, data: bytes, filled: list[Arrivals], foreign: list[bytes]) -> int:
        """Put messages into their inboxes, and all else into ``foreign``; return how far everything is whole.

        One long loop, as a call costs what it does per message: with the beginning of a run in a function of its own,
        messages whose subject or sid changes each time take 10% longer. What is rare stands below, and costs nothing.
        """
        position, end = 0, len(data)
        by: Interest | None = None  # who got the message before: most come in runs
        at = ""  # its subject
        payloads: list[bytes] = []  # of that run
        again: _Head | None = None  # what the line of the run's last message said: most say the same
        headers = size = 0  # of that message
        mail, box = b"", None  # the sid of the last message that was handed on with its line, and where it was put
        find, lines, interests, sizes = data.find, self._lines, self._interests, self._sizes
        while True:
            eol = find(b"\r\n", position)
            if eol < 0:
                return self._await_line(position, end)
            line = data[position:eol]
            start = eol + 2
            if box is not None:  # no two of its lines are the same, and most come in a row
                words = line.split(b" ")
                body = stop = 0
                if len(words) == 6 and words[2] == mail and words[0] == b"HMSG":
                    body, stop = start + sizes[words[4]], start + sizes[words[5]] + 2
                elif len(words) == 5 and words[2] == mail and words[0] == b"MSG":
                    body, stop = start, start + sizes[words[4]] + 2
                if body < stop <= end:
                    box.append((words[1], words[3], data[start:body], data[body : stop - 2]))
                    position = stop
                    continue
            head: _Head | None
            try:
                head = lines[line]
            except KeyError:
                head = self._read(line)
            if head is None:
                foreign.append(data[position:start])
                position = start
                continue
            if head is again and start + size <= end:
                stop = start + size
                payloads.append(data[start + headers : stop - 2])
                position = stop
                continue
            sid, subject, headers, size = head
            stop = start + size
            if stop > end:
                return self._await_message(position, stop - end, size)
            interest = interests.get(sid)
            again = None if interest is None or interest.whole else head
            if interest is None:
                if not _MISREAD.search(line):
                    foreign.append(data[position:stop])
            elif interest.whole:
                by = None
                body = start + headers
                mail, box = _put_whole(interest, line, data[start:body], data[body : stop - 2], filled)
            elif interest is by and subject is at:
                payloads.append(data[start + headers : stop - 2])
            else:
                by, at, payloads = interest, subject, [data[start + headers : stop - 2]]
                arrived = interest.inbox.arrived
                if not arrived:
                    filled.append(interest.inbox)
                arrived.append((interest, subject, payloads))
            position = stop

    def _await_line(self, position: int, end: int) -> int:
        """Wait for the end of a line that begins at this position."""
        self._in_line = True
        self._missing = LONGEST_LINE + 1 - (end - position)
        if self._missing <= 0:
            self._broken("a line that does not end")
        return position

    def _await_message(self, position: int, missing: int, size: int) -> int:
        """Wait for the end of a message whose line begins at this position."""
        self._in_line = False
        self._missing = missing
        if size > LARGEST_MESSAGE:
            self._broken("a message that no server may send")
        return position

    def _read(self, line: bytes) -> _Head | None:
        """Read a line for the first time; return None if no message follows it."""
        match = _HEAD.fullmatch(line)
        if match is None:
            return _UNREADABLE if line.startswith((b"MSG", b"HMSG")) else None
        interest = self._interests.get(int(match[3]))
        if interest is not None and interest.whole:  # no two lines are the same, and the subject need not be UTF-8
            headers, size = int(match[4] or 0), int(match[5])
            return _UNREADABLE if headers > size else (int(match[3]), "", headers, size + 2)
        if len(self._lines) >= _LINES_KEPT:
            self._lines.clear()
            self._subjects.clear()
        head = self._lines[line] = self._head(match)
        return head

    def _head(self, match: re.Match[bytes]) -> _Head:
        _, subject, sid, headers, size = match.groups(b"0")
        if int(headers) > int(size):
            return _UNREADABLE
        try:
            text = self._subjects.setdefault(subject, subject.decode())  # sys.intern() keeps it for ever from 3.12 on
            return int(sid), text, int(headers), int(size) + 2
        except UnicodeDecodeError:  # nats-py reports it
            return _NOT_OURS, "", 0, int(size) + 2

    # -- other events of a transport

    def pause_writing(self) -> None:
        self._stock.pause_writing()

    def resume_writing(self) -> None:
        self._stock.resume_writing()

    def eof_received(self) -> bool | None:
        return self._stock.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            if exc is not None:  # nats-py only looks at this error then
                self._losing()
        finally:  # also if there was no memory for that
            self._stock.connection_lost(exc)


def _ends_line(before: bytes, data: bytes) -> bool:
    return b"\r\n" in data or (data.startswith(b"\n") and before.endswith(b"\r"))


def _put_whole(
    interest: Interest, line: bytes, headers: bytes, payload: bytes, filled: list[Arrivals]
) -> tuple[bytes, list[Any]]:
    """Put a message with what its line says into its inbox; return the sid there, and where it was put."""
    words = line.split()
    reply = words[3] if len(words) == _WORDS[words[0]] else b""
    arrived = interest.inbox.arrived
    if not arrived:
        filled.append(interest.inbox)
    arrived.append((words[1], reply, headers, payload))
    return words[2], arrived
