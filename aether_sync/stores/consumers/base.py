"""The values of durable consumers, which are the same for every store."""

from dataclasses import dataclass

from ..._values.clock import Datetime
from ...events import Event
from ...patterns import SubscriptionFilter

__all__ = [
    "ADVICE",
    "AGAIN",
    "IN_VAIN",
    "SAME",
    "UNHANDLED",
    "ConsumerSettings",
    "ConsumerState",
    "DeadLetter",
    "storable",
]

_LONGEST_REASON = 4_000  # characters that are kept
AGAIN = 60.0  #: seconds after which a dead letter that stays is delivered again
#: Why an event is given up that nobody has settled.
IN_VAIN = "it was delivered as often as may be, and never acknowledged"
#: Why an event is given up that no handler has seen the last time; with the number of deliveries.
UNHANDLED = "its last delivery (max_deliver is %d) was given back by a close, before its turn"
#: What to do about a consumer with other settings.
ADVICE = (
    "Use the same in every process. To change them and keep the position: end all processes, note "
    "state().acknowledged, call delete(), and begin with the new settings and start= that number; the guide's page on "
    "consumers has a program for it. A consumer of another name is a new one, which begins with the first event "
    "unless start= is given"
)
#: What to do about a consumer of dead letters with other settings.
SAME = "Use the same in every process"


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """What the processes that share a consumer agree on.

    Attributes:
        name: The consumer's name on the server.
        wanted: Which events it gets.
        start: The sequence after which a new one begins; None for the end of the store at that moment.
        ack_wait: Seconds until an event that is not acknowledged is delivered again.
        max_deliver: How often an event is delivered at most.
        max_ack_pending: How many events may be delivered and not acknowledged, in all processes together.
    """

    name: str
    wanted: SubscriptionFilter
    start: int | None
    ack_wait: float
    max_deliver: int
    max_ack_pending: int


@dataclass(frozen=True, slots=True)
class ConsumerState:
    """How far a durable consumer is.

    Attributes:
        name: The consumer's name on the server: the one given to ``store.consumer()``, escaped.
        delivered: The sequence of the last event that was delivered for the first time.
        acknowledged: The sequence up to which every event is acknowledged.
        waiting: The number of events that were not delivered yet.
        unacknowledged: The number of events that were delivered, and are being worked on.
        redelivered: The number of events that were delivered more than once and are not acknowledged, as the server
            counts them: some of those in ``unacknowledged``, and those that were given up after ``max_deliver``
            deliveries without an answer, which the server goes on to count. Those that a handler rejects are not
            counted.
    """

    name: str
    delivered: int
    acknowledged: int
    waiting: int
    unacknowledged: int
    redelivered: int


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a consumer gave up.

    Attributes:
        sequence: The event's place in the store.
        event: The event; None if the record at that place is not an event.
        attempts: How often it was delivered.
        reason: Why it was given up.
        timestamp: When it was given up, an aware ``datetime``.
    """

    sequence: int
    event: Event | None
    attempts: int
    reason: str
    timestamp: Datetime


def storable(reason: str) -> str:
    """Return a reason as it can be stored: cut if it is long, and without lone surrogates, which no reader accepts."""
    text = reason[:_LONGEST_REASON].encode(errors="replace").decode()
    return text if len(reason) <= _LONGEST_REASON else f"{text}... (cut: it has {len(reason):,} characters)"
