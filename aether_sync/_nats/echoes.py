"""What arrived a moment ago, to be known again when it comes once more, through another server.

A server of a cluster passes an event on to the others a bit later than to its own clients. Who moves meanwhile gets it
from the server it leaves, and again from the one it comes to.
"""

from collections import deque

from .._clock import monotonic

__all__ = ["Echoes"]

_SECONDS = 2.0  # that one server may be behind another
_BYTES = 8 * 2**20  # that are remembered at most: more than a second at 20,000 events/s


class Echoes:
    """Remembers what arrived, as the batches that it came in; looks at single messages only after a move."""

    def __init__(self) -> None:
        self._batches: deque[tuple[float, int, list[bytes]]] = deque()  # (when, bytes, payloads)
        self._bytes = 0
        self._expected: frozenset[bytes] = frozenset()
        self._until = 0.0

    def remember(self, payloads: list[bytes]) -> None:
        """Note what has arrived."""
        now, size = monotonic(), sum(map(len, payloads))
        self._batches.append((now, size, payloads))
        self._bytes += size
        while self._batches and (self._bytes > _BYTES or self._batches[0][0] < now - _SECONDS):
            self._bytes -= self._batches.popleft()[1]

    def expect(self) -> None:
        """There is another connection: for a while, what has arrived may come again."""
        now = monotonic()
        recent = (batch for when, _, batch in self._batches if when >= now - _SECONDS)
        self._expected = self.expected().union(*recent)
        self._until = now + _SECONDS

    def expected(self) -> frozenset[bytes]:
        """Payloads that are to be skipped; hardly ever any."""
        if self._expected and monotonic() > self._until:
            self._expected = frozenset()
        return self._expected
