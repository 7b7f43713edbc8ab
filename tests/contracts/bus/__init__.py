"""The promises of a bus, written once, a module a theme: every implementation is run through all of them."""

from .arrival import Arrival
from .bad_input import BadInput
from .base import Nodes
from .closing import Closing
from .metrics import Metrics
from .overflow import Overflow
from .queue_groups import QueueGroups
from .reading import Reading
from .threads import Threads
from .types import Typed

__all__ = [
    "Arrival",
    "BadInput",
    "Closing",
    "Metrics",
    "Nodes",
    "Overflow",
    "QueueGroups",
    "Reading",
    "Threads",
    "Typed",
]
