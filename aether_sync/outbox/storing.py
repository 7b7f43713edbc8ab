"""``Storing``: rows for the store, each stored exactly once.

The version that an event gets is committed in its row before the event is stored, and the store takes a version of an
actor once. So whoever finds the row later, a day or a year after its relay was killed, saves the same event at the same
version: the store knows it by its id, and stores nothing again.

1. A row without a version gets the next one of its actor, and this is committed. The next batch saves its events.
2. A row with a version is saved. If another event has the version, this one is not stored, and never will be at that
   version. Only then does it get another one. The rows behind it keep theirs until each is refused itself: a relay that
   has lost its connection to the database may be saving them at this moment.

A row with an expected version has its version from the start. If another writer was there first, it is set aside.
"""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf
from typing import NamedTuple

from .._values.clock import monotonic
from ..errors import AtomicAppendUnsupportedError, VersionConflictError
from ..events import Event
from ..stores._checks import BATCH_LIMIT
from ..stores.event_store import EventStore
from .outcome import LASTING, Outcome
from .rows import OutboxRow

__all__ = ["Storing"]

_TIMEOUT = 5.0  # seconds for a call of the store
_VERSIONS_KNOWN = 100_000  # actors
_OTHERS_STORE = 60.0  # seconds after a conflict in which others are taken to store events of the same actors


class _Save(NamedTuple):
    """A row whose version is known, and its events."""

    row: OutboxRow
    events: tuple[Event, ...]


class _Known:
    """Versions that actors have had, most likely their last ones: what this relay has stored, or was told.

    Where others store events of the same actors, such as a second relay, these are soon wrong, and each save that fails
    takes longer than a question. So after a conflict nothing is taken for the last version for a while.
    """

    def __init__(self) -> None:
        self._versions: OrderedDict[str, int] = OrderedDict()
        self._others_at = -inf  # when it was last seen that others store, too

    def at_least(self, actor: str) -> int:
        """Return a version that an actor has reached; 0 if none is known."""
        return self._versions.get(actor, 0)

    def last(self, actor: str) -> int | None:
        """Return an actor's version; None if the store should be asked."""
        return None if monotonic() < self._others_at + _OTHERS_STORE else self._versions.get(actor)

    def learn(self, actor: str, version: int) -> None:
        """Note that an actor has reached a version."""
        self._versions[actor] = max(version, self._versions.get(actor, 0))
        self._versions.move_to_end(actor)

    def distrust(self, actor: str) -> None:
        """Note that somebody else has stored an event of an actor."""
        self._versions.pop(actor, None)
        self._others_at = monotonic()

    def clear(self) -> None:
        """Forget all versions."""
        self._versions.clear()

    def trim(self) -> None:
        """Forget those that were not used for long."""
        while len(self._versions) > _VERSIONS_KNOWN:
            self._versions.popitem(last=False)


class Storing:
    """Saves rows of one relay. One thread uses it.

    Args:
        store: The store.
    """

    def __init__(self, store: EventStore) -> None:
        self._store = store
        self._known = _Known()

    def send(self, rows: Sequence[OutboxRow], outcome: Outcome) -> None:
        """Save the rows that have a version, and plan versions for those that have none.

        Raises:
            Exception: What passes. ``outcome`` has what was done before.
        """
        try:
            _Batch(self._store, self._known, outcome).send(rows)
        except Exception:
            self._known.clear()  # the stream may have been deleted, and another one made
            raise
        self._known.trim()


