"""``Event``, an immutable fact about an actor; and ``EventStored``, the data of the events that a store publishes.

How events are written as JSON, and read again, is in ``_codec``.
"""

import os
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, timedelta, timezone
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypeVar

import msgspec

from ._arguments import MAX_INT, as_whole, check_int, is_mapping, is_of
from ._values.clock import Datetime, now
from ._values.shown import explained, short
from ._values.trace_context import baggage_in, trace_parent_in, trace_state_in
from .errors import DecodingError, InvalidEventError, InvalidOptionError

__all__ = [
    "ANNOUNCEMENTS",
    "EVENT_STORED",
    "MAX_VERSION",
    "PROJECTION_ADVANCED",
    "CarriedMetadata",
    "Event",
    "EventStored",
    "ProjectionAdvanced",
    "Types",
    "event_class",
    "made_of",
]

EVENT_STORED = "EventStored"
"""The type of the event that a store publishes for each event that it has stored."""

PROJECTION_ADVANCED = "ProjectionAdvanced"
"""The type of the event that a projection publishes when it has committed what it has made of events."""

MAX_VERSION = MAX_INT  #: the largest int64, which a version is in Go

T = TypeVar("T")

_EPOCH = Datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_CHECKED = "<checked by the decoder>"  # this very object as the namespace says that the decoder checked all fields
_METADATA_KEYS = {  # by the names of the properties that read them
    "correlation_id": "correlationId",
    "causation_id": "causationId",
    "user_id": "userId",
    "trace_id": "traceId",
    "span_id": "spanId",
}
_CARRIED = ("userId", "traceId")  # metadata that following() hands on, besides the context of a trace
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")
_set = msgspec.structs.force_setattr  # for the fields of an event that is still being made


_ids: list[str] = []  # made in advance: each call to the kernel releases the GIL, and may wait long to get it again
os.register_at_fork(after_in_child=_ids.clear)  # two processes must not use the same ids


def _new_id() -> str:
    try:
        return _ids.pop()
    except IndexError:
        block = os.urandom(16 * 256).hex()
        first, *rest = [block[at : at + 32] for at in range(0, len(block), 32)]
        _ids.extend(rest)
        return first


class Types(Protocol):
    """What an event and a filter need of ``EventTypes``, which is in a later room."""

    def value_of(self, event: "Event") -> Any:
        """Return the typed value of an event."""

    def names(self, *event_types: str | type) -> frozenset[str]:
        """Return the names under which events of these types are stored."""


class CarriedMetadata(dict[str, str]):
    """Metadata whose ``traceparent`` names who made the cause of the event: ``following()`` has carried it over.

    Whoever sends the event puts a context of its own there. An event that was read has a plain dict.
    """

    __slots__ = ()


