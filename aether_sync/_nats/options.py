"""How a link connects, as one frozen value."""

import os
import ssl
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidOptionError
from .login import Login, NotSentError
from .servers import Server
from .settings import Settings
from .tls import TLSFiles

__all__ = ["LinkOptions"]

_LONGEST = 10.0  # seconds to wait for a server that is slow to greet, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """The checked options of a ``Connection``. The repr shows no secret."""

    settings: Settings
    name: str | None
    connect_timeout: float
    ping_interval: float
    tls_hostname: str | None = None
    # What the user may have meant, if a host is not known.
    meant: str = ""
    # Whether to read the fast way.
    lean: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_LEAN", "1") != "0")
    # Whether to use uvloop, if it is installed.
    fast: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_UVLOOP", "1") != "0")

    @property
    def servers(self) -> tuple[str, ...]:
        """The URLs of servers, which may have passwords in them."""
        return self.settings.servers

    @property
    def wants_tls(self) -> bool:
        """Whether to refuse a server that does not require TLS."""
        return self.settings.tls is not None or any(url.startswith("tls://") for url in self.servers)

    def login(self) -> Login:
        """Return the credentials."""
        of = self.settings
        return Login(of.servers, of.user, of.password, of.token, of.credentials, of.nkeys_seed)

    def patience(self, server: Server) -> float:
        """Return the seconds for an attempt at a server: twice as many after each that had no answer."""
        longest = max(self.connect_timeout, _LONGEST)
        return min(self.connect_timeout * 2.0 ** min(server.silences, 20), longest)

    def for_nats(self, server: Server) -> dict[str, Any]:
        """Return the arguments of nats-py's ``connect()`` for one server, without secrets.

        Raises:
            NotSentError: A file of TLS has become unusable.
        """
        return {
            "servers": [server.url],
            "name": self.name or f"aether_sync {os.getpid()}",
            "connect_timeout": self.patience(server),  # of each step
            "allow_reconnect": False,
            "tls": self._tls(),
            "tls_hostname": self.tls_hostname or server.tls_hostname,
            "tls_handshake_first": self.settings.tls_handshake_first,
        }

    def _tls(self) -> ssl.SSLContext | None:
        tls = self.settings.tls
        if not isinstance(tls, TLSFiles):
            return tls
        try:
            return tls.context()
        except InvalidOptionError as error:  # it was well when the connection was made
            raise NotSentError(str(error)) from None
