"""Messages of a consumer, pulled into a bounded buffer by the threads that take them.

The server sends what it was asked for, and never more: what nobody takes stays in the stream. While a question is open
it says every second that it is still there; when it does not, or what was asked is lost with a connection, the flow is
*broken*, and who takes from it begins a new one.

A server cuts off a client that it has more to send to than it holds back (``max_pending``, 64 MiB by default). So what
all who pull over one connection ask for together has a bound in bytes, of which each gets its share.
"""

import json
import os
import re
from collections import deque
from typing import NamedTuple

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

__all__ = ["EXPIRES", "PullBuffer", "Place", "PullRequester", "moment_of", "place_of"]

_HEARTBEAT = 1.0  # seconds
_SILENCE = 3.0  # seconds after which nobody is there
EXPIRES = 30.0  # seconds that a question stays open
_BYTES = 16 * 2**20  # that one question may bring at most, and that are held here before more are asked for
_ALL_BYTES = 32 * 2**20  # that all open questions of a connection may bring
_LEAST_BYTES = 64 * 2**10  # that each may ask for in any case, so that none waits for another
_PENDING = re.compile(rb"\r\nNats-Pending-Messages: (\d+)")
_TOO_LARGE = b"exceeds maxbytes"
_ENDS_ONE = (_TOO_LARGE, b"batch completed", b"request timeout", b"no messages")  # but not the flow


class Place(NamedTuple):
    """What the subject for the acknowledgement of a message says (ADR-15).

    Attributes:
        attempt: How often it was delivered, this time included.
        sequence: Its place in the stream.
        number: Its place among all deliveries of the consumer.
    """

    attempt: int
    sequence: int
    number: int


def place_of(reply: bytes) -> Place:
    """Read where a message stands: ``$JS.ACK.[<domain>.<account>.]<stream>.<consumer>.<5 numbers>[.<token>]``."""
    tokens = reply.split(b".")
    if len(tokens) == 9:
        return Place(int(tokens[4]), int(tokens[5]), int(tokens[6]))
    return Place(int(tokens[6]), int(tokens[7]), int(tokens[8]))


def moment_of(reply: bytes) -> int:
    """Read when a message was stored, in nanoseconds since 1970."""
    tokens = reply.split(b".")
    return int(tokens[7 if len(tokens) == 9 else 9])


class PullBuffer:
    """What has come from the server. It knows nobody, so that who drops it can be collected."""

    def __init__(self) -> None:
        self.lock = signal_safe_lock()  # guards the fields below
        self.changed = ParkingLot()
        self.arrived: deque[Message] = deque()
        self.asked = 0  # messages that may still come
        self.asked_bytes = 0  # of them, at most
        self.is_broken = True
        self.is_too_large = False  # the next message, for a question with a bound of bytes
        self.error: AetherError | None = None
        self._last_sign = 0.0

    def begin(self, keep: bool = False) -> None:
        """Begin another flow; forget what has come, unless it is kept."""
        with self.lock:
            if not keep:
                self.arrived.clear()
            self.asked = self.asked_bytes = 0
            self.is_broken = False
            self._last_sign = monotonic()

    def silence(self) -> float:
        """Seconds until nobody can be there any more; 0 if nobody is."""
        if self.is_broken:
            return 0.0
        return max(0.0, self._last_sign + _SILENCE - monotonic()) if self.asked else _SILENCE

    @property
    def is_full(self) -> bool:
        """Whether no more is to be asked for: as many bytes wait here to be taken as may."""
        return sum([len(message[3]) for message in [*self.arrived]]) > _BYTES // 2

    def note_request(self, count: int, size: int) -> None:
        """Note that so many more may come, of so many bytes."""
        with self.lock:
            if not self.asked:
                self._last_sign = monotonic()
            self.asked += count
            self.asked_bytes += size

    # -- the loop thread

    def take(self, messages: list[Message]) -> None:
        """Take what has arrived."""
        with self.lock:
            self._last_sign = monotonic()
            came = [message for message in messages if not is_status(message)]
            for message in messages if len(came) < len(messages) else ():
                if is_status(message):
                    self._heed(message)
            self._note_answered(len(came))
            self._arrive(came)
            if came or self.is_broken or not self.asked:  # who is woken for nothing asks again
                self.changed.wake(len(came) or len(self.changed))

    def _arrive(self, messages: list[Message]) -> None:
        self.arrived.extend(messages)

    def _heed(self, status: Message) -> None:
        text = status[2].lower()
        if text.startswith(b"nats/1.0 100"):  # it is still there
            return
        left = _PENDING.search(status[2])
        if left is not None and any(one in text for one in _ENDS_ONE):
            self.is_too_large = _TOO_LARGE in text and not self.arrived
            self._note_answered(int(left[1]))
        else:
            self._break()

    def _note_answered(self, count: int) -> None:
        """Note that so many come no more, as if all were of one size: large ones end a question before its number."""
        left = max(0, self.asked - count)
        self.asked_bytes = self.asked_bytes * left // (self.asked or 1)
        self.asked = left

    def _break(self) -> None:
        self.is_broken = True
        self.asked_bytes = 0

    def break_off(self) -> None:
        """What was asked is lost."""
        with self.lock:
            self._break()
            self.changed.wake_all()

    def end(self, error: AetherError) -> None:
        """Nothing comes any more."""
        with self.lock:
            self.error = self.error or error
            self.asked_bytes = 0
            self.changed.wake_all()


