"""The wire format: an event as JSON, and the envelope in which it crosses nodes. Go nodes read and write the same.

``{"node_id": str, "position": int, "namespace_id": str, "event": {"id", "eventType", "actorId", "commandId"?,
"version", "data", "metadata"?, "timestamp"}}``, where ``?`` is left out when empty. Where an event stands among those
of its node, ``position``, is ours: Go writes none, and reads over it. msgspec does the work; what it would change
silently (NaN, bytes, sets, keys that are no str, a timestamp's nanoseconds) is taken care of here.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, time, timedelta
from decimal import Decimal
from enum import Enum
from itertools import count
from math import isfinite
from typing import Annotated, Any, NoReturn
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from ._clock import Date, Datetime
from ._short import explained, short
from .errors import DecodingError, EncodingError, InvalidEventError
from .events import _CHECKED, MAX_VERSION, Event, _metadata, _set

__all__ = [
    "FIRST_POSITION",
    "POSITION_ENDS",
    "POSITION_MARK",
    "EnvelopeWriter",
    "decode_envelope",
    "decode_event",
    "decode_run",
    "decode_stored",
    "encode_and_copy",
    "encode_event",
    "encode_read",
]

_MAX_DEPTH = 200  # levels of data; the same on every Python and thread, unlike its recursion limit
_PATH_SHOWN = 8  # levels: enough to find it
_MINUTE = timedelta(minutes=1)
_T, _Z = b"TZ"
_TEMPLATES_KEPT = 4_096  # namespaces; then all are forgotten and built again when needed

FIRST_POSITION = 10**15  # so that all have 16 digits: they compare as bytes, and are no matter for a payload's size
POSITION_MARK = b'"position":'  #: stands behind the mark of a node that numbers its events, before the number
POSITION_ENDS = len(POSITION_MARK) + 16  #: bytes of both

_WRITTEN_AS_IS = frozenset({str, int, bool, type(None), UUID, Date})
_MOMENTS = frozenset({Datetime})  # this very class, also while a test has another one stand for it
_UNCHANGED = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})

_encode = msgspec.json.Encoder().encode
_read_datetime = Datetime.fromisoformat
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]


class _Written(msgspec.Struct, rename="camel", gc=False):
    """What is written of an event, in this order; UNSET is left out."""

    id: str
    event_type: str
    actor_id: str
    command_id: str | UnsetType
    version: int
    data: Any
    metadata: Mapping[str, str] | UnsetType
    timestamp: Datetime


class _Read(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """What is read of an event. What Go may leave out, or write as null, has a default."""

    id: _NonEmpty
    event_type: _NonEmpty
    actor_id: _NonEmpty
    command_id: str = ""
    version: _Version = 0
    data: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    timestamp: str


_KEYS = {"event_type": "eventType", "actor_id": "actorId", "command_id": "commandId"}


class _Ready(msgspec.Struct, frozen=True, kw_only=True, eq=False, gc=False, rename=_KEYS):
    """An event as msgspec reads it in one go, all checks included: the fields of ``Event``, in its order.

    It is made an ``Event`` by its ``__class__``, which takes a tenth of the time of making another object.
    """

    id: _NonEmpty
    event_type: _NonEmpty
    actor_id: _NonEmpty
    version: _Version = 0
    data: dict[str, Any] | None = None
    timestamp: Annotated[Datetime, msgspec.Meta(tz=True)]
    command_id: str = ""
    metadata: dict[str, str] | None = msgspec.field(default_factory=dict)
    namespace: str = msgspec.field(default="", name="namespace, which is not read from here")


class _Envelope(msgspec.Struct, gc=False):
    node_id: str
    namespace_id: str
    event: _Read


class _ReadyEnvelope(msgspec.Struct, gc=False):
    node_id: str
    namespace_id: str
    event: _Ready


_read_event = msgspec.json.Decoder(_Read).decode
_read_envelope = msgspec.json.Decoder(_Envelope).decode
_read_ready_event = msgspec.json.Decoder(_Ready).decode
_read_ready = msgspec.json.Decoder(_ReadyEnvelope).decode


# -- writing


def encode_event(event: Event) -> bytes:
    """Write an event as JSON, without its namespace.

    Data of the exact types that msgspec writes as we do goes to it as it is; of all other data a plain copy is made.
    So nobody's code runs while msgspec walks through a container, and no other thread changes it then.

    Raises:
        EncodingError: It holds what JSON has not, or was changed meanwhile; the message says what and where.
    """
    data = event.data
    try:
        if data is None or (type(data) is dict and _is_json(data, 1)):
            return _write(event, data, event.metadata)
    except (TypeError, ValueError, RuntimeError):  # the copying finds out what it is
        pass
    return _encode_carefully(event)


def encode_and_copy(event: Event, namespace: str) -> tuple[bytes, Event]:
    """Write an event as JSON; and return what a reader of that gets, who receives it under this namespace.

    What a thread could change is copied first, and the copy written: so both are the same, whatever others do.

    Raises:
        EncodingError: As :func:`encode_event`.
    """
    if type(event) is Event and (event.data is None or type(event.data) is dict):
        data = None if event.data is None else dict(event.data)
        metadata = {**event.metadata}
        try:
            if data is None or _is_flat(data):
                return _write(event, data, metadata), _copy(event, data, metadata, namespace)
        except (TypeError, ValueError):  # the careful way finds out what it is
            pass
    encoded = encode_event(event)
    return encoded, decode_event(encoded, namespace)


def encode_read(event: Event) -> bytes:
    """Write an event as it was read, as deep as it is: what others stored need not keep to what is taken here.

    Raises:
        EncodingError: It is nested too deeply for this thread's stack.
    """
    try:
        return _write(event, event.data, event.metadata)
    except RecursionError as error:
        raise EncodingError(
            f"event {short(event.event_type)} ({short(event.id)}): data is nested too deeply for this thread's stack"
        ) from error


def _is_flat(data: dict[Any, Any]) -> bool:
    """Whether all there is comes off the wire as it went on: keys and values of a few exact types."""
    for key, item in data.items():
        kind = type(item)
        if type(key) is not str or not (kind in _UNCHANGED or (kind is float and item - item == 0.0)):
            return False
    return True


def _copy(event: Event, data: dict[str, Any] | None, metadata: dict[str, str], namespace: str) -> Event:
    copy: Event = event.__copy__()  # type: ignore[attr-defined]  # of every Struct
    _set(copy, "data", data)
    _set(copy, "metadata", metadata)
    _set(copy, "namespace", namespace)
    return copy


def _write(event: Event, data: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> bytes:
    if metadata:
        "".join(metadata.values())  # TypeError: somebody has changed what is read-only
    return _encode(
        _Written(
            event.id,
            event.event_type,
            event.actor_id,
            event.command_id or UNSET,
            event.version,
            data,
            metadata or UNSET,
            event.timestamp,
        )
    )


def _is_json(data: dict[Any, Any], depth: int) -> bool:
    """Whether msgspec writes a dict as it is: keys and values of the exact types that it and we agree on."""
    for key, item in data.items():
        kind = type(item)
        if type(key) is not str or not (kind in _WRITTEN_AS_IS or _is_json_item(item, kind, depth)):
            return False
    return True


def _is_json_item(item: Any, kind: type, depth: int) -> bool:
    if kind is float:
        finite: bool = item - item == 0.0  # NaN and infinities give NaN
        return finite
    if kind in _CONTAINERS:
        if depth >= _MAX_DEPTH:
            return False
        if kind is dict:
            return _is_json(item, depth + 1)
        for one in item:
            kind = type(one)
            if not (kind in _WRITTEN_AS_IS or _is_json_item(one, kind, depth + 1)):
                return False
        return True
    if kind in _MOMENTS:
        return item.tzinfo is None or item.tzinfo is UTC
    return kind is Decimal and item.is_finite()


def _encode_carefully(event: Event) -> bytes:
    path: list[str] = []
    cause: Exception | None = None
    try:
        return _write(event, None if event.data is None else _plain(event.data, path), _metadata(event.metadata))
    except _NotJsonError as error:
        reason = f"{_place(path)} {error}"
    except InvalidEventError as error:
        reason = f"it was changed: {error}"
    except UnicodeEncodeError as error:
        reason, cause = "a field or its metadata has a lone surrogate", error
    except RecursionError as error:
        reason, cause = "data is nested too deeply for this thread's stack", error
    except Exception as error:  # of a Mapping or tzinfo that is not ours, or of an int too long for a text
        reason, cause = f"{_place(path)} cannot be read: {explained(error)}", error
    raise EncodingError(f"event {short(event.event_type)} ({short(event.id)}): {reason}") from cause


def _place(path: Sequence[str]) -> str:
    """Say where in data something is; innermost first."""
    if len(path) > _PATH_SHOWN:
        path = [f"... ({len(path):,} levels)", *path[-_PATH_SHOWN:]]
    return f"data{''.join(reversed(path))}"


class _NotJsonError(Exception):
    """A value of data that is not on the list in ``Event``'s docstring."""


