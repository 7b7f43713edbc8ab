"""All commands, and where they begin."""

import logging
import sys

import click

from .._version import __version__
from ._append import append
from ._bus import demo, pub, server, sub
from ._doctor import doctor
from ._example import example
from ._export import export
from ._guide import guide
from ._health import health
from ._import import import_
from ._rebuild import rebuild
from ._run import run
from ._shell import Commands, Signals, forget_stdout, open_standard_streams, say
from ._store import actors, events, follow

__all__ = ["main"]


def main() -> None:
    """Run the command line, and exit."""
    open_standard_streams()
    try:
        commands(prog_name="aether-sync")
    except OSError as error:  # of what is printed before a command begins, such as its help
        forget_stdout()
        say(str(error))
        sys.exit(1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def commands(ctx: click.Context, /) -> None:
    """Publish, watch and store events on NATS, and see what aether_sync does.

    New here? This needs no server and takes five seconds:

    \b
      aether-sync demo

    Then, each in a terminal of its own:

    \b
      aether-sync server
      aether-sync sub 'orders.>'
      echo '{"eventType": "OrderPlaced", "actorId": "order-1"}' |
          aether-sync pub orders.eu

    Events that are kept:

    \b
      echo '{"eventType": "OrderPlaced"}' |
          aether-sync append order-1 --expect none
      aether-sync follow --actors 'order-*'
      aether-sync doctor

    A whole service, to start from:

    \b
      aether-sync example shop myshop

    The documentation:

    \b
      aether-sync guide

    The exit status is 0 when all that was asked was done, 1 when not, 2 for wrong usage, 130 after Ctrl-C, 141 when
    whoever reads the output has gone.
    """  # noqa: D301  # click's mark of lines to keep
    ctx.obj = Signals()
    logging.getLogger("aether_sync").addHandler(logging.NullHandler())


for command in (
    demo,
    sub,
    pub,
    server,
    append,
    events,
    follow,
    actors,
    export,
    import_,
    rebuild,
    run,
    doctor,
    health,
    example,
    guide,
):
    commands.add_command(command)
