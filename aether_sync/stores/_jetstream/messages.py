"""Messages of a stream: how events are published, and how records are read from what the server sends.

The headers of batches are those of ADR-50, the answers of direct get those of ADR-31; ``Aether-Behind``,
``Aether-Earlier`` and ``Aether-Save`` are our own.
"""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..._nats.call import is_status
from ..._nats.interest import Message
from ...errors import StoreUnavailableError
from ...events import Event
from ..base import StoredEvent
from .answers import ApiError, status_of
from .earlier import HEADER, named
from .error_codes import ErrorCode

__all__ = [
    "AROUND",
    "IN_BATCH",
    "LARGEST",
    "Member",
    "Outgoing",
    "Page",
    "Record",
    "abandoning_headers",
    "command",
    "headers_of",
    "member_of",
    "new_batch",
    "read_at",
    "read_page",
    "read_record",
    "read_those_of",
    "stored_at",
    "stored_size",
]

#: Bytes of a record in a file, at most, whatever the settings are (``rlBadThresh`` in nats-server's ``filestore.go``).
LARGEST = 32 * 2**20
#: Bytes of these that are not the subject, the headers or the body (``fileStoreMsgSizeRaw``).
AROUND = 34
_ABANDONED = 2  # a number that is never the next one of a batch that is being committed
_OUR_HEADERS = b"NATS/1.0\r\nNats-Msg-Id: "  # and then 32 digits: see ``headers_of``
_BEHIND_ID = len(_OUR_HEADERS) + 32
IN_BATCH = b"Nats-Batch-"  #: stands in the headers of whatever was stored in an atomic batch
_SUBJECT = b"\r\nNats-Subject: "
_SEQUENCE = b"\r\nNats-Sequence: "
_EXPECTED = re.compile(rb"\r\nNats-Expected-Last-Subject-Sequence: *(\d{1,19})")
_PENDING = re.compile(rb"\r\nNats-Num-Pending: (\d+)")
_BEHIND = re.compile(rb"\r\nAether-Behind: *(\d{1,19})")
_MEMBER = re.compile(
    rb"\r\n(?:Aether-Save: (\d{1,4})/(\d{1,4})\r\n)?Nats-Batch-Id: ([^\r]+)\r\nNats-Batch-Sequence: (\d{1,6})\r\n"
    rb"(Nats-Batch-Commit: 1\r\n)?"
)
_BATCH_ID = re.compile(rb"\r\nNats-Batch-Id: *([^\r]+)")
_BATCH = re.compile(rb"\r\nNats-Batch-Sequence: *(\d{1,6})\r")  # a stranger may have written more digits
_COMMIT = re.compile(rb"\r\nNats-Batch-Commit: *1\r")
_OURS = re.compile(rb"[0-9a-f]{32}-(\d{1,4})")  # the id of a batch that a store has stored, with its size


class Member(NamedTuple):
    """A record's place in the atomic batch that it was stored in.

    Attributes:
        batch: The batch's id.
        number: The record's place, from 1 on.
        commits: Whether it is the last record, which commits the batch.
        place: Its place in its save, from 1 on: the batch may have several saves.
        ends_save: Whether it is the last record of its save.
    """

    batch: bytes
    number: int
    commits: bool
    place: int
    ends_save: bool

    @property
    def size(self) -> int:
        """How many records the batch has, if its id tells or this is the last one; else 0."""
        if self.commits:
            return self.number
        ours = _OURS.fullmatch(self.batch)
        return int(ours[1]) if ours is not None else 0


