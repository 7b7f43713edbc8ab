"""The command ``example``: writes a whole program that somebody may start from, of the templates in ``examples``."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from ._shell import WrongUsageError, say

__all__ = ["example"]

_FRAMEWORKS = "flask", "django"
_EXAMPLES = ("shop",)
_COMMON = "common"  # the folder of what is the same with each framework
_NOT_OURS = "__pycache__"  # what installing has left there


@click.command()
@click.argument("name", metavar="NAME", type=click.Choice(_EXAMPLES))
@click.argument("folder", metavar="DIRECTORY", type=click.Path(file_okay=False, path_type=Path))
@click.option(
    "--framework",
    type=click.Choice(_FRAMEWORKS),
    default=_FRAMEWORKS[0],
    show_default=True,
    help="What it is made with.",
)
def example(name: str, folder: Path, framework: str) -> None:
    """Write an example into a new or empty DIRECTORY.

    NAME is "shop": a service for orders. It has an API, a store of events, a table that is made of them, a worker that
    sends mails, and a page that shows orders while they come.

    \b
      aether-sync example shop myshop
      python myshop/run.py

    The second command starts all of it, with a nats-server of its own, until Ctrl-C.
    """  # noqa: D301  # click's mark of lines to keep
    if folder.exists() and any(folder.iterdir()):
        raise WrongUsageError(f"{str(folder)!r} is not empty: name a new folder")
    there = files("aether_sync") / "cli" / "examples" / name
    for part in (_COMMON, framework):
        for path, file in _files_in(there / part):
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    say(f"{str(folder)!r} has it all; start with its README.md, or with: python {folder / 'run.py'}")


def _files_in(folder: Traversable, path: Path = Path()) -> Iterator[tuple[Path, Traversable]]:
    """Yield the files in a folder and below it, each with its path in the folder."""
    for one in folder.iterdir():
        if one.is_file():
            yield path / one.name, one
        elif one.name != _NOT_OURS:
            yield from _files_in(one, path / one.name)