class Event(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False):
    """An immutable fact about an actor. It takes keyword arguments only; ``event_type`` and ``actor_id`` are required.

    Do not change ``data`` or ``metadata`` of an event that you received: all subscribers of the process share it. The
    data of an event that you make is not copied; ``publish()`` encodes it, and you may change it again afterwards. A
    subscriber gets what the JSON of the data holds:

    | data may hold                                 | which arrives as                                          |
    | --------------------------------------------- | --------------------------------------------------------- |
    | None, bool, str, finite float, int            | the same; other languages may round an int beyond 64 bits |
    | subclasses of str, int and float (also enums) | the plain value                                           |
    | an ``enum.Enum`` whose value is on this list  | its ``value``                                             |
    | a dict or other ``Mapping``, with str keys    | dict                                                      |
    | a list, a tuple, a subclass of either         | list                                                      |
    | datetime, date, time                          | ISO 8601 text as by ``isoformat()``, with ``Z`` for UTC   |
    | timedelta                                     | ISO 8601 text such as ``P1DT0.5S``                        |
    | UUID, finite Decimal                          | its ``str()``                                             |

    For anything else ``publish()`` raises ``EncodingError``: sets, bytes, NaN, infinities, cycles, more than 200
    levels, lone surrogates, keys that are not str, and all other objects. Pass ``dataclasses.asdict()`` of a dataclass,
    and ``msgspec.to_builtins()`` of a Struct. :meth:`data_as` turns the texts back into objects.

    Two events are equal if all fields but ``namespace`` are equal: where an event was received does not belong to the
    fact. The hash is that of ``id``.

    Attributes:
        id: Unique; a new one by default.
        event_type: What happened, such as ``"OrderPlaced"``.
        actor_id: What it happened to, such as ``"order-1"``.
        version: The actor's version after this event, up to 2**63 - 1; 0 if the event has no version.
        data: The details, or None.
        timestamp: When it happened: an aware datetime, which is kept in UTC. By default the current time.
        command_id: The id of the command that caused it; "" if there is none.
        metadata: Texts about the event. Five well-known ones can be read as properties, which are "" when absent.
        namespace: Where the event was received; "" for an event that you make.

    Raises:
        InvalidEventError: A value is of the wrong type or out of its range; the message names the field.
    """

    id: str = msgspec.field(default_factory=_new_id)
    event_type: str
    actor_id: str
    version: int = 0
    data: Mapping[str, Any] | None = None
    timestamp: Datetime = msgspec.field(default_factory=now)
    command_id: str = ""
    metadata: Mapping[str, str] = msgspec.field(default_factory=dict)
    namespace: str = ""

    # Of events that a store or bus with types hands out: event_class() makes a subclass for these. So there is no field
    # for it, which would cost each event memory, and be shown, compared, copied and written with the others.
    _types: ClassVar[Types | None] = None

    if TYPE_CHECKING:  # every Struct has it

        def __copy__(self) -> Self: ...

    def __post_init__(self) -> None:
        if self.namespace is _CHECKED:
            return
        stamp = self.timestamp
        if not (
            type(self.event_type) is type(self.actor_id) is type(self.id) is str
            and self.event_type
            and self.actor_id
            and self.id
            and type(self.command_id) is type(self.namespace) is str
            and type(self.version) is int
            and 0 <= self.version <= MAX_VERSION
            and (self.data is None or type(self.data) is dict)
            and type(stamp) is type(_EPOCH)
            and stamp.tzinfo is UTC
        ):
            self._settle()
        _set(self, "metadata", _metadata(self.metadata))

    def _settle(self) -> None:
        """Check every field but metadata, and turn subclasses into the plain type."""
        for name in ("id", "event_type", "actor_id"):
            _set(self, name, _text(name, getattr(self, name), may_be_empty=False))
        for name in ("command_id", "namespace"):
            _set(self, name, _text(name, getattr(self, name)))
        _set(self, "version", _version(self.version))
        _set(self, "timestamp", _timestamp(self.timestamp))
        if self.data is not None and not is_mapping(self.data):
            raise InvalidEventError(f"data must be a dict or another Mapping, or None, not {type(self.data).__name__}")

    # -- reading

    def data_as(self, type: type[T]) -> T:  # noqa: A002  # the word for it
        """Return the data as a dataclass, a TypedDict, a ``msgspec.Struct``, or anything else msgspec converts to.

        Fields of type datetime, date, time, timedelta, UUID, Decimal, bytes (base64), enum, set or tuple are read from
        the JSON that stands for them. All other types are strict: a str is not read as an int, nor is a float, not even
        3.0. (Go writes a whole float64 without a point.) Only in ``EventStored`` a whole float is read as an int.
        Unknown keys are ignored, unless the type forbids them.

        Args:
            type: What to return.

        Raises:
            DecodingError: The data has another shape; the message says where it differs.
            InvalidOptionError: msgspec cannot convert to this type.
        """
        _check_type(type)
        try:
            return msgspec.convert(self.data if type is not EventStored else _whole(self.data), type, str_keys=True)
        except msgspec.ValidationError as error:
            name = getattr(type, "__name__", None) or short(type)
            what = f"data of event {short(self.event_type)} ({short(self.id)}) is no {name}"
            raise DecodingError(f"{what}: {error}") from error
        except (TypeError, NameError, ValueError) as error:
            raise InvalidOptionError(f"data_as() cannot convert to {short(type)}: {error!s:.200}") from error

    @property
    def value(self) -> Any:
        """The event as an object of the class that the ``EventTypes`` of its store or bus have for its type.

        Data of an older version is brought to the newest one first. Each access makes a new object, which is yours to
        change. If the registry has ``unknown="pass"``, the value of an event that it does not know is the event itself.

        Raises:
            UnknownEventTypeError: The registry does not know the event's type, or has an older version of it only.
            EventTypeError: The data does not have the shape of the class, or an upcaster has failed.
            InvalidOptionError: The event was made by hand, or comes from a store or bus without ``types``; or a type of
                the registry lacks an upcaster.
        """
        if self._types is None:
            raise InvalidOptionError(
                f"event {short(self.event_type)} ({short(self.id)}) has no value, as it does not come from a store or "
                "bus with types: give that types=EventTypes(), or read the event with the value_of() of those, or with "
                "data_as()"
            )
        return self._types.value_of(self)

    @property
    def correlation_id(self) -> str:
        """The id that all events of one conversation share; "" when absent."""
        return self.metadata.get("correlationId", "")

    @property
    def causation_id(self) -> str:
        """The id of the event that caused this one; "" when absent."""
        return self.metadata.get("causationId", "")

    @property
    def user_id(self) -> str:
        """The user on whose behalf it happened; "" when absent."""
        return self.metadata.get("userId", "")

    @property
    def trace_id(self) -> str:
        """The id of the trace that it belongs to, of ``traceId`` or else ``traceparent``; "" when absent."""
        return self.metadata.get("traceId", "") or self._traceparent(1)

    @property
    def span_id(self) -> str:
        """The id of the operation in that trace which made the event, found likewise; "" when absent."""
        return self.metadata.get("spanId", "") or self._traceparent(2)

    def _traceparent(self, part: int) -> str:
        """Return a part of the W3C trace context (https://www.w3.org/TR/trace-context/); "" when there is none."""
        found = _TRACEPARENT.fullmatch(self.metadata.get("traceparent", ""))
        return found[part] if found else ""

    # -- making other events

    def replace(self, **changes: Any) -> Self:
        """Return a copy with some fields changed. All others stay the same, also ``id`` and ``timestamp``.

        Args:
            **changes: New values, by the names of the fields.

        Raises:
            InvalidEventError: There is no such field, or a value is of the wrong type or out of its range.
        """
        try:
            return msgspec.structs.replace(self, **changes)
        except TypeError as error:
            unknown = ", ".join(sorted(changes.keys() - set(self.__struct_fields__)))
            raise InvalidEventError(f"an Event has no field {unknown}: see help(Event)") from error

    def with_metadata(self, **changes: str | None) -> Self:
        """Return a copy with some metadata changed.

        Args:
            **changes: New texts by their keys, or by the names of the properties (``user_id`` for ``userId``). None
                removes a key.

        Raises:
            InvalidEventError: A value is not a str.
        """
        metadata = {**self.metadata, **{_METADATA_KEYS.get(key, key): value for key, value in changes.items()}}
        kept = {key: value for key, value in metadata.items() if value is not None}
        is_carried = type(self.metadata) is CarriedMetadata and "traceparent" not in changes
        return self.replace(metadata=CarriedMetadata(kept) if is_carried else kept)

    def following(
        self,
        *,
        event_type: str,
        actor_id: str,
        version: int = 0,
        data: Mapping[str, Any] | None = None,
        command_id: str = "",
        metadata: Mapping[str, str] | None = None,
    ) -> "Event":
        """Return a new event that this event caused.

        The new causation id is the id of this event. The new correlation id is that of this event, or the id of this
        event if it has none. User id and trace id are carried over, and so is the W3C trace context (``traceparent``,
        ``tracestate`` and ``baggage`` in the metadata), where it is valid and no larger than the W3C has it: others may
        have written anything there. The span id is not, as it names the operation that made this
        event.

        Args:
            event_type: As for ``Event``.
            actor_id: As for ``Event``.
            version: As for ``Event``.
            data: As for ``Event``.
            command_id: As for ``Event``.
            metadata: As for ``Event``; these texts replace those that are carried over.

        Raises:
            InvalidEventError: As for ``Event``.
        """
        carried = {"correlationId": self.correlation_id or self.id, "causationId": self.id}
        if self.metadata:
            carried |= {key: self.metadata[key] for key in _CARRIED if key in self.metadata}
            carried |= _trace_context_in(self.metadata)
        given = {} if metadata is None else _metadata(metadata)
        return Event(
            event_type=event_type,
            actor_id=actor_id,
            version=version,
            data=data,
            command_id=command_id,
            metadata={**carried, **given} if "traceparent" in given else CarriedMetadata({**carried, **given}),
        )

    # -- comparing and showing

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Event):
            return NotImplemented
        return self._fact() == other._fact()

    def __ne__(self, other: object) -> bool:  # Struct has one of its own, which would not call our __eq__
        return not self == other

    def __hash__(self) -> int:
        return hash(self.id)

    def _fact(self) -> tuple[object, ...]:
        return (
            self.id,
            self.event_type,
            self.actor_id,
            self.version,
            self.timestamp,
            self.command_id,
            self.metadata,
            self.data,
        )

    def __repr__(self) -> str:
        return f"Event({', '.join(f'{name}={value}' for name, value in self._shown())})"

    def _shown(self) -> Iterable[tuple[str, str]]:
        yield "event_type", short(self.event_type)
        yield "actor_id", short(self.actor_id)
        yield "version", str(self.version)
        yield "data", short(self.data)
        yield "id", short(self.id)
        yield "timestamp", self.timestamp.isoformat()
        if self.namespace:
            yield "namespace", short(self.namespace)


