"""Events as JSON lines: they are written, read, and reported if they are bad."""

import codecs
from collections.abc import Callable, Iterator
from threading import Lock
from typing import Any, BinaryIO, NamedTuple

import msgspec

from .._codec.decoding import decode_event, is_not_utf8
from .._codec.encoding import encode_read
from ..errors import AetherError, DecodingError
from ..events import Event
from ._progress import progress_of_input
from ._shell import Signals, say

__all__ = ["BadLineError", "BadLines", "Line", "counted", "take_events", "to_line"]

_CHUNK = 1 << 16  # bytes that are read at once, if so many are there
_BAD_LINES_SHOWN = 20
_NO_EVENT = "not an event of this wire format: "  # what a line is said to be, but of a line everybody knows it
_KEYS = {"event_type": "eventType", "actor_id": "actorId", "command_id": "commandId"}
_KNOWN = frozenset({"id", "eventType", "actorId", "commandId", "version", "data", "metadata", "timestamp"})
_ABOUT_IT = frozenset({"namespace", "sequence"})  # where an event was printed, but no part of it
_READ = _KNOWN | _ABOUT_IT
_ITS_OWN = frozenset({"id", "timestamp"})  # what an event is given if it does not have it


# -- writing


def to_line(event: Event, **about: object) -> bytes:
    """Return an event as a line, which begins with its ``namespace``, or with its ``sequence`` in a store."""
    return b"%b,%b\n" % (msgspec.json.encode(about)[:-1], encode_read(event)[1:])


def counted(events: int) -> str:
    """Return a number of events in words."""
    return f"{events:,} event{'s' * (events != 1)}"


# -- reading


class Line(NamedTuple):
    """A line that was read.

    Attributes:
        number: The line's number, from 1 on.
        event: Its event.
        size: Its length in bytes.
    """

    number: int
    event: Event
    size: int


def take_events(
    file: BinaryIO,
    signals: Signals,
    bad: "BadLines",
    take: Callable[[list[Line]], object],
    so_far: Callable[[], int],
    **given: object,
) -> None:
    """Read a file of lines to its end, and show the progress. Blank lines are ignored.

    Args:
        file: A file, a pipe or a terminal.
        signals: The signals that may end it meanwhile.
        bad: Reports bad lines, after the lines before them were taken.
        take: Called with the lines that were read, in order, as they come.
        so_far: Returns how many events have been dealt with.
        **given: Fields, by their names on the wire, for events that do not have them.
    """
    number = 1
    with progress_of_input(file) as advance:
        for lines in _lines_as_they_come(file, signals):
            _take_lines(number, lines, bad, take, given)
            number += len(lines)
            advance(sum(map(len, lines)) + len(lines), so_far())


def _lines_as_they_come(file: BinaryIO, signals: Signals) -> Iterator[list[bytes]]:
    """Yield lines as they come: a pipe that stays open delays none of them."""
    rest = b""
    while True:
        signals.await_input(file)
        chunk: bytes = file.read1(_CHUNK)  # type: ignore[attr-defined]
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    yield [rest]


def _take_lines(
    first: int,
    lines: list[bytes],
    bad: "BadLines",
    take: Callable[[list[Line]], object],
    given: dict[str, object],
) -> None:
    events: list[Line] = []
    if first == 1:
        lines[:1] = [line.removeprefix(codecs.BOM_UTF8) for line in lines[:1]]
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        try:
            events.append(Line(number, _to_event(line, given), len(line)))
        except DecodingError as error:
            if events:  # lines before it are taken
                take(events)
            events = []
            bad.refuse(number, error)
    if events:
        take(events)


def _to_event(line: bytes, given: dict[str, object]) -> Event:
    """Read a line as an event. An unknown key is an error here, unlike on the wire: it is most likely misspelt.

    Raises:
        DecodingError: The line is not an event.
    """
    try:
        read = msgspec.json.decode(line, type=dict[str, Any])
    except RecursionError as error:
        raise DecodingError(str(error)) from None
    except ValueError as error:  # as msgspec's errors are
        raise DecodingError("it is not UTF-8" if is_not_utf8(error) else str(error)) from None
    keys = read.keys()
    if keys >= _ITS_OWN and given.keys() <= keys and keys <= _READ:  # as most are; the rest takes long
        return decode_event(line, "")
    made = Event(event_type="-", actor_id="-")
    fields: dict[str, Any] = {}
    for key, value in read.items():
        name = _KEYS.get(key, key)
        if name in _ABOUT_IT:
            continue
        if name not in _KNOWN:
            raise DecodingError(f"unknown key {key!r}")
        if name in fields:
            raise DecodingError(f"{name!r} is there twice")
        fields[name] = value
    return decode_event(msgspec.json.encode({"id": made.id, "timestamp": made.timestamp} | given | fields), "")


# -- bad lines


class BadLineError(Exception):
    """A line is not an event, and such lines are not skipped."""


class BadLines:
    """Stops at the first bad line; or skips bad lines, shows some, and counts all.

    Args:
        skip: Whether to skip them.

    Attributes:
        count: How many there were so far.
    """

    def __init__(self, *, skip: bool) -> None:
        self._lock = Lock()  # guards count, while `import` reads and stores at the same time
        self.count = 0
        self._skip = skip

    def refuse(self, number: int, error: AetherError | str) -> None:
        """Report a line.

        Raises:
            BadLineError: Bad lines are not skipped.
        """
        with self._lock:
            self.count = place = self.count + 1
        what = f"line {number} is bad: {str(error).removeprefix(_NO_EVENT)}"
        if not self._skip:
            raise BadLineError(what)
        if place <= _BAD_LINES_SHOWN:
            say(what)
        elif place == _BAD_LINES_SHOWN + 1:
            say("more bad lines are only counted")

    def summary(self) -> list[str]:
        """Say how many were skipped, if any were."""
        if not (self.count and self._skip):
            return []
        return [f"skipped {self.count:,} bad line{'s' * (self.count != 1)}"]
