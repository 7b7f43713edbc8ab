"""``Source``: what a projection needs of a store."""

from collections.abc import Iterable
from typing import Protocol

from ...health import Health
from ..base import Follower, StoredEvent

__all__ = ["Source"]


class Source(Protocol):
    """Where the events of a projection come from: what it uses of an :class:`EventStore`, which says more of it."""

    @property
    def closed(self) -> bool:
        """Whether it gives no more events, as it was closed."""

    def read_all(
        self,
        after: int = 0,
        *,
        limit: int = 100,
        until: int | None = None,
        actors: str | None = None,
        event_types: Iterable[str | type] = (),
        timeout: float | None = 5.0,
    ) -> list[StoredEvent]:
        """Return a page of the events, in the order in which they were stored."""

    def follow(self, *, after: int = 0, actors: str | None = None, event_types: Iterable[str | type] = ()) -> Follower:
        """Return a follower, which gives the events in that order, and waits for those that are stored later."""

    def last_sequence(self, *, timeout: float | None = 5.0) -> int:
        """Return the sequence of the last event; 0 if there is none."""

    def health(self, *, timeout: float | None = 0.5) -> Health:
        """Return whether the store can do its work now."""
