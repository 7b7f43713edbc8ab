"""The commands of the bus: ``demo``, ``sub``, ``pub``, ``server``."""

import errno
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

import click
from rich.console import Console

from ..errors import AetherError, EncodingError, ServerError
from ..nats_bus import NATSEventBus
from ..patterns import SubscriptionFilter, check_namespace
from ..server.server import NATSServer
from ._access import Access
from ._lines import BadLineError, BadLines, Line, counted, take_events, to_line
from ._options import Number, access_options, bus_options, open_bus, report_troubles, timeout_option
from ._shell import Failure, Signals, say

__all__ = ["demo", "pub", "server", "sub"]

_BATCH = 1_000  # events that `sub` writes at once, if there are so many
_LOOK_EVERY = 0.5  # seconds until `server` notices that the server has ended by itself


@click.command()
@click.option(
    "--seconds",
    type=Number(min=0.5, max=600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to publish.",
)
@click.option(
    "--rate",
    type=Number(min=50),
    default=500.0,
    show_default=True,
    metavar="N",
    help="Events a second, from each of the six publishing threads; 50 or more.",
)
@access_options
@timeout_option
@click.pass_context
def demo(ctx: click.Context, /, seconds: float, rate: float, access: Access, timeout: float) -> None:
    """Watch three processes exchange events, and see it add up.

    Starts three processes, and a server unless --url or --context names one. Each process publishes from two threads
    and reads, from several others, subscriptions with wildcards, with a filter, of a queue group, and one that is slow
    on purpose and drops events.

    At the end a table says for each subscription what was published for it, received and dropped. The exit status is 0
    only if every event was received once and in order, or counted as dropped.
    """
    from .demo import run_demo

    if not access.names_a_server and access != Access(trust_env=access.trust_env):
        raise click.UsageError("Credentials and TLS are for a server: name it with --url or --context.")
    if not run_demo(Console(), seconds=seconds, rate=rate, access=access, timeout=timeout):
        ctx.exit(1)


@click.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; may be repeated.")
@click.option("--actor", metavar="PATTERN", help="Only events of matching actors, as 'order-*'.")
@click.option("--group", metavar="NAME", help="Share the events with all others of this queue group.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@bus_options
def sub(
    patterns: tuple[str, ...],
    types: tuple[str, ...],
    actor: str | None,
    group: str | None,
    count: int | None,
    **server: Any,
) -> None:
    """Print events as JSON lines, until Ctrl-C.

    PATTERN is a namespace, or one with wildcards: '*' is one token, '>' one or more at the end, 'tenant-*' a glob
    within a token. Quote it, or the shell may expand it. An event that several patterns match comes once.

    \b
      aether-sync sub 'orders.*' 'refunds.>'
      aether-sync sub '>' --type OrderPlaced --actor 'order-*'
      aether-sync sub jobs --group workers --count 10 | jq .data

    Each line is an event with its namespace, and `pub` takes it back. Messages go to the standard error.
    """  # noqa: D301  # click's mark of lines to keep
    wanted = SubscriptionFilter(event_types=types, actor_pattern=actor)
    with open_bus(**server) as bus, bus.subscribe(*patterns, filter=wanted, queue_group=group) as events:
        report_troubles()
        say(f"subscribed to {', '.join(map(repr, patterns))}; Ctrl-C ends")
        out = sys.stdout.buffer
        printed = 0
        try:
            while count is None or printed < count:
                batch = events.get_batch(_BATCH if count is None else min(count - printed, _BATCH))
                out.write(b"".join(to_line(event, namespace=event.namespace) for event in batch))
                out.flush()
                printed += len(batch)
        finally:
            if dropped := events.stats().dropped:
                say(f"{dropped:,} events dropped: they came faster than they were read")


@click.command()
@click.argument("namespace")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--skip-bad", is_flag=True, help="Skip bad lines and report them, instead of stopping at the first.")
@bus_options
@click.pass_context
def pub(ctx: click.Context, /, namespace: str, file: BinaryIO, skip_bad: bool, timeout: float, **server: Any) -> None:
    """Publish JSON lines as events under NAMESPACE.

    FILE has one event a line; '-', the default, is the standard input. Blank lines are ignored. A line needs only
    eventType and actorId; what it may have beside these:

    \b
      {"eventType": "OrderPlaced", "actorId": "order-1",
       "data": {"qty": 3}, "version": 1, "commandId": "c-1",
       "metadata": {"userId": "u-1"}, "id": "...",
       "timestamp": "2025-01-31T12:00:00Z"}

    id and timestamp are made if left out. event_type, actor_id and command_id are understood too, and what `sub`
    prints can be published again.

    At the end it says how many events the server has confirmed. A bad line stops it, with the line's number; what
    stands before that line is sent, nothing after it. With --skip-bad all other lines are sent. The exit status is 0
    only if every line was sent and confirmed.
    """  # noqa: D301  # click's mark of lines to keep
    check_namespace(namespace)
    if file.isatty():
        say("type one JSON object a line; Ctrl-D ends")
    with open_bus(timeout=timeout, **server) as bus:
        bus.start()
        report_troubles()
        sender = _Sender(bus, namespace, ctx.obj, skip_bad=skip_bad)
        stopped_by = "interrupted"
        try:
            stopped_by = sender.send_all(file)
        finally:
            complete = sender.finish(timeout, stopped_by)
    if not complete:
        ctx.exit(1)


@click.command()
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=4222,
    show_default=True,
    metavar="PORT",
    help="Where to listen; 0 for any free port.",
)
@click.option(
    "--store-dir",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIRECTORY",
    help="Where streams are kept; by default they are gone with the server.",
)
@click.pass_context
def server(ctx: click.Context, /, port: int, store_dir: Path | None) -> None:
    """Run a local server in the foreground, until Ctrl-C.

    It listens on this machine only, accepts every client, and has JetStream. For development, not for production.

    Prints its URL when it is ready. The exit status is 0 when it was told to stop (Ctrl-C, SIGTERM).
    """
    try:
        with NATSServer(port=port, store_dir=store_dir) as running:
            click.echo(running.url)
            while running.is_running:
                time.sleep(_LOOK_EVERY)
    except SystemExit:  # a signal, which is how it ends
        ctx.exit(0)
    except ServerError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            raise Failure(f"port {port} is in use: choose another one with --port") from error
        raise
    raise Failure("the server has ended")


class _Sender:
    """Publishes lines, and counts exactly what was confirmed."""

    def __init__(self, bus: NATSEventBus, namespace: str, signals: Signals, *, skip_bad: bool) -> None:
        self._bus = bus
        self._namespace = namespace
        self._signals = signals
        self._bad = BadLines(skip=skip_bad)
        self._sent = 0

    def send_all(self, file: BinaryIO) -> str:
        """Send a file; return what stopped it before the end of the file, or ""."""
        try:
            take_events(file, self._signals, self._bad, self._publish, lambda: self._sent)
        except BadLineError as error:
            return f"{error}; nothing after it was sent"
        except AetherError as error:
            return str(error)
        return ""

    def _publish(self, lines: list[Line]) -> None:
        with self._signals.whole():
            try:
                self._bus.publish_many(self._namespace, [line.event for line in lines])
            except EncodingError as error:  # an event is too large, and none was sent
                if len(lines) == 1:
                    self._bad.refuse(lines[0].number, error)
                    return
            else:
                self._sent += len(lines)
                return
        for line in lines:
            self._publish([line])

    def finish(self, timeout: float, stopped_by: str) -> bool:
        """Wait for the server's confirmation and say what was sent; return whether it is everything."""
        parts = []
        try:
            self._bus.flush(timeout)
            confirmed = True
            parts.append(f"sent {counted(self._sent)}, confirmed" if self._sent else "nothing was sent")
        except AetherError as error:
            confirmed = False
            parts.append(f"published {counted(self._sent)}, but {error}")
        say("; ".join([*parts, *self._bad.summary(), *filter(None, [stopped_by])]))
        return confirmed and not stopped_by and not self._bad.count
