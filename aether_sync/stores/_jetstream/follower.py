"""``JetStreamFollower``: follows a stream: history first, then each event as it is stored, in order and without a gap.

A short-lived consumer without acknowledgements delivers the events. When it ends (with its server, with a leader, with
a connection), a new one begins after the last event that was read, if the stream still has that very record. Deliveries
are numbered; when a number is missing, a new consumer begins, too.

A consumer reads from any server of the stream, which may be behind the leader. Therefore the leader is asked where the
stream ends: when a consumer begins, and later only while somebody wants to know.

How records are read and which of them may be taken is in ``record_flow.py``.
"""

import os
import weakref
from functools import partial
from math import inf
from typing import Any, NamedTuple, Self

from ..._arguments import check_count, check_flag
from ..._nats.channel import Channel
from ..._runtime.batches import take_batch
from ..._runtime.closing import warn_unclosed
from ..._runtime.deadline import Deadline
from ..._values.clock import Datetime, monotonic
from ...errors import (
    AetherError,
    StoreClosedError,
    StoreUnavailableError,
    StreamRegressionError,
)
from ...instrumentation import observers, received
from ...metrics import FollowerStats
from ...patterns import SubscriptionFilter
from ..base import Follower, StoredEvent
from .answers import said
from .messages import Record
from .parts import StoreParts
from .pull import PullRequester
from .record_flow import LastRead, RecordFlow
from .stream import stream_state
from .tries import Asked, Pause

__all__ = ["JetStreamFollower", "begin_following", "stats_of"]

_OPEN = 1.0  # seconds until the server is asked again whether a save is whole
_LOOK = 0.1  # seconds to skip events that are not wanted, in a call that asks whether it is caught up
_FOR_EVER = Deadline(None)
_INACTIVE = 60 * 10**9  # nanoseconds after which the server forgets a consumer that nobody pulls from
_CATCH_UP = 2.0  # seconds in which a server that has just become the leader may not know the last record yet
_FRESH = 1.0  # seconds for which the leader's answer where the stream ends is used again
_PATIENCE = 1.0  # seconds to wait for that answer
_DOUBT = 15.0  # seconds in which a leader is not believed that lacks a saved event: one that is cut off resigns sooner


class _End(NamedTuple):
    """Where a stream ended, as its leader said.

    Attributes:
        whole: The last sequence at which a save ends.
        wanted: The last sequence of the subjects that are delivered here; it may be after ``whole``.
        moment: When the leader was asked.
    """

    whole: int
    wanted: int
    moment: float


