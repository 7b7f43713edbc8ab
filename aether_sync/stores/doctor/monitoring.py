"""``MonitoringPort``: a server's monitoring port, which is asked by HTTP.

Anything may listen where it is said to be. So an answer has a bound in size and one in time: the timeout of a socket is
for each piece that arrives, and a server that sends a byte now and then would never exceed it. The port is asked
directly, whatever the environment says of proxies, and a redirect is not followed.
"""

import base64
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from io import BufferedReader, RawIOBase
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from ..._nats.reasons import shown
from ..._runtime.deadline import Deadline
from ...errors import InvalidOptionError

__all__ = ["MonitoringPort", "SilentPortError"]

_LARGEST = 4 * 2**20  # bytes of an answer; a server of a large cluster answers some 100 kB
_LONGEST = 86_400.0  # seconds: a socket takes no timeout of any length
_WORDS = 200  # characters of an error, which may quote what was received


class SilentPortError(Exception):
    """There was no answer of HTTP, or none in time. The error has no secret in it."""


class MonitoringPort:
    """A server's monitoring port. Its text is its URL without credentials.

    Args:
        url: Its URL. A user and a password in it are sent by "Basic" authentication, as a proxy before it may want
            them: the server itself asks for none.

    Raises:
        InvalidOptionError: The URL is none of a monitoring port. The error shows no secret.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:
            raise _wrong(url) from None
        is_clean = url.isprintable() and " " not in url
        if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment or not is_clean:
            raise _wrong(url)
        self._make = HTTPConnection if parts.scheme == "http" else HTTPSConnection
        self._host, self._port, self._path = host, port, parts.path.rstrip("/")
        self._text = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{self._path}"
        self._headers = {"Connection": "close"}
        self.secrets: frozenset[str] = frozenset()  #: what must not be shown
        if parts.username is not None:
            user, password = unquote(parts.username), unquote(parts.password or "")
            login = base64.b64encode(f"{user}:{password}".encode()).decode()
            self._headers["Authorization"] = f"Basic {login}"
            self.secrets = frozenset({login, password, parts.password or ""} - {""})

    def __str__(self) -> str:
        return self._text

    def fetch(self, what: str, timeout: float) -> tuple[int, bytes]:
        """Return the status and the body of an answer. A server that is not healthy answers with an error.

        Args:
            what: The last part of the path.
            timeout: Seconds for all of it.

        Raises:
            SilentPortError: There is no answer of HTTP, or none in time, or one that is too large.
        """
        deadline = Deadline(min(timeout, _LONGEST))
        try:
            with closing(self._make(self._host, self._port, timeout=deadline.timeout)) as connection:
                connection.request("GET", f"{self._path}/{what}", headers=self._headers)
                answer = HTTPResponse(cast(Any, _Bounded(connection.sock, deadline)), method="GET")
                with answer:
                    answer.begin()
                    body = answer.read(_LARGEST + 1)
        except (OSError, ValueError, HTTPException) as error:
            raise SilentPortError((str(error) or type(error).__name__)[:_WORDS]) from None
        if len(body) > _LARGEST:
            raise SilentPortError(f"its answer has more than {_LARGEST:,} bytes")
        return answer.status, body


class _Bounded(RawIOBase):
    """What is received from a socket until a deadline. ``HTTPResponse`` takes it for the socket."""

    def __init__(self, sock: socket.socket, deadline: Deadline) -> None:
        self._sock = sock
        self._deadline = deadline

    def makefile(self, _mode: str) -> BufferedReader:
        return BufferedReader(self)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        left = self._deadline.remaining()
        if not left:
            raise TimeoutError("timed out")
        self._sock.settimeout(left)
        return self._sock.recv_into(buffer)


def _wrong(url: str) -> InvalidOptionError:
    text = shown(url) if url.startswith("nats://") else shown(url).removeprefix("nats://")
    return InvalidOptionError(f"a monitoring port has a URL such as 'http://host:8222', not {text!r:.80}")
