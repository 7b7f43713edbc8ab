"""``manage.py aether_relay``: sends what is in the outbox."""

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import DEFAULT_DB_ALIAS, connections

from .....errors import AetherError
from ... import outbox
from ..._commands import require_tables
from ..._settings import alias_of_outbox, aliases, settings_of

__all__ = ["Command"]


class Command(BaseCommand):
    """Runs a relay on the main thread."""

    help = (
        "Sends the events of the outbox of a database to the store and to the bus, until SIGTERM or Ctrl-C. Any number "
        "of relays may run."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add where from and where to."""
        parser.add_argument(
            "alias", nargs="?", help="Alias of the setting AETHER; the one whose RELAY has the database."
        )
        parser.add_argument("--database", default=DEFAULT_DB_ALIAS, help="Alias of the database with the outbox.")
        parser.add_argument("--once", action="store_true", help="Send what is there, and end.")
        parser.add_argument("--poll", type=float, default=0.25, metavar="SECONDS", help="Between two looks.")
        parser.add_argument("--batch", type=int, default=500, metavar="ROWS", help="How many are taken at once.")
        parser.add_argument("--grace", type=float, default=25.0, metavar="SECONDS", help="For the last batch.")

    def handle(self, *args: Any, **given: Any) -> None:
        """Send."""
        if given["alias"] not in (None, *aliases()):
            raise CommandError(f"The setting AETHER has no alias {given['alias']!r}: there are {', '.join(aliases())}.")
        if given["database"] not in connections.settings:
            there = ", ".join(connections.settings)
            raise CommandError(f"The setting DATABASES has no alias {given['database']!r}: there are {there}.")
        require_tables([given["database"]])
        alias = _alias_of(given["database"], given["alias"])
        try:
            relay = outbox.relay(alias, using=given["database"], poll=given["poll"], batch=given["batch"])
            if given["once"]:
                self.stdout.write(f"{relay.drain():,} events sent")
            else:
                self.stdout.write(f"sending the outbox of database {given['database']!r} to AETHER[{alias!r}]")
                self.stdout.flush()  # a log that is no terminal would show it at the end
                relay.run(given["grace"])
        except AetherError as error:
            raise CommandError(str(error)) from error


def _alias_of(database: str, wanted: str | None) -> str:
    """Return the alias of ``AETHER`` to which an outbox goes.

    Raises:
        CommandError: The workers of another alias send it.
    """
    sent_to = alias_of_outbox(database)
    if wanted is None or wanted == sent_to or database not in settings_of(sent_to).relay:
        return wanted or sent_to
    raise CommandError(
        f"The outbox of database {database!r} goes to AETHER[{sent_to!r}], whose RELAY has it, and not to "
        f"AETHER[{wanted!r}]: each of its events is for one of them."
    )
