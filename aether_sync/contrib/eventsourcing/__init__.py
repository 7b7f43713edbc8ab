"""A persistence module for the package ``eventsourcing``: ``PERSISTENCE_MODULE=aether_sync.contrib.eventsourcing``.

Its applications, projections and systems then keep their events in JetStream, or in memory. Needs the extra
``eventsourcing``.
"""

try:
    import eventsourcing  # noqa: F401  # here, so that it is said in one sentence what is missing
except ModuleNotFoundError as missing:
    if missing.name != "eventsourcing":
        raise
    raise ModuleNotFoundError(
        "aether_sync.contrib.eventsourcing needs the package eventsourcing: install the extra 'eventsourcing' of "
        "aether-sync",
        name=missing.name,
    ) from missing

from ._datastore import Datastore
from ._factory import Factory
from ._recorders import (
    AetherAggregateRecorder,
    AetherApplicationRecorder,
    AetherProcessRecorder,
    AetherSnapshotRecorder,
    AetherSubscription,
    AetherTrackingRecorder,
)

__all__ = [
    "AetherAggregateRecorder",
    "AetherApplicationRecorder",
    "AetherProcessRecorder",
    "AetherSnapshotRecorder",
    "AetherSubscription",
    "AetherTrackingRecorder",
    "Datastore",
    "Factory",
]
