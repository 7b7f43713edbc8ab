"""How events and trackings of the package ``eventsourcing`` are kept as events of a store.

An aggregate is the actor ``aggregate-<id>``, and what was tracked of an application is the actor ``tracking-<name>``.
In both, ``%`` and ``.`` are escaped: the ``*`` of a pattern stands for no dot. A version of an aggregate is one less
than that of its actor, since the package's versions may begin with 0.
"""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote
from uuid import UUID

from eventsourcing.persistence import DataError, Notification, StoredEvent, Tracking

from aether_sync import Event
from aether_sync import StoredEvent as Stored

__all__ = [
    "AGGREGATES",
    "event_of",
    "aggregate_actor",
    "notification_of",
    "stored_event_of",
    "tracking_actor",
    "tracking_event",
]

AGGREGATES = "aggregate-*"  #: a pattern of the actors that are aggregates


def aggregate_actor(originator_id: UUID | str) -> str:
    """Return the actor that an aggregate is. A UUID and its text are one aggregate."""
    return f"aggregate-{_escaped(str(originator_id))}"


def tracking_actor(application_name: str) -> str:
    """Return the actor whose version is how far an application has been processed."""
    return f"tracking-{_escaped(application_name)}"


def _escaped(text: str) -> str:
    return text.replace("%", "%25").replace(".", "%2E")


def event_of(stored: StoredEvent) -> Event:
    """Return an event that holds what a recorder was given.

    Raises:
        DataError: Its version is negative.
    """
    if stored.originator_version < 0:
        raise DataError(
            f"version {stored.originator_version} of {stored.originator_id} cannot be recorded: versions begin with 0"
        )
    data = {"originator": "uuid" if isinstance(stored.originator_id, UUID) else "text"}
    try:
        data["state"] = stored.state.decode()  # almost always JSON
    except UnicodeDecodeError:  # compressed or encrypted
        data["base64"] = b64encode(stored.state).decode()
    return Event(
        event_type=stored.topic,
        actor_id=aggregate_actor(stored.originator_id),
        version=stored.originator_version + 1,
        data=data,
    )


def tracking_event(tracking: Tracking) -> Event:
    """Return the event that records how far an application has been processed.

    Its version is the notification's id: a store takes each version once, and only behind lower ones.

    Raises:
        DataError: The id is less than 1.
    """
    if tracking.notification_id < 1:
        raise DataError(f"notification {tracking.notification_id} cannot be tracked: ids begin with 1")
    return Event(
        event_type="Tracked", actor_id=tracking_actor(tracking.application_name), version=tracking.notification_id
    )


def stored_event_of(originator_id: UUID | str, event: Event) -> StoredEvent:
    """Return what a recorder was given; the id is that of the caller, as he gives it."""
    return StoredEvent(originator_id, event.version - 1, event.event_type, _state_of(event, _data_of(event)))


def notification_of(stored: Stored) -> Notification:
    """Return an event of an aggregate as others are notified of it; its id is its place in the store."""
    event = stored.event
    data = _data_of(event)
    text = unquote(event.actor_id.removeprefix("aggregate-"))
    return Notification(
        originator_id=UUID(text) if data.get("originator") == "uuid" else text,
        originator_version=event.version - 1,
        topic=event.event_type,
        state=_state_of(event, data),
        id=stored.sequence,
    )


def _data_of(event: Event) -> Mapping[str, Any]:
    return event.data or {}


def _state_of(event: Event, data: Mapping[str, Any]) -> bytes:
    state = data.get("state")
    if isinstance(state, str):
        return state.encode()
    if isinstance(encoded := data.get("base64"), str):
        return b64decode(encoded)
    raise DataError(f"event {event.id} of {event.actor_id} was not recorded by a recorder of eventsourcing")
