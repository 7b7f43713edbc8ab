"""``AckExtender``: extends the ack wait of everything that this process holds; the words of acknowledgement."""

from collections import deque
from collections.abc import Iterable

from ..._nats.channel import Channel
from ..._runtime.reporter import Kind
from ..._values.clock import monotonic
from ...errors import AetherError, PermissionDeniedError
from .._jetstream.messages import command
from .._jetstream.pull import PullRequester, acknowledgements_of, place_of
from .arrivals import Arrivals
from .base import UNHANDLED

__all__ = ["ACK", "AckExtender", "IN_PROGRESS", "nak"]

ACK = b"+ACK"
IN_PROGRESS = b"+WPI"
_LOST = b"+TERM %s"
_TIMES = 4  # extensions within an ack wait
_JUST_NOW = 0.05  # of an ack wait


def nak(delay: float) -> bytes:
    """Return the word that gives a message back, to be delivered again after some seconds."""
    return b'-NAK {"delay": %d}' % int(delay * 1e9) if delay else b"-NAK"


class AckExtender:
    """Tells the server, several times within the ack wait, that work goes on on what this process holds.

    That is what was taken and is not settled, and what has arrived and is not taken yet. The extender refers to none of
    those who hold it, so they can be garbage-collected.

    Args:
        channel: Sends the words.
        requester: Requests the messages.
        arrivals: The messages that have arrived and are not taken yet.
        subject: What the subjects of the words begin with: ``$JS.ACK.<stream>.<consumer>``.
        ack_wait: Seconds.
        max_deliver: How often a message is delivered at most; None if there is no bound.

    Attributes:
        held: The reply subjects of what was taken and is not settled. Single operations only; any thread.
        lost: The reply subjects of what was given back after its last delivery. Single operations only; any thread.
        denied: How many messages had their last delivery and become dead letters, as their words were denied.
        refusal: Why nothing can be acknowledged: the server denies the words, and would deliver all of it again.
        ends: No message is taken from the arrivals any more. They are given back, the next time at the latest.
    """

    def __init__(
        self,
        channel: Channel,
        requester: PullRequester,
        arrivals: Arrivals,
        subject: str,
        ack_wait: float,
        max_deliver: int | None,
    ) -> None:
        self._channel = channel
        self._requester = requester
        self._arrivals = arrivals
        self._subject = subject
        self._ack_wait = ack_wait
        self.max_deliver = max_deliver
        self.lost: deque[bytes] = deque()
        self._last: dict[bytes, object] = {}  # those, and those that were refused: each is counted once
        self.denied = 0  # written by the loop, as the next one
        self.refusal: AetherError | None = None
        self._extended_at = monotonic()
        self.held: dict[bytes, None] = {}
        self.ends = False

    def start(self) -> None:
        """Extend the ack wait regularly from now on, until the end and until nothing is held any more."""
        self._channel.repeat(self._ack_wait / _TIMES, self._extend)
        self._channel.on_refusal(self._subject, self._refuse)

    def is_late(self) -> bool:
        """Whether the server may have delivered to others what is held here: the last extension is too old."""
        return monotonic() - self._extended_at > self._ack_wait * 0.9

    def has_just_extended(self, moment: float) -> bool:
        """Whether the ack wait of what is held since a moment has begun just now."""
        return monotonic() - max(moment, self._extended_at) < self._ack_wait * _JUST_NOW

    def give_back(self) -> None:
        """Give back what has arrived and was not taken; from now on only extend what is held."""
        self.ends = True
        with self._arrivals.lock:
            waiting = self._arrivals.replies()
            self._arrivals.clear()
        self.return_all(waiting)

    def return_all(self, replies: Iterable[bytes]) -> None:
        """Give messages back before their turn has come.

        One that has had its last delivery becomes a dead letter, whatever is said to the server, which counts each
        delivery. It is told the reason then, which it puts into its advisory.
        """
        words: dict[bytes, list[bytes]] = {}
        for reply in replies:
            word = nak(0)
            if self.max_deliver is not None and place_of(reply).attempt >= self.max_deliver:
                word = _LOST % (UNHANDLED % self.max_deliver).encode()
                if self._is_first(reply):
                    self.lost.append(reply)
            words.setdefault(word, []).append(reply)
        for word, some in words.items():
            self.send(some, word)

    def _is_first(self, reply: bytes) -> bool:
        """Note that a message becomes a dead letter after its last delivery; return False if that was noted before."""
        mine = object()
        return self._last.setdefault(reply, mine) is mine

    def _refuse(self, subject: str, error: AetherError) -> None:
        """End the consumption, as the server denies a word, or would not accept so long a line.

        The right is the same for all words of the consumer. To go on would have each event handled ``max_deliver``
        times, and become a dead letter.
        """
        reply = subject.encode(errors="surrogateescape")
        if self.max_deliver is not None and place_of(reply).attempt >= self.max_deliver:
            self.denied += self._is_first(reply)
        if self.refusal is None:
            if self.ends:  # nobody iterates any more
                self._channel.reporter.burst(Kind.SERVER_ERROR, "the server reports: %s", error)
            if isinstance(error, PermissionDeniedError):
                error = PermissionDeniedError(
                    f"the server permits no publish to {acknowledgements_of(reply)!r}: grant its user that right. "
                    "Without it nothing is acknowledged, and each event comes again until it becomes a dead letter"
                )
            self.refusal = error
            self._arrivals.end(error)

    def _extend(self) -> bool:
        """Extend the ack wait once; returns whether to go on. Loop thread only."""
        if self.ends:  # the consumption may have been dropped: what was on its way then has arrived by now
            if not self._requester.is_over:  # an exception has ended its close() early
                self._requester.close()
            self.give_back()
        self.send([*self.held, *self._arrivals.replies()], IN_PROGRESS)
        if self._channel.is_connected:
            self._extended_at = monotonic()
        goes_on = bool(self.held) or not self.ends
        if not goes_on:
            self._channel.off_refusal(self._subject, self._refuse)
        return goes_on

    def send(self, replies: Iterable[bytes], word: bytes) -> None:
        """Send the same word for many deliveries."""
        frames = b"".join(command(reply.decode(), b"", b"", word) for reply in replies)
        if frames:
            self._channel.write(frames)
