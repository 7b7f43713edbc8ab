"""``Progress``: how far a projection is, as far as this process knows, and who waits for it."""

from math import inf

from ..._runtime.waits import ParkingLot
from ..._values.clock import monotonic

__all__ = ["Progress"]

_OWNERS = 100  # of databases elsewhere, too
_FRESH = 1.0  # seconds


class Progress:
    """How far a projection is, as far as this process knows. Any thread may tell it, and wait.

    It is told by the active instance, if that is in this process; by whoever has asked the database; and by whoever
    hears it from another process. It is a plain number, which is only ever replaced, so it needs no lock.

    Attributes:
        projection: The name of the projection.
        stream: What its store calls the stream of its events.
        sequence: How far it is; -1 if nobody has told yet.
        changed: Woken when something changes.
    """

    def __init__(self, projection: str, stream: str) -> None:
        self.projection, self.stream = projection, stream
        self.sequence = -1
        self.changed = ParkingLot()
        self._told_at = -inf  # monotonic
        self._owner = ""  # in the row of the database
        self._heard: dict[str, int] = {}  # by owner, what was announced last; single operations only

    def tell(self, sequence: int) -> None:
        """Note how far the projection is, and wake those who wait for it. After a rebuild it may be less than before.

        Accepted race: what another process says may be older than what is known. Then somebody waits until it is told
        again, which is a moment; nobody is told too early.
        """
        self._told_at = monotonic()
        if sequence != self.sequence:
            self.sequence = sequence
            self.changed.wake_all()

    @property
    def is_fresh(self) -> bool:
        """Whether somebody has told lately. Older news may be about rows that were built anew from another stream."""
        return monotonic() - self._told_at < _FRESH

    def tell_of_row(self, owner: str, sequence: int) -> None:
        """As :meth:`tell`, with the owner that the row has: from now on, what that one announces is believed."""
        self._owner = owner  # before the look at what was heard, as hear() does the opposite
        self.tell(max(sequence, self._heard.get(owner, -1)))

    def hear(self, owner: str, sequence: int) -> None:
        """Note what an active instance has announced, which may be one of another database. One thread."""
        if owner not in self._heard and len(self._heard) >= _OWNERS:
            self._heard.clear()
        self._heard[owner] = sequence
        if owner == self._owner:
            self.tell(max(sequence, self.sequence))

    @property
    def has_owner(self) -> bool:
        """Whether there was an active instance when the row was last asked for."""
        return bool(self._owner)

    @property
    def is_announced(self) -> bool:
        """Whether the owner that the row had, when it was last asked for, has announced what it does."""
        return self._owner in self._heard

    def distrust(self) -> None:
        """Note that an announcement was missed: the row is asked for until the next one is heard."""
        self._heard.pop(self._owner, None)
