"""A projection of a store with event types: it chooses by classes, and gets their values."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aether_sync import ANY_VERSION, Event, EventTypes, InMemoryEventStore, SQLite, StoredEvent

from ..support.common import PATIENCE

types = EventTypes()


@types.event("Paid", version=2, formerly=["Payed"])
@dataclass(frozen=True)
class Paid:
    cents: int


@types.event("Opened")
@dataclass(frozen=True)
class Opened:
    pass


@types.upcast("Paid", version=1)
def in_cents(data: dict[str, Any]) -> dict[str, Any]:
    return {"cents": data["euros"] * 100}


def test_a_class_stands_for_all_names_and_versions(tmp_path: Path) -> None:
    seen: list[tuple[int, object]] = []

    def apply(db: Any, stored: StoredEvent) -> None:
        seen.append((stored.sequence, stored.event.value))

    with InMemoryEventStore(types=types) as store:
        old = Event(event_type="Payed", actor_id="a-1", data={"euros": 3})
        store.append("a-1", Opened(), old, Paid(200), expected_version=ANY_VERSION)
        with store.project("sums", apply, into=SQLite(tmp_path / "read.db"), event_types={Paid}) as sums:
            sums.wait_for(3, PATIENCE)
    assert seen == [(2, Paid(300)), (3, Paid(200))]
