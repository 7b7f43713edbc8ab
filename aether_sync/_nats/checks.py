"""What a user gives a connection to connect to, checked."""

import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .._arguments import check_path, is_of
from ..errors import InvalidOptionError
from .files import read_file
from .reasons import shown

__all__ = ["check_nkeys", "check_readable", "check_secret_file", "check_servers"]

_LONGEST_PATH = 300  # characters that are shown
_LONGEST_URL = 200


def check_servers(url: str | Sequence[str]) -> tuple[str, ...]:
    """Return the URLs of servers, each with its scheme.

    Args:
        url: One URL, several separated by commas, or a sequence of them. Behind a comma, one with credentials has a
            scheme: else it could be the rest of a password.

    Raises:
        InvalidOptionError: One is no URL of a NATS server, or has a password that is not escaped.
    """
    urls = _split(str.__str__(url)) if is_of(url, str) else url if type(url) in (list, tuple) else _items(url)
    if not urls or not all(is_of(one, str) for one in urls):
        raise InvalidOptionError("a connection wants a URL such as 'nats://host:4222', or a sequence of them")
    return tuple(_check_url(str.__str__(one)) for one in urls)


def _split(urls: str) -> Sequence[str]:
    first, *others = urls.split(",")
    for other in others:
        if "@" in other and "://" not in other:  # a further server, or the rest of a password
            raise InvalidOptionError(
                f"no server URL, as far as it may be shown: {_shown(other)} behind a comma. In a user or password, "
                "escape a comma as %2C, or give them as user= and password=. Of several URLs, each with a user has a "
                "scheme, nats:// or tls://"
            )
    return [first, *others]


def _items(urls: Any) -> Sequence[str]:
    try:
        return tuple(urls) if issubclass(type(urls), Sequence) else ()
    except Exception:  # raised by a sequence of the user's
        return ()


def _check_url(url: str) -> str:
    url = url.strip()
    scheme, mark, rest = url.partition("://")
    url = f"{scheme.lower()}://{rest}" if mark else f"nats://{url}"
    if scheme.lower() in ("ws", "wss") and mark:
        raise InvalidOptionError(
            f"no server URL: {_shown(url)}; this library does not speak WebSocket. Expected nats://host:port or "
            "tls://host:port, with the port that the server has for other clients"
        )
    if _has_unescaped(url):
        raise InvalidOptionError(
            "the user or the password in a server URL has a / ? or # in it: write these as %2F %3F %23, @ as %40, and "
            f"a comma as %2C, or give user and password apart from the URL. Without them it is {_shown(url)}"
        )
    if not _is_server(url):
        raise InvalidOptionError(
            f"no server URL, as far as it may be shown: {_shown(url)}; expected nats://host:port or tls://host:port. "
            "In a user or password, escape / ? # @ , as %2F %3F %23 %40 %2C, or give them apart from the URL"
        )
    return url


def _shown(url: str) -> str:
    return f"{shown(url)!r:.{_LONGEST_URL}}"


def _has_unescaped(url: str) -> bool:
    """Whether an ``@`` is behind the host: then what a parser takes for the host is a part of user and password."""
    scheme, _, rest = url.partition("://")
    ends = [at for mark in "/?#" if (at := rest.find(mark)) >= 0]
    return scheme in ("nats", "tls") and bool(ends) and "@" in rest[min(ends) :]


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0 and "\0" not in url
        (parts.hostname or "").encode("idna")  # as getaddrinfo() does: no label is empty or has more than 63 bytes
    except ValueError:
        return False
    return bool(is_complete)


def check_secret_file(name: str, path: str | Path) -> str:
    """Return the path of a file with credentials.

    Args:
        name: What the user calls it.
        path: The path.

    Raises:
        InvalidOptionError: There is no such file, it cannot be read, or the package that reads it is missing.
    """
    text = check_path(name, path)
    check_nkeys(name)
    check_readable(name, text)
    return text


def check_nkeys(name: str) -> None:
    """Check that there is the package that signs with nkeys."""
    if find_spec("nkeys") is None:
        raise InvalidOptionError(f"{name} needs the package nkeys: install the extra 'nkeys' of aether-sync")


def check_readable(name: str, path: str) -> None:
    """Check that a file is there and can be read.

    Args:
        name: What the user calls it.
        path: Its path, which is not shown if it may be what the file should have in it.

    Raises:
        InvalidOptionError: It is not, or cannot.
    """
    is_path = path.isprintable() and len(path) < _LONGEST_PATH and (os.sep in path or len(path) < 40)
    where = f" at {path!r}" if is_path else ""
    if not os.path.isfile(path):
        raise InvalidOptionError(f"{name} is the path of a file, and there is none{where}")
    try:
        read_file(path, 0)
    except OSError as error:
        raise InvalidOptionError(f"{name}: the file{where} cannot be read: {error.strerror}") from None
