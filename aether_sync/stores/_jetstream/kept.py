"""``KeptEvents``: the events of actors that this node has read or written lately.

Events never change, so an actor that is read again need not be read again: it is enough to ask the leader where its
events end. What is kept of an actor is a run of events without a gap, up to the last one that was seen here.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from sys import getsizeof

from ..._runtime.locks import signal_safe_lock
from .._wanted import Wanted
from ..base import StoredEvent

__all__ = ["Kept", "KeptEvents", "is_same", "memory_of"]

_EVENT = 200  # bytes of memory of an event and its place, without what is in them
_DICT, _LIST, _ITEM = 200, 64, 36  # bytes of a dict, of a list, of an item of either
_TEXT, _KEY = 50, 75  # bytes of a text besides its own, of a key of a dict whose keys are hardly those of others
_KEYS = 20  # of a dict; one that has more has keys such as ids


def memory_of(encoded: Sequence[bytes]) -> int:
    """Estimate how many bytes of memory events take, from their JSON; rather too many than too few."""
    data = b"".join(encoded)
    dicts, keys = data.count(b"{"), data.count(b'":')
    inner = _DICT * dicts + _LIST * data.count(b"[") + _ITEM * data.count(b",")
    inner += _TEXT * max(0, data.count(b'"') // 2 - keys) + _KEY * max(0, keys - _KEYS * dicts)
    # One emoji makes each character of its text take four bytes:
    texts = len(data) if data.isascii() else sum(getsizeof(one.decode(errors="replace")) for one in encoded)
    return _EVENT * len(encoded) + texts + inner


def is_same(one: StoredEvent, other: StoredEvent) -> bool:
    """Whether two events are the same one, at the same place."""
    return one.sequence == other.sequence and one.event.id == other.event.id


@dataclass(slots=True, eq=False)
class Kept:
    """Events of an actor in a row.

    Attributes:
        before: The sequence of the event before them; 0 if there is none.
        events: The events, one at least. More may be added at the end.
        size: Bytes of memory that they take.
    """

    before: int
    events: list[StoredEvent]
    size: int

    @property
    def end(self) -> int:
        """The sequence of the last one."""
        return self.events[-1].sequence

    def ends_with(self, last: StoredEvent) -> bool:
        """Whether an event is the last of these, as far as the leader says what it is."""
        return is_same(self.events[-1], last)

    def begins_early_enough(self, wanted: Wanted) -> bool:
        """Whether no event is wanted that is before these."""
        if self.before <= wanted.after or self.events[0].event.version <= wanted.first:
            return True
        return wanted.reverse and wanted.limit is not None and len(wanted.pick(self.events)) == wanted.limit


class KeptEvents:
    """What is kept of all actors. Any thread may call it.

    Args:
        most: Bytes of memory that the events may take, as :func:`memory_of` estimates it; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._lock = signal_safe_lock()  # guards the fields below
        self._kept: OrderedDict[str, Kept] = OrderedDict()  # by actor, the least recently used first
        # An interrupt may leave it too large for a moment, never too small: then less is kept.
        self._size = 0

    @property
    def size(self) -> int:
        """Bytes of memory that the events take."""
        return self._size

    def get(self, actor_id: str) -> Kept | None:
        """Return what is kept of an actor."""
        with self._lock:
            kept = self._kept.get(actor_id)
            if kept is not None:
                self._kept.move_to_end(actor_id)
            return kept

    def keep(self, actor_id: str, kept: Kept) -> None:
        """Keep events of an actor, instead of what is kept of it."""
        if kept.size > self.most or not self.most:
            return
        with self._lock:
            self._size += kept.size
            before, self._kept[actor_id] = self._kept.get(actor_id), kept
            self._kept.move_to_end(actor_id)
            if before is not None:
                self._size -= before.size
            self._make_room()

    def add(self, actor_id: str, after: int, events: Sequence[StoredEvent], size: int) -> None:
        """Keep an actor's new events, if they follow what is kept of it, or are its first ones.

        Args:
            actor_id: The actor.
            after: The sequence of the event before them; 0 if there is none.
            events: The events in order.
            size: Bytes of memory that they take.
        """
        with self._lock:
            kept = self._kept.get(actor_id)
            if kept is not None and kept.end == after:
                self._size += size
                kept.size += size
                kept.events.extend(events)
                self._kept.move_to_end(actor_id)
                self._make_room()
            elif not after:
                self.keep(actor_id, Kept(0, list(events), size))

    def _make_room(self) -> None:
        while self._size > self.most and self._kept:
            self._size -= self._kept.popitem(last=False)[1].size
        if not self._kept:
            self._size = 0

    def forget(self) -> None:
        """Keep nothing: the stream may be another one now."""
        with self._lock:
            self._kept.clear()
            self._size = 0
