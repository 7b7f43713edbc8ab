"""``VersionCache``: the versions of actors as far as this node knows them. It is bounded, and never more than a hint.

A version is kept as a pair with the sequence of its event: the pair with the greater sequence is the newer one. Pairs
come from the leader of the stream, in answers and in acknowledgements, and saving relies on them: the leader refuses a
write that relies on an old one. A version that others announce only says that the leader has to be asked. The leader's
answer replaces what is known, also by a lower version, unless a newer pair arrived while it was asked. After a
reconnect the stream may be another one: then nothing is known of any actor.
"""

from collections import OrderedDict
from typing import NamedTuple

from ..._runtime.locks import signal_safe_lock
from .earlier import FIRST, Earlier
from .saves import Place

__all__ = ["Known", "Torn", "VersionCache"]


class Torn(NamedTuple):
    """The end of an actor's records, if they end with records of a save that is not whole.

    Attributes:
        save: The save.
        end: The sequence of the actor's last record.
        is_open: Whether the server may still store the rest.
    """

    save: Place
    end: int
    is_open: bool


class Known(NamedTuple):
    """What is known of an actor.

    Attributes:
        version: Its version; 0 if it has no events.
        sequence: Of the event of that version; 0 if it has none.
        announced: The greatest version that was announced, if it is greater; else 0.
        earlier: What the record of that event names; nothing where that is not known.
        torn: The part of a save after that event, whose records are not events; None if there is none.
    """

    version: int = 0
    sequence: int = 0
    announced: int = 0
    earlier: Earlier = FIRST
    torn: Torn | None = None

    @property
    def end(self) -> int:
        """The sequence of the actor's last record, be it an event or not; 0 if there is none."""
        return self.sequence if self.torn is None else self.torn.end

    @property
    def is_doubtful(self) -> bool:
        """Whether the leader has to be asked."""
        return self.announced > self.version

    @property
    def to_name(self) -> Earlier:
        """What the record of the next event is to name."""
        return self.earlier.after(self.sequence) if self.sequence else FIRST

    def moved(self, version: int, sequence: int, earlier: Earlier) -> "Known":
        """Return what is known with a newer event."""
        announced = self.announced if self.announced > version else 0
        torn = None if self.torn is None or self.torn.end <= sequence else self.torn
        return Known(version, sequence, announced, earlier, torn)


_UNKNOWN = Known()


class VersionCache:
    """What is known of actors, by actor. Any thread may call it.

    Args:
        size: How many actors are kept; the leader is asked for others.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._lock = signal_safe_lock()  # guards _known
        self._known: OrderedDict[str, Known] = OrderedDict()  # the least recently used first
        self.last = 0  #: the greatest sequence that this store object is known to have stored

    def get(self, actor_id: str) -> Known | None:
        """Return what is known of an actor."""
        with self._lock:
            known = self._known.get(actor_id)
            if known is not None:
                self._known.move_to_end(actor_id)
            return known

    def learn(self, actor_id: str, version: int, sequence: int, earlier: Earlier = FIRST) -> Known:
        """Note an event, and what its record names. One that is older than what is known changes nothing."""
        with self._lock:
            if sequence > self.last:
                self.last = sequence
            known = self._known.get(actor_id, _UNKNOWN)
            if sequence > known.sequence:
                known = known.moved(version, sequence, earlier)
                self._set(actor_id, known)
            return known

    def announce(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note a version that was announced, unless its sequence shows that it is an old one."""
        with self._lock:
            known = self._known.get(actor_id) or Known()
            is_old = sequence is not None and sequence <= known.sequence
            if version > max(known.version, known.announced) and not is_old:
                self._set(actor_id, known._replace(announced=version))

    def replace(
        self,
        actor_id: str,
        version: int,
        sequence: int,
        before: Known | None,
        torn: Torn | None = None,
        earlier: Earlier = FIRST,
    ) -> Known:
        """Put the leader's answer in place of what was known before it was asked; return what is known then.

        Args:
            actor_id: The actor.
            version: The version of its last event; 0 if it has none.
            sequence: The sequence of that event.
            before: What was known before the leader was asked. If that is no longer what is known, the answer is noted
                like any other event.
            torn: The part of a save after that event; None if there is none.
            earlier: What the record of that event names.
        """
        with self._lock:
            if self._known.get(actor_id) is not before:
                return self.learn(actor_id, version, sequence, earlier)
            end = sequence if torn is None else torn.end
            if before is None or sequence < before.sequence or end < before.end:
                before = Known()  # what was known is of a past that was undone
            known = before.moved(version, sequence, earlier) if sequence > before.sequence else before
            known = known._replace(announced=0, torn=torn, earlier=earlier)
            if end:
                self._set(actor_id, known)
            else:
                self._known.pop(actor_id, None)
            return known

    def forget(self, is_another: bool) -> None:
        """Forget what is known of actors.

        Args:
            is_another: Whether the stream is another one now, so that this object has stored nothing in it.
        """
        with self._lock:
            self._known.clear()
            if is_another:
                self.last = 0

    def lower(self, last: int) -> None:
        """Note that nothing is stored after a sequence."""
        with self._lock:
            self.last = min(self.last, last)

    def _set(self, actor_id: str, known: Known) -> None:
        self._known[actor_id] = known
        self._known.move_to_end(actor_id)
        while len(self._known) > self._size:
            self._known.popitem(last=False)
