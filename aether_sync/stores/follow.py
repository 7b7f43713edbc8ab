"""Following a stream: history first, then each event as it is stored, in order and without a gap.

A short-lived consumer delivers it, without acknowledgements: where it ends (with its server, with a leader, with a
connection) a new one begins behind the last event that was read. Deliveries are numbered; a number that is missing ends
a consumer, too.
"""

import os
import weakref
from collections import deque
from typing import Any, Self

from .._batches import fill
from .._checks import check_count
from .._deadline import Deadline
from .._lifetime import warn_unclosed
from .._waiting import guard
from ..connection import Connection
from ..errors import (
    DeadlineExceededError,
    MalformedRecordError,
    StoreClosedError,
    StoreUnavailableError,
    StreamRegressionError,
)
from ..patterns import SubscriptionFilter
from ._iteration import Iteration
from ._jetstream import JetStream, Pause, ends_batch, said
from ._names import Names
from ._pull import Pulling, pending_behind, place_of
from ._reading import Reader
from ._stream import Stream, stream_state
from .base import StoredEvent

__all__ = ["JetStreamFollower"]

_WINDOW = 4_096  # events asked for and not yet taken
_READ_AT_ONCE = 256  # while other threads wait for the lock
_FOR_EVER = Deadline(None)
_INACTIVE = 60 * 10**9  # nanoseconds after which the server forgets a consumer that nobody pulls from
_CATCH_UP = 2.0  # seconds for a server that has just become the leader