class _Batch:
    """One batch of rows.

    Args:
        store: The store.
        known: Versions of actors.
        outcome: Is told what became of the rows.
    """

    def __init__(self, store: EventStore, known: _Known, outcome: Outcome) -> None:
        self._store = store
        self._known = known
        self._outcome = outcome
        self._stopped: set[str] = set()  # actors of which no more is saved in this batch
        self._refused: set[int] = set()  # rows whose version another event has

    def send(self, rows: Sequence[OutboxRow]) -> None:
        actors: dict[str, list[OutboxRow]] = {}
        for row in rows:
            actors.setdefault(row.name, []).append(row)
        ready = {actor: self._ready(actor, lane) for actor, lane in actors.items()}
        self._save_together([save for saves in ready.values() if _rises(saves) for save in saves])
        for actor, saves in ready.items():
            if not _rises(saves):
                self._save_one_by_one(actor, saves)
        sent = {row.id for row in self._outcome.stored}
        for actor, lane in actors.items():
            self._plan(actor, [row for row in lane if row.id not in sent])

    # -- saving

    def _ready(self, actor: str, lane: Sequence[OutboxRow]) -> list[_Save]:
        """Return the first rows of an actor that have a version, up to one that has none or cannot be saved."""
        ready: list[_Save] = []
        version = self._known.at_least(actor)
        for row in lane:
            if row.version is None:
                break
            try:
                events = row.decoded()
                if row.expected_version is not None:
                    version = self._at_least(actor, row, version)
            except LASTING as error:
                if not ready:  # else it is looked at again when those before it are stored
                    self._set_aside(row, error)
                break
            ready.append(_Save(row, events))
            version = max(version, row.last_version)
        return ready

    def _at_least(self, actor: str, row: OutboxRow, version: int) -> int:
        """See that an actor has reached the version that a row expects: the store takes versions with gaps.

        Raises:
            VersionConflictError: It has not.
        """
        expected = row.expected_version or 0
        if version < expected:
            version = max(version, self._ask(actor))
        if version < expected:
            conflict = VersionConflictError(actor, expected + 1, version)
            conflict.expected_version = expected
            raise conflict
        return version

    def _save_together(self, saves: Sequence[_Save]) -> None:
        for chunk in _chunks(saves):
            waiting = [save for save in chunk if save.row.name not in self._stopped]
            while waiting:
                try:
                    self._save(waiting)
                except VersionConflictError as conflict:  # one actor's, and the others' are not stored either
                    culprits = {conflict.actor_id} & {save.row.name for save in waiting} or {waiting[0].row.name}
                except AtomicAppendUnsupportedError:
                    culprits = {save.row.name for save in waiting}
                except LASTING:  # of one of them
                    culprits = {waiting[0].row.name}
                else:
                    break
                for actor in culprits:
                    self._save_one_by_one(actor, [save for save in waiting if save.row.name == actor])
                waiting = [save for save in waiting if save.row.name not in culprits]

    def _save_one_by_one(self, actor: str, saves: Sequence[_Save]) -> None:
        for save in saves:
            try:
                self._save([save])
            except VersionConflictError as conflict:
                self._known.distrust(actor)
                self._stopped.add(actor)
                if save.row.expected_version is None:
                    self._refused.add(save.row.id)
                else:
                    conflict.expected_version = save.row.expected_version
                    self._set_aside(save.row, conflict)
                return
            except LASTING as error:
                self._set_aside(save.row, error)
                return

    def _save(self, saves: Sequence[_Save]) -> None:
        self._store.save_events([event for save in saves for event in save.events], timeout=_TIMEOUT)
        for row, _ in saves:
            self._outcome.stored.append(row)
            self._known.learn(row.name, row.last_version)

    def _set_aside(self, row: OutboxRow, error: Exception) -> None:
        self._outcome.refused.append((row, error))
        self._stopped.add(row.name)

    # -- planning

    def _plan(self, actor: str, lane: Sequence[OutboxRow]) -> None:
        """Give the rows of an actor that have no version the next ones."""
        refused = {row.id for row, _ in self._outcome.refused}
        if any(row.id in refused for row in lane):
            return  # the later ones wait until somebody has decided on that
        if all(row.version is not None and row.id not in self._refused for row in lane):
            return
        try:
            version = self._known.last(actor)
            if version is None:
                version = self._ask(actor)
        except LASTING as error:
            self._set_aside(lane[0], error)
            return
        for row in lane:
            if row.version is None or row.id in self._refused:
                self._outcome.plans[row.id] = version + 1
                version += row.count
            else:
                version = max(version, row.last_version)

    def _ask(self, actor: str) -> int:
        version = self._store.get_latest_version(actor, timeout=_TIMEOUT)
        self._known.learn(actor, version)
        return version


def _rises(saves: Sequence[_Save]) -> bool:
    """Whether the versions of an actor's rows increase, as a save of several wants it.

    They do not if a row has become visible after one with a higher id.
    """
    return all(one.row.last_version < (other.row.version or 0) for one, other in pairwise(saves))


def _chunks(saves: Sequence[_Save]) -> Iterator[list[_Save]]:
    """Cut rows into pieces that one call of the store takes."""
    chunk: list[_Save] = []
    size = 0
    for save in saves:
        if chunk and size + len(save.events) > BATCH_LIMIT:
            yield chunk
            chunk, size = [], 0
        chunk.append(save)
        size += len(save.events)
    if chunk:
        yield chunk
