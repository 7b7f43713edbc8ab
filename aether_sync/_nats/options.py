"""How to connect, as one frozen value."""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["ConnectOptions"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """What ``Connection`` was given, checked. Its repr shows no secret."""

    servers: tuple[str, ...] = field(repr=False)  # a URL may hold a password
    name: str
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
    reconnect_wait: float = 0.5  # seconds between two attempts at one server: quick, and no storm

    @property
    def wants_tls(self) -> bool:
        """Whether a server without TLS is not the one that was meant."""
        return self.tls is not None or any(url.startswith(("tls://", "wss://")) for url in self.servers)

    def for_nats(self) -> dict[str, Any]:
        """Return them as arguments of nats-py's ``connect()``."""
        return {
            "servers": list(self.servers),
            "name": self.name,
            "connect_timeout": min(2.0, self.connect_timeout / 2),  # an attempt; so that its reason is known in time
            "reconnect_time_wait": self.reconnect_wait,
            "max_reconnect_attempts": -1,
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "user_credentials": None if self.credentials is None else str(self.credentials),
            "nkeys_seed": None if self.nkeys_seed is None else str(self.nkeys_seed),
            "tls": self.tls,
            "tls_hostname": self.tls_hostname,
            "tls_handshake_first": self.tls_handshake_first,
        }
