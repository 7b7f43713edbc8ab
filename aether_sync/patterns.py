"""Namespaces, patterns and subjects: how they are checked, matched and escaped; and the filter of a subscription.

A namespace such as ``tenant-a.orders`` consists of tokens between dots. It becomes the NATS subject
``aether.events.tenant-a.orders``. A pattern is a namespace in which

* a token ``*`` stands for exactly one token,
* a last token ``>`` stands for one or more tokens,
* a ``*`` inside a token (``tenant-*``) stands for zero or more characters of that token, never for a dot.

All other characters stand for themselves. The first two are the wildcards of NATS
(https://docs.nats.io/nats-concepts/subjects). The third is this library's own: the server is asked for ``*`` in place
of such a token, and what it sends is matched here.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Self, final

from ._arguments import as_iterator, is_of
from ._values.shown import short
from .errors import InvalidEventError, InvalidNamespaceError, InvalidOptionError
from .events import Event, Types

__all__ = [
    "Pattern",
    "SubscriptionFilter",
    "actor_type",
    "check_actor_pattern",
    "check_namespace",
    "check_prefix",
    "check_queue_group",
    "escape_token",
    "subject_of",
    "unescape_token",
]

_MAX_BYTES = 512  # of a namespace, a pattern, a prefix or a queue group, in UTF-8

_COMMON = re.compile(r"[!-)+,\-/-=?-~]++(?:\.[!-)+,\-/-=?-~]++)*+")  # every valid namespace that is all ASCII
_UNSAFE = re.compile(r"[^!-$&-)+,\-/-=?-~]+")  # what escape_token escapes: all but printable ASCII without % . * >

_NAMESPACE_HINT = "use non-empty tokens of printable characters between dots, as in 'tenant-a.orders'"
_PATTERN_HINT = "'*' is one token, '>' one or more at the end, 'tenant-*' a glob within a token"
_ACTORS_HINT = "'order-*' is every actor whose id begins with 'order-'; None is every actor"


# -- checking


def check_namespace(namespace: str) -> str:
    """Return a namespace as a plain str, or raise if it is not valid.

    Args:
        namespace: Non-empty tokens between dots, at most 512 bytes in UTF-8. All characters must be printable
            (``str.isprintable``), also beyond ASCII, and none may be white space or a wildcard.

    Raises:
        InvalidNamespaceError: It is not valid, or not a str.
    """
    if type(namespace) is str and len(namespace) <= _MAX_BYTES and _COMMON.fullmatch(namespace):
        return namespace
    text = _text("namespace", namespace)
    fault = _fault(text)
    if fault is None and ("*" in text or ">" in text):
        fault = "has a wildcard, and an event is published under one namespace"
    if fault is not None:
        raise InvalidNamespaceError(f"namespace {_shown(text)} {fault}; {_NAMESPACE_HINT}")
    return text


def check_prefix(prefix: str) -> str:
    """Return a prefix, the first token of every subject, as a plain str, or raise if it is not valid.

    Args:
        prefix: One token of a namespace.

    Raises:
        InvalidNamespaceError: It is not valid, or not a str.
    """
    text = _text("prefix", prefix)
    fault = _fault(text)
    if fault is None and ("*" in text or ">" in text):
        fault = "has a wildcard"
    if fault is None and "." in text:
        fault = "has a dot"
    if fault is not None:
        raise InvalidNamespaceError(f"prefix {_shown(text)} {fault}; use one token of printable characters: 'aether'")
    return text


def check_queue_group(name: str) -> str:
    """Return the name of a NATS queue group as a plain str, or raise if it is not valid.

    Args:
        name: Printable characters without white space and wildcards, at most 512 bytes in UTF-8. A dot has no meaning.

    Raises:
        InvalidOptionError: It is not valid, or not a str.
    """
    if not is_of(name, str):
        raise InvalidOptionError(f"queue_group must be a str such as 'billing', not {type(name).__name__}")
    text = str.__str__(name)
    fault = "is empty" if not text else _fault_of_characters(text)
    if fault is None and ("*" in text or ">" in text):
        fault = "has a wildcard"
    if fault is not None:
        raise InvalidOptionError(f"queue_group {_shown(text)} {fault}; use a plain name such as 'billing'")
    return text


def _text(what: str, value: object) -> str:
    if not is_of(value, str):
        raise InvalidNamespaceError(f"{what} must be a str, not {type(value).__name__}")
    return str.__str__(value)


def _fault(text: str) -> str | None:
    if not text:
        return "is empty"
    return _fault_of_characters(text) or _fault_of_tokens(text)


def _fault_of_characters(text: str) -> str | None:
    if len(text) > _MAX_BYTES:
        return f"is longer than {_MAX_BYTES} bytes"
    if " " in text:
        return "has a space"
    if not text.isprintable():
        bad = next(character for character in text if not character.isprintable())
        kind = "white space" if bad.isspace() else "something not printable"
        return f"has {kind} (U+{ord(bad):04X})"
    if len(text.encode()) > _MAX_BYTES:
        return f"is longer than {_MAX_BYTES} bytes"
    return None


def _fault_of_tokens(text: str) -> str | None:
    return "has an empty token" if ".." in text or text[0] == "." or text[-1] == "." else None


def _fault_of_wildcards(text: str) -> str | None:
    at = text.find(">")
    if at < 0 or (at == len(text) - 1 and (at == 0 or text[at - 1] == ".")):
        return None
    return "has a '>' that is not the last token, alone"


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")


# -- matching


@dataclass(frozen=True, slots=True, repr=False)
class Pattern:
    """Which namespaces a subscriber asks for. :meth:`parse` makes one; two are equal if their texts are."""

    text: str  #: as it was written
    subject_pattern: str = field(
        compare=False
    )  #: what the server is asked for: ``*`` in place of each token with a glob
    has_glob: bool = field(compare=False)  #: a token has a glob, so the server sends more than the pattern matches
    is_literal: bool = field(compare=False)  #: it has no wildcard, and is a namespace
    _regex: re.Pattern[str] | None = field(compare=False)  # None if it is literal

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a pattern.

        Args:
            text: A namespace, or one with wildcards (see the top of this module). A token ``**`` is the same as ``*``.

        Raises:
            InvalidNamespaceError: It is not valid, or not a str.
        """
        text = _text("pattern", text)
        fault = _fault(text) or _fault_of_wildcards(text)
        if fault is not None:
            raise InvalidNamespaceError(f"pattern {_shown(text)} {fault}; {_PATTERN_HINT}")
        tokens = text.split(".")
        return cls(
            text=text,
            subject_pattern=".".join("*" if "*" in token else token for token in tokens),
            has_glob=any("*" in token and token.strip("*") for token in tokens),
            is_literal="*" not in text and ">" not in text,
            _regex=_compiled(text),
        )

    def matches(self, namespace: str) -> bool:
        """Whether a valid namespace is one of those asked for. Takes time linear in its length, for every pattern."""
        if self._regex is None:
            return namespace == self.text
        return self._regex.fullmatch(namespace) is not None

    def overlaps(self, other: "Pattern") -> bool:
        """Whether the server may send one message for both patterns; for the server each token with a glob is ``*``."""
        mine, others = self.subject_pattern.split("."), other.subject_pattern.split(".")
        for one, another in zip(mine, others, strict=False):
            if ">" in (one, another):
                return True
            if one != another and "*" not in (one, another):
                return False
        return len(mine) == len(others)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"Pattern.parse({self.text!r})"


