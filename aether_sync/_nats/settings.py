"""What a connection is to use: arguments first, then a URL's own credentials, then the environment or a context.

The environment and contexts are those of the nats command line. A context that a program or an option asks for takes
the place of the environment: so neither's secrets go to the other's server. A context that ``NATS_CONTEXT`` names is a
part of the environment, and stands behind its other variables, setting by setting, as for the nats command line.

Credentials are one group, of one kind: the first source that has any decides, and what sources behind it say of
credentials of another kind does not count. Only a user and its password may come from two sources.
"""

import base64
import os
import re
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, cast
from urllib.parse import urlsplit

from .._arguments import check_path, is_of
from .._values.shown import short
from ..errors import InvalidOptionError
from .checks import check_nkeys, check_secret_file, check_servers
from .contexts import Context, as_text, read_context, selected_context
from .files import read_file
from .login import InMemory
from .tls import TLSFiles

__all__ = ["InContext", "Renamed", "Settings", "settle"]

_DEFAULT_URL = "nats://127.0.0.1:4222"

_CONTEXT = "NATS_CONTEXT"
_VARIABLES = {
    "url": "NATS_URL",
    "user": "NATS_USER",
    "password": "NATS_PASSWORD",
    "token": "NATS_TOKEN",
    "credentials": "NATS_CREDS",
    "nkeys_seed": "NATS_NKEY",
    "tls_ca": "NATS_CA",
    "tls_cert": "NATS_CERT",
    "tls_key": "NATS_KEY",
}
_KEYS = {
    "url": "url",
    "user": "user",
    "password": "password",
    "token": "token",
    "credentials": "creds",
    "nkeys_seed": "nkey",
    "user_jwt": "user_jwt",
    "user_seed": "user_seed",
    "tls_ca": "ca",
    "tls_cert": "cert",
    "tls_key": "key",
}
_KINDS = ("user", "token", "credentials", "nkeys_seed", "user_jwt")  # of credentials
_TLS = ("tls_ca", "tls_cert", "tls_key")
_NO_PROXY = ("none", "NONE", "-")
_STORE_KEYS = ("jetstream_domain", "jetstream_api_prefix", "inbox_prefix")
_REFERENCE = re.compile(r"(file|env|op|nsc)://(.*)|(data):(.*)", re.I | re.S)


class InContext(NamedTuple):
    """A URL or None, as what a ``Connection`` is made from, with a context behind it, in place of the environment."""

    url: str | Sequence[str] | None
    name: str | None  # of the context; None: the environment's, which stands behind it, else the one that is selected


