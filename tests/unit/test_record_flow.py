"""The messages that a follower has got, and not read yet."""

import gc
from collections import deque

from aether_sync._nats.interest import Message
from aether_sync.stores._jetstream.record_flow import _beginning

MESSAGE = (b"subject", b"reply", b"", b"data")


class Finalized:
    """Garbage that only the collector finds, during whose finalizer one more message arrives."""

    def __init__(self, arrived: "deque[Message]") -> None:
        self.itself = self
        self.arrived = arrived

    def __del__(self) -> None:
        self.arrived.append(MESSAGE)


def test_more_may_arrive_while_they_are_copied() -> None:
    """The collector may run at any allocation, until Python 3.12."""
    threshold = gc.get_threshold()
    gc.collect()
    for allocations in range(1, 40):
        arrived: deque[Message] = deque([MESSAGE] * 100)
        gc.collect(0)
        gc.disable()
        Finalized(arrived)
        try:
            gc.set_threshold(allocations)
            gc.enable()
            found = _beginning(arrived, 50)
        finally:
            gc.set_threshold(*threshold)
            gc.enable()
        assert found == [MESSAGE] * 50, f"a collection after {allocations} allocations"
