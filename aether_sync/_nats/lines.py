"""How long the line of a command may be, as far as that is known.

No server tells (``max_control_line``). It closes the connection over a line that is too long, and does not say over
which; but the longest of all that it may have been sent is too long then. So each length is noted before it is sent,
and each such end teaches one more. What is no longer than the CONNECT, some 300 bytes, it has taken.

Lengths are those of a line's arguments, none too small by what differs from one command to the next.
"""

from math import inf

from ..errors import InvalidNamespaceError

__all__ = ["TOO_LONG", "Lines", "line_of"]

TOO_LONG = "maximum control line exceeded"  #: the server's words

_NUMBERS = 24  # bytes: sizes, or the sid, and what is between them
_SERVERS_KEPT = 100


def line_of(*words: str | bytes | None) -> int:
    """The length of a line, of its subject and what else in it is a word."""
    return sum(map(_size, words)) + _NUMBERS


def _size(word: str | bytes | None) -> int:
    return len(word.encode() if isinstance(word, str) else word or b"")


class Lines:
    """The lengths of lines that may be sent to the server of a link.

    Attributes:
        taken: Those that may have been sent to it, and are not known to be too long. Read by any thread.
        too_long: A length that it does not take, nor any greater one.
    """

    def __init__(self) -> None:
        self.taken: set[int] = set()  # changed in place, by single operations: no note of another thread is lost
        self.too_long: float = inf
        self._server: object = None
        self._surely_taken = 0
        self._known: dict[object, float] = {}  # by servers: each time one is started, it is another

    def take(self, line: int) -> None:
        """Note that a line of this length is about to be sent. Any thread.

        Raises:
            InvalidNamespaceError: The server does not take it.
        """
        if line >= self.too_long:
            raise InvalidNamespaceError(
                f"a subject that makes a line of {line} bytes is too long for this server: {TOO_LONG}"
            )
        self.taken.add(line)

    def meet(self, server: object, surely_taken: int) -> None:
        """Lines go to this server from now on, which has taken one of that length. Loop thread only."""
        self._server, self._surely_taken = server, surely_taken
        self._limit(self._known.get(server, inf))

    def learn(self, line: int | None = None) -> None:
        """The server has closed over a line: of this length, or over whichever. Loop thread only."""
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
