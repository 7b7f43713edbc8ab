"""How to connect, as one frozen value."""

import os
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._arguments import is_of
from ..errors import InvalidOptionError
from .login import Login
from .servers import Server

__all__ = ["LinkOptions"]

_LONGEST = 10.0  # seconds that are worth waiting for the first word of a server


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """What ``Connection`` was given, checked. Its repr shows no secret.

    Raises:
        InvalidOptionError: The credentials cannot be ones.
    """

    servers: tuple[str, ...] = field(repr=False)  # a URL may hold a password
    name: str | None
    connect_timeout: float
    ping_interval: float
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | Path | None = field(default=None, repr=False)
    nkeys_seed: str | Path | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    tls_hostname: str | None = None
    tls_handshake_first: bool = False
    lean: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_LEAN", "1") != "0")  # the fast way to read
    fast: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_UVLOOP", "1") != "0")  # if installed: uvloop

    def __post_init__(self) -> None:
        for what in ("user", "password", "token"):
            value = getattr(self, what)
            if value is not None and not is_of(value, str):
                raise InvalidOptionError(f"{what} must be a str, not {type(value).__name__}")
        if self.password is not None and self.user is None:
            raise InvalidOptionError("a password needs a user")

    @property
    def wants_tls(self) -> bool:
        """Whether a server without TLS is not the one that was meant."""
        return self.tls is not None or any(url.startswith("tls://") for url in self.servers)

    def login(self) -> Login:
        """Return what to show a server to be let in."""
        return Login(self.servers, self.user, self.password, self.token, self.credentials, self.nkeys_seed)

    def patience(self, server: Server) -> float:
        """Seconds for an attempt at a server: twice as many after each without an answer, for it may just be slow."""
        longest = max(self.connect_timeout, _LONGEST)
        return min(self.connect_timeout * 2.0 ** min(server.silences, 20), longest)

    def for_nats(self, server: Server) -> dict[str, Any]:
        """Return them as arguments of nats-py's ``connect()`` to one server, without secrets."""
        return {
            "servers": [server.url],
            "name": self.name or f"aether_sync {os.getpid()}",
            "connect_timeout": self.patience(server),  # of each step
            "allow_reconnect": False,
            "tls": self.tls,
            "tls_hostname": self.tls_hostname or server.tls_hostname,
            "tls_handshake_first": self.tls_handshake_first,
        }
