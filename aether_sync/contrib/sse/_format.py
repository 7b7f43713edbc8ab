"""The format ``text/event-stream``, as the WHATWG HTML standard has it in "Server-sent events".

https://html.spec.whatwg.org/multipage/server-sent-events.html, of which this uses:

- A stream is UTF-8. Its lines end with CRLF, LF or CR, whichever comes, and an empty line ends a message.
- "If the line starts with a U+003A COLON character (:) Ignore the line." So such a line is a comment, and "authors can
  include a comment line (one starting with a ':' character) every 15 seconds or so", since proxies "drop HTTP
  connections after a short timeout".
- ``data``: each such line is one line of the data, so data with line ends becomes several. ``event``: the name of the
  event, "message" without one. ``retry``, ASCII digits only: the milliseconds until the browser connects again.
- ``id``: what the browser sends as ``Last-Event-ID`` when it connects again. At the end of a message it first sets the
  id, and only then: "If the data buffer is an empty string, set the data buffer and the event type buffer to the empty
  string and return." So a message that has nothing but an id moves the id, and the page sees nothing.
- At the end of the stream, "an incomplete event [...] will be discarded": what was cut off is as if it was never sent.
"""

import re
from typing import Final

import msgspec

from ..._values.clock import Datetime
from ...events import Event

__all__ = ["COMMENT", "HEADERS", "as_json", "mark", "message", "opening"]

HEADERS: Final = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
"""The headers of a response with server-sent events. The last one keeps nginx from collecting the events."""

#: A message of nothing but a comment, which no page sees.
COMMENT: Final = b":\n\n"

_LINE_ENDS = re.compile("\r\n|\n|\r")
_NOT_IN_A_NAME = re.compile("[\r\n\0]")
_OWN_NAMES = frozenset({"error", "open", "message"})  # the first two are what an EventSource says of its connection


class _Shown(msgspec.Struct, rename="camel", omit_defaults=True):
    """What a page gets of an event: not its metadata, which may say who did it, and not its command."""

    id: str
    event_type: str
    actor_id: str
    version: int
    data: object
    timestamp: Datetime
    namespace: str = ""


def as_json(event: Event) -> bytes:
    """Return what a page gets of an event, with the keys of the wire format (``eventType``); it has no line ends."""
    return msgspec.json.encode(
        _Shown(event.id, event.event_type, event.actor_id, event.version, event.data, event.timestamp, event.namespace)
    )


def opening(retry: int, sequence: int | None) -> bytes:
    """Return what a stream begins with: after how many milliseconds to connect again, and what is taken as read."""
    return b"retry: %d\n" % retry + (b"\n" if sequence is None else mark(sequence))


def mark(sequence: int) -> bytes:
    """Return a message that moves the browser's last event id, and that no page sees."""
    return b"id: %d\n\n" % sequence


def message(event_type: str, data: str | bytes, sequence: int | None = None) -> bytes:
    """Return a message.

    Args:
        event_type: The name that the page listens to.
        data: Any text, with line ends or without.
        sequence: The id; None for none.
    """
    text = data.decode() if isinstance(data, bytes) else data
    name = _NOT_IN_A_NAME.sub(" ", event_type)
    lines = [f"data: {line}" for line in _LINE_ENDS.split(text)]
    if name not in _OWN_NAMES:
        lines.insert(0, f"event: {name}")
    if sequence is not None:
        lines.insert(0, f"id: {sequence}")
    return "\n".join([*lines, "", ""]).encode()
