"""The dead-letter stream: pointers to the events that consumers gave up, to be looked at and handled again.

Events arrive here in two ways. An event that a handler rejects is published here, and acknowledged only when it is
stored. An event that is delivered ``max_deliver`` times without an answer, as when each process dies that works on it,
is announced by the server with an advisory, which this stream captures; so is one whose last delivery a close gives
back. The server sends an advisory once: if this stream has no leader at that moment, the event is missing here. Nothing
can find it later, as the server does not say which events have used up their deliveries. The event itself is in the
store in any case: here is only its sequence.
"""

import json
import os
from typing import Annotated, Any

import msgspec

from ..._runtime.deadline import Deadline
from ..._runtime.reporter import Burst, Details, Kind
from ..._values.clock import Datetime, now
from ...errors import DeadlineExceededError, MalformedRecordError
from ...events import MAX_VERSION, Event
from .._jetstream.answers import BusyError, UnknownError
from .._jetstream.messages import Outgoing, Record
from .._jetstream.names import Names
from .._jetstream.parts import StoreParts
from .._jetstream.stream import Stream
from .._jetstream.tries import Asked, Pause
from .base import IN_VAIN, DeadLetter, storable

__all__ = ["Advisory", "DeadLetterStream"]

_PAGE = 1_000  # pointers
_AT_ONCE = 256  # events that are requested before the first answer is awaited


class Advisory(msgspec.Struct, frozen=True):
    """A record of the dead-letter stream: an advisory of the server, or a message of our own in the same shape.

    The server's are of the types ``io.nats.jetstream.advisory.v1.max_deliver`` and ``.terminated``.
    """

    stream_seq: Annotated[int, msgspec.Meta(ge=1, le=MAX_VERSION)]
    timestamp: Annotated[Datetime, msgspec.Meta(tz=True)]
    deliveries: int = 0
    reason: str = IN_VAIN

    @classmethod
    def of(cls, sequence: int, data: bytes) -> "Advisory":
        """Read a record.

        Args:
            sequence: Its sequence in this stream, for the error.
            data: Its body.

        Raises:
            MalformedRecordError: It is not an advisory.
        """
        try:
            return _read(data)
        except msgspec.MsgspecError as error:
            raise MalformedRecordError(
                f"record {sequence} of the dead-letter stream is no advisory", sequence, data
            ) from error


_read = msgspec.json.Decoder(Advisory).decode


