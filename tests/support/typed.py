"""Types of events as a program has them: of two versions, of each kind of class, and one that was renamed."""

from dataclasses import dataclass
from typing import Any, TypedDict

import msgspec

from aether_sync import EventTypes

__all__ = ["Cancelled", "Placed", "Refunded", "old", "typed"]


@dataclass
class Placed:
    """Version 3: version 1 had no currency, and version 2 called the quantity ``count``."""

    qty: int
    currency: str


class Refunded(TypedDict):
    amount: int
    notes: dict[str, Any]


class Cancelled(msgspec.Struct, frozen=True):
    """It was called ``Aborted``."""

    reason: str = ""


def typed(unknown: Any = "raise") -> EventTypes:
    """Return a registry of these classes."""
    types = EventTypes(unknown)
    types.event("Placed", version=3)(Placed)
    types.event("Refunded")(Refunded)
    types.event("Cancelled", formerly={"Aborted"})(Cancelled)

    @types.upcast("Placed", version=1)
    def add_currency(data: dict[str, Any]) -> dict[str, Any]:
        return {**data, "currency": "EUR"}

    @types.upcast("Placed", version=2)
    def rename_count(data: dict[str, Any]) -> dict[str, Any]:
        data["qty"] = data.pop("count")  # it is a dict of its own
        return data

    return types


def old(version: int) -> dict[str, Any]:
    """Return fields of an event of an older version of ``Placed``."""
    data = {"count": version} if version == 1 else {"count": version, "currency": "USD"}
    metadata = {} if version == 1 else {"schemaVersion": str(version)}
    return {"event_type": "Placed", "data": data, "metadata": metadata}
