"""``JetStream``: the requests that a store puts to JetStream.

A request that only reads, or may be done twice, is repeated until it is answered. A publish is sent once. Methods named
``ask_...`` send a request and return an :class:`~.tries.Asked`, which waits for the answer: so several requests can be
on their way at the same time.

Subjects and bodies are those of the JetStream API (https://docs.nats.io/reference/reference-protocols/
nats_api_reference), of direct get (ADR-31) and of atomic batches (ADR-50).
"""

import json
from collections.abc import Callable, Collection, Sequence
from functools import partial
from itertools import count
from typing import Any, TypeVar

import msgspec

from ..._nats.call import Call, Last, is_status, single
from ..._nats.channel import Channel
from ..._nats.fast_reader import LONGEST_LINE
from ..._nats.interest import Message
from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ...errors import (
    BusClosedError,
    ClosedError,
    DeadlineExceededError,
    DisconnectedError,
    EventTooLargeError,
    StoreClosedError,
    StoreError,
    StoreUnavailableError,
)
from .answers import (
    BUSY,
    FULL,
    Acked,
    BusyError,
    NoRoomError,
    NotSentError,
    UnknownError,
    code_of,
    content_of,
    gone,
    is_ack,
    is_stream_not_found,
    raise_for,
    read_ack,
    read_error,
    said,
    status_of,
    why_again,
)
from .error_codes import ErrorCode
from .listing import Listed, all_of
from .messages import (
    AROUND,
    LARGEST,
    Outgoing,
    Page,
    Record,
    abandoning_headers,
    command,
    headers_of,
    read_at,
    read_page,
    read_record,
    read_those_of,
)
from .tries import TOO_LATE, Asked, Pause, one_try, patience

__all__ = ["JetStream"]

T = TypeVar("T")
_LONG = 2  # attempts to skip: the next one waits long enough for a server that looks through a million subjects
_STARTING = 1.0  # seconds for JetStream to start; if nobody takes questions to its API for longer, there is none
_DIRECT = "$JS.API.DIRECT.GET."  # what servers of the stream answer (ADR-31): for a while none may, if leaders die
_SLOWEST = 2**20  # bytes a second of the slowest connection for which the time to wait is enough
_SHARE = 0.7  # of the time left, to wait for the answer to a publish; the rest is to find out what became of it
_PAGE_BYTES = 4 * 2**20  # of a page, within which there is no flow control
_SURELY_STORED = LARGEST - AROUND - LONGEST_LINE  # bytes of a message, whatever its subject is
_DOUBT = 1.0  # seconds in which a leader that knows less than others is not believed
_GONE = 1.0  # seconds after which a server that knows no such stream is believed


