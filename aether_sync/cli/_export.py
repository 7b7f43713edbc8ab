"""The command ``export``: writes all events of a store as JSON lines, to a file that can be continued."""

import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, BinaryIO

import click

from .._codec.encoding import encode_event
from .._values.clock import monotonic
from .._values.shown import short
from ..errors import EncodingError, EventTypeError, MalformedRecordError, StoreUnavailableError
from ..event_types import EventTypes
from ..patterns import SubscriptionFilter
from ..stores.admin import Extent, StoreAdmin
from ..stores.base import Follower, StoredEvent
from ..stores.jetstream import JetStreamEventStore
from ._export_file import Place, open_export, refuse_other_actors, sync
from ._lines import counted, to_line
from ._options import open_store, report_troubles, store_options
from ._progress import progress
from ._shell import Failure, Signals, say
from ._store import report_malformed
from ._types import types_from

__all__ = ["Exporter", "export"]

_BATCH = 1_000  # events that are written at once, if there are so many
_LOOK_EVERY = 0.5  # seconds until it notices that no more events come


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.option(
    "--after", type=click.IntRange(min=0), default=0, metavar="SEQUENCE", help="Only events after this sequence."
)
@click.option("--actors", "pattern", metavar="PATTERN", help="Only events of matching actors, as 'order-*'.")
@click.option(
    "--upcast",
    "types",
    metavar="MODULE:NAME",
    callback=types_from,
    help="Write events in the newest version and name that these EventTypes know.",
)
@store_options
@click.pass_context
def export(
    ctx: click.Context,
    /,
    file: str,
    after: int,
    pattern: str | None,
    types: EventTypes | None,
    timeout: float,
    **server: Any,
) -> None:
    """Write all events of a store to FILE as JSON lines, in order, each with its sequence.

    '-', the default, is the standard output. It ends with the last event that was stored when it began. If FILE exists,
    it continues after its last whole line: after an interruption, or to add what was stored since, with the same
    --actors. `import` reads it.

    With --upcast the file is for other programs, which then need not know of older versions: data is written in the
    newest version. Events of types that are not known are written as they are. It ends before the first event that
    cannot be read. Continue such a file with the same --upcast. Without it, every event is written as it is stored.

    \b
      aether-sync export backup.jsonl
      aether-sync export --upcast shop.events:types orders.jsonl
      aether-sync export --actors 'order-*' | gzip > orders.gz

    At the end the events are counted against what the server counts. (It has no such count for --actors together with
    --after.) Records that are no events are left out and reported. The exit status is 0 only if all that was there is
    in FILE.
    """  # noqa: D301  # click's mark of lines to keep
    with open_store(timeout=timeout, **server) as store:
        admin = StoreAdmin(store)
        admin.require_stream(timeout)
        with open_export(file, after) as (out, place):
            _refuse_foreign(place, admin, file, timeout)
            if place.lines and pattern is not None:
                refuse_other_actors(out, file, pattern)
            extent = admin.extent(after, pattern, timeout=timeout)
            if pattern is None and after > extent.last:
                raise Failure(f"the store ends at sequence {extent.last:,}, and --after is {after:,}")
            report_troubles()
            exporter = Exporter(
                store, admin, out, pattern, max(after, place.sequence), extent, place.lines, timeout, types
            )
            complete = exporter.run(ctx.obj)
    if not complete:
        ctx.exit(1)


def _refuse_foreign(place: Place, admin: StoreAdmin, file: str, timeout: float) -> None:
    """Raise an error unless the store has the event of the last line of a file."""
    if place.lines:
        there = admin.record_at(place.sequence, timeout)
        if not isinstance(there, StoredEvent) or there.event.id != place.id:
            raise Failure(
                f"{file!r} is of another store: at sequence {place.sequence:,} there is not the event of its last line"
            )


