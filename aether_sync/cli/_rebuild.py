"""The command ``rebuild``: builds the rows of a projection of the user's program anew."""

import click

from .._arguments import check_callback
from .._values.shown import short
from ..stores.projections.projection import Projection
from ._program import imported
from ._progress import progress
from ._shell import WrongUsageError

__all__ = ["rebuild"]


@click.command()
@click.argument("where", metavar="MODULE:NAME")
@click.option(
    "--table", "tables", metavar="TABLE", multiple=True, required=True, help="A table that it fills; name each of them."
)
def rebuild(where: str, tables: tuple[str, ...]) -> None:
    """Build the rows of a projection anew, while the old ones can be read and are kept up to date.

    NAME in MODULE is the projection, or a function that returns it. The module is looked for in the current folder,
    too.

    \b
      aether-sync rebuild shop.read:orders --table orders --table customers

    At the end the rows are exchanged at once. If it is interrupted, nothing has changed. A projection that had stopped
    has to be started again.
    """  # noqa: D301  # click's mark of lines to keep
    projection = _projection_at(where)
    with progress(projection.lag + projection.sequence) as advance:
        shown = 0

        def show(done: int, total: int) -> None:
            nonlocal shown
            advance(done - shown, done)
            shown = done

        projection.rebuild(tables, progress=show)
    click.echo(f"projection {projection.name!r} is built anew, up to sequence {projection.sequence:,}")
    projection.close()


def _projection_at(where: str) -> Projection:
    module, _, name = where.partition(":")
    if not module or not name:
        raise WrongUsageError(f"{where!r} is no MODULE:NAME, such as shop.read:orders")
    try:
        found = imported(module, name)
    except ModuleNotFoundError as error:
        raise WrongUsageError(f"{where!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise WrongUsageError(f"{where!r} is not there: {error}") from error
    if not isinstance(found, Projection) and callable(found):
        check_callback(repr(where), found)
        found = found()
    if not isinstance(found, Projection):
        raise WrongUsageError(f"{where!r} is {short(found)}, and no projection: name what project() has returned")
    return found