class JetStream:
    """Puts requests to JetStream over a connection. Any thread may call it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._calls: set[Call] = set()  # that threads wait for; any thread, by single operations
        self._closed: StoreClosedError | None = None
        self._largest: dict[str, int] = {}  # by stream: bytes of a message with its headers, of those that have a limit
        self._doubts: dict[str, int] = {}  # the number of the last sign that a stream is not what it was, by stream
        self._numbers = count(1)
        self.reported_gone: set[str] = (
            set()
        )  #: streams of which a save has said that they are gone; single operations only

    def epoch(self, stream: str) -> tuple[int, int]:
        """Return a value that changes when a stream may have changed: after a reconnect, and with :meth:`doubt`.

        Args:
            stream: Its name.
        """
        return self._channel.reconnects, self._doubts.get(stream, 0)

    def doubt(self, stream: str) -> None:
        """Note a sign that a stream has changed: it is gone, has other settings, or is another one."""
        self._doubts[stream] = next(self._numbers)

    # -- publishing

    def limit(self, stream: str, largest: int) -> None:
        """Note how large a message of a stream may be.

        Larger ones are refused here, because in the middle of a batch nobody reads the server's answer.

        Args:
            stream: Its name.
            largest: In bytes, including the headers; less than 0 if there is no limit.
        """
        self._largest[stream] = largest

    def publish(
        self, stream: str, messages: Sequence[Outgoing], deadline: Deadline, number: int = 0, batch: bytes = b""
    ) -> Acked:
        """Store messages, all or none, and return the server's answer to the last one.

        A server that runs out of space in the middle may leave a part: see ``saves``.

        Args:
            stream: The name of the stream.
            messages: The messages in order.
            deadline: For all attempts.
            number: How many attempts were made before: each waits longer for the answer.
            batch: The id of the batch; b"" for a single message.

        Raises:
            RefusedError: The last sequence is not the expected one, or the server knows the id of a message.
            BusyError: The server cannot store them now.
            UnknownError: They may be stored, or not.
            DeadlineExceededError: Nothing was sent in time.
            NoRoomError: There is no room for the batch.
            StoreUnavailableError: There is no room for a message, or there is no stream.
            EventTooLargeError: A message is larger than the server or the stream takes.
            AtomicAppendUnsupportedError: The stream takes no batches.
        """
        headers = headers_of(messages, batch)
        size = largest = len(headers[0]) + len(messages[0].data)
        subjects: Collection[str] = (messages[0].subject,)
        last: Last = single
        if batch:
            sizes = [len(head) + len(one.data) for head, one in zip(headers, messages, strict=True)]
            size, largest = sum(sizes), max(sizes)
            subjects, last = {one.subject for one in messages}, is_ack
        self._refuse_too_large(stream, messages, largest)
        self._refuse_if_closed()
        call = self._open_call(subjects, partial(_commands, messages, headers), deadline, last, largest)
        ack = self._await_ack(call, stream, patience(number) + size / _SLOWEST, deadline)
        if ack.error is not None:
            if batch and ack.error.err_code in FULL:
                raise NoRoomError(str(ack.error))
            if ack.error.err_code == ErrorCode.JSAtomicPublishIncompleteBatchErr:
                self._see_limit(stream, deadline)
                self._refuse_too_large(stream, messages, largest)
            raise_for(ack.error)
        if ack.stream != stream:
            raise StoreError(f"stream {ack.stream!r} has these subjects, not {stream!r}")
        return ack

    def _await_ack(self, call: Call, stream: str, patience: float, deadline: Deadline) -> Acked:
        """Wait for the answer to the last message of a publish.

        Raises:
            UnknownError: No answer came.
            NotSentError: Nothing was sent, and there is still time.
            DeadlineExceededError: Nothing was sent in time.
            BusyError: The stream has no leader.
            StoreUnavailableError: The stream is gone.
        """
        try:
            answer = self._await(call, Deadline(min(patience, deadline.remaining() * _SHARE)), deadline)[-1]
        except DeadlineExceededError as error:
            if not call.claim():
                raise UnknownError("the server did not answer") from error
            if deadline.remaining() > TOO_LATE:
                raise NotSentError(f"nothing could be sent{self._channel.why_disconnected()}") from error
            raise self.too_late(deadline) from error
        except (DisconnectedError, ClosedError) as error:
            raise UnknownError(str(error)) from error
        if answer[2] and status_of(answer) == 503:
            self._refuse_if_gone(stream, deadline)
            self.doubt(stream)  # it may have other subjects now
            raise BusyError("no server answers for the stream: it has no leader now")
        try:
            return read_ack(answer[3])
        except msgspec.MsgspecError as error:
            raise UnknownError(f"the answer is none of JetStream's: {answer[3][:80]!r}") from error

    def _refuse_too_large(self, stream: str, messages: Sequence[Outgoing], size: int) -> None:
        """Refuse messages that no server would store: in the middle of a batch nobody reads its answer.

        Args:
            stream: The name of the stream.
            messages: The messages.
            size: The size of the largest in bytes, including the headers.
        """
        if 0 <= self._largest.get(stream, -1) < size:
            raise EventTooLargeError(
                f"an event of {size} bytes, headers included, is larger than the max_msg_size of stream {stream!r}, "
                f"which is {self._largest[stream]}"
            )
        if size > _SURELY_STORED and size > LARGEST - AROUND - max(len(one.subject) for one in messages):
            raise EventTooLargeError(
                f"an event of {size} bytes, headers included, is larger than what nats-server stores in a file, which "
                f"is {LARGEST} bytes with its subject, whatever max_payload is"
            )

    def _see_limit(self, stream: str, deadline: Deadline) -> None:
        """Read again how large a message of a stream may be."""
        config = self._fetch_info(stream, deadline).get("config")
        if config is not None:
            self.limit(stream, config.get("max_msg_size", -1))

    def _refuse_if_gone(self, stream: str, deadline: Deadline) -> None:
        """Raise an error if a stream for which nobody answers is not there at all."""
        pause = Pause(Deadline(min(_GONE, deadline.remaining() / 2)))
        while code_of(self._fetch_info(stream, deadline)) == ErrorCode.JSStreamNotFoundErr:
            if not pause.take():
                self.reported_gone.add(stream)
                raise StoreUnavailableError(gone(stream))

    def _fetch_info(self, stream: str, deadline: Deadline) -> dict[str, Any]:
        """Ask once for the information on a stream; return ``{}`` if there is no answer."""
        call = self._send(f"$JS.API.STREAM.INFO.{stream}", {}, deadline, single)
        try:
            return content_of(self._wait(call, Deadline(min(_GONE, deadline.remaining())), deadline)[0])
        except (DeadlineExceededError, DisconnectedError):
            return {}

    def abandon(self, subject: str, batch: bytes, deadline: Deadline) -> None:
        """Have the server give up a batch that it has not stored whole.

        The server keeps a batch whose commit failed on disk, and stores the rest when it is started again
        (``processJetStreamAtomicBatchMsg`` and ``recoverStream`` of nats-server 2.15). A message that is not the next
        one of the batch ends that.

        Args:
            subject: The subject of one of its records.
            batch: Its id.
            deadline: For all attempts.

        Raises:
            StoreUnavailableError: The server has no room even for that.
        """
        headers = abandoning_headers(batch)
        pause = Pause(deadline)
        while True:
            self._refuse_if_closed()
            call = self._channel.request({subject}, lambda inbox: command(subject, inbox, headers, b""), deadline, 1)
            try:
                (answer,) = self._wait(call, one_try(deadline, 0), deadline)
            except (DeadlineExceededError, DisconnectedError) as failed:
                if not deadline.remaining():
                    raise self.too_late(deadline) from failed
                continue
            error = read_error(answer)
            if error is None or error.err_code not in BUSY:
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
        """Return the last record with a subject, from the leader; None if there is none."""
        return self.ask_last(stream, subject, deadline)(deadline)

    def last_at_least(
        self, stream: str, subject: str, least: int, last: Record | None, deadline: Deadline
    ) -> Record | None:
        """Ask again for the last record with a subject, for a moment, while the leader lacks one that is known.

        A leader that is new may not know yet what others know; one that is cut off from them does not know it any more.

        Args:
            stream: Its name.
            subject: Of the record.
            least: A sequence that the last record has at least.
            last: The leader's first answer.
            deadline: For all requests; half of the time that is left is used.

        Returns:
            The leader's last answer, whether it is the one that it should be or not.
        """
        pause = Pause(Deadline(min(_DOUBT, deadline.remaining() / 2)))
        while (0 if last is None else last.sequence) < least and pause.take():
            last = self.last(stream, subject, deadline)
        return last

    def ask_last(self, stream: str, subject: str, deadline: Deadline) -> Asked[Record | None]:
        """As :meth:`last`, but send the request and return."""
        return self._ask_now(
            f"$JS.API.STREAM.MSG.GET.{stream}", {"last_by_subj": subject}, deadline, single, read_record
        )

    def ask_at(self, stream: str, sequence: int, deadline: Deadline) -> Asked[Record | None]:
        """Send a request for the record at a sequence, to the leader."""
        return self._ask_now(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": sequence}, deadline, single, read_record)

    def next(self, stream: str, subject: str, sequence: int, deadline: Deadline) -> Record | None:
        """Return the first record with a subject from a sequence on, from the leader; None if there is none."""
        return self.ask_next(stream, subject, sequence, deadline)(deadline)

    def ask_next(self, stream: str, subject: str, sequence: int, deadline: Deadline) -> Asked[Record | None]:
        """As :meth:`next`, but send the request and return."""
        body = {"seq": sequence, "next_by_subj": subject}
        return self._ask_now(f"$JS.API.STREAM.MSG.GET.{stream}", body, deadline, single, read_record)

    def ask_page(self, stream: str, subject: str, sequence: int, count: int, deadline: Deadline) -> Asked[Page]:
        """Request records with a subject from a sequence on, to any server of the stream, which may lack some."""
        body = {"seq": sequence, "next_by_subj": subject, "batch": count, "max_bytes": _PAGE_BYTES}
        read = partial(read_page, stream, subject)
        return self._ask_now(f"{_DIRECT}{stream}", body, deadline, is_status, read)

    def ask_records(
        self, stream: str, subject: str, sequence: int, count: int, deadline: Deadline
    ) -> Asked[list[Record]]:
        """As :meth:`ask_page`, for the records alone."""
        body = {"seq": sequence, "next_by_subj": subject, "batch": count, "max_bytes": _PAGE_BYTES}
        read = partial(read_page, stream, subject)
        return self._ask_now(f"{_DIRECT}{stream}", body, deadline, is_status, lambda messages: read(messages).records)

    def ask_one(self, stream: str, sequence: int, deadline: Deadline) -> Asked[list[Record]]:
        """Send a request for the record at a sequence, to any server of the stream; ``[]`` if that one lacks it."""
        return self._ask_now(f"{_DIRECT}{stream}", {"seq": sequence}, deadline, single, read_at)

    def ask_many(
        self, stream: str, subject: str, sequences: Sequence[int], deadline: Deadline
    ) -> Asked[dict[int, Record]]:
        """Send requests for the records at several sequences, to any server of the stream, in one write.

        The answer has those with a subject, by sequence. It lacks what that server lacks, or all of them if not every
        answer came: the requests are not repeated.
        """
        to = f"{_DIRECT}{stream}"
        bodies = [b'{"seq":%d}' % sequence for sequence in sequences]
        call = self._open_call(
            {to},
            lambda inbox: b"".join([command(to, inbox, b"", body) for body in bodies]),
            deadline,
            len(bodies),
        )

        def go_without(_: Deadline) -> list[Message]:
            self.doubt(stream)  # it may allow no direct reads any more
            return []

        return Asked(call, self._wait, partial(read_those_of, subject), go_without)

    def _ask_now(
        self,
        subject: str,
        body: dict[str, Any],
        deadline: Deadline,
        last: Last,
        read: Callable[[list[Message]], T],
    ) -> Asked[T]:
        call = self._send(subject, body, deadline, last)
        return Asked(call, self._wait, read, partial(self._persist, subject, body, last=last, tries=1))

    def counts(self, stream: str, wanted: str, deadline: Deadline) -> dict[str, int]:
        """Return the number of records by subject, for all subjects that match."""

        def ask(offset: int) -> Listed[int]:
            body = {"subjects_filter": wanted, "offset": offset}
            answer = self.request(f"STREAM.INFO.{stream}", body, deadline, tries=_LONG)
            if "error" in answer:
                raise StoreUnavailableError(f"the stream is not read: {said(answer)}")
            return Listed(answer["state"].get("subjects") or {}, answer.get("limit", 0), answer.get("total", 0))

        return all_of(ask)

    def consumers(self, stream: str, deadline: Deadline) -> list[dict[str, Any]]:
        """Return the information on all consumers of a stream whose servers answer."""

        def ask(offset: int) -> Listed[dict[str, Any] | None]:
            answer = self.request(f"CONSUMER.LIST.{stream}", {"offset": offset}, deadline)
            if "error" in answer:
                raise StoreUnavailableError(f"the consumers of {stream!r} are not listed: {said(answer)}")
            page = dict.fromkeys(answer.get("missing") or ()) | {one["name"]: one for one in answer["consumers"] or ()}
            return Listed(page, answer.get("limit", 0), answer.get("total", 0))

        return [one for name, one in all_of(ask).items() if name and one is not None]

    # -- the rest of the API

    def refuse_own_thread(self) -> None:
        """Raise WrongThreadError on the loop thread, which must not wait for what it has to answer."""
        self._channel.refuse_own_thread()

    def request(self, subject: str, body: dict[str, Any], deadline: Deadline, tries: int = 0) -> dict[str, Any]:
        """Repeat a request to the API until it is answered.

        Args:
            subject: What follows ``$JS.API.``.
            body: What becomes JSON.
            deadline: For all attempts.
            tries: Attempts to skip: each waits twice as long for an answer as the one before.

        Returns:
            The answer; an error is under ``error``.

        Raises:
            DeadlineExceededError: No answer came in time.
            StoreUnavailableError: The server has no JetStream.
        """
        return content_of(self._persist(f"$JS.API.{subject}", body, deadline, single, tries)[0])

    def send(self, subject: str) -> None:
        """Send a request to the API whose answer nobody waits for."""
        self._channel.write(command(f"$JS.API.{subject}", b"", b"", b""))

    def _persist(
        self, subject: str, body: dict[str, Any], deadline: Deadline, last: Last, tries: int = 0
    ) -> list[Message]:
        """Repeat a request until there is an answer. It must only read, or do no harm when it is done twice."""
        pause, starting, begun = Pause(deadline), Deadline(_STARTING), monotonic()
        number = tries
        while True:
            self._refuse_if_closed()
            try:
                messages = self._wait(self._send(subject, body, deadline, last), one_try(deadline, number), deadline)
            except (DeadlineExceededError, DisconnectedError) as error:
                if not deadline.remaining():
                    raise self.too_late(deadline) from error
                # A server that did not answer in time may be slow. A link that broke and a server without a leader say
                # nothing of the kind, and the next question may go to a leader that dies: it must not be awaited long.
                number += isinstance(error, DeadlineExceededError)
                continue
            why = why_again(messages[0])
            if not why:
                return messages
            has_none = status_of(messages[0]) and not starting.remaining() and not subject.startswith(_DIRECT)
            if has_none or not pause.take():
                self.doubt(subject.rpartition(".")[2])  # of a stream, perhaps: it may allow no direct reads any more
                raise StoreUnavailableError(f"{why}: {subject} had no other answer for {monotonic() - begun:.1f} s")

    def _send(self, subject: str, body: dict[str, Any], deadline: Deadline, last: Last) -> Call:
        data = json.dumps(body).encode()
        try:
            return self._open_call(
                {subject}, lambda inbox: command(subject, inbox, b"", data), deadline, last, len(data)
            )
        except EventTooLargeError as error:  # sent, it would end the connection, which others may use
            raise StoreUnavailableError(
                f"{subject} is not asked: the question, of {len(data)} bytes, is larger than the server's max_payload"
            ) from error

    def _open_call(
        self,
        subjects: Collection[str],
        make: Callable[[bytes], bytes],
        deadline: Deadline,
        last: Last,
        largest: int = 0,
    ) -> Call:
        """Send a request; see :meth:`Channel.request`."""
        try:
            return self._channel.request(subjects, make, deadline, last, largest)
        except BusClosedError:
            self._refuse_if_closed()
            raise

    def _wait(self, call: Call, patience: Deadline, until: Deadline) -> list[Message]:
        """As :meth:`_await`, and note if an answer says that there is no such stream."""
        answers = self._await(call, patience, until)
        if is_stream_not_found(answers[0]):
            self._note_absence(call)
        return answers

    def _await(self, call: Call, patience: Deadline, until: Deadline) -> list[Message]:
        """Wait for the answers of a call, or until the store is closed.

        Args:
            call: The call.
            patience: The time to wait for the first answer.
            until: The time to wait for all of them, while they come.
        """
        try:
            self._calls.add(call)
            if self._closed is not None:  # it may have been closed before it could see this call
                self._refuse_if_closed()
            return call.wait(patience, until, self._channel.ping)
        except BusClosedError:
            self._refuse_if_closed()  # closing a store closes its own connection, too
            raise
        finally:
            self._calls.discard(call)

    def _note_absence(self, call: Call) -> None:
        for subject in call.subjects:
            if subject.startswith("$JS.API.STREAM."):
                self.doubt(subject.rpartition(".")[2])

    def too_late(self, deadline: Deadline, what: str = "no answer of the server") -> DeadlineExceededError:
        """Return the error of a deadline that has passed, with the reason if there is no connection."""
        return DeadlineExceededError(f"{what} within {deadline}{self._channel.why_disconnected()}")

    # -- its end

    def close(self, error: StoreClosedError) -> None:
        """Raise an error in every thread that waits for an answer, or will."""
        self._closed = error
        for call in list(self._calls):
            call.fail(error)

    def _refuse_if_closed(self) -> None:
        if self._closed is not None:
            raise StoreClosedError(*self._closed.args)


def _commands(messages: Sequence[Outgoing], headers: Sequence[bytes], inbox: bytes) -> bytes:
    """Return the commands of messages that are published together.

    The answer to the first says whether there is room for a batch; that to the last, whether it is stored.
    """
    if len(messages) == 1:
        return command(messages[0].subject, inbox, headers[0], messages[0].data)
    last = len(messages) - 1
    return b"".join(
        command(one.subject, inbox if place in (0, last) else b"", head, one.data)
        for place, (one, head) in enumerate(zip(messages, headers, strict=True))
    )
