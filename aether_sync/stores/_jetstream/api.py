"""JetStream's requests, as a store needs them. What reads is asked until it is answered; a publish is one try.

Subjects, bodies and error codes are those of the JetStream API (https://docs.nats.io/reference/reference-protocols/
nats_api_reference), of direct get (ADR-31) and of atomic batches (ADR-50).
"""

import json
import os
import re
import time
from base64 import b64decode
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import count
from typing import Any, Generic, NamedTuple, TypeVar

import msgspec

from ..._nats.channel import Channel
from ..._nats.interest import Message
from ..._nats.requests import Call, is_status, single
from ..._runtime.deadline import Deadline
from ..._runtime.registry import WeakRegistry
from ..._values.clock import monotonic
from ...errors import (
    AtomicAppendUnsupportedError,
    BusClosedError,
    ClosedError,
    DeadlineExceededError,
    DisconnectedError,
    EventTooLargeError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
)
from .error_codes import ErrorCode

__all__ = [
    "IN_BATCH",
    "Acked",
    "Asked",
    "BusyError",
    "IncompleteError",
    "JetStream",
    "Listed",
    "Member",
    "NoRoomError",
    "NotSentError",
    "Outgoing",
    "Page",
    "Pause",
    "Record",
    "RefusedError",
    "UnknownError",
    "all_of",
    "code_of",
    "command",
    "gone",
    "member_of",
    "new_batch",
    "said",
    "stored_size",
]

T = TypeVar("T")

_TRY = 1.5  # seconds for one answer: what was sent to a server that died meanwhile is never answered
_LONG = 2  # tries, of which the next waits long enough for a server that looks through a million subjects
_TOO_LATE = 0.01  # seconds in which nothing more is tried
_STARTING = 1.0  # seconds for JetStream to come up; where nobody answers for longer, there is none
_SLOWEST = 2**20  # bytes a second, of a link on which it is worth to wait for an answer
_SHARE = 0.7  # of the time that is left, for the answer to a publish: the rest is to find out if there is none
_PAGE_BYTES = 4 * 2**20  # of a page: there is no flow control within one
_REFUSED = {  # another writer was first, or the event is stored
    ErrorCode.JSStreamWrongLastSequenceErrF,
    ErrorCode.JSStreamWrongLastSequenceConstantErr,  # that writer's event is in flight
    ErrorCode.JSAtomicPublishContainsDuplicateMessageErr,
}
_BUSY = {  # no leader; an id or a subject is in flight; too much at once
    ErrorCode.JSClusterNotAvailErr,
    ErrorCode.JSClusterNotLeaderErr,
    ErrorCode.JSStreamDuplicateMessageConflict,
    ErrorCode.JSStreamExpectedLastSeqPerSubjectNotReady,
    ErrorCode.JSStreamTooManyRequests,
    ErrorCode.JSAtomicPublishIncompleteBatchErr,
    ErrorCode.JSAtomicPublishTooManyInflight,
}
_FULL = {  # no memory or disk is left to the server, the account or the stream
    ErrorCode.JSAccountResourcesExceededErr,
    ErrorCode.JSInsufficientResourcesErr,
    ErrorCode.JSMemoryResourcesExceededErr,
    ErrorCode.JSStorageResourcesExceededErr,
    ErrorCode.JSStreamStoreFailedF,
    ErrorCode.JSNoLimitsErr,
    ErrorCode.JSStreamMaxStreamBytesExceeded,
}
_ABANDONED = 2  # a number that is never the next one of a batch that is being committed
_ABSENT = b'"err_code":%d' % ErrorCode.JSStreamNotFoundErr
_LARGEST = (
    32 * 2**20
)  # bytes of a record in a file, whatever is set (``rlBadThresh`` in ``filestore.go`` of nats-server)
_AROUND = 34  # bytes of it around subject, headers and body (``fileStoreMsgSizeRaw``)
_BEGINNING = 200  # bytes of an answer: an error stands there
_GONE = 1.0  # seconds after which a server that knows no such stream is believed

