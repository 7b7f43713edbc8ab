"""The commands within the command line of another program, such as that of a web framework."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import click

from ..connection import Connection
from ._access import ProgramAccess
from ._commands import commands
from ._options import PROGRAM_ACCESS
from ._shell import Signals, errors_told

__all__ = ["begin", "errors_told", "library_commands"]

_OF_NO_PROGRAM = ("demo", "server", "example", "guide")  # what has nothing to do with the settings of a program


def library_commands() -> dict[str, click.Command]:
    """Return the commands that a program may have, by name."""
    return {name: command for name, command in commands.commands.items() if name not in _OF_NO_PROGRAM}


def begin(ctx: click.Context, connect: Callable[[float, str | None], Connection], defaults: Mapping[str, Any]) -> None:
    """Prepare a command, as ``aether-sync`` does.

    Args:
        ctx: The context of the group that the commands are in.
        connect: Makes a connection as the program does, unless an option names a server or how to log in; it is given
            the seconds for the first attempt, and the name for the server's monitoring.
        defaults: The program's own defaults of options, by parameter.
    """
    ctx.obj = Signals()
    logging.getLogger("aether_sync").addHandler(logging.NullHandler())  # errors are raised, and need not be logged
    ctx.meta[PROGRAM_ACCESS] = ProgramAccess(make=connect)
    ctx.default_map = {name: {**defaults} for name in library_commands()}