class DeadLetterStream:
    """The dead-letter stream of one store. Any thread may call it."""

    def __init__(self, parts: StoreParts) -> None:
        self._jetstream = parts.jetstream
        self._names = parts.names
        self._reader = parts.reader
        self._reporter = parts.reporter
        self._stream = Stream(parts.jetstream, _settings(parts.names), parts.stream)
        self._burst = Burst()  # of records that are no pointers

    def open(self, deadline: Deadline) -> None:
        """Make the stream if it is not there.

        Raises:
            StreamMismatchError: The stream is there with other settings.
        """
        self._stream.open(deadline)

    def bury(self, consumer: str, sequence: int, attempts: int, reason: str, deadline: Deadline) -> None:
        """Store a pointer to an event.

        Args:
            consumer: The consumer's name on the server.
            sequence: Of the event, in the store.
            attempts: How often it was delivered.
            reason: Why it is given up.
            deadline: For all attempts to store it.

        Raises:
            DeadlineExceededError: It may be stored, or not.
        """
        body = {
            "type": "aether_sync.rejected",
            "timestamp": now().isoformat(),
            "stream": self._names.stream,
            "consumer": consumer,
            "stream_seq": sequence,
            "deliveries": attempts,
            "reason": storable(reason),
        }
        data = json.dumps(body, ensure_ascii=False).encode()
        message = Outgoing(f"{self._names.dead_letters}.{consumer}", os.urandom(16).hex(), None, data)
        pause = Pause(deadline)
        while True:
            try:
                self._jetstream.publish(self._names.dead_letters, [message], deadline)
            except (BusyError, UnknownError) as error:
                if not pause.take():
                    raise DeadlineExceededError(
                        f"event {sequence} is not in the dead-letter stream within {deadline}: {error}"
                    ) from error
            else:
                return

    def event(self, sequence: int, deadline: Deadline) -> Event:
        """Return the event at a sequence of the store.

        Raises:
            MalformedRecordError: The record there is not an event.
        """
        return self._decoded(sequence, self._ask(sequence, deadline)(deadline))

    def read_all(self, consumer: str, limit: int, deadline: Deadline) -> list[DeadLetter]:
        """Return the dead letters of a consumer, up to a number of them, in the order of the store."""
        found: dict[int, Advisory] = {}
        for _, one in self._pointers(consumer, deadline):
            if len(found) < limit:
                found.setdefault(one.stream_seq, one)
        wanted = [found[sequence] for sequence in sorted(found)]
        parts = (wanted[begin : begin + _AT_ONCE] for begin in range(0, len(wanted), _AT_ONCE))
        return [one for part in parts for one in self._whole(part, deadline)]

    def discard(self, consumer: str, sequence: int, deadline: Deadline) -> bool:
        """Delete the pointers to an event; returns whether there were any."""
        places = [place for place, one in self._pointers(consumer, deadline) if one.stream_seq == sequence]
        for place in places:
            subject = f"STREAM.MSG.DELETE.{self._names.dead_letters}"
            self._jetstream.request(subject, {"seq": place, "no_erase": True}, deadline)
        return bool(places)

    def _whole(self, pointers: list[Advisory], deadline: Deadline) -> list[DeadLetter]:
        """Read the events that some advisories point to; all requests are sent before the first answer is awaited."""
        asked: list[Asked[Record | None]] = []
        try:
            asked.extend(self._ask(one.stream_seq, deadline) for one in pointers)
            return [self._found(one, ask(deadline)) for one, ask in zip(pointers, asked, strict=True)]
        finally:
            for ask in asked:
                ask.forget()

    def _ask(self, sequence: int, deadline: Deadline) -> Asked[Record | None]:
        return self._jetstream.ask_next(self._names.stream, self._names.all_events, sequence, deadline)

    def _found(self, one: Advisory, record: Record | None) -> DeadLetter:
        event, reason = None, one.reason
        try:
            event = self._decoded(one.stream_seq, record)
        except MalformedRecordError as error:
            reason = f"{reason}; {error}" if reason != str(error) else reason
        return DeadLetter(one.stream_seq, event, one.deliveries, reason, one.timestamp)

    def _decoded(self, sequence: int, record: Record | None) -> Event:
        if record is None or record.sequence != sequence:
            raise MalformedRecordError(f"there is no record {sequence} any more", sequence, b"")
        return self._reader.decoded(record)

    def _pointers(self, consumer: str, deadline: Deadline) -> list[tuple[int, Advisory]]:
        """Read all pointers of a consumer, with their sequences in this stream; other records are skipped."""
        found = []
        for record in self._records(consumer, deadline):
            try:
                found.append((record.sequence, Advisory.of(record.sequence, record.data)))
            except MalformedRecordError as error:
                if self._burst.opens():
                    text = "a record of the dead letters of consumer %r is skipped: %s"
                    details: Details = {"stream": self._names.stream, "consumer": consumer}
                    self._reporter.warning(Kind.MALFORMED_RECORD, text, consumer, error, **details)
        return found

    def _records(self, consumer: str, deadline: Deadline) -> list[Record]:
        """Read all records of a consumer: pages from any server, then from the leader what that server lacks."""
        if self._stream.find(deadline) is None:
            return []
        found: list[Record] = []
        for subject in self._names.dead_letter_subjects(consumer):
            after, pending = 0, 1
            while pending:
                page = self._jetstream.ask_page(self._names.dead_letters, subject, after + 1, _PAGE, deadline)(deadline)
                found += page.records
                pending = page.pending if page.records else 0
                after = page.records[-1].sequence if page.records else after
            while (record := self._jetstream.next(self._names.dead_letters, subject, after + 1, deadline)) is not None:
                found.append(record)
                after = record.sequence
        return sorted(found)


def _settings(names: Names) -> dict[str, Any]:
    return {
        "name": names.dead_letters,
        "subjects": names.dead_letter_subjects("*"),
        "retention": "workqueue",
        "discard": "old",
        "storage": "file",
        "allow_direct": True,
    }
