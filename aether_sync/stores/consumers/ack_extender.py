"""Acknowledgements as the server reads them, and the extension of the time that it gives for one."""

from collections.abc import Iterable

from ..._nats.channel import Channel
from ..._values.clock import monotonic
from .._jetstream.messages import command
from .._jetstream.pull import PullRequester
from .arrivals import Arrivals

__all__ = ["ACK", "AckExtender", "nak"]

ACK = b"+ACK"
_IN_PROGRESS = b"+WPI"
_KEPT = 4  # times within an ack wait
_JUST_NOW = 0.05  # of an ack wait


def nak(delay: float) -> bytes:
    """Write "not acknowledged, deliver it again after so many seconds"."""
    return b'-NAK {"delay": %d}' % int(delay * 1e9) if delay else b"-NAK"


class AckExtender:
    """Tells the server that work on what is held here goes on, well before the ack wait is over.

    It knows nobody who holds something, so that they can be collected.

    Args:
        channel: Over which.
        pulling: What lets it come.
        arrivals: What has come and is not taken yet.
        ack_wait: Seconds.

    Attributes:
        held: Where what was taken and is still held is acknowledged. Single operations only, any thread.
        ends: Nothing is taken from there any more; what is left is given back, the next time at the latest.
    """

    def __init__(self, channel: Channel, requester: PullRequester, arrivals: Arrivals, ack_wait: float) -> None:
        self._channel = channel
        self._requester = requester
        self._arrivals = arrivals
        self._ack_wait = ack_wait
        self._kept = monotonic()
        self.held: dict[bytes, None] = {}
        self.ends = False

    def start(self) -> None:
        """Send these words from now on, until nothing is held any more."""
        self._channel.repeat(self._ack_wait / _KEPT, self._extend)

    def is_late(self) -> bool:
        """Whether the server may have given away what is held here: it was not told for too long."""
        return monotonic() - self._kept > self._ack_wait * 0.9

    def has_just_extended(self, moment: float) -> bool:
        """Whether the ack wait of what is held since then has begun just now."""
        return monotonic() - max(moment, self._kept) < self._ack_wait * _JUST_NOW

    def give_back(self) -> None:
        """Give back what has come and was not taken, and from now on only keep what is held."""
        self.ends = True
        with self._arrivals.lock:
            waiting = self._arrivals.replies()
            self._arrivals.clear()
        self.send(waiting, nak(0))

    def _extend(self) -> bool:
        """Send them once; on the loop thread."""
        if self.ends:  # whoever took from it was dropped, perhaps: what was on its way then is here by now
            if not self._requester.is_over:  # an exception has cut off its close()
                self._requester.close()
            self.give_back()
        self.send([*self.held, *self._arrivals.replies()], _IN_PROGRESS)
        if self._channel.is_connected:
            self._kept = monotonic()
        return bool(self.held) or not self.ends

    def send(self, replies: Iterable[bytes], word: bytes) -> None:
        """Send the same word for many deliveries."""
        frames = b"".join(command(reply.decode(), b"", b"", word) for reply in replies)
        if frames:
            self._channel.write(frames)
