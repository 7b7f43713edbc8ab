"""The bus and the store of each alias: made at the first use, one for each process, and closed at its end.

A bus, a store and their connection may be used before a fork and after it, so there is nothing to do at one. There is
no lock here, which a fork could find taken: two threads that come first may both make them, and one is thrown away,
which nobody has used.
"""

import atexit
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

from django.core.exceptions import ImproperlyConfigured
from django.utils.connection import ConnectionProxy

from ..._bus.store_watch import check_apart
from ..._nats.checks import check_servers
from ..._runtime.deadline import Deadline
from ...bus import EventBus
from ...connection import Connection
from ...errors import AetherError
from ...nats_bus import NATSEventBus
from ...patterns import check_namespace
from ...stores.event_store import EventStore
from ...stores.jetstream import JetStreamEventStore
from ._settings import DEFAULT, Settings, settings_of

__all__ = ["Ends", "bus", "close_all", "get_bus", "get_store", "make", "replaced", "store"]

_AT_EXIT = 5.0  # seconds to send what is published, for all aliases


class Ends(NamedTuple):
    """What an alias has."""

    connection: Connection | None
    bus: EventBus
    store: EventStore

    def close(self, deadline: Deadline) -> None:
        """Close all, within a deadline."""
        for one in self.store, self.bus, self.connection:  # the store publishes on the bus
            if one is not None:
                one.close(deadline.timeout_left())


_made: dict[str, Ends] = {}


def get_bus(alias: str = DEFAULT) -> EventBus:
    """Return the bus of an alias of the setting ``AETHER``: a ``NATSEventBus``, and in a test one in memory.

    It is made by the first call in a process, and connects in the background at its first use: ``publish()`` does not
    wait for a server that is away.

    Raises:
        ImproperlyConfigured: There is no such alias, or the setting is wrong.
    """
    return _ends_of(alias).bus


def get_store(alias: str = DEFAULT) -> EventStore:
    """Return the store of an alias of the setting ``AETHER``: a ``JetStreamEventStore``, and in a test one in memory.

    Raises:
        ImproperlyConfigured: There is no such alias, or the setting is wrong.
    """
    return _ends_of(alias).store


def _ends_of(alias: str) -> Ends:
    found = _made.get(alias)
    return _made.setdefault(alias, make(settings_of(alias), alias)) if found is None else found


def make(settings: Settings, alias: str) -> Ends:
    """Make what an alias has; nothing is asked of a server.

    Raises:
        ImproperlyConfigured: A value cannot be used.
    """
    whole = f"AETHER[{alias!r}]"
    with _blaming(f"{whole}['STREAM'] (by default 'events') and {whole}['PREFIX'] (by default 'aether')"):
        check_apart(settings.stream, settings.prefix)
    if settings.url is not None:
        with _blaming(f"{whole}['URL']"):
            check_servers(settings.url)
    with _blaming(whole):  # its options, or what the environment says: an error names it
        connection = Connection(settings.url, **{"connect": "background", **settings.options})
    with _blaming(f"{whole}['PREFIX']"):
        own = NATSEventBus(connection, prefix=settings.prefix, types=settings.types)
    if settings.namespace is not None:
        with _blaming(f"{whole}['NAMESPACE']"):
            check_namespace(settings.namespace)
    with _blaming(f"{whole}['STREAM']"):
        announced = None if settings.namespace is None else own
        kept = JetStreamEventStore(
            connection, settings.stream, namespace=settings.namespace, bus=announced, types=settings.types
        )
    return Ends(connection, own, kept)


@contextmanager
def _blaming(key: str) -> Iterator[None]:
    """Say which key of the setting an error is about."""
    try:
        yield
    except AetherError as error:
        raise ImproperlyConfigured(f"{key} cannot be used: {error}") from error


def close_all(timeout: float | None = _AT_EXIT) -> None:
    """Close the buses and stores of all aliases; the next use makes new ones.

    Args:
        timeout: Seconds for all of them; None waits for ever.
    """
    deadline = Deadline(timeout)
    while _made:
        _made.popitem()[1].close(deadline)


def replaced(ends: dict[str, Ends]) -> dict[str, Ends]:
    """Use others from now on, and return those that were used; a test calls this, and again at its end."""
    before = dict(_made)
    _made.clear()
    _made.update(ends)
    return before


class _Buses:
    def __getitem__(self, alias: str) -> EventBus:
        return get_bus(alias)


class _Stores:
    def __getitem__(self, alias: str) -> EventStore:
        return get_store(alias)


def _proxy(ends: Any) -> Any:
    return ConnectionProxy(ends, DEFAULT)


bus = cast(EventBus, _proxy(_Buses()))
"""The bus of the alias ``default``, as ``connection`` is that of a database. ``get_bus()`` returns itself."""

store = cast(EventStore, _proxy(_Stores()))
"""The store of the alias ``default``, likewise."""

atexit.register(close_all)
