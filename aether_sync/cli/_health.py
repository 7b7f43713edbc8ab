"""The command ``health``: whether the server can be used, as an exit status for probes."""

import json

import click

from .._runtime.deadline import Deadline
from ..connection import Connection
from ..errors import AetherError
from ..health import Health
from ..stores.admin import StoreAdmin
from ..stores.jetstream import JetStreamEventStore
from ._access import Access
from ._options import access_options

__all__ = ["health"]

_LEAST = 0.001  # seconds for the last question: with 0 nobody would be asked, and all would be well


@click.command()
@click.option("--stream", metavar="NAME", help="Look at a store's stream, too: is it there, and does it answer?")
@click.option("--namespace", metavar="NAME", help="The store's namespace; none by default.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may take for all of it.",
)
@access_options
@click.pass_context
def health(
    ctx: click.Context, /, access: Access, stream: str | None, namespace: str | None, timeout: float, as_json: bool
) -> None:
    """Connect, and say whether the server answers: for probes.

    \b
      aether-sync health
      aether-sync health --stream orders --json

    The exit status is 0 if all is well, and 1 if not. The server needs no JetStream, unless --stream is given. This
    looks at the server, not at a running program: for that there is health_app().
    """  # noqa: D301  # click's mark of lines to keep
    deadline = Deadline(timeout)
    connection = access.connection(timeout)
    try:
        found = _looked(connection, stream, namespace, deadline)
    finally:
        connection.close(deadline.remaining())
    _print(found, as_json)
    if not found:
        ctx.exit(1)


def _looked(connection: Connection, stream: str | None, namespace: str | None, deadline: Deadline) -> Health:
    store = None if stream is None else JetStreamEventStore(connection, stream, namespace=namespace)
    try:
        connection.start()
        if store is not None:
            StoreAdmin(store).require_stream(deadline.remaining())
    except AetherError as error:
        return Health.of(connection.health().about, (str(error),))
    if store is None:
        return connection.health()
    return store.health(timeout=max(deadline.remaining(), _LEAST))


def _print(found: Health, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(found.to_dict()))
    elif found:
        click.echo(click.style(f"ok    {found.about}", fg="green"))
    for reason in () if as_json else found.reasons:
        click.echo(click.style(f"bad   {reason}", fg="red"))
