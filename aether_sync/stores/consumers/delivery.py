"""``Delivery``: an event that was delivered to a consumer, and is to be settled; ``Settler``: what a store does."""

from collections.abc import Callable
from functools import partial
from threading import RLock
from typing import NamedTuple, Protocol

from ..._arguments import as_seconds, check_flag, check_seconds, is_of
from ..._runtime.deadline import Deadline
from ..._values.clock import monotonic
from ..._values.shown import short
from ...errors import InvalidOptionError, StoreError
from ...events import Event
from ...instrumentation import Operation, observed, observers

__all__ = [
    "Delivery",
    "Origin",
    "Settler",
    "drop_event",
    "extend",
    "failed_reason",
    "give_back",
    "hold",
    "let_go",
    "moment_of_delivery",
    "receipt_of",
    "reload_event",
]


class Origin(NamedTuple):
    """Where deliveries come from: the consumer as the program calls it, the store's stream, and its namespace or ""."""

    consumer: str
    stream: str
    namespace: str


class Settler(Protocol):
    """What a store does to settle the deliveries of one consumption. Any thread may call it.

    A *receipt* is what the store knows a delivery by, and has no meaning here.

    Attributes:
        origin: Where its deliveries come from.
        lock: Guards how its deliveries are settled.
    """

    origin: Origin
    lock: RLock

    def acknowledge(self, receipt: bytes) -> None:
        """Acknowledge a delivery; nobody waits for an answer."""

    def confirm(self, receipt: bytes, deadline: Deadline) -> None:
        """Acknowledge a delivery, and return when that is certain.

        Raises:
            DeadlineExceededError: It was not in time.
        """

    def give_back(self, receipt: bytes, delay: float) -> None:
        """Have a delivery delivered again after some seconds."""

    def return_unhandled(self, receipt: bytes) -> None:
        """Give back a delivery whose turn has not come; after its last one, the event becomes a dead letter."""

    def in_progress(self, receipt: bytes) -> None:
        """Let the ack wait of a delivery begin anew."""

    def bury(self, delivery: "Delivery", reason: str, deadline: Deadline) -> None:
        """Make the event of a delivery a dead letter, and only then acknowledge it."""

    def hold(self, receipt: bytes) -> None:
        """Extend the ack wait of a delivery until it is let go."""

    def let_go(self, receipt: bytes) -> None:
        """Extend the ack wait of a delivery no more."""

    def has_just_extended(self, moment: float) -> bool:
        """Whether the ack wait of what is held since a moment has begun just now."""

    def read(self, sequence: int, deadline: Deadline) -> Event:
        """Read the event of a sequence again."""

    def stored_at(self, receipt: bytes) -> int:
        """Return when the event of a delivery was stored, in nanoseconds since 1970."""


