"""Options that several commands have, and the bus or store that they open."""

import functools
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

from .._runtime.deadline import Deadline
from ..nats_bus import NATSEventBus
from ..stores.jetstream import JetStreamEventStore
from ._access import Access

__all__ = [
    "Number",
    "PROGRAM_ACCESS",
    "access_options",
    "bus_options",
    "making_options",
    "open_bus",
    "open_store",
    "prefix_option",
    "report_troubles",
    "store_options",
    "timeout_option",
]

Function = TypeVar("Function", bound=Callable[..., Any])

#: In ``Context.meta`` of click: the access of the program that these commands belong to, if it is another.
PROGRAM_ACCESS = "aether_sync.program_access"

_LONGEST_SECRET = 65_536  # characters


class Number(click.FloatRange):
    """A number within a range. ``nan`` and ``inf`` are none, though click takes them."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number.

        Raises:
            click.BadParameter: It is none, or out of the range.
        """
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not in the range {self._describe_range()}.", param, ctx)
        return number


timeout_option = click.option(
    "--timeout",
    type=Number(min=0, min_open=True),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for the server.",
)


def _secret(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    """Read a secret from a file, if its value is ``@FILE``. No message shows anything of it."""
    if value is None or not value.startswith("@"):
        return value
    try:
        with open(value[1:], "rb") as file:
            text = file.read(_LONGEST_SECRET + 1).decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise click.BadParameter(f"{value[1:]!r} cannot be read: {error.strerror}.") from None
    except ValueError:
        raise click.BadParameter(f"{value[1:]!r} has no text in UTF-8.") from None
    if not 0 < len(text) <= _LONGEST_SECRET:
        raise click.BadParameter(f"{value[1:]!r} is empty, or too large for a secret.")
    return text


def _file_option(name: str, variable: str, what: str) -> Callable[[Function], Function]:
    return click.option(name, metavar="FILE", help=f"{what}  [env var: {variable}]")


_access_options = (
    click.option(
        "--url",
        metavar="URL",
        help="The server; several of one cluster with commas between.  [env var: NATS_URL; default: "
        "nats://127.0.0.1:4222]",
    ),
    click.option(
        "--context",
        metavar="NAME",
        help="A context of the nats command line, for all that options do not say. It takes the place of the "
        "environment's variables; one that NATS_CONTEXT names stands behind them.",
    ),
    click.option("--no-env", is_flag=True, help="Leave out what the environment's variables NATS_... say."),
    _file_option("--creds", "NATS_CREDS", "Log in with a credentials file, which holds a JWT and its seed."),
    _file_option("--nkey", "NATS_NKEY", "Log in with the nkey seed in a file."),
    click.option("--user", metavar="USER", help="Log in as a user.  [env var: NATS_USER]"),
    click.option(
        "--password",
        callback=_secret,
        metavar="@FILE",
        help="The user's password, in a file. Without @ it is the password itself, which every user of the machine can "
        "see then.  [env var: NATS_PASSWORD]",
    ),
    click.option(
        "--token",
        callback=_secret,
        metavar="@FILE",
        help="Log in with a token, in a file; without @ as for --password.  [env var: NATS_TOKEN]",
    ),
    _file_option("--tlsca", "NATS_CA", "Certificates of the authorities to trust, and demand TLS."),
    _file_option("--tlscert", "NATS_CERT", "This client's certificate, and demand TLS."),
    _file_option("--tlskey", "NATS_KEY", "The key of --tlscert."),
)
_ACCESS = ("url", "context", "creds", "nkey", "user", "password", "token", "tlsca", "tlscert", "tlskey")

prefix_option = click.option(
    "--prefix",
    default="aether",
    show_default=True,
    metavar="TOKEN",
    help="First token of every subject; all nodes of a cluster use the same.",
)

_stream_option = click.option(
    "--stream", default="events", show_default=True, metavar="NAME", help="The store's stream."
)

_namespace_option = click.option("--namespace", metavar="NAME", help="The store's namespace; none by default.")

_replicas_option = click.option(
    "--replicas",
    type=click.IntRange(min=1, max=5),
    default=1,
    show_default=True,
    metavar="N",
    help="How many servers keep the stream, if it has to be made.",
)


def _with(command: Function, *options: Callable[[Function], Function]) -> Function:
    for option in reversed(options):
        command = option(command)
    return command


def access_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that say which server, and how it lets us in; the command gets them as ``access``."""

    @functools.wraps(command)
    def with_access(*args: Any, **options: Any) -> Any:
        trust_env = not options.pop("no_env")
        access = Access(**{name: options.pop(name) for name in _ACCESS}, trust_env=trust_env)
        if access == Access():  # else nothing of the program's, so that its secrets go to no other server
            access = click.get_current_context().meta.get(PROGRAM_ACCESS, access)
        return command(*args, access=access, **options)

    return _with(with_access, *_access_options)


def bus_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that publish or subscribe."""
    return _with(access_options(command), prefix_option, timeout_option)


def store_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that read a store."""
    return _with(access_options(command), _stream_option, _namespace_option, timeout_option)


def making_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of commands that write to a store, which may have to make it."""
    return _with(access_options(command), _stream_option, _namespace_option, _replicas_option, timeout_option)


@contextmanager
def open_bus(access: Access, prefix: str, timeout: float) -> Iterator[NATSEventBus]:
    """Make a bus that connects at its first use: wrong arguments of that use are then reported first."""
    connection = access.connection(timeout)
    bus = NATSEventBus(connection, prefix=prefix, publish_timeout=timeout)
    try:
        yield bus
    finally:
        deadline = Deadline(timeout)
        try:
            bus.close(deadline.timeout_left())
        finally:
            connection.close(deadline.timeout_left())


@contextmanager
def open_store(
    access: Access, stream: str, namespace: str | None, timeout: float, replicas: int = 1, cached_actors: int = 16_384
) -> Iterator[JetStreamEventStore]:
    """Make a store that connects at its first use."""
    connection = access.connection(timeout)
    store = JetStreamEventStore(connection, stream, namespace=namespace, replicas=replicas, cached_actors=cached_actors)
    try:
        with store:
            yield store
    finally:
        connection.close(timeout)


def report_troubles() -> None:
    """Show from now on what the library logs. Before, errors are raised, and need not be logged."""
    logging.basicConfig(format="aether-sync: %(message)s")
