"""``RecordFlow``: reads the records of a stream as they arrive, and decides which of them may be taken.

A record that was stored alone may be taken as soon as it is read. A record of an atomic batch is *staged*, with all
records after it, until it is known whether its save is whole. The records of a torn save are dropped.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import NamedTuple

from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ...errors import DeadlineExceededError, DisconnectedError, MalformedRecordError, StoreUnavailableError
from ...patterns import SubscriptionFilter
from ..base import StoredEvent
from .flow import Flow
from .messages import IN_BATCH, Member, Record, member_of
from .parts import StoreParts
from .pull import PullRequester, moment_of, place_of
from .saves import Place, Verdict

__all__ = ["LastRead", "RecordFlow"]

_WINDOW = 4_096  # events requested and not yet taken
_STAGED = 1_024  # saves that are staged, at most
_READ_AT_ONCE = 256  # records, during which other threads wait for the lock and no deadline is checked
_BYTES_AT_ONCE = 256 * 2**10  # the same in bytes, which take a few milliseconds
_LEAST = 0.1  # seconds to ask whether saves are whole, even if the caller has no time left
_PATIENCE = 1.0  # seconds to wait for the answer


class LastRead(NamedTuple):
    """The record that was read last: a restored stream has another one at its sequence.

    Attributes:
        sequence: Its sequence.
        moment: When it was stored, in nanoseconds since 1970; 0 if that is not known yet.
    """

    sequence: int
    moment: int


class _Chunk:
    """Records that were read and are staged: those of one save, or those after it that were stored alone."""

    __slots__ = ("found", "heads", "save")

    def __init__(self, save: Place | None) -> None:
        self.save = save
        self.found: list[StoredEvent | MalformedRecordError] = []
        self.heads: dict[int, tuple[bytes, bytes]] = {}  # by sequence: subject and headers, as far as they are needed

    def records(self) -> Iterator[Record]:
        """Return the records without their bodies."""
        for sequence, (subject, headers) in self.heads.items():
            yield Record(sequence, subject.decode(errors="backslashreplace"), headers, b"")


class _Run(NamedTuple):
    """A save whose records are being read one after the other.

    Attributes:
        save: The save.
        has_first: Whether its first record was read.
    """

    save: Place
    has_first: bool


class RecordFlow(Flow):
    """Reads the records of a stream as they arrive, in order. Any thread; the subclass waits, and begins consumers.

    Args:
        parts: Those of the store.
        after: The sequence of the last record that need not be read.
        filter: Which events may be taken.
    """

    def __init__(self, parts: StoreParts, after: int, filter: SubscriptionFilter) -> None:  # noqa: A002
        names = parts.names
        requester = PullRequester(parts.channel, names.stream, _WINDOW)
        super().__init__(parts.channel, requester, signal_safe_lock())
        self._reader = parts.reader
        self._saves = parts.reader.saves
        self._filter = filter
        self._subject = names.wanted(filter.actor_pattern or None)
        self._sees_all = self._subject == names.all_events
        self._takes_all = filter.is_empty
        # Guarded by the lock:
        self._ready: deque[StoredEvent | MalformedRecordError] = deque()  # taken from without it
        self._pop_ready = self._ready.popleft
        self._staged: deque[_Chunk] = deque()  # read, and not ready yet
        self._run: _Run | None = None  # whose end has not come yet
        self._sequence = self._scanned = after  # of the last that was taken, and that was read
        self._number = 0  # of the last delivery
        self._is_reading = False  # half done, if it stays so
        self._last = LastRead(after, 0)  # or one before it
        self._consumer = b""

    # -- taking

    def _pop(self, deadline: Deadline, only_events: bool = False) -> StoredEvent | MalformedRecordError | None:
        """Take the next record that is wanted; None if there is none.

        It reads what has arrived, a little at least, and more until something wanted is found or the time is over.
        """
        with self._lock:
            while True:
                if self._closed:  # perhaps by a signal handler, here
                    if only_events:
                        return None
                    raise self._end()
                while not self._ready:
                    if not self._read() or not (self._ready or deadline.remaining()):
                        return None
                try:
                    if only_events and not isinstance(self._ready[0], StoredEvent):
                        return None
                    found = self._pop_ready()
                except IndexError:  # another thread was quicker, or the follower was closed
                    continue
                self._sequence = max(self._sequence, found.sequence)
                return found

    def _pop_event(self, deadline: Deadline) -> StoredEvent:
        """Take the next record, reading what has arrived; raise IndexError if there is none, or it is not an event."""
        found = self._pop(deadline, only_events=True)
        if not isinstance(found, StoredEvent):
            raise IndexError
        return found

    def _give_back(self, batch: list[StoredEvent]) -> None:
        """Put back the events that were taken last, to be taken next; the checkpoint goes back, too."""
        with self._lock:
            if not self._closed:
                self._ready.extendleft(reversed(batch))
            self._sequence = min(self._sequence, batch[0].sequence - 1)
        self._buffer.changed.wake(len(batch))

    def _has_some(self) -> bool:
        return bool(self._ready) or super()._has_some()

    def _forget(self) -> None:
        self._ready.clear()  # or who iterates would take it, who looks at nothing else
        self._staged.clear()

    # -- reading

    def _read(self) -> bool:
        """Read some of what has arrived; returns whether there was anything.

        A message stays among what has arrived until it is noted that it was read. So whoever is interrupted here goes
        on at the same message.

        Every followed event passes here, so it is one function, and reads the acknowledgement's subject in place: with
        a function for each record it took 3 % longer (2.39 us instead of 2.31 us), with a call of a parser alone 2 %.
        """
        buffer = self._buffer
        arrived = buffer.arrived
        if buffer.is_broken or not arrived or len(self._staged) >= _STAGED:
            self._pass_over()
            return False
        self._resume(arrived[0][1])
        number, scanned, size = self._number, self._scanned, 0
        reply, headers, sequence = b"", b"", -1
        for _ in range(min(len(arrived), _READ_AT_ONCE)):
            subject, reply, headers, data = arrived[0]
            tokens = reply.split(b".")  # as place_of() does
            if len(tokens) == 9:
                consumer, sequence, place = tokens[3], int(tokens[5]), int(tokens[6])
            else:
                consumer, (_, sequence, place) = tokens[5], place_of(reply)
            if consumer != self._consumer:  # an earlier consumer, whose messages were still on their way
                arrived.popleft()
                continue
            number += 1
            if place != number:
                buffer.break_off()
                break
            if sequence > scanned:
                member = member_of(headers) if IN_BATCH in headers else None
                save = None
                if member is not None or self._run is not None:
                    save = self._note_run(sequence, member)
                found: StoredEvent | MalformedRecordError | None = None
                try:
                    event = self._reader.event(sequence, subject, data)
                except MalformedRecordError as error:
                    found = error
                else:
                    if self._takes_all or self._filter.matches(event):
                        ends, first = True, 0
                        if member is not None:
                            ends, first = member.ends_save, sequence - member.place + 1
                        found = StoredEvent(event, sequence, False, ends, first)
                if found is not None:
                    if save is None and not self._staged:
                        self._ready.append(found)
                    else:
                        self._stage(found, save, subject, headers)
                self._scanned = scanned = sequence
            arrived.popleft()
            size += len(data)
            if size > _BYTES_AT_ONCE:
                break
        self._number = number
        if sequence == scanned:
            self._last = LastRead(sequence, moment_of(reply))
        self._is_reading = False
        self._sort_out()
        self._pass_over()
        self._requester.request_more()
        return True

    def _resume(self, reply: bytes) -> None:
        """Begin to read; where it was interrupted before it had noted everything, note it now.

        Args:
            reply: Where the next message is acknowledged.
        """
        if self._is_reading:
            self._note_read()
            self._number = place_of(reply).number - 1
        self._is_reading = True

    def _note_read(self) -> None:
        """Note how far was read, also by a reading that was interrupted."""
        ready = self._ready[-1].sequence if self._ready else 0
        staged = self._staged[-1].found[-1].sequence if self._staged else 0
        self._scanned = max(self._scanned, self._sequence, ready, staged)

    def _pass_over(self) -> None:
        """Move the checkpoint past records that were skipped, if nothing is left to be taken before them."""
        passed = self._passed()
        if not (self._ready or self._closed):  # a signal handler may have closed it: then what was ready is not taken
            self._sequence = max(self._sequence, passed)

    def _passed(self) -> int:
        """Return the sequence up to which nothing can be taken any more, once nothing is ready."""
        try:
            return self._staged[0].found[0].sequence - 1
        except IndexError:
            return self._scanned

    # -- whole saves

    def _note_run(self, sequence: int, member: Member | None) -> Place | None:
        """Note how the save goes on whose records are being read; return the save of the record that was read.

        A follower of all subjects sees which saves are whole. It notes that for all readers of the store; to note it
        twice does no harm.
        """
        run = self._run
        if member is None:
            save, has_first = None, False
        else:
            first = sequence - member.number + 1
            if run is not None and run.save == (member.batch, first):
                save, has_first = run.save, run.has_first
                if not member.commits:
                    return save
            else:
                save, has_first = Place(member.batch, first), member.number == 1
        if not self._sees_all:
            return save
        if run is not None and run.save != save:
            self._saves.note(run.save, Verdict.TORN)
        if save is None or member is None:
            self._run = None
            return None
        if member.commits and has_first:
            self._saves.note(save, Verdict.WHOLE)
        self._run = None if member.commits else _Run(save, has_first)
        return save

    def _stage(
        self, found: StoredEvent | MalformedRecordError, save: Place | None, subject: bytes, headers: bytes
    ) -> None:
        """Stage a record until it is known whether its save is whole."""
        chunk = self._staged[-1] if self._staged else None
        if chunk is None or chunk.save != save:
            chunk = _Chunk(save)
            chunk.found.append(found)
            chunk.heads[found.sequence] = subject, headers
            self._staged.append(chunk)
            return
        if not self._sees_all:
            chunk.heads[found.sequence] = subject, headers
        chunk.found.append(found)

    def _sort_out(self) -> bool:
        """Make records of whole saves ready, and drop those of torn ones; return whether there were any."""
        staged, ready = self._staged, self._ready
        any_found = False
        with suppress(IndexError):  # when none is left
            while True:
                first = staged[0]
                found = first.found
                verdict = Verdict.WHOLE if first.save is None else self._saves.known(first.save)
                if verdict is None:
                    break
                if verdict is Verdict.WHOLE:
                    done = max(self._sequence, ready[-1].sequence if ready else 0)
                    if found[0].sequence <= done:  # they are ready already: it was interrupted here
                        found = [one for one in found if one.sequence > done]
                    ready.extend(found)
                staged.popleft()
                any_found = True
        if self._closed:  # by a signal handler, here or while reading
            self._forget()
        if any_found:  # other threads may wait for some of them
            self._buffer.changed.wake(len(ready))
        return any_found

    def _decide(self, deadline: Deadline) -> bool:
        """Ask the server whether the staged saves are whole; return whether records were made ready or dropped."""
        with self._lock:
            run = self._run
            chunks = [one for one in self._staged if run is None or one.save != run.save]
            records = [record for one in chunks for record in one.records()]
        if records:
            patience = Deadline(min(_PATIENCE, max(deadline.remaining(), _LEAST)))
            try:
                self._saves.verdicts_of_all(records, patience)
            except (DeadlineExceededError, DisconnectedError, StoreUnavailableError):
                return False
        with self._lock:
            return self._sort_out()
