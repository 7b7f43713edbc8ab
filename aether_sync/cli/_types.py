"""The event types of a program, which some commands are told by ``module:name``."""

import click

from .._arguments import is_of
from .._values.shown import explained
from ..errors import AetherError
from ..event_types import EventTypes
from ._program import imported

__all__ = ["types_from"]


def types_from(ctx: click.Context, param: click.Parameter, value: str | None) -> EventTypes | None:
    """Import the ``EventTypes`` that an option names; modules are found in the current directory, too.

    Raises:
        BadParameter: There is no such module, or no such object in it, or it is not complete.
    """
    if value is None:
        return None
    module, _, name = value.partition(":")
    if not module or not name:
        raise click.BadParameter(f"{value!r} is not MODULE:NAME, such as shop.events:types.")
    try:
        found = imported(module, name)
    except Exception as error:  # of any code of the user's
        raise click.BadParameter(f"{value!r} cannot be imported: {explained(error)}.") from error
    if not is_of(found, EventTypes):
        raise click.BadParameter(f"{value!r} is no EventTypes, but of type {type(found).__name__}.")
    try:
        found.check()
    except AetherError as error:
        raise click.BadParameter(f"{value!r}: {error}.") from error
    return found
