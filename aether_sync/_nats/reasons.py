"""What nats-py and the operating system report, in words for the user of this library."""

import asyncio
import re
import socket
import ssl
from typing import NamedTuple

from .login import NotSentError

__all__ = ["Refusal", "counted", "describe", "is_refusal", "refusal", "shown"]

_REFUSALS = ("authorization violation", "authentication expired", "authorization failed", "authentication revoked")
_SCHEMES = ("nats", "tls", "ws", "wss")
_ADDRESS = re.compile(r"(?:\[[^\]@]*\]|[^\[\]:/?#@]*)(?::\d*)?/?")
_VIOLATION = re.compile(
    r'permissions violation for (publish|subscription) to "(.*?)"(?: using queue "(.*?)")?(?: \(sid "(\d+)"\))?$', re.I
)


def describe(error: BaseException) -> str:
    """Say what went wrong, without secrets."""
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
        return f"the server refuses these credentials ({_text(error)})"
    if "expecting INFO" in str(error) or "info message" in str(error):
        return "something answers there, but it is no NATS server"
    return _text(error)


def _describe_tls(reason: str) -> str:
    if reason.endswith("CERTIFICATE_REQUIRED"):
        return f"the server wants a client's certificate: there is none in tls ({reason})"
    if "_ALERT_" in reason and re.search("CERT|UNKNOWN_CA", reason):
        return f"the server does not accept this client's certificate ({reason})"
    if reason == "WRONG_VERSION_NUMBER":
        return f"TLS failed: the server does not speak it there, or not from the first byte ({reason})"
    return f"TLS failed: {reason}"


def is_refusal(error: BaseException) -> bool:
    """Whether the server is there, but one of the two will not have the other: waiting alone does not mend that."""
    if isinstance(error, ssl.SSLError):
        return not isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)  # it went away
    if isinstance(error, NotSentError):
        return True
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
    """Return a URL as it may be shown: without user, password or token, also if it is no URL at all."""
    scheme, _, rest = url.partition("://")
    if scheme not in _SCHEMES:
        scheme, rest = "nats", url
    address = rest.rpartition("@")[2]
    if _ADDRESS.fullmatch(address) is None:  # a password, perhaps, that was not escaped, or stands for a port
        address = f"{re.split('[^a-zA-Z0-9.-]', address, maxsplit=1)[0]}..."
    return f"{scheme}://{address}"


def counted(events: int) -> str:
    """Say how many events."""
    return "1 event" if events == 1 else f"{events} events"


def _text(error: BaseException) -> str:
    text = str(error).removeprefix("nats: ").strip("'\" ")
    return text or type(error).__name__
