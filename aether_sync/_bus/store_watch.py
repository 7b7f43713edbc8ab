"""Tells a store what other nodes have stored, as a bus hears it."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol, runtime_checkable

from ..errors import InvalidOptionError, StoreClosedError
from ..events import EVENT_STORED, MAX_VERSION, Event
from ..patterns import check_namespace

__all__ = ["StoreWatch", "VersionListener", "check_apart"]


@runtime_checkable
class VersionListener(Protocol):
    """A store as a bus sees it: it is told the versions that other nodes announce. The loop thread calls it."""

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note the version that an actor has, and the sequence of that event, if the announcement has it."""


def check_apart(stream: str, prefix: str) -> None:
    """Raise ``InvalidOptionError`` if a store's stream would store what a bus with this prefix publishes."""
    if prefix == stream:
        raise InvalidOptionError(
            f"a store of stream {prefix!r} would keep what a bus with prefix {prefix!r} publishes: give one of them"
            " another name"
        )


class StoreWatch:
    """Updates the version cache of a store at every ``EventStored`` that arrives under a namespace.

    Args:
        store: The store with the cache.
        namespace: The namespace under which other nodes publish ``EventStored``.
        prefix: The subject prefix of the bus.

    Raises:
        InvalidOptionError: The store or the namespace is missing, the store is not an event store, or it would store
            what the bus publishes.
        InvalidNamespaceError: The namespace is not valid.
    """

    def __init__(self, store: VersionListener | None, namespace: str | None, prefix: str) -> None:
        if store is None:
            raise InvalidOptionError("a bus's namespace is where a store's nodes publish EventStored: give the store")
        if not issubclass(type(store), VersionListener):
            raise InvalidOptionError(f"store must be an event store, not {type(store).__name__}")
        if namespace is None:
            raise InvalidOptionError(
                "a bus with a store wants namespace='tenant-abc': under which the store's nodes publish EventStored"
            )
        check_apart(getattr(store, "stream", ""), prefix)  # only a JetStream store has one
        self._store = store
        self.namespace = check_namespace(namespace)

    def seen(self, namespace: str, events: Iterable[Event]) -> None:
        """Look at events that have arrived. Loop thread only."""
        if namespace == self.namespace:
            for event in events:
                if event.event_type == EVENT_STORED:
                    self._update(event)

    def _update(self, event: Event) -> None:
        """Update the cache by an ``EventStored``, whose numbers may be floats (nodes in Go write float64)."""
        data = event.data or {}
        actor_id = data.get("actorId") or event.actor_id
        version = _whole(data.get("version")) or event.version
        if isinstance(actor_id, str) and version:
            with suppress(StoreClosedError, InvalidOptionError):  # of an actor that no store can have
                self._store.update_version_cache(actor_id, version, _whole(data.get("sequence")) or None)


def _whole(number: object) -> int:
    """Return a JSON number as a positive int64, or 0 if it is not one."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= MAX_VERSION or number % 1:
        return 0
    return int(number)
