"""How a link connects, as one frozen value."""

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

_LONGEST = 10.0  # seconds to wait for a server that is slow to greet, at most


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkOptions:
    """The checked options of a ``Connection``. The repr shows no secret.

    Raises:
        InvalidOptionError: Credentials are not texts, or there is a password without a user.
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
    # What the user may have meant, if a host is not known.
    meant: str = ""
    # Whether to read the fast way.
    lean: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_LEAN", "1") != "0")
    # Whether to use uvloop, if it is installed.
    fast: bool = field(default_factory=lambda: os.environ.get("AETHER_SYNC_UVLOOP", "1") != "0")

    def __post_init__(self) -> None:
        for what in ("user", "password", "token"):
            value = getattr(self, what)
            if value is not None and not is_of(value, str):
                raise InvalidOptionError(f"{what} must be a str, not {type(value).__name__}")
        if self.password is not None and self.user is None:
            raise InvalidOptionError("a password needs a user")

    @property
    def wants_tls(self) -> bool:
        """Whether to refuse a server that does not require TLS."""
        return self.tls is not None or any(url.startswith("tls://") for url in self.servers)

    def login(self) -> Login:
        """Return the credentials."""
        return Login(self.servers, self.user, self.password, self.token, self.credentials, self.nkeys_seed)

    def patience(self, server: Server) -> float:
        """Return the seconds for an attempt at a server: twice as many after each that had no answer."""
        longest = max(self.connect_timeout, _LONGEST)
        return min(self.connect_timeout * 2.0 ** min(server.silences, 20), longest)

    def for_nats(self, server: Server) -> dict[str, Any]:
        """Return the arguments of nats-py's ``connect()`` for one server, without secrets."""
        return {
            "servers": [server.url],
            "name": self.name or f"aether_sync {os.getpid()}",
            "connect_timeout": self.patience(server),  # of each step
            "allow_reconnect": False,
            "tls": self.tls,
            "tls_hostname": self.tls_hostname or server.tls_hostname,
            "tls_handshake_first": self.tls_handshake_first,
        }
