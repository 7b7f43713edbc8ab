"""What nats-py and the operating system report, in words for the user of this library."""

import asyncio
import re
import socket
import ssl
from urllib.parse import urlsplit

__all__ = ["describe", "is_refusal", "refused_subject", "shown"]

_REFUSALS = ("authorization violation", "authentication expired", "authorization failed", "authentication revoked")
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "(.*?)"(?: using queue "(.*?)")?$', re.I)


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


def refused_subject(error: BaseException) -> tuple[str, str, str] | None:
    """Read a permissions violation: (``"publish"`` or ``"subscription"``, subject, queue), all in lower case.

    nats-py lower-cases the server's text, so a subject here may stand for several.
    """
    found = _VIOLATION.search(str(error).strip("'"))
    return None if found is None else (found[1].lower(), found[2].lower(), (found[3] or "").lower())


def shown(url: str) -> str:
    """Return a URL as it may be shown: without user, password or token."""
    parts = urlsplit(url if "://" in url else f"nats://{url}")
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _text(error: BaseException) -> str:
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
