"""The contexts of the nats command line: named sets of settings, a JSON file each.

The places and the keys are those of ADR-21 (https://github.com/nats-io/nats-architecture-and-design) and of the package
``natscontext`` of https://github.com/nats-io/jsm.go, which the command line reads them with. What is read here is what
the file says; what becomes of it is decided by ``settings``.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .._arguments import is_of
from .._values.shown import short
from ..errors import InvalidOptionError
from .files import read_file

__all__ = ["Context", "as_text", "read_context", "selected_context"]

_LONGEST_NAME = 1_000  # characters, of a path
_TEXTS = frozenset({
    "name", "description", "url", "socks_proxy", "token", "user", "password", "creds", "nkey", "cert", "key", "ca",
    "nsc", "jetstream_domain", "jetstream_api_prefix", "jetstream_event_prefix", "inbox_prefix", "user_jwt",
    "user_seed", "color_scheme", "windows_cert_store", "windows_cert_match_by", "windows_cert_match",
})  # fmt: skip
_FLAGS = frozenset({"tls_first"})
_LISTS = frozenset({"windows_ca_certs_match"})
_KNOWN = _TEXTS | _FLAGS | _LISTS


@dataclass(frozen=True, slots=True)
class Context:
    """What a context says.

    Attributes:
        name: What errors call it.
        values: Its texts, by key, without those that are empty.
        tls_first: Whether the server speaks TLS from the first byte.
    """

    name: str
    values: Mapping[str, str] = field(repr=False)  # with secrets
    tls_first: bool = False


def selected_context() -> str:
    """Return the name of the context that ``nats context select`` has chosen.

    Raises:
        InvalidOptionError: None is selected, or the file that says which one cannot be read.
    """
    path = _folder() / "context.txt"
    try:
        name = _read(path, "the selected context").strip()
    except FileNotFoundError:
        name = ""
    if not name:
        raise InvalidOptionError(
            f"no context is selected: {str(path)!r} names none. Give its name, or select one: 'nats context select'"
        )
    return name


def read_context(name: object) -> Context:
    """Read a context.

    Args:
        name: Its name, or the path of a file that ends with ``.json``.

    Raises:
        InvalidOptionError: There is none, it cannot be read, or has a key or a value that is not known.
    """
    text = str.__str__(name) if is_of(name, str) else ""
    if not 0 < len(text) <= _LONGEST_NAME or not text.isprintable():
        raise InvalidOptionError(f"a context has a name such as 'prod', or is the path of a file, not {short(name)}")
    if text.endswith(".json") and os.path.isfile(text):
        return _parse(text, Path(text))
    if ".." in text or "/" in text or "\\" in text:
        raise InvalidOptionError(
            f"no context: {short(text)}; a name has no '/', '\\' or '..', and a path ends with .json"
        )
    return _parse(text, _folder() / "context" / f"{text}.json")


def as_text(raw: bytes) -> str | None:
    """Return a text in UTF-8; None if it is not one. The error of the decoder has all of it, so it does not go on."""
    try:
        return raw.decode()
    except ValueError:
        return None


def _folder() -> Path:
    """Return where the nats command line keeps its files."""
    try:
        return Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "nats"
    except RuntimeError:
        raise InvalidOptionError("there is no home directory to look for contexts in: set XDG_CONFIG_HOME") from None


def _read(path: Path, what: str) -> str:
    try:
        raw = read_file(path)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # ValueError: no file has such a name
        reason = getattr(error, "strerror", None) or "no file has such a name"
        raise InvalidOptionError(f"{what} cannot be read from {str(path)!r}: {reason}") from None
    text = as_text(raw)
    if text is None:
        raise InvalidOptionError(f"{what} cannot be read from {str(path)!r}: it is no UTF-8")
    return text


def _loaded(text: str) -> Any:
    """Return what a JSON text says; None if it is not one. Errors of the decoder have all of it, so none goes on."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _parse(name: str, path: Path) -> Context:
    called = f"the context {short(name)}"
    try:
        text = _read(path, called)
    except FileNotFoundError:
        raise InvalidOptionError(f"there is no context {short(name)}: no file {str(path)!r}") from None
    read = _loaded(text)
    if type(read) is not dict:
        raise InvalidOptionError(f"{called} is no JSON object: {str(path)!r}")
    # Go's decoder does not mind the case of keys, and the nats command line writes every key, also those it has no
    # value for. So one that a later version brings does no harm as long as it says nothing.
    values = {key.lower(): value for key, value in read.items() if value}
    unknown = sorted(set(values) - _KNOWN)
    if unknown:
        keys = ", ".join(map(short, unknown[:5]))
        raise InvalidOptionError(f"{called} has keys that are not known: {keys}, in {str(path)!r}")
    for key, value in values.items():
        _check(called, key, value, path)
    texts = {key: value for key, value in values.items() if key in _TEXTS}
    return Context(called, texts, tls_first=bool(values.get("tls_first")))


def _check(called: str, key: str, value: Any, path: Path) -> None:
    if key in _FLAGS:
        is_well, words = type(value) is bool, "true or false"
    elif key in _LISTS:
        is_well, words = type(value) is list, "a list"
    else:
        is_well, words = type(value) is str, "a text"
    if not is_well:
        raise InvalidOptionError(f"{key} of {called} must be {words}, in {str(path)!r}")
