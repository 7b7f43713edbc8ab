"""The setting ``AETHER``: what it may hold, and what is wrong with it, in words."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.db import connections
from django.utils.module_loading import import_string

from ..._arguments import is_of
from ..._values.shown import explained, short
from ...connection import OPTIONS
from ...event_types import EventTypes

__all__ = ["DEFAULT", "Problem", "Settings", "alias_of_outbox", "aliases", "problems_of", "settings_of"]

DEFAULT = "default"  #: the alias of what is used unless another one is said

#: What people call the servers by habit.
_SERVERS = ("host", "port", "server", "servers", "nats_url", "nats_server", "nats_servers", "location")

#: What each alias may have, and the class of its value.
_KEYS: Mapping[str, type] = {
    "URL": object,  # text or several: Connection checks it
    "STREAM": str,
    "NAMESPACE": str,
    "PREFIX": str,
    "TYPES": object,
    "OPTIONS": dict,
    "RELAY": list,
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with the setting.

    Attributes:
        number: Of the check, such as ``"E002"``.
        text: What is wrong.
        hint: What to do; "" if the text says it.
    """

    number: str
    text: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class Settings:
    """What an alias of ``AETHER`` says.

    Attributes:
        url: The server, or several; None for what the environment says.
        stream: Of the store.
        namespace: Where the store publishes ``EventStored``; None for nowhere.
        prefix: Of the bus.
        types: The classes of the events; None for none.
        options: Further arguments of the connection.
        relay: The databases whose outboxes the workers send.
    """

    url: Any = None
    stream: str = "events"
    namespace: str | None = None
    prefix: str = "aether"
    types: EventTypes | None = None
    options: dict[str, Any] = field(default_factory=dict)
    relay: list[str] = field(default_factory=list)


def aliases() -> list[str]:
    """Return the aliases that there are."""
    found = _setting()
    return [one for one in found if is_of(one, str)] if is_of(found, dict) else [DEFAULT]


def settings_of(alias: str) -> Settings:
    """Return what an alias says.

    Raises:
        ImproperlyConfigured: It is not there, or something is wrong with it; ``manage.py check`` says the same.
    """
    found = _setting()
    for problem in _problems_of_all(found):
        raise ImproperlyConfigured(f"{problem.text} {problem.hint}".strip())
    if alias not in found:
        near = difflib.get_close_matches(str(alias), found, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(map(repr, found))}."
        raise ImproperlyConfigured(f"The setting AETHER has no alias {short(alias)}: {hint}")
    for problem in problems_of(alias):
        raise ImproperlyConfigured(f"{problem.text} {problem.hint}".strip())
    given = {key.lower(): value for key, value in found[alias].items()}
    return Settings(**{**given, "types": _types(given.get("types"))})


def problems_of(alias: str | None = None) -> Iterator[Problem]:
    """Give what is wrong with the setting as a whole, or with an alias of it."""
    found = _setting()
    if alias is None:
        yield from _problems_of_all(found)
    elif is_of(found, dict):
        yield from _problems_of_one(f"AETHER[{alias!r}]", found[alias])


def _setting() -> Any:
    return getattr(settings, "AETHER", {DEFAULT: {}})


def _problems_of_all(found: Any) -> Iterator[Problem]:
    if not is_of(found, dict):
        yield Problem("E001", f"The setting AETHER is {short(found)}, and no dict.", "Write AETHER = {'default': {}}.")
        return
    if DEFAULT not in found:
        yield Problem("E001", "The setting AETHER has no alias 'default'.", _wrap_hint(found))
    for alias in found:
        if not (is_of(alias, str) and alias.isidentifier()):
            yield Problem("E001", f"The setting AETHER has the alias {alias!r}.", "Name it as a variable.")
    yield from _problems_of_outboxes(found)


