"""``Names``: the names of a store's streams and consumers on the server, and the subjects of its actors.

The layout of subjects is Go's: ``<stream>.events.<actor type>.<actor id>``. Every part is escaped so that different
names stay different (``patterns.escape_token``); printable ASCII except space and ``% . * >`` is kept. With a
namespace, the stream's name is ``<namespace>=<stream>``; a ``=`` within either of them is escaped.
"""

import re
from collections.abc import Sequence

from ..._arguments import is_of
from ..._values.shown import short
from ...errors import InvalidNamespaceError, InvalidOptionError
from ...patterns import actor_type, escape_token, unescape_token

__all__ = ["Names", "escaped_consumer"]

_LONGEST_NAME = 200  # bytes of a stream's name: the server takes 255, and some streams have a suffix
_LONGEST_SUBJECT = 2_048  # bytes: half of the longest line of the protocol
_SUBJECTS_KEPT = 16_384  # subjects of actors; then all are forgotten, and built again when needed
_PLAIN = re.compile(r"[!-$&-)+,\-/-=?-~]{1,500}")  # an id that is not escaped; a longer one is looked at more closely
_PLAIN_CHARACTERS = bytes(code for code in range(128) if _PLAIN.fullmatch(chr(code)))
_PLAIN_LENGTH = 500  # of an id, at most
_MORE = re.compile(r"[/\\=~]")  # escaped in names: path separators, which a stream may not have, and our own separators


def escaped_consumer(name: str) -> str:
    """Return a consumer's name on the server.

    Raises:
        InvalidOptionError: It is not a name, or it is too long.
    """
    escaped = _escaped("the consumer's name", name, "mailer")
    if len(escaped) > _LONGEST_NAME:
        raise InvalidOptionError(f"the consumer's name is {len(escaped)} bytes long: at most {_LONGEST_NAME}")
    return escaped


def _escaped(what: str, name: object, such_as: str) -> str:
    if not is_of(name, str) or not str.__str__(name):
        raise InvalidOptionError(f"{what} must be a non-empty str such as {such_as!r}, not {short(name)}")
    return _MORE.sub(lambda found: f"%{ord(found[0]):02X}", escape_token(name))


class Names:
    """The names of one store.

    Args:
        stream: The name that the user gave to the stream.
        namespace: The namespace that he gave; None for none.

    Attributes:
        namespace: The namespace that the user gave; "" for none.
        stream: The stream of the events; also the first token of their subjects.
        snapshots: The stream of the snapshots.
        dead_letters: The stream of the dead letters.

    Raises:
        InvalidOptionError: One is not a name, or they are too long.
    """

    def __init__(self, stream: str, namespace: str | None) -> None:
        self.namespace = ""
        self.stream = _escaped("stream", stream, "orders")
        if namespace is not None:
            self.stream = f"{_escaped('namespace', namespace, 'tenant-a')}={self.stream}"
            self.namespace = str.__str__(namespace)
        if len(self.stream) > _LONGEST_NAME:
            raise InvalidOptionError(
                f"the stream's name is {len(self.stream)} bytes long, with its namespace: at most 200"
            )
        self._events = f"{self.stream}.events."
        # What is not plain in the subject of a plain id:
        self._not_plain = self._events.encode().translate(None, _PLAIN_CHARACTERS) + b"."
        self._subjects: dict[str, str] = {}  # by actor id; two threads may both build one, of equal value
        self.snapshots = f"{self.stream}~snapshots"
        self.dead_letters = f"{self.stream}~dead-letters"

    def dead_letter_subjects(self, consumer: str) -> list[str]:
        """Return the subjects of a consumer's dead letters: of the server's advisories, and our own.

        Args:
            consumer: The consumer's name on the server; ``"*"`` for all.
        """
        advisories = "$JS.EVENT.ADVISORY.CONSUMER"
        return [
            f"{advisories}.MAX_DELIVERIES.{self.stream}.{consumer}",
            f"{advisories}.MSG_TERMINATED.{self.stream}.{consumer}",
            f"{self.dead_letters}.{consumer}",
        ]

    @property
    def all_events(self) -> str:
        """The subjects of all events."""
        return f"{self.stream}.events.>"

    def subject(self, actor_id: str) -> str:
        """Return the subject of an actor's events.

        Raises:
            InvalidOptionError: The id is too long.
        """
        subject = self._subjects.get(actor_id)
        if subject is None:
            subject = self._checked(f"{self.stream}.events.{self._tokens(actor_id)}", actor_id)
            if len(self._subjects) >= _SUBJECTS_KEPT:
                self._subjects = {}
            self._subjects[actor_id] = subject
        return subject

    def is_subject(self, subject: str, actor_id: str) -> bool:
        """Whether a subject is that of an actor's events."""
        if _PLAIN.fullmatch(actor_id):
            return subject == f"{self._events}{actor_type(actor_id)}.{actor_id}"
        return subject == self.subject(actor_id)

    def are_subjects(self, subjects: Sequence[bytes], actor_ids: Sequence[str]) -> bool:
        """Whether each subject is that of the actor in the same place, and all ids are plain.

        It takes a third of the time of as many :meth:`is_subject`, which tells more where this returns False.
        """
        if b"".join(subjects).translate(None, _PLAIN_CHARACTERS) != self._not_plain * len(actor_ids):
            return False
        events = self._events
        wanted = [
            f"{events}{one[:end] if (end := one.find('-', 1)) > 0 else 'unknown'}.{one}"  # as actor_type() does
            for one in actor_ids
        ]
        is_short = max(map(len, actor_ids), default=0) <= _PLAIN_LENGTH
        return is_short and "\n".join(wanted).encode(errors="surrogatepass") == b"\n".join(subjects)

    def snapshot_subject(self, actor_id: str) -> str:
        """Return the subject of an actor's snapshots."""
        return self._checked(f"{self.snapshots}.{self._tokens(actor_id)}", actor_id)

    def _tokens(self, actor_id: str) -> str:
        return f"{escape_token(actor_type(actor_id))}.{escape_token(actor_id)}"

    def _checked(self, subject: str, actor_id: str) -> str:
        if len(subject) > _LONGEST_SUBJECT:
            raise InvalidOptionError(
                f"actor id {short(actor_id)} is too long: its subject would have {len(subject)} bytes, and may have "
                f"{_LONGEST_SUBJECT}"
            )
        return subject

    def actor_id(self, subject: str) -> str:
        """Return the actor whose events have a subject.

        Raises:
            InvalidNamespaceError: No store writes such a subject.
        """
        return unescape_token(subject.rpartition(".")[2])

    def actor_id_of(self, subject: str) -> str | None:
        """Return the actor whose events have a subject; None if no store wrote it: a node in Go escapes otherwise."""
        try:
            actor_id = self.actor_id(subject)
        except InvalidNamespaceError:
            return None
        return actor_id if self.is_subject(subject, actor_id) else None

    def wanted(self, pattern: str | None) -> str:
        """Return a subject with wildcards that covers all actors of a pattern, and as few others as possible."""
        if pattern is not None:
            literal = re.split("[*>]", pattern, maxsplit=1)[0]
            if literal == pattern:
                return self.subject(pattern)
            if "-" in literal[1:]:  # the type is before it, whatever follows
                return f"{self.stream}.events.{escape_token(actor_type(literal))}.*"
        return self.all_events
