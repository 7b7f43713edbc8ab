"""What the management commands have in common."""

from collections.abc import Iterable

from django.core.management.base import CommandError
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

__all__ = ["require_tables"]

_LABEL = "aether_sync"


def require_tables(using: Iterable[str]) -> None:
    """See that the tables of the application are there, in some databases.

    Raises:
        CommandError: Migrations are missing.
    """
    for alias in sorted(set(using)):
        executor = MigrationExecutor(connections[alias])
        targets = [key for key in executor.loader.graph.leaf_nodes() if key[0] == _LABEL]
        missing = executor.migration_plan(targets)
        if missing:
            names = ", ".join(f"{one.app_label}.{one.name}" for one, _ in missing)
            raise CommandError(
                f"The database {alias!r} lacks the migrations {names}: run manage.py migrate {_LABEL}"
                f"{'' if alias == 'default' else f' --database={alias}'}"
            )
