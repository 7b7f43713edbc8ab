"""``History``: reads the events of all actors, page by page, and finds where they end.

Any server of the stream may answer a page, and it may be behind the leader. Therefore the leader is asked where the
stream ends, in one go with the first page, and for what the other server lacks. So a page has all that was stored
before it was asked for.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from math import ceil
from typing import NamedTuple

from ..._runtime.deadline import Deadline
from ...errors import MalformedRecordError, StoreUnavailableError
from ...patterns import SubscriptionFilter
from .._checks import in_time
from .._wanted import Wanted
from ..base import StoredEvent
from .api import JetStream
from .cache import VersionCache
from .messages import Record, stored_at
from .names import Names
from .reader import Reader
from .saves import Judged, Verdict
from .tries import Asked

__all__ = ["History"]

_PAGE = 1_000  # records in one answer
_ACTORS = 256  # actors whose last records are asked for in one go


class _End(NamedTuple):
    """Where a stream ends, as its leader says.

    Attributes:
        whole: The last sequence at which a save ends.
        last: The last record of the wanted subjects; it may be after ``whole``.
    """

    whole: int
    last: Record | None


class History:
    """Reads the events of all actors of one store. Any thread may call it."""

    def __init__(self, jetstream: JetStream, names: Names, cache: VersionCache, reader: Reader) -> None:
        self._jetstream = jetstream
        self._names = names
        self._cache = cache
        self._reader = reader
        self._saves = reader.saves
        self._lacked = 0  # a sequence that a leader did not know even when it was asked again; replaced whole

    def read(self, page: Wanted, wanted: SubscriptionFilter, deadline: Deadline) -> list[StoredEvent]:
        """Return events of all actors.

        Args:
            page: Their sequences, and how many at most.
            wanted: Which of them.
            deadline: For all requests.

        Raises:
            MalformedRecordError: The first record is not an event.
        """
        assert page.limit is not None
        limit, looked, found = page.limit, 0, list[StoredEvent]()

        def lacks(waiting: int) -> int:
            rate = max(len(found) / looked, 1 / _PAGE) if looked else 1.0  # of the records, are wanted
            return min(_PAGE, ceil((limit - len(found)) / rate) - waiting)

        with closing(self._pages(self._subject(wanted), page.after, page.until, lacks, deadline)) as pages:
            for records in pages:
                for record, judged in in_time(self._whole(records, deadline), deadline):
                    try:
                        event = self._reader.decoded(record)
                    except MalformedRecordError:
                        if found:
                            return found
                        raise
                    if wanted.matches(event):
                        found.append(stored_at(record.sequence, event, judged.member))
                        if len(found) == limit:
                            return found
                looked += len(records)
        return found

    def _whole(self, records: Sequence[Record], deadline: Deadline) -> Iterator[tuple[Record, Judged]]:
        """Yield those of adjacent records that belong to whole saves, with their places in these."""
        for record, judged in zip(records, self._saves.judge(records, deadline), strict=True):
            if judged.verdict is Verdict.OPEN:  # though the leader has said that it is not
                raise StoreUnavailableError(
                    f"record {record.sequence} is not read: the leader of stream {self._names.stream!r} does not know "
                    "yet what the other servers know"
                )
            if judged.verdict is Verdict.WHOLE:
                yield record, judged

    def _pages(
        self, subject: str, after: int, until: int, lacks: Callable[[int], int], deadline: Deadline
    ) -> Generator[list[Record]]:
        """Yield adjacent records of some subjects, up to where the leader says that the last whole save ends.

        While a page is looked at, the next one is on its way.

        Args:
            subject: The subjects.
            after: The sequence after which to begin.
            until: The last sequence wanted.
            lacks: Returns how many records to request next if so many have come that were not looked at yet.
            deadline: For all requests.
        """
        stream = self._names.stream
        asked_end = self._ask_end(subject, deadline)
        asked = self._jetstream.ask_page(stream, subject, after + 1, lacks(0), deadline)
        try:
            end = self._end(asked_end, subject, deadline)
            until = min(until, end.whole)
            last = None
            while True:
                page = asked(deadline)
                last = page.records[-1] if page.records else last
                after = after if last is None else last.sequence
                is_last = not page.records or not page.pending or after >= until
                count = 0 if is_last else lacks(len(page.records))
                if count > 0:
                    asked = self._jetstream.ask_page(stream, subject, after + 1, count, deadline)
                yield [record for record in page.records if record.sequence <= until]
                if is_last:
                    break
                if count <= 0:
                    asked = self._jetstream.ask_page(stream, subject, after + 1, lacks(0), deadline)
        finally:
            asked.forget()
            for one in asked_end:
                one.forget()
        yield from self._missing(subject, after, last, until, end, deadline)

    def _missing(
        self, subject: str, after: int, last: Record | None, until: int, end: _End, deadline: Deadline
    ) -> Iterator[list[Record]]:
        """Yield the leader's records that the other server lacked.

        The leader was asked for the last of all records and for the last of these subjects at once, so between the two
        answers a save may have been stored: if the last record does not end its save, the leader is asked for more.

        Args:
            subject: The subjects.
            after: The sequence after which to begin.
            last: The last record that was read; None if none was.
            until: The last sequence wanted.
            end: Where the stream ends.
            deadline: For all requests.
        """
        known = 0 if end.last is None else end.last.sequence
        while after < until and (after < known or not (last is None or last.commits)):
            last = self._jetstream.next(self._names.stream, subject, after + 1, deadline)
            if last is None or last.sequence > until:
                return
            after = last.sequence
            yield [last]

    # -- the end

    def last_sequence(self, wanted: SubscriptionFilter, deadline: Deadline) -> int:
        """Return the sequence of the last event of the wanted actors; 0 if there is none."""
        subject = self._subject(wanted)
        end = self._end(self._ask_end(subject, deadline), subject, deadline)
        if not wanted.actor_pattern:
            return end.whole
        if end.last is None:
            return 0
        if self._is_event_of(wanted, end.last, deadline):
            return end.last.sequence
        return self._last_before(wanted, end.last.sequence, deadline) or self._last_of_each(wanted, deadline)

    def _is_event_of(self, wanted: SubscriptionFilter, record: Record, deadline: Deadline) -> bool:
        return self._is_of(wanted, record.subject) and self._saves.verdict(record, deadline) is Verdict.WHOLE

    def _last_before(self, wanted: SubscriptionFilter, end: int, deadline: Deadline) -> int:
        """Return the last sequence of the wanted actors among those shortly before one; 0 if there is none."""
        found = 0
        pages = self._pages(self._subject(wanted), max(0, end - _PAGE), end, lambda _: _PAGE, deadline)
        with closing(pages):
            for records in pages:
                for record, _ in self._whole(records, deadline):
                    if self._is_of(wanted, record.subject):
                        found = record.sequence
        return found

    def _last_of_each(self, wanted: SubscriptionFilter, deadline: Deadline) -> int:
        """Return the last sequence of the wanted actors; each of them is asked for."""
        stream = self._names.stream
        counts = self._jetstream.counts(stream, self._subject(wanted), deadline)
        subjects = [one for one in in_time(counts, deadline) if self._is_of(wanted, one)]
        last = 0
        for start in range(0, len(subjects), _ACTORS):
            asked = [self._jetstream.ask_last(stream, one, deadline) for one in subjects[start : start + _ACTORS]]
            there = [record for one in asked if (record := one(deadline)) is not None]
            for record, verdict in zip(there, self._saves.verdicts(there, deadline), strict=True):
                if verdict is Verdict.WHOLE:
                    last = max(last, record.sequence)
                elif record.sequence > last:
                    last = max(last, self._reader.refresh(self._names.actor_id(record.subject), deadline).sequence)
        return last

    def _is_of(self, wanted: SubscriptionFilter, subject: str) -> bool:
        """Whether a subject is that of a wanted actor."""
        actor_id = self._names.actor_id_of(subject)
        return actor_id is not None and wanted.matches_actor(actor_id)

    def _ask_end(self, subject: str, deadline: Deadline) -> list[Asked[Record | None]]:
        """Ask the leader for the last record of all and for that of some subjects; send both questions and return."""
        subjects = dict.fromkeys((self._names.all_events, subject))
        return [self._jetstream.ask_last(self._names.stream, one, deadline) for one in subjects]

    def _end(self, asked: Sequence[Asked[Record | None]], subject: str, deadline: Deadline) -> _End:
        everything, *others = [one(deadline) for one in asked]
        newest = self._newest(everything, deadline)
        last = others[0] if others else newest
        if others and newest is not everything:
            last = self._jetstream.last(self._names.stream, subject, deadline)
        return _End(0 if newest is None else self._saves.end_of_saves(newest, deadline), last)

    def _newest(self, last: Record | None, deadline: Deadline) -> Record | None:
        """Return the last record; a leader that lacks what this store object has saved is asked again for a moment."""
        least = self._cache.last
        if least == self._lacked:  # it is the same as before: the stream was restored, or that leader is cut off
            return last
        last = self._jetstream.last_at_least(self._names.stream, self._names.all_events, least, last, deadline)
        if (0 if last is None else last.sequence) < least:
            self._lacked = least
        return last

    def _subject(self, wanted: SubscriptionFilter) -> str:
        """Return the subjects that are read; they may be those of other actors, too."""
        return self._names.wanted(wanted.actor_pattern or None)
