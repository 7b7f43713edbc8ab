"""Which events of an import are in the store already."""

from collections import OrderedDict, deque
from hashlib import blake2b

import msgspec

from ..errors import MalformedRecordError
from ..events import Event
from ..stores._checks import is_same
from ..stores.admin import StoreAdmin
from ..stores.base import Follower, StoredEvent
from ..stores.jetstream import JetStreamEventStore
from ._lines import Line

__all__ = ["Alongside", "ConflictError", "Looked"]

_BATCH = 1_000  # events that are read at once, if there are so many
_VERSIONS_KEPT = 200_000  # some hundred bytes each


class ConflictError(Exception):
    """The store has another event in an event's place."""


class Alongside:
    """Reads a store and a file side by side, from the first event of the file: both have the same order.

    Other events of the store are skipped. So the store is read once at most, and nothing has to be remembered.
    """

    def __init__(self, store: JetStreamEventStore, admin: StoreAdmin, timeout: float) -> None:
        self._store = store
        self._admin = admin
        self._timeout = timeout
        self._last = store.last_sequence(timeout=timeout)
        self._follower: Follower | None = None  # from the first event on
        self._read: deque[StoredEvent] = deque()

    def has(self, event: Event) -> bool:
        """Whether the store has an event, after the one of the last call. Once it does not, this is of no more use."""
        if self._follower is None and not self._find_start(event):
            return False
        while (there := self._next()) is not None:
            if is_same(there.event, event):
                self._admin.learn(there)
                return True
        return False

    def _find_start(self, event: Event) -> bool:
        records = self._admin.records(event.actor_id, event.version, event.version, timeout=self._timeout)
        for one in records:
            if isinstance(one, StoredEvent) and is_same(one.event, event):
                self._follower = self._store.follow(after=one.sequence - 1, timeout=self._timeout)
                return True
        return False

    def _next(self) -> StoredEvent | None:
        assert self._follower is not None
        while not self._read:
            if self._follower.sequence >= self._last:
                return None
            try:
                self._read.extend(self._follower.get_batch(_BATCH, self._timeout))
            except MalformedRecordError:
                continue
            if not self._read:  # it does not come: storing the event will show whether it is there
                return None
        return self._read.popleft()

    def close(self) -> None:
        """End the reading."""
        if self._follower is not None:
            self._follower.close()


class Looked:
    """The events of actors, read once when a batch could not be stored as it is.

    Only digests of events are kept, of a bounded number of actors.
    """

    def __init__(self, store: JetStreamEventStore, timeout: float) -> None:
        self._store = store
        self._timeout = timeout
        self._actors: OrderedDict[str, dict[int, bytes]] = OrderedDict()  # digests by version; the oldest first
        self._kept = 0

    def new_of(self, lines: list[Line]) -> list[Line]:
        """Return the lines whose events are not there, and note these events as stored.

        Raises:
            ConflictError: An event cannot be stored any more, or another event has its version.
        """
        while self._kept > _VERSIONS_KEPT:
            _, forgotten = self._actors.popitem(last=False)
            self._kept -= len(forgotten)
        return [line for line in lines if self._is_new(line)]

    def _is_new(self, line: Line) -> bool:
        event = line.event
        there = self._of(event.actor_id)
        if event.version in there:
            if there[event.version] != _digest(event) and not self._is_stored(event):
                raise ConflictError(
                    f"line {line.number}: actor {event.actor_id!r:.80} has another event of version {event.version:,}"
                )
            return False
        latest = next(reversed(there), 0)
        if event.version < latest:
            raise ConflictError(
                f"line {line.number}: actor {event.actor_id!r:.80} is at version {latest:,}, so version "
                f"{event.version:,} can be stored no more"
            )
        self._keep(there, event)
        return True

    def _of(self, actor_id: str) -> dict[int, bytes]:
        there = self._actors.get(actor_id)
        if there is None:
            there = self._actors[actor_id] = {}
            for event in self._store.iter_events(actor_id, timeout=self._timeout):
                self._keep(there, event)
        return there

    def _keep(self, there: dict[int, bytes], event: Event) -> None:
        there[event.version] = _digest(event)
        self._kept += 1

    def _is_stored(self, event: Event) -> bool:
        """Read the event again and compare it: 1 and 1.0 are equal, but have different digests."""
        there = self._store.get_events(event.actor_id, event.version, event.version, timeout=self._timeout)
        return any(is_same(one, event) for one in there)

    def note(self, lines: list[Line]) -> None:
        """Note that events were stored."""
        for line in lines:
            there = self._actors.get(line.event.actor_id)
            if there is not None and line.event.version not in there:
                self._keep(there, line.event)


def _digest(event: Event) -> bytes:
    fact = msgspec.json.encode((event.id, event.event_type, event.data), order="sorted")
    return blake2b(fact, digest_size=16).digest()
