"""The servers of a cluster: those that the user gave, those that servers name, and which one to try next."""

import ipaddress
import random
from collections.abc import Collection, Iterable
from contextlib import suppress
from dataclasses import dataclass
from math import inf
from urllib.parse import urlsplit

from .._values.clock import monotonic
from .login import without_login

__all__ = ["Server", "Servers"]

_DEFAULT_PORT = 4222
_PAUSE = 0.5  # seconds between two attempts at one server: quick, but no storm


@dataclass(eq=False, slots=True)
class Server:
    """A server, and the results of the attempts at it."""

    url: str  # without credentials
    tls_hostname: str | None = None  # the name in its certificate, if only its address is known
    was_given: bool = True  # by the user, and not named by another server
    failures: int = 0  # failed attempts in a row
    silences: int = 0  # the last ones of those, as long as all had no answer in time
    tried: float = -inf  # when it was last tried

    @property
    def address(self) -> tuple[str | None, int]:
        """The host and the port."""
        return _address(self.url)

    def rest(self) -> float:
        """Return the seconds until it may be tried again."""
        return max(0.0, self.tried + _PAUSE - monotonic())


class Servers:
    """The servers that are known."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._known = {_address(url): Server(without_login(url)) for url in urls}
        self._last: Server | None = None

    def __len__(self) -> int:
        return len(self._known)

    def next(self, besides: Collection[Server] = ()) -> Server | None:
        """Choose a server to try: one with the fewest failures, and another than the last one, which may be frozen.

        Args:
            besides: Servers that are being tried.

        Returns:
            The server; None if all are being tried.
        """
        candidates = [one for one in self._known.values() if one not in besides]
        if not candidates:
            return None
        random.shuffle(candidates)  # the clients of a server that is gone spread over the others
        last = self._last
        self._last = min(candidates, key=lambda server: (server.failures, server is last))
        return self._last

    def succeeded(self) -> None:
        """Note that a server has let us in. The others may do so as well now, so their failures are forgotten."""
        for server in self._known.values():
            server.failures = 0

    def has_other(self, server: Server) -> bool:
        """Whether another server is known."""
        return any(other is not server for other in self._known.values())

    def learn(self, source: Server, addresses: Iterable[str]) -> None:
        """Take the servers, ``host:port`` each, that a server names as its cluster. An empty list changes nothing."""
        told: dict[tuple[str | None, int], Server] = {}
        parts = urlsplit(source.url)
        for address in addresses:
            url = f"{parts.scheme}://{address}"
            with suppress(ValueError):  # it is not an address, which does not make the server useless
                name = (source.tls_hostname or parts.hostname) if _is_ip(urlsplit(url).hostname) else None
                told[_address(url)] = Server(url, name, was_given=False)
        if told:
            kept = {at: one for at, one in self._known.items() if one.was_given or one is source or at in told}
            self._known = told | kept


def _address(url: str) -> tuple[str | None, int]:
    parts = urlsplit(url)
    return parts.hostname, parts.port or _DEFAULT_PORT


def _is_ip(host: str | None) -> bool:
    try:
        ipaddress.ip_address(host or "")
    except ValueError:
        return False
    return True
