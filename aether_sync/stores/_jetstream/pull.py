"""Pulling: the messages of a consumer are requested by the threads that take them, and arrive in a bounded buffer.

The server sends as many messages as were requested, and never more: the others stay in the stream. While a request is
open it sends a heartbeat every second. When that is missing, or a request is lost with a connection, the flow is
*broken*, and has to be begun again.

A server disconnects a client to which it has too many bytes to send (``max_pending``, 64 MiB by default). Therefore all
open requests of one connection together have a bound in bytes, of which each requester gets its share.
"""

import json
import os
import re
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from ..._nats.call import is_status
from ..._nats.channel import Channel
from ..._nats.interest import Mailbox, Message
from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ..._runtime.registry import WeakRegistry
from ..._runtime.waits import ParkingLot
from ..._values.clock import monotonic
from ...errors import AetherError
from .messages import command

__all__ = [
    "EXPIRES",
    "Place",
    "PullBuffer",
    "PullRequester",
    "acknowledgements_of",
    "consumer_of",
    "moment_of",
    "pending_of",
    "place_of",
    "sequences_of",
]

_HEARTBEAT = 1.0  # seconds between heartbeats
_SILENCE = 3.0  # seconds without a message or heartbeat after which the flow is broken
EXPIRES = 30.0  #: seconds that a request stays open
_BYTES = 16 * 2**20  # that one request may bring at most; with half of it here, no more is requested
_ALL_BYTES = 32 * 2**20  # that all open requests of a connection may bring
_LEAST_BYTES = 64 * 2**10  # that each may request in any case, so that none waits for another
_PENDING = re.compile(rb"\r\nNats-Pending-Messages: (\d+)")
_TOO_LARGE = b"exceeds maxbytes"
_ENDS_ONE = (_TOO_LARGE, b"batch completed", b"request timeout", b"no messages")  # a request, but not the flow
_read_ints = msgspec.json.Decoder(list[int]).decode


class Place(NamedTuple):
    """What the reply subject of a message says, to which it is acknowledged (ADR-15).

    Attributes:
        attempt: How often the message was delivered, including this time.
        sequence: Its sequence in the stream.
        number: Its number among all deliveries of the consumer.
    """

    attempt: int
    sequence: int
    number: int


def place_of(reply: bytes) -> Place:
    """Read a reply subject: ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<5 numbers>[.<token>]``."""
    tokens = reply.split(b".")
    if len(tokens) == 9:
        return Place(int(tokens[4]), int(tokens[5]), int(tokens[6]))
    return Place(int(tokens[6]), int(tokens[7]), int(tokens[8]))


def consumer_of(reply: bytes) -> bytes:
    """Read from a reply subject which consumer delivered the message."""
    tokens = reply.split(b".")
    return tokens[3 if len(tokens) == 9 else 5]


def acknowledgements_of(reply: bytes) -> str:
    """Read from a reply subject those to which all messages of its consumer are acknowledged, with a ``>``."""
    tokens = reply.split(b".")
    return b".".join([*tokens[: 4 if len(tokens) == 9 else 6], b">"]).decode()


def pending_of(reply: bytes) -> int:
    """Read from a reply subject how many messages the server had left for the consumer when it sent this one."""
    tokens = reply.split(b".")
    return int(tokens[8 if len(tokens) == 9 else 10])


def moment_of(reply: bytes) -> int:
    """Read from a reply subject when the message was stored, in nanoseconds since 1970."""
    tokens = reply.split(b".")
    return int(tokens[7 if len(tokens) == 9 else 9])


