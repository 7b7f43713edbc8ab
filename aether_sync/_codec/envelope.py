"""The envelope in which an event crosses nodes."""

from itertools import count

from .encoding import _encode

__all__ = ["FIRST_POSITION", "POSITION_ENDS", "POSITION_MARK", "EnvelopeWriter"]
_TEMPLATES_KEPT = 4_096  # namespaces; then all are forgotten and built again when needed

FIRST_POSITION = 10**15  # so that all have 16 digits: they compare as bytes, and are no matter for a payload's size
POSITION_MARK = b'"position":'  #: stands behind the mark of a node that numbers its events, before the number
POSITION_ENDS = len(POSITION_MARK) + 16  #: bytes of both


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
