"""``manage.py aether_rebuild``: builds the rows of a projection anew."""

from argparse import ArgumentParser
from contextlib import closing
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from .....errors import AetherError, InvalidOptionError
from ..._commands import require_tables
from ..._settings import DEFAULT
from ...registry import make_projection, registered

__all__ = ["Command"]


class Command(BaseCommand):
    """Calls ``Projection.rebuild()`` with the tables of its models."""

    help = (
        "Builds the rows of a @projection anew, while the old ones can be read and are kept up to date. At the end "
        "they are exchanged at once; if it is interrupted, nothing has changed."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add the name of the projection, and where it is."""
        parser.add_argument("name", help="Name of the projection.")
        parser.add_argument("--alias", default=DEFAULT, help="Alias of the setting AETHER.")
        parser.add_argument("--table", action="append", default=[], help="A table that it fills besides its models.")

    def handle(self, *args: Any, name: str, alias: str, table: list[str], **given: Any) -> None:
        """Build it anew, and say how far it is."""
        declared = {one.name: one for one in registered() if one.kind == "projection" and one.alias == alias}
        if name not in declared:
            there = ", ".join(map(repr, declared)) or "none"
            raise CommandError(f"There is no @projection({name!r}) for AETHER[{alias!r}]: there are {there}.")
        try:
            models = declared[name].find_models()
        except InvalidOptionError as error:
            raise CommandError(f"{declared[name]}: {error}") from error
        tables = [*(one._meta.db_table for one in models), *table]
        if not tables:
            raise CommandError(f"Say what @projection({name!r}) fills: by its models=[...], or by --table.")
        require_tables([declared[name].using or ""])
        try:
            with closing(make_projection(name, alias)) as projection:
                projection.rebuild(tables, progress=self._show)
                self.stdout.write(f"projection {name!r} is built anew, up to sequence {projection.sequence:,}")
        except AetherError as error:
            raise CommandError(str(error)) from error

    def _show(self, done: int, total: int) -> None:
        if self.stdout.isatty():
            self.stdout.write(f"\r{done:,} of {total:,}", ending="\r")
