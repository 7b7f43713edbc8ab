"""``Saves``: which saves are whole. Only the records of a whole save are events.

The records of an atomic batch (ADR-50) name its id and their place in it, the last one says that it commits the batch,
and they are adjacent in the stream. A server with one replica stores them one after the other. If its space runs out in
between, the part that it has stored remains; when it is started again, it stores the rest as far as there is space, if
need be after a gap. So a save is whole if its first record and the one that commits it are as far apart as their places
say. Otherwise it is *torn* if another record is stored after it, and *open* while it is the end of the stream, as the
server may still store the rest.

The id of our own batches names their size, so it is known where the last record is. And whoever stores a record after
another one has read that one: a record that expects another one to be the last says that this one is an event, unless
it names another event that is before it (``Aether-Behind``).
"""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from ..._runtime.deadline import Deadline
from ..._runtime.locks import signal_safe_lock
from .api import JetStream
from .messages import IN_BATCH, Member, Record, member_of
from .names import Names
from .tries import Asked

__all__ = ["Judged", "Place", "Saves", "TornSave", "Verdict", "save_of", "torn_saves"]

_KEPT = 16_384  # verdicts, of 200 bytes each
_LARGEST = 1_000  # records of a batch (ADR-50)


class Verdict(Enum):
    """Whether a save is whole."""

    WHOLE = "whole"
    TORN = "torn"  #: it is not, and never will be
    OPEN = "open"  #: it is not, but it is the end of the stream: the server may still store the rest


class Place(NamedTuple):
    """A save, identified by the id of its batch and the sequence of its first record."""

    batch: bytes
    first: int


class Judged(NamedTuple):
    """What is known of a record.

    Attributes:
        verdict: Whether its save is whole.
        member: Its place in the atomic batch that it was stored in; None if it was stored alone.
    """

    verdict: Verdict
    member: Member | None


_ALONE = Judged(Verdict.WHOLE, None)


def save_of(record: Record) -> Place | None:
    """Return the save that a record belongs to; None if it was stored alone."""
    member = record.member
    return None if member is None else _place(record, member)


def _place(record: Record, member: Member) -> Place:
    return Place(member.batch, record.sequence - member.number + 1)


@dataclass(slots=True)
class _Seen:
    """What was read of a save."""

    place: Place
    size: int = 0  # 0 if it is not known
    last: int = 0  # the greatest place read
    has_first: bool = False
    has_end: bool = False
    is_foreign: bool = False

    def see(self, member: Member) -> None:
        if member.number >= member.size and not member.commits:  # the id is not our own, so it does not name the size
            self.is_foreign = True
        if member.commits:
            self.size = member.number
        elif not self.has_end:
            self.size = 0 if self.is_foreign else member.size
        self.last = max(self.last, member.number)
        self.has_first = self.has_first or member.number == 1
        self.has_end = self.has_end or member.commits

    @property
    def is_whole(self) -> bool:
        return self.has_first and self.has_end

    def lacks(self) -> list[int]:
        """Return the sequences of the records that would show that it is whole, as far as they are known."""
        first = [] if self.has_first else [self.place.first]
        return first if self.has_end or not self.size else [*first, self.place.first + self.size - 1]

    def include(self, record: Record | None) -> bool:
        """Note a record if it is of this save; returns whether it is."""
        member = None if record is None else record.member
        if record is None or member is None or _place(record, member) != self.place:
            return False
        self.see(member)
        return True


