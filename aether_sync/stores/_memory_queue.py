"""``DeliveryQueue``: which event of a store in memory a consumer is given next, and what becomes of it then.

A consumer hands out an event by a *claim*: from then on it is delivered, until it is settled, or its ack wait is over
and it is delivered again. A claim is made by one operation that nothing can interrupt; so a signal handler in
between loses no event, whether it raises or uses the same consumer. It may have an event delivered twice, as a server
may, too.
"""

from abc import abstractmethod
from heapq import heappop, heappush
from itertools import count
from math import inf
from typing import NamedTuple

from .._runtime.waits import ParkingLot
from .._values.clock import monotonic, now
from ..patterns import SubscriptionFilter
from ._memory_log import Log, fresh
from .consumers.base import IN_VAIN, UNHANDLED, ConsumerSettings, ConsumerState, DeadLetter, storable

__all__ = ["DeliveryQueue", "EventQueue", "LetterQueue", "Letters", "Taken"]

_LOOKED_AT_ONCE = 1_000  # events that are looked at before others may have the lock

Letters = dict[int, DeadLetter]  #: by sequence, in the order in which they were given up


class Taken(NamedTuple):
    """A delivery: the event's sequence, how often it was delivered, and the receipt."""

    sequence: int
    attempt: int
    receipt: bytes


class _Claim(NamedTuple):
    number: int  # of the delivery: each has its own
    attempt: int
    due: float  # the moment at which it is delivered again


