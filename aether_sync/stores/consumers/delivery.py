"""``Delivery``: an event that a consumer was given to work on, until it is settled.

Settling is a word to the subject that the server named with the message (https://docs.nats.io/reference/
reference-protocols/nats_api_reference): ``+ACK``, ``-NAK``, ``+WPI`` for work in progress. The word may be lost with a
connection; the server then delivers again when the ack wait is over.
"""

from collections.abc import Callable
from contextlib import suppress

from ..._arguments import as_seconds, check_flag, check_seconds, is_of
from ..._nats.channel import Channel
from ..._nats.requests import is_status
from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ..._values.clock import monotonic
from ..._values.shown import short
from ...errors import DeadlineExceededError, DisconnectedError, InvalidOptionError, StoreError
from ...events import Event
from .._jetstream.api import Pause
from .._jetstream.messages import command
from .ack_extender import _IN_PROGRESS, ACK, AckExtender, nak

__all__ = [
    "Delivery",
    "Settler",
    "drop_event",
    "extend",
    "failed_reason",
    "hold",
    "let_go",
    "reload_event",
    "send_word",
]

_TRY = 1.5  # seconds for one answer


class Settler:
    """Where the deliveries of one consumer are settled.

    Args:
        channel: Over which.
        keeper: Who keeps those that are not.
        bury: Puts one into the dead-letter stream, for a reason, within a deadline.
        read: Reads the event of a sequence again.
    """

    def __init__(
        self,
        channel: Channel,
        extender: AckExtender,
        bury: Callable[["Delivery", str, Deadline], object],
        read: Callable[[int, Deadline], Event],
    ) -> None:
        self._channel = channel
        self.extender = extender
        self.bury = bury
        self.read = read
        self.lock = signal_safe_lock()  # guards how its deliveries are settled

    def send(self, reply: bytes, word: bytes) -> None:
        """Send a word for a delivery; nobody waits for an answer."""
        self._channel.write(command(reply.decode(), b"", b"", word))

    def confirm(self, reply: bytes, deadline: Deadline) -> None:
        """Acknowledge a delivery, until the server says that it knows; it may be told twice.

        Raises:
            DeadlineExceededError: It did not say so in time.
        """
        subject = reply.decode()
        pause = Pause(deadline)
        while True:
            with suppress(DeadlineExceededError, DisconnectedError):
                call = self._channel.request({subject}, lambda inbox: command(subject, inbox, b"", ACK), deadline)
                (answer,) = call.wait(Deadline(min(_TRY, deadline.remaining())))
                if not is_status(answer):  # else nobody is there who would know
                    return
            if not pause.take():
                raise DeadlineExceededError(
                    f"the server has not confirmed the acknowledgement within {deadline}"
                    f"{self._channel.why_disconnected()}: the event may come again. To acknowledge it once more is safe"
                )


class Delivery:
    """An event to be worked on, and then acknowledged: otherwise it is delivered again, to any process.

    The first of :meth:`ack`, :meth:`nak` and :meth:`reject` settles it. The same once more does nothing (but for an
    ``ack(confirm=True)``, which asks again); another one is a ``StoreError``. Any thread may call them.

    Attributes:
        event: The event, as any reader gets it.
        sequence: Its place in the store: what a handler compares to know an event that it has had already.
        attempt: How often it was delivered, this time included: 1 or more.
        settled: ``"acknowledged"``, ``"given back"``, ``"rejected"``, or "" as long as it is none.
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

    def ack(self, *, confirm: bool = False, timeout: float | None = 5.0) -> None:
        """Say that it is done: it is not delivered again.

        Args:
            confirm: Wait until the server says that it knows. Without it, that word may be lost with a connection, and
                the event comes again. It may come again all the same: with one replica the server writes down some
                tenths of a second later what is acknowledged, whatever its ``sync_interval``, and forgets it if it is
                killed before that.
            timeout: Seconds for that.

        Raises:
            DeadlineExceededError: The server did not say so in time; it may know, or not. Call it again, or work on the
                event again when it comes.
            StoreError: It was given back or rejected before.
        """
        deadline, confirm = Deadline(timeout), check_flag("confirm", confirm)
        first = self._settle("acknowledged")
        if confirm:
            self._settler.confirm(self._reply, deadline)
        elif first:
            self._settler.send(self._reply, ACK)

    def nak(self, delay: float = 0.0) -> None:
        """Give it back: it is delivered again, to any process.

        Args:
            delay: Seconds before that.

        Raises:
            StoreError: It was acknowledged or rejected before.
        """
        delay = 0.0 if as_seconds(delay) == 0 else check_seconds("delay", delay)
        if self._settle("given back"):
            self._settler.send(self._reply, nak(delay))

    def in_progress(self) -> None:
        """Say that work on it goes on: the ack wait begins anew. Nothing, once it is settled."""
        if not self.settled:
            self._settler.send(self._reply, _IN_PROGRESS)

    def reject(self, reason: str, *, timeout: float | None = 5.0) -> None:
        """Give it up: it is not delivered again, and when this returns it is in the dead-letter stream.

        Of one that comes from there, it stays there, and is handed out again after a minute.

        Args:
            reason: For who looks there; its first 4,000 characters are kept.
            timeout: Seconds.

        Raises:
            DeadlineExceededError: It is not there in time; it is as unsettled as before. So with every other error.
            StoreError: It was acknowledged or given back before.
        """
        deadline = Deadline(timeout)
        if not is_of(reason, str):
            raise InvalidOptionError(f"a reason is a str for who looks there, not {short(reason)}")
        reason = str.__str__(reason)
        if self._settle("rejected"):
            try:
                self._settler.bury(self, reason, deadline)
            except BaseException:
                self.settled, self._failed_reason = "", reason
                raise
            let_go(self)

    def _settle(self, how: str) -> bool:
        """Note how it is settled; returns whether it was not yet."""
        with self._settler.lock:
            if self.settled and self.settled != how:
                raise StoreError(f"{self!r} is {self.settled} already, and cannot be {how} any more")
            first = not self.settled
            self.settled = how
        if how != "rejected":  # which takes a while
            let_go(self)
        return first

    def __repr__(self) -> str:
        state = f", {self.settled}" if self.settled else ""
        return f"<Delivery of {self.sequence}, {short(self.event.event_type)}, attempt {self.attempt}{state}>"


# -- what a runner and a source do with a delivery, and a user does not


def hold(delivery: Delivery) -> None:
    """Have the server told that work on it goes on, until it is settled."""
    delivery._held_since = monotonic()
    delivery._settler.extender.held[delivery._reply] = None


def let_go(delivery: Delivery) -> None:
    """Have the server told no more that work on it goes on."""
    delivery._settler.extender.held.pop(delivery._reply, None)


def extend(delivery: Delivery) -> None:
    """Let the ack wait begin anew, unless it has just begun: a handler may let no other thread run, which does that."""
    if not delivery._settler.extender.has_just_extended(delivery._held_since):
        delivery.in_progress()


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
    """Return why it was rejected, if it could not be put into the dead-letter stream; else None."""
    return delivery._failed_reason


def send_word(delivery: Delivery, word: bytes) -> None:
    """Send a word to the server without settling it."""
    delivery._settler.send(delivery._reply, word)
