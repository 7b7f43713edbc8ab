"""The file of an export: it is locked, and continued after its last whole line."""

import fcntl
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, NamedTuple

import msgspec

from ..patterns import SubscriptionFilter
from ._shell import Failure, say

__all__ = ["Place", "open_export", "refuse_other_actors", "sync"]

_BLOCK = 1 << 20  # bytes that are read at once


class Place(NamedTuple):
    """Where a file ends.

    Attributes:
        lines: The number of its whole lines.
        sequence: The sequence of the event of the last line; 0 if there is none.
        id: The id of that event.
    """

    lines: int = 0
    sequence: int = 0
    id: str = ""


class _Line(msgspec.Struct, rename="camel"):
    sequence: int
    id: str
    actor_id: str = ""


@contextmanager
def open_export(name: str, after: int) -> Iterator[tuple[BinaryIO, Place]]:
    """Open a file and cut it off after its last whole line; yield it, and where it ends.

    Args:
        name: Its path, or ``-`` for the standard output.
        after: The sequence after which the events of the file have to be.

    Raises:
        Failure: It is not an export, or another process writes to it.
    """
    if name == "-":
        yield sys.stdout.buffer, Place()
        return
    if os.path.exists(name) and not stat.S_ISREG(os.stat(name).st_mode):  # a device, or a named pipe
        with open(name, "wb") as file:
            yield file, Place()
        return
    with open(os.open(name, os.O_RDWR | os.O_CREAT, 0o666), "r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"another export writes to {name!r}") from None
        yield file, _go_to_end(file, name, after)


def _go_to_end(file: BinaryIO, name: str, after: int) -> Place:
    lines, end = _count_lines(file)
    size = file.seek(0, os.SEEK_END)
    place = Place()
    if lines:
        first, last = _read_line(file, 0, name), _read_line(file, _start_of_line(file, end - 1), name)
        if last.sequence - first.sequence < lines - 1:
            raise Failure(f"{name!r} is no export: its sequences do not increase")
        if first.sequence <= after:
            raise Failure(f"{name!r} begins with sequence {first.sequence:,}, and --after is {after:,}")
        place = Place(lines, last.sequence, last.id)
    elif size and not _begins_with_line(file):
        raise Failure(f"{name!r} is no export: it does not begin with a line of one")
    if end < size:
        say(f"cut off the half line at the end of {name!r}")
        file.truncate(end)
    file.seek(end)
    return place


def refuse_other_actors(file: BinaryIO, name: str, pattern: str) -> None:
    """Raise an error if a file has events of other actors: it was begun with another pattern, and would lack events.

    Args:
        file: The file, at its end.
        name: Its path.
        pattern: The pattern of the actors.
    """
    wanted, end = SubscriptionFilter(actor_pattern=pattern), file.tell()
    file.seek(0)
    for line in file:
        actor_id = _decoded(line, name).actor_id
        if not wanted.matches_actor(actor_id):
            raise Failure(
                f"{name!r} was begun with another --actors: it has events of {actor_id!r}. Continue it with that "
                "pattern, or give this export another name"
            )
    file.seek(end)


def _begins_with_line(file: BinaryIO) -> bool:
    file.seek(0)
    return b'{"sequence":'.startswith(file.read(12))


def _count_lines(file: BinaryIO) -> tuple[int, int]:
    """Count the whole lines of a file, and the bytes up to the end of the last one."""
    lines = end = at = 0
    file.seek(0)
    while block := file.read(_BLOCK):
        lines += block.count(b"\n")
        last = block.rfind(b"\n")
        end = at + last + 1 if last >= 0 else end
        at += len(block)
    return lines, end


def _start_of_line(file: BinaryIO, at: int) -> int:
    """Return where the line begins that ends at a place."""
    while at > 0:
        start = max(0, at - _BLOCK)
        file.seek(start)
        found = file.read(at - start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        at = start
    return 0


def _read_line(file: BinaryIO, at: int, name: str) -> _Line:
    file.seek(at)
    return _decoded(file.readline(), name)


def _decoded(text: bytes, name: str) -> _Line:
    try:
        line = msgspec.json.decode(text, type=_Line)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        line = None
    if line is None or line.sequence < 1:
        raise Failure(f"{name!r} is no export: a line of it has no sequence and id; give it another name")
    return line


def sync(file: BinaryIO) -> None:
    """Write a file through to the disk, if it is on one."""
    file.flush()
    with suppress(OSError):  # a pipe or a terminal
        os.fsync(file.fileno())
