"""The command ``health``: whether the server can be used, as an exit status for probes."""

import json
from typing import Any

import click

from .._runtime.deadline import Deadline
from ..connection import Connection
from ..errors import AetherError, InvalidOptionError
from ..health import Health
from ..stores.admin import StoreAdmin
from ..stores.jetstream import JetStreamEventStore
from ._access import Access
from ._options import Number, access_options
from ._shell import Failure

__all__ = ["health"]

_LEAST = 0.001  # seconds for the last question: with 0 nobody would be asked, and all would be well


class _Probe(click.Command):
    """Ends with exit status 1 also after wrong usage: what runs probes knows 0 and 1, and Docker reserves 2."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except click.UsageError as error:
            error.exit_code = 1  # type: ignore[misc]  # one for this error, not for its class
            raise


@click.command(cls=_Probe)
@click.option(
    "--stream", metavar="NAME", help="Look at a store's stream, too: does it answer, if it has been made already?"
)
@click.option("--namespace", metavar="NAME", help="The store's namespace; none by default.")
@click.option("--must-exist", is_flag=True, help="With --stream: a stream that is not there is a fault.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, for programs.")
@click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long the server may take for all of it.",
)
@access_options
@click.pass_context
def health(
    ctx: click.Context,
    /,
    access: Access,
    stream: str | None,
    namespace: str | None,
    must_exist: bool,
    timeout: float,
    as_json: bool,
) -> None:
    """Connect, and say whether the server answers: for probes.

    \b
      aether-sync health
      aether-sync health --stream orders --json

    The exit status is 0 if all is well, and 1 if not, also for wrong usage. The server needs no JetStream, unless
    --stream is given. A stream that is not there yet is no fault, as the first event makes it, unless --must-exist is
    given. This looks at the server, not at a running program: for that there is health_app().
    """  # noqa: D301  # click's mark of lines to keep
    if must_exist and stream is None:
        raise Failure("--must-exist is for a stream: name it with --stream.")
    deadline = Deadline(timeout)
    try:
        connection = access.connection(timeout)
        try:
            found = _looked(connection, stream, namespace, must_exist, deadline)
        finally:
            connection.close(deadline.remaining())
    except InvalidOptionError as error:
        raise Failure(str(error)) from error
    _print(found, as_json)
    if not found:
        ctx.exit(1)


def _looked(
    connection: Connection, stream: str | None, namespace: str | None, must_exist: bool, deadline: Deadline
) -> Health:
    store = None if stream is None else JetStreamEventStore(connection, stream, namespace=namespace)
    try:
        connection.start()
        if store is not None and must_exist:
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
