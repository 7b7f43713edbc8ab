"""What nats-py and the operating system report, in words for the user of this library."""

import asyncio
import re
import socket
import ssl
from typing import NamedTuple
from urllib.parse import urlsplit

__all__ = ["Refusal", "counted", "describe", "is_refusal", "refusal", "shown"]

_REFUSALS = ("authorization violation", "authentication expired", "authorization failed", "authentication revoked")
_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "(.*?)"(?: using queue "(.*?)")?(?: \(sid "(\d+)"\))?$', re.I
)


def describe(error: BaseException) -> str:
    """Say what went wrong, without secrets."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the server's certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, asyncio.TimeoutError):
        return "no answer: nothing there, or no NATS server"
    if isinstance(error, socket.gaierror):
        return "the host name is not known"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused: nothing listens there"
    if is_refusal(error):
        return f"the server refuses these credentials ({_text(error)})"
    if "expecting INFO" in str(error) or "info message" in str(error):
        return "something answers there, but it is no NATS server"
    return _text(error)


def is_refusal(error: BaseException) -> bool:
    """Whether the server is there, but will not have us."""
    text = str(error).lower()
    return any(refusal in text for refusal in _REFUSALS)


class Refusal(NamedTuple):
    """A permissions violation. nats-py lower-cases the server's text, so its names may stand for several."""

    is_publish: bool
    subject: str
    queue: str
    sid: int | None  # of a subscription whose right was revoked


def refusal(error: BaseException) -> Refusal | None:
    """Read a permissions violation, if the error is one."""
    found = _VIOLATION.search(str(error).strip("'"))
    if found is None:
        return None
    kind, subject, queue, sid = found.groups()
    return Refusal(kind.lower() == "publish", subject.lower(), (queue or "").lower(), int(sid) if sid else None)


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user, password or token."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def counted(events: int) -> str:
    """Say how many events."""
    return "1 event" if events == 1 else f"{events} events"


def _text(error: BaseException) -> str:
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
