"""What has come for a consumption, handed out in the order of each actor's events, also across a broken link.

What the server had sent when a link broke, and what never came, it sends again only once its ack wait is over, and what
is later at once. So after a break an event is *set aside* as long as one before it of its actor may be missing: until
that one comes, or would have come.

- Deliveries of a consumer are numbered. How far they came is known here, and how far they were sent the server says
  when it is asked before anything more is: what is between them is missing.
- An event says which one is before it of its actor: the condition under which it was stored
  (``Nats-Expected-Last-Subject-Sequence``); without one, it is of its own batch. Of what others have stored without
  either, all that is missing may be before it.
- What was asked for before the break may still be open on the server, which does not know yet that the link is dead,
  and goes on to send there. So what is missing in the numbers until that has expired was lost as well.
- Where other processes consume, too, they may have what is missing here, and no order is promised: there is a gap in
  the numbers that come here, and nothing is set aside.
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

_GRACE = 5.0  # seconds behind the ack wait, for what is sent again to come
_OTHERS_STAY = 60.0  # seconds in which who was seen to consume, too, is there
_ASIDE = 64 * 2**20  # bytes set aside, before no more is asked for until what is missing was sent again

_sequence = attrgetter("sequence")


class Arrivals(PullBuffer):
    """What has come for a consumption, and was not handed out yet.

    Args:
        ack_wait: Seconds after which the server sends again what was not acknowledged.
    """

    def __init__(self, ack_wait: float) -> None:
        super().__init__()
        self._ack_wait = ack_wait
        self._next: deque[Message] = deque()  # to be handed out before what has arrived
        self._late: list[Message] = []  # what has come since the flow broke off
        self._number: int | None = None  # of the last delivery; None: the order does not matter
        self._sequence = 0  # of the last event that was delivered for the first time
        self._others_seen = -inf  # when
        self._alone_until = -inf  # what is missing in the numbers was lost, and is not another's
        self._has_gap = False  # some were lost since the last event that was delivered for the first time
        self._missing: _Missing | None = None

    def learn(self, info: dict[str, Any]) -> None:
        """Heed what the server says of the consumer, asked before a flow is begun."""
        with self.lock:
            number, sequence = info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"]
            floor = info["ack_floor"]["stream_seq"]
            if self._missing is not None:  # while the flow was broken nothing could be sent again
                self._expect_again().forget(floor)
            if self._number is not None and not self._has_company():
                self._alone_until = monotonic() + EXPIRES
                if number > self._number:
                    self._expect_again().add(max(floor, self._sequence), sequence)
            self._number, self._sequence, self._has_gap = number, sequence, False

    def _has_company(self) -> bool:
        return monotonic() - self._others_seen < _OTHERS_STAY

    def _expect_again(self) -> "_Missing":
        """Wait from now on for what the server sends again."""
        self._missing = self._missing or _Missing()
        self._missing.due = monotonic() + self._ack_wait
        return self._missing

    def begin(self, keep: bool = False) -> None:
        """Begin another flow; what is forgotten comes again, too."""
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
        elif self.is_broken:  # until it is known what is missing before them
            self._late += messages
        else:
            self.arrived.extend(messages)
            self._note([reply for _, reply, *_ in messages], self._number)

    def _note(self, replies: list[bytes], before: int) -> None:
        """Note how far deliveries have come, after those up to a number."""
        number = place_of(replies[-1]).number
        if number - before > len(replies) or self._has_gap:
            if monotonic() < self._alone_until:
                self._note_lost(replies, before)
            else:
                self._others_seen, self._has_gap = monotonic(), False
        first_times = (place.sequence for place in map(place_of, reversed(replies)) if place.attempt == 1)
        self._number, self._sequence = max(before, number), max(self._sequence, next(first_times, 0))

    def _note_lost(self, replies: list[bytes], before: int) -> None:
        """Note what was sent between these, and never came."""
        for place in map(place_of, replies):
            self._has_gap = self._has_gap or place.number > before + 1
            before = place.number
            if place.sequence > self._sequence:
                if self._has_gap:
                    self._expect_again().add(self._sequence, place.sequence - 1)
                self._sequence, self._has_gap = place.sequence, False

    # -- handing out

    @property
    def has_some(self) -> bool:
        """Whether something may be handed out."""
        return bool(self._next or self.arrived)

    @property
    def is_full(self) -> bool:
        """Whether so much waits here, or is set aside, that no more is to be asked for."""
        missing = self._missing
        is_aside = missing is not None and missing.size > _ASIDE and monotonic() < missing.due
        return is_aside or super().is_full

    def ahead(self, count: int) -> list[Message]:
        """Return what is handed out next, up to a number of messages; it stays here."""
        with self.lock:
            return list(islice(chain(self._next, self.arrived), count))

    def pop(self) -> Message | None:
        """Take the next one whose turn it is."""
        with self.lock:
            try:
                if self._missing is not None:
                    self._sort_out(self._missing)
                return (self._next or self.arrived).popleft()
            except LookupError:  # there is none, or a handler has closed it amid this
                return None

    def _sort_out(self, missing: "_Missing") -> None:
        """Set aside what has to wait, up to the first that has not."""
        while self.arrived and not self._next:
            missing.admit(self.arrived.popleft(), self._next)
        if missing.is_empty or (not self.is_broken and monotonic() > missing.due + _GRACE):
            self._next.extend(missing.waiting())
            self._missing = None
        if len(self._next) > 1:
            self.changed.wake(len(self._next) - 1)

    def put_back(self, messages: list[Message]) -> None:
        """Take back what was handed out last, to be the next."""
        with self.lock:
            self._next.extendleft(reversed(messages))

    def replies(self) -> list[bytes]:
        """Where all is acknowledged that was not handed out."""
        with self.lock:
            aside = () if self._missing is None else self._missing.waiting()
            return [reply for _, reply, *_ in (*self._next, *self.arrived, *self._late, *aside)]

    def clear(self) -> None:
        """Forget what was not handed out."""
        with self.lock:
            for one in (self._next, self.arrived, self._late):
                one.clear()
            if self._missing is not None:
                self._missing.clear()


class _Waiting(NamedTuple):
    """What waits for an event before it, which is one of those from ``first`` to ``last``."""

    sequence: int
    first: int
    last: int
    message: Message

    @classmethod
    def of(cls, message: Message) -> "_Waiting":
        """Read which one is before it."""
        sequence = place_of(message[1]).sequence
        record = Record(sequence, "", message[2], b"")
        before, member = record.expected, record.member
        place = 0 if member is None else member.number
        if before is not None:
            return cls(sequence, before, before, message)
        return cls(sequence, sequence - place + 1 if place > 1 else 1, sequence - 1, message)


class _Missing:
    """Sequences that may have been sent and never came, and what waits for them. Guarded by the lock of arrivals.

    Attributes:
        single: Some of them; the others are in ranges.
        due: When the server has sent all of them again.
        size: Bytes of what waits.
    """

    def __init__(self) -> None:
        self.single: set[int] = set()
        self.due = 0.0
        self.size = 0
        self._ranges: list[tuple[int, int]] = []  # behind the first of each, up to the second
        self._came: set[int] = set()  # of those in the ranges
        self._rows: dict[bytes, list[_Waiting]] = {}  # by subject, in the order of the store

    def forget(self, floor: int) -> None:
        """Forget what is not behind a sequence: all that is acknowledged."""
        self.single = {one for one in self.single if one > floor}
        self._ranges = [one for one in self._ranges if one[1] > floor]
        self._came = set(filter(self._is_in_a_range, self._came))

    def add(self, low: int, high: int) -> None:
        """Add what is behind a sequence, up to another."""
        low = max([low, *(end for _, end in self._ranges)])
        if low < high:
            self._ranges.append((low, high))

    @property
    def is_empty(self) -> bool:
        """Whether all have come."""
        return not self.single and len(self._came) == sum(high - low for low, high in self._ranges)

    def _is_in_a_range(self, sequence: int) -> bool:
        return any(low < sequence <= high for low, high in self._ranges)

    def waiting(self) -> list[Message]:
        """Return what waits, in the order of the store."""
        return [one.message for one in sorted(chain.from_iterable(self._rows.values()), key=_sequence)]

    def clear(self) -> None:
        """Forget what waits."""
        self._rows.clear()
        self.size = 0

    def admit(self, message: Message, free: deque[Message]) -> None:
        """Take one that has come; hand on those whose turn it is now. An interrupt may hand some on twice."""
        subject, one = message[0], _Waiting.of(message)
        was_missing = self._takes(one.sequence)
        row = self._rows.get(subject)
        if row is None and not self._holds(one):
            free.append(message)
        else:
            row = self._rows.setdefault(subject, [])
            place = bisect_left(row, one.sequence, key=_sequence)
            if place < len(row) and row[place].sequence == one.sequence:  # it came twice
                self.size -= len(row.pop(place).message[3])
            row.insert(place, one)
            self.size += len(message[3])
            if not place:
                self._free(subject, free)
        if was_missing:
            for other in list(self._rows):
                self._free(other, free)

    def _takes(self, sequence: int) -> bool:
        """Note that one has come; returns whether it was missing."""
        was_missing = self._is_missing(sequence)
        self.single.discard(sequence)
        if self._is_in_a_range(sequence):
            self._came.add(sequence)
        return was_missing

    def _is_missing(self, sequence: int) -> bool:
        return sequence in self.single or (self._is_in_a_range(sequence) and sequence not in self._came)

    def _free(self, subject: bytes, free: deque[Message]) -> None:
        """Hand on those of an actor whose turn it is."""
        row = self._rows[subject]
        first = [one.message for one in takewhile(lambda one: not self._holds(one), row)]
        free.extend(first)
        self.size -= sum(len(message[3]) for message in first)
        del row[: len(first)]
        if not row:
            del self._rows[subject]

    def _holds(self, one: _Waiting) -> bool:
        """Whether the one before it may be missing."""
        if one.first == one.last:
            return self._is_missing(one.last)
        if any(one.first <= sequence <= one.last for sequence in self.single):
            return True
        cut = ((max(low, one.first - 1), min(high, one.last)) for low, high in self._ranges)
        wanted = sum(high - low for low, high in cut if low < high)
        return wanted > sum(one.first <= sequence <= one.last for sequence in self._came)
