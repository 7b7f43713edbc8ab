"""``StoreAdmin``: what the command line needs of a JetStream store beyond its protocol: single records, and counts."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from .._runtime.deadline import Deadline
from ..errors import StoreError, StoreUnavailableError
from ..patterns import SubscriptionFilter
from ._checks import check_actor_id, check_version, in_time
from ._jetstream.answers import said
from ._jetstream.error_codes import ErrorCode
from ._jetstream.messages import Record
from ._jetstream.saves import torn_saves
from .base import MalformedRecord, StoredEvent
from .jetstream import JetStreamEventStore

__all__ = ["Extent", "StoreAdmin"]

_PAGE = 5_000  # records


@dataclass(frozen=True, slots=True)
class Extent:
    """How many records there are to read, at one moment.

    Attributes:
        last: The last sequence.
        least: There are at least this many records from ``after`` to ``last``.
        most: There are at most this many: more than ``least`` only if others stored events while it was counted. None
            if they cannot be counted.
        after: The sequence after which they were counted.
    """

    last: int
    least: int
    most: int | None
    after: int = 0


class StoreAdmin:
    """Reads and counts the records of a store. Any thread.

    Args:
        store: The store; it must not be closed.
    """

    def __init__(self, store: JetStreamEventStore) -> None:
        self._store = store
        parts = store._parts
        self._jetstream, self._names, self._reader = parts.jetstream, parts.names, parts.reader

    @property
    def stream(self) -> str:
        """The name of the stream on the server."""
        return self._names.stream

    def require_stream(self, timeout: float | None) -> None:
        """Raise an error unless the stream is there and has the settings of a store; it is not made.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            StoreError: The stream is not there.
            StreamMismatchError: It has other settings.
        """
        deadline = Deadline(timeout)
        self._store.connection.start()
        if self._store._stream.find(deadline) is None:
            raise StoreError(
                f"there is no stream {self.stream!r} on the server: see --stream and --namespace, or store an event"
            )

    def delete(self, timeout: float | None) -> None:
        """Delete all that the store has on the server: events, snapshots, dead letters. What is not there is no error.

        Args:
            timeout: Seconds; None waits for ever.

        Raises:
            StoreError: The server could not delete them, or did not answer in time.
            PermissionDeniedError: The user lacks the right.
        """
        deadline = Deadline(timeout)
        for stream in (self.stream, self._names.snapshots, self._names.dead_letters):
            answer = self._jetstream.request(f"STREAM.DELETE.{stream}", {}, deadline)
            code = answer.get("error", {}).get("err_code")
            if code not in (None, ErrorCode.JSStreamNotFoundErr):
                raise StoreError(f"the stream {stream!r} cannot be deleted: {said(answer)}")

    def _info(self, deadline: Deadline, **body: Any) -> dict[str, Any]:
        return self._jetstream.request(f"STREAM.INFO.{self.stream}", body, deadline)

    def _state(self, deadline: Deadline, **body: Any) -> dict[str, Any]:
        answer = self._info(deadline, **body)
        if "error" in answer:
            raise StoreUnavailableError(f"stream {self.stream!r} is not read: {said(answer)}")
        state: dict[str, Any] = answer["state"]
        return state

    # -- records

    def learn(self, stored: StoredEvent) -> None:
        """Note that an event was read, so that saving the next one of its actor need not read it again."""
        self._store._cache.learn(stored.event.actor_id, stored.event.version, stored.sequence)

    def records(
        self, actor_id: str, from_version: int = 0, to_version: int | None = None, *, timeout: float | None = 5.0
    ) -> Iterator[StoredEvent | MalformedRecord]:
        """Return an iterator over an actor's events and over records that are not events, read page by page.

        Args:
            actor_id: The actor.
            from_version: The first version wanted.
            to_version: The last version wanted; None for all.
            timeout: Seconds for each page.
        """
        from_version = check_version("from_version", from_version)
        to_version = None if to_version is None else check_version("to_version", to_version)
        return self._reader.read(check_actor_id(actor_id), from_version, to_version, lambda: Deadline(timeout))

    def record_at(self, sequence: int, timeout: float | None = 5.0) -> StoredEvent | MalformedRecord | None:
        """Return the event or the malformed record at a sequence, read from the leader; None if there is none."""
        record = self._record_at(sequence, timeout)
        return None if record is None else self._reader.found(record)

    def actor_at(self, sequence: int, timeout: float | None = 5.0) -> str | None:
        """Return the actor whose record is at a sequence, be it an event or not; None if it is no actor's."""
        record = self._record_at(sequence, timeout)
        return None if record is None else self._names.actor_id_of(record.subject)

    def _record_at(self, sequence: int, timeout: float | None) -> Record | None:
        record = self._jetstream.next(self.stream, self._names.all_events, sequence, Deadline(timeout))
        return record if record is not None and record.sequence == sequence else None

    # -- counting

    def count(self, timeout: float | None = 5.0) -> int:
        """Return how many records the server counts in the stream."""
        messages: int = self._state(Deadline(timeout))["messages"]
        return messages

    def extent(self, after: int = 0, actors: str | None = None, *, timeout: float | None = 5.0) -> Extent:
        """Return how many records there are to read now.

        The server counts all records, and those of each actor, but not those of an actor after a sequence.

        Args:
            after: The sequence after which to count.
            actors: A pattern of actor ids; None for all.
            timeout: Seconds.
        """
        deadline = Deadline(timeout)
        if actors is None:
            return self._extent_of_all(after, deadline)
        before = 0 if after else self._count_of(actors, deadline)
        last = self._store.last_sequence(actors=actors, timeout=deadline.timeout_left())
        return Extent(last, before, None if after else self._count_of(actors, deadline), after)

    def _extent_of_all(self, after: int, deadline: Deadline) -> Extent:
        state = self._state(deadline)
        if state.get("num_deleted"):
            state = self._state(deadline, deleted_details=True)
        last, first = self._store.last_sequence(timeout=deadline.timeout_left()), state["first_seq"]
        last = min(state["last_seq"], last)
        gone = sum(after < one <= last for one in state.get("deleted") or ())
        count = max(0, last - max(after, first - 1) - gone)
        return Extent(last, count, count, after)

    def torn(self, extent: Extent, actors: str | None = None, *, timeout: float | None = 5.0) -> int:
        """Return how many of the records that were counted belong to saves that are not whole. It reads all records.

        Args:
            extent: The count, as :meth:`extent` returned it.
            actors: The pattern of actor ids that was given to it.
            timeout: Seconds for each page.
        """
        last = extent.last if actors is None else sys.maxsize
        wanted = SubscriptionFilter(actor_pattern=actors)
        ids = {}
        for save in torn_saves(self._records(extent.after, last, timeout)):
            for sequence in range(save.first, save.last + 1):
                ids[sequence] = self.actor_at(sequence, timeout)
        return sum(one is not None and wanted.matches_actor(one) for one in ids.values())

    def _records(self, after: int, last: int, timeout: float | None) -> Iterator[Record]:
        while after < last:
            deadline = Deadline(timeout)
            ask = self._jetstream.ask_page(self.stream, self._names.all_events, after + 1, _PAGE, deadline)
            page = ask(deadline).records
            yield from (record for record in page if record.sequence <= last)
            after = page[-1].sequence if page else last

    def _count_of(self, actors: str, deadline: Deadline) -> int:
        wanted = SubscriptionFilter(actor_pattern=actors)
        counts = self._jetstream.counts(self.stream, self._names.wanted(actors), deadline)
        return sum(
            count
            for subject, count in in_time(counts.items(), deadline)
            if (actor_id := self._names.actor_id_of(subject)) is not None and wanted.matches_actor(actor_id)
        )
