"""The command ``import``: stores what ``export`` has written, with its ids and versions, in its order."""

from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any, BinaryIO

import click

from .._values.shown import short
from ..errors import (
    AetherError,
    AtomicAppendUnsupportedError,
    DuplicateIdError,
    EncodingError,
    InvalidEventError,
    UnknownOutcomeError,
    VersionConflictError,
)
from ..events import Event
from ..stores._checks import BATCH_LIMIT
from ..stores.admin import StoreAdmin
from ..stores.base import StoredEvent
from ..stores.jetstream import JetStreamEventStore
from ._import_there import Alongside, ConflictError, Looked
from ._lines import BadLineError, BadLines, Line, counted, take_events
from ._options import making_options, open_store, report_troubles
from ._shell import Signals, say

__all__ = ["import_"]

_BATCH_BYTES = 4 * 2**20  # bytes of the lines of a batch, without the last one
_ACTORS = 262_144  # of which the versions are remembered, up to a kilobyte each: asking for one costs as much as a save


@click.command("import")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--skip-bad", is_flag=True, help="Skip bad lines and report them, instead of stopping at the first.")
@making_options
@click.pass_context
def import_(ctx: click.Context, /, file: BinaryIO, skip_bad: bool, timeout: float, **server: Any) -> None:
    """Store the events that `export` wrote to FILE, with their ids and versions, in their order.

    '-', the default, is the standard input. The store is usually empty, and is made if it is not there. Sequences are
    given anew.

    \b
      aether-sync import backup.jsonl --stream restored
      aether-sync export | aether-sync import --url nats://other

    Events that are there already (the same id, actor and version) are skipped, so after an interruption the same
    command finishes the work. It stops if the store has another event in an event's place. Events are stored in
    batches of up to 1,000, each whole or not at all.

    At the end the events are counted against what the server counts. The exit status is 0 only if every line is in the
    store.
    """  # noqa: D301  # click's mark of lines to keep
    if file.isatty():
        say("type one JSON object a line; Ctrl-D ends")
    with open_store(timeout=timeout, cached_actors=_ACTORS, **server) as store:
        store.start(timeout)
        report_troubles()
        importer = _Importer(store, timeout, ctx.obj, BadLines(skip=skip_bad))
        stopped_by = "interrupted"
        try:
            stopped_by = importer.import_all(file)
        finally:
            complete = importer.finish(stopped_by)
    if not complete:
        ctx.exit(1)


