"""``manage.py aether_worker``: runs the handlers of the modules ``events``."""

import os
import sys
from argparse import ArgumentParser
from typing import Any, NoReturn

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import connections

from ..._commands import require_tables
from ..._settings import DEFAULT, aliases, settings_of
from ...registry import registered

__all__ = ["Command"]

_HANDED_ON = ("processes", "threads", "grace", "health_port", "metrics_port")


class Command(BaseCommand):
    """Becomes ``aether-sync run``, with the settings of this project."""

    help = (
        "Runs the handlers, projections and periodic work that the modules `events` of the applications declare, until "
        "SIGTERM or Ctrl-C. This is `aether-sync run aether_sync.contrib.django.workers:ALIAS`."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add what ``aether-sync run`` takes."""
        parser.add_argument("alias", nargs="?", default=DEFAULT, help="Alias of the setting AETHER.")
        parser.add_argument("--processes", type=int, metavar="N", help="How many processes.")
        parser.add_argument("--threads", type=int, metavar="N", help="How many threads each consumer's handler has.")
        parser.add_argument("--grace", type=float, metavar="SECONDS", help="How long handlers may go on at the end.")
        parser.add_argument("--health-port", metavar="[ADDRESS:]PORT", help="Answer probes at /healthz and /livez.")
        parser.add_argument("--metrics-port", metavar="[ADDRESS:]PORT", help="Answer scrapes of Prometheus.")
        parser.add_argument("--reload", action="store_true", help="For development: start anew when a file changes.")

    def handle(self, *args: Any, alias: str, reload: bool, **given: Any) -> NoReturn:
        """Check what can be checked, and become the other program."""
        if alias not in aliases():
            raise CommandError(f"The setting AETHER has no alias {alias!r}: there are {', '.join(aliases())}.")
        declared = [one for one in registered() if one.alias == alias]
        relayed = settings_of(alias).relay
        if not declared and not relayed:
            raise CommandError(
                f"There is nothing to do for AETHER[{alias!r}]: no module `events` of an application has a @handler, "
                "@on, @every or @projection for it."
            )
        if not hasattr(settings, "SETTINGS_MODULE"):
            raise CommandError("The worker needs a module of settings: set DJANGO_SETTINGS_MODULE.")
        require_tables([*relayed, *(one.using for one in declared if one.using is not None)])
        connections.close_all()
        options = [f"--{name.replace('_', '-')}={given[name]}" for name in _HANDED_ON if given[name] is not None]
        if reload:
            options.append("--reload")
        command = [sys.executable, "-m", "aether_sync", "run", f"aether_sync.contrib.django.workers:{alias}", *options]
        self.stdout.flush()
        self.stderr.flush()
        os.execve(command[0], command, _environment())


def _environment() -> dict[str, str]:
    """Return the environment in which another Python finds the settings and all modules."""
    path = os.pathsep.join(dict.fromkeys(one or os.getcwd() for one in sys.path))
    return {**os.environ, "DJANGO_SETTINGS_MODULE": settings.SETTINGS_MODULE, "PYTHONPATH": path}