def _plain(value: Any, path: list[str], depth: int = 0) -> Any:
    """Copy a value into exact JSON types. On an error, ``path`` holds where it was, innermost first."""
    kind = type(value)
    if kind is str:
        return _plain_text(value)
    if kind in _WRITTEN_AS_IS:
        return value
    if kind is dict or isinstance(value, Mapping):
        _check_depth(depth)
        copy = {}
        for key, item in list(value.items()):
            text = _plain_key(key)
            try:
                copy[text] = _plain(item, path, depth + 1)
            except BaseException:
                path.append(f"[{short(key)}]")
                raise
        return copy
    if isinstance(value, (list, tuple)):  # half the time of a union
        _check_depth(depth)
        items = []
        for index, item in enumerate(list(value)):
            try:
                items.append(_plain(item, path, depth + 1))
            except BaseException:
                path.append(f"[{index}]")
                raise
        return items
    if isinstance(value, Enum) and not isinstance(value, str | int | float):
        _check_depth(depth)
        return _plain(value.value, path, depth + 1)
    return _plain_leaf(value)


def _check_depth(depth: int) -> None:
    if depth >= _MAX_DEPTH:
        raise _NotJsonError(f"is nested more than {_MAX_DEPTH} levels deep, or contains itself")


def _plain_key(key: object) -> str:
    if not isinstance(key, str):
        raise _NotJsonError(f"has a key of type {type(key).__name__}; keys must be str")
    try:
        return _plain_text(key)
    except _NotJsonError as error:
        raise _NotJsonError(f"has a key that {error}") from None


