"""The command ``append``: JSON lines as the next events of an actor."""

from collections.abc import Callable
from typing import Any, BinaryIO

import click

from ..errors import AetherError, AtomicAppendUnsupportedError, EncodingError, UnknownOutcomeError, VersionConflictError
from ..events import MAX_VERSION, Event
from ..patterns import escape_token
from ..stores._checks import BATCH_LIMIT
from ..stores.base import ANY_VERSION, NO_EVENTS, AnyVersion
from ..stores.jetstream import JetStreamEventStore
from ._lines import BadLineError, BadLines, Line, counted, take_events
from ._options import making_options, open_store, report_troubles
from ._shell import Failure, Signals, say
from ._store import write_stored

__all__ = ["append"]

_BATCH = 100  # events that are stored at once, if there are so many lines


def _expectation(ctx: click.Context, param: click.Parameter, value: str) -> int | AnyVersion:
    """Read a version, ``none`` or ``any``."""
    if value == "any":
        return ANY_VERSION
    if value == "none":
        return NO_EVENTS
    if not (value.isascii() and value.isdigit() and int(value) <= MAX_VERSION):
        raise click.BadParameter(f"{value!r} is neither a version (0 or more), nor 'none', nor 'any'.")
    return int(value)


@click.command()
@click.argument("actor")
@click.argument("file", type=click.File("rb"), default="-")
@click.option(
    "--expect",
    "expected",
    callback=_expectation,
    default="any",
    show_default=True,
    metavar="VERSION",
    help="Store nothing unless ACTOR is at this version; 'none': has no events.",
)
@click.option("--atomic", is_flag=True, help="Store all lines at once, 1,000 at most, or none.")
@click.option("--skip-bad", is_flag=True, help="Skip bad lines and report them, instead of stopping at the first.")
@making_options
@click.pass_context
def append(
    ctx: click.Context,
    /,
    actor: str,
    file: BinaryIO,
    expected: int | AnyVersion,
    atomic: bool,
    skip_bad: bool,
    timeout: float,
    **server: Any,
) -> None:
    """Store JSON lines as the next events of ACTOR, and print what was stored.

    FILE has one event a line; '-', the default, is the standard input. Blank lines are ignored. A line needs only
    eventType:

    \b
      echo '{"eventType": "OrderPlaced", "data": {"qty": 3}}' |
          aether-sync append order-1 --expect none

    The events are numbered; a line with a version is bad, as is one of another actorId. By default they follow
    whatever ACTOR has; with --expect, only the version that you know of: if another writer was first, nothing more is
    stored, and the exit status is 1.

    Lines are stored as they come, up to 100 at once, and each such batch whole or not at all: the lines before a bad
    line or a conflict are stored. With --atomic all lines are one batch.

    Each event is printed as a line with its sequence; at the end it says how many were stored.
    """  # noqa: D301  # click's mark of lines to keep
    escape_token(actor)  # or it is not UTF-8
    if file.isatty():
        say("type one JSON object a line; Ctrl-D ends")
    with open_store(timeout=timeout, **server) as store:
        store.start(timeout)
        report_troubles()
        appender = _Appender(store, actor, expected, timeout, ctx.obj, BadLines(skip=skip_bad))
        stopped_by = "interrupted"
        try:
            stopped_by = appender.append_at_once(file) if atomic else appender.append_all(file)
        finally:
            complete = appender.finish(stopped_by)
    if not complete:
        ctx.exit(1)


class _Appender:
    """Stores lines, and counts exactly what was stored."""

    def __init__(
        self,
        store: JetStreamEventStore,
        actor: str,
        expected: int | AnyVersion,
        timeout: float,
        signals: Signals,
        bad: BadLines,
    ) -> None:
        self._store = store
        self._actor = actor
        self._expected = expected
        self._timeout = timeout
        self._signals = signals
        self._bad = bad
        self._at_once = _BATCH
        self._count = 0
        self._first = self._last = 0  # versions

    def append_all(self, file: BinaryIO) -> str:
        """Store a file batch by batch; return what stopped it before the end of the file, or ""."""
        try:
            self._take(file, self._append, lambda: self._count)
        except BadLineError as error:
            return f"{error}; nothing after it was stored: mend the line, or go on past it with --skip-bad"
        except AetherError as error:
            return self._words(error)
        return ""

    def append_at_once(self, file: BinaryIO) -> str:
        """Store a file as one batch or not at all; return why it was not stored, or ""."""
        events: list[Event] = []

        def take(more: list[Line]) -> None:
            events.extend(line.event for line in more)
            if len(events) > BATCH_LIMIT:
                raise Failure(f"more than {BATCH_LIMIT:,} lines: no more can be stored at once; leave out --atomic")

        try:
            self._take(file, take, lambda: len(events))
            if events:
                self._store_batch(events)
        except (BadLineError, Failure) as error:
            return str(error)
        except AetherError as error:
            return self._words(error)
        return ""

    def _words(self, error: AetherError) -> str:
        if isinstance(error, VersionConflictError) and self._expected is not ANY_VERSION:
            return f"{self._actor!r} is at version {error.current_version:,}, and {self._expected:,} was expected"
        return str(error)

    def _take(self, file: BinaryIO, take: Callable[[list[Line]], object], so_far: Callable[[], int]) -> None:
        def sift(lines: list[Line]) -> None:
            good: list[Line] = []
            for line in lines:
                if wrong := self._is_wrong(line.event):
                    take(good)  # lines before it are stored
                    good = []
                    self._bad.refuse(line.number, wrong)
                else:
                    good.append(line)
            take(good)

        take_events(file, self._signals, self._bad, sift, so_far, actorId=self._actor)

    def _is_wrong(self, event: Event) -> str:
        if event.actor_id != self._actor:
            return f"it is of actor {event.actor_id!r:.80}, not {self._actor!r:.80}"
        if event.version:
            return f"it has version {event.version}, and append numbers events: leave it out, or use import"
        return ""

    def _append(self, lines: list[Line]) -> None:
        while lines:
            batch, lines = lines[: self._at_once], lines[self._at_once :]
            try:
                self._store_batch([line.event for line in batch])
            except EncodingError as error:  # an event is too large, and none was stored
                if len(batch) == 1:
                    self._bad.refuse(batch[0].number, error)
                for line in batch if len(batch) > 1 else ():
                    self._append([line])
            except AtomicAppendUnsupportedError:  # the server does not store so many, or several, at once
                self._at_once = len(batch) // 2
                lines = batch + lines

    def _store_batch(self, events: list[Event]) -> None:
        with self._signals.whole():
            try:
                stored = self._store.append(
                    self._actor, *events, expected_version=self._expected, timeout=self._timeout
                )
            except UnknownOutcomeError as error:  # once more, which is safe
                stored = self._store.save_events(error.events, timeout=self._timeout)
            self._count += len(stored)
            self._first = self._first or stored[0].event.version
            self._last = stored[-1].event.version
            if self._expected is not ANY_VERSION:
                self._expected = self._last
        write_stored(stored)

    def finish(self, stopped_by: str) -> bool:
        """Say what was stored; return whether it is everything."""
        parts = ["nothing was stored"]
        if self._count:
            versions = f"version {self._first:,}"
            if self._last > self._first:
                versions = f"versions {self._first:,} to {self._last:,}"
            parts = [f"stored {counted(self._count)} of {self._actor!r}, {versions}"]
        say("; ".join([*parts, *self._bad.summary(), *filter(None, [stopped_by])]))
        return not stopped_by and not self._bad.count