class DeliveryQueue:
    """The deliveries of one consumer. Any thread may call it.

    The log's lock guards it, so that no thread ever waits for one lock while it holds another.

    Args:
        log: The events.
        settings: Those of the consumer.
        letters: The dead letters of the consumer's name.

    Attributes:
        settings: Those of the consumer.
        held: The receipts of what a runner holds, which is not delivered again meanwhile. Single operations only.
        lot: Threads that wait until something is settled.
        is_deleted: The consumer was deleted.
    """

    max_deliver: int | None = None

    def __init__(self, log: Log, settings: ConsumerSettings, letters: Letters) -> None:
        self.settings = settings
        self.held: dict[bytes, None] = {}
        self.lot = ParkingLot()
        self.is_deleted = False
        self._log = log
        self._letters = letters
        self._wanted: SubscriptionFilter = settings.wanted
        self._claims: dict[int, _Claim | None] = {}  # by sequence; None once it is settled
        self._open: dict[int, None] = {}  # sequences of claims, and perhaps one that is settled: see _unsettled()
        self._later: list[tuple[float, int, int]] = []  # heap: due, number and sequence of claims, and of outdated ones
        self._numbers = count(1)

    # -- taking

    def take(self) -> Taken | None:
        """Take the next delivery; None if there is none now."""
        is_over = False
        while not is_over:
            with self._log.lock:
                found = self._take_again()
                if found is None and len(self._open) < self.settings.max_ack_pending:
                    sequence, is_over = self._find_new()
                    found = None if sequence is None else self._deliver(sequence, 1)
                else:
                    is_over = True
            if found is not None:
                return found
        return None

    def _take_again(self) -> Taken | None:
        sequence = self._first_due()
        claim = None if sequence is None else self._claims.get(sequence)
        return None if sequence is None or claim is None else self._deliver(sequence, claim.attempt + 1)

    def _first_due(self) -> int | None:
        """Return the sequence of an event that is to be delivered again now; give up what was delivered in vain."""
        while self._later and self._later[0][0] <= (moment := monotonic()):
            due, number, sequence = entry = self._later[0]
            claim = self._claims.get(sequence)
            if claim is None or (claim.due, claim.number) != (due, number):  # it is outdated
                popped = heappop(self._later)
                if popped is not entry:  # a signal handler has taken it off just now
                    heappush(self._later, popped)
            elif _receipt(sequence, number) in self.held:
                self._put(sequence, claim._replace(due=moment + self.settings.ack_wait))
            elif self.max_deliver is not None and claim.attempt >= self.max_deliver:
                self._give_up(sequence, claim.attempt, IN_VAIN)
            else:
                return sequence
        return None

    @abstractmethod
    def _find_new(self) -> tuple[int | None, bool]:
        """Return the sequence of an event that was not delivered yet, if any, and whether to look no further."""

    def _deliver(self, sequence: int, attempt: int) -> Taken:
        claim = _Claim(next(self._numbers), attempt, monotonic() + self.settings.ack_wait)
        self._open[sequence] = None
        self._put(sequence, claim)
        return Taken(sequence, attempt, _receipt(sequence, claim.number))

    def _put(self, sequence: int, claim: _Claim) -> None:
        heappush(self._later, (claim.due, claim.number, sequence))  # first: an entry without a claim does no harm
        self._claims[sequence] = claim

    def has_some(self) -> bool:
        """Whether there may be something to take now."""
        with self._log.lock:
            is_due = bool(self._later) and self._later[0][0] <= monotonic()
            return is_due or (len(self._open) < self.settings.max_ack_pending and self._has_new())

    @abstractmethod
    def _has_new(self) -> bool:
        """Whether there may be an event that was not delivered yet."""

    def due(self) -> float:
        """Return the moment at which something may be delivered again; ``inf`` if nothing is out."""
        with self._log.lock:
            return self._later[0][0] if self._later else inf

    # -- settling

    def settle(self, receipt: bytes) -> None:
        """Note that an event is acknowledged, by any of its deliveries."""
        with self._log.lock:
            self._settle(_sequence(receipt))

    def _settle(self, sequence: int) -> None:
        was_full = len(self._open) >= self.settings.max_ack_pending
        if sequence in self._claims:
            self._claims[sequence] = None
            self._open.pop(sequence, None)
        self.lot.wake_all()
        if was_full:
            self._log.waiting.wake_all()

    def defer(self, receipt: bytes, delay: float, *, is_taken_back: bool = False) -> None:
        """Deliver an event again after some seconds, if this was its last delivery.

        Args:
            receipt: That of the delivery.
            delay: Seconds.
            is_taken_back: Whether the delivery does not count, as nobody has seen it.
        """
        with self._log.lock:
            sequence, claim = self._current(receipt)
            if claim is not None:
                self._put(sequence, claim._replace(attempt=claim.attempt - is_taken_back, due=monotonic() + delay))
        self._log.waiting.wake_all()

    def begin_anew(self, receipt: bytes) -> None:
        """Let the ack wait of a delivery begin anew, if it is the last one of its event."""
        with self._log.lock:
            sequence, claim = self._current(receipt)
            if claim is not None:
                self._put(sequence, claim._replace(due=monotonic() + self.settings.ack_wait))

    def return_unhandled(self, receipt: bytes) -> bool:
        """Give back a delivery whose turn has not come; returns whether it was the last one, so it is a dead letter."""
        with self._log.lock:
            sequence, claim = self._current(receipt)
            if claim is not None and self.max_deliver is not None and claim.attempt >= self.max_deliver:
                self._give_up(sequence, claim.attempt, UNHANDLED % self.max_deliver)
                return True
        self.defer(receipt, 0)
        return False

    def _current(self, receipt: bytes) -> tuple[int, _Claim | None]:
        """Return the sequence of a delivery, and its claim if that is still the last one."""
        sequence = _sequence(receipt)
        claim = self._claims.get(sequence)
        return sequence, claim if claim is not None and _receipt(sequence, claim.number) == receipt else None

    def bury(self, sequence: int, attempts: int, reason: str) -> None:
        """Make an event a dead letter."""
        with self._log.lock:
            self._give_up(sequence, attempts, storable(reason))

    def _give_up(self, sequence: int, attempts: int, reason: str) -> None:
        event = fresh(self._log[sequence]).event
        self._letters.setdefault(sequence, DeadLetter(sequence, event, attempts, reason, now()))
        self._settle(sequence)
        self._log.waiting.wake_all()  # those who take dead letters

    # -- how far it is

    def sweep(self) -> None:
        """Give up what was delivered in vain, as far as it is the next to be delivered."""
        with self._log.lock:
            self._first_due()

    def _unsettled(self) -> list[int]:
        """Return the sequences of what is delivered and not settled. An interrupt may have left others among them."""
        for sequence in list(self._open):
            if sequence in self._claims and self._claims[sequence] is None:
                self._open.pop(sequence, None)
        return list(self._open)

    def state(self) -> ConsumerState:
        """Return how far the consumer is."""
        with self._log.lock:
            self._first_due()
            unsettled = self._unsettled()
            claims = [claim for sequence in unsettled if (claim := self._claims.get(sequence)) is not None]
            delivered = self._delivered()
        return ConsumerState(
            self.settings.name,
            delivered,
            min(unsettled) - 1 if unsettled else delivered,
            self.count_new(),
            len(unsettled),
            sum(claim.attempt > 1 for claim in claims),
        )

    @abstractmethod
    def _delivered(self) -> int:
        """Return the sequence up to which all was delivered that is wanted."""

    @abstractmethod
    def count_new(self) -> int:
        """Return how many events were not delivered yet."""


