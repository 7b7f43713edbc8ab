"""``Delivery``: an event that was delivered to a consumer, and is to be settled.

To settle it, a word is sent to the subject that the server named with the message (https://docs.nats.io/reference/
reference-protocols/nats_api_reference): ``+ACK`` or ``-NAK``; ``+WPI`` says that work is in progress. The word may be
lost with a connection: then the server delivers the event again when the ack wait is over.
"""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import NamedTuple

from ..._arguments import as_seconds, check_flag, check_seconds, is_of
from ..._nats.call import is_status
from ..._nats.channel import Channel
from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ..._values.clock import monotonic
from ..._values.shown import short
from ...errors import DeadlineExceededError, DisconnectedError, InvalidOptionError, StoreError
from ...events import Event
from ...instrumentation import Operation, observed, observers
from .._jetstream.messages import command
from .._jetstream.pull import moment_of
from .._jetstream.tries import Pause
from .ack_extender import _IN_PROGRESS, ACK, AckExtender, nak

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
    "reload_event",
    "send_word",
]

_TRY = 1.5  # seconds for one answer


class Origin(NamedTuple):
    """Where deliveries come from: the consumer as the program calls it, the store's stream, and its namespace or ""."""

    consumer: str
    stream: str
    namespace: str


class Settler:
    """Settles the deliveries of one consumption. Any thread may call it.

    Args:
        channel: Sends the words.
        extender: Extends the ack wait of deliveries that are held.
        bury: Puts a delivery into the dead-letter stream, with a reason, within a deadline.
        read: Reads the event of a sequence again, within a deadline.
        origin: Where its deliveries come from.
    """

    def __init__(
        self,
        channel: Channel,
        extender: AckExtender,
        bury: Callable[["Delivery", str, Deadline], object],
        read: Callable[[int, Deadline], Event],
        origin: Origin,
    ) -> None:
        self._channel = channel
        self.extender = extender
        self.bury = bury
        self.read = read
        self.origin = origin
        self.lock = signal_safe_lock()  # guards how its deliveries are settled

    def send(self, reply: bytes, word: bytes) -> None:
        """Send a word for a delivery; nobody waits for an answer."""
        self._channel.write(command(reply.decode(), b"", b"", word))

    def confirm(self, reply: bytes, deadline: Deadline) -> None:
        """Acknowledge a delivery, again and again until the server confirms it.

        Raises:
            DeadlineExceededError: The server did not confirm it in time.
        """
        subject = reply.decode()
        pause = Pause(deadline)
        while True:
            with suppress(DeadlineExceededError, DisconnectedError):
                call = self._channel.request({subject}, lambda inbox: command(subject, inbox, b"", ACK), deadline)
                (answer,) = call.wait(Deadline(min(_TRY, deadline.remaining())))
                if not is_status(answer):  # a status: nobody was there to note it
                    return
            if not pause.take():
                raise DeadlineExceededError(
                    f"the server has not confirmed the acknowledgement within {deadline}"
                    f"{self._channel.why_disconnected()}: the event may come again. To acknowledge it once more is safe"
                )


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
        "_reply",
        "_settler",
        "attempt",
        "event",
        "sequence",
        "settled",
    )

    def __init__(self, event: Event, sequence: int, attempt: int, reply: bytes, settler: Settler) -> None:
        self.event = event
        self.sequence = sequence
        self.attempt = attempt
        self.settled = ""
        self._reply = reply
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
            self._settler.confirm(self._reply, deadline)
        elif first:
            self._settler.send(self._reply, ACK)

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
            self._settler.send(self._reply, nak(delay))

    def in_progress(self) -> None:
        """Tell the server that work goes on: the ack wait begins anew. It does nothing when the delivery is settled."""
        if not self.settled:
            self._settler.send(self._reply, _IN_PROGRESS)

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
    delivery._settler.extender.held[delivery._reply] = None


def let_go(delivery: Delivery) -> None:
    """Extend the ack wait of a delivery no more."""
    delivery._settler.extender.held.pop(delivery._reply, None)


def extend(delivery: Delivery) -> None:
    """Let the ack wait begin anew, unless it has just begun.

    A handler may keep all other threads from running: then nothing else extends the ack wait.
    """
    if not delivery._settler.extender.has_just_extended(delivery._held_since):
        delivery.in_progress()


def give_back(delivery: Delivery) -> None:
    """Give back a delivery whose turn has not come.

    Raises:
        StoreError: It was acknowledged or rejected before.
    """
    if delivery._settle("given back"):
        delivery._settler.extender.return_all([delivery._reply])


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
    """Return when the message was stored, in nanoseconds since 1970."""
    return moment_of(delivery._reply)


def send_word(delivery: Delivery, word: bytes) -> None:
    """Send a word to the server without settling it."""
    delivery._settler.send(delivery._reply, word)
