"""``Arrivals``: messages that have arrived for a consumption, taken in the order of each actor's events.

That order also holds when a connection breaks. What the server had sent when it broke, and what never arrived, is sent
again when its ack wait is over; what was stored later is sent at once. So after a break a message is *set aside* as
long as an earlier one of its actor may be missing: until that one arrives, or would have arrived.

- Deliveries of a consumer are numbered. This module knows the last number that arrived. The server says, when it is
  asked before anything more is requested, which number it sent last: those in between are missing.
- An event says which event of its actor is before it, by the condition under which it was stored
  (``Nats-Expected-Last-Subject-Sequence``); without one, that event is in the same batch. For events that others have
  stored without either, any of the missing messages may be before them.
- A request from before the break may still be open on the server, which does not know yet that the connection is dead,
  and goes on sending there. So numbers that are missing until that request has expired were lost as well.
- Where other processes consume, too, they may have what is missing here, and no order is promised. They are noticed by
  gaps in the numbers, and then nothing is set aside.
"""

from bisect import bisect_left
from collections import deque
from itertools import chain, islice, takewhile
from math import inf
from operator import attrgetter
from typing import Any, NamedTuple

from ..._nats.interest import Message
from ..._values.clock import monotonic
from .._jetstream.messages import Record
from .._jetstream.pull import EXPIRES, PullBuffer, place_of

__all__ = ["Arrivals"]

_GRACE = 5.0  # seconds after the ack wait in which what is sent again may still arrive
_OTHERS_STAY = 60.0  # seconds in which another process that was noticed is believed to consume
_ASIDE = 64 * 2**20  # bytes set aside: beyond that, no more is requested until what is missing was sent again

_sequence = attrgetter("sequence")