class Record(NamedTuple):
    """A message that is stored in a stream.

    Attributes:
        sequence: Its sequence in the stream.
        subject: Its subject.
        headers: Its headers as they came, with their first line; b"" if it has none.
        data: Its body.
        time: When it was stored, as the leader writes it (RFC 3339); "" if another server was asked.
    """

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    time: str = ""

    @property
    def member(self) -> Member | None:
        """Its place in the atomic batch that it was stored in; None if it was stored alone."""
        return member_of(self.headers)

    def expects(self, sequence: int) -> bool:
        """Whether a store published it on the condition that a sequence was its actor's last.

        False for a publisher of another kind, whose headers are in another order.
        """
        line = b"\r\nNats-Expected-Last-Subject-Sequence: %d\r\n" % sequence
        return self.headers.startswith(_OUR_HEADERS) and self.headers.startswith(line, _BEHIND_ID)

    @property
    def behind(self) -> int | None:
        """The sequence of the event before it, 0 if there is none, where the record before it is no event."""
        found = _BEHIND.search(self.headers) if b"Aether-Behind" in self.headers else None
        return int(found[1]) if found is not None else None

    @property
    def expected(self) -> int | None:
        """The sequence of the record before it with this subject, if it was published on that condition."""
        found = _EXPECTED.search(self.headers)
        return int(found[1]) if found is not None and b"Sequence-Subject" not in self.headers else None

    @property
    def before(self) -> int | None:
        """The sequence of the event before it, 0 if there is none; None if it was published without that condition."""
        behind = self.behind
        return self.expected if behind is None else behind

    @property
    def named(self) -> list[list[int]]:
        """The sequences of earlier events that it names, by level: see ``earlier``."""
        return named(self.headers, self.batch, self.sequence)

    def stored(self, event: Event) -> StoredEvent:
        """Return the event that it is, with where it is stored."""
        return stored_at(self.sequence, event, self.member)

    @property
    def batch(self) -> int:
        """The sequence of the first record that was saved by the same call; 0 if it was stored alone."""
        member = self.member
        return 0 if member is None else self.sequence - member.place + 1

    @property
    def commits(self) -> bool:
        """Whether no record follows that was stored in the same atomic batch."""
        member = self.member
        return member is None or member.commits


def stored_at(sequence: int, event: Event, member: Member | None) -> StoredEvent:
    """Return an event with where it is stored: its sequence, and its place in a batch."""
    if member is None:
        return StoredEvent(event, sequence)
    return StoredEvent(event, sequence, False, member.ends_save, sequence - member.place + 1)


def member_of(headers: bytes) -> Member | None:
    """Return the place in an atomic batch that a record's headers name; None if they name none."""
    if IN_BATCH not in headers:
        return None
    found = _MEMBER.search(headers)
    if found is not None:
        place, size, batch, number, commit = found.groups()
        if place is not None:
            return Member(batch, int(number), commit is not None, int(place), place == size)
        return Member(batch, int(number), commit is not None, int(number), commit is not None)
    others, place = _BATCH_ID.search(headers), _BATCH.search(headers)  # in another order, or without spaces
    if others is None or place is None:
        return None
    commits = _COMMIT.search(headers) is not None
    return Member(others[1], int(place[1]), commits, int(place[1]), commits)


class Page(NamedTuple):
    """Records in a row, and how many follow them."""

    records: list[Record]
    pending: int


class Outgoing(NamedTuple):
    """A message to be stored.

    Attributes:
        subject: Its subject.
        message_id: The id by which the server knows a second try.
        expected: The sequence that the last record of the subject has to have; None for a message of a batch that
            follows another one of the same subject.
        data: The body.
        behind: The sequence of the event before it, 0 if there is none, where the last record of the subject is no
            event; else None.
        earlier: What it says of earlier events (``Earlier.text``); b"" for the first one of its subject.
        within: Its place in its save, from 1 on, and the size of that, where the batch has several saves.
    """

    subject: str
    message_id: str
    expected: int | None
    data: bytes
    behind: int | None = None
    earlier: bytes = b""
    within: tuple[int, int] | None = None


def new_batch(size: int) -> bytes:
    """Return a new id for a batch. It ends with the batch's size, so that every record tells how many there are."""
    return b"%b-%d" % (os.urandom(16).hex().encode(), size)


def abandoning_headers(batch: bytes) -> bytes:
    """Return the headers of a message that ends a batch: it is never the next one of a batch that is committed."""
    return b"NATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n\r\n" % (batch, _ABANDONED)


def headers_of(messages: Sequence[Outgoing], batch: bytes) -> list[bytes]:
    """Return the headers of messages that are published together.

    Args:
        messages: All of them, in order.
        batch: The batch's id; b"" for a single message.
    """
    batch = batch and b"Nats-Batch-Id: %b\r\n" % batch
    headers = []
    for place, one in enumerate(messages, 1):
        lines = [b"NATS/1.0\r\nNats-Msg-Id: %b\r\n" % one.message_id.encode()]
        if one.expected is not None:
            lines.append(b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % one.expected)
        if one.behind is not None:
            lines.append(b"Aether-Behind: %d\r\n" % one.behind)
        if one.earlier:
            lines.append(b"%b%b\r\n" % (HEADER, one.earlier))
        if one.within is not None:  # right before the batch's id: see ``_MEMBER``
            lines.append(b"Aether-Save: %d/%d\r\n" % one.within)
        if batch:
            lines.append(b"%bNats-Batch-Sequence: %d\r\n" % (batch, place))
            if place == len(messages):
                lines.append(b"Nats-Batch-Commit: 1\r\n")
        headers.append(b"".join((*lines, b"\r\n")))
    return headers