class JetStreamFollower(RecordFlow, Follower):
    """A :class:`~aether_sync.stores.base.Follower` of a JetStream store. Several threads may iterate it."""

    def __init__(
        self,
        parts: StoreParts,
        after: int,
        filter: SubscriptionFilter,  # noqa: A002
        *,
        allow_ahead: bool = False,
    ) -> None:
        super().__init__(parts, after, filter)
        self._ahead = after if allow_ahead else 0  # which the stream need not reach while nothing was read behind it
        self._jetstream = parts.jetstream
        self._names = parts.names
        self._stream = parts.stream
        self._cache = parts.cache
        self._end_asked = _End(0, 0, 0.0)
        self._doubts_since = inf  # the moment since which the leader is not believed
        self._created = ""  # when the stream was made
        self._awaits_stream = False  # there was no stream at the start, and no consumer has begun since
        self._finalizer = weakref.finalize(self, _abandon, parts.channel, self._requester, repr(self))
        self._finalizer.atexit = False

    # -- taking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> StoredEvent:
        if observers:
            began = monotonic()
            stored = self._take_or_stop()
            received(began, (stored.event,), destination=self._names.stream)
            return stored
        try:
            found = self._pop_ready()
        except IndexError:
            pass
        else:
            if found.sequence > self._sequence:  # max() takes longer
                self._sequence = found.sequence
            if isinstance(found, StoredEvent):
                return found
            raise found
        return self._take_or_stop()

    def _take_or_stop(self) -> StoredEvent:
        """Wait for the next event, and take it; raise StopIteration at a clean end."""
        try:
            return self._take(_FOR_EVER)
        except StoreClosedError:
            if self._failure is not None:
                raise
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> StoredEvent:
        deadline = Deadline(timeout)
        began = monotonic() if observers else None
        found = self._take(deadline)
        if began is not None:
            received(began, (found.event,), destination=self._names.stream)
        return found

    def _take(self, deadline: Deadline, until_caught_up: bool = False) -> StoredEvent:
        while True:
            is_last_look = not deadline.remaining()
            found = self._pop(deadline)
            if isinstance(found, StoredEvent):
                return found
            if found is not None:
                raise found
            if self._staged and self._decide(deadline):
                continue
            if until_caught_up and self._is_at_end(deadline):
                raise self._nothing_within(deadline)
            self._await(deadline, _LOOK if until_caught_up else _OPEN if self._staged else inf)
            if is_last_look:  # the events that came are not wanted
                raise self._nothing_within(deadline)

    def get_batch(
        self, max_events: int, timeout: float | None = None, *, until_caught_up: bool = False
    ) -> list[StoredEvent]:
        max_events = check_count("max_events", max_events)
        until_caught_up = check_flag("until_caught_up", until_caught_up)
        deadline = Deadline(timeout)
        first, rest = partial(self._take, deadline, until_caught_up), partial(self._pop_event, deadline)
        began = monotonic() if observers else None
        batch = take_batch(max_events, first, rest, self._give_back)
        if began is not None and batch:
            received(began, [one.event for one in batch], destination=self._names.stream, is_batch=True)
        return batch

    # -- consumers

    def _begin(self, deadline: Deadline) -> None:
        """Begin to follow. If there is no stream yet, a thread begins as soon as somebody has made it.

        Raises:
            StreamRegressionError: The stream does not have the event that it is to begin after.
        """
        self._admit()
        if self._stream.find(deadline) is not None:
            self._renew(deadline)
            return
        if self._scanned and not self._ahead:
            raise StreamRegressionError(
                f"there is no stream {self._names.stream!r}, and it was read up to {self._scanned}: it is lost, or has"
                " another name. Build anew what was made of it"
            )
        self._awaits_stream = True
        self._ensure_renewal()

    def _renew(self, deadline: Deadline) -> None:
        """Begin a consumer after the last event that was read.

        Raises:
            StreamRegressionError: The stream does not have that event, or has another record in its place.
        """
        if not self._created and self._stream.find(deadline) is None:
            raise StoreUnavailableError(f"there is no stream {self._names.stream!r} yet")
        self._requester.subscribe(deadline)
        with self._lock:
            self._note_read()
        last = self._ask_end(deadline)
        try:
            self._refuse_another_past(deadline)
            end = self._ended(last, deadline)
        finally:
            last.forget()
        name = f"follow-{os.urandom(8).hex()}"
        config: dict[str, Any] = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._scanned + 1,
            "filter_subject": self._subject,
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
            self._end_asked = end
            if not self._closed:
                self._buffer.note_left(answer["num_pending"])
                self._requester.begin(name)

    def _refuse_another_past(self, deadline: Deadline) -> None:
        """Raise an error unless the stream still has what was read; a new leader may take a moment to know it."""
        pause = Pause(Deadline(min(_CATCH_UP, deadline.remaining())))
        while wrong := self._differs(deadline):
            if not pause.take():
                raise StreamRegressionError(
                    f"stream {self._names.stream!r} {wrong}. Build anew what was made of it: follow(after=0)"
                )

    def _differs(self, deadline: Deadline) -> str:
        """Return how the stream differs from the one that was read; "" if it does not."""
        name, read = self._names.stream, max(self._scanned, self._sequence)
        record = self._jetstream.ask_at(name, self._last.sequence, deadline) if self._last.sequence else None
        try:
            state = stream_state(self._jetstream, name, deadline)
            if state is None and not self._created:
                raise StoreUnavailableError(f"there is no stream {name!r}")
            if state is None:
                return f"is not there any more, and was read up to {read}: it was deleted, or its server is another one"
            created, end = state
            self._created = self._created or created
            if created != self._created:
                return f"is not the one that was read up to {read}: it was made anew"
            if end >= read:
                self._ahead = 0
            elif read != self._ahead:
                return f"ends at {end}, and was read up to {read}: it was restored, has lost events, or is another one"
            return "" if record is None else self._differs_at(record(deadline))
        finally:
            if record is not None:
                record.forget()

    def _differs_at(self, record: Record | None) -> str:
        """Return how a record differs from the one that was read last; "" if it does not, or nothing was read here."""
        sequence, moment = self._last
        found = 0 if record is None else _nanoseconds(record.time)
        if found != moment and moment:
            return (
                f"has another record {sequence} than the one that was read: it was restored, and written to since then"
            )
        self._last = LastRead(sequence, found)
        return ""

    # -- the end of the stream

    @property
    def is_caught_up(self) -> bool:
        return self._is_at_end(_FOR_EVER)

    def _is_at_end(self, deadline: Deadline) -> bool:
        patience = Deadline(min(_PATIENCE, deadline.remaining()))
        if self._awaits_stream:
            return self._is_nothing_there(patience)
        end, saved = self._end_asked, self._cache.last
        if not self._has_taken(end):
            return False
        if monotonic() - end.moment < _FRESH and end.whole >= saved:
            return True
        try:
            self._end_asked = end = self._ended(self._ask_end(patience), patience)
        except AetherError:
            return False
        return not self._is_doubtful(end, saved) and self._has_taken(end)

    def _is_nothing_there(self, deadline: Deadline) -> bool:
        """Whether the stream is still not there."""
        try:
            return self._stream.find(deadline) is None
        except AetherError:
            return False

    def _has_taken(self, end: _End) -> bool:
        """Whether everything up to an end has been taken or skipped."""
        if not self.is_connected:
            return False
        deadline = Deadline(_LOOK)
        with self._lock:
            while not self._ready and self._read() and deadline.remaining():
                pass
            if self._ready or self._buffer.arrived or self._scanned < end.wanted:
                return False
            if self._passed() < end.whole and self._staged:
                return False
            if self._closed:  # by a signal handler here: what was ready is not taken
                return False
            self._sequence = max(self._sequence, end.whole)
            return True

    def _is_doubtful(self, end: _End, saved: int) -> bool:
        """Whether the leader lacks an event that was saved: it may be cut off from the servers that have it."""
        if end.whole >= saved:
            self._doubts_since = inf
            return False
        self._doubts_since = min(self._doubts_since, end.moment)
        if end.moment - self._doubts_since > _DOUBT:
            self._cache.lower(end.whole)  # it is not cut off: the stream was restored
        return True

    def _ask_end(self, deadline: Deadline) -> Asked[Record | None]:
        return self._jetstream.ask_last(self._names.stream, self._names.all_events, deadline)

    def _ended(self, asked: Asked[Record | None], deadline: Deadline) -> _End:
        """Return where the stream ends.

        The wanted subjects are asked for second: then an event that is stored in between may only be missing from the
        first answer, and the follower waits for it.
        """
        moment = monotonic()
        last = asked(deadline)
        whole = 0 if last is None else self._saves.end_of_saves(last, deadline)
        if self._subject == self._names.all_events:
            return _End(whole, whole, moment)
        wanted = self._jetstream.last(self._names.stream, self._subject, deadline)
        return _End(whole, 0 if wanted is None else wanted.sequence, moment)

    def _delete(self) -> None:
        """Delete the consumer on the server, without waiting for an answer."""
        if self._consumer:
            self._jetstream.send(f"CONSUMER.DELETE.{self._names.stream}.{self._consumer.decode()}")

    # -- state

    @property
    def sequence(self) -> int:
        return self._sequence

    # -- ending

    def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._forget()
        try:  # wherever an exception ends this, the consumer is deleted
            self._buffer.changed.wake_all()
        finally:
            try:
                self._requester.close()
                self._finalizer.detach()  # not before: it closes the requester if an exception ends this
            finally:
                self._delete()

    def _after_fork(self) -> None:
        self._finalizer.detach()
        self._forget()
        super()._after_fork()

    def __repr__(self) -> str:
        there = ", which is not there yet," if self._awaits_stream else ""
        return f"<Follower of {self._names.stream!r}{there} at {self._sequence}{' closed' if self._closed else ''}>"