class Arrivals(PullBuffer):
    """Messages that have arrived for a consumption and are not taken yet.

    Args:
        ack_wait: Seconds after which the server sends a message again that was not acknowledged.
    """

    def __init__(self, ack_wait: float) -> None:
        super().__init__()
        self._ack_wait = ack_wait
        self._next: deque[Message] = deque()  # to be taken before those that have arrived
        self._late: list[Message] = []  # that have arrived since the flow broke off
        self._number: int | None = None  # of the last delivery; None: the order does not matter
        self._sequence = 0  # of the last event that was delivered for the first time
        self._others_seen = -inf  # when another process was noticed
        self._alone_until = -inf  # until then, missing numbers were lost, and did not go to another process
        self._has_gap = False  # messages were lost since the last event that was delivered for the first time
        self._missing: _Missing | None = None

    def learn(self, info: dict[str, Any]) -> None:
        """Note the server's information on the consumer, which is asked for before a flow begins."""
        with self.lock:
            number, sequence = info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"]
            floor = info["ack_floor"]["stream_seq"]
            if self._missing is not None:  # nothing could be sent again while the flow was broken
                self._expect_again().forget(floor)
            if self._number is not None and not self._has_company():
                self._alone_until = monotonic() + EXPIRES
                if number > self._number:
                    self._expect_again().add(max(floor, self._sequence), sequence)
            self._number, self._sequence, self._has_gap = number, sequence, False

    def _has_company(self) -> bool:
        return monotonic() - self._others_seen < _OTHERS_STAY

    def _expect_again(self) -> "_Missing":
        """Wait, from now on, for what the server sends again."""
        self._missing = self._missing or _Missing()
        self._missing.due = monotonic() + self._ack_wait
        return self._missing

    def begin(self, keep: bool = False) -> None:
        """Begin another flow. Messages that are not kept are sent again, too."""
        with self.lock:
            if not keep:
                forgotten = [place_of(reply).sequence for reply in self.replies()]
                self.clear()
                if forgotten and self._number is not None and not self._has_company():
                    self._expect_again().single.update(forgotten)
            super().begin(keep)
            late, self._late = self._late, []
            self._arrive(late)

    def _arrive(self, messages: list[Message]) -> None:
        if self._number is None or not messages:
            self.arrived.extend(messages)
        elif self.is_broken:  # it is not known yet what is missing before them
            self._late += messages
        else:
            self.arrived.extend(messages)
            self._note([reply for _, reply, *_ in messages], self._number)

    def _note(self, replies: list[bytes], before: int) -> None:
        """Note that messages have arrived after the one with a number."""
        number = place_of(replies[-1]).number
        if number - before > len(replies) or self._has_gap:
            if monotonic() < self._alone_until:
                self._note_lost(replies, before)
            else:
                self._others_seen, self._has_gap = monotonic(), False
        first_times = (place.sequence for place in map(place_of, reversed(replies)) if place.attempt == 1)
        self._number, self._sequence = max(before, number), max(self._sequence, next(first_times, 0))

    def _note_lost(self, replies: list[bytes], before: int) -> None:
        """Note what was sent between these messages and never arrived."""
        for place in map(place_of, replies):
            self._has_gap = self._has_gap or place.number > before + 1
            before = place.number
            if place.sequence > self._sequence:
                if self._has_gap:
                    self._expect_again().add(self._sequence, place.sequence - 1)
                self._sequence, self._has_gap = place.sequence, False

    # -- taking

    @property
    def has_some(self) -> bool:
        """Whether a message may be taken."""
        return bool(self._next or self.arrived)

    @property
    def is_full(self) -> bool:
        """Whether so much waits here, or is set aside, that no more may be requested."""
        missing = self._missing
        is_aside = missing is not None and missing.size > _ASIDE and monotonic() < missing.due
        return is_aside or super().is_full

    def ahead(self, count: int) -> list[Message]:
        """Return the messages that are taken next, up to a number; they stay here."""
        with self.lock:
            return list(islice(chain(self._next, self.arrived), count))

    def pop(self) -> Message | None:
        """Take the next message; None if there is none."""
        with self.lock:
            try:
                if self._missing is not None:
                    self._sort_out(self._missing)
                return (self._next or self.arrived).popleft()
            except LookupError:  # there is none, or a signal handler has closed the consumption here
                return None

    def _sort_out(self, missing: "_Missing") -> None:
        """Set aside the messages that have to wait, up to the first that need not."""
        while self.arrived and not self._next:
            missing.admit(self.arrived.popleft(), self._next)
        if missing.is_empty or (not self.is_broken and monotonic() > missing.due + _GRACE):
            self._next.extend(missing.waiting())
            self._missing = None
        if len(self._next) > 1:
            self.changed.wake(len(self._next) - 1)

    def put_back(self, messages: list[Message]) -> None:
        """Take back messages that were taken last: they are the next."""
        with self.lock:
            self._next.extendleft(reversed(messages))

    def replies(self) -> list[bytes]:
        """Return the reply subjects of all messages that are not taken."""
        with self.lock:
            aside = () if self._missing is None else self._missing.waiting()
            return [reply for _, reply, *_ in (*self._next, *self.arrived, *self._late, *aside)]

    def clear(self) -> None:
        """Forget all messages that are not taken."""
        with self.lock:
            for one in (self._next, self.arrived, self._late):
                one.clear()
            if self._missing is not None:
                self._missing.clear()


class _Waiting(NamedTuple):
    """A message that waits for an earlier one, whose sequence is one of those from ``first`` to ``last``."""

    sequence: int
    first: int
    last: int
    message: Message

    @classmethod
    def of(cls, message: Message) -> "_Waiting":
        """Read from a message which one it waits for."""
        sequence = place_of(message[1]).sequence
        record = Record(sequence, "", message[2], b"")
        before, member = record.expected, record.member
        place = 0 if member is None else member.number
        if before is not None:
            return cls(sequence, before, before, message)
        return cls(sequence, sequence - place + 1 if place > 1 else 1, sequence - 1, message)