def _plain_text(text: str) -> str:
    text = str.__str__(text)
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        raise _NotJsonError("has a lone surrogate, which UTF-8 does not have") from None
    return text


def _plain_leaf(value: Any) -> Any:
    if isinstance(value, str):
        return _plain_text(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float | Decimal):
        if not (isfinite(value) if isinstance(value, float) else value.is_finite()):
            raise _NotJsonError("is NaN or infinite, which JSON does not have")
        return float.__float__(value) if isinstance(value, float) else str(value)
    if isinstance(value, Datetime | Date | time):
        return _plain_moment(value)
    if isinstance(value, timedelta):
        return msgspec.to_builtins(timedelta(value.days, value.seconds, value.microseconds))
    if isinstance(value, UUID):
        return str(value)
    raise _NotJsonError(f"is of type {type(value).__name__}; what data may hold is listed in help(Event)")


def _plain_moment(value: Datetime | Date | time) -> str:
    if isinstance(value, Datetime) and (value.utcoffset() or _MINUTE) % _MINUTE:
        value = value.astimezone(UTC)  # no text has the seconds of an offset (local mean times before 1900)
    text = value.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


class EnvelopeWriter:
    """Puts encoded events into the envelopes of one node, by concatenation, and numbers them. Any thread may use it.

    Args:
        node_id: The node's own id.

    Attributes:
        own_mark: What every payload of this node starts with, ``{"node_id":"<id>",``, so that a receiver can skip its
            own by ``payload.startswith(mark)``. Its position follows.
        positions: Where to take the next event's from, by ``next()``, which is atomic.
    """

    __slots__ = ("_templates", "own_mark", "positions")

    def __init__(self, node_id: str) -> None:
        self.own_mark = b'{"node_id":%b,' % _encode(node_id)
        self.positions = count(FIRST_POSITION)
        self._templates: dict[str, bytes] = {}  # by namespace; two threads may both build one, of equal value

    def write(self, namespace: str, encoded_event: bytes) -> bytes:
        """Return the payload of an event that ``encode_event()`` wrote, under a checked namespace."""
        return self.template(namespace) % (next(self.positions), encoded_event)

    def template(self, namespace: str) -> bytes:
        """Return what makes a payload of a position and an encoded event."""
        template = self._templates.get(namespace)
        if template is None:
            fixed = [part.replace(b"%", b"%%") for part in (self.own_mark, POSITION_MARK, _encode(namespace))]
            template = b'%b%b%%d,"namespace_id":%b,"event":%%b}' % tuple(fixed)
            if len(self._templates) >= _TEMPLATES_KEPT:
                self._templates = {}
            self._templates[namespace] = template
        return template

    def around(self, namespace: str) -> int:
        """Return how many bytes of a payload are not the event."""
        return len(self.template(namespace) % (FIRST_POSITION, b""))


# -- reading


def decode_event(encoded: bytes, namespace: str) -> Event:
    """Read what ``encode_event()`` wrote.

    Args:
        encoded: The JSON.
        namespace: Where the event was received.

    Raises:
        DecodingError: The bytes are no event.
    """
    try:
        return _event(_read_event(encoded), namespace)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        _refuse(error)


