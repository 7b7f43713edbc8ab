"""What a node knows of its actors' versions: bounded, and never more than a hint.

A version is known with the sequence of its event, as a pair: the pair of the greater sequence is the newer one. Pairs
come from the leader of the stream, and from what it acknowledged here: who saves relies on them. What others announce
says only that it is time to look. What the leader answers replaces all of it, downwards too, unless something newer
came while it was asked. Behind another connection there may be another past: then nothing is known of actors any more.
"""

from collections import OrderedDict
from typing import NamedTuple

from ..._runtime.locks import signal_safe_lock
from .saves import Place

__all__ = ["Known", "Torn", "VersionCache"]

_ACTORS_KEPT = 16_384  # a kilobyte each at most; of the others the server is asked
_POSITIONS_KEPT = 8  # of an actor: where to begin to read when somebody else was a few versions faster


class Torn(NamedTuple):
    """The end of an actor's records, where it is of a save that is not whole.

    Attributes:
        save: Which save.
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
        announced: The greatest version that was announced, if it is greater.
        positions: Pairs of version and sequence, the newest last.
        torn: The part of a save behind that event, which does not count; None if there is none.
    """

    version: int = 0
    sequence: int = 0
    announced: int = 0
    positions: tuple[tuple[int, int], ...] = ()
    torn: Torn | None = None

    @property
    def end(self) -> int:
        """The sequence of the last record that the actor has, whether it counts or not; 0 if there is none."""
        return self.sequence if self.torn is None else self.torn.end

    @property
    def is_doubtful(self) -> bool:
        """Whether the leader has to be asked."""
        return self.announced > self.version

    def moved(self, version: int, sequence: int) -> "Known":
        """What is known once there is a newer event."""
        positions = (*self.positions, (version, sequence))[-_POSITIONS_KEPT:]
        announced = self.announced if self.announced > version else 0
        torn = self.torn if self.end > sequence else None
        return Known(version, sequence, announced, positions, torn)


class VersionCache:
    """Versions by actor. Any thread."""

    def __init__(self) -> None:
        self._lock = signal_safe_lock()  # guards _known
        self._known: OrderedDict[str, Known] = OrderedDict()  # the least recently used first
        self.last = 0  #: the greatest sequence that was stored from here, as far as is known

    def get(self, actor_id: str) -> Known | None:
        """Return what is known of an actor."""
        with self._lock:
            known = self._known.get(actor_id)
            if known is not None:
                self._known.move_to_end(actor_id)
            return known

    def learn(self, actor_id: str, version: int, sequence: int) -> Known:
        """Note that there is an event; an older one than is known changes nothing."""
        with self._lock:
            self.last = max(self.last, sequence)
            known = self._known.get(actor_id) or Known()
            if sequence > known.sequence:
                known = known.moved(version, sequence)
                self._set(actor_id, known)
            return known

    def announce(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note that there is said to be a version; not so if its sequence shows that it is an old one."""
        with self._lock:
            known = self._known.get(actor_id) or Known()
            is_old = sequence is not None and sequence <= known.sequence
            if version > max(known.version, known.announced) and not is_old:
                self._set(actor_id, known._replace(announced=version))

    def replace(
        self, actor_id: str, version: int, sequence: int, before: Known | None, torn: Torn | None = None
    ) -> Known:
        """Take the leader's word, for what was known before it was asked.

        Args:
            actor_id: Whose.
            version: Of its last event; 0 if it has none.
            sequence: Of that event.
            before: What was known.
            torn: What stands behind that event.
        """
        with self._lock:
            if self._known.get(actor_id) is not before:
                return self.learn(actor_id, version, sequence)
            end = sequence if torn is None else torn.end
            if before is None or sequence < before.sequence or end < before.end:
                before = Known()  # whatever there was, it is of another past
            known = before.moved(version, sequence) if sequence > before.sequence else before
            known = known._replace(announced=0, torn=torn)
            if end:
                self._set(actor_id, known)
            else:
                self._known.pop(actor_id, None)
            return known

    def before(self, actor_id: str, version: int) -> int:
        """Return a sequence behind which all events of an actor from a version on are found; 0 if none is known."""
        known = self.get(actor_id)
        return max((at for one, at in known.positions if one < version), default=0) if known is not None else 0

    def forget(self, is_another: bool) -> None:
        """Forget what is known of actors: it may be of another past.

        Args:
            is_another: Whether it is another stream that is there now, so that nothing of it is known.
        """
        with self._lock:
            self._known.clear()
            if is_another:
                self.last = 0

    def lower(self, last: int) -> None:
        """Believe that nothing is stored behind a sequence."""
        with self._lock:
            self.last = min(self.last, last)

    def _set(self, actor_id: str, known: Known) -> None:
        self._known[actor_id] = known
        self._known.move_to_end(actor_id)
        while len(self._known) > _ACTORS_KEPT:
            self._known.popitem(last=False)
