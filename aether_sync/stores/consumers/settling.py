"""``ServerSettler``: settles deliveries of a server by words.

A word is sent to the subject that the server named with the message (https://docs.nats.io/reference/
reference-protocols/nats_api_reference): ``+ACK`` or ``-NAK``; ``+WPI`` says that work is in progress. The word may be
lost with a connection: then the server delivers the event again when the ack wait is over.
"""

from collections.abc import Callable
from contextlib import suppress

from ..._nats.call import is_status
from ..._nats.channel import Channel
from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ...errors import DeadlineExceededError, DisconnectedError
from ...events import Event
from .._jetstream.messages import command
from .._jetstream.pull import moment_of
from .._jetstream.tries import Pause
from .ack_extender import ACK, IN_PROGRESS, AckExtender, nak
from .delivery import Delivery, Origin, Settler

__all__ = ["ServerSettler"]

_TRY = 1.5  # seconds for one answer


class ServerSettler(Settler):
    """Settles the deliveries of one consumption of a server. A receipt is the reply subject of the message.

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
        bury: Callable[["ServerSettler", Delivery, str, Deadline], object],
        read: Callable[[int, Deadline], Event],
        origin: Origin,
    ) -> None:
        self._channel = channel
        self._extender = extender
        self._bury = bury
        self._read = read
        self.origin = origin
        self.lock = signal_safe_lock()  # guards how its deliveries are settled

    def send(self, reply: bytes, word: bytes) -> None:
        """Send a word for a delivery; nobody waits for an answer."""
        self._channel.write(command(reply.decode(), b"", b"", word))

    def acknowledge(self, receipt: bytes) -> None:  # noqa: D102
        self._channel.write(command(receipt.decode(), b"", b"", ACK))

    def give_back(self, receipt: bytes, delay: float) -> None:  # noqa: D102
        self.send(receipt, nak(delay))

    def return_unhandled(self, receipt: bytes) -> None:  # noqa: D102
        self._extender.return_all([receipt])

    def in_progress(self, receipt: bytes) -> None:  # noqa: D102
        self.send(receipt, IN_PROGRESS)

    def hold(self, receipt: bytes) -> None:  # noqa: D102
        self._extender.held[receipt] = None

    def let_go(self, receipt: bytes) -> None:  # noqa: D102
        self._extender.held.pop(receipt, None)

    def has_just_extended(self, moment: float) -> bool:  # noqa: D102
        return self._extender.has_just_extended(moment)

    def bury(self, delivery: Delivery, reason: str, deadline: Deadline) -> None:  # noqa: D102
        self._bury(self, delivery, reason, deadline)

    def read(self, sequence: int, deadline: Deadline) -> Event:  # noqa: D102
        return self._read(sequence, deadline)

    def stored_at(self, receipt: bytes) -> int:  # noqa: D102
        return moment_of(receipt)

    def confirm(self, receipt: bytes, deadline: Deadline) -> None:
        """Acknowledge a delivery, again and again until the server confirms it."""
        subject = receipt.decode()
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
