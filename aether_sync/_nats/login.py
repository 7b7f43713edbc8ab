"""The credentials that a client sends to a server. nats-py never gets them, so it cannot log a secret.

A file is read for each attempt to connect, so a renewed file counts from the next attempt on. nats-py's own reader does
not come to an end with a credentials file that has no JWT, and a bad seed ends its reconnecting.
"""

import base64
import json
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from urllib.parse import unquote, urlsplit

from nats.errors import Error

from .files import read_file

__all__ = ["InMemory", "Login", "NotSentError", "secrets_of", "without_login"]

_DEFAULT_PORT = 4222
_NO_SECRETS = ("user", "nkey")  # fields of CONNECT that say who somebody is, and prove nothing
_JWT = re.compile(r"-BEGIN NATS USER JWT-+\s+([\w.=-]+)\s+-+END")
_SEED = re.compile(r"-BEGIN USER NKEY SEED-+\s+(\w+)\s+-+END")


class NotSentError(Error):
    """No credentials were sent: they cannot be read, or the server must not get them. The error has no secret in it.

    It is one of nats-py's errors, so that the attempt to connect fails, and another one follows.
    """


class InMemory:
    """The text of a file with credentials that is no file. Its repr and its name show nothing of it.

    Args:
        name: What errors call it.
        text: The text.
    """

    __slots__ = ("name", "text")

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.text = text

    @classmethod
    def of_pair(cls, name: str, jwt: str, seed: str) -> "InMemory":
        """Return what a credentials file has in it, of a JWT and the seed of its key."""
        return cls(
            name,
            f"-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n"
            f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n",
        )


class Login:
    """The credentials of a connection, as the fields of ``CONNECT``: those of the URLs if no others are given.

    Args:
        servers: URLs. Credentials in a URL are for that server. Those of the first URL that has any are also for all
            servers without credentials, as well as those that the cluster names.
        user: The user for all servers.
        password: The password of ``user``.
        token: The token for all servers.
        credentials: The path of a file with a JWT and its seed, or its text.
        nkeys_seed: The path of a file with an nkey seed, or its text.
    """

    def __init__(
        self,
        servers: Sequence[str],
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | InMemory | None = None,
        nkeys_seed: str | InMemory | None = None,
    ) -> None:
        self._by_server: dict[tuple[str | None, int], dict[str, str]] = {}
        for url in servers:
            parts = urlsplit(url)
            if parts.username is not None:
                self._by_server[parts.hostname, parts.port or _DEFAULT_PORT] = _of_url(parts.username, parts.password)
        self._other = next(iter(self._by_server.values()), {})
        self._for_all = {}
        if user is not None:
            self._for_all = {"user": user, "pass": password or ""}
        elif token is not None:
            self._for_all = {"auth_token": token}
        self._credentials = credentials
        self._nkeys_seed = nkeys_seed

    def fields(self, host: str | None, port: int | None, nonce: str | None) -> dict[str, str]:
        """Return the fields with credentials for one server.

        Args:
            host: The host of the server.
            port: The port of the server.
            nonce: The text that the server wants signed, if it knows nkeys.

        Raises:
            NotSentError: A file cannot be read, or does not have what it should.
        """
        if self._credentials is not None or self._nkeys_seed is not None:  # and no other kind beside it
            return {} if nonce is None else self._signed(nonce)
        return self._for_all or self._by_server.get((host, port or _DEFAULT_PORT), self._other)

    def _signed(self, nonce: str) -> dict[str, str]:
        if self._credentials is not None:
            jwt, seed = _read_credentials(self._credentials)
            return {"jwt": jwt, "sig": _Signer(seed, self._credentials).sign(nonce)}
        assert self._nkeys_seed is not None
        signer = _Signer(_read(self._nkeys_seed).strip(), self._nkeys_seed)
        return {"nkey": signer.public_key, "sig": signer.sign(nonce)}

    def secrets(self) -> set[str]:
        """Return what is secret in the credentials for all servers, as :func:`secrets_of` does. Files are read."""
        found: set[str] = set()
        for fields in (self._for_all, *self._by_server.values()):
            found |= secrets_of(fields)
        with suppress(NotSentError):
            if self._credentials is not None:
                found.update(_read_credentials(self._credentials))
        with suppress(NotSentError):
            if self._nkeys_seed is not None:
                found.add(_read(self._nkeys_seed).strip())
        return found - {""}

    def doubt(self) -> str:
        """Return a reason for a refusal that can be seen here, that the JWT has expired; else an empty text."""
        if self._credentials is None:
            return ""
        try:
            expiry = _expiry(_read_credentials(self._credentials)[0])
        except (NotSentError, ValueError, OverflowError):
            return ""
        if expiry is None or expiry > time.time():
            return ""
        moment = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"; the JWT in {_named(self._credentials)} expired at {moment}"


def secrets_of(fields: dict[str, str]) -> set[str]:
    """Return what is secret in the fields of :meth:`Login.fields`: each as it is, and as it stands in JSON."""
    secrets = {value for name, value in fields.items() if name not in _NO_SECRETS}
    return secrets | {json.dumps(secret)[1:-1] for secret in secrets}


def without_login(url: str) -> str:
    """Return the URL of a server without credentials."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _of_url(user: str, password: str | None) -> dict[str, str]:
    if password is None:
        return {"auth_token": unquote(user)}
    return {"user": unquote(user), "pass": unquote(password)}


def _named(source: str | InMemory) -> str:
    return source.name if isinstance(source, InMemory) else repr(source)


def _read(source: str | InMemory) -> str:
    if isinstance(source, InMemory):
        return source.text
    try:
        return read_file(source).decode("ascii", "replace")
    except OSError as error:
        raise NotSentError(f"{_named(source)} cannot be read: {error.strerror}") from None


def _read_credentials(source: str | InMemory) -> tuple[str, str]:
    text = _read(source)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        missing = "JWT" if jwt is None else "nkey seed"
        raise NotSentError(f"{_named(source)} is no credentials file: there is no {missing} in it")
    return jwt[1], seed[1]


class _Signer:
    """Signs with an nkey seed."""

    def __init__(self, seed: str, source: str | InMemory) -> None:
        import nkeys  # from an extra

        try:
            self._pair = nkeys.from_seed(bytearray(seed.encode()))
            self.public_key: str = self._pair.public_key.decode()
        except Exception:  # of whatever kind; it may have the seed in it
            raise NotSentError(f"{_named(source)} has no valid nkey seed") from None

    def sign(self, nonce: str) -> str:
        return base64.b64encode(self._pair.sign(nonce.encode())).decode()


def _expiry(jwt: str) -> float | None:
    """Read when a JWT expires, in Unix seconds; None means never. Nothing is verified, as the server does that."""
    claims = jwt.split(".")[1] if jwt.count(".") == 2 else ""
    read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    expiry = read.get("exp") if isinstance(read, dict) else None
    return float(expiry) if isinstance(expiry, int | float) and expiry else None