def _compiled(pattern: str) -> re.Pattern[str] | None:
    """Return the regular expression of a pattern, or None if the pattern is literal.

    Matching takes time O(length of the text x length of the pattern). A token cannot match a dot. Within a token every
    literal piece is searched for in an atomic group, so its leftmost occurrence is taken and never given back. For a
    glob that is enough: if a later occurrence of a piece leads to a match, the leftmost one does so too.
    """
    if "*" not in pattern and ">" not in pattern:
        return None
    return re.compile(r"\.".join(map(_compiled_token, pattern.split("."))), re.DOTALL)


def _compiled_token(token: str) -> str:
    if token == ">":
        return ".+"
    first, *pieces = re.sub(r"\*+", "*", token).split("*")
    if not pieces:
        return re.escape(token)
    *middle, last = pieces
    if not (first or middle or last):
        return "[^.]++"
    found = "".join(f"(?>[^.]*?{re.escape(piece)})" for piece in middle)
    rest = rf"(?>[^.]*{re.escape(last)})" if last else "[^.]*+"
    return re.escape(first) + found + rest


# -- subjects


def subject_of(prefix: str, namespace: str) -> str:
    """Return the NATS subject of a checked namespace, or of a :attr:`Pattern.subject_pattern`."""
    return f"{prefix}.events.{namespace}"


