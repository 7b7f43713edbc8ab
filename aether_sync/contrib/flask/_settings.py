"""The settings of an application, as its ``app.config`` has them.

Each option of a connection, a bus or a store that a web application needs is a setting: ``AETHER_`` and its name. What
kind of value it takes is said here; its range is checked by the constructor that gets it, whose error is then given the
name of the setting. A value that comes from the environment may be text where it means a number, or the reverse: the
first is converted, and the second is refused, as ``from_prefixed_env()`` has changed such a text already.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, cast

from ..._arguments import check_known, is_of
from ..._bus.store_watch import check_apart
from ..._nats.checks import check_servers
from ..._nats.settings import InContext, Renamed
from ...connection import Connection, ConnectionOptions
from ...errors import InvalidNamespaceError, InvalidOptionError
from ...patterns import check_prefix
from ...stores._jetstream.names import Names

__all__ = ["Settings", "named"]

_PREFIX: Final = "AETHER_"
_IN_MEMORY: Final = ("memory:", "memory://")
_MEANS_MEMORY: Final = ("memory", ":memory:")  # slips for these


def _as_text(key: str, value: object) -> str:
    if is_of(value, str):
        return str.__str__(value)
    advice = "" if is_of(value, bytes) else f""". In the environment, write quotes around it: FLASK_{key}='"..."'"""
    raise InvalidOptionError(f"{key} must be a str, not {_kind(value)}{advice}")


def _as_it_is(key: str, value: object) -> object:
    return value


def _as_url(key: str, value: object) -> object:
    url: Any = value if type(value) in (list, tuple) else _as_text(key, value)
    if url not in _IN_MEMORY and str(url).strip().lower() in (*_IN_MEMORY, *_MEANS_MEMORY):
        raise InvalidOptionError(f"{key} is {url!r}: for a bus and a store in memory it must be {_IN_MEMORY[0]!r}")
    if url not in _IN_MEMORY:
        try:
            check_servers(url)
        except InvalidOptionError as error:
            raise InvalidOptionError(f"{key}: {error}") from None
    return url


def _as_number(key: str, value: object) -> object:
    if not is_of(value, str):
        return value
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise InvalidOptionError(f"{key} must be a number of seconds, not {value!r}")
    return number


def _as_whole(key: str, value: object) -> object:
    if not is_of(value, str):
        return value
    try:
        return int(value)
    except ValueError:
        raise InvalidOptionError(f"{key} must be a whole number, not {value!r}") from None


def _as_flag(key: str, value: object) -> object:
    if not is_of(value, str):
        return value
    flag = {"true": True, "false": False}.get(value.strip().lower())
    if flag is None:
        raise InvalidOptionError(f"{key} must be true or false, not {value!r}")
    return flag


def _kind(value: object) -> str:
    """Return what a value is, without the value, which may be a secret."""
    return type(value).__name__


_Convert = Callable[[str, object], object]

#: What a connection is made of, by the name of the option.
_OF_A_CONNECTION: Final[Mapping[str, _Convert]] = {
    "url": _as_url,
    "context": _as_text,
    "name": _as_text,
    "connect_timeout": _as_number,
    "ping_interval": _as_number,
    "outbox_events": _as_whole,
    "outbox_bytes": _as_whole,
    "user": _as_text,
    "password": _as_text,
    "token": _as_text,
    "credentials": _as_it_is,
    "nkeys_seed": _as_it_is,
    "tls": _as_it_is,
    "tls_ca": _as_it_is,
    "tls_cert": _as_it_is,
    "tls_key": _as_it_is,
    "tls_hostname": _as_text,
    "tls_handshake_first": _as_flag,
    "trust_env": _as_flag,
}
_OF_A_BUS: Final[Mapping[str, _Convert]] = {
    "prefix": _as_text,
    "publish_timeout": _as_number,
    "on_disconnect": _as_text,
}
_OF_A_STORE: Final[Mapping[str, _Convert]] = {
    "stream": _as_text,
    "namespace": _as_text,
    "replicas": _as_whole,
    "cache_bytes": _as_whole,
    "snapshots_kept": _as_whole,
    "cached_actors": _as_whole,
}
_ALL: Final = {**_OF_A_CONNECTION, **_OF_A_BUS, **_OF_A_STORE}
_KEYS: Final = {option: _PREFIX + option.upper() for option in _ALL}  # of settings, by option
_FIRST_WORD = re.compile(r"\w+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one application. The repr shows no secret.

    Attributes:
        is_in_memory: Whether bus and store are in memory, and there is no server.
        prefix: The first token of every subject.
        stream: The name of the store's stream; None if there is no store.
        namespace: The namespace of the store; None for none.
        of_a_connection: The options of a connection that are given.
        of_a_bus: The options of a bus that are given.
        of_a_store: The options of a store that are given, besides ``stream`` and ``namespace``.
    """

    is_in_memory: bool
    prefix: str
    stream: str | None
    namespace: str | None
    of_a_connection: Mapping[str, Any] = field(repr=False)
    of_a_bus: Mapping[str, Any]
    of_a_store: Mapping[str, Any]

    @classmethod
    def read(cls, config: Mapping[str, Any]) -> "Settings":
        """Read the settings of an application. Those that are None are as if they were not there, except the stream.

        Raises:
            InvalidOptionError: One is not known, or of the wrong kind.
        """
        ours = [key for key in config if _is_ours(key)]
        check_known("aether_sync knows no setting", ours, list(_KEYS.values()), common=_PREFIX)
        given = {
            option: convert(_KEYS[option], value)
            for option, convert in _ALL.items()
            if (value := config.get(_KEYS[option])) is not None
        }
        url = given.get("url")
        settings = cls(
            is_in_memory=url in _IN_MEMORY,
            prefix=cast(str, given.get("prefix", "aether")),
            stream=cast(str, given.get("stream", "events" if _KEYS["stream"] not in config else None)),
            namespace=cast("str | None", given.get("namespace")),
            of_a_connection=_only(given, _OF_A_CONNECTION),
            of_a_bus=_only(given, _OF_A_BUS),
            of_a_store={
                option: value
                for option, value in _only(given, _OF_A_STORE).items()
                if option not in ("stream", "namespace")
            },
        )
        with named():
            check_prefix(settings.prefix)
            names = Names("events" if settings.stream is None else settings.stream, settings.namespace)
            if settings.stream is not None:  # in memory, too, so that a test finds what production refuses
                for prefix in (settings.prefix, "aether"):
                    check_apart(names.stream, prefix)
        return settings

    @property
    def subjects(self) -> str | None:
        """The first token of the subjects of the store; None if there is no store."""
        return None if self.stream is None else Names(self.stream, self.namespace).stream

    def shares_a_server_with(self, other: "Settings") -> bool:
        """Whether both name the same server, by the same words."""
        names = ("url", "context")
        ours, theirs = ([one.of_a_connection.get(name) for name in names] for one in (self, other))
        return not (self.is_in_memory or other.is_in_memory) and ours == theirs

    def place(self, names: Mapping[str, str] = _KEYS) -> str:
        """Return what a connection or a bus is given in the place of a URL.

        Args:
            names: What errors call its arguments.
        """
        options = self.of_a_connection
        url, context = options.get("url"), options.get("context")
        return cast(str, Renamed(url if context is None else InContext(url, context), names))

    @property
    def options(self) -> ConnectionOptions:
        """The options of a connection besides the URL and the context."""
        return cast(
            ConnectionOptions,
            {option: value for option, value in self.of_a_connection.items() if option not in ("url", "context")},
        )

    def connection(self, timeout: float, name: str | None) -> Connection:
        """Make a connection of its own for a command, which waits for it.

        Args:
            timeout: Seconds for the first attempt.
            name: The name that the server's monitoring shows.

        Raises:
            InvalidOptionError: The bus and the store are in memory; or a setting cannot be used any more.
        """
        if self.is_in_memory:
            raise InvalidOptionError(
                f"{_KEYS['url']} of this app says that its bus and store are in the memory of each process, where no "
                "command sees them: name a server with --url"
            )
        options: ConnectionOptions = {**self.options, "connect_timeout": timeout}
        if name is not None:
            options["name"] = name
        with named():
            return Connection(self.place(), **options)


@contextmanager
def named() -> Iterator[None]:
    """Have errors about an option tell the setting, by which the user knows it."""
    try:
        yield
    except (InvalidOptionError, InvalidNamespaceError) as error:
        text = str(error)
        if text.startswith(_PREFIX):
            raise
        first = _FIRST_WORD.match(text)
        if first is not None and first[0] in _KEYS:
            text = _KEYS[first[0]] + text[first.end() :]
        else:
            text = f"the settings {_PREFIX}... of this app cannot be used: {text}"
        raise InvalidOptionError(text) from error


def _is_ours(key: object) -> bool:
    return is_of(key, str) and key.startswith(_PREFIX)


def _only(given: Mapping[str, object], options: Mapping[str, object]) -> dict[str, object]:
    return {option: value for option, value in given.items() if option in options}
