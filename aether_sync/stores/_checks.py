"""What all stores do with what they are given: check it, number events, copy snapshots, tell events apart."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from operator import attrgetter
from typing import Any, TypeVar

from .._arguments import as_iterator, check_int, is_mapping, is_of
from .._codec.decoding import decode_event
from .._codec.encoding import encode_event
from .._runtime.deadline import Deadline
from .._values.shown import short
from ..errors import (
    DeadlineExceededError,
    DuplicateIdError,
    EncodingError,
    InvalidEventError,
    InvalidOptionError,
    VersionConflictError,
)
from ..event_types import EventTypes
from ..events import MAX_VERSION, Event
from ..patterns import SubscriptionFilter, check_actor_pattern
from .base import Snapshot

__all__ = [
    "BATCH_LIMIT",
    "check_actor_id",
    "check_events",
    "check_order",
    "check_version",
    "check_wanted",
    "copied_snapshot",
    "refuse_ahead",
    "in_time",
    "is_same",
    "latest_of",
    "numbered",
    "replaces",
]

T = TypeVar("T")

BATCH_LIMIT = 1_000  #: events in one atomic batch (ADR-50)


# -- checking


def check_actor_id(actor_id: str) -> str:
    """Return an actor id as a plain str; refuse anything else."""
    if not is_of(actor_id, str) or not str.__str__(actor_id):
        raise InvalidOptionError(f"an actor id is a non-empty str such as 'order-1', not {short(actor_id)}")
    return str.__str__(actor_id)


def check_wanted(
    name: str, actors: str | None, event_types: Iterable[str | type] = (), types: EventTypes | None = None
) -> SubscriptionFilter:
    """Return a filter for a pattern of actors and for event types; an error names the pattern as the caller does."""
    pattern = check_actor_pattern(name, actors) or None
    return SubscriptionFilter(event_types=event_types, actor_pattern=pattern, types=types)


def check_version(name: str, version: object, least: int = 0) -> int:
    """Return a version or a sequence as a plain int; refuse anything else."""
    return check_int(name, version, least, MAX_VERSION)


def check_events(events: Iterable[object]) -> tuple[Event, ...]:
    """Refuse what cannot be stored in one save, and return the events as a tuple."""
    iterator = as_iterator(events)
    if iterator is None:
        raise InvalidEventError(f"save_events() takes events, not one {type(events).__name__}")
    checked: tuple[Any, ...] = tuple(islice(iterator, BATCH_LIMIT + 1))
    for event in checked:
        if type(event) is not Event and not is_of(event, Event):
            if is_of(event, list) or is_of(event, tuple):
                raise InvalidEventError("append() takes events one by one: append(actor_id, *events, ...)")
            raise InvalidEventError(
                f"a store takes Event(event_type=..., actor_id=...), not {type(event).__name__}; only append() of a "
                "store with types= takes objects of registered classes"
            )
    if len(checked) > BATCH_LIMIT:
        raise InvalidOptionError(
            f"more than {BATCH_LIMIT:,} events in one save, which is stored whole or not at all: store them in several "
            "saves"
        )
    if len(checked) == 1:
        return checked
    ids = set()
    for event in checked:
        if event.id in ids:
            raise DuplicateIdError(f"two of the events to be stored have the id {short(event.id)}: make a new Event")
        ids.add(event.id)
    return checked


def check_order(events: Sequence[Event]) -> None:
    """Refuse events without a version, and versions of an actor that do not increase."""
    if len(events) == 1 and events[0].version > 0:
        return
    versions: dict[str, int] = {}
    for event in events:
        before = versions.get(event.actor_id, 0)
        if not event.version:
            raise InvalidEventError(
                f"event {short(event.event_type)} of actor {short(event.actor_id)} has no version: give it one, 1 or "
                "more, or let append() number it"
            )
        if event.version <= before:
            raise InvalidEventError(
                f"the versions of actor {short(event.actor_id)} do not increase: {event.version} comes after {before}"
            )
        versions[event.actor_id] = event.version


def copied_snapshot(snapshot: Snapshot) -> Snapshot:
    """Check a snapshot and return a copy: its state is as a reader gets it, and shares nothing with the original."""
    if not is_of(snapshot, Snapshot):
        raise InvalidOptionError(f"save_snapshot() takes Snapshot(actor_id=..., ...), not {type(snapshot).__name__}")
    if not is_mapping(snapshot.state):
        raise InvalidOptionError(
            f"a snapshot's state is a dict or another Mapping, not {type(snapshot.state).__name__}"
        )
    actor_id = check_actor_id(snapshot.actor_id)
    version = check_version("a snapshot's version", snapshot.version, 1)
    schema_version = check_version("a snapshot's schema_version", snapshot.schema_version)
    sequence = check_version("a snapshot's sequence", snapshot.sequence)
    try:
        event = Event(event_type="Snapshot", actor_id=actor_id, data=snapshot.state, timestamp=snapshot.timestamp)
    except InvalidEventError as error:
        raise InvalidOptionError(f"a snapshot of actor {short(actor_id)}: {error}") from None
    try:
        copy = decode_event(encode_event(event), "")
    except EncodingError as error:
        what = str(error).removeprefix(f"event {short(event.event_type)} ({short(event.id)}): ")
        what = f"state{what[4:]}" if what.startswith("data") else what  # which is what the user knows it by
        raise EncodingError(f"a snapshot of actor {short(actor_id)}: {what}") from error
    return Snapshot(
        actor_id=actor_id,
        version=version,
        state=copy.data or {},
        schema_version=schema_version,
        sequence=sequence,
        timestamp=copy.timestamp,
    )


def in_time(found: Iterable[T], deadline: Deadline) -> Iterator[T]:
    """Yield what is found until the deadline, which is checked once in sixteen: a look at the clock costs time."""
    for number, one in enumerate(found):
        if number % 16 == 15 and not deadline.remaining():
            raise DeadlineExceededError(f"not all of it was read within {deadline}")
        yield one


def refuse_ahead(snapshot: Snapshot, current: int) -> None:
    """Refuse a snapshot of a later version than its actor has."""
    if snapshot.version > current:
        conflict = VersionConflictError(snapshot.actor_id, snapshot.version, current)
        conflict.is_of_snapshot = True
        raise conflict


def replaces(snapshot: Snapshot, kept: Snapshot) -> bool:
    """Whether a snapshot is newer than the one that is kept: of a later version, or of the same in a later schema."""
    return (snapshot.version, snapshot.schema_version) > (kept.version, kept.schema_version)


def latest_of(
    snapshots: Iterable[Snapshot], to_version: int | None = None, schema_version: int | None = None
) -> Snapshot | None:
    """Return the latest of an actor's snapshots; None if there is none.

    Args:
        snapshots: The snapshots.
        to_version: The last version wanted; None for no limit.
        schema_version: The schema version wanted; None for any.
    """
    found = None
    for one in snapshots:
        is_wanted = to_version is None or one.version <= to_version
        is_wanted = is_wanted and (schema_version is None or one.schema_version == schema_version)
        if is_wanted and (found is None or replaces(one, found)):
            found = one
    return found


def numbered(events: Sequence[Event], version: int) -> tuple[Event, ...]:
    """Return events with the versions that follow this one."""
    if version + len(events) > MAX_VERSION:
        raise InvalidEventError(f"there are no versions after 2**63 - 1, and {len(events)} were to follow {version}")
    return tuple(event.replace(version=version + place, namespace="") for place, event in enumerate(events, 1))


def is_same(one: Event, other: Event) -> bool:
    """Whether two events state the same fact. Their timestamps, command ids and metadata may differ."""
    return _identity(one) == _identity(other)


_identity = attrgetter("id", "actor_id", "version", "event_type", "data")
