"""``flask aether ...``: the commands of ``aether-sync``, with the settings of the application as their defaults.

They are imported when one is asked for: a web server needs none of them.
"""

from typing import Any

import click
from flask import current_app
from flask.cli import with_appcontext

from ._settings import Settings

__all__ = ["commands"]


class _LateCommands(click.Group):
    """A group of the library's commands, which are imported late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        from ...cli._embedded import library_commands

        return list(library_commands())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        from ...cli._embedded import library_commands

        return library_commands().get(name)

    def invoke(self, ctx: click.Context) -> Any:
        from ...cli._embedded import errors_told

        with errors_told(ctx):
            return super().invoke(ctx)


@click.group("aether", cls=_LateCommands, context_settings={"max_content_width": 100})
@with_appcontext
@click.pass_context
def commands(ctx: click.Context, /) -> None:
    """Publish, watch and store events with the settings of this app, and examine its server.

    An option that names a server, or how to log in, takes the place of all settings of the app that do so.
    """
    from ...cli._embedded import begin

    settings: Settings = current_app.extensions["aether"].settings
    begin(ctx, settings.connection, _defaults(settings))


def _defaults(settings: Settings) -> dict[str, object]:
    """Return what the settings say of options, by parameter."""
    found: dict[str, object] = {
        "prefix": settings.prefix,
        "namespace": settings.namespace,
        "replicas": settings.of_a_store.get("replicas", 1),
    }
    return found | ({"only_bus": True} if settings.stream is None else {"stream": settings.stream})