def event_class(types: Types) -> type[Event]:
    """Return a subclass of ``Event`` whose events have values. It has the same fields, and is shown under that name.

    Args:
        types: Makes the values.
    """
    namespace = {"_types": types, "__reduce__": _reduce, "__doc__": Event.__doc__}
    made: Any = msgspec.defstruct("Event", (), bases=(Event,), namespace=namespace, module=__name__)
    return made  # type: ignore[no-any-return]


def _reduce(self: Event) -> str | tuple[Any, ...]:
    """Pickle an event without its types: these have functions of the program, and another process has its own."""
    return made_of(self, Event).__reduce__()


def made_of(event: Event, kind: type[Event]) -> Event:
    """Return an event as one of the class of a store or bus; itself if it is one, or of a subclass of the user's."""
    if type(event) is kind or (type(event) is not Event and event._types is None):
        return event
    copy = event.__copy__()
    _set(copy, "__class__", kind)
    return copy


class EventStored(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The data of an event of type ``EventStored``. ``event.data_as(EventStored)`` reads it and ignores unknown keys.

    Attributes:
        event_id: The id of the stored event.
        actor_id: Its actor.
        version: Its version, which was the actor's newest when it was stored.
        timestamp: When it happened, in whole Unix seconds.
        sequence: Its place in the store; None if the node does not say, as those in Go do not.
    """

    event_id: str
    actor_id: str
    version: int
    timestamp: int
    sequence: int | None = None

    @classmethod
    def of(cls, event: Event, sequence: int | None = None) -> Event:
        """Return the event that announces a stored one. It has the same actor id and version, and no metadata.

        Args:
            event: The stored event.
            sequence: Its place in the store; None leaves it out.

        Raises:
            InvalidEventError: ``event`` is not an Event.
            InvalidOptionError: ``sequence`` is not a number from 0 on.
        """
        if not is_of(event, Event):
            raise InvalidEventError(f"EventStored.of() takes an Event, not {type(event).__name__}")
        data = {
            "eventId": event.id,
            "actorId": event.actor_id,
            "version": event.version,
            "timestamp": (event.timestamp - _EPOCH) // _SECOND,
        }
        if sequence is not None:
            data["sequence"] = check_int("sequence", sequence, 0)
        return Event(event_type=EVENT_STORED, actor_id=event.actor_id, version=event.version, data=data)


class ProjectionAdvanced(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The data of an event of type ``ProjectionAdvanced``: a projection has committed what it has made of events.

    The active instance of a projection whose store has a bus publishes it there, at most five hundred times a second;
    the last one always comes. Like all events of a bus it may be lost.

    Attributes:
        projection: The name of the projection.
        stream: What its store calls the stream of its events.
        sequence: All events up to this one have taken effect, or do not concern it.
        owner: A random word that tells this instance from others. Projections of one name into two databases have two
            of them.
    """

    projection: str
    stream: str
    sequence: int
    owner: str


#: What this library publishes itself, by the type of the event.
ANNOUNCEMENTS: Mapping[str, type[msgspec.Struct]] = {
    EVENT_STORED: EventStored,
    PROJECTION_ADVANCED: ProjectionAdvanced,
}


def _check_type(kind: object) -> None:
    """Refuse what msgspec cannot even look up, as it has no hash. Every class has one."""
    if type(kind) is not type:
        try:
            hash(kind)
        except Exception as error:
            raise InvalidOptionError(f"data_as() takes a type, not {short(kind)}") from error


def _whole(data: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """Return the data with whole floats as ints: a node that reads JSON numbers into float64 writes them as floats."""
    if data is None:
        return None
    return {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in data.items()}


# -- checking the fields of an event


def _text(name: str, value: object, *, may_be_empty: bool = True) -> str:
    if not is_of(value, str):
        raise InvalidEventError(f"{name} must be a str, not {type(value).__name__}")
    text = str.__str__(value)
    if not (text or may_be_empty):
        raise InvalidEventError(f"{name} must not be empty")
    return text


def _version(value: object) -> int:
    version = as_whole(value)
    if version is None:
        raise InvalidEventError(f"version must be an int, not {type(value).__name__}")
    if not 0 <= version <= MAX_VERSION:
        raise InvalidEventError(f"version must be from 0 to 2**63 - 1, not {short(value)}")
    return version


def _timestamp(value: Any) -> Datetime:
    if not is_of(value, Datetime):
        raise InvalidEventError(f"timestamp must be a datetime, not {type(value).__name__}")
    moment = _in_utc(value) if _raises_nothing(value) else _asked_in_utc(value)
    if moment is None:
        raise InvalidEventError("timestamp must be aware: give it a tzinfo, as in datetime.now(UTC)")
    return moment


def _raises_nothing(moment: Datetime) -> bool:
    zone = type(moment.tzinfo)
    return type(moment) is type(_EPOCH) and (zone in (timezone, type(None)) or zone.__module__ == "zoneinfo")


def _asked_in_utc(value: Any) -> Datetime | None:
    try:
        return _in_utc(value)
    except InvalidEventError:
        raise
    except Exception as error:  # raised by its tzinfo, or by an object that only calls itself a datetime: pandas' NaT
        raise InvalidEventError(
            f"timestamp must be a moment, and {short(value)} is none: {explained(error)}"
        ) from error


def _in_utc(value: Datetime) -> Datetime | None:
    """Return a plain datetime in UTC, whatever subclass it was; None if it is naive."""
    if value.utcoffset() is None:
        return None
    since = value - _EPOCH
    try:
        return _EPOCH + timedelta(since.days, since.seconds, since.microseconds)
    except OverflowError:
        raise InvalidEventError("timestamp is out of the range of datetime in UTC") from None


def _trace_context_in(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what is valid of the context of a trace."""
    found: dict[str, str] = {}
    if trace_parent_in(metadata):
        found["traceparent"] = metadata["traceparent"]
        if state := trace_state_in(metadata):
            found["tracestate"] = state
    if baggage := baggage_in(metadata):
        found["baggage"] = baggage
    return found


def _metadata(value: Any) -> dict[str, str]:
    if type(value) is dict and not value:
        return {}
    if type(value) is CarriedMetadata:
        return CarriedMetadata(_metadata({**value}))
    if not is_mapping(value):
        raise InvalidEventError(f"metadata must be a dict of str to str, not {type(value).__name__}")
    metadata = dict(value) if type(value) is dict else _read(value)
    for key, text in metadata.items():
        if not type(key) is type(text) is str:
            break
    else:
        return metadata
    return {_text("a metadata key", key): _text(f"metadata {short(key)}", text) for key, text in metadata.items()}


def _read(value: Mapping[Any, Any]) -> dict[Any, Any]:
    try:
        return dict(value)
    except Exception as error:  # raised by the user's own Mapping
        raise InvalidEventError(f"metadata cannot be read: {explained(error)}") from error