_OUR_HEADERS = b"NATS/1.0\r\nNats-Msg-Id: "  # and then 32 digits: see ``_headers``
_BEHIND_ID = len(_OUR_HEADERS) + 32
IN_BATCH = b"Nats-Batch-"  #: stands in the headers of whatever was stored in an atomic batch
_SEQUENCE = b"\r\nNats-Sequence: "
_EXPECTED = re.compile(rb"\r\nNats-Expected-Last-Subject-Sequence: *(\d{1,19})")
_PENDING = re.compile(rb"\r\nNats-Num-Pending: (\d+)")
_BEHIND = re.compile(rb"\r\nAether-Behind: *(\d{1,19})")
_MEMBER = re.compile(rb"\r\nNats-Batch-Id: ([^\r]+)\r\nNats-Batch-Sequence: (\d{1,6})\r\n(Nats-Batch-Commit: 1\r\n)?")
_BATCH_ID = re.compile(rb"\r\nNats-Batch-Id: *([^\r]+)")
_BATCH = re.compile(rb"\r\nNats-Batch-Sequence: *(\d{1,6})\r")  # a stranger may have written more digits
_COMMIT = re.compile(rb"\r\nNats-Batch-Commit: *1\r")
_OURS = re.compile(rb"[0-9a-f]{32}-(\d{1,4})")  # the id of a batch that a store has stored, with its size


class RefusedError(Exception):
    """The expected last sequence is not the last, or the id of a message is known; nothing was stored."""


class BusyError(Exception):
    """The server cannot do it now; nothing was stored."""


class IncompleteError(BusyError):
    """A part of a batch was not taken: it came too late, or there was no room for it."""


class NoRoomError(Exception):
    """There is no room for a batch; a part of it may be stored."""


class NotSentError(BusyError):
    """There is no connection."""


class UnknownError(Exception):
    """No answer: it may be stored, or not."""


class _ApiError(msgspec.Struct):
    code: int = 0
    err_code: int = 0
    description: str = ""

    def __str__(self) -> str:
        return f"{self.description} ({self.err_code})"


class Acked(msgspec.Struct):
    """A publish was stored (``PubAck``)."""

    stream: str = ""
    seq: int = 0
    duplicate: bool = False
    error: _ApiError | None = None


class _Failed(msgspec.Struct):
    error: _ApiError | None = None


class Member(NamedTuple):
    """A record's place in the atomic batch that it was stored with.

    Attributes:
        batch: The batch's id.
        number: 1 or more.
        commits: Whether it is the last, and commits the batch.
    """

    batch: bytes
    number: int
    commits: bool

    @property
    def size(self) -> int:
        """How many records the batch has, if its id tells or this is the last one; else 0."""
        if self.commits:
            return self.number
        ours = _OURS.fullmatch(self.batch)
        return int(ours[1]) if ours is not None else 0


class Record(NamedTuple):
    """What is stored.

    Attributes:
        sequence: Where.
        subject: Under which.
        headers: As they came, with their first line; b"" if there are none.
        data: The body.
        time: When it was stored, as the leader writes it (RFC 3339); "" if another server was asked.
    """

    sequence: int
    subject: str
    headers: bytes
    data: bytes
    time: str = ""

    @property
    def member(self) -> Member | None:
        """Its place in the atomic batch that it was stored with, if it was."""
        return member_of(self.headers)

    def expects(self, sequence: int) -> bool:
        """Whether a store has stored it behind a sequence, its actor's last then: others do not see what counts."""
        line = b"\r\nNats-Expected-Last-Subject-Sequence: %d\r\n" % sequence
        return self.headers.startswith(_OUR_HEADERS) and self.headers.startswith(line, _BEHIND_ID)

    @property
    def behind(self) -> int | None:
        """The sequence of the event that it is stored behind, or 0, if the record before it does not count."""
        found = _BEHIND.search(self.headers) if b"Aether-Behind" in self.headers else None
        return int(found[1]) if found is not None else None

    @property
    def expected(self) -> int | None:
        """The sequence of the one before it with this subject, if it was stored under the condition that it is that."""
        found = _EXPECTED.search(self.headers)
        return int(found[1]) if found is not None and b"Sequence-Subject" not in self.headers else None

    @property
    def batch(self) -> int:
        """The sequence of the first record of the atomic batch that it was stored with, or 0."""
        member = self.member
        return 0 if member is None else self.sequence - member.number + 1

    @property
    def ends_batch(self) -> bool:
        """Whether nothing follows that was stored together with it."""
        member = self.member
        return member is None or member.commits


