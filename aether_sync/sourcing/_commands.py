"""The commands of an actor, found by the ``command_id`` of its events, also of those that a snapshot stands for."""

from collections.abc import Iterable
from typing import NamedTuple

from ..events import Event

__all__ = ["COMMANDS_KEPT", "Command", "find_command", "latest_commands"]

COMMANDS_KEPT = 100  #: commands that a snapshot remembers: with ids of 36 characters these are 5 KB


class Command(NamedTuple):
    """A command, and the versions of the events that were decided on it.

    Attributes:
        id: Its id.
        first: The version of the first of its events.
        last: That of the last.
    """

    id: str
    first: int
    last: int


def _with_those_of(known: Iterable[Command], events: Iterable[Event]) -> list[Command]:
    """Return the known commands, and after them those of later events, in their order."""
    found = list(known)
    for event in events:
        if not event.command_id:
            continue
        if found and found[-1].id == event.command_id:
            found[-1] = found[-1]._replace(last=event.version)
        else:
            found.append(Command(event.command_id, event.version, event.version))
    return found


def find_command(command_id: str, known: Iterable[Command], events: Iterable[Event]) -> Command | None:
    """Return the first command of an id; None if there is none."""
    return next((one for one in _with_those_of(known, events) if one.id == command_id), None)


def latest_commands(known: Iterable[Command], events: Iterable[Event]) -> list[Command]:
    """Return the latest commands, as many as a snapshot remembers."""
    return _with_those_of(known, events)[-COMMANDS_KEPT:]