class Saves:
    """Finds out which saves of a store are whole, and remembers it. Any thread may call it."""

    def __init__(self, jetstream: JetStream, names: Names) -> None:
        self._jetstream = jetstream
        self._names = names
        self._lock = signal_safe_lock()  # guards _known
        self._known: OrderedDict[Place, Verdict] = OrderedDict()  # those that cannot change; the oldest first

    def note(self, save: Place, verdict: Verdict) -> None:
        """Note a verdict on a save that cannot change."""
        with self._lock:
            self._known[save] = verdict
            while len(self._known) > _KEPT:
                self._known.popitem(last=False)

    def forget(self) -> None:
        """Forget all verdicts: the stream may be another one now."""
        with self._lock:
            self._known.clear()

    def known(self, save: Place) -> Verdict | None:
        """Return the verdict on a save; None if it is not known yet."""
        with self._lock:
            return self._known.get(save)

    def verdict(self, record: Record, deadline: Deadline) -> Verdict:
        """Return whether the save of a record is whole; ask the server if that is not known."""
        return self.verdicts([record], deadline)[0]

    def verdicts(self, records: Sequence[Record], deadline: Deadline) -> list[Verdict]:
        """As :meth:`verdict`, for several records; all requests are sent before the first answer is awaited."""
        seen: dict[Place, _Seen] = {}
        places: list[Place | None] = []
        for record in records:
            member = record.member
            save = None if member is None else _place(record, member)
            if save is not None and member is not None:
                seen.setdefault(save, _Seen(save)).see(member)
            places.append(save)
        found = self._judged(seen.values(), deadline)
        return [Verdict.WHOLE if save is None else found[save] for save in places]

    def torn_in_a_row(self, records: Sequence[Record], deadline: Deadline) -> set[int]:
        """Return the sequences of the records that are not events, among adjacent records of an actor."""
        if not any(IN_BATCH in record.headers for record in records):
            return set()
        said, places = _said(records)
        for save, verdict in said.items():
            self.note(save, verdict)
        parts = [(record, save) for record, save in zip(records, places, strict=True) if save is not None]
        doubtful = [(record, save) for record, save in parts if save not in said]
        verdicts = self.verdicts([record for record, _ in doubtful], deadline)
        said.update(zip([save for _, save in doubtful], verdicts, strict=True))
        if all(verdict is Verdict.WHOLE for verdict in said.values()):
            return set()
        return {record.sequence for record, save in parts if said[save] is not Verdict.WHOLE}

    def judge(self, records: Sequence[Record], deadline: Deadline) -> list[Judged]:
        """Return of each record whether its save is whole, and its place in that; note what cannot change.

        Args:
            records: Adjacent records of some subjects, in order.
            deadline: For all requests.
        """
        found: list[tuple[Member, _Seen] | None] = []
        seen: dict[Place, _Seen] = {}
        for record in records:
            member = member_of(record.headers) if IN_BATCH in record.headers else None
            if member is None:
                found.append(None)
                continue
            save = _place(record, member)
            one = seen.get(save)
            if one is None:
                one = seen[save] = _Seen(save)
            one.see(member)
            found.append((member, one))
        doubtful = [one for one in seen.values() if not one.is_whole]
        if doubtful:
            self._note_what_is_said(records)
        verdicts = self._judged(doubtful, deadline)
        for save in seen:
            verdict = verdicts.setdefault(save, Verdict.WHOLE)
            if verdict is not Verdict.OPEN:
                self.note(save, verdict)
        return [_ALONE if one is None else Judged(verdicts[one[1].place], one[0]) for one in found]

    def _note_what_is_said(self, records: Sequence[Record]) -> None:
        """Note what the records of each actor say of those before them."""
        rows: dict[str, list[Record]] = {}
        for record in records:
            rows.setdefault(record.subject, []).append(record)
        for row in rows.values():
            for said, verdict in _said(row)[0].items():
                self.note(said, verdict)

    def _judged(self, saves: Iterable[_Seen], deadline: Deadline) -> dict[Place, Verdict]:
        found: dict[Place, Verdict] = {}
        doubtful = []
        for one in saves:
            verdict = Verdict.WHOLE if one.is_whole else self.known(one.place)
            if verdict is None:
                doubtful.append(one)
            else:
                found[one.place] = verdict
        self._read_missing(doubtful, deadline)
        for one in doubtful:
            verdict = Verdict.WHOLE if one.is_whole else self._by_the_leader(one, deadline)
            if verdict is not Verdict.OPEN:
                self.note(one.place, verdict)
            found[one.place] = verdict
        return found

    def _read_missing(self, saves: Sequence[_Seen], deadline: Deadline) -> None:
        """Read the records that are missing, from any server of the stream."""
        stream, everything = self._names.stream, self._names.all_events
        asked: list[tuple[_Seen, Asked[list[Record]]]] = []
        try:
            for one in saves:
                for sequence in one.lacks():
                    asked.append((one, self._jetstream.ask_one(stream, sequence, deadline)))  # noqa: PERF401
                if not one.has_end and not one.size:
                    start, count = one.place.first + one.last, _LARGEST - one.last
                    rest = self._jetstream.ask_records(stream, everything, start, max(1, count), deadline)
                    asked.append((one, rest))
            for one, answer in asked:
                for record in answer(deadline):
                    if not one.include(record):
                        break
        finally:
            for _, answer in asked:
                answer.forget()

    def _by_the_leader(self, save: _Seen, deadline: Deadline) -> Verdict:
        """Return whether a save is whole that was not seen to be, from the leader."""
        stream, everything = self._names.stream, self._names.all_events
        end = self._end(save.place.first + save.last - 1, deadline)  # first: what is stored after a save stays there
        if end is None:
            return Verdict.OPEN
        for sequence in save.lacks():
            save.include(self._jetstream.next(stream, everything, sequence, deadline))
        while not save.has_end and not save.size:
            following = self._jetstream.next(stream, everything, save.place.first + save.last, deadline)
            if not save.include(following):
                break
        if save.is_whole:
            return Verdict.WHOLE
        return Verdict.OPEN if _is_begun(end, save.place.batch) else Verdict.TORN

    def _end(self, least: int, deadline: Deadline) -> Record | None:
        """Return the last record of all; None from a leader that does not know what others know."""
        stream, everything = self._names.stream, self._names.all_events
        end = self._jetstream.last(stream, everything, deadline)
        end = self._jetstream.last_at_least(stream, everything, least, end, deadline)
        return None if end is None or end.sequence < least else end

    def end_of_saves(self, record: Record, deadline: Deadline) -> int:
        """Return the sequence at which the last whole save ends.

        Args:
            record: The last record of the stream.
            deadline: For all requests.
        """
        while not record.commits and (save := save_of(record)) is not None and save.first > 1:
            before = self._jetstream.next(self._names.stream, self._names.all_events, save.first - 1, deadline)
            if before is None or before.sequence >= save.first:
                return save.first - 1
            record = before
        return record.sequence if record.commits else 0

    def call_off(self, save: Place, subject: str, deadline: Deadline) -> None:
        """Have the server give up an open save, so that it does not store the rest later.

        Args:
            save: The save.
            subject: The subject of one of its records.
            deadline: For all requests.

        Raises:
            StoreUnavailableError: The server has no room even for that.
        """
        self._jetstream.abandon(subject, save.batch, deadline)
        end = self._jetstream.last(self._names.stream, self._names.all_events, deadline)
        if end is not None and _is_begun(end, save.batch):  # else it was finished before, or another record is after it
            self.note(save, Verdict.TORN)


