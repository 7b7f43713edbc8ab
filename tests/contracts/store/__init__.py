"""The promises of an event store, written once, a module a theme: every implementation is run through all of them."""

from .appending import Appending
from .bad_input import BadInput
from .closing import Closing
from .consuming import (
    ConsumerObjects,
    DeadLetters,
    EndingConsumptions,
    MakingConsumers,
    Settling,
    SharingConsumers,
    WaitingForConsumers,
)
from .draining import Draining
from .following import Following
from .measuring import Measuring
from .reading import ReadingActors
from .reading_all import ReadingAll
from .reading_together import ReadingTogether
from .running import EndingRunners, FailingHandlers, HandlingInOrder
from .saving import Saving
from .saving_again import SavingAgain
from .saving_together import SavingTogether
from .snapshots import SnapshotHistory, Snapshots
from .telling import Telling
from .typed_consumers import TypedConsumers
from .types import WAYS, Typed, Untyped
from .versions import CachedVersions

__all__ = [
    "Appending",
    "BadInput",
    "CachedVersions",
    "Closing",
    "ConsumerObjects",
    "DeadLetters",
    "Draining",
    "EndingConsumptions",
    "EndingRunners",
    "FailingHandlers",
    "Following",
    "HandlingInOrder",
    "MakingConsumers",
    "Measuring",
    "ReadingActors",
    "ReadingAll",
    "ReadingTogether",
    "Saving",
    "SavingAgain",
    "SavingTogether",
    "Settling",
    "SharingConsumers",
    "SnapshotHistory",
    "Snapshots",
    "Telling",
    "Typed",
    "TypedConsumers",
    "Untyped",
    "WAYS",
    "WaitingForConsumers",
]
