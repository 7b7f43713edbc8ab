"""Rows of the outbox: what ``append()`` and ``publish()`` write, and what a relay reads.

A row is one call: its events are stored together or not at all, and they have one place in the order of their actor or
namespace. They are checked and encoded when the row is made, so that what is wrong with them is an error there, and not
in a relay, which nobody looks at.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import msgspec

from .._arguments import is_of
from .._codec.decoding import decode_event
from .._codec.encoding import encode_and_copy
from .._values.clock import Datetime, now
from .._values.shown import short
from ..errors import DecodingError, InvalidEventError, InvalidOptionError
from ..event_types import EventTypes
from ..events import Event
from ..patterns import check_namespace
from ..stores._checks import check_actor_id, check_events, check_version
from ..stores.base import ANY_VERSION, AnyVersion

__all__ = [
    "APPEND",
    "LONGEST_NAME",
    "PUBLISH",
    "Key",
    "Kind",
    "NewRow",
    "OutboxRow",
    "kind_of",
    "row_to_append",
    "row_to_publish",
]

Kind = Literal["append", "publish"]

APPEND: Kind = "append"  #: a row for the store
PUBLISH: Kind = "publish"  #: a row for the bus

LONGEST_NAME = 512  #: characters of an actor id or namespace: what databases can have in a column that is compared

_read_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Key(NamedTuple):
    """What has an order of its own: an actor of the store, or a namespace of the bus."""

    kind: Kind
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRow:
    """A row that is to be written; its fields are the columns of the table.

    Attributes:
        kind: ``"append"`` if the events are for the store, ``"publish"`` if they are for the bus.
        name: The actor, or the namespace.
        events: The events, without versions: a JSON array, as text.
        count: How many they are.
        expected_version: The version that the actor must have; None if it may have any, and for the bus.
        version: The version that the first event gets. It is known from the start if ``expected_version`` is; else a
            relay writes it, before it stores the events. None until then, and for the bus.
        created_at: When the row was made; aware, in UTC.
    """

    kind: Kind
    name: str
    events: str
    count: int
    expected_version: int | None = None
    version: int | None = None
    created_at: Datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxRow(NewRow):
    """A row as it is in the table.

    Attributes:
        id: Its number. Of two rows of one actor, the one with the lower number comes first.
        error: Why it was set aside; "" if it is not.
        set_aside_at: When it was; None if it is not.
    """

    id: int
    error: str = ""
    set_aside_at: Datetime | None = None

    @classmethod
    def of(cls, found: Any, in_utc: Callable[[Any], Any]) -> Self:
        """Return the row that a database layer has read.

        Args:
            found: An object whose attributes are called as the columns.
            in_utc: Returns a time of the database, aware and in UTC, and None for None.

        Raises:
            DecodingError: It is of a kind that this release does not know.
        """
        return cls(
            id=found.id,
            kind=kind_of(found.kind),
            name=found.name,
            events=found.events,
            count=found.count,
            expected_version=found.expected_version,
            version=found.version,
            created_at=in_utc(found.created_at),
            error=found.error,
            set_aside_at=in_utc(found.set_aside_at),
        )

    @property
    def key(self) -> Key:
        """What it has its place in the order of."""
        return Key(self.kind, self.name)

    @property
    def last_version(self) -> int:
        """The version of its last event, once its first one has one; else 0."""
        return 0 if self.version is None else self.version + self.count - 1

    def decoded(self) -> tuple[Event, ...]:
        """Return its events; those for the store have their versions, if these are known.

        Raises:
            DecodingError: Somebody has written something else into the row.
        """
        try:
            parts = _read_parts(self.events)
        except (ValueError, RecursionError) as error:
            raise DecodingError(f"row {self.id} of the outbox has no JSON array of events: {error}") from error
        events = [decode_event(bytes(part), "") for part in parts]
        if len(events) != self.count or not events:
            raise DecodingError(f"row {self.id} of the outbox has {len(events)} events, and says {self.count}")
        if self.version is not None:
            events = [event.replace(version=self.version + place) for place, event in enumerate(events)]
        return tuple(events)


def row_to_append(
    actor_id: str, events: Sequence[object], expected_version: int | AnyVersion, types: EventTypes | None = None
) -> tuple[NewRow, tuple[Event, ...]]:
    """Make a row for the store, of the arguments of ``append()``; return also the events, as they were encoded.

    Raises:
        InvalidOptionError: The actor id or the expected version is none; or the actor id is longer than a column holds.
        InvalidEventError: An event is none, has a version or another actor; or there is none at all.
        EncodingError: The data of an event cannot be written as JSON.
        DuplicateIdError: Two of the events have the same id.
    """
    actor_id = _checked_length("an actor id", check_actor_id(actor_id))
    expected: int | None = None
    if expected_version is not ANY_VERSION:
        expected = check_version("expected_version", expected_version)
    checked = check_events(_as_events(events, types, actor_id))
    for event in checked:
        if event.actor_id != actor_id:
            raise InvalidEventError(
                f"append() for actor {short(actor_id)} was given an event of actor {short(event.actor_id)}"
            )
        if event.version:
            raise InvalidEventError(
                f"an event of the outbox gets its version when it is stored, and this one has {event.version}: leave "
                "version out, and give expected_version if the actor must be at a certain one"
            )
    first = None if expected is None else check_version("expected_version + 1", expected + 1)
    return _row(APPEND, actor_id, checked, expected, first)


def row_to_publish(
    namespace: str, events: Sequence[object], types: EventTypes | None = None
) -> tuple[NewRow, tuple[Event, ...]]:
    """Make a row for the bus, of the arguments of ``publish()``; return also the events, as they were encoded.

    Raises:
        InvalidNamespaceError: The namespace is none, or has a wildcard.
        InvalidEventError: An event is none; or there is none at all.
        EncodingError: The data of an event cannot be written as JSON.
        DuplicateIdError: Two of the events have the same id.
    """
    namespace = _checked_length("a namespace", check_namespace(namespace))
    return _row(PUBLISH, namespace, check_events(_as_events(events, types)), None, None)


def _row(
    kind: Kind, name: str, events: tuple[Event, ...], expected: int | None, version: int | None
) -> tuple[NewRow, tuple[Event, ...]]:
    if not events:
        raise InvalidEventError(f"{kind}() for {short(name)} was given no event")
    encoded = [encode_and_copy(event, "") for event in events]
    row = NewRow(
        kind=kind,
        name=name,
        events=(b"[" + b",".join(data for data, _ in encoded) + b"]").decode(),
        count=len(encoded),
        expected_version=expected,
        version=version,
        created_at=now(),
    )
    return row, tuple(copy for _, copy in encoded)


def _checked_length(what: str, name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise InvalidOptionError(
            f"{what} of the outbox has at most {LONGEST_NAME} characters, and {short(name)} has {len(name)}"
        )
    return name


def _as_events(given: Sequence[object], types: EventTypes | None, actor_id: str | None = None) -> list[Any]:
    """Make events of typed values for an actor; what is none of both is left to be refused."""
    if types is None or actor_id is None:
        return list(given)
    return [
        one if is_of(one, Event) or is_of(one, list) or is_of(one, tuple) else types.to_event(one, actor_id=actor_id)
        for one in given
    ]


def kind_of(text: str) -> Kind:
    """Return the kind of a row, of the text in its column.

    Raises:
        DecodingError: There is no such kind: a newer release has written it.
    """
    if text not in (APPEND, PUBLISH):
        raise DecodingError(f"the outbox has a row of the kind {short(text)}, which this release does not know")
    return PUBLISH if text == PUBLISH else APPEND
