"""``RecordFlow``: reads the records of a stream as they arrive, and decides which of them may be taken.

A record that was stored alone may be taken as soon as it is read. A record of an atomic batch is *staged*, with all
records after it, until it is known whether its save is whole. The records of a torn save are dropped.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from itertools import accumulate, islice, repeat
from operator import call
from typing import NamedTuple, cast

from ..._nats.interest import Message
from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from ...errors import DeadlineExceededError, DisconnectedError, MalformedRecordError, StoreUnavailableError
from ...events import Event
from ...patterns import SubscriptionFilter
from ..base import StoredEvent
from .flow import Flow
from .messages import IN_BATCH, Member, Record, member_of
from .parts import StoreParts
from .pull import PullRequester, consumer_of, moment_of, place_of, sequences_of
from .saves import Place, Verdict

__all__ = ["LastRead", "RecordFlow"]

_WINDOW = 4_096  # events requested and not yet taken
_STAGED = 1_024  # saves that are staged, at most
_READ_AT_ONCE = 256  # records, during which other threads wait for the lock and no deadline is checked
_SEVERAL = 5  # messages, which take as long together as each by itself
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


class _Part(NamedTuple):
    """A part of what has arrived, which is read in one go.

    Attributes:
        sequences: The sequences of the records to be read.
        messages: The messages of these records.
        passed: With how many of the messages that have arrived it is done then.
        number: The number of the last delivery of these.
    """

    sequences: list[int]
    messages: list[Message]
    passed: int
    number: int


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
        self._counts = parts.counts
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
        """
        buffer = self._buffer
        arrived = buffer.arrived
        if buffer.is_broken or not arrived or len(self._staged) >= _STAGED:
            self._pass_over()
            return False
        most = 1 if self._resume(arrived[0][1]) else _READ_AT_ONCE  # or who is interrupted often would not get on
        part = self._part(_beginning(arrived, most))
        number = self._add(part.sequences, part.messages) if part.sequences else 0
        if part.sequences:
            self._last = LastRead(part.sequences[-1], moment_of(part.messages[-1][1]))
        self._number = part.number
        deque(map(call, repeat(arrived.popleft, part.passed)), maxlen=0)  # in one step
        self._is_reading = False
        self._counts.read(number)
        self._sort_out()
        self._pass_over()
        self._requester.request_more()
        return True

    def _part(self, messages: list[Message]) -> _Part:
        """Find out which messages in a row are the next ones: of this consumer, and not read already.

        Where a delivery is missing, the flow breaks off, and the messages after it do not count.
        """
        consumer, number, scanned = self._consumer, self._number, self._scanned
        if len(messages) >= _SEVERAL:
            all_of_them = sequences_of([reply for _, reply, _, _ in messages], consumer, number)
            if all_of_them is not None and all_of_them[0] > scanned:
                return _Part(all_of_them, messages, len(messages), number + len(messages))
        sequences: list[int] = []
        kept: list[Message] = []
        passed = 0
        for message in messages:
            if consumer_of(message[1]) == consumer:  # or of an earlier one, whose messages were still on their way
                _, sequence, place = place_of(message[1])
                if place != number + 1:
                    self._buffer.break_off()
                    break
                number = place
                if sequence > scanned:
                    sequences.append(sequence)
                    kept.append(message)
                    scanned = sequence
            passed += 1
        return _Part(sequences, kept, passed, number)

    def _add(self, sequences: list[int], messages: list[Message]) -> int:
        """Decode records, make them ready or stage them, and return how many of them are wanted."""
        found = self._reader.events(sequences, messages)
        if self._run is None and not self._staged and IN_BATCH not in b"".join([head for _, _, head, _ in messages]):
            if self._takes_all and {*map(type, found)} == {Event}:
                self._ready.extend(map(StoredEvent, cast(list[Event], found), sequences))
                number = len(found)
            else:
                wanted = [_stored(one, at) for one, at in zip(found, sequences, strict=True) if self._wants(one)]
                self._ready.extend(wanted)
                number = len(wanted)
            self._scanned = sequences[-1]
            return number
        number = 0
        for event, sequence, (subject, _, headers, _) in zip(found, sequences, messages, strict=True):
            member = member_of(headers) if IN_BATCH in headers else None
            save = None
            if member is not None or self._run is not None:
                save = self._note_run(sequence, member)
            if self._wants(event):
                number += 1
                ends, first = (True, 0) if member is None else (member.ends_save, sequence - member.place + 1)
                one = _stored(event, sequence, ends, first)
                if save is None and not self._staged:
                    self._ready.append(one)
                else:
                    self._stage(one, save, subject, headers)
            self._scanned = sequence
        return number

    def _wants(self, found: Event | MalformedRecordError) -> bool:
        return self._takes_all or isinstance(found, MalformedRecordError) or self._filter.matches(found)

    def _resume(self, reply: bytes) -> bool:
        """Begin to read; where it was interrupted before it had noted everything, note it now.

        Args:
            reply: Where the next message is acknowledged.

        Returns:
            Whether it was interrupted.
        """
        was_reading = self._is_reading
        if was_reading:
            self._note_read()
            self._number = min(self._number, place_of(reply).number - 1)
        self._is_reading = True
        return was_reading

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

    def _left(self) -> int:
        """Return how many events are not taken yet, as far as that is known here.

        It takes no lock. What moves from one place to the next meanwhile may be counted in both, and is never missing.
        """
        buffer = self._buffer
        left = buffer.left + len(buffer.arrived)
        return left + sum(len(chunk.found) for chunk in list(self._staged)) + len(self._ready)

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
                self._saves.judge(records, patience)
            except (DeadlineExceededError, DisconnectedError, StoreUnavailableError):
                return False
        with self._lock:
            return self._sort_out()


def _stored(
    found: Event | MalformedRecordError, sequence: int, ends_batch: bool = True, batch: int = 0
) -> StoredEvent | MalformedRecordError:
    return found if isinstance(found, MalformedRecordError) else StoredEvent(found, sequence, False, ends_batch, batch)


def _beginning(arrived: deque[Message], most: int) -> list[Message]:
    """Return the first messages, up to a number, and up to the one with which they have enough bytes."""
    while True:
        try:
            messages = list(islice(arrived, most))
        except RuntimeError:  # the collector ran here, a finalizer let the loop thread go on, and more has arrived
            continue
        break
    sizes = [len(data) for _, _, _, data in messages]
    if sum(sizes) > _BYTES_AT_ONCE:
        del messages[bisect_right(list(accumulate(sizes)), _BYTES_AT_ONCE) + 1 :]
    return messages
