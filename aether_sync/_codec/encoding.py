"""Writing: from events to JSON. Nodes in Go read and write the same format.

``{"node_id": str, "position": int, "namespace_id": str, "event": {"id", "eventType", "actorId", "commandId"?,
"version", "data", "metadata"?, "timestamp"}}``, where ``?`` is left out when empty. ``position`` numbers the events of
a node. It is this library's own: nodes in Go write none, and ignore it. msgspec does the work. What it would change
without an error (NaN, bytes, sets, keys that are not str, the nanoseconds of a timestamp) is checked here.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from typing import Any
from uuid import UUID

import msgspec
from msgspec import UNSET, UnsetType

from .._values.clock import Date, Datetime
from .._values.shown import explained, short
from ..errors import EncodingError, InvalidEventError
from ..events import Event, _metadata, _set
from .decoding import decode_event

__all__ = ["encode_and_copy", "encode_event", "encode_read"]

_MAX_DEPTH = 200  # levels of data: the same on every Python and every thread, unlike the recursion limit
_PATH_SHOWN = 8  # levels: enough to find the place
_MINUTE = timedelta(minutes=1)

_WRITTEN_AS_IS = frozenset({str, int, bool, type(None), UUID, Date})
_MOMENTS = frozenset({Datetime})  # the builtin class, also while a test has replaced it
_UNCHANGED = frozenset({str, int, bool, type(None)})
_CONTAINERS = frozenset({dict, list, tuple})

_encode = msgspec.json.Encoder().encode


class _Written(msgspec.Struct, rename="camel", gc=False):
    """The fields of an event in the order in which they are written; UNSET is left out."""

    id: str
    event_type: str
    actor_id: str
    command_id: str | UnsetType
    version: int
    data: Any
    metadata: Mapping[str, str] | UnsetType
    timestamp: Datetime


# -- writing


def encode_event(event: Event) -> bytes:
    """Write an event as JSON, without its namespace.

    msgspec gets the data itself if all of it has types that msgspec writes as this library does; else it gets a plain
    copy. So no user code runs while msgspec iterates a container, and no other thread can change that meanwhile.

    Raises:
        EncodingError: It holds a value that cannot be written as JSON, or was changed meanwhile. The message says which
            value, and where.
    """
    data, metadata = event.data, event.metadata
    if data is None or type(data) is dict:
        try:
            # As _is_json() and _write() do, without these calls, which took a tenth of the time of publish().
            for key, item in data.items() if data else ():
                kind = type(item)
                if type(key) is not str or not (kind in _WRITTEN_AS_IS or _is_json_item(item, kind, 1)):
                    break
            else:
                if metadata:
                    "".join(metadata.values())
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
        except (TypeError, ValueError, RuntimeError):  # the careful way finds out what it is
            pass
    return _encode_carefully(event)


def encode_and_copy(event: Event, namespace: str, cls: type[Event] = Event) -> tuple[bytes, Event]:
    """Write an event as JSON, and also return the event that a reader of it gets under this namespace, of this class.

    What another thread could change is copied first, and the copy is written. So both are the same, whatever others do.

    Raises:
        EncodingError: As for :func:`encode_event`.
    """
    if (type(event) is Event or event._types is not None) and (event.data is None or type(event.data) is dict):
        data = None if event.data is None else event.data.copy()
        metadata = {**event.metadata}
        try:
            for key, item in data.items() if data else ():
                kind = type(item)
                if type(key) is not str or not (kind in _UNCHANGED or (kind is float and item - item == 0.0)):
                    break  # it may be something else after writing and reading
            else:
                encoded = _write(event, data, metadata)
                copy = event.__copy__()
                if type(copy) is not cls:
                    _set(copy, "__class__", cls)
                _set(copy, "data", data)
                _set(copy, "metadata", metadata)
                _set(copy, "namespace", namespace)
                return encoded, copy
        except (TypeError, ValueError):  # the careful way finds out what it is
            pass
    encoded = encode_event(event)
    return encoded, decode_event(encoded, namespace, cls)


def encode_read(event: Event) -> bytes:
    """Write an event as it was read, however deep its data is: others may have stored what is refused here.

    Raises:
        EncodingError: It is nested too deeply for this thread's stack.
    """
    try:
        return _write(event, event.data, event.metadata)
    except RecursionError as error:
        raise EncodingError(
            f"event {short(event.event_type)} ({short(event.id)}): data is nested too deeply for this thread's stack"
        ) from error


def _write(event: Event, data: Mapping[str, Any] | None, metadata: Mapping[str, str]) -> bytes:
    if metadata:
        "".join(metadata.values())  # a TypeError if somebody has put something else into it
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
    """Whether all keys and values are of types that msgspec writes as this library does."""
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
    except Exception as error:  # raised by a user's Mapping or tzinfo, or for an int of too many digits
        reason, cause = f"{_place(path)} cannot be read: {explained(error)}", error
    raise EncodingError(f"event {short(event.event_type)} ({short(event.id)}): {reason}") from cause


def _place(path: Sequence[str]) -> str:
    """Return a place in data in words; the path begins with the innermost level."""
    if len(path) > _PATH_SHOWN:
        path = [f"... ({len(path):,} levels)", *path[-_PATH_SHOWN:]]
    return f"data{''.join(reversed(path))}"


class _NotJsonError(Exception):
    """A value in data that is not on the list in the docstring of ``Event``."""


def _plain(value: Any, path: list[str], depth: int = 0) -> Any:
    """Copy a value into plain JSON types. If that raises, ``path`` has the place, innermost level first."""
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
    if isinstance(value, (list, tuple)):  # which takes half the time of a union
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
        value = value.astimezone(UTC)  # ISO 8601 has no seconds in an offset, as local mean times before 1900 do
    text = value.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text
