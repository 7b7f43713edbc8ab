"""How long the line of a command may be, as far as that is known.

A server does not tell its limit (``max_control_line``). It closes the connection over a line that is too long, and does
not say which line that was; but the longest that it may have got is certainly too long. So each length is noted before
it is sent, and each such end teaches one more. A line no longer than that of the CONNECT, some 300 bytes, is accepted.

A length is that of the arguments of a line, rounded up by what differs from one command to another.
"""

from math import inf

from ..errors import InvalidNamespaceError

__all__ = ["TOO_LONG", "Lines", "line_of"]

TOO_LONG = "maximum control line exceeded"  #: what the server says then

_NUMBERS = 24  # bytes for sizes or the sid, and for the spaces
_SERVERS_KEPT = 100


def line_of(*words: str | bytes | None) -> int:
    """Return the length of a line with these words: its subject, and a reply or a queue group."""
    return sum(map(_size, words)) + _NUMBERS


def _size(word: str | bytes | None) -> int:
    return len(word.encode() if isinstance(word, str) else word or b"")


class Lines:
    """The lengths of lines that the server of a link accepts.

    Attributes:
        taken: Lengths that may have been sent, and are not known to be too long. Read by any thread.
        too_long: A length that the server does not accept, nor any greater one.
    """

    def __init__(self) -> None:
        self.taken: set[int] = set()  # changed by single operations, so no thread undoes what another one adds
        self.too_long: float = inf
        self._server: object = None
        self._surely_taken = 0
        self._known: dict[object, float] = {}  # by the ids of servers, which are new with each start of one

    def take(self, line: int) -> None:
        """Note that a line of this length will be sent. Any thread.

        Raises:
            InvalidNamespaceError: It is too long for the server.
        """
        if line >= self.too_long:
            raise InvalidNamespaceError(
                f"a subject that makes a line of {line} bytes is too long for this server: {TOO_LONG}"
            )
        self.taken.add(line)

    def meet(self, server: object, surely_taken: int) -> None:
        """Note that lines go to this server from now on, which has accepted one of that length. Loop thread only."""
        self._server, self._surely_taken = server, surely_taken
        self._limit(self._known.get(server, inf))

    def learn(self, line: int | None = None) -> None:
        """Note that the server hung up over a line, of this or of an unknown length. Loop thread only."""
        found = max(self.taken, default=0) if line is None else line
        if found <= self._surely_taken:
            return
        if len(self._known) >= _SERVERS_KEPT:
            self._known.clear()
        self._known[self._server] = min(found, self.too_long)
        self._limit(self._known[self._server])

    def _limit(self, too_long: float) -> None:
        self.too_long = too_long
        for line in list(self.taken):
            if line >= too_long:
                self.taken.discard(line)