def sequences_of(replies: Sequence[bytes], consumer: bytes, number: int) -> list[int] | None:
    """Read the sequences in the reply subjects of messages in a row, in half of the time that :func:`place_of` takes.

    Args:
        replies: The reply subjects.
        consumer: Of which consumer the messages must be.
        number: The number of the delivery before the first of them.

    Returns:
        The sequences. None if a message is of another consumer, was delivered before, or has not the number that comes
        next, or if their sequences or their numbers differ in length: then look at each by itself.
    """
    first, count = replies[0], len(replies)
    start = first.find(b".%b.1." % consumer) + len(consumer) + 4  # after the attempt
    end = first.find(b".", first.find(b".", start) + 1) + 1  # after the number
    text = b"".join([reply[:end] for reply in replies]).replace(first[:start], b"")
    width = end - start
    if len(text) != count * width or text[width - 1 :: width] != b"." * count:
        return None
    try:
        numbers = _read_ints(b"[%b]" % text[:-1].replace(b".", b","))
    except msgspec.DecodeError:
        return None
    if len(numbers) != 2 * count or numbers[1::2] != [*range(number + 1, number + count + 1)]:
        return None
    return numbers[::2]


class PullBuffer:
    """The messages that have arrived. It refers to nobody, so that whoever uses it can be garbage-collected."""

    def __init__(self) -> None:
        self.lock = signal_safe_lock()  # guards the fields below
        self.changed = ParkingLot()
        self.arrived: deque[Message] = deque()
        self.asked = 0  # messages that were requested and may still arrive
        self.asked_bytes = 0  # the bytes of them, at most
        self.is_broken = True
        self.is_too_large = False  # the next message is larger than the bytes that a request allows
        self.error: AetherError | None = None
        self._last_sign = 0.0
        self._newest: bytes | int = 0  # the reply subject of the newest message, or what is left where there is none

    @property
    def left(self) -> int:
        """The messages that the server had left when it sent the newest one that is known here, or the flow began."""
        newest = self._newest
        return newest if isinstance(newest, int) else pending_of(newest)

    def note_left(self, count: int) -> None:
        """Note how many messages the server has for the consumer with which another flow is about to begin."""
        self._newest = count

    def begin(self, keep: bool = False) -> None:
        """Begin another flow.

        Args:
            keep: Whether to keep the messages that have arrived.
        """
        with self.lock:
            if not keep:
                self.arrived.clear()
            self.asked = self.asked_bytes = 0
            self.is_broken = False
            self._last_sign = monotonic()

    def silence(self) -> float:
        """Return the seconds of further silence after which the flow is broken; 0 if it is."""
        if self.is_broken:
            return 0.0
        return max(0.0, self._last_sign + _SILENCE - monotonic()) if self.asked else _SILENCE

    @property
    def is_full(self) -> bool:
        """Whether so many bytes wait here to be taken that no more may be requested."""
        return sum([len(message[3]) for message in [*self.arrived]]) > _BYTES // 2

    def note_request(self, count: int, size: int) -> None:
        """Note a request for some messages, of some bytes at most."""
        with self.lock:
            if not self.asked:
                self._last_sign = monotonic()
            self.asked += count
            self.asked_bytes += size

    # -- the loop thread

    def take(self, messages: list[Message]) -> None:
        """Take in messages that have arrived."""
        with self.lock:
            self._last_sign = monotonic()
            came = [message for message in messages if not is_status(message)]
            for message in messages if len(came) < len(messages) else ():
                if is_status(message):
                    self._heed(message)
            self._note_answered(len(came))
            if came:
                self._newest = came[-1][1]
            self._arrive(came)
            if came or self.is_broken or not self.asked:  # in the last case, a caller has to request more
                self.changed.wake(len(came) or len(self.changed))

    def _arrive(self, messages: list[Message]) -> None:
        self.arrived.extend(messages)

    def _heed(self, status: Message) -> None:
        text = status[2].lower()
        if text.startswith(b"nats/1.0 100"):  # a heartbeat
            return
        left = _PENDING.search(status[2])
        if left is not None and any(one in text for one in _ENDS_ONE):
            self.is_too_large = _TOO_LARGE in text and not self.arrived
            self._note_answered(int(left[1]))
        else:
            self._break()

    def _note_answered(self, count: int) -> None:
        """Note that some of the requested messages do not arrive any more.

        All are taken to be of one size: large messages end a request before its number is reached.
        """
        left = max(0, self.asked - count)
        self.asked_bytes = self.asked_bytes * left // (self.asked or 1)
        self.asked = left

    def _break(self) -> None:
        self.is_broken = True
        self.asked_bytes = 0

    def break_off(self) -> None:
        """Note that the requests are lost."""
        with self.lock:
            self._break()
            self.changed.wake_all()

    def refuse(self, _: str, error: AetherError) -> None:
        """Note that a request was denied."""
        self.end(error)

    def end(self, error: AetherError) -> None:
        """Note that no message arrives any more, because of an error."""
        with self.lock:
            self.error = self.error or error
            self.asked_bytes = 0
            self.changed.wake_all()