def escape_token(text: str) -> str:
    """Turn any text into one subject token. Different texts give different tokens.

    Printable ASCII except space ``%`` ``.`` ``*`` ``>`` is kept; every other byte of the UTF-8 becomes ``%XX``. The
    empty text becomes ``%``. Beyond ASCII nothing is kept: which characters are printable there differs between
    versions of Unicode, and a token must be the same on all nodes.

    Args:
        text: An actor id, for example. The token may have three times as many bytes.

    Raises:
        InvalidNamespaceError: It is not a str, or has a lone surrogate.
    """
    text = _text("what becomes a token", text)
    try:
        return _UNSAFE.sub(_percent, text) or "%"
    except UnicodeEncodeError:
        raise InvalidNamespaceError(f"{_shown(text)} has a lone surrogate and cannot be a subject token") from None


def unescape_token(token: str) -> str:
    """Turn a token that :func:`escape_token` made back into its text.

    Raises:
        InvalidNamespaceError: :func:`escape_token` did not make it.
    """
    token = _text("token", token)
    if token == "%":
        return ""
    try:
        text = re.sub(r"(?:%[0-9A-F]{2})+", _unpercent, token)
        if text and escape_token(text) == token:
            return text
    except UnicodeDecodeError:
        pass
    raise InvalidNamespaceError(f"{_shown(token)} is no escaped token; escape_token() makes them")


def _percent(found: re.Match[str]) -> str:
    return "".join([f"%{byte:02X}" for byte in found[0].encode()])


def _unpercent(found: re.Match[str]) -> str:
    return bytes.fromhex(found[0].replace("%", "")).decode()


# -- filtering


def actor_type(actor_id: str) -> str:
    """Return what stands before the first ``-`` of an actor id: ``"order"`` for ``"order-1"``.

    A ``-`` at the start does not count; without any other the type is ``"unknown"``.

    Raises:
        InvalidOptionError: It is not a str.
    """
    actor_id = _actor_id(actor_id)
    end = actor_id.find("-", 1)
    return actor_id[:end] if end > 0 else "unknown"


def _actor_id(actor_id: object) -> str:
    if not is_of(actor_id, str):
        raise InvalidOptionError(f"an actor id is a str such as 'order-1', not {short(actor_id)}")
    return str.__str__(actor_id)