@dataclass
class Exporter:
    """Writes events, and compares their number with the server's."""

    store: JetStreamEventStore
    admin: StoreAdmin
    out: BinaryIO
    pattern: str | None
    after: int  # a sequence
    extent: Extent
    counted: int  # records up to the extent's last, written or malformed, the file's included
    timeout: float
    types: EventTypes | None = None  # by which events are upcast
    written: int = 0
    malformed: int = 0
    unknown: int = 0  # events that were not upcast, as their types are not known
    torn: int = 0  # records of saves that are not whole
    _at: int = field(init=False)  # the sequence up to which all is written
    _done: bool = False

    def __post_init__(self) -> None:
        self._at = self.after
        self._done = self.after >= self.extent.last

    def run(self, signals: Signals) -> bool:
        """Write all events; return whether these are all that there should be."""
        stopped_by = "interrupted"
        try:
            if not self._done:
                self._write_all(signals)
            sync(self.out)
            stopped_by = self._difference()
        finally:
            self._say(stopped_by)
        return not stopped_by and not self.malformed

    def _write_all(self, signals: Signals) -> None:
        follower = self.store.follow(after=self.after, actors=self.pattern, timeout=self.timeout)
        with follower, progress(self.extent.last - self.after) as advance:
            while not self._done:
                before = self._at
                self._write_some(follower, signals)
                advance(self._at - before, self.written)

    def _write_some(self, follower: Follower, signals: Signals) -> None:
        try:
            batch = self._take(follower)
        except MalformedRecordError as error:
            self._count_malformed(error)
            return
        with signals.whole() if self.out.seekable() else nullcontext():  # a pipe may not be read for a long time
            lines: list[tuple[bytes, StoredEvent]] = []
            try:
                for one in batch:
                    lines.append((self._line(one), one))
                    if self._is_last(one.sequence, one.ends_batch):
                        break
            finally:  # also if one cannot be upcast
                self._write(lines)

    def _write(self, lines: list[tuple[bytes, StoredEvent]]) -> None:
        """Write lines, and count those that are whole in the file: a disk may be full in the middle of them."""
        before = self._size()
        landed = 0
        try:
            self.out.write(b"".join(line for line, _ in lines))
            self.out.flush()
            landed = len(lines)
        except OSError:
            ends = accumulate(len(line) for line, _ in lines)
            landed = sum(end <= self._size() - before for end in ends)
            raise
        finally:
            for _, one in lines[:landed]:
                self._count(one.sequence, one.ends_batch)
            self.written += landed

    def _size(self) -> int:
        """Return the size of the file; 0 of what is no file, of which nobody knows how much has arrived."""
        return os.fstat(self.out.fileno()).st_size if self.out.seekable() else 0

    def _line(self, one: StoredEvent) -> bytes:
        if self.types is None:
            return to_line(one.event, sequence=one.sequence)
        try:
            event = self.types.upcasted(one.event)
            encode_event(event)  # an upcaster may have returned anything
        except (EventTypeError, EncodingError) as error:
            raise Failure(f"the event at sequence {one.sequence:,} cannot be upcast: {error}") from error
        self.unknown += not self.types.knows(event)
        return to_line(event, sequence=one.sequence)

    def _take(self, follower: Follower) -> list[StoredEvent]:
        """Wait for events; ``[]`` if there are no more."""
        end = monotonic() + self.timeout
        at = follower.sequence
        while monotonic() < end:
            batch = follower.get_batch(_BATCH, _LOOK_EVERY)
            if batch:
                return batch
            if follower.sequence >= self.extent.last:  # of others' events, or the rest of a batch did not come
                self._done = True
                return []
            if follower.sequence > at:
                at, end = follower.sequence, monotonic() + self.timeout
        raise StoreUnavailableError(f"nothing came after sequence {at:,} within {self.timeout:g} s")

    def _count(self, sequence: int, ends_batch: bool) -> None:
        """Note a record."""
        self.counted += sequence <= self.extent.last
        self._at = sequence
        self._done = self._is_last(sequence, ends_batch)

    def _is_last(self, sequence: int, ends_batch: bool) -> bool:
        """Whether a record is the last. Of all actors, that is the end of the batch that it was stored in."""
        return sequence >= self.extent.last and (ends_batch or self.pattern is not None)

    def _count_malformed(self, error: MalformedRecordError) -> None:
        if self._is_wanted(error.sequence):
            report_malformed(error)
            self.malformed += 1
            self._count(error.sequence, True)

    def _is_wanted(self, sequence: int) -> bool:
        if self.pattern is None:
            return True
        actor = self.admin.actor_at(sequence, self.timeout)
        return actor is not None and SubscriptionFilter(actor_pattern=self.pattern).matches_actor(actor)

    def _difference(self) -> str:
        """Return how the server's count differs from this one; "" if it does not."""
        least, most = self.extent.least, self.extent.most
        if most is None:
            return ""
        if self.counted < least:  # those of saves that are not whole did not come
            self.torn = self.admin.torn(self.extent, self.pattern, timeout=self.timeout)
        if least <= self.counted + self.torn <= most:
            return ""
        return (
            f"the server counts {least:,} records up to sequence {self.extent.last:,}, and {self.counted:,} are in the "
            "file or were reported now: lines are missing or double, or were left out when it was begun"
        )

    def _say(self, stopped_by: str) -> None:
        parts = ["nothing was exported"]
        if self.written:
            parts = [f"exported {counted(self.written)} up to sequence {self._at:,}"]
        if self.counted > self.written + self.malformed:
            parts.append(f"{counted(self.counted - self.malformed)} with those that were there")
        if not stopped_by:
            parts.append("nothing to count them against" if self.extent.most is None else "the server counts as many")
        if self.unknown:
            parts.append(f"{counted(self.unknown)} of unknown types or versions left as they are")
        if self.torn:
            parts.append(f"{self.torn:,} record{'s' * (self.torn != 1)} of saves that are not whole left out")
        if self.malformed:
            parts.append(f"{self.malformed:,} malformed record{'s' * (self.malformed != 1)} left out")
        said = "; ".join([*parts, *filter(None, [stopped_by])])
        say(f"stream {short(self.store.stream)}: {said}")