def stored_size(messages: Sequence[Outgoing], batch: bytes) -> int:
    """Return how many bytes messages take in a file (``fileStoreMsgSizeRaw`` of nats-server)."""
    heads = headers_of(messages, batch)
    return sum(AROUND + len(one.subject) + len(head) + len(one.data) for one, head in zip(messages, heads, strict=True))


def command(subject: str, inbox: bytes, headers: bytes, data: bytes) -> bytes:
    """Return the protocol's line of a publish: ``PUB``, or ``HPUB`` if there are headers."""
    if headers:
        size = len(headers) + len(data)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), inbox, len(headers), size, headers, data)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), inbox, len(data), data)


class _Message(msgspec.Struct):
    seq: int
    subject: str
    time: str
    hdrs: bytes = b""
    data: bytes = b""


class _Got(msgspec.Struct):
    message: _Message | None = None
    error: ApiError | None = None


_read_got = msgspec.json.Decoder(_Got).decode  # which decodes base64, too


def read_record(messages: list[Message]) -> Record | None:
    """Read the leader's answer to a request for one record (``STREAM.MSG.GET``); None if there is none.

    Raises:
        StoreUnavailableError: It is an error, or none of JetStream's.
    """
    try:
        got = _read_got(messages[0][3])
    except msgspec.MsgspecError as error:
        raise StoreUnavailableError(f"the answer is none of JetStream's: {messages[0][3][:80]!r}") from error
    if got.message is not None:
        one = got.message
        return Record(one.seq, one.subject, one.hdrs, one.data, one.time)
    if got.error is not None and got.error.err_code == ErrorCode.JSNoMessageFoundErr:
        return None
    raise StoreUnavailableError(f"the stream is not read: {got.error}")


def read_page(stream: str, subject: str, messages: list[Message]) -> Page:
    """Read the answers to a direct get of several records."""
    status = status_of(messages[-1])
    if status == 404:
        return Page([], 0)
    if status != 204:
        raise StoreUnavailableError(f"stream {stream!r} is not read: {messages[-1][2][9:80]!r}")
    pending = _PENDING.search(messages[-1][2])
    literal = "" if subject.endswith((".*", ".>")) else subject
    records = [_read_direct(message, literal) for message in messages[:-1]]
    return Page(records, int(pending[1]) if pending is not None else 0)


def read_at(messages: list[Message]) -> list[Record]:
    """Read the answer to a direct get of one record: an empty list if that server has none."""
    return [] if is_status(messages[0]) else [_read_direct(messages[0])]


def read_those_of(subject: str, messages: list[Message]) -> dict[int, Record]:
    """Read the answers to direct gets of several single records; return those with a subject, by sequence."""
    place = b"%b%b%b" % (_SUBJECT, subject.encode(), _SEQUENCE)
    found = {}
    for message in messages:
        headers = message[2]
        start = headers.rfind(place)
        if start >= 0 and start == headers.rfind(_SUBJECT):  # a record may have been stored with such headers, too
            start += len(place)
            sequence = int(headers[start : headers.index(b"\r\n", start)])
            found[sequence] = Record(sequence, subject, headers, message[3])
    return found


def _read_direct(message: Message, subject: str = "") -> Record:
    """Read one record of a direct get; its subject need not be UTF-8. It is read, too, if it is not known."""
    _, _, headers, data = message
    subject = subject or _last_header(headers, _SUBJECT).decode(errors="backslashreplace")
    return Record(int(_last_header(headers, _SEQUENCE)), subject, headers, data)


def _last_header(headers: bytes, name: bytes) -> bytes:
    """Return the last header of a name: the server appends its own to those that were stored."""
    start = headers.rindex(name) + len(name)
    return headers[start : headers.index(b"\r\n", start)]