class Renamed(NamedTuple):
    """What a ``Connection`` is made from in place of a URL, where errors call its arguments by other names."""

    url: str | Sequence[str] | InContext | None
    names: Mapping[str, str]  # by argument


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How to connect, checked. The repr shows no secret."""

    servers: tuple[str, ...] = field(repr=False)  # a URL may hold a password
    user: str | None = field(default=None, repr=False)
    password: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    credentials: str | InMemory | None = field(default=None, repr=False)
    nkeys_seed: str | InMemory | None = field(default=None, repr=False)
    tls: ssl.SSLContext | TLSFiles | None = None
    tls_handshake_first: bool = False
    no_store: str = ""  # why a store cannot be used, if so


class _Source:
    """Where settings come from: what it says, by setting, and what errors call them."""

    def __init__(self, values: Mapping[str, Any], names: Mapping[str, str], of: str = "") -> None:
        self.values = values
        self._names = names
        self._of = of

    def name(self, setting: str) -> str:
        return self._names.get(setting, setting) + self._of

    def kind(self) -> str | None:
        """Return the kind of its credentials, or None if it has none, or only a part.

        Raises:
            InvalidOptionError: It has several, which contradict each other.
        """
        kinds = [kind for kind in _KINDS if kind in self.values]
        if len(kinds) > 1:
            named = " and ".join(map(self.name, kinds))
            raise InvalidOptionError(f"{named} contradict each other: one kind of credentials at a time")
        return kinds[0] if kinds else None

    def text(self, setting: str) -> str:
        """Return a text, such as a password."""
        return cast(str, self.values[setting])

    def secret_file(self, setting: str) -> str | InMemory:
        """Return a file with credentials."""
        return check_secret_file(self.name(setting), self.path(setting))

    def path(self, setting: str) -> str:
        """Return the path of a file."""
        return check_path(self.name(setting), self.values[setting])


class _Environment(_Source):
    """The environment. In paths it may have ``~`` and other variables, which no shell has expanded."""

    def __init__(self) -> None:
        found = {setting: os.environ.get(variable) for setting, variable in _VARIABLES.items()}
        super().__init__({setting: value for setting, value in found.items() if value}, _VARIABLES)

    def path(self, setting: str) -> str:
        return _expanded(self.values[setting])


class _OfContext(_Source):
    """A context. Its secrets may be references, such as ``env://NAME``."""

    def __init__(self, context: Context) -> None:
        values = {setting: context.values[key] for setting, key in _KEYS.items() if key in context.values}
        super().__init__(values, _KEYS, f" of {context.name}")
        self.context = context

    def text(self, setting: str) -> str:
        found = self._resolved(setting)
        return self._read(setting, found) if is_of(found, Path) else cast(str, found)

    def secret_file(self, setting: str) -> str | InMemory:
        found = self._resolved(setting, is_path=True)
        if is_of(found, Path):
            return check_secret_file(self.name(setting), found)
        check_nkeys(self.name(setting))
        return InMemory(self.name(setting), cast(str, found))

    def path(self, setting: str) -> str:
        found = self._resolved(setting, is_path=True)
        if not is_of(found, Path):
            raise InvalidOptionError(f"{self.name(setting)} must be the path of a file")
        return str(found)

    def _resolved(self, setting: str, *, is_path: bool = False) -> Path | str:
        """Return the path of a file to read, or a text."""
        value, name = self.values[setting], self.name(setting)
        found = _REFERENCE.fullmatch(value)
        if found is None:
            return Path(_expanded(value)) if is_path else value
        scheme, rest = (found[1] or found[3]).lower(), found[2] or found[4] or ""
        if scheme == "file":
            return Path(_expanded(rest))
        if scheme == "env":
            if text := os.environ.get(rest):
                return text
            raise InvalidOptionError(f"{name} is in the environment's {short(rest)}, which is not set")
        if scheme == "data":
            return self._decoded(name, rest)
        raise InvalidOptionError(f"{name} asks the program {scheme!r} for it: this library asks none; name a file")

    def _decoded(self, name: str, data: str) -> str:
        header, comma, payload = data.partition(",")
        has_base64 = comma and "base64" in [part.strip() for part in header.split(";")]
        text = _from_base64(payload) if has_base64 else None
        if text is None:
            raise InvalidOptionError(f"{name} is no data in base64, as in 'data:;base64,...'")
        return text

    def _read(self, setting: str, path: Path) -> str:
        try:
            raw = read_file(path)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no file has such a name"
            raise InvalidOptionError(f"{self.name(setting)} cannot be read from {str(path)!r}: {reason}") from None
        text = as_text(raw)
        if text is None:
            raise InvalidOptionError(f"{self.name(setting)} cannot be read from {str(path)!r}: it is no UTF-8")
        return text.rstrip("\r\n")


def _from_base64(payload: str) -> str | None:
    try:
        return as_text(base64.b64decode(payload, validate=True))
    except ValueError:
        return None


def settle(given: Mapping[str, Any], trust_env: bool) -> Settings:
    """Decide what a connection uses.

    Args:
        given: Its arguments, by setting; None is not given. ``url`` may be a :class:`Renamed` or an :class:`InContext`.
        trust_env: Whether the environment counts, where no context takes its place.

    Raises:
        InvalidOptionError: Something is wrong, missing, or contradicts something else of the same source.
    """
    own = {setting: value for setting, value in given.items() if value is not None}
    context: Context | None = None
    url: Any = own.pop("url", None)
    names: Mapping[str, str] = {}
    if is_of(url, Renamed):
        url, names = url
    if is_of(url, InContext):
        of_environment = os.environ.get(_CONTEXT) if trust_env and url.name is None else None
        trust_env = bool(of_environment)
        context = read_context(of_environment or (selected_context() if url.name is None else url.name))
        url = url.url
    elif trust_env and os.environ.get(_CONTEXT):
        context = read_context(os.environ[_CONTEXT])
    if url is not None:
        own["url"] = url
    for setting in ("user", "password", "token"):
        if setting in own and not is_of(own[setting], str):
            raise InvalidOptionError(f"{setting} must be a str, not {type(own[setting]).__name__}")
    sources = [_Source(own, names), *([_Environment()] if trust_env else [])]
    if context is None:
        return _settled(sources, None)
    return _settled([*sources, _OfContext(context)], context)


