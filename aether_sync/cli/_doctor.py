"""The command ``doctor``: examines a store and its server, and says what to do."""

import sys
from typing import Any

import click
import msgspec

from ..errors import ConnectError
from ..stores.doctor.checks import Finding, Level, examine, first_line, is_well
from ..stores.doctor.questions import ask_for_all
from ._access import Access
from ._options import store_options

__all__ = ["doctor"]

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "red"}


@click.command()
@click.option(
    "--monitor", metavar="URL", help="The server's monitoring port, as http://host:8222: shows when it syncs to disk."
)
@click.option(
    "--replicas",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    metavar="N",
    help="How many servers should keep the stream.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line, for programs.")
@store_options
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    access: Access,
    stream: str,
    namespace: str | None,
    replicas: int,
    monitor: str | None,
    timeout: float,
    as_json: bool,
) -> None:
    """Look at a store and its server, and say what is well, what is not, and what to do.

    \b
      aether-sync doctor --monitor http://127.0.0.1:8222

    It changes nothing. Each finding is `ok`, `warn` or `bad`; the exit status is 0 if nothing is bad.
    """  # noqa: D301  # click's mark of lines to keep
    connection = access.connection(timeout)
    try:
        answers = ask_for_all(
            connection, stream, namespace=namespace, replicas=replicas, monitor=monitor, timeout=timeout
        )
        findings = examine(answers)
    except ConnectError as error:
        findings = [
            Finding(
                Level.BAD,
                "connection",
                str(error),
                "see --url, --context and the credentials, and whether the server runs",
            )
        ]
    finally:
        connection.close(timeout)
    for finding in findings:
        _print(finding, as_json)
    if not is_well(findings):
        ctx.exit(1)


def _print(finding: Finding, as_json: bool) -> None:
    if as_json:
        out: Any = sys.stdout.buffer
        out.write(msgspec.json.encode(finding) + b"\n")
        out.flush()
        return
    click.echo(click.style(first_line(finding), fg=_COLOURS[finding.level]))
    if finding.advice:
        click.echo(f"      {finding.advice}")
