"""The parent of the demonstration: it starts a server and the nodes, shows the traffic, and adds up."""

import signal
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from multiprocessing import get_context, resource_tracker
from typing import TypeVar

from rich.console import Console

from ...errors import AetherError
from ...server.server import NATSServer
from .._access import Access
from .audit import Audit, audit, expected_of
from .node import run_node
from .plan import PUBLISHERS, READINGS, Command, Failure, Kind, Pace, Reading, Report, Status
from .show import Screen, show_audit

__all__ = ["run_demo"]

_PATIENCE = 30.0  # seconds for an answer of a node; it starts a Python, perhaps on a busy machine
_DRAIN = 10.0  # seconds in which all that was published should have arrived
_TELL_EVERY = 0.1  # seconds between two looks
_GRACE = 3.0  # seconds for a node to end by itself

T = TypeVar("T", Status, Report)


def run_demo(console: Console, *, seconds: float, rate: float, access: Access, timeout: float) -> bool:
    """Run the demonstration and show it.

    Args:
        console: Where to show it: live on a terminal, a line each second elsewhere.
        seconds: How long to publish.
        rate: Events a second, of each publishing thread.
        access: A running server; if it names none, the demonstration runs one of its own.
        timeout: Seconds to wait for the server.

    Returns:
        Whether everything adds up.

    Raises:
        AetherError: There is no server, or a node failed.
    """
    pace = Pace(seconds=seconds, rate=rate, timeout=timeout)
    prefix = f"demo{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        if not access.names_a_server:
            url = stack.enter_context(NATSServer()).url
            access = Access(url=url, trust_env=False)  # it takes everyone
            console.print(f"A nats-server runs at {url}.", highlight=False)
        nodes = [_Node(number, access, prefix, readings, pace) for number, readings in enumerate(READINGS, 1)]
        for node in nodes:
            stack.enter_context(node.running())
        for node in nodes:
            node.receive(Status)  # it has subscribed, and the server has confirmed
        console.print(
            f"{len(nodes)} processes have subscribed; {len(nodes) * PUBLISHERS} threads publish {rate:,g} events/s "
            f"each, for {seconds:g} s.",
            highlight=False,
        )
        found = _measure(nodes, Screen(console, READINGS), pace)
    return show_audit(console, found, seconds)


def _measure(nodes: list["_Node"], screen: Screen, pace: Pace) -> Audit:
    with screen:
        for node in nodes:
            node.send(Command.PUBLISH)
        while any(status.publishing for status in _look(nodes, screen)):
            time.sleep(_TELL_EVERY)
        for node in nodes:
            node.send(Command.HURRY)
        end = time.monotonic() + _DRAIN
        while not _has_arrived(_look(nodes, screen)) and time.monotonic() < end:
            time.sleep(_TELL_EVERY)
    for node in nodes:
        node.send(Command.FINISH)
    return audit(READINGS, [node.receive(Report) for node in nodes])


def _look(nodes: list["_Node"], screen: Screen) -> list[Status]:
    for node in nodes:
        node.send(Command.TELL)
    statuses = [node.receive(Status) for node in nodes]
    screen.update(statuses)
    return statuses


def _has_arrived(statuses: list[Status]) -> bool:
    published = Counter[Kind]()
    for status in statuses:
        published.update(status.published)
    missing: dict[tuple[int, Reading], int] = {}  # of a group as one, of any other reading by itself
    for number, (readings, status) in enumerate(zip(READINGS, statuses, strict=True), 1):
        for reading, (received, dropped) in zip(readings, status.readings, strict=True):
            key = (0 if reading.group else number, reading)
            if key not in missing:
                missing[key] = expected_of(reading, published)
            missing[key] -= received + dropped
    return all(count <= 0 for count in missing.values())


class _Node:
    """A node process, as its parent sees it."""

    def __init__(self, number: int, access: Access, prefix: str, readings: tuple[Reading, ...], pace: Pace) -> None:
        spawn = get_context("spawn")
        self._name = f"node-{number}"
        self._pipe, self._its_end = spawn.Pipe()
        self._process = spawn.Process(
            target=run_node,
            args=(self._its_end, self._name, access, prefix, readings, pace),
            name=self._name,
            daemon=True,
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Start the process, and end it: it ends when its pipe is closed."""
        try:
            with _no_interrupts():
                self._process.start()
            self._its_end.close()
            yield
        finally:
            self._pipe.close()
            if self._process.pid is not None:
                self._process.join(_GRACE)
                self._process.kill()
                self._process.join()
            self._process.close()

    def send(self, command: Command) -> None:
        try:
            self._pipe.send(command)
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self, kind: type[T]) -> T:
        """Wait for an answer."""
        try:
            answer = self._pipe.recv() if self._pipe.poll(_PATIENCE) else None
        except (EOFError, ConnectionResetError):
            raise self._gone() from None
        if isinstance(answer, kind):
            return answer
        why = answer.why if isinstance(answer, Failure) else f"did not answer within {_PATIENCE:g} s"
        raise AetherError(f"{self._name}: {why}")

    def _gone(self) -> AetherError:
        self._process.join(_GRACE)
        return AetherError(f"{self._name} ended too early, with status {self._process.exitcode}")


@contextmanager
def _no_interrupts() -> Iterator[None]:
    """Let a process that starts here inherit a blocked SIGINT: at Ctrl-C its parent ends it."""
    resource_tracker.ensure_running()  # it would unblock SIGINT when it starts, with the first process
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
