"""``Tail``: the newest events of a store, for all streams of a process: one follower, one thread, one copy in memory.

A stream has a *cursor*, the sequence up to which it has sent everything, and nothing else is kept for it. As long as
the tail still has what comes after the cursor, the stream takes it from there; a stream that begins further in the
past reads from the store until it is there. So there is no gap and nothing twice where one way ends and the other
begins, and a client that is slow costs no memory.

The tail begins when a stream wants it, with events of the near past, since browsers that come back after a restart want
those. It ends a few seconds after the last stream, or with its store, or by an error. In a forked child there is none.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import count, takewhile
from threading import Thread
from typing import Protocol

from ..._bus.readers import Readers
from ..._runtime.deadline import Deadline
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.locks import signal_safe_lock
from ..._runtime.registry import WeakRegistry
from ..._runtime.reporter import Kind, Reporter
from ..._runtime.threads import NoThreadError, make_thread, start
from ..._runtime.waits import ParkingLot
from ..._values.clock import monotonic
from ..._values.shown import explained
from ...errors import (
    AetherError,
    ClosedError,
    MalformedRecordError,
    RetryableError,
)
from ...events import Event
from ...patterns import SubscriptionFilter
from ...stores.base import Follower
from ...stores.event_store import EventStore
from ._format import as_json, message

__all__ = ["Cursor", "Entry", "Member", "Standing", "Tail", "tails"]

_KEPT = 1_000  # events: what happens while a server restarts, for most pages
_KEPT_BYTES = 8 * 2**20  # of their messages; the events themselves take about as much again
_TAKEN_BYTES = 64 * 2**10  # of one chunk
_AT_ONCE = 256  # events that are read at once
_GRACE = 5.0  # seconds without a stream after which the tail ends: a page that is loaded again finds it
_BEGIN = 5.0  # seconds to begin to follow, then again
_PAUSES = (0.1, 0.2, 0.5, 1.0)  # seconds between attempts to begin; the last one again and again

_numbers = count(1)


class Entry:
    """An event, and its message, which all streams send that have no ``encode`` of their own.

    Attributes:
        sequence: Its place in the store.
        event: The event.
    """

    __slots__ = ("_message", "event", "sequence")

    def __init__(self, sequence: int, event: Event) -> None:
        self.sequence = sequence
        self.event = event
        self._message = b""

    @property
    def message(self) -> bytes:
        """The message. If two threads make it at the same time, they make the same."""
        if not self._message:
            self._message = message(self.event.event_type, as_json(self.event), self.sequence)
        return self._message


class Standing(Enum):
    """Why a cursor finds no events in the tail."""

    AT_END = "there are none; it is told when there are"
    NOT_BEGUN = "the tail does not know yet where the store ends; it is told"
    BEHIND = "the tail does not have them any more, or never had"
    OVER = "the tail has ended"


class Cursor:
    """Where one stream is. What changes it holds the lock of the tail.

    Attributes:
        wanted: Which events the stream sends.
        position: Up to this sequence everything is sent, or not wanted; None for the end of the store when the tail
            begins. While the cursor waits, it is where the tail is.
        has_joined: Whether it was ever at the end of the tail.
        is_told: Whether there is something new since it began to wait.
        readers: Who waits for that.
    """

    __slots__ = ("__weakref__", "has_joined", "is_told", "position", "readers", "wanted")

    def __init__(self, wanted: SubscriptionFilter, position: int | None) -> None:
        self.wanted = wanted
        self.position = position
        self.has_joined = False
        self.is_told = False
        self.readers = Readers()

    def tell(self) -> None:
        """Say that there is something new; not under the lock."""
        self.is_told = True
        self.readers.wake_all()


class Member(Protocol):
    """A stream, as far as the tail knows it."""

    @property
    def closed(self) -> bool:
        """Whether it wants nothing any more."""


class Tail:
    """The newest events of one store. Any thread.

    Args:
        store: The store.
    """

    def __init__(self, store: EventStore) -> None:
        self.store = store
        self.members: WeakRegistry[Member] = WeakRegistry()  #: its streams, also those that are closed
        self._lock = signal_safe_lock()  # guards all that is below, and the cursors
        self._entries: deque[Entry] = deque()
        self._bytes = 0  # of their messages
        self._floor: int | None = None  # every event after it, up to _position, is in _entries; None before the begin
        self._position = 0  # the last sequence that was read
        self._began_at = 0  # where the store ended when the tail began
        self._waiting: dict[SubscriptionFilter, set[Cursor]] = {}  # cursors at the end, by what they want
        self._is_over = False
        self._empty_since: float | None = None  # since when there is no stream
        self._follower: Follower | None = None
        self._has_failed = False  # an attempt to begin
        self._pausing = ParkingLot()
        self._reporter = Reporter()
        self._thread: Thread | None = None

    # -- for streams

    def ensure_thread(self) -> None:
        """Start the thread, unless it has been started. If there is none to be had now, the next call tries again."""
        with self._lock:
            if self._thread is not None or self._is_over:
                return
            self._thread = thread = make_thread(self._run, name=f"aether-sse-{next(_numbers)}")
        try:
            start(thread)
        except NoThreadError as error:
            if error.is_passing:
                self._thread = None
            else:
                self._end()

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self._is_over

    @property
    def is_away(self) -> bool:
        """Whether the store cannot be read now, as far as this is known without asking."""
        follower = self._follower
        return self._has_failed if follower is None else not follower.is_connected

    @property
    def position(self) -> int | None:
        """The last sequence that was read; None before the begin."""
        return None if self._floor is None else max(self._position, self._began_at)

    @property
    def floor(self) -> int:
        """The sequence after which it has every event."""
        return self._floor or 0

    def take(self, cursor: Cursor) -> list[Entry] | Standing:
        """Return the next wanted events, as many as make a chunk, and move the cursor behind them."""
        with self._lock:
            self._leave(cursor)
            if self._is_over:
                return Standing.OVER
            if self._floor is None:
                self._wait(cursor)
                return Standing.NOT_BEGUN
            if cursor.position is None:
                cursor.position = self._began_at
            if cursor.position < self._floor:
                return Standing.BEHIND
            found = self._after(cursor)
            if not found:
                cursor.has_joined = True
                self._wait(cursor)
                return Standing.AT_END
            return found

    def settle(self, cursor: Cursor) -> int | None:
        """Let a cursor wait no more, and return its position."""
        with self._lock:
            self._leave(cursor)
            return cursor.position

    def move(self, cursor: Cursor, position: int) -> None:
        """Note that a stream has read from the store itself."""
        with self._lock:
            cursor.position = position

    def _after(self, cursor: Cursor) -> list[Entry]:
        position = cursor.position or 0
        fresh = list(takewhile(lambda entry: entry.sequence > position, reversed(self._entries)))
        found: list[Entry] = []
        size = 0
        for entry in reversed(fresh):
            cursor.position = entry.sequence
            if cursor.wanted.matches(entry.event):
                found.append(entry)
                size += len(entry.message)
                if size >= _TAKEN_BYTES:
                    break
        return found

    def _wait(self, cursor: Cursor) -> None:
        cursor.is_told = False
        self._waiting.setdefault(cursor.wanted, set()).add(cursor)

    def _leave(self, cursor: Cursor) -> None:
        """Take a cursor out of those that wait. What the tail has read meanwhile it did not want, or it was told."""
        group = self._waiting.get(cursor.wanted)
        if group is None or cursor not in group:
            return
        group.remove(cursor)
        if not group:
            del self._waiting[cursor.wanted]
        if cursor.position is not None and self._floor is not None:
            cursor.position = max(cursor.position, self._position)

    # -- the thread

    def _run(self) -> None:
        try:
            with self._followed() as follower:
                while not self._is_over and tails.is_wanted(self):
                    self._read(follower)
        except ClosedError:  # the store, or the process, has ended
            pass
        except AetherError as error:
            text = "server-sent events of %r end, and browsers connect again: %s"
            self._reporter.warning(Kind.STREAMS_ENDED, text, self.store, explained(error))
        except Exception as error:  # of this library: the next stream begins another tail
            self._reporter.mistake(error)
        finally:
            self._end()
            self._reporter.end()

    @contextmanager
    def _followed(self) -> Iterator[Follower]:
        """Follow the store from the near past on; wait for it while it is away."""
        follower = self._begin()
        try:
            yield follower
        finally:
            follower.close()

    def _begin(self) -> Follower:
        """Begin to follow.

        Raises:
            ClosedError: The store is closed, or nobody wants the tail any more.
            AetherError: The store cannot be followed.
        """
        for attempt in count():
            try:
                end = self.store.last_sequence(timeout=_BEGIN)
                after = max(0, end - _KEPT)
                follower = self.store.follow(after=after, timeout=_BEGIN)
            except RetryableError:
                self._has_failed = True
                pause = _PAUSES[min(attempt, len(_PAUSES) - 1)]
                self._pausing.wait(lambda: self._is_over, Deadline(pause))
                if self._is_over or not tails.is_wanted(self):
                    break
                continue
            with self._lock:
                self._follower = follower
                self._began_at = end
                self._floor = self._position = after
                told = self._take_waiting()
            _tell(told)
            return follower
        raise ClosedError("nobody wants it")

    def _read(self, follower: Follower) -> None:
        try:
            batch = follower.get_batch(_AT_ONCE, timeout=_GRACE)
        except MalformedRecordError as error:
            text = "record %d of %r is not an event, and pages that follow it do not get it"
            self._reporter.warning(Kind.MALFORMED_RECORD, text, error.sequence, self.store, sequence=error.sequence)
            return
        if batch:
            self._add([Entry(stored.sequence, stored.event) for stored in batch])

    def _add(self, entries: list[Entry]) -> None:
        """Keep events, and tell those who want one of them. Those who want none sleep on."""
        with self._lock:
            groups = list(self._waiting)
        firsts = {wanted: _first(entries, wanted) for wanted in groups}  # without the lock: it takes long for many
        size = sum(len(entry.message) for entry in entries)
        told: list[Cursor] = []
        with self._lock:
            self._entries.extend(entries)
            self._bytes += size
            self._position = entries[-1].sequence
            while len(self._entries) > _KEPT or self._bytes > _KEPT_BYTES:
                oldest = self._entries.popleft()
                self._bytes -= len(oldest.message)
                self._floor = oldest.sequence
            for wanted in list(self._waiting):
                first = firsts[wanted] if wanted in firsts else _first(entries, wanted)
                if first is not None:
                    group = self._waiting.pop(wanted)
                    self._place(group, first - 1)
                    told += group
        _tell(told)

    def _place(self, cursors: Iterable[Cursor], position: int) -> None:
        """Move cursors that have waited. None of them is slow, also if so much has come that the tail has lost some."""
        for cursor in cursors:
            if cursor.position is not None:
                cursor.position = max(cursor.position, position)
                cursor.has_joined = cursor.has_joined and cursor.position >= (self._floor or 0)

    def _take_waiting(self) -> list[Cursor]:
        told = [cursor for group in self._waiting.values() for cursor in group]
        self._waiting.clear()
        return told

    # -- its end

    def stop(self) -> None:
        """End it, and with it its streams. Any thread, also a signal handler."""
        self._end()
        self._pausing.wake_all()
        follower = self._follower
        if follower is not None:
            follower.close()

    def _end(self) -> None:
        tails.forget(self)
        with self._lock:
            self._is_over = True
            told = self._take_waiting()
            self._entries.clear()
        _tell(told)

    def _is_idle(self) -> bool:
        """Whether there has been no stream for a while."""
        if any(not member.closed for member in self.members):
            self._empty_since = None
        elif self._empty_since is None:
            self._empty_since = monotonic()
        return self._empty_since is not None and monotonic() - self._empty_since >= _GRACE


class _Tails(ForkAware):
    """The tails of this process, one for each store."""

    def __init__(self) -> None:
        self._lock = signal_safe_lock()  # guards what is below
        self._tails: dict[int, Tail] = {}  # by the id of the store, which the tail keeps alive
        fork_aware.add(self)

    def find(self, store: EventStore) -> Tail | None:
        """Return the tail of a store; None if there is none."""
        return self._tails.get(id(store))

    def join(self, store: EventStore, member: Member) -> Tail:
        """Return the tail of a store, which does not end now as long as this stream is open."""
        with self._lock:
            tail = self._tails.get(id(store))
            if tail is None:
                tail = self._tails[id(store)] = Tail(store)
            tail.members.add(member)
        tail.ensure_thread()
        return tail

    def is_wanted(self, tail: Tail) -> bool:
        """Whether a tail has streams, or had one just now; if not, no stream joins it any more."""
        with self._lock:
            if not tail._is_idle():
                return True
            self.forget(tail)
        return False

    def forget(self, tail: Tail) -> None:
        """Let no stream join a tail any more."""
        with self._lock:
            if self._tails.get(id(tail.store)) is tail:
                del self._tails[id(tail.store)]

    def _after_fork(self) -> None:
        for tail in self._tails.values():
            tail._is_over = True  # its thread is the parent's
        self._tails = {}


#: Those of this process.
tails = _Tails()


def _first(entries: Iterable[Entry], wanted: SubscriptionFilter) -> int | None:
    """Return the sequence of the first event that is wanted."""
    return next((entry.sequence for entry in entries if wanted.matches(entry.event)), None)


def _tell(cursors: Iterable[Cursor]) -> None:
    for cursor in cursors:
        cursor.tell()