class Delivery:
    """An event to be worked on and then acknowledged. If it is not, it is delivered again, to any process.

    The first call of :meth:`ack`, :meth:`nak` or :meth:`reject` settles the delivery. The same call again does nothing,
    except that ``ack(confirm=True)`` asks the server again; another of them raises ``StoreError``. Any thread may call
    them.

    Attributes:
        event: The event, as any reader gets it.
        sequence: Its place in the store. A handler that records the sequences of the events that had their effect
            recognises by it an event that comes twice.
        attempt: How often the event was delivered, including this time: 1 or more.
        settled: ``"acknowledged"``, ``"given back"`` or ``"rejected"``; "" while the delivery is not settled.
    """

    __slots__ = (
        "_failed_reason",
        "_has_event",
        "_held_since",
        "_receipt",
        "_settler",
        "attempt",
        "event",
        "sequence",
        "settled",
    )

    def __init__(self, event: Event, sequence: int, attempt: int, receipt: bytes, settler: Settler) -> None:
        self.event = event
        self.sequence = sequence
        self.attempt = attempt
        self.settled = ""
        self._receipt = receipt
        self._settler = settler
        self._has_event = True
        self._held_since = 0.0
        self._failed_reason: str | None = None  # why it was rejected, if that failed

    @property
    def consumer(self) -> str:
        """The name of the durable consumer that it was delivered to."""
        return self._settler.origin.consumer

    @property
    def stream(self) -> str:
        """The name of the stream that has the event."""
        return self._settler.origin.stream

    @property
    def namespace(self) -> str:
        """The namespace of the store that has the event; "" if it has none."""
        return self._settler.origin.namespace

    def ack(self, *, confirm: bool = False, timeout: float | None = 5.0) -> None:
        """Acknowledge the event: it is not delivered again.

        Args:
            confirm: Whether to wait until the server confirms the acknowledgement. Without it, the acknowledgement may
                be lost with a connection, and the event is delivered again. It may be delivered again even with it: a
                stream of one replica writes acknowledgements to disk some tenths of a second later, whatever the
                ``sync_interval``, and forgets those of that time if its server is killed.
            timeout: Seconds to wait for the confirmation; None waits for ever.

        Raises:
            DeadlineExceededError: The server did not confirm it in time; it may have noted it, or not. Call it again,
                or work on the event again when it comes.
            StoreError: The delivery was given back or rejected before.
        """
        deadline, confirm = Deadline(timeout), check_flag("confirm", confirm)
        if observers:
            self._observed("ack", partial(self._ack, confirm, deadline))
        else:
            self._ack(confirm, deadline)

    def _observed(self, name: str, settle: Callable[[], None]) -> None:
        """Settle it; observers see that."""
        operation = Operation(
            name=name,
            kind="settle",
            events=(self.event,) if self._has_event else (),
            destination=self.stream,
            consumer=self.consumer,
            sequence=self.sequence,
        )
        with observed(operation):
            settle()

    def _ack(self, confirm: bool, deadline: Deadline) -> None:
        first = self._settle("acknowledged")
        if confirm:
            self._settler.confirm(self._receipt, deadline)
        elif first:
            self._settler.acknowledge(self._receipt)

    def nak(self, delay: float = 0.0) -> None:
        """Give the event back: it is delivered again, to any process.

        Args:
            delay: Seconds until it is delivered again; 0 for at once.

        Raises:
            InvalidOptionError: The delay is not 0 or more.
            StoreError: The delivery was acknowledged or rejected before.
        """
        seconds = as_seconds(delay)
        if seconds is None or seconds < 0:
            raise InvalidOptionError(f"delay must be seconds, 0 or more, not {short(delay)}")
        delay = check_seconds("delay", seconds) if seconds else 0.0
        if observers:
            self._observed("nak", partial(self._nak, delay))
        else:
            self._nak(delay)

    def _nak(self, delay: float) -> None:
        if self._settle("given back"):
            self._settler.give_back(self._receipt, delay)

    def in_progress(self) -> None:
        """Tell the server that work goes on: the ack wait begins anew. It does nothing when the delivery is settled."""
        if not self.settled:
            self._settler.in_progress(self._receipt)

    def reject(self, reason: str, *, timeout: float | None = 5.0) -> None:
        """Give the event up: it is not delivered again. When this returns, it is among the dead letters.

        A dead letter that is rejected stays among the dead letters, and is delivered again after a minute.

        Args:
            reason: Why, for whoever reads the dead letters; the first 4,000 characters are kept.
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceededError: It is not among the dead letters in time. After this and any other error the delivery
                is not settled.
            StoreError: The delivery was acknowledged or given back before.
        """
        deadline = Deadline(timeout)
        if not is_of(reason, str):
            raise InvalidOptionError(f"a reason is a str, for whoever reads the dead letters, not {short(reason)}")
        reason = str.__str__(reason)
        if observers:
            self._observed("reject", partial(self._reject, reason, deadline))
        else:
            self._reject(reason, deadline)

    def _reject(self, reason: str, deadline: Deadline) -> None:
        if self._settle("rejected"):
            try:
                self._settler.bury(self, reason, deadline)
            except BaseException:
                self.settled, self._failed_reason = "", reason
                raise
            let_go(self)

    def _settle(self, how: str) -> bool:
        """Note how the delivery is settled; returns whether it was not settled before."""
        with self._settler.lock:
            if self.settled and self.settled != how:
                raise StoreError(f"{self!r} is {self.settled} already, and cannot be {how} any more")
            first = not self.settled
            self.settled = how
        if how != "rejected":  # that takes a while, during which the ack wait is extended
            let_go(self)
        return first

    def __repr__(self) -> str:
        state = f", {self.settled}" if self.settled else ""
        return f"<Delivery of {self.sequence}, {short(self.event.event_type)}, attempt {self.attempt}{state}>"


# -- what a runner and a source do with a delivery, and a user does not


def hold(delivery: Delivery) -> None:
    """Extend the ack wait of a delivery until it is settled or let go."""
    delivery._held_since = monotonic()
    delivery._settler.hold(delivery._receipt)


def let_go(delivery: Delivery) -> None:
    """Extend the ack wait of a delivery no more."""
    delivery._settler.let_go(delivery._receipt)


def extend(delivery: Delivery) -> None:
    """Let the ack wait begin anew, unless it has just begun.

    A handler may keep all other threads from running: then nothing else extends the ack wait.
    """
    if not delivery._settler.has_just_extended(delivery._held_since):
        delivery.in_progress()


def give_back(delivery: Delivery) -> None:
    """Give back a delivery whose turn has not come.

    Raises:
        StoreError: It was acknowledged or rejected before.
    """
    if delivery._settle("given back"):
        delivery._settler.return_unhandled(delivery._receipt)


def drop_event(delivery: Delivery) -> None:
    """Forget the event, which takes memory; :func:`reload_event` reads it again."""
    delivery._has_event = False
    del delivery.event


def reload_event(delivery: Delivery, deadline: Deadline) -> None:
    """Read the event again if it was dropped, before the user sees the delivery.

    Raises:
        MalformedRecordError: It is not there any more.
    """
    if not delivery._has_event:
        delivery.event = delivery._settler.read(delivery.sequence, deadline)
        delivery._has_event = True


def failed_reason(delivery: Delivery) -> str | None:
    """Return the reason of a rejection that failed; None if there was none."""
    return delivery._failed_reason


def moment_of_delivery(delivery: Delivery) -> int:
    """Return when the event was stored, in nanoseconds since 1970."""
    return delivery._settler.stored_at(delivery._receipt)


def receipt_of(delivery: Delivery) -> bytes:
    """Return what the store knows a delivery by."""
    return delivery._receipt
