"""What came before, to be known again when it comes once more, through another server.

A server of a cluster passes an event on to the others a bit later than to its own clients, or much later, if the link
between them stalls. Who moves meanwhile gets it from the server it leaves, and again from the one it comes to. On one
connection nothing comes twice. So a repeat is what came on a connection before, and only after a move is it looked for.

An event is known by its node and its position among the events of that node, where it says them: nodes in Go do not,
nor do older ones here. What came last is remembered as it is. Of what came before that, only up to which position each
node was heard: threads that publish at once have their positions reach the wire a bit out of order, but not by that
much. Of nodes that number nothing, only the last events are known again, by their bytes: soon after a move, an event
that is published again unchanged is taken for a repeat there, and later a repeat for an event.

Accepted race: what a link between servers held up for long, and never brought, counts as come if later events of its
node have: a move loses it.

Accepted race: copies of an event come through each interest that it matches. If the connection breaks between two of
them, and the next server is behind, the second is taken for a repeat: it is lost, as is all that a broken connection
had in hand, rather than the first one come twice.
"""

from collections import deque

from .._codec.envelope import POSITION_ENDS, POSITION_MARK
from .._values.clock import monotonic

__all__ = ["RecentPayloads"]

_SECONDS = 2.0  # that events are remembered as they are
_BYTES = 8 * 2**20  # of them at most: more than a second at 20,000 events/s
_NODES = 4_096  # whose positions are known: those that were heard last
_DISORDER = 100  # positions that threads which publish at once may be apart when they reach the wire
_LATEST = 600.0  # seconds after a move: servers that do not hear each other for so long have given each other up

#: What came in a row: when, its bytes, the payloads, and the last one of each node that numbers them, by its mark.
_Batch = tuple[float, int, list[bytes], dict[bytes, bytes]]


class RecentPayloads:
    """Remembers what arrived, as the batches that it came in; looks at single messages only after a move.

    Args:
        own_mark: What payloads of this node start with; of other nodes that number their events it is as long.
    """

    def __init__(self, own_mark: bytes) -> None:
        self._own = own_mark
        # Of a payload: where its node's mark ends, the mark of its position, and the position.
        self._node = len(own_mark)
        self._number = self._node + len(POSITION_MARK)
        self._identity = self._node + POSITION_ENDS
        self._batches: deque[_Batch] = deque()
        self._bytes = 0
        self._latest: dict[bytes, _Batch] = {}  # of those: the last one of a node
        self._heard: dict[bytes, bytes] = {}  # up to which position a node was heard, in batches before those
        # After a move: what had come before it.
        self._moved = 0.0
        self._recent: frozenset[bytes] = frozenset()  # node and position, of batches; where there are none, the payload
        self._old: dict[bytes, bytes] = {}  # up to which position all counts as come

    def new(self, payloads: list[bytes]) -> list[bytes]:
        """Leave out what this node has published, and what came before a move; remember the rest."""
        node, number = self._node, self._number
        last = {one[:node]: one for one in payloads}
        if self._own in last:
            payloads = [one for one in payloads if not one.startswith(self._own)]
            del last[self._own]
        now = monotonic()
        if self._moved:
            payloads = self._but_repeats(payloads, now)
            last = {one[:node]: one for one in payloads}
        if payloads:
            last = {mark: one for mark, one in last.items() if one[node:number] == POSITION_MARK}
            batch = now, sum(map(len, payloads)), payloads, last
            self._batches.append(batch)
            self._bytes += batch[1]
            for mark in last:
                self._latest[mark] = batch
            if self._bytes > _BYTES or self._batches[0][0] < now - _SECONDS:
                self._forget(now)
        return payloads

    def move(self) -> None:
        """There is another connection: for a while, what has come may come again."""
        now = self._moved = monotonic()
        self._forget(now)
        self._recent = frozenset(self._name(one) for batch in self._batches for one in batch[2])
        self._old = self._heard.copy()

    def _name(self, payload: bytes) -> bytes:
        """By what a payload is known again."""
        is_numbered = payload[self._node : self._number] == POSITION_MARK
        return payload[: self._identity] if is_numbered else payload

    def _but_repeats(self, payloads: list[bytes], now: float) -> list[bytes]:
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
        """Keep of old batches only how far each node was heard."""
        while self._batches and (self._bytes > _BYTES or self._batches[0][0] < now - _SECONDS):
            batch = self._batches.popleft()
            self._bytes -= batch[1]
            for mark, one in batch[3].items():
                if self._latest[mark] is batch:  # the node fell silent: its last event need not be the highest
                    del self._latest[mark]
                    one = max(one for one in batch[2] if one.startswith(mark))  # noqa: PLW2901
                self._heard[mark] = self._further(self._heard.pop(mark, b""), one[self._node : self._identity])
        while len(self._heard) > _NODES:
            del self._heard[next(iter(self._heard))]

    def _further(self, heard: bytes, position: bytes) -> bytes:
        """Up to which position a node was heard, where it was heard up to one, and then this one came.

        That is the higher one. But where it falls far behind, a batch comes after what was published when it was made:
        what of that has not come yet must not count as come.
        """
        if position >= heard:
            return position
        begins = len(POSITION_MARK)
        return heard if int(heard[begins:]) - int(position[begins:]) <= _DISORDER else position
