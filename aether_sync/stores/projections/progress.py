"""``Progress``: how far a projection is, as far as this process knows, and who waits for it."""

from ..._runtime.waits import ParkingLot

__all__ = ["Progress"]


class Progress:
    """How far a projection is, as far as this process knows. Any thread may tell it, and wait.

    It is told by the active instance, if that is in this process; by whoever has asked the database; and by whoever
    hears it from another process. It is a plain number, which is only ever replaced, so it needs no lock.

    Attributes:
        sequence: How far it is; -1 if nobody has told yet.
        changed: Woken when something changes.
    """

    def __init__(self) -> None:
        self.sequence = -1
        self.changed = ParkingLot()

    def tell(self, sequence: int) -> None:
        """Note how far the projection is, and wake those who wait for it. After a rebuild it may be less than before.

        Accepted race: what another process says may be older than what is known. Then somebody waits until it is told
        again, which is a moment; nobody is told too early.
        """
        if sequence != self.sequence:
            self.sequence = sequence
            self.changed.wake_all()
