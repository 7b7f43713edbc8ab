"""``Source``: how a consumption makes deliveries of messages: of events, or of pointers in the dead-letter stream."""

from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar, Protocol

from ..._nats.interest import Message
from ..._runtime.deadline import Deadline
from ..._runtime.reporter import Burst, Details, Kind
from ...errors import AetherError, DeadlineExceededError, DisconnectedError, MalformedRecordError, StoreUnavailableError
from ...events import Event
from ...patterns import SubscriptionFilter
from .._jetstream.messages import IN_BATCH, Record
from .._jetstream.parts import StoreParts
from .._jetstream.pull import place_of
from .._jetstream.saves import Verdict, save_of
from . import durable
from .base import AGAIN
from .dead_letters import Advisory, DeadLetterStream
from .delivery import Delivery, receipt_of
from .settling import ServerSettler

__all__ = ["Events", "Pointers", "Source"]

_FETCH = 5.0  # seconds to read the event that a pointer points to
_BURY = 5.0  # seconds to put a record that is not an event into the dead-letter stream
_ASK = 1.0  # seconds to find out whether saves are whole
_AT_ONCE = 256  # messages for which that is found out together


class Source(Protocol):
    """Makes deliveries of messages.

    Attributes:
        is_ordered: Whether the messages of an actor have to be taken in the order of the store.
    """

    is_ordered: ClassVar[bool]

    def fetch_info(self, consumer: str, deadline: Deadline) -> dict[str, Any]:
        """Return the server's information on the consumer, which should be there."""

    def verdict(self, message: Message, ahead: Callable[[int], list[Message]]) -> Verdict:
        """Return whether the save is whole that a message belongs to.

        Args:
            message: The message.
            ahead: Returns the messages that are taken next, up to a number: they are found out together.
        """

    def read(self, message: Message, settler: ServerSettler, passed: list[bytes]) -> Delivery | None:
        """Make a delivery of a message; None if it is not wanted.

        Args:
            message: The message.
            settler: Settles the delivery.
            passed: The reply subjects of messages to acknowledge: that of a message that is not wanted is appended.
        """

    def event(self, sequence: int, deadline: Deadline) -> Event:
        """Read the event of a delivery again."""

    def bury(self, settler: ServerSettler, delivery: Delivery, reason: str, deadline: Deadline) -> None:
        """Put a delivery into the dead-letter stream."""


class Events:
    """The events of the store, for a consumer."""

    is_ordered: ClassVar[bool] = True

    def __init__(
        self,
        parts: StoreParts,
        dead_letters: DeadLetterStream,
        consumer: str,
        filter: SubscriptionFilter,  # noqa: A002
    ) -> None:
        self._jetstream = parts.jetstream
        self._names = parts.names
        self._reporter = parts.reporter
        self._reader = parts.reader
        self._dead_letters = dead_letters
        self._consumer = consumer
        self._filter = filter
        self._burst = Burst()  # of records that are no events

    def fetch_info(self, consumer: str, deadline: Deadline) -> dict[str, Any]:
        """Return the server's information on the consumer, which should be there."""
        return durable.fetch_info(self._jetstream, self._names.stream, consumer, deadline)

    def verdict(self, message: Message, ahead: Callable[[int], list[Message]]) -> Verdict:
        """Return whether the save of a message is whole, and find it out for many at once; OPEN if it is not known."""
        if IN_BATCH not in message[2]:
            return Verdict.WHOLE
        saves, record = self._reader.saves, _record(message)
        save = save_of(record)
        verdict = Verdict.WHOLE if save is None else saves.known(save)
        if save is None or verdict is not None:
            return verdict or Verdict.WHOLE
        with suppress(DeadlineExceededError, DisconnectedError, StoreUnavailableError):
            saves.judge([record, *map(_record, ahead(_AT_ONCE))], Deadline(_ASK))
        return saves.known(save) or Verdict.OPEN

    def read(self, message: Message, settler: ServerSettler, passed: list[bytes]) -> Delivery | None:
        """Make a delivery of a message; None if it is not an event that is wanted."""
        subject, reply, _, data = message
        attempt, sequence, _ = place_of(reply)
        try:
            event = self._reader.event(sequence, subject, data)
        except MalformedRecordError as error:
            self._bury_malformed(attempt, reply, settler, error)
            return None
        if self._filter.matches(event):
            return Delivery(event, sequence, attempt, reply, settler)
        passed.append(reply)
        return None

    def _bury_malformed(self, attempt: int, reply: bytes, settler: ServerSettler, error: MalformedRecordError) -> None:
        if self._burst.opens():
            text = "%r skips a record that is not an event: %s"
            stream = self._names.stream
            about: Details = {"stream": stream, "consumer": self._consumer, "sequence": error.sequence}
            self._reporter.warning(Kind.MALFORMED_RECORD, text, self._consumer, error, **about)
        try:
            self._dead_letters.bury(self._consumer, error.sequence, attempt, str(error), Deadline(_BURY))
        except AetherError:  # the message is delivered again
            return
        settler.acknowledge(reply)

    def event(self, sequence: int, deadline: Deadline) -> Event:
        """Read the event of a delivery again."""
        return self._dead_letters.event(sequence, deadline)

    def bury(self, settler: ServerSettler, delivery: Delivery, reason: str, deadline: Deadline) -> None:
        """Put a delivery into the dead-letter stream, and only then acknowledge it."""
        self._dead_letters.bury(self._consumer, delivery.sequence, delivery.attempt, reason, deadline)
        settler.acknowledge(receipt_of(delivery))


