"""The command ``doctor``: examines a server, and the bus and store on it, and says what to do."""

import sys
from typing import Any

import click
import msgspec

from ..event_types import EventTypes
from ..stores.doctor.diagnosis import diagnose
from ..stores.doctor.findings import Finding, Level, first_line, is_well
from ._access import Access
from ._options import prefix_option, store_options
from ._types import types_from

__all__ = ["doctor"]

_COLOURS = {Level.OK: "green", Level.WARN: "yellow", Level.BAD: "red"}


@click.command()
@click.option("--monitor", metavar="URL", help="The server's monitoring port, as http://host:8222: shows more.")
@click.option(
    "--replicas",
    type=click.IntRange(min=1, max=5),
    default=1,
    show_default=True,
    metavar="N",
    help="How many servers should keep the stream.",
)
@click.option("--bus", "only_bus", is_flag=True, help="Look at the server and a bus, and at no store.")
@click.option(
    "--pattern",
    "patterns",
    multiple=True,
    metavar="PATTERN",
    help="What the program publishes and subscribes to on the bus; may be given several times.",
)
@click.option(
    "--types",
    metavar="MODULE:NAME",
    callback=types_from,
    help="The EventTypes of the program: name the events that they do not know.",
)
@prefix_option
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
    only_bus: bool,
    patterns: tuple[str, ...],
    types: EventTypes | None,
    prefix: str,
    timeout: float,
    as_json: bool,
) -> None:
    """Look at a server, and at the bus and the store on it, and say what is well, what is not, and what to do.

    \b
      aether-sync doctor --monitor http://127.0.0.1:8222
      aether-sync doctor --types shop.events:types
      aether-sync doctor --bus --pattern 'orders.>'

    It changes nothing. Where the user has limited rights, it tries them, and the server notes that in its log as errors
    of this user. Each finding is `ok`, `warn` or `bad`; the exit status is 0 if nothing is bad.
    """  # noqa: D301  # click's mark of lines to keep
    connection = access.connection(timeout)
    try:
        findings = diagnose(
            connection,
            stream,
            namespace=namespace,
            replicas=replicas,
            store=not only_bus,
            prefix=prefix,
            patterns=patterns or None,
            monitor=monitor,
            types=types,
            timeout=timeout,
        )
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
