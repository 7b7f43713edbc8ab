"""What a client shows a server to be let in. nats-py is given none of it, so nothing there can log a secret.

A file is read anew for each attempt to connect, so a renewed one counts from the next. nats-py's own reader of
credentials files reads one that has no JWT in it for ever, and a bad seed ends its reconnecting.
"""

import base64
import json
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from nats.errors import Error

__all__ = ["Login", "NotSentError", "without_login"]

_DEFAULT_PORT = 4222
_JWT = re.compile(r"-BEGIN NATS USER JWT-+\s+([\w.=-]+)\s+-+END")
_SEED = re.compile(r"-BEGIN USER NKEY SEED-+\s+(\w+)\s+-+END")
_MAX_BYTES = 1 << 20  # of a file


class NotSentError(Error):
    """No credentials were sent: they cannot be read, or the server is not fit for them. It holds none of them.

    It is one of nats-py's errors, which then tries again.
    """


class Login:
    """The credentials of a connection, as the fields of ``CONNECT``.

    Args:
        servers: URLs. What is in one is for that server; the first that has any is for all that have none, those that
            the cluster names itself included.
        user: With ``password``, for all servers.
        password: With ``user``.
        token: For all servers.
        credentials: A file with a JWT and its seed.
        nkeys_seed: A file with a seed.
    """

    def __init__(
        self,
        servers: Sequence[str],
        user: str | None = None,
        password: str | None = None,
        token: str | None = None,
        credentials: str | Path | None = None,
        nkeys_seed: str | Path | None = None,
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
        self._credentials = None if credentials is None else Path(credentials)
        self._nkeys_seed = None if nkeys_seed is None else Path(nkeys_seed)

    def fields(self, host: str | None, port: int | None, nonce: str | None) -> dict[str, str]:
        """Return what to show one server.

        Args:
            host: The server's.
            port: The server's.
            nonce: What it wants signed, if it knows nkeys.

        Raises:
            NotSentError: A file cannot be read, or has not what it should.
        """
        keys: dict[str, str] = {}
        if nonce is not None and self._credentials is not None:
            jwt, seed = _read_credentials(self._credentials)
            keys = {"jwt": jwt, "sig": _Signer(seed, self._credentials).sign(nonce)}
        elif nonce is not None and self._nkeys_seed is not None:
            signer = _Signer(_read(self._nkeys_seed).strip(), self._nkeys_seed)
            keys = {"nkey": signer.public_key, "sig": signer.sign(nonce)}
        return keys | (self._for_all or self._by_server.get((host, port or _DEFAULT_PORT), self._other))

    def doubt(self) -> str:
        """Say what can be seen from here of why a server refuses: that a JWT has expired. Empty for nothing."""
        if self._credentials is None:
            return ""
        try:
            expiry = _expiry(_read_credentials(self._credentials)[0])
        except (NotSentError, ValueError, OverflowError):
            return ""
        if expiry is None or expiry > time.time():
            return ""
        moment = datetime.fromtimestamp(expiry, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return f"; the JWT in {str(self._credentials)!r} expired at {moment}"


def without_login(url: str) -> str:
    """Return a URL of a server without what is in it to be let in."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _of_url(user: str, password: str | None) -> dict[str, str]:
    if password is None:
        return {"auth_token": unquote(user)}
    return {"user": unquote(user), "pass": unquote(password)}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(_MAX_BYTES).decode("ascii", "replace")
    except OSError as error:
        raise NotSentError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def _read_credentials(path: Path) -> tuple[str, str]:
    text = _read(path)
    jwt, seed = _JWT.search(text), _SEED.search(text)
    if jwt is None or seed is None:
        missing = "JWT" if jwt is None else "nkey seed"
        raise NotSentError(f"{str(path)!r} is no credentials file: there is no {missing} in it")
    return jwt[1], seed[1]


class _Signer:
    """Signs with a seed."""

    def __init__(self, seed: str, path: Path) -> None:
        import nkeys  # of an extra

        try:
            self._pair = nkeys.from_seed(bytearray(seed.encode()))
            self.public_key: str = self._pair.public_key.decode()
        except Exception:  # it raises what it comes upon; and that may hold the seed
            raise NotSentError(f"{str(path)!r} has no valid nkey seed") from None

    def sign(self, nonce: str) -> str:
        return base64.b64encode(self._pair.sign(nonce.encode())).decode()


def _expiry(jwt: str) -> float | None:
    """Read when a JWT expires: seconds since 1970, None for never. Nothing is verified: that is the server's work."""
    claims = jwt.split(".")[1] if jwt.count(".") == 2 else ""
    read = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    expiry = read.get("exp") if isinstance(read, dict) else None
    return float(expiry) if isinstance(expiry, int | float) and expiry else None