class PullRequester:
    """Asks a consumer for messages, as there is room.

    Args:
        channel: Over which.
        stream: Of which.
        window: Messages asked for and not yet taken, at most.
        buffer: Where they arrive; by default one of its own.
        drains: Whether what is on its way still arrives after :meth:`close`.
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
        self._window = window
        self._next = ""  # whom questions are put to
        self.is_over = False  #: it asks for nothing any more
        subject = f"_INBOX.{os.urandom(12).hex()}"
        group = "drains" if drains else None
        self.mailbox = Mailbox(subject, buffer.take, moved=buffer.break_off, ended=buffer.end, group=group)
        _requesters.add(self)

    def subscribe(self, deadline: Deadline) -> None:
        """Have answers sent here, if they are not yet."""
        if not self.mailbox.confirmed.done:
            self._channel.subscribe(self.mailbox)
            self._channel.await_confirmation(self.mailbox, deadline)

    def begin(self, consumer: str, *, keep: bool = False) -> None:
        """Pull from this consumer from now on; what has come of the last is forgotten, unless it is kept."""
        self._channel.on_refusal(self._next, None)
        self._next = f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}"
        self._channel.on_refusal(self._next, self.buffer.end)
        self.buffer.begin(keep)
        self.request_more()

    def request_more(self) -> None:
        """Ask for more once half of what may be here is gone."""
        buffer = self.buffer
        with buffer.lock:
            count = self._window - buffer.asked - len(buffer.arrived)
            if buffer.is_broken or count * 2 < self._window or buffer.is_full:
                return
            is_too_large, buffer.is_too_large = buffer.is_too_large and not buffer.arrived, False
            count = 1 if is_too_large else count
            size = self._share()
            buffer.note_request(count, size)
        question = {"batch": count, "expires": int(EXPIRES * 1e9), "idle_heartbeat": int(_HEARTBEAT * 1e9)}
        if not is_too_large:
            question["max_bytes"] = size
        subject = self._next
        self._channel.write(command(subject, self.mailbox.subject.encode(), b"", json.dumps(question).encode()))

    def _share(self) -> int:
        """How many bytes may be asked for now: always some, and always less than there are, for whoever comes next.

        Accepted race: two who ask at the same time both count on what is free. The bound is half of what a server holds
        back.
        """
        here = [one for one in _requesters if one._channel.slot is self._channel.slot and not one.is_over]
        free = _ALL_BYTES - sum(one.buffer.asked_bytes for one in here)
        return max(_LEAST_BYTES, min(_BYTES, _ALL_BYTES // max(1, len(here)), free // 2))

    def close(self) -> None:
        """Have nothing sent here any more."""
        self._channel.on_refusal(self._next, None)
        self._channel.unsubscribe(self.mailbox)
        self.is_over = True  # in the end: an exception may come before that

    def await_last(self, deadline: Deadline) -> None:
        """After :meth:`close`: wait until nothing is on its way any more."""
        self._channel.await_last([self.mailbox], deadline)


_requesters: WeakRegistry[PullRequester] = WeakRegistry()