class PullRequester:
    """Requests messages of a consumer while there is room for them.

    Args:
        channel: What is used of the connection.
        stream: The consumer's stream.
        window: How many messages may be requested and not yet taken, at most. Any thread may change it.
        buffer: Where they arrive; by default one of its own.
        drains: Whether messages that are on their way still arrive after :meth:`close`.
    """

    def __init__(
        self,
        channel: Channel,
        stream: str,
        window: int,
        buffer: PullBuffer | None = None,
        *,
        drains: bool = False,
    ) -> None:
        self.buffer = buffer = buffer or PullBuffer()
        self._channel = channel
        self._stream = stream
        self.window = window
        self._next = ""  # the subject of requests
        self.is_over = False  #: it requests nothing any more
        subject = f"_INBOX.{os.urandom(12).hex()}"
        group = "drains" if drains else None
        self.mailbox = Mailbox(subject, buffer.take, moved=buffer.break_off, ended=buffer.end, group=group)
        _requesters.add(self)

    def subscribe(self, deadline: Deadline) -> None:
        """Subscribe to the messages, once."""
        if not self.mailbox.confirmed.done:
            self._channel.subscribe(self.mailbox)
            self._channel.await_confirmation(self.mailbox, deadline)

    def begin(self, consumer: str, *, keep: bool = False) -> None:
        """Request messages of a consumer from now on.

        Args:
            consumer: Its name on the server.
            keep: Whether to keep the messages that have arrived from the last one.
        """
        self._channel.off_refusal(self._next, self.buffer.refuse)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        self._channel.on_refusal(self._next, self.buffer.refuse)
        self.buffer.begin(keep)
        self.request_more()

    def request_more(self) -> None:
        """Request more messages, if at least half of the window is free."""
        buffer = self.buffer
        with buffer.lock:
            count = self.window - buffer.asked - len(buffer.arrived)
            if buffer.is_broken or count * 2 < self.window or buffer.is_full:
                return
            is_too_large, buffer.is_too_large = buffer.is_too_large and not buffer.arrived, False
            count = 1 if is_too_large else count
            size = self._share()
            buffer.note_request(count, size)
        request = {"batch": count, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        if not is_too_large:
            request["max_bytes"] = size
        subject = self._next
        self._channel.write(command(subject, self.mailbox.subject.encode(), b"", json.dumps(request).encode()))

    def _share(self) -> int:
        """Return how many bytes may be requested now: always some, and never all that are free: others get some, too.

        Accepted race: two threads that request at the same time may both count on the same bytes. That does no harm, as
        the bound is half of what a server allows.
        """
        here = [one for one in _requesters if one._channel.slot is self._channel.slot and not one.is_over]
        free = _ALL_BYTES - sum(one.buffer.asked_bytes for one in here)
        return max(_LEAST_BYTES, min(_BYTES, _ALL_BYTES // max(1, len(here)), free // 2))

    def close(self) -> None:
        """Unsubscribe."""
        self._channel.off_refusal(self._next, self.buffer.refuse)
        self._channel.unsubscribe(self.mailbox)
        self.is_over = True  # last: if an exception comes before, it is closed again

    def await_last(self, deadline: Deadline) -> None:
        """After :meth:`close`, wait until no message is on its way any more."""
        self._channel.await_last([self.mailbox], deadline)


_requesters: WeakRegistry[PullRequester] = WeakRegistry()
