"""The servers of a cluster: those that were given, those that they tell of, and which one to try next."""

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
_PAUSE = 0.5  # seconds between two attempts at one server: quick, and no storm


@dataclass(eq=False, slots=True)
class Server:
    """A server, and what came of the attempts at it."""

    url: str  # without credentials
    tls_hostname: str | None = None  # whose certificate it has, if it is known by its address alone
    was_given: bool = True  # by the user, and not by another server
    failures: int = 0  # attempts in a row
    silences: int = 0  # of those, the last ones in which there was no answer in time
    tried: float = -inf  # when it last was

    @property
    def address(self) -> tuple[str | None, int]:
        """Its host and port."""
        return _address(self.url)

    def rest(self) -> float:
        """Seconds until it may be tried again."""
        return max(0.0, self.tried + _PAUSE - monotonic())


class Servers:
    """All servers that are known."""

    def __init__(self, urls: Iterable[str]) -> None:
        self._known = {_address(url): Server(without_login(url)) for url in urls}
        self._last: Server | None = None

    def __len__(self) -> int:
        return len(self._known)

    def next(self, besides: Collection[Server] = ()) -> Server | None:
        """Choose one to try: one that did not fail, and not the last one if there is another, as that may be frozen.

        Args:
            besides: Those that are being tried.

        Returns:
            None if all are.
        """
        candidates = [one for one in self._known.values() if one not in besides]
        if not candidates:
            return None
        random.shuffle(candidates)  # the clients of a server that is gone spread over the others
        last = self._last
        self._last = min(candidates, key=lambda server: (server.failures, server is last))
        return self._last

    def succeeded(self) -> None:
        """One of them has let us in: what the others failed with is over, perhaps."""
        for server in self._known.values():
            server.failures = 0

    def has_other(self, server: Server) -> bool:
        """Whether another one than this is known."""
        return any(other is not server for other in self._known.values())

    def learn(self, source: Server, addresses: Iterable[str]) -> None:
        """Take what a server tells of its cluster, as ``host:port`` each; nothing told changes nothing."""
        told: dict[tuple[str | None, int], Server] = {}
        parts = urlsplit(source.url)
        for address in addresses:
            url = f"{parts.scheme}://{address}"
            with suppress(ValueError):  # no address: whoever tells that is a server all the same
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
