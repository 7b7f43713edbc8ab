"""Recognises events that arrive a second time because the connection has moved to another server.

A server of a cluster passes an event on to the other servers a little later than to its own clients, or much later if
the link between the servers stalls. A client that moves meanwhile gets the event from the server that it leaves, and
again from the server that it moves to. On one connection no event arrives twice. So only after a move, events are
compared with those that arrived before it.

An event is recognised by its node and by its position among the events of that node, where the payload has them; nodes
in Go and older nodes here write no position. The events of the last seconds are remembered one by one. Of earlier
events only the highest position of each node is remembered: threads that publish at the same time may send their
positions slightly out of order, but not by seconds. Of nodes that write no position, only the events of the last
seconds are recognised, by their bytes. There, soon after a move, an event that is published again unchanged is taken
for a repeat, and later a repeat is taken for a new event.

Accepted race: an event that a link between servers held up for long counts as arrived if later events of its node have
arrived. If the client moves then, the event is lost.

Accepted race: copies of an event arrive through each interest that it matches. If the connection breaks between two of
them, and the next server is behind, the second copy is taken for a repeat and is lost, like everything else that was on
its way through the broken connection. Otherwise the first one would arrive twice.
"""

from collections import deque

from .._codec.envelope import POSITION_ENDS, POSITION_MARK
from .._values.clock import monotonic

__all__ = ["RecentPayloads"]

_SECONDS = 2.0  # for which events are remembered one by one
_BYTES = 8 * 2**20  # of remembered payloads at most: more than a second's at 20,000 events/s
_NODES = 4_096  # whose positions are remembered: those that were heard last
_DISORDER = 100  # positions by which threads that publish at the same time may be out of order
_LATEST = 600.0  # seconds after a move for which repeats are looked for; servers give each other up sooner

#: Payloads that arrived together: when, their bytes in all, the payloads, and the last one of each node that writes
#: positions, by the node's mark.
_Batch = tuple[float, int, list[bytes], dict[bytes, bytes]]


class RecentPayloads:
    """Remembers the batches in which payloads arrived, and looks at single payloads only after a move.

    Args:
        own_mark: The bytes that payloads of this node begin with. The mark of another node that writes positions has
            the same length.
    """

    def __init__(self, own_mark: bytes) -> None:
        self._own = own_mark
        # Where these end in a payload: the node's mark, the mark of the position, and the position.
        self._node = len(own_mark)
        self._number = self._node + len(POSITION_MARK)
        self._identity = self._node + POSITION_ENDS
        self._batches: deque[_Batch] = deque()
        self._bytes = 0
        self._latest: dict[bytes, _Batch] = {}  # by node, the last of these batches with its events
        self._heard: dict[bytes, bytes] = {}  # by node, the highest position in earlier batches
        # After a move, what had arrived before it:
        self._moved = 0.0  # when the move was, or 0.0
        self._recent: frozenset[bytes] = frozenset()  # node and position of the remembered events, or else the payload
        self._old: dict[bytes, bytes] = {}  # by node, the position up to which all events count as arrived

    def new(self, payloads: list[bytes]) -> list[bytes]:
        """Return the payloads without those of this node and without repeats; remember them."""
        now = monotonic()
        if len(payloads) == 1 and not self._moved:  # as where events come one by one: half the time
            (one,) = payloads
            mark = one[: self._node]
            if mark == self._own:
                return []
            last = {mark: one} if one[self._node : self._number] == POSITION_MARK else {}
        else:
            payloads, last = self._sifted(payloads, now)
            if not payloads:
                return []
        batch = now, sum(map(len, payloads)), payloads, last
        self._batches.append(batch)
        self._bytes += batch[1]
        for mark in last:
            self._latest[mark] = batch
        if self._bytes > _BYTES or self._batches[0][0] < now - _SECONDS:
            self._forget(now)
        return payloads

    def _sifted(self, payloads: list[bytes], now: float) -> tuple[list[bytes], dict[bytes, bytes]]:
        """Return the new ones of several payloads, and the last one of each node that writes positions, by its mark."""
        node, number = self._node, self._number
        last = {one[:node]: one for one in payloads}
        if self._own in last:
            payloads = [one for one in payloads if not one.startswith(self._own)]
            del last[self._own]
        if self._moved:
            payloads = self._without_repeats(payloads, now)
            last = {one[:node]: one for one in payloads}
        return payloads, {mark: one for mark, one in last.items() if one[node:number] == POSITION_MARK}

    def move(self) -> None:
        """Note that there is another connection, so that what has arrived may arrive again."""
        now = self._moved = monotonic()
        self._forget(now)
        self._recent = frozenset(self._name(one) for batch in self._batches for one in batch[2])
        self._old = self._heard.copy()

    def _name(self, payload: bytes) -> bytes:
        """Return the part of a payload by which it is recognised."""
        is_numbered = payload[self._node : self._number] == POSITION_MARK
        return payload[: self._identity] if is_numbered else payload

    def _without_repeats(self, payloads: list[bytes], now: float) -> list[bytes]:
        since = now - self._moved
        if since > _LATEST:
            self._moved, self._recent, self._old = 0.0, frozenset(), {}
        node, number, identity, recent = self._node, self._number, self._identity, self._recent
        kept = []
        for one in payloads:
            if one[node:number] == POSITION_MARK:
                comes_again = one[node:identity] <= self._old.get(one[:node], b"") or one[:identity] in recent
            else:
                comes_again = since < _SECONDS and one in recent
            if not comes_again:
                kept.append(one)
        return kept

    def _forget(self, now: float) -> None:
        """Forget old batches, except for the highest position of each node."""
        while self._batches and (self._bytes > _BYTES or self._batches[0][0] < now - _SECONDS):
            batch = self._batches.popleft()
            self._bytes -= batch[1]
            for mark, one in batch[3].items():
                if (
                    self._latest[mark] is batch
                ):  # the node fell silent; its last event may not have the highest position
                    del self._latest[mark]
                    one = max(one for one in batch[2] if one.startswith(mark))  # noqa: PLW2901
                self._heard[mark] = self._further(self._heard.pop(mark, b""), one[self._node : self._identity])
        while len(self._heard) > _NODES:
            del self._heard[next(iter(self._heard))]

    def _further(self, heard: bytes, position: bytes) -> bytes:
        """Return the position up to which a node was heard, after one more position has arrived.

        That is the higher of the two. But if the new one is far lower, the node sent a batch later than events that it
        published after making the batch. Then the lower one is returned, since the rest of the batch has not arrived.
        """
        if position >= heard:
            return position
        begins = len(POSITION_MARK)
        return heard if int(heard[begins:]) - int(position[begins:]) <= _DISORDER else position