class EventQueue(DeliveryQueue):
    """The events that a consumer gets.

    Args:
        log: The events.
        settings: Those of the consumer.
        letters: The dead letters of the consumer's name.
    """

    def __init__(self, log: Log, settings: ConsumerSettings, letters: Letters) -> None:
        super().__init__(log, settings, letters)
        self.max_deliver = settings.max_deliver
        with log.lock:
            self._passed = log.end() if settings.start is None else settings.start  # it may lag behind the claims

    def _find_new(self) -> tuple[int | None, bool]:
        end = self._log.end()
        until = min(end, self._passed + _LOOKED_AT_ONCE)
        for sequence in range(self._passed + 1, until + 1):
            if sequence not in self._claims and self._wanted.matches(self._log[sequence].event):
                return sequence, True
            self._passed = sequence
        return None, until >= end

    def _deliver(self, sequence: int, attempt: int) -> Taken:
        taken = super()._deliver(sequence, attempt)
        if attempt == 1:
            self._passed = sequence
        return taken

    def _has_new(self) -> bool:
        return self._log.end() > self._passed

    def has_passed(self, sequence: int) -> bool:
        """Whether all of its events up to a sequence are settled."""
        with self._log.lock:
            self._first_due()
            is_over = False
            while self._passed < sequence and not is_over:
                found, is_over = self._find_new()
                if found is not None and found <= sequence:
                    return False
            return not any(one <= sequence for one in self._unsettled())

    def last_wanted(self, sequence: int) -> int:
        """Return a sequence, or the last one before it that is of the consumer's actors; 0 if there is none."""
        with self._log.lock:
            latest = self._log.latest()
        of_actors = (one.sequence for one in latest if self._wanted.matches_actor(one.event.actor_id))
        return min(sequence, max(of_actors, default=0))

    def _delivered(self) -> int:
        return self._passed

    def count_new(self) -> int:
        log, passed = self._log, self._passed
        if self._wanted.is_empty:
            return max(0, log.size - passed)
        return sum(self._wanted.matches(log[sequence].event) for sequence in range(passed + 1, log.size + 1))


class LetterQueue(DeliveryQueue):
    """The dead letters of a consumer, for whoever handles them. What is acknowledged is removed from them."""

    def _find_new(self) -> tuple[int | None, bool]:
        return next(iter(self._new()), None), True

    def _new(self) -> list[int]:
        return [
            sequence
            for sequence in list(self._letters)
            if sequence not in self._claims and self._wanted.matches(self._log[sequence].event)
        ]

    def _has_new(self) -> bool:
        return bool(self._new())

    def _settle(self, sequence: int) -> None:
        self._letters.pop(sequence, None)
        super()._settle(sequence)
        self._claims.pop(sequence, None)  # it may become a dead letter again

    def discard(self, sequence: int) -> bool:
        """Remove an event; returns whether it was there."""
        with self._log.lock:
            was_there = sequence in self._letters
            self._settle(sequence)
            return was_there

    def _delivered(self) -> int:
        return max(self._open, default=0)

    def count_new(self) -> int:
        with self._log.lock:
            return len(self._new())


def _receipt(sequence: int, number: int) -> bytes:
    return b"%d %d" % (sequence, number)


def _sequence(receipt: bytes) -> int:
    return int(receipt.partition(b" ")[0])