@final
@dataclass(frozen=True, slots=True, init=False, repr=False)
class SubscriptionFilter:
    """Which events of its namespaces a subscription takes: those of one of the types *and* of a matching actor.

    Filters run on the threads that deliver events, where no code of yours may run; one such thread serves all
    subscriptions of a connection. So ``subscribe()`` takes no subclass. Test any other condition in your own loop.

    Args:
        event_types: The types to take; an empty collection means all. With ``types``, classes as well as names.
        actor_pattern: A pattern that the whole actor id must match, by the rules of namespace patterns; its literal
            characters may be any. ``order-*`` matches ``order-1``, but not ``order-1.2``, as ``*`` never stands for a
            dot: ``order-*.*`` matches that, and ``order-*.>`` any depth. An empty pattern or None means all actors.
        types: The ``EventTypes`` that know the classes. A class stands for its name, and for those that it had before.

    Raises:
        InvalidOptionError: The types are not a collection of non-empty str and registered classes, or the pattern is
            not a str.
        InvalidNamespaceError: The pattern is not valid.
    """

    event_types: frozenset[str]
    actor_pattern: str  #: "" for all actors
    _regex: re.Pattern[str] | None = field(compare=False)  # None if the pattern is literal or empty

    def __init__(
        self,
        *,
        event_types: Iterable[str | type] = (),
        actor_pattern: str | None = None,
        types: Types | None = None,
    ) -> None:
        pattern = check_actor_pattern("actor_pattern", actor_pattern)
        object.__setattr__(self, "event_types", _event_types(event_types, types))
        object.__setattr__(self, "actor_pattern", pattern)
        object.__setattr__(self, "_regex", _compiled(pattern))

    @property
    def is_empty(self) -> bool:
        """Whether every event passes."""
        return not (self.event_types or self.actor_pattern)

    def matches(self, event: Event) -> bool:
        """Whether an event passes.

        Raises:
            InvalidEventError: It is not an Event.
        """
        if type(event) is not Event and not is_of(event, Event):
            raise InvalidEventError(f"matches() takes an Event, not {type(event).__name__}")
        if self.event_types and event.event_type not in self.event_types:
            return False
        return self.matches_actor(event.actor_id)

    def matches_actor(self, actor_id: str) -> bool:
        """Whether the events of an actor pass, as long as their type does.

        Raises:
            InvalidOptionError: It is not a str.
        """
        if type(actor_id) is not str:
            actor_id = _actor_id(actor_id)
        if self._regex is None:
            return not self.actor_pattern or actor_id == self.actor_pattern
        return self._regex.fullmatch(actor_id) is not None

    def __repr__(self) -> str:
        types = f"{{{', '.join(map(repr, sorted(self.event_types)))}}}" if self.event_types else "()"
        return f"SubscriptionFilter(event_types={types}, actor_pattern={self.actor_pattern!r})"


def _event_types(event_types: Iterable[str | type], known: Types | None) -> frozenset[str]:
    if is_of(event_types, str):
        raise InvalidOptionError(f"event_types is the str {short(event_types)}; pass a set: {{{short(event_types)}}}")
    iterator = as_iterator(event_types)
    if iterator is None:
        if is_of(event_types, type):
            name = event_types.__name__
            raise InvalidOptionError(f"event_types is the class {name}; pass a set: {{{name}}}")
        raise InvalidOptionError(f"event_types must be a set of str, not {type(event_types).__name__}")
    types = tuple(iterator)
    names: set[str] = set()
    for one in types:
        if is_of(one, str) and str.__str__(one):
            names.add(str.__str__(one))
        elif known is not None and is_of(one, type):
            names |= known.names(one)
        else:
            hint = ", unless there are types= that know a class" if is_of(one, type) else ""
            raise InvalidOptionError(f"event_types must hold non-empty str, not {short(one)}{hint}")
    return frozenset(names)


def check_actor_pattern(name: str, pattern: str | None) -> str:
    """Return a pattern of actor ids as a plain str, "" for None, or raise.

    Args:
        name: The name of the argument.
        pattern: Its value.
    """
    if pattern is None:
        return ""
    if not is_of(pattern, str):
        raise InvalidOptionError(f"{name} must be a pattern of actor ids such as 'order-*', not {short(pattern)}")
    pattern = str.__str__(pattern)
    fault = pattern and (_fault_of_tokens(pattern) or _fault_of_wildcards(pattern))
    if fault:
        raise InvalidNamespaceError(f"{name} {_shown(pattern)} {fault}; {_ACTORS_HINT}")
    return pattern
