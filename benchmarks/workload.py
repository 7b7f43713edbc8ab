"""The event of all cases: 300 bytes on the wire, envelope included."""

import json
from datetime import UTC, datetime
from typing import Any

import msgspec

from aether_sync import Event

__all__ = [
    "Envelope",
    "WireEvent",
    "decode",
    "decode_event",
    "encode",
    "make_envelope",
    "make_event",
    "make_payload",
]

_ID = "0123456789abcdef0123456789abcdef"  # as long as real ones
_AT = datetime(2025, 1, 2, 3, 4, 5, 678901, UTC)


class WireEvent(msgspec.Struct, rename="camel"):
    """An event as users write it down who do it all by hand."""

    id: str
    event_type: str
    actor_id: str
    version: int
    data: dict[str, Any]
    timestamp: datetime


class Envelope(msgspec.Struct):
    node_id: str
    namespace_id: str
    event: WireEvent


encode = msgspec.json.Encoder().encode
decode = msgspec.json.Decoder(Envelope).decode
decode_event = msgspec.json.Decoder(WireEvent).decode


def _data(number: int) -> dict[str, Any]:
    return {"sku": f"sku-{number:06}", "qty": 3, "gift": False, "shop": "hamburg-mitte"}


def make_event(number: int) -> Event:
    """Make an event as users of the library do: it gets its own id and the time of the moment."""
    return Event(event_type="OrderPlaced", actor_id=f"order-{number:06}", version=number, data=_data(number))


def make_envelope(number: int, namespace: str) -> Envelope:
    """Make the same for those who do it by hand."""
    event = WireEvent(_ID, "OrderPlaced", f"order-{number:06}", number, _data(number), _AT)
    return Envelope(_ID[::-1], namespace, event)


def make_payload(number: int, namespace: str) -> bytes:
    """Make the bytes of it, with json of the standard library: what another node sends."""
    event = make_envelope(number, namespace)
    return json.dumps(msgspec.to_builtins(event), separators=(",", ":")).encode()