def member_of(headers: bytes) -> Member | None:
    """The place in an atomic batch that headers tell of."""
    if IN_BATCH not in headers:
        return None
    found = _MEMBER.search(headers)
    if found is not None:
        batch, number, commit = found.groups()
        return Member(batch, int(number), commit is not None)
    others, place = _BATCH_ID.search(headers), _BATCH.search(headers)  # in another order, or without spaces
    if others is None or place is None:
        return None
    return Member(others[1], int(place[1]), _COMMIT.search(headers) is not None)


class Page(NamedTuple):
    """Records in a row, and how many follow."""

    records: list[Record]
    pending: int


class Outgoing(NamedTuple):
    """A message to be stored.

    Attributes:
        subject: Where.
        message_id: By which a second try is known.
        expected: The sequence of the last one there; None where one before it in the batch is to be the last.
        data: The body.
        behind: The sequence of the event that it is to stand behind, or 0, if the last one there does not count; else
            None.
    """

    subject: str
    message_id: str
    expected: int | None
    data: bytes
    behind: int | None = None


_read_ack = msgspec.json.Decoder(Acked).decode
_read_failed = msgspec.json.Decoder(_Failed).decode


class JetStream:
    """Puts requests to JetStream over a connection. Any thread."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._calls: WeakRegistry[Call] = WeakRegistry()  # that are waited for
        self._closed: StoreClosedError | None = None
        self._largest: dict[str, int] = {}  # by stream: bytes of a message with its headers, of those that have a limit
        self._doubts: dict[str, int] = {}  # the number of the last sign that a stream is not what it was, by stream
        self._numbers = count(1)
        self.told: set[str] = set()  #: streams of which a save has said that they are gone; single operations only

    def epoch(self, stream: str) -> tuple[int, int]:
        """What has changed if what was seen of a stream may be so no more: another connection, or a sign of it.

        Args:
            stream: Its name.
        """
        return self._channel.reconnects, self._doubts.get(stream, 0)

    def doubt(self, stream: str) -> None:
        """Note a sign that a stream is not what it was: it is gone, has other settings, or another past."""
        self._doubts[stream] = next(self._numbers)

    # -- publishing

    def limit(self, stream: str, largest: int) -> None:
        """Note how large a message may be that a stream takes: in the middle of a batch its answer would be missed.

        Args:
            stream: Which.
            largest: Bytes, with its headers; less than 0 if there is no limit.
        """
        self._largest[stream] = largest

    def publish(
        self, stream: str, messages: Sequence[Outgoing], deadline: Deadline, number: int = 0, batch: bytes = b""
    ) -> Acked:
        """Store messages, all or none, and return what the server says of the last.

        A server that finds no room for all of them may leave a part: see ``_saves``.

        Args:
            stream: Where.
            messages: In order.
            deadline: For all tries.
            number: Of the try: each waits longer for the answer.
            batch: The id of the batch, if there are several.

        Raises:
            RefusedError: Another sequence is the last than expected, or a message's id is known.
            BusyError: Not now.
            UnknownError: It may be stored.
            DeadlineExceededError: Nothing was sent in time.
            NoRoomError: There is no room for a batch.
            StoreUnavailableError: There is no room for a message, or no stream.
            EventTooLargeError: One is larger than the server or the stream takes.
            AtomicAppendUnsupportedError: The stream takes no batches.
        """
        headers = _headers(messages, batch)
        sizes = [len(head) + len(one.data) for head, one in zip(headers, messages, strict=True)]

        def make(inbox: bytes) -> bytes:
            # The first one's answer says whether there is room for a batch; the last one's, whether it is stored.
            last = len(messages) - 1
            return b"".join(
                command(one.subject, inbox if place in (0, last) else b"", head, one.data)
                for place, (one, head) in enumerate(zip(messages, headers, strict=True))
            )

        self._refuse_too_large(stream, messages, max(sizes))
        patience = _TRY * 2 ** min(number, 10) + sum(sizes) / _SLOWEST
        self._refuse_if_closed()
        call = self._put({one.subject for one in messages}, make, deadline, _is_ack, max(sizes))
        try:
            answer = self._wait(call, Deadline(min(patience, deadline.remaining() * _SHARE)), deadline)[-1]
        except DeadlineExceededError as error:
            if not call.claim():
                raise UnknownError("the server did not answer") from error
            if deadline.remaining() > _TOO_LATE:
                raise NotSentError(f"nothing could be sent{self._channel.why_disconnected()}") from error
            raise self._too_late(deadline) from error
        except (DisconnectedError, ClosedError) as error:
            raise UnknownError(str(error)) from error
        if _status(answer) == 503:
            self._refuse_if_gone(stream, deadline)
            self.doubt(stream)  # its subjects may be others now
            raise BusyError("no server answers for the stream: it has no leader now")
        try:
            ack = _read_ack(answer[3])
        except msgspec.MsgspecError as error:
            raise UnknownError(f"the answer is none of JetStream's: {answer[3][:80]!r}") from error
        if ack.error is not None:
            if batch and ack.error.err_code in _FULL:
                raise NoRoomError(str(ack.error))
            if ack.error.err_code == ErrorCode.JSAtomicPublishIncompleteBatchErr:
                self._see_limit(stream, deadline)
                self._refuse_too_large(stream, messages, max(sizes))
            _refuse(ack.error)
        if ack.stream != stream:
            raise StoreError(f"stream {ack.stream!r} has these subjects, not {stream!r}")
        return ack

    def _refuse_too_large(self, stream: str, messages: Sequence[Outgoing], size: int) -> None:
        """Refuse what no server would store: in the middle of a batch its answer would be missed.

        Args:
            stream: Where.
            messages: All of them.
            size: Of the largest, with its headers.
        """
        if 0 <= self._largest.get(stream, -1) < size:
            raise EventTooLargeError(
                f"an event of {size} bytes, headers included, is larger than the max_msg_size of stream {stream!r}, "
                f"which is {self._largest[stream]}"
            )
        if size > _LARGEST - _AROUND - max(len(one.subject) for one in messages):
            raise EventTooLargeError(
                f"an event of {size} bytes, headers included, is larger than what nats-server stores in a file, which "
                f"is {_LARGEST} bytes with its subject, whatever max_payload is"
            )

    def _see_limit(self, stream: str, deadline: Deadline) -> None:
        """Look whether the largest message that a stream takes is another now."""
        config = self._look(stream, deadline).get("config")
        if config is not None:
            self.limit(stream, config.get("max_msg_size", -1))

    def _refuse_if_gone(self, stream: str, deadline: Deadline) -> None:
        """Nobody answers for a stream: see whether it is there at all."""
        pause = Pause(Deadline(min(_GONE, deadline.remaining() / 2)))
        while code_of(self._look(stream, deadline)) == ErrorCode.JSStreamNotFoundErr:
            if not pause.take():
                self.told.add(stream)
                raise StoreUnavailableError(gone(stream))

    def _look(self, stream: str, deadline: Deadline) -> dict[str, Any]:
        """Ask for a stream once; no answer is an empty one."""
        call = self._ask(f"$JS.API.STREAM.INFO.{stream}", {}, deadline, single)
        try:
            return _answer(self._wait(call, Deadline(min(_GONE, deadline.remaining())), deadline)[0])
        except (DeadlineExceededError, DisconnectedError):
            return {}

    def abandon(self, subject: str, batch: bytes, deadline: Deadline) -> None:
        """See that the server does not finish a batch that it has not stored whole.

        A batch whose commit failed is kept on disk to be finished when the server starts again (``processJetStream
        AtomicBatchMsg`` and ``recoverStream`` of nats-server 2.15); a record that is none of its next ends that.

        Args:
            subject: Of one of its records.
            batch: Its id.
            deadline: For all tries.

        Raises:
            StoreUnavailableError: There is no room even for that.
        """
        headers = b"NATS/1.0\r\nNats-Batch-Id: %b\r\nNats-Batch-Sequence: %d\r\n\r\n" % (batch, _ABANDONED)
        pause = Pause(deadline)
        while True:
            self._refuse_if_closed()
            call = self._channel.request(
                {subject}, lambda inbox: command(subject, inbox, headers, b""), deadline, single
            )
            try:
                (answer,) = self._wait(call, _one_try(deadline, 0), deadline)
            except (DeadlineExceededError, DisconnectedError) as failed:
                if not deadline.remaining():
                    raise self._too_late(deadline) from failed
                continue
            error = _read_failed(answer[3]).error if answer[3] else None
            if error is None or error.err_code not in _BUSY:
                raise StoreUnavailableError(
                    "the server has no room, not even to call off an earlier save, of which it has stored a part"
                    f": {error or 'it has no leader'}"
                )
            if error.err_code == ErrorCode.JSAtomicPublishIncompleteBatchErr:
                return
            if not pause.take():
                raise StoreUnavailableError(f"the rest of a save is not called off within {deadline}: {error}")

    # -- reading

    def last(self, stream: str, subject: str, deadline: Deadline) -> Record | None:
        """Return the last record with a subject, by the leader's word."""
        return self.begin_last(stream, subject, deadline)(deadline)

    def begin_last(self, stream: str, subject: str, deadline: Deadline) -> "Asked[Record | None]":
        """As :meth:`last`, asked now."""
        return self._begin(f"$JS.API.STREAM.MSG.GET.{stream}", {"last_by_subj": subject}, deadline, single, _leaders)

    def begin_at(self, stream: str, sequence: int, deadline: Deadline) -> "Asked[Record | None]":
        """Ask now for the record at a sequence, by the leader's word."""
        return self._begin(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": sequence}, deadline, single, _leaders)

    def next(self, stream: str, subject: str, sequence: int, deadline: Deadline) -> Record | None:
        """Return the first record with a subject from a sequence on, by the leader's word."""
        body = {"seq": sequence, "next_by_subj": subject}
        return _record(self.request(f"STREAM.MSG.GET.{stream}", body, deadline))

    def begin_next(self, stream: str, subject: str, sequence: int, deadline: Deadline) -> "Asked[Record | None]":
        """As :meth:`next`, asked now."""
        body = {"seq": sequence, "next_by_subj": subject}
        return self._begin(f"$JS.API.STREAM.MSG.GET.{stream}", body, deadline, single, _leaders)

    def begin_page(self, stream: str, subject: str, sequence: int, count: int, deadline: Deadline) -> "Asked[Page]":
        """Ask now for records with a subject from a sequence on, of any server of the stream: it may lack some."""
        body = {"seq": sequence, "next_by_subj": subject, "batch": count, "max_bytes": _PAGE_BYTES}
        read = partial(_page, stream, subject)
        return self._begin(f"$JS.API.DIRECT.GET.{stream}", body, deadline, is_status, read)

    def begin_records(
        self, stream: str, subject: str, sequence: int, count: int, deadline: Deadline
    ) -> "Asked[list[Record]]":
        """As :meth:`begin_page`, without how many follow."""
        body = {"seq": sequence, "next_by_subj": subject, "batch": count, "max_bytes": _PAGE_BYTES}
        read = partial(_page, stream, subject)
        return self._begin(
            f"$JS.API.DIRECT.GET.{stream}", body, deadline, is_status, lambda messages: read(messages).records
        )

    def begin_one(self, stream: str, sequence: int, deadline: Deadline) -> "Asked[list[Record]]":
        """Ask now for the record at a sequence, of any server of the stream; none if it has none."""
        return self._begin(f"$JS.API.DIRECT.GET.{stream}", {"seq": sequence}, deadline, single, _at)

    def _begin(
        self,
        subject: str,
        body: dict[str, Any],
        deadline: Deadline,
        is_last: Callable[[Message], bool],
        read: Callable[[list[Message]], T],
    ) -> "Asked[T]":
        call = self._ask(subject, body, deadline, is_last)
        return Asked(call, self._wait, read, partial(self._persist, subject, body, is_last=is_last, tries=1))

    def counts(self, stream: str, wanted: str, deadline: Deadline) -> dict[str, int]:
        """Return how many records all subjects have that have some, among those wanted."""

        def ask(offset: int) -> Listed[int]:
            body = {"subjects_filter": wanted, "offset": offset}
            answer = self.request(f"STREAM.INFO.{stream}", body, deadline, tries=_LONG)
            if "error" in answer:
                raise StoreUnavailableError(f"the stream is not read: {said(answer)}")
            return Listed(answer["state"].get("subjects") or {}, answer.get("limit", 0), answer.get("total", 0))

        return all_of(ask)

    def consumers(self, stream: str, deadline: Deadline) -> list[dict[str, Any]]:
        """Return what is said of all consumers of a stream whose servers answer."""

        def ask(offset: int) -> Listed[dict[str, Any] | None]:
            answer = self.request(f"CONSUMER.LIST.{stream}", {"offset": offset}, deadline)
            if "error" in answer:
                raise StoreUnavailableError(f"the consumers of {stream!r} are not listed: {said(answer)}")
            page = dict.fromkeys(answer.get("missing") or ()) | {one["name"]: one for one in answer["consumers"] or ()}
            return Listed(page, answer.get("limit", 0), answer.get("total", 0))

        return [one for name, one in all_of(ask).items() if name and one is not None]

    # -- the rest of the API

    def request(self, subject: str, body: dict[str, Any], deadline: Deadline, tries: int = 0) -> dict[str, Any]:
        """Put a request to the API until it is answered.

        Args:
            subject: Behind ``$JS.API.``.
            body: As JSON.
            deadline: For all tries.
            tries: As if so many had had no answer: each waits twice as long for one.

        Returns:
            The answer; what is wrong is under ``error``.

        Raises:
            DeadlineExceededError: No answer in time.
            StoreUnavailableError: There is no JetStream.
        """
        return _answer(self._persist(f"$JS.API.{subject}", body, deadline, single, tries)[0])

    def tell(self, subject: str) -> None:
        """Put a request to the API whose answer nobody waits for."""
        self._channel.write(command(f"$JS.API.{subject}", b"", b"", b""))

    def _persist(
        self, subject: str, body: dict[str, Any], deadline: Deadline, is_last: Callable[[Message], bool], tries: int = 0
    ) -> list[Message]:
        """Ask until there is an answer: what only reads, or is the same when it is done twice."""
        pause, starting, begun = Pause(deadline), Deadline(_STARTING), monotonic()
        for number in count(tries):
            self._refuse_if_closed()
            try:
                messages = self._wait(self._ask(subject, body, deadline, is_last), _one_try(deadline, number), deadline)
            except (DeadlineExceededError, DisconnectedError) as error:
                if not deadline.remaining():
                    raise self._too_late(deadline) from error
                continue
            why = _must_ask_again(messages[0])
            if not why:
                return messages
            if not pause.take() or (_status(messages[0]) and is_last is single and not starting.remaining()):
                self.doubt(subject.rpartition(".")[2])  # if it is of a stream: that may have no direct reads any more
                raise StoreUnavailableError(f"{why}: nobody else answered {subject} for {monotonic() - begun:.1f} s")
        raise AssertionError

    def _ask(self, subject: str, body: dict[str, Any], deadline: Deadline, is_last: Callable[[Message], bool]) -> Call:
        data = json.dumps(body).encode()
        return self._put({subject}, lambda inbox: command(subject, inbox, b"", data), deadline, is_last)

    def _put(
        self,
        subjects: Collection[str],
        make: Callable[[bytes], bytes],
        deadline: Deadline,
        is_last: Callable[[Message], bool],
        largest: int = 0,
    ) -> Call:
        """Put a question to the server; see :meth:`Connection.ask`."""
        try:
            return self._channel.request(subjects, make, deadline, is_last, largest)
        except BusClosedError:
            self._refuse_if_closed()
            raise

    def _wait(self, call: Call, patience: Deadline, until: Deadline) -> list[Message]:
        """Wait for answers, as long as they come, or until the store is closed."""
        self._calls.add(call)
        self._refuse_if_closed()
        try:
            answers = call.wait(patience, until, self._channel.ping)
        except BusClosedError:
            self._refuse_if_closed()  # who has closed the store closes its connection, too
            raise
        if not answers[0][2] and _ABSENT in answers[0][3][:_BEGINNING]:
            self._note_absence(call)
        return answers

    def _note_absence(self, call: Call) -> None:
        for subject in call.subjects:
            if subject.startswith("$JS.API.STREAM."):
                self.doubt(subject.rpartition(".")[2])

    def _too_late(self, deadline: Deadline) -> DeadlineExceededError:
        return DeadlineExceededError(f"no answer of the server within {deadline}{self._channel.why_disconnected()}")

    # -- its end

    def close(self, error: StoreClosedError) -> None:
        """Release everyone who waits for an answer, or will."""
        self._closed = error
        for call in self._calls:
            call.fail(error)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise StoreClosedError(*self._closed.args)


class Listed(NamedTuple, Generic[T]):
    """A page of what the server lists, sorted by name.

    Attributes:
        page: What is said of each, by name.
        limit: How many places of the list a page takes, unless it is the last.
        total: How many the whole list has.
    """

    page: dict[str, T]
    limit: int
    total: int


def all_of(ask: Callable[[int], Listed[T]]) -> dict[str, T]:
    """Return all that the server lists, by name.

    It counts the places of a page from the start of the list, to which names are added, and from which they are taken,
    between two pages. So each page is asked for from the last place of the one before on, and is believed if it begins
    within what is known: then nothing between the two is passed over. It ends with the page that is the last by its own
    word, however many are added before it.

    Args:
        ask: Asks for a page by its first place.

    Raises:
        DeadlineExceededError: One did not come in time.
    """
    found: dict[str, T] = {}
    first = total = 0
    while True:
        try:
            page, limit, total = ask(first)
        except DeadlineExceededError as error:
            so_far = f": {len(found):,} of {total:,} were listed" if found else ""
            raise DeadlineExceededError(f"{error}{so_far}") from error
        if first and found.keys().isdisjoint(page):  # so many before it are gone
            first = max(0, first - (limit or first))
            continue
        found |= page
        if first + limit >= total:
            return found
        first += limit - 1


class Asked(Generic[T]):
    """A question that is put already: called, it waits for the answer, and asks again if there is none."""

    def __init__(
        self,
        call: Call,
        wait: Callable[[Call, Deadline, Deadline], list[Message]],
        read: Callable[[list[Message]], T],
        again: Callable[[Deadline], list[Message]],
    ) -> None:
        self._call = call
        self._wait = wait
        self._read = read
        self._again = again
        self.forget = call.forget

    def __call__(self, deadline: Deadline) -> T:
        try:
            messages = self._wait(self._call, _one_try(deadline, 0), deadline)
            if not _must_ask_again(messages[0]):
                return self._read(messages)
        except (DeadlineExceededError, DisconnectedError):
            pass
        return self._read(self._again(deadline))


class Pause:
    """Pauses between tries, longer and longer, until a deadline."""

    def __init__(self, deadline: Deadline, longest: float = 0.1) -> None:
        self._deadline = deadline
        self._longest = longest
        self._next = 0.002

    def take(self) -> bool:
        """Pause; False if the deadline is over, or there is not even time for that."""
        if self._deadline.remaining() <= self._next:
            return False
        time.sleep(self._next)
        self._next = min(self._next * 2, self._longest)
        return True


def _one_try(deadline: Deadline, number: int) -> Deadline:
    """How long to wait in a try: twice as long each time, for an answer may just be slow."""
    return Deadline(min(_TRY * 2 ** min(number, 10), deadline.remaining()))


def _must_ask_again(message: Message) -> str:
    """Why an answer is none, if it is."""
    if _status(message) == 503:
        return "there is no JetStream on the server for this user, or no leader of the stream"
    if not message[2] and (code := _code(message)) in _BUSY:
        return f"JetStream is not ready ({code})"
    return ""


def _is_ack(message: Message) -> bool:
    return bool(message[3]) or is_status(message)  # an empty one says that the batch was begun


def new_batch(size: int) -> bytes:
    """Make an id for a batch, which tells its size."""
    return b"%b-%d" % (os.urandom(16).hex().encode(), size)


def _headers(messages: Sequence[Outgoing], batch: bytes) -> list[bytes]:
    batch = batch and b"Nats-Batch-Id: %b\r\n" % batch
    headers = []
    for place, one in enumerate(messages, 1):
        lines = [b"NATS/1.0\r\nNats-Msg-Id: %b\r\n" % one.message_id.encode()]
        if one.expected is not None:
            lines.append(b"Nats-Expected-Last-Subject-Sequence: %d\r\n" % one.expected)
        if one.behind is not None:
            lines.append(b"Aether-Behind: %d\r\n" % one.behind)
        if batch:
            lines.append(b"%bNats-Batch-Sequence: %d\r\n" % (batch, place))
            if place == len(messages):
                lines.append(b"Nats-Batch-Commit: 1\r\n")
        headers.append(b"".join((*lines, b"\r\n")))
    return headers


def stored_size(messages: Sequence[Outgoing], batch: bytes) -> int:
    """How many bytes messages take in a file (``fileStoreMsgSizeRaw`` of nats-server)."""
    heads = _headers(messages, batch)
    return sum(
        _AROUND + len(one.subject) + len(head) + len(one.data) for one, head in zip(messages, heads, strict=True)
    )


def command(subject: str, inbox: bytes, headers: bytes, data: bytes) -> bytes:
    """Write a publish: ``PUB``, or ``HPUB`` if there are headers."""
    if headers:
        size = len(headers) + len(data)
        return b"HPUB %b %b %d %d\r\n%b%b\r\n" % (subject.encode(), inbox, len(headers), size, headers, data)
    return b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), inbox, len(data), data)