def decode_stored(encoded: bytes) -> Event:
    """Read what ``encode_event()`` wrote, or a node in Go, in half the time of :func:`decode_event`.

    Raises:
        DecodingError: The bytes are no event.
    """
    # As in decode_run(): a timestamp that begins here is read by msgspec as by us.
    if encoded[-43:-29] == b',"timestamp":"' and encoded[-19:-18] == b"T" and encoded[-3:-2] == b"Z":
        try:
            event: Any = _read_ready_event(encoded)
        except (ValueError, RecursionError):  # the careful way says what is wrong
            pass
        else:
            if event.metadata is not None:
                _set(event, "__class__", Event)
                return event  # type: ignore[no-any-return]
    return decode_event(encoded, "")


def decode_envelope(payload: bytes, namespace: str) -> tuple[str, Event]:
    """Read what a node sent.

    A missing version is 0; missing or null data is None, missing or null metadata empty. Unknown keys are ignored, of
    one that comes twice the last counts.

    Args:
        payload: The whole message.
        namespace: What the subject says; the envelope must say the same.

    Returns:
        The id of the node, and the event, which knows its namespace.

    Raises:
        DecodingError: The bytes are no such thing. The message has the reason's kind and path, none of the content.
    """
    try:
        envelope = _read_envelope(payload)
        if envelope.namespace_id == namespace:
            return envelope.node_id, _event(envelope.event, namespace)
    except (ValueError, RecursionError) as error:
        _refuse(error)
    raise DecodingError("the envelope claims another namespace than its subject says")


def decode_run(
    payloads: Sequence[bytes], namespace: str, but_of: str | None, refuse: Callable[[DecodingError], object]
) -> tuple[list[Event], list[bytes]]:
    """Read what came in a row with one subject, as :func:`decode_envelope` does and in two thirds of its time.

    Args:
        payloads: The messages, in order.
        namespace: As there.
        but_of: A node whose events are left out.
        refuse: Called with the error for what is no event; it is left out.

    Returns:
        The events, and the payloads that they came from.
    """
    events: list[Any] = []
    kept: list[bytes] = []
    read, put = _read_ready, _set
    for payload in payloads:
        # A timestamp that begins here has no more than six digits behind its point, so msgspec, which rounds, reads it
        # as we do, who cut off; with T and Z in these places it is no form that only one of us knows. A message made by
        # hand can have such a thing here that is not the event's: then a timestamp may be rounded, and nothing else.
        if payload[-44:-30] == b',"timestamp":"' and payload[-20] == _T and payload[-4] == _Z:
            try:
                envelope = read(payload)
            except (ValueError, RecursionError):  # the careful way says what is wrong
                pass
            else:
                event: Any = envelope.event
                if envelope.namespace_id == namespace and event.metadata is not None:
                    if envelope.node_id != but_of:
                        put(event, "namespace", namespace)
                        put(event, "__class__", Event)
                        events.append(event)
                        kept.append(payload)
                    continue
        try:
            node_id, event = decode_envelope(payload, namespace)
        except DecodingError as error:
            refuse(error)
            continue
        if node_id != but_of:
            events.append(event)
            kept.append(payload)
    return events, kept


def _event(read: _Read, namespace: str) -> Event:
    event = Event(
        id=read.id,
        event_type=read.event_type,
        actor_id=read.actor_id,
        version=read.version,
        data=read.data,
        timestamp=_read_timestamp(read.timestamp),
        command_id=read.command_id,
        metadata=read.metadata or {},
        namespace=_CHECKED,
    )
    _set(event, "namespace", namespace)
    return event


def _read_timestamp(text: str) -> Datetime:
    """Read RFC 3339, with any offset, to the microsecond: further digits are cut off, not rounded.

    A leap second (``:60``) is an error, as in Go: neither language has a moment for it.
    """
    if text[4:20:3] == "--T::." and text[-1] == "Z" and text[20:-1].isdigit() and text.isascii():
        return _read_datetime(text)  # which takes nothing of this shape but RFC 3339
    text = text.upper()
    if not _RFC3339.fullmatch(text):
        raise _NotRfc3339Error
    try:
        return _read_datetime(text).astimezone(UTC)
    except OverflowError:
        raise _NotRfc3339Error from None


class _NotRfc3339Error(ValueError):
    """A timestamp of another shape, or out of the range of datetime."""


def _refuse(error: ValueError | RecursionError) -> NoReturn:
    if isinstance(error, msgspec.DecodeError):  # says what and where, by types and keys of ours
        raise DecodingError(f"not an event of this wire format: {error}") from error
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    elif isinstance(error, UnicodeDecodeError):
        reason = "it is not UTF-8"
    else:  # datetime's own words would quote the text
        reason = "its timestamp is not RFC 3339, or not a moment that datetime has - at `$.event.timestamp`"
    raise DecodingError(f"not an event of this wire format: {reason}") from None  # the others hold the content