def _settled(sources: Sequence[_Source], context: Context | None) -> Settings:
    servers = _servers(sources, context)
    has_own = any(urlsplit(server).username is not None for server in servers)
    credentials = _credentials(sources[:1] if has_own else sources)
    if context is not None and not credentials and not has_own and "nsc" in context.values:
        raise InvalidOptionError(_unusable(context, "nsc", "name the file with the credentials as creds"))
    if context is not None and context.values.get("socks_proxy", "-") not in _NO_PROXY:
        raise InvalidOptionError(_unusable(context, "socks_proxy", "this library connects to servers directly"))
    tls_first = bool(sources[0].values.get("tls_handshake_first")) or (context is not None and context.tls_first)
    return Settings(
        servers=servers,
        tls=_tls(sources, context),
        tls_handshake_first=tls_first,
        no_store=_no_store(context),
        **credentials,
    )


def _servers(sources: Sequence[_Source], context: Context | None) -> tuple[str, ...]:
    source = _first(sources, "url")
    if source is None:
        if context is not None and "nsc" in context.values:
            raise InvalidOptionError(_unusable(context, "nsc", "name the server as url"))
        return check_servers(_DEFAULT_URL)
    try:
        return check_servers(source.values["url"])
    except InvalidOptionError as error:
        if source is sources[0]:
            raise
        raise InvalidOptionError(f"{source.name('url')}: {error}") from None


def _first(sources: Sequence[_Source], setting: str) -> _Source | None:
    return next((source for source in sources if setting in source.values), None)


def _credentials(sources: Sequence[_Source]) -> dict[str, Any]:
    place, kind = next(((at, kind) for at, one in enumerate(sources) if (kind := one.kind())), (len(sources), None))
    before, source, behind = sources[:place], sources[place : place + 1], sources[place + 1 :]
    alone = _first(before, "password") or (None if source else _first(sources, "password"))
    if kind == "user":
        (chosen,) = source
        user = chosen.text("user")
        return {"user": user, "password": _password(alone, chosen, user, behind)}
    if alone is not None:
        raise InvalidOptionError(f"{alone.name('password')} needs a user")
    if kind is None:
        return {}
    (chosen,) = source
    if "password" in chosen.values:
        raise InvalidOptionError(f"{chosen.name('password')} needs a user, and contradicts {chosen.name(kind)}")
    if kind == "token":
        return {"token": chosen.text("token")}
    if kind == "user_jwt":
        return {"credentials": _pair(chosen)}
    return {kind: chosen.secret_file(kind)}


def _password(alone: _Source | None, chosen: _Source, user: str, behind: Sequence[_Source]) -> str | None:
    """Return the password of a user: of a source that has no more than that, of its own, or one that fits it."""
    if alone is not None:
        return alone.text("password")
    if "password" in chosen.values:
        return chosen.text("password")
    for other in behind:
        is_his = "user" not in other.values or other.text("user") == user
        if "password" in other.values and is_his:
            return other.text("password")
    return None


def _pair(source: _Source) -> InMemory:
    """Return a JWT and its seed, as a file of credentials has them."""
    name = source.name("user_jwt")
    if "user_seed" not in source.values:
        raise InvalidOptionError(f"{name} needs its seed, user_seed")
    check_nkeys(name)
    jwt, seed = source.text("user_jwt").strip(), source.text("user_seed").strip()
    return InMemory.of_pair(name, jwt, seed)


def _tls(sources: Sequence[_Source], context: Context | None) -> ssl.SSLContext | TLSFiles | None:
    tls = sources[0].values.get("tls")
    found = {setting: one for setting in _TLS if (one := _first(sources, setting)) is not None}
    if tls is not None:
        if not is_of(tls, ssl.SSLContext):
            raise InvalidOptionError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
        if also := [setting for setting, source in found.items() if source is sources[0]]:
            raise InvalidOptionError(f"tls and {', '.join(also)} contradict each other: the context has its files")
        return tls
    store = None if context is None or "tls_cert" in found else context.values.get("windows_cert_store")
    if context is not None and store:
        raise InvalidOptionError(_unusable(context, "windows_cert_store", "name files as cert and key"))
    if not found:
        return None
    either = found.get("tls_cert") or found.get("tls_key") or sources[0]  # its half that is missing is named alike
    return TLSFiles(
        {setting: source.path(setting) for setting, source in found.items()},
        {setting: found.get(setting, either).name(setting) for setting in _TLS},
    )


def _no_store(context: Context | None) -> str:
    key = next((key for key in _STORE_KEYS if context is not None and key in context.values), None)
    if context is None or key is None:
        return ""
    return _unusable(context, key, "a store uses the account's own JetStream, and takes answers under _INBOX")


def _unusable(context: Context, key: str, instead: str) -> str:
    return f"{key} of {context.name} cannot be used: {instead}"


def _expanded(path: str) -> str:
    return os.path.expanduser(os.path.expandvars(path))
