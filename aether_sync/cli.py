"""The command ``aether-sync``: a demonstration, and events from and to a shell. Needs the extra ``cli``.

Exit status of every command: 0 when all that was asked was done; 1 when not, and a message says why; 2 for wrong usage;
130 after Ctrl-C (128 + the signal's number); 141 when whoever reads the output has gone. ``server`` has nothing left to
do when it is told to stop, and ends with 0.
"""

import codecs
import errno
import logging
import os
import select
import signal
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO, TypeVar

import msgspec

from ._version import __version__
from ._wire import decode_event, encode_event
from .errors import (
    AetherError,
    DecodingError,
    EncodingError,
    InvalidNamespaceError,
    InvalidOptionError,
    ServerError,
)
from .events import Event
from .nats_bus import NATSEventBus
from .patterns import SubscriptionFilter, check_namespace
from .server import NatsServer

try:
    import click
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
except ModuleNotFoundError as missing:
    if missing.name not in ("click", "rich"):
        raise
    sys.exit(f"aether-sync: the command line needs {missing.name}: pip install 'aether-sync[cli]'")

__all__ = ["main"]

_BATCH = 1_000  # events that `sub` writes at once, if so many are there
_CHUNK = 1 << 16  # bytes that `pub` reads at once, if so many are there
_LOOK_EVERY = 0.5  # seconds in which `server` notices that the server ended by itself
_BAD_LINES_SHOWN = 20
_NO_EVENT = "not an event of this wire format: "  # what a line is said to be, but of a line everybody knows it
_BROKEN_PIPE = 128 + signal.SIGPIPE

Function = TypeVar("Function", bound=Callable[..., Any])


def main() -> None:
    """Run the command line, and exit."""
    commands(prog_name="aether-sync")


def _say(message: str) -> None:
    click.echo(f"aether-sync: {message}", err=True)


# -- how it ends


class _Failure(click.ClickException):
    def show(self, file: Any = None) -> None:
        _say(self.message)


class _WrongUsageError(_Failure):
    exit_code = 2