def _said(row: Sequence[Record]) -> tuple[dict[Place, Verdict], list[Place | None]]:
    """Return the verdicts that the records of an actor give on those before them, and the save of each record."""
    said: dict[Place, Verdict] = {}
    places: list[Place | None] = []
    save: Place | None = None
    at = 0
    for record in row:
        if save is not None and record.expects(at):
            said[save] = Verdict.WHOLE if record.behind is None else Verdict.TORN
        at = record.sequence
        member = record.member
        save = None if member is None else Place(member.batch, at - member.number + 1)
        places.append(save)
    return said, places


class TornSave(NamedTuple):
    """A save of which only a part is stored.

    Attributes:
        first: The sequence of the first record of the part.
        last: The sequence of its last record.
        is_open: Whether the server may still store the rest.
    """

    first: int
    last: int
    is_open: bool


def torn_saves(records: Iterable[Record]) -> Iterator[TornSave]:
    """Yield the saves that are not whole.

    Args:
        records: All records of a stream from some sequence on, which may be in the middle of a save.
    """
    run: list[int] = []  # the sequences of adjacent records of one batch
    member: Member | None = None  # the place of the last of them
    whole = False  # so far
    is_first = True
    for record in records:
        before, member = member, record.member
        if member is None or before is None or member.batch != before.batch:
            if run and not (whole and before is not None and before.commits):
                yield TornSave(run[0], run[-1], is_open=False)
            run, whole = [], member is not None and (member.number == 1 or is_first)
        elif member.number != before.number + 1:
            whole = False
        if member is not None:
            run.append(record.sequence)
        is_first = False
    if run and member is not None and not (whole and member.commits):
        yield TornSave(run[0], run[-1], is_open=not member.commits)


def _is_begun(end: Record, batch: bytes) -> bool:
    """Whether the last record of the stream is of a batch whose rest may follow."""
    return end.member is not None and end.member.batch == batch and not end.member.commits
