"""The envelope: an encoded event with the node and the namespace that it comes from."""

from itertools import count

from .encoding import _encode

__all__ = ["FIRST_POSITION", "POSITION_ENDS", "POSITION_MARK", "EnvelopeWriter"]
_TEMPLATES_KEPT = 4_096  # namespaces; beyond that all are forgotten, and built again when needed

FIRST_POSITION = 10**15  # so that all have 16 digits: they compare as bytes, and never change the size of a payload
POSITION_MARK = b'"position":'  #: stands between the mark of a node that numbers its events and the number
POSITION_ENDS = len(POSITION_MARK) + 16  #: bytes of that mark and the number


class EnvelopeWriter:
    """Puts encoded events into the envelopes of one node, and numbers them. Any thread may use it.

    Args:
        node_id: The id of the node.

    Attributes:
        own_mark: The beginning of every payload of this node, ``{"node_id":"<id>",``, so that a receiver can skip its
            own events by ``payload.startswith(mark)``. The position follows.
        positions: Gives the position of the next event by ``next()``, which is atomic.
    """

    __slots__ = ("_templates", "own_mark", "positions")

    def __init__(self, node_id: str) -> None:
        self.own_mark = b'{"node_id":%b,' % _encode(node_id)
        self.positions = count(FIRST_POSITION)
        self._templates: dict[str, bytes] = {}  # by namespace; two threads may build the same one

    def write(self, namespace: str, encoded_event: bytes) -> bytes:
        """Return the payload of an event that ``encode_event()`` wrote, under a checked namespace."""
        return self.template(namespace) % (next(self.positions), encoded_event)

    def template(self, namespace: str) -> bytes:
        """Return a template that makes a payload from a position and an encoded event."""
        template = self._templates.get(namespace)
        if template is None:
            fixed = [part.replace(b"%", b"%%") for part in (self.own_mark, POSITION_MARK, _encode(namespace))]
            template = b'%b%b%%d,"namespace_id":%b,"event":%%b}' % tuple(fixed)
            if len(self._templates) >= _TEMPLATES_KEPT:
                self._templates = {}
            self._templates[namespace] = template
        return template

    def around(self, namespace: str) -> int:
        """Return how many bytes a payload has around the event."""
        return len(self.template(namespace) % (FIRST_POSITION, b""))
