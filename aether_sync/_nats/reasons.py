"""Errors of nats-py and the operating system, in words for the user of this library."""

import asyncio
import re
import socket
import ssl
from typing import NamedTuple

from .login import NotSentError

__all__ = [
    "Refusal", "counted", "describe", "is_refusal", "is_violation", "refusal", "said_by", "says_refusal", "shown",
]  # fmt: skip

_REFUSALS = ("authorization violation", "authentication expired", "authorization failed", "authentication revoked")
_SCHEMES = ("nats", "tls", "ws", "wss", "http", "https")
_SCHEME = re.compile(r"[a-z][a-z0-9+-]*", re.I)
_ADDRESS = re.compile(r"(?:\[[^\]@]*\]|[^\[\]:/?#@]*)(?::\d*)?/?")
_AUTHENTICATION = re.compile(f"(?:(?:user|account) )?(?:{'|'.join(_REFUSALS)})", re.I)
_QUOTED = r'"((?:[^"\\]|\\.)*)"'
_SUBJECT = r'"((?:[^"\\ ]|\\.)*)"'  # it has no space: a whole line in quotes is none
_PUBLISH = re.compile(rf"permissions violation for publish to {_SUBJECT}", re.I)
_REPLY = re.compile(rf"permissions violation for publish with reply of {_SUBJECT}", re.I)
_SUBSCRIPTION = re.compile(
    rf"permissions violation for subscription to {_SUBJECT}(?: using queue {_QUOTED})?"
    r'(?: \(sid "(?P<sid>\d+)"\)|, (?P<limit>too many tokens))?$',
    re.I,
)
_LIMITS = re.compile("maximum subscriptions exceeded|invalid subject", re.I)
_ESCAPE = re.compile(rb"\\(?:x([0-9a-f]{2})|u([0-9a-f]{4})|U([0-9a-f]{8})|(.))", re.S)
_SHORT = dict(zip(b"abfnrtv", b"\a\b\f\n\r\t\v", strict=True))


def describe(error: BaseException) -> str:
    """Return what went wrong, without secrets."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {getattr(error, 'verify_message', error)}"
    if isinstance(error, ssl.SSLError):
        return _describe_tls(getattr(error, "reason", None) or str(error))
    if isinstance(error, asyncio.TimeoutError):
        return (
            "no answer: nothing there, no NATS server, or one that begins TLS at another moment (tls_handshake_first)"
        )
    if isinstance(error, NotSentError):
        return str(error)
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if is_refusal(error):
        return f"the server refuses these credentials ({said_by(error)})"
    if "expecting INFO" in str(error) or "info message" in str(error):
        return "something answers there, but it is no NATS server"
    return said_by(error)


def _describe_tls(reason: str) -> str:
    if reason.endswith("CERTIFICATE_REQUIRED"):
        return f"the server wants a client's certificate: there is none in tls ({reason})"
    if "_ALERT_" in reason and re.search("CERT|UNKNOWN_CA", reason):
        return f"the server does not accept this client's certificate ({reason})"
    if reason == "WRONG_VERSION_NUMBER":
        return f"TLS failed: the server does not speak it there, or not from the first byte ({reason})"
    return f"TLS failed: {reason}"


def is_refusal(error: BaseException) -> bool:
    """Whether one side refuses the other, so that only another configuration helps, and not to wait."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)  # it hung up
    if isinstance(error, NotSentError):
        return True
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


def says_refusal(text: str) -> bool:
    """Whether the text of an ``-ERR`` only says that the server refuses the credentials, and quotes nothing."""
    return _AUTHENTICATION.fullmatch(text) is not None


class Refusal(NamedTuple):
    """What the server refused, on a connection that goes on."""

    subject: str | None  # of a refused publish
    sid: int | None = None  # of a subscription whose right was revoked
    why: str = "its user lacks that right"  # why a subscription was refused
    reply: str | None = None  # the subject for an answer of a publish that was refused because of it


def refusal(text: str) -> Refusal | None:
    """Read the text of an ``-ERR``. Returns None if it is not about a single publish or subscription.

    An error about a SUB need not name it, and does not close the connection (``processSubEx`` in ``client.go`` of
    nats-server). The error about a subscription that the server has just ended has its sid.
    """
    if found := _PUBLISH.match(text):
        return Refusal(_unquoted(found[1]))
    if found := _REPLY.match(text):
        return Refusal(None, reply=_unquoted(found[1]))
    if found := _SUBSCRIPTION.match(text):
        return Refusal(None, int(found["sid"]) if found["sid"] else None, found["limit"] or "its user lacks that right")
    return Refusal(None, why=text) if _LIMITS.fullmatch(text) else None


def is_violation(text: str) -> bool:
    """Whether the text of an ``-ERR`` is about a missing right, over which no server closes the connection."""
    return text.lower().startswith("permissions violation")


def _unquoted(text: str) -> str:
    """Undo Go's ``%q`` (``strconv.Quote``), which escapes unprintable characters, and bytes that are not UTF-8."""
    return _ESCAPE.sub(_unescaped, text.encode()).decode(errors="surrogateescape")


def _unescaped(found: re.Match[bytes]) -> bytes:
    byte, short, long, char = found.groups()
    if byte:
        return bytes.fromhex(byte.decode())
    if char:
        return bytes([_SHORT.get(char[0], char[0])])
    return chr(int(short or long, 16)).encode(errors="surrogatepass")


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user, password and token, even if it is not a valid URL."""
    scheme, mark, rest = url.partition("://")
    is_scheme = scheme in _SCHEMES or (_SCHEME.fullmatch(scheme) and "@" not in rest)  # else it may be of a password
    if not (mark and is_scheme):
        scheme, rest = "nats", url
    address = rest.rpartition("@")[2]
    if _ADDRESS.fullmatch(address) is None:  # perhaps a password that is not escaped, or that stands in place of a port
        address = f"{re.split('[^a-zA-Z0-9.-]', address, maxsplit=1)[0]}..."
    return f"{scheme}://{address}"


def counted(events: int) -> str:
    """Return a number of events in words."""
    return "1 event" if events == 1 else f"{events} events"


def said_by(error: BaseException) -> str:
    """Return the text of an error without what nats-py and the protocol put around it."""
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