def begin_following(follower: JetStreamFollower, deadline: Deadline) -> None:
    """Begin to follow; where there is no stream yet, that is done as soon as somebody has made it.

    Raises:
        StreamRegressionError: There is no such event as the one that it is to begin after.
    """
    follower._begin(deadline)


def stats_of(follower: JetStreamFollower) -> FollowerStats:
    """Return how far a follower is.

    One that nobody reads is sent no more when its window is full, and then only the store's own saves tell how much
    more there is.
    """
    sequence, lag = follower.sequence, follower._left()
    if follower._sees_all:
        lag = max(lag, max(follower._cache.last, follower._end_asked.whole) - sequence)
    return FollowerStats(
        actors=follower._filter.actor_pattern,
        event_types=tuple(sorted(follower._filter.event_types)),
        sequence=sequence,
        lag=lag,
        is_connected=follower.is_connected,
    )


def _nanoseconds(time: str) -> int:
    """Read a time as the server writes it, in nanoseconds since 1970: ``2026-11-28T16:00:06.470969226Z``."""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    return int(Datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def _abandon(channel: Channel, requester: PullRequester, name: str) -> None:
    """End a follower that was dropped without ``close()``. Called by its finalizer: it takes no lock."""
    channel.call_soon(requester.close)
    warn_unclosed(name, None)
