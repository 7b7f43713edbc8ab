"""What is written is what a browser reads, by the rules of the standard."""

import json

import pytest

from aether_sync import Event
from aether_sync.contrib.sse._format import COMMENT, HEADERS, as_json, mark, message, opening

from ...support.pages import Message, messages_of


@pytest.mark.parametrize(
    "text", ["", "a", "a\nb", "a\r\nb\rc\n", "\n", " a: b", "data: x\n\nevent: y", "é\u2028\u0085", "\0", ":"]
)
def test_any_text_arrives(text: str) -> None:
    seen = text.replace("\r\n", "\n").replace("\r", "\n")
    assert messages_of(message("Placed", text, 7)) == [Message("7", "Placed", seen)]
    assert messages_of(message("Placed", text.encode(), 7)) == [Message("7", "Placed", seen)]


@pytest.mark.parametrize(
    ("event_type", "name"),
    [("Placed", "Placed"), ("a\nid: 9\rb\0", "a id: 9 b "), ("error", "message"), ("open", "message")],
)
def test_the_name_is_the_type(event_type: str, name: str) -> None:
    """But for those by which an EventSource tells of its connection, and without what would end the line."""
    assert messages_of(message(event_type, "x")) == [Message("", name, "x")]


def test_what_no_page_sees() -> None:
    assert messages_of(opening(1_500, 3) + COMMENT + mark(4) + opening(1, None)) == []
    assert messages_of(mark(4) + message("A", "x")) == [Message("4", "A", "x")], "it keeps the id"


def test_an_event_as_json() -> None:
    event = Event(event_type="Placed", actor_id="order-1", data={"a": "1\n2"}, metadata={"userId": "u"}, version=3)
    shown = json.loads(as_json(event))
    assert shown.pop("timestamp").endswith("Z")
    assert shown == {
        "id": event.id, "eventType": "Placed", "actorId": "order-1", "version": 3, "data": {"a": "1\n2"},
    }, "no metadata"  # fmt: skip
    assert b"\n" not in as_json(event)


def test_headers() -> None:
    assert HEADERS == {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
