"""The transactional outbox: events that are written in the user's transaction, and sent after its commit.

A contrib package has the outbox of a database layer, such as ``aether_sync.contrib.sqlalchemy.Outbox``. Here is what
all of them share: the rows, what a relay needs of a database, and the :class:`Relay`.
"""

from .database import OutboxCounts, OutboxDatabase, OutboxTable
from .relay import Relay, wake_relays
from .rows import NewRow, OutboxRow, row_to_append, row_to_publish
from .sending import RelayMetrics

__all__ = [
    "NewRow",
    "OutboxCounts",
    "OutboxDatabase",
    "OutboxRow",
    "OutboxTable",
    "Relay",
    "RelayMetrics",
    "row_to_append",
    "row_to_publish",
    "wake_relays",
]