def _problems_of_outboxes(found: dict[Any, Any]) -> Iterator[Problem]:
    """Give the databases whose outboxes would go to several aliases: a row does not say which one it is for."""
    to: dict[Any, list[Any]] = {}
    for alias, one in found.items():
        relay = one.get("RELAY") if is_of(one, dict) else None
        for using in dict.fromkeys(map(str, relay)) if is_of(relay, list) else ():
            to.setdefault(using, []).append(alias)
    for using, several in to.items():
        if len(several) > 1:
            named = " and ".join(f"AETHER[{alias!r}]['RELAY']" for alias in several)
            text = f"{named} have both {using!r}: each event of its outbox would go to whichever of them comes first."
            yield Problem("E003", text, "Leave it in one: the outbox of a database goes to one alias.")


def alias_of_outbox(using: str) -> str:
    """Return the alias to which the outbox of a database goes: the one that has it in ``RELAY``, or the default one."""
    return next((alias for alias in aliases() if using in settings_of(alias).relay), DEFAULT)


def _wrap_hint(found: dict[Any, Any]) -> str:
    if set(found) & set(_KEYS):
        return "Put what is there one level deeper: AETHER = {'default': {'URL': ...}}."
    return "Add one: it is what `bus` and `store` use."


def _problems_of_one(name: str, found: Any) -> Iterator[Problem]:
    if not is_of(found, dict):
        yield Problem("E001", f"{name} is {short(found)}, and no dict.")
        return
    of_options = {one: f"Put it into 'OPTIONS', as {one!r}." for one in OPTIONS}
    of_servers = dict.fromkeys(_SERVERS, "Say where the server is by 'URL', such as 'nats://host:4222'.")
    yield from _unknown(name, found, list(_KEYS), of_options | of_servers)
    for key, kind in _KEYS.items():
        value = found.get(key)
        if value is not None and not isinstance(value, kind):
            hint = f"Write {_as_list(value)!r}." if kind is list else ""
            yield Problem("E003", f"{name}[{key!r}] is {short(value)}, and no {kind.__name__}.", hint)
    for using in found.get("RELAY") or () if is_of(found.get("RELAY"), list) else ():
        if using not in connections.settings:
            there = ", ".join(map(repr, connections.settings))
            yield Problem("E003", f"{name}['RELAY'] has {using!r}, which is no alias of DATABASES: there are {there}.")
    options = found.get("OPTIONS")
    if is_of(options, dict):
        of_alias = {one.lower(): f"Put it beside 'OPTIONS', as {one!r}." for one in _KEYS}
        yield from _unknown(f"{name}['OPTIONS']", options, sorted(OPTIONS), of_alias)
    try:
        _types(found.get("TYPES"))
    except Exception as error:  # of any code of the user's
        yield Problem("E003", f"{name}['TYPES'] cannot be used: {explained(error)}")


def _unknown(name: str, found: dict[Any, Any], known: list[str], elsewhere: Mapping[str, str]) -> Iterator[Problem]:
    """Give the keys that are not known.

    Args:
        name: What has them.
        found: Where they are.
        known: Those that may be there.
        elsewhere: What to do with keys that have another place, by their lower-case names.
    """
    words = {one.lower(): one for one in known}
    for key in found:
        if key not in known:
            word = str(key).lower()
            near = difflib.get_close_matches(word, words, n=1)
            if word not in words and word in elsewhere:
                hint = elsewhere[word]
            else:
                hint = f"Did you mean {words[near[0]]!r}?" if near else f"It may have {', '.join(map(repr, known))}."
            yield Problem("E002", f"{name} has the unknown key {key!r}.", hint)


def _as_list(given: object) -> list[Any]:
    """Return what somebody may have meant who gave no list."""
    return list(given) if is_of(given, tuple) or is_of(given, set) else [given]


def _types(given: Any) -> EventTypes | None:
    """Return the types that are given, as they are or by a dotted path."""
    found = import_string(given) if is_of(given, str) else given
    if found is not None and not is_of(found, EventTypes):
        raise ImproperlyConfigured(f"it is {short(found)}, and no EventTypes, nor the dotted path of one")
    return found
