"""Reading: from JSON to events."""

import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import Annotated, Any, NoReturn

import msgspec

from .._values.clock import Datetime
from ..errors import DecodingError
from ..events import _CHECKED, MAX_VERSION, Event, _set

__all__ = ["decode_envelope", "decode_event", "decode_run", "decode_stored", "decode_stored_run", "is_not_utf8"]
_T, _Z = b"TZ"
_read_datetime = Datetime.fromisoformat
_RFC3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)T([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?(Z|[+-]([01]\d|2[0-3]):[0-5]\d)", re.ASCII
)

_NonEmpty = Annotated[str, msgspec.Meta(min_length=1)]
_Version = Annotated[int, msgspec.Meta(ge=0, le=MAX_VERSION)]


class _Read(msgspec.Struct, rename="camel", kw_only=True, gc=False):
    """The fields of an event as they are read. Those that Go may leave out, or write as null, have a default."""

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
    """An event that msgspec reads and checks in one step: the fields of ``Event``, in the same order.

    Setting its ``__class__`` makes it an ``Event``, in a tenth of the time that making another object takes.
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


# -- reading


def decode_event(encoded: bytes, namespace: str, kind: type[Event] = Event) -> Event:
    """Read what ``encode_event()`` wrote.

    Args:
        encoded: The JSON.
        namespace: Where the event was received.
        kind: The class of the event: ``Event``, or one that ``event_class()`` has made.

    Raises:
        DecodingError: The bytes are not an event.
    """
    try:
        return _event(_read_event(encoded), namespace, kind)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        _refuse(error)


def decode_stored(encoded: bytes, kind: type[Event] = Event) -> Event:
    """Read what ``encode_event()`` or a node in Go wrote, in half the time of :func:`decode_event`.

    Raises:
        DecodingError: The bytes are not an event.
    """
    # As in decode_run(): msgspec reads a timestamp that begins here as this library does.
    if encoded[-43:-29] == b',"timestamp":"' and encoded[-19:-18] == b"T" and encoded[-3:-2] == b"Z":
        try:
            event: Any = _read_ready_event(encoded)
        except (ValueError, RecursionError):  # the careful way finds out what is wrong
            pass
        else:
            if event.metadata is not None:
                _set(event, "__class__", kind)
                return event  # type: ignore[no-any-return]
    return decode_event(encoded, "", kind)


def decode_stored_run(payloads: Iterable[bytes], kind: type[Event] = Event) -> list[Event | DecodingError]:
    """Read several as :func:`decode_stored` does; in place of each that is not an event is the error."""
    found: list[Event | DecodingError] = []
    read, put, append = _read_ready_event, _set, found.append
    for payload in payloads:
        if payload[-43:-29] == b',"timestamp":"' and payload[-19] == _T and payload[-3] == _Z:
            try:
                event: Any = read(payload)
            except (ValueError, RecursionError):  # the careful way finds out what is wrong
                pass
            else:
                if event.metadata is not None:
                    put(event, "__class__", kind)
                    append(event)
                    continue
        try:
            append(decode_event(payload, "", kind))
        except DecodingError as error:
            append(error.with_traceback(None))  # which has this frame, and with it all events
    return found


def decode_envelope(payload: bytes, namespace: str, kind: type[Event] = Event) -> tuple[str, Event]:
    """Read what a node sent.

    A missing version becomes 0, missing or null data None, and missing or null metadata an empty dict. Unknown keys are
    ignored. If a key comes twice, the last one counts.

    Args:
        payload: The whole message.
        namespace: The namespace in the subject; the envelope must have the same.
        kind: The class of the event.

    Returns:
        The id of the node, and the event, which knows its namespace.

    Raises:
        DecodingError: The bytes are not an envelope with an event. The message has the reason and the path, but nothing
            of the content.
    """
    try:
        envelope = _read_envelope(payload)
        if envelope.namespace_id == namespace:
            return envelope.node_id, _event(envelope.event, namespace, kind)
    except (ValueError, RecursionError) as error:
        _refuse(error)
    raise DecodingError("the envelope claims another namespace than its subject says")


def decode_run(
    payloads: Sequence[bytes],
    namespace: str,
    but_of: str | None,
    refuse: Callable[[DecodingError], object],
    kind: type[Event] = Event,
) -> tuple[list[Event], list[bytes]]:
    """Read messages in a row that have one subject, as :func:`decode_envelope` does, in two thirds of its time.

    Args:
        payloads: The messages, in order.
        namespace: The namespace in their subject.
        but_of: A node whose events are left out.
        refuse: Called with the error for each message that is not an event, and is left out.
        kind: The class of the events.

    Returns:
        The events, and the payloads that they came from.
    """
    events: list[Any] = []
    kept: list[bytes] = []
    read, put = _read_ready, _set
    for payload in payloads:
        # A timestamp that begins here has at most six digits behind its point. So msgspec, which would round, reads it
        # as this library does, which cuts off. With T and Z in these places, both know the form. A message made by hand
        # may have such a text here that is not the event's timestamp: then that may be rounded, and nothing else.
        if payload[-44:-30] == b',"timestamp":"' and payload[-20] == _T and payload[-4] == _Z:
            try:
                envelope = read(payload)
            except (ValueError, RecursionError):  # the careful way finds out what is wrong
                pass
            else:
                event: Any = envelope.event
                if envelope.namespace_id == namespace and event.metadata is not None:
                    if envelope.node_id != but_of:
                        put(event, "namespace", namespace)
                        put(event, "__class__", kind)
                        events.append(event)
                        kept.append(payload)
                    continue
        try:
            node_id, event = decode_envelope(payload, namespace, kind)
        except DecodingError as error:
            refuse(error)
            continue
        if node_id != but_of:
            events.append(event)
            kept.append(payload)
    return events, kept


def _event(read: _Read, namespace: str, kind: type[Event]) -> Event:
    event = kind(
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
    """Read RFC 3339 with any offset. Digits beyond microseconds are cut off, not rounded.

    A leap second (``:60``) is an error, as in Go: neither language can represent it.
    """
    if text[4:20:3] == "--T::." and text[-1] == "Z" and text[20:-1].isdigit() and text.isascii():
        return _read_datetime(text)  # which accepts only RFC 3339 among texts of this shape
    text = text.upper()
    if not _RFC3339.fullmatch(text):
        raise _NotRfc3339Error
    try:
        return _read_datetime(text).astimezone(UTC)
    except OverflowError:
        raise _NotRfc3339Error from None


class _NotRfc3339Error(ValueError):
    """A timestamp is not RFC 3339, or out of the range of datetime."""


def is_not_utf8(error: Exception) -> bool:
    """Whether msgspec says that a text is not UTF-8. Since 0.23 it does so by an error of its own."""
    return isinstance(error, UnicodeDecodeError) or str(error).startswith("Invalid UTF-8")


def _refuse(error: ValueError | RecursionError) -> NoReturn:
    if isinstance(error, msgspec.DecodeError) and not is_not_utf8(
        error
    ):  # it says what and where, with our types and keys
        raise DecodingError(f"not an event of this wire format: {error}") from error
    if isinstance(error, RecursionError):
        reason = "it is nested too deeply"
    elif is_not_utf8(error):
        reason = "it is not UTF-8"
    else:  # the message of datetime would quote the text
        reason = "its timestamp is not RFC 3339, or not a moment that datetime has - at `$.event.timestamp`"
    raise DecodingError(f"not an event of this wire format: {reason}") from None  # the cause would have the content
