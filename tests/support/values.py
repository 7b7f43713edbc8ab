"""Values as users put them into events, and what becomes of them on the wire."""

import dataclasses
import enum
import json
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal

from aether_sync._codec import decoding
from aether_sync._codec.decoding import decode_event, decode_run
from aether_sync._codec.encoding import encode_event
from aether_sync.errors import DecodingError
from aether_sync.events import Event

NAMESPACE = "tenant-a.orders"


MOMENT = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


class Text(str):
    __slots__ = ()


class Whole(int):
    pass


class Moment(datetime):
    pass


class Color(enum.StrEnum):
    RED = "red"


class Settings(Mapping):
    def __init__(self, **values):
        self.values_ = values

    def __getitem__(self, key):
        return self.values_[key]

    def __iter__(self):
        return iter(self.values_)

    def __len__(self):
        return len(self.values_)


@dataclasses.dataclass
class Line:
    qty: int
    at: datetime | None = None
    key: uuid.UUID | None = None
    price: Decimal | None = None


def event(**fields):
    return Event(**{"event_type": "OrderPlaced", "actor_id": "order-1", **fields})


def over_the_wire(one):
    return decode_event(encode_event(one), NAMESPACE)


def envelope(text='"data":null', **changes):
    fields = {"id": "1", "eventType": "T", "actorId": "a-1", "timestamp": "2026-01-02T03:04:05Z", **changes}
    body = json.dumps({key: value for key, value in fields.items() if value is not ...})[1:-1]
    return f'{{"node_id":"n","namespace_id":"{NAMESPACE}","event":{{{body},{text}}}}}'.encode()


def decode_envelope(payload, namespace):
    """Read it, carefully and as one of a run, and see that both come to the same."""
    found, errors = [], []
    try:
        found.append(decoding.decode_envelope(payload, namespace))
    except DecodingError as error:
        errors.append(error)
    events_, kept = decode_run([payload], namespace, None, errors.append)
    assert kept == [payload] * len(found)
    assert outcome(events_) == outcome(one for _, one in found)
    assert len(errors) == 2 - 2 * len(found)
    assert len({str(error) for error in errors}) <= 1
    if errors:
        raise errors[0]
    return found[0]


def outcome(events_):
    return [
        (one._fact(), one.namespace, type(one), type(one.data), one.timestamp.tzinfo, repr(one.data)) for one in events_
    ]


def decoded(payload):
    return decode_envelope(payload, NAMESPACE)[1]