def _status(message: Message) -> int:
    return int(message[2][9:12]) if is_status(message) else 0


def _answer(message: Message) -> dict[str, Any]:
    answer = json.loads(message[3] or b"{}")
    return answer if isinstance(answer, dict) else {}


def _code(message: Message) -> int:
    failed = _read_failed(message[3]) if message[3] else _Failed()
    return 0 if failed.error is None else failed.error.err_code


def _refuse(error: _ApiError) -> None:
    """Raise what an error of the server means for who publishes."""
    if error.err_code in _REFUSED:
        raise RefusedError(str(error))
    if error.err_code == ErrorCode.JSAtomicPublishIncompleteBatchErr:
        raise IncompleteError(f"not all of it was taken, for lack of room or of time: {error}")
    if error.err_code in _BUSY:
        raise BusyError(str(error))
    if error.err_code == ErrorCode.JSAtomicPublishDisabledErr:
        raise AtomicAppendUnsupportedError(
            "the stream takes no atomic batches: set allow_atomic on it (nats-server 2.12), or save one event at a time"
        )
    if error.err_code == ErrorCode.JSAtomicPublishTooLargeBatchErrF:
        raise AtomicAppendUnsupportedError(
            f"so many events at once are too many for the server ({error}): save fewer, or raise max_msgs of the batch "
            "limits in its configuration"
        )
    if error.err_code == ErrorCode.JSStreamMessageExceedsMaximumErr:
        raise EventTooLargeError(f"an event is larger than the stream's max_msg_size: {error}")
    if error.err_code in _FULL:
        raise StoreUnavailableError(f"the server has no room for it: {error}")
    if error.code >= 500:
        raise StoreUnavailableError(f"the server cannot store it now: {error}")
    raise StoreError(f"the server did not store it: {error}")