class _Missing:
    """Sequences that may have been sent and never arrived, and the messages that wait for them.

    The lock of the arrivals guards it.

    Attributes:
        single: Some of the sequences; the others are in ranges.
        due: The moment at which the server has sent all of them again.
        size: The bytes of the messages that wait.
    """

    def __init__(self) -> None:
        self.single: set[int] = set()
        self.due = 0.0
        self.size = 0
        self._ranges: list[tuple[int, int]] = []  # each after the first number, up to the second
        self._came: set[int] = set()  # of those in the ranges
        self._rows: dict[bytes, list[_Waiting]] = {}  # by subject, in the order of the store

    def forget(self, floor: int) -> None:
        """Forget the sequences up to one: all of these are acknowledged."""
        self.single = {one for one in self.single if one > floor}
        self._ranges = [one for one in self._ranges if one[1] > floor]
        self._came = set(filter(self._is_in_a_range, self._came))

    def add(self, low: int, high: int) -> None:
        """Add the sequences after one, up to another."""
        low = max([low, *(end for _, end in self._ranges)])
        if low < high:
            self._ranges.append((low, high))

    @property
    def is_empty(self) -> bool:
        """Whether all have arrived."""
        return not self.single and len(self._came) == sum(high - low for low, high in self._ranges)

    def _is_in_a_range(self, sequence: int) -> bool:
        return any(low < sequence <= high for low, high in self._ranges)

    def waiting(self) -> list[Message]:
        """Return the messages that wait, in the order of the store."""
        return [one.message for one in sorted(chain.from_iterable(self._rows.values()), key=_sequence)]

    def clear(self) -> None:
        """Forget the messages that wait."""
        self._rows.clear()
        self.size = 0

    def admit(self, message: Message, free: deque[Message]) -> None:
        """Admit a message that has arrived, and append the messages that may be taken now to ``free``.

        Accepted race: an interrupt may append some twice. A message that comes twice does no harm.
        """
        subject, one = message[0], _Waiting.of(message)
        was_missing = self._takes(one.sequence)
        row = self._rows.get(subject)
        if row is None and not self._holds(one):
            free.append(message)
        else:
            row = self._rows.setdefault(subject, [])
            place = bisect_left(row, one.sequence, key=_sequence)
            if place < len(row) and row[place].sequence == one.sequence:  # it arrived twice
                self.size -= len(row.pop(place).message[3])
            row.insert(place, one)
            self.size += len(message[3])
            if not place:
                self._free(subject, free)
        if was_missing:
            for other in list(self._rows):
                self._free(other, free)

    def _takes(self, sequence: int) -> bool:
        """Note that a sequence has arrived; returns whether it was missing."""
        was_missing = self._is_missing(sequence)
        self.single.discard(sequence)
        if self._is_in_a_range(sequence):
            self._came.add(sequence)
        return was_missing

    def _is_missing(self, sequence: int) -> bool:
        return sequence in self.single or (self._is_in_a_range(sequence) and sequence not in self._came)

    def _free(self, subject: bytes, free: deque[Message]) -> None:
        """Append the messages of an actor that may be taken now to ``free``."""
        row = self._rows[subject]
        first = [one.message for one in takewhile(lambda one: not self._holds(one), row)]
        free.extend(first)
        self.size -= sum(len(message[3]) for message in first)
        del row[: len(first)]
        if not row:
            del self._rows[subject]

    def _holds(self, one: _Waiting) -> bool:
        """Whether the message that this one waits for may be missing."""
        if one.first == one.last:
            return self._is_missing(one.last)
        if any(one.first <= sequence <= one.last for sequence in self.single):
            return True
        cut = ((max(low, one.first - 1), min(high, one.last)) for low, high in self._ranges)
        wanted = sum(high - low for low, high in cut if low < high)
        return wanted > sum(one.first <= sequence <= one.last for sequence in self._came)
