"""The command ``run``: runs a worker of the user's program in processes that are started again when they end."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

import click

from ._options import Number
from ._shell import Failure, WrongUsageError, say
from .supervisor.messages import Program
from .supervisor.ports import Address, PortError, answering_probes
from .supervisor.program import UnusableProgramError, check_where
from .supervisor.supervisor import Supervisor

__all__ = ["run"]

_EVERYWHERE = "0.0.0.0"
_HERE = "127.0.0.1"
_LARGEST_PORT = 65_535
_LONGEST_GRACE = 86_400  # seconds: more is a slip


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    """Read ``[ADDRESS:]PORT``."""
    if value is None:
        return None
    host, _, port = value.rpartition(":")
    if not (port.isascii() and port.isdigit() and int(port) <= _LARGEST_PORT):
        raise click.BadParameter(f"{value!r} is no port, such as 8080 or 127.0.0.1:8080.")
    return Address(host or _EVERYWHERE, int(port))


@click.command()
@click.argument("where", metavar="MODULE:NAME")
@click.option(
    "--processes", type=click.IntRange(min=1), default=1, show_default=True, metavar="N", help="How many processes."
)
@click.option(
    "--threads",
    type=click.IntRange(min=1),
    metavar="N",
    help="How many threads the handler of each consumer has in each process; by default as many as the program says.",
)
@click.option(
    "--grace",
    type=Number(min=0, max=_LONGEST_GRACE),
    default=25.0,
    show_default=True,
    metavar="SECONDS",
    help="How long handlers that run may go on at the end.",
)
@click.option(
    "--health-port",
    callback=_address,
    metavar="[ADDRESS:]PORT",
    help="Answer probes at /healthz and /livez, for all processes.",
)
@click.option(
    "--metrics-port",
    callback=_address,
    metavar="[ADDRESS:]PORT",
    help="Answer scrapes of Prometheus at /metrics, for all processes.",
)
@click.option("--reload", is_flag=True, help="For development: start anew when a Python file has changed.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    where: str,
    processes: int,
    threads: int | None,
    grace: float,
    health_port: Address | None,
    metrics_port: Address | None,
    reload: bool,
) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    NAME in MODULE is the worker, or a function that returns it. The module is looked for in the current folder, too.

    \b
      aether-sync run shop.events:worker
      aether-sync run shop.events:worker --processes 4 --health-port 8080
      aether-sync run shop.events:worker --reload

    It runs in processes of its own, and one that ends is started again: at once, or after a pause that grows to 30
    seconds if it ends again and again.

    SIGTERM and Ctrl-C end it: nothing new is taken, handlers that run have the time of --grace, and what is left then
    is given back. A second signal ends it at once. The exit status is 0 if all handlers came to their ends, 3 if not, 2
    if there is no such worker or it cannot start, and 128 + the signal's number after a second signal.
    """  # noqa: D301  # click's mark of lines to keep
    try:
        check_where(where)
        _refuse_one_port_for_both(health_port, metrics_port)
        ctx.exit(
            _run(
                Program(where, threads or 0, grace, metrics_port is not None),
                processes,
                health_port,
                metrics_port,
                reload=reload,
            )
        )
    except UnusableProgramError as error:
        raise WrongUsageError(str(error)) from error
    except PortError as error:
        raise Failure(str(error)) from error


def _refuse_one_port_for_both(health_port: Address | None, metrics_port: Address | None) -> None:
    if health_port is None or metrics_port is None or not health_port.port == metrics_port.port != 0:
        return
    if health_port.host == metrics_port.host or _EVERYWHERE in (health_port.host, metrics_port.host):
        text = f"--health-port and --metrics-port are both {health_port.port}: give each a port of its own"
        raise WrongUsageError(text)


def _url(address: Address, port: int) -> str:
    return f"http://{_HERE if address.host == _EVERYWHERE else address.host}:{port}"


def _run(
    program: Program, processes: int, health_port: Address | None, metrics_port: Address | None, *, reload: bool
) -> int:
    with ExitStack() as stack:
        gone: Callable[[int], object] = int
        if metrics_port is not None:
            with _needing("--metrics-port", "prometheus"):
                from .supervisor.metrics import answering_scrapes, forget_process
            _report(f"metrics at {_url(metrics_port, stack.enter_context(answering_scrapes(metrics_port)))}/metrics")
            gone = forget_process
        supervisor = Supervisor(program, processes, report=_report, gone=gone, waits_for_changes=reload)
        if health_port is not None:
            port = stack.enter_context(answering_probes(health_port, supervisor.processes))
            _report(f"health at {_url(health_port, port)}/healthz")
        if reload:
            with _needing("--reload", "cli"):
                from .supervisor.watching import watching
            stack.enter_context(watching(program.where.partition(":")[0], supervisor.changed, _report))
        return supervisor.run()


@contextmanager
def _needing(option: str, extra: str) -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as missing:
        raise Failure(f"{option} needs {missing.name}: install the extra {extra!r} of aether-sync") from missing


def _report(text: str) -> None:
    with suppress(OSError):  # whoever reads it may have gone, and the work goes on
        say(text)