class JetStreamFollower(Iteration):
    """A :class:`~aether_sync.stores.base.Follower` of a JetStream store. Several threads may iterate it."""

    def __init__(
        self,
        connection: Connection,
        jetstream: JetStream,
        names: Names,
        stream: Stream,
        reader: Reader,
        after: int,
        filter: SubscriptionFilter,  # noqa: A002
    ) -> None:
        super().__init__(connection, Pulling(connection, names.stream, _WINDOW), guard())
        self._jetstream = jetstream
        self._names = names
        self._stream = stream
        self._reader = reader
        self._filter = filter
        self._takes_all = filter.is_empty
        # Guarded by the lock:
        self._ready: deque[StoredEvent | MalformedRecordError] = deque()  # taken from without it
        self._pop_ready = self._ready.popleft
        self._sequence = self._scanned = after  # of the last that was taken, and that was read
        self._number = 0  # of the last delivery
        self._is_reading = False  # half done, if it stays so
        self._pending = 1  # behind the last delivery, as far as is known
        self._consumer = b""
        self._created = ""  # when the stream was made
        self._awaits_stream = False  # there was none at the start, and nothing was begun since
        self._finalizer = weakref.finalize(self, _abandon, connection, self._pulling, repr(self))
        self._finalizer.atexit = False

    # -- taking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        try:
            found = self._pop_ready()
        except IndexError:
            pass
        else:
            self._sequence = max(self._sequence, found.sequence)
            if isinstance(found, StoredEvent):
                return found
            raise found
        try:
            return self._take(_FOR_EVER)
        except StoreClosedError:
            if self._failure is not None:
                raise
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> StoredEvent:
        """Take the next event, waiting for it if need be; see ``Follower``."""
        return self._take(Deadline(timeout))

    def _take(self, deadline: Deadline) -> StoredEvent:
        while True:
            found = self._pop()
            if isinstance(found, StoredEvent):
                return found
            if found is not None:
                raise found
            self._await(deadline)

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[StoredEvent]:
        """Take what is there, up to a number of events, waiting only for the first; see ``Follower``."""
        max_events = check_count("max_events", max_events)
        try:
            batch = [self.get(timeout)]
        except DeadlineExceededError:
            return []
        return fill(batch, max_events, self._pop_event, self._give_back)

    def _pop_event(self) -> StoredEvent:
        """Take what is read, or read what has come, if it is an event."""
        found = self._pop(only_events=True)
        if not isinstance(found, StoredEvent):
            raise IndexError
        return found

    def _give_back(self, batch: list[StoredEvent]) -> None:
        """Put back what was taken last, for whoever takes next: so that :attr:`sequence` tells of nothing not had."""
        with self._lock:
            if not self._closed:
                self._ready.extendleft(reversed(batch))
            self._sequence = min(self._sequence, batch[0].sequence - 1)
        self._inflow.changed.wake(len(batch))

    def _pop(self, only_events: bool = False) -> StoredEvent | MalformedRecordError | None:
        """Take what is read, or read what has come."""
        with self._lock:
            if self._closed:
                if only_events:
                    return None
                raise self._end()
            while True:
                while not self._ready:
                    if not self._read():
                        return None
                if only_events and self._ready and not isinstance(self._ready[0], StoredEvent):
                    return None
                try:
                    found = self._pop_ready()
                except IndexError:
                    continue
                self._sequence = max(self._sequence, found.sequence)
                return found

    def _read(self) -> bool:
        """Read some of what has come; returns whether there was any.

        A message stays among what has come until it is noted what was read of it. So whoever is interrupted here reads
        on where that was.
        """
        inflow = self._inflow
        arrived = inflow.arrived
        if inflow.is_broken or not arrived:
            if not self._ready:  # what was passed over behind the last that was taken
                self._sequence = max(self._sequence, self._scanned)
            return False
        if self._is_reading:  # it was interrupted before it had noted all this
            self._note_read()
            self._number = place_of(arrived[0][1]).number - 1
        self._is_reading = True
        number, scanned, reply = self._number, self._scanned, b""
        for _ in range(min(len(arrived), _READ_AT_ONCE)):
            subject, reply, headers, data = arrived[0]
            tokens = reply.split(b".")
            if len(tokens) == 9:
                consumer, sequence, place = tokens[3], int(tokens[5]), int(tokens[6])
            else:
                consumer, (_, sequence, place) = tokens[5], place_of(reply)
            if consumer != self._consumer:  # one that was given up, and had more on its way
                arrived.popleft()
                continue
            number += 1
            if place != number:
                inflow.break_off()
                break
            if sequence > scanned:
                try:
                    event = self._reader.event(sequence, subject, data)
                except MalformedRecordError as error:
                    self._ready.append(error)
                else:
                    if self._takes_all or self._filter.matches(event):
                        self._ready.append(StoredEvent(event, sequence, False, ends_batch(headers)))
                self._scanned = scanned = sequence
            arrived.popleft()
        self._number = number
        if reply:
            self._pending = pending_behind(reply)
        self._is_reading = False
        if not self._ready:
            self._sequence = max(self._sequence, scanned)
        self._pulling.ask()
        return True

    def _note_read(self) -> None:
        """Note what was read, whether that was noted then or not."""
        self._scanned = max(self._scanned, self._sequence, self._ready[-1].sequence if self._ready else 0)

    def _has_some(self) -> bool:
        return bool(self._ready) or super()._has_some()

    # -- consumers

    def begin(self, deadline: Deadline) -> None:
        """Begin; where there is no stream yet, that is done as soon as somebody has made it.

        Raises:
            StreamRegressionError: There is no such event.
        """
        if self._stream.find(deadline) is not None:
            self._renew(deadline)
            return
        if self._scanned:
            raise StreamRegressionError(
                f"there is no stream {self._names.stream!r}, and it was read up to {self._scanned}: it is lost, or has"
                " another name. Build anew what was made of it"
            )
        self._awaits_stream = True
        self._begin_again()

    def _renew(self, deadline: Deadline) -> None:
        """Begin a consumer behind the last event that was read.

        Raises:
            StreamRegressionError: There is no such event.
        """
        if self._stream.find(deadline) is None:
            raise StoreUnavailableError(f"there is no stream {self._names.stream!r} yet")
        self._pulling.subscribe(deadline)
        with self._lock:
            self._note_read()
        self._refuse_another_past(deadline)
        name = f"follow-{os.urandom(8).hex()}"
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._scanned + 1,
            "filter_subject": self._names.wanted(self._filter.actor_pattern or None),
            "ack_policy": "none",
            "inactive_threshold": _INACTIVE,
            "num_replicas": 1,
            "mem_storage": True,
        }
        stream = self._names.stream
        body = {"stream_name": stream, "config": config, "action": "create"}
        answer = self._jetstream.request(f"CONSUMER.CREATE.{stream}.{name}", body, deadline)
        if "error" in answer:
            raise StoreUnavailableError(f"the stream is not followed: {said(answer)}")
        with self._lock:
            self._delete()
            self._awaits_stream = False
            self._consumer, self._number, self._is_reading = name.encode(), 0, False
            self._pending = answer.get("num_pending", 0)
            if not self._closed:
                self._pulling.begin(name)

    def _refuse_another_past(self, deadline: Deadline) -> None:
        """See that what was read is still there: a leader that is new may take a moment to know it."""
        pause = Pause(Deadline(min(_CATCH_UP, deadline.remaining())))
        while True:
            created, end = stream_state(self._jetstream, self._names.stream, deadline)
            self._created = self._created or created
            if created != self._created:
                raise StreamRegressionError(
                    f"stream {self._names.stream!r} is not the one that was read up to {self._scanned}: it was made "
                    "anew. Build anew what was made of it"
                )
            if end >= self._scanned:
                return
            if not pause.take():
                raise StreamRegressionError(
                    f"stream {self._names.stream!r} ends at {end}, and was read up to {self._scanned}: it was restored,"
                    " has lost events, or is another one. Build anew what was made of it"
                )

    def _delete(self) -> None:
        """Have the server forget the consumer, if it still knows it."""
        if self._consumer:
            self._jetstream.tell(f"CONSUMER.DELETE.{self._names.stream}.{self._consumer.decode()}")

    # -- state

    @property
    def sequence(self) -> int:
        """The sequence of the last event that was taken, or passed over; the checkpoint."""
        return self._sequence

    @property
    def is_caught_up(self) -> bool:
        """Whether all that was stored a moment ago has been taken."""
        with self._lock:
            if self._awaits_stream:
                return not self._stream.is_found
            return not (self._ready or self._inflow.arrived or self._pending or self._inflow.is_broken)

    # -- ending

    def close(self) -> None:
        """End, and release every thread that waits here. Idempotent, from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._ready.clear()  # or who iterates would take it, who looks at nothing else
        try:  # whatever an exception cuts off: the server forgets the consumer
            self._inflow.changed.wake_all()
            self._finalizer.detach()
        finally:
            try:
                self._pulling.close()
            finally:
                self._delete()

    def _after_fork(self) -> None:
        self._finalizer.detach()
        self._ready.clear()
        super()._after_fork()

    def __repr__(self) -> str:
        there = ", which is not there yet," if self._awaits_stream else ""
        return f"<Follower of {self._names.stream!r}{there} at {self._sequence}{' closed' if self._closed else ''}>"


def _abandon(connection: Connection, pulling: Pulling, name: str) -> None:
    """A follower was dropped without ``close()``: called by its finalizer, takes no lock."""
    connection.nudge(pulling.close)
    warn_unclosed(name, None)
