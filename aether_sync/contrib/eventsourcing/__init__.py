"""A persistence module for the package ``eventsourcing``: ``PERSISTENCE_MODULE=aether_sync.contrib.eventsourcing``.

Its applications, projections and systems then keep their events in JetStream, or in memory. Needs the extra
``eventsourcing``.
"""

from .._extra import extra

with extra(__name__, "eventsourcing", "the package eventsourcing"):
    import eventsourcing  # noqa: F401

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