def _leaders(messages: list[Message]) -> Record | None:
    return _record(_answer(messages[0]))


def _page(stream: str, subject: str, messages: list[Message]) -> Page:
    """Read the answers to a direct get of several."""
    status = _status(messages[-1])
    if status == 404:
        return Page([], 0)
    if status != 204:
        raise StoreUnavailableError(f"stream {stream!r} is not read: {messages[-1][2][9:80]!r}")
    pending = _PENDING.search(messages[-1][2])
    records = [_direct(message, subject) for message in messages[:-1]]
    return Page(records, int(pending[1]) if pending is not None else 0)


def _at(messages: list[Message]) -> list[Record]:
    """Read the answer to a direct get of one."""
    return [] if is_status(messages[0]) else [_direct(messages[0], "")]


def _direct(message: Message, subject: str) -> Record:
    """Read an answer to a direct get of a subject."""
    _, _, headers, data = message
    return Record(int(_last(headers, _SEQUENCE)), subject, headers, data)


def _last(headers: bytes, name: bytes) -> bytes:
    """The last header of a name: the server's own stand behind those that were stored."""
    start = headers.rindex(name) + len(name)
    return headers[start : headers.index(b"\r\n", start)]


def code_of(answer: dict[str, Any]) -> int:
    """The number of the error that an answer of the API is; 0 if it is none."""
    return int(answer.get("error", {}).get("err_code", 0))


def gone(stream: str) -> str:
    """What to say of a stream that was there."""
    return (
        f"stream {stream!r} is not there any more: it was deleted, or the server has lost its disk, or is another one. "
        "Nothing of this call is stored; the next use makes the stream anew, without events"
    )


def said(answer: dict[str, Any]) -> str:
    """What an answer of the API that is an error says."""
    error = answer["error"]
    return f"{error.get('description')} ({error.get('err_code')})"


def _record(answer: dict[str, Any]) -> Record | None:
    if "error" in answer:
        if code_of(answer) == ErrorCode.JSNoMessageFoundErr:
            return None
        raise StoreUnavailableError(f"the stream is not read: {said(answer)}")
    message = answer["message"]
    headers, data = b64decode(message.get("hdrs", "")), b64decode(message.get("data", ""))
    return Record(message["seq"], message["subject"], headers, data, message["time"])
