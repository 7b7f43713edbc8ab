"""Following a stream: history first, then each event as it is stored, in order and without a gap.

A short-lived consumer delivers it, without acknowledgements: where it ends (with its server, with a leader, with a
connection) a new one begins behind the last event that was read, if the stream still has that very record. Deliveries
are numbered; a number that is missing ends a consumer, too.

A consumer reads from any server of the stream, which may be behind the leader. So where the stream ends is asked of the
leader: when a consumer begins, and later only while somebody wants to know.
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
from ...patterns import SubscriptionFilter
from ..base import StoredEvent
from .answers import said
from .api import Asked, Pause
from .messages import Record
from .parts import StoreParts
from .pull import PullRequester
from .record_flow import LastRead, RecordFlow
from .stream import stream_state

__all__ = ["JetStreamFollower", "begin_following"]

_OPEN = 1.0  # seconds in which it is not asked again whether the server has finished a save
_LOOK = 0.1  # seconds for passing over what is not wanted, by who asks whether it is caught up
_FOR_EVER = Deadline(None)
_INACTIVE = 60 * 10**9  # nanoseconds after which the server forgets a consumer that nobody pulls from
_CATCH_UP = 2.0  # seconds for a server that has just become the leader
_FRESH = 1.0  # seconds in which the leader need not be asked again where the stream ends
_PATIENCE = 1.0  # seconds for its answer
_DOUBT = 15.0  # seconds in which a leader is not believed that lacks what was saved: one that is cut off resigns sooner


class _End(NamedTuple):
    """Where a stream ended, by its leader's word.

    Attributes:
        whole: The last sequence that ends what was saved together.
        wanted: The last sequence of what is delivered here, up to that at least.
        moment: When that was asked.
    """

    whole: int
    wanted: int
    moment: float


class JetStreamFollower(RecordFlow):
    """A :class:`~aether_sync.stores.base.Follower` of a JetStream store. Several threads may iterate it."""

    def __init__(self, parts: StoreParts, after: int, filter: SubscriptionFilter) -> None:  # noqa: A002
        super().__init__(parts, after, filter)
        self._jetstream = parts.jetstream
        self._names = parts.names
        self._stream = parts.stream
        self._cache = parts.cache
        self._end_asked = _End(0, 0, 0.0)
        self._doubts_since = inf  # it was asked, and was not believed
        self._created = ""  # when the stream was made
        self._awaits_stream = False  # there was none at the start, and nothing was begun since
        self._finalizer = weakref.finalize(self, _abandon, parts.channel, self._requester, repr(self))
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
            if is_last_look:  # what came is not wanted
                raise self._nothing_within(deadline)

    def get_batch(
        self, max_events: int, timeout: float | None = None, *, until_caught_up: bool = False
    ) -> list[StoredEvent]:
        """Take what is there, up to a number of events, waiting only for the first; see ``Follower``."""
        max_events = check_count("max_events", max_events)
        until_caught_up = check_flag("until_caught_up", until_caught_up)
        deadline = Deadline(timeout)
        first, rest = partial(self._take, deadline, until_caught_up), partial(self._pop_event, deadline)
        return take_batch(max_events, first, rest, self._give_back)

    # -- consumers

    def _begin(self, deadline: Deadline) -> None:
        """Begin; where there is no stream yet, that is done as soon as somebody has made it.

        Raises:
            StreamRegressionError: There is no such event.
        """
        self._admit()
        if self._stream.find(deadline) is not None:
            self._renew(deadline)
            return
        if self._scanned:
            raise StreamRegressionError(
                f"there is no stream {self._names.stream!r}, and it was read up to {self._scanned}: it is lost, or has"
                " another name. Build anew what was made of it"
            )
        self._awaits_stream = True
        self._ensure_renewal()

    def _renew(self, deadline: Deadline) -> None:
        """Begin a consumer behind the last event that was read.

        Raises:
            StreamRegressionError: There is no such event, or another in its place.
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
                self._requester.begin(name)

    def _refuse_another_past(self, deadline: Deadline) -> None:
        """See that what was read is still there: a leader that is new may take a moment to know it."""
        pause = Pause(Deadline(min(_CATCH_UP, deadline.remaining())))
        while wrong := self._differs(deadline):
            if not pause.take():
                raise StreamRegressionError(
                    f"stream {self._names.stream!r} {wrong}. Build anew what was made of it: follow(after=0)"
                )

    def _differs(self, deadline: Deadline) -> str:
        """Say how the stream is not the one that was read; nothing if it is."""
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
            if end < read:
                return f"ends at {end}, and was read up to {read}: it was restored, has lost events, or is another one"
            return "" if record is None else self._differs_at(record(deadline))
        finally:
            if record is not None:
                record.forget()

    def _differs_at(self, record: Record | None) -> str:
        """Say how a record is not the one that was read last; nothing if it is, or was read by an earlier process."""
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
        """Whether all that was stored a second ago has been taken, and what this store object has saved, too."""
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
        """Whether nobody has made the stream yet."""
        try:
            return self._stream.find(deadline) is None
        except AetherError:
            return False

    def _has_taken(self, end: _End) -> bool:
        """Whether all up to an end has been taken, or passed over."""
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
            if self._closed:  # by a handler, amid this: what was ready is not taken
                return False
            self._sequence = max(self._sequence, end.whole)
            return True

    def _is_doubtful(self, end: _End, saved: int) -> bool:
        """Whether the leader lacks what was saved, and may be cut off from those who have it."""
        if end.whole >= saved:
            self._doubts_since = inf
            return False
        self._doubts_since = min(self._doubts_since, end.moment)
        if end.moment - self._doubts_since > _DOUBT:
            self._cache.lower(end.whole)  # the stream was restored
        return True

    def _ask_end(self, deadline: Deadline) -> Asked[Record | None]:
        return self._jetstream.ask_last(self._names.stream, self._names.all_events, deadline)

    def _ended(self, asked: Asked[Record | None], deadline: Deadline) -> _End:
        """Return where the stream ends.

        What is wanted is asked for second: what was stored in between may be missing from the first answer, from the
        second nothing.
        """
        moment = monotonic()
        last = asked(deadline)
        whole = 0 if last is None else self._saves.end_of_saves(last, deadline)
        if self._subject == self._names.all_events:
            return _End(whole, whole, moment)
        wanted = self._jetstream.last(self._names.stream, self._subject, deadline)
        return _End(whole, 0 if wanted is None else wanted.sequence, moment)

    def _delete(self) -> None:
        """Have the server forget the consumer, if it still knows it."""
        if self._consumer:
            self._jetstream.send(f"CONSUMER.DELETE.{self._names.stream}.{self._consumer.decode()}")

    # -- state

    @property
    def sequence(self) -> int:
        """The sequence of the last event that was taken, or passed over; the checkpoint."""
        return self._sequence

    # -- ending

    def close(self) -> None:
        """End, and release every thread that waits here. Idempotent, from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._forget()
        try:  # whatever an exception cuts off: the server forgets the consumer
            self._buffer.changed.wake_all()
        finally:
            try:
                self._requester.close()
                self._finalizer.detach()  # not before: it does that where this is cut off
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


def _nanoseconds(time: str) -> int:
    """Read a time as the server writes it, in nanoseconds since 1970: ``2026-11-28T16:00:06.470969226Z``."""
    seconds, _, fraction = time.removesuffix("Z").partition(".")
    return int(Datetime.fromisoformat(f"{seconds}+00:00").timestamp()) * 10**9 + int(fraction.ljust(9, "0"))


def _abandon(channel: Channel, requester: PullRequester, name: str) -> None:
    """A follower was dropped without ``close()``: called by its finalizer, takes no lock."""
    channel.call_soon(requester.close)
    warn_unclosed(name, None)
