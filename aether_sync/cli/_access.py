"""The server that a command uses, and how it is let in."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from .._nats.settings import InContext, Renamed
from ..connection import Connection, ConnectionOptions

__all__ = ["Access", "ProgramAccess"]

_NAMES = {
    "user": "--user",
    "password": "--password",
    "token": "--token",
    "credentials": "--creds",
    "nkeys_seed": "--nkey",
    "tls_ca": "--tlsca",
    "tls_cert": "--tlscert",
    "tls_key": "--tlskey",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """What the options of a command say; None says nothing. The repr shows no secret.

    Attributes:
        url: The URL or URLs, which may have credentials in them.
        context: A context of the nats command line.
        user: The user.
        password: The password.
        token: The token.
        creds: The path of a credentials file.
        nkey: The path of a file with an nkey seed.
        tlsca: The path of the authorities' certificates.
        tlscert: The path of this client's certificate.
        tlskey: The path of its key.
        trust_env: Whether the environment counts.
    """

    url: str | None = field(default=None, repr=False)
    context: str | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    creds: str | None = field(default=None, repr=False)
    nkey: str | None = field(default=None, repr=False)
    tlsca: str | None = None
    tlscert: str | None = None
    tlskey: str | None = None
    trust_env: bool = True

    @property
    def names_a_server(self) -> bool:
        """Whether an option says which server."""
        return self.url is not None or self.context is not None

    def connection(self, timeout: float, name: str | None = None) -> Connection:
        """Make a connection, which connects at its first use.

        Args:
            timeout: Seconds for the first attempt.
            name: The name that the server's monitoring shows.

        Raises:
            InvalidOptionError: An option, a variable of the environment or a context cannot be used.
        """
        options: ConnectionOptions = {
            "name": name,
            "connect_timeout": timeout,
            "user": self.user,
            "password": self.password,
            "token": self.token,
            "credentials": self.creds,
            "nkeys_seed": self.nkey,
            "tls_ca": self.tlsca,
            "tls_cert": self.tlscert,
            "tls_key": self.tlskey,
            "trust_env": self.trust_env,
        }
        place = self.url if self.context is None else InContext(self.url, self.context)
        return Connection(cast(str, Renamed(place, _NAMES)), **options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramAccess(Access):
    """The access of a program that has these commands within its own command line.

    Attributes:
        make: Makes a connection as the program does; it is given the arguments of :meth:`connection`.
    """

    make: Callable[[float, str | None], Connection] = field(repr=False)

    def connection(self, timeout: float, name: str | None = None) -> Connection:
        """Make a connection, which connects at its first use."""
        return self.make(timeout, name)