class _Importer:
    """Stores lines, and counts exactly what was stored.

    A thread of its own stores a batch, while the main thread reads the lines of the next one. The main thread hands a
    batch over only when the one before it is stored, so the order stays.
    """

    def __init__(self, store: JetStreamEventStore, timeout: float, signals: Signals, bad: BadLines) -> None:
        self._store = store
        self._admin = StoreAdmin(store)
        self._timeout = timeout
        self._signals = signals
        self._bad = bad
        self._before = self._admin.count(timeout)
        self._alongside: Alongside | None = Alongside(store, self._admin, timeout) if self._before else None
        self._looked = Looked(store, timeout)
        self._waiting: list[Line] = []  # lines that are stored together
        self._waiting_bytes = 0
        self._waiting_ids: set[str] = set()
        self._saver = ThreadPoolExecutor(1, "aether-import")
        self._saving: Future[None] | None = None
        # Written by the thread that stores, once there is something to be stored:
        self._at_once = BATCH_LIMIT
        self._stored = self._duplicates = 0

    def import_all(self, file: BinaryIO) -> str:
        """Store a file; return what stopped it before the end of the file, or ""."""
        try:
            self._import(file)
        except BadLineError as error:
            return f"{error}; nothing after it was stored: mend the line, or go on past it with --skip-bad"
        except ConflictError as error:
            return str(error)
        except AetherError as error:  # a limit may have to be raised, or there is no server
            return f"{error}; when that is mended, or over, the same command goes on from there"
        return ""

    def _import(self, file: BinaryIO) -> None:
        try:
            take_events(file, self._signals, self._bad, self._take, lambda: self._stored + self._duplicates)
        except BadLineError:
            self._store_waiting()  # lines before it are stored
            self._await_saving()
            raise
        finally:
            self._end_alongside()
        self._store_waiting()
        self._await_saving()

    def _take(self, lines: list[Line]) -> None:
        for line in lines:
            if not line.event.version:
                self._bad.refuse(line.number, "it has no version; append numbers events")
            elif self._is_there(line.event):
                self._duplicates += 1
            else:
                if line.event.id in self._waiting_ids:  # of another tool's, perhaps: one save cannot have an id twice
                    self._store_waiting()
                self._waiting_ids.add(line.event.id)
                self._waiting.append(line)
                self._waiting_bytes += line.size
                if len(self._waiting) >= self._at_once or self._waiting_bytes >= _BATCH_BYTES:
                    self._store_waiting()

    def _is_there(self, event: Event) -> bool:
        if self._alongside is not None:
            if self._alongside.has(event):
                return True
            self._end_alongside()
        return False

    def _end_alongside(self) -> None:
        if self._alongside is not None:
            self._alongside.close()
            self._alongside = None

    # -- storing

    def _store_waiting(self) -> None:
        """Begin to store the lines that wait, once those before them are stored; if these are not, nor are those."""
        lines, self._waiting, self._waiting_bytes = self._waiting, [], 0
        self._waiting_ids.clear()
        self._await_saving()
        if lines:
            self._saving = self._saver.submit(self._store_lines, lines, looked=False)

    def _await_saving(self) -> None:
        """Wait until the lines that are being stored are stored, or raise why they are not."""
        saving = self._saving
        if saving is not None:
            with self._signals.whole():
                try:
                    saving.result()
                finally:
                    if saving.done():
                        self._saving = None

    def _store_lines(self, lines: list[Line], *, looked: bool) -> None:
        """Store lines together. If that is refused, store those that are not there yet, or each by itself.

        Args:
            lines: In order.
            looked: Whether the lines that are there already were left out.
        """
        try:
            self._save(lines)
        except (AtomicAppendUnsupportedError, EncodingError) as error:
            if len(lines) == 1:  # an event is too large
                self._bad.refuse(lines[0].number, error)
                return
            at_once = 1
            if isinstance(error, AtomicAppendUnsupportedError):  # so many, or several at all, are not stored at once
                at_once = self._at_once = len(lines) // 2
            for first in range(0, len(lines), at_once):
                self._store_lines(lines[first : first + at_once], looked=looked)
        except (VersionConflictError, DuplicateIdError, InvalidEventError) as error:
            if looked:
                raise ConflictError(f"line {lines[0].number}, or one soon after it: {error}") from error
            new = self._looked.new_of(lines)
            self._duplicates += len(lines) - len(new)
            if new:
                self._store_lines(new, looked=True)

    def _save(self, lines: list[Line]) -> None:
        stored = self._save_surely([line.event for line in lines])
        duplicates = sum(one.duplicate for one in stored)
        self._stored += len(stored) - duplicates
        self._duplicates += duplicates
        self._looked.note(lines)

    def _save_surely(self, events: list[Event]) -> list[StoredEvent]:
        try:
            return self._store.save_events(events, timeout=self._timeout)
        except UnknownOutcomeError:  # once more, which is safe
            stored = self._store.save_events(events, timeout=self._timeout)
            return [StoredEvent(one.event, one.sequence) for one in stored]  # whichever attempt it was

    # -- its end

    def finish(self, stopped_by: str) -> bool:
        """Say what was stored, and compare it with the server's count; return whether it is everything."""
        with suppress(AetherError, BadLineError, ConflictError):  # another error, or a signal, came first
            self._await_saving()
        parts = [f"imported {counted(self._stored)}" if self._stored else "nothing was imported"]
        if self._duplicates:
            parts.append(f"{self._duplicates:,} {'were' if self._duplicates > 1 else 'was'} there already")
        right = True
        try:
            now = self._admin.count(self._timeout)
            right = now >= self._before + self._stored
            parts.append(f"the store has {now:,} records" if right else self._missing(now))
        except AetherError as error:
            parts.append(f"not counted: {error}")
            right = False
        said = "; ".join([*parts, *self._bad.summary(), *filter(None, [stopped_by])])
        say(f"stream {short(self._store.stream)}: {said}")
        return right and not stopped_by and not self._bad.count

    def _missing(self, now: int) -> str:
        return f"the store has {now:,} records, and must have {self._before + self._stored:,}: some are missing"