class _Commands(click.Group):
    """Turns what goes wrong in a command into a message and an exit status."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (InvalidNamespaceError, InvalidOptionError) as error:
            raise _WrongUsageError(str(error)) from error
        except AetherError as error:
            raise _Failure(str(error)) from error
        except BrokenPipeError:
            _forget_stdout()
            ctx.exit(_BROKEN_PIPE)
        except OSError as error:
            _forget_stdout()
            raise _Failure(str(error)) from error


def _forget_stdout() -> None:
    """Have what is still buffered go nowhere at exit, where it would fail again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Signals:
    """Ends the program by ``SystemExit`` at SIGINT, SIGTERM and SIGHUP, but not in the middle of :meth:`whole`."""

    def __init__(self) -> None:
        self._whole = False
        self._waiting = 0
        self._came, wake = os.pipe()
        for end in (self._came, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and os.isatty(2):
            os.write(2, b"\r  \r")  # over the ^C that the terminal shows
        if self._whole and not self._waiting:
            self._waiting = number
        else:
            sys.exit(128 + number)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Do something whole: the first signal meanwhile waits for its end, or gives way to its exception."""
        self._whole = True
        try:
            yield
        finally:
            self._whole = False
        if self._waiting:
            sys.exit(128 + self._waiting)

    def await_input(self, file: BinaryIO) -> None:
        """Wait until a file can be read. A signal ends this also if it came on the way into the wait, unlike a read."""
        select.select([file.fileno(), self._came], [], [])


# -- the commands


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.pass_context
def commands(ctx: click.Context, /) -> None:
    """Publish and watch events on NATS, and see what aether_sync does.

    New here? This needs no server and takes five seconds:

    \b
      aether-sync demo

    Then, each in a terminal of its own:

    \b
      aether-sync server
      aether-sync sub 'orders.>'
      echo '{"eventType": "OrderPlaced", "actorId": "order-1"}' |
          aether-sync pub orders.eu

    The exit status is 0 when all that was asked was done, 1 when not, 2 for wrong usage, 130 after Ctrl-C, 141 when
    whoever reads the output has gone.
    """  # noqa: D301  # click's mark of lines to keep
    ctx.obj = _Signals()
    logging.getLogger("aether_sync").addHandler(logging.NullHandler())


_timeout = click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the server.",
)


def _connecting(command: Function) -> Function:
    """Add the options of what connects to a server."""
    options = (
        click.option(
            "--url",
            envvar="NATS_URL",
            show_envvar=True,
            default="nats://127.0.0.1:4222",
            show_default=True,
            metavar="URL",
            help="The server; several of one cluster with commas between.",
        ),
        click.option(
            "--prefix",
            default="aether",
            show_default=True,
            metavar="TOKEN",
            help="First token of every subject; all nodes of a cluster use the same.",
        ),
        _timeout,
    )
    for option in reversed(options):
        command = option(command)
    return command


@contextmanager
def _bus(url: str, prefix: str, timeout: float) -> Iterator[NATSEventBus]:
    """Open a bus that connects at its first use, so that what is wrong with that use is said before."""
    bus = NATSEventBus(url, prefix=prefix, connect_timeout=timeout, publish_timeout=timeout)
    try:
        yield bus
    finally:
        bus.close(timeout)


def _report_troubles() -> None:
    """Show what the library logs from now on. Until then, what goes wrong is raised."""
    logging.basicConfig(format="aether-sync: %(message)s")


@commands.command()
@click.option(
    "--seconds",
    type=click.FloatRange(min=0.5, max=600),
    default=3.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to publish.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=50),
    default=500.0,
    show_default=True,
    metavar="N",
    help="Events a second, from each of the six publishing threads; 50 or more.",
)
@click.option("--url", metavar="URL", help="Use this server; by default the demo runs one of its own.")
@_timeout
@click.pass_context
def demo(ctx: click.Context, /, seconds: float, rate: float, url: str | None, timeout: float) -> None:
    """Watch three processes exchange events, and see it add up.

    Starts a server and three processes. Each publishes from two threads and reads, from several others, subscriptions
    with wildcards, with a filter, of a queue group, and one that is slow on purpose and drops events.

    At the end a table says for each subscription what was published for it, received and dropped. The exit status is 0
    only if every event was received once and in order, or counted as dropped.
    """
    from ._demo import run_demo

    if not run_demo(Console(), seconds=seconds, rate=rate, url=url, timeout=timeout):
        ctx.exit(1)


@commands.command()
@click.argument("patterns", metavar="PATTERN...", nargs=-1, required=True)
@click.option("--type", "types", metavar="TYPE", multiple=True, help="Only events of this type; may be repeated.")
@click.option("--actor", metavar="PATTERN", help="Only events of matching actors, as 'order-*'.")
@click.option("--group", metavar="NAME", help="Share the events with all others of this queue group.")
@click.option("--count", type=click.IntRange(min=1), metavar="N", help="End after so many events.")
@_connecting
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
    with _bus(**server) as bus, bus.subscribe(*patterns, filter=wanted, queue_group=group) as events:
        _report_troubles()
        _say(f"subscribed to {', '.join(map(repr, patterns))}; Ctrl-C ends")
        out = sys.stdout.buffer
        printed = 0
        try:
            while count is None or printed < count:
                batch = events.get_batch(_BATCH if count is None else min(count - printed, _BATCH))
                out.write(b"".join(map(_to_line, batch)))
                out.flush()
                printed += len(batch)
        finally:
            if dropped := events.stats().dropped:
                _say(f"{dropped:,} events dropped: they came faster than they were read")


@commands.command()
@click.argument("namespace")
@click.argument("file", type=click.File("rb"), default="-")
@click.option("--skip-bad", is_flag=True, help="Skip bad lines and report them, instead of stopping at the first.")
@_connecting
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
        _say("type one JSON object a line; Ctrl-D ends")
    with _bus(timeout=timeout, **server) as bus:
        bus.start()
        _report_troubles()
        sender = _Sender(bus, namespace, ctx.obj, skip_bad=skip_bad)
        stopped_by = "interrupted"
        try:
            stopped_by = sender.send_all(file)
        finally:
            complete = sender.finish(timeout, stopped_by)
    if not complete:
        ctx.exit(1)


@commands.command()
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

    It listens on this machine only, takes everyone, and has JetStream. For development, not for production.

    Prints its URL when it is ready. The exit status is 0 when it was told to stop (Ctrl-C, SIGTERM).
    """
    try:
        with NatsServer(port=port, store_dir=store_dir) as running:
            click.echo(running.url)
            while running.is_running:
                time.sleep(_LOOK_EVERY)
    except SystemExit:  # a signal, which is how it ends
        ctx.exit(0)
    except ServerError as error:
        if isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EADDRINUSE:
            raise _Failure(f"port {port} is in use: choose another one with --port") from error
        raise
    raise _Failure("the server has ended")


# -- lines and events

_KEYS = {"event_type": "eventType", "actor_id": "actorId", "command_id": "commandId"}
_KNOWN = frozenset({"id", "eventType", "actorId", "commandId", "version", "data", "metadata", "timestamp", "namespace"})


def _to_line(event: Event) -> bytes:
    return b'{"namespace":%b,%b\n' % (msgspec.json.encode(event.namespace), encode_event(event)[1:])


def _to_event(line: bytes) -> Event:
    """Read a line as it stands on the wire, but strictly: a key that nobody knows is a slip of the pen.

    Raises:
        DecodingError: The line is no event.
    """
    try:
        read = msgspec.json.decode(line, type=dict[str, Any])
    except UnicodeDecodeError:
        raise DecodingError("it is not UTF-8") from None
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors
        raise DecodingError(str(error)) from None
    made = Event(event_type="-", actor_id="-")
    fields: dict[str, Any] = {}
    for key, value in read.items():
        name = _KEYS.get(key, key)
        if name not in _KNOWN:
            raise DecodingError(f"unknown key {key!r}")
        if name in fields:
            raise DecodingError(f"{name!r} is there twice")
        fields[name] = value
    return decode_event(msgspec.json.encode({"id": made.id, "timestamp": made.timestamp} | fields), "")


def _lines(file: BinaryIO, signals: _Signals) -> Iterator[list[bytes]]:
    """Give the lines that are there, as they come: a pipe that stays open delays none."""
    rest = b""
    while True:
        signals.await_input(file)
        chunk: bytes = file.read1(_CHUNK)  # type: ignore[attr-defined]
        if not chunk:
            break
        *lines, rest = (rest + chunk).split(b"\n")
        yield lines
    yield [rest]


class _BadLineError(Exception):
    pass


class _Sender:
    """Publishes lines, and knows exactly what became of them."""

    def __init__(self, bus: NATSEventBus, namespace: str, signals: _Signals, *, skip_bad: bool) -> None:
        self._bus = bus
        self._namespace = namespace
        self._signals = signals
        self._skip_bad = skip_bad
        self._sent = 0
        self._bad = 0

    def send_all(self, file: BinaryIO) -> str:
        """Send a file; returns what stopped it before its end, or ""."""
        number = 1
        try:
            with _progress(file) as advance:
                for lines in _lines(file, self._signals):
                    self._send_lines(number, lines)
                    number += len(lines)
                    advance(sum(map(len, lines)) + len(lines), self._sent)
        except _BadLineError as error:
            return f"{error}; nothing after it was sent"
        except AetherError as error:
            return str(error)
        return ""

    def _send_lines(self, first: int, lines: list[bytes]) -> None:
        events: list[tuple[int, Event]] = []
        if first == 1:
            lines[:1] = [line.removeprefix(codecs.BOM_UTF8) for line in lines[:1]]
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            try:
                events.append((number, _to_event(line)))
            except DecodingError as error:
                self._publish(events)  # what stands before it
                events = []
                self._refuse(number, error)
        self._publish(events)

    def _publish(self, events: list[tuple[int, Event]]) -> None:
        if not events:
            return
        with self._signals.whole():
            try:
                self._bus.publish_many(self._namespace, [event for _, event in events])
            except EncodingError as error:  # one is too large, and none was sent
                if len(events) == 1:
                    self._refuse(events[0][0], error)
                    return
            else:
                self._sent += len(events)
                return
        for one in events:
            self._publish([one])

    def _refuse(self, number: int, error: AetherError) -> None:
        self._bad += 1
        what = f"line {number} is bad: {str(error).removeprefix(_NO_EVENT)}"
        if not self._skip_bad:
            raise _BadLineError(what)
        if self._bad <= _BAD_LINES_SHOWN:
            _say(what)
        elif self._bad == _BAD_LINES_SHOWN + 1:
            _say("more bad lines are only counted")

    def finish(self, timeout: float, stopped_by: str) -> bool:
        """Wait for the server's confirmation and say what was sent; whether that is all."""
        parts = []
        try:
            self._bus.flush(timeout)
            confirmed = True
            parts.append(f"sent {_count(self._sent)}, confirmed" if self._sent else "nothing was sent")
        except AetherError as error:
            confirmed = False
            parts.append(f"published {_count(self._sent)}, but {error}")
        if self._bad and self._skip_bad:
            parts.append(f"skipped {self._bad:,} bad line{'s' * (self._bad != 1)}")
        _say("; ".join([*parts, *filter(None, [stopped_by])]))
        return confirmed and not stopped_by and not self._bad


def _count(events: int) -> str:
    return f"{events:,} event{'s' * (events != 1)}"


@contextmanager
def _progress(file: BinaryIO) -> Iterator[Callable[[int, int], None]]:
    """Show on a terminal how far a file is sent; gives what is called with the bytes just read and all events sent."""
    console = Console(stderr=True)
    if not console.is_terminal or file.isatty():
        yield lambda size, sent: None
        return
    status = os.fstat(file.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else None
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%" if size else ""),
        TextColumn("{task.fields[sent]:,} events"),
        TimeRemainingColumn() if size else TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("", total=size, sent=0)
        yield lambda size, sent: progress.update(task, advance=size, sent=sent)