class Pointers:
    """The dead letters of a consumer, for whoever handles them."""

    is_ordered: ClassVar[bool] = False  # they are in the order in which they were given up

    def __init__(
        self,
        parts: StoreParts,
        dead_letters: DeadLetterStream,
        filter: SubscriptionFilter,  # noqa: A002
    ) -> None:
        self._jetstream = parts.jetstream
        self._names = parts.names
        self._reporter = parts.reporter
        self._dead_letters = dead_letters
        self._filter = filter
        self._burst = Burst()  # of records that are no events

    def fetch_info(self, consumer: str, deadline: Deadline) -> dict[str, Any]:
        """Return the server's information on the consumer, which should be there."""
        return durable.fetch_info(self._jetstream, self._names.dead_letters, consumer, deadline)

    def verdict(self, message: Message, ahead: Callable[[int], list[Message]]) -> Verdict:
        """Return that it is whole: each pointer is stored alone."""
        return Verdict.WHOLE

    def read(self, message: Message, settler: ServerSettler, passed: list[bytes]) -> Delivery | None:
        """Make a delivery of a message; None if it does not point to an event that is wanted. Then it stays."""
        _, reply, _, data = message
        attempt, sequence, _ = place_of(reply)
        try:
            pointer = Advisory.of(sequence, data)
            event = self._dead_letters.event(pointer.stream_seq, Deadline(_FETCH))
        except MalformedRecordError as error:
            if self._burst.opens():
                text = "a dead letter without an event stays where it is: %s"
                self._reporter.warning(Kind.MALFORMED_RECORD, text, error, stream=self._names.stream)
            settler.give_back(reply, AGAIN)
            return None
        except (DeadlineExceededError, DisconnectedError, StoreUnavailableError):  # the message is delivered again
            settler.give_back(reply, 1.0)
            return None
        if not self._filter.matches(event):
            settler.give_back(reply, AGAIN)
            return None
        return Delivery(event, pointer.stream_seq, attempt, reply, settler)

    def event(self, sequence: int, deadline: Deadline) -> Event:
        """Read the event of a delivery again."""
        return self._dead_letters.event(sequence, deadline)

    def bury(self, settler: ServerSettler, delivery: Delivery, reason: str, deadline: Deadline) -> None:
        """Leave it where it is: it is a dead letter already."""
        settler.give_back(receipt_of(delivery), AGAIN)


def _record(message: Message) -> Record:
    """Return a message as a record without its body."""
    subject, reply, headers, _ = message
    return Record(place_of(reply).sequence, subject.decode(errors="backslashreplace"), headers, b"")
