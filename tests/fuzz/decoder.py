"""Bytes that claim to be an envelope: an event that can be sent again, or ``DecodingError``."""

from .run import fuzz, instrumented

with instrumented(__name__):
    from aether_sync import DecodingError, Event
    from aether_sync._codec.decoding import decode_envelope, decode_event
    from aether_sync._codec.encoding import encode_event
    from aether_sync._codec.envelope import EnvelopeWriter

NAMESPACE = "tenant-a.orders"
_writer = EnvelopeWriter("a-node")


#: An envelope with a hole, for bytes that would hardly become one by themselves.
_AROUND = [
    (b'{"node_id":"g","namespace_id":"tenant-a.orders","event":{"id":"1","eventType":"X","actorId":"a",' + hole, end)
    for hole, end in (
        (b'"timestamp":"2025-01-31T12:00:00Z","data":', b"}}"),
        (b'"timestamp":"2025-01-31T12:00:00Z","metadata":', b"}}"),
        (b'"timestamp":"2025-01-31T12:00:00Z","version":', b"}}"),
        (b'"timestamp":"', b'"}}'),
        (b'"timestamp":"2025-01-31T12:00:00Z","commandId":"', b'"}}'),
    )
]


def check(data: bytes) -> list[Event | None]:
    """Decode bytes as they are, and as a part of an envelope."""
    return [check_payload(data), *(check_payload(start + data + end) for start, end in _AROUND)]


def check_payload(payload: bytes) -> Event | None:
    """Decode; what was decoded must survive being sent once more."""
    for decode in (decode_event, decode_envelope):
        try:
            decoded = decode(payload, NAMESPACE)
        except DecodingError as error:
            check_message(error)
            decoded = None
    if decoded is None:
        return None
    node_id, event = decoded
    assert isinstance(node_id, str)
    assert event.namespace == NAMESPACE
    again = decode_envelope(_writer.write(NAMESPACE, encode_event(event)), NAMESPACE)
    assert again == ("a-node", event)
    repr(event)
    return event


def check_message(error: DecodingError) -> None:
    assert len(str(error)) < 400, "the content is not for the message"


if __name__ == "__main__":
    fuzz("decoder", check)
