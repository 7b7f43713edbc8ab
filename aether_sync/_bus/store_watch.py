"""What a bus tells a store: that other nodes have stored something."""

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol, runtime_checkable

from ..errors import InvalidOptionError, StoreClosedError
from ..events import EVENT_STORED, MAX_VERSION, Event
from ..patterns import check_namespace

__all__ = ["StoreWatch", "VersionKeeper"]


@runtime_checkable
class VersionKeeper(Protocol):
    """What a bus knows of a store: it keeps the versions that are announced. Called on the background thread."""

    def update_version_cache(self, actor_id: str, version: int, sequence: int | None = None) -> None:
        """Note that an actor has a version, whose event has a sequence if the announcing store said so."""

    def refuse_prefix(self, prefix: str) -> None:
        """Raise ``InvalidOptionError`` if what a bus with this prefix publishes would be stored."""


class StoreWatch:
    """Moves the version cache of a store on every ``EventStored`` of a namespace.

    Args:
        store: Whose cache.
        namespace: Where other nodes publish them.
        prefix: The bus's.

    Raises:
        InvalidOptionError: One is missing, the store is none, or it would store what the bus publishes.
        InvalidNamespaceError: The namespace is none.
    """

    def __init__(self, store: VersionKeeper | None, namespace: str | None, prefix: str) -> None:
        if store is None:
            raise InvalidOptionError("a bus's namespace is where a store's nodes publish EventStored: give the store")
        if not issubclass(type(store), VersionKeeper):
            raise InvalidOptionError(f"store must be an event store, not {type(store).__name__}")
        if namespace is None:
            raise InvalidOptionError(
                "a bus with a store wants namespace='tenant-abc': under which the store's nodes publish EventStored"
            )
        store.refuse_prefix(prefix)
        self._store = store
        self.namespace = check_namespace(namespace)

    def seen(self, namespace: str, events: Iterable[Event]) -> None:
        """Heed events that have arrived. Loop thread only."""
        if namespace == self.namespace:
            for event in events:
                if event.event_type == EVENT_STORED:
                    self._heed(event)

    def _heed(self, event: Event) -> None:
        """Pass on what an ``EventStored`` says, whatever kind of number a node writes (Go: float64)."""
        data = event.data or {}
        actor_id = data.get("actorId") or event.actor_id
        version = _whole(data.get("version")) or event.version
        if isinstance(actor_id, str) and version:
            with suppress(StoreClosedError, InvalidOptionError):  # of an actor that no store can have
                self._store.update_version_cache(actor_id, version, _whole(data.get("sequence")) or None)


def _whole(number: object) -> int:
    """A JSON number as a positive int64; 0 if it is none."""
    if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number <= MAX_VERSION or number % 1:
        return 0
    return int(number)
