"""Whether texts are a W3C Trace Context (https://www.w3.org/TR/trace-context/) and W3C Baggage.

Any node of the cluster writes these texts, of any size. What does not have the form is not looked at further, and goes
no further: other code reads some of them in a time that is quadratic in their length.
"""

import re
from collections.abc import Mapping

__all__ = ["TraceParent", "baggage_in", "trace_parent_in", "trace_state_in"]

TraceParent = tuple[str, str, str]
"""The ids of a trace and of a span in it, and the flags, all in hexadecimal digits."""

_PARENT_LENGTH = 55
_STATE_LENGTH = 512  # characters that must be propagated
_STATE_MEMBERS = 32
_BAGGAGE_LENGTH = 8_192  # bytes that must be propagated
_BAGGAGE_MEMBERS = 180

_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
_STATE_MEMBER = re.compile(
    r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})=[!-+\--<>-~ ]{0,255}[!-+\--<>-~]"
)
_BAGGAGE_KEY = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_BAGGAGE_REST = re.compile(r"[\t -~]*")


def trace_parent_in(metadata: Mapping[str, str]) -> TraceParent | None:
    """Return the ``traceparent`` of metadata; None if there is none that has the form of version 00."""
    text = metadata.get("traceparent")
    if text is None or len(text) != _PARENT_LENGTH:
        return None
    found = _PARENT.fullmatch(text)
    return found and (found[1], found[2], found[3])


def trace_state_in(metadata: Mapping[str, str]) -> str:
    """Return the ``tracestate`` of metadata; "" if there is none that is valid."""
    text = metadata.get("tracestate", "")
    if not 0 < len(text) <= _STATE_LENGTH:
        return ""
    members = [one.strip(" \t") for one in text.split(",")]
    if len(members) > _STATE_MEMBERS or not all(map(_STATE_MEMBER.fullmatch, members)):
        return ""
    return text


def baggage_in(metadata: Mapping[str, str]) -> str:
    """Return the ``baggage`` of metadata; "" if there is none that is valid."""
    text = metadata.get("baggage", "")
    if not 0 < len(text) <= _BAGGAGE_LENGTH or text.count(",") >= _BAGGAGE_MEMBERS:
        return ""
    for member in text.split(","):
        key, equals, rest = member.strip(" \t").partition("=")
        if not (equals and _BAGGAGE_KEY.fullmatch(key.rstrip(" \t")) and _BAGGAGE_REST.fullmatch(rest)):
            return ""
    return text
