"""The link to the cluster: one connection after the other, each watched, and replaced when it ends.

::

    NEW --start()--> CONNECTING --restored--> CONNECTED <--restored-- RECONNECTING
                          |                       '------- lost ------^     |
                          '--------------- any of them --close()--> CLOSED <'

restored: a server has let us in, and has processed a SUB for every interest; from then on the pump writes.
lost: the server closed the connection, sent an ``-ERR`` that is about no single command, or what is no protocol;
nothing went out, or then came in, for a whole interval in which a PONG was due (:meth:`Link._watch`); or it says that
it will shut down while another one is known (:meth:`Link._leave`). What was written and is unconfirmed becomes
uncertain, and the next attempt, every half second, is at another server if there is one. While one server takes its
time, others are tried beside it, or another address of its host.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from traceback import format_exception
from typing import Any, cast

from nats.errors import Error

from .._runtime.base_loop import BaseLoop
from .._runtime.deadline import Deadline
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Kind, Reporter
from .._runtime.waits import ParkingLot, Reply
from .._values.clock import monotonic
from ..errors import BusClosedError, ConnectError, DeadlineExceededError
from .client import NATSClient
from .lines import TOO_LONG, Lines
from .options import LinkOptions
from .outbox import Outbox
from .pump import Account, Pump
from .reasons import describe, is_refusal, is_violation, refusal, shown
from .requests import Requests
from .servers import Server, Servers
from .subscriber import Subscriber

__all__ = ["Link", "LinkState"]

_SPREAD = 0.5  # seconds within which all clients of a server that will shut down leave it, lest they storm the others
_CLOSED = Error("the link is closed")
_NOT_YET = "not connected yet"
_HEAD_START = 2.0  # seconds of one server before another is tried beside it; less if there would be no time for all
_AFTER_MISTAKE = 0.5  # seconds
_TOO_LATE = 12  # intervals that a PONG may be behind what else comes; a minute, by default
_LOOKS = 10  # in an interval in which a PONG is due: whether anything moves
_FORSAKEN_GRACE = 5.0  # seconds to flush for a connection that nobody closed


class LinkState(Enum):
    """Where a link stands."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Link:
    """Keeps a connection.

    It is made on any thread; its methods run on the loop thread, its attributes are read anywhere.

    Attributes:
        state: Where it stands.
        reason: Why it is not connected, in words.
        first: Answered when it is connected for the first time, or fails because no server will have us.
        was_connected: Whether it ever was connected.
        max_payload: Bytes, of the server it was last connected to; 0 before the first.
        reconnects: How often it was connected again.
        lines: How long a line the server takes.
        changed: Where threads wait for another state.
    """

    def __init__(self, options: LinkOptions, outbox: Outbox, reporter: Reporter) -> None:
        self._options = options
        self._outbox = outbox
        self._reporter = reporter
        self.lines = Lines()
        self.pump = Pump(outbox, reporter, self.lines, options.ping_interval / 2)
        self.subscriber = Subscriber(reporter, self.lines)
        self.requests = Requests(self.lines)
        self.state = LinkState.NEW
        self.reason = _NOT_YET
        self.first: Reply[None] = Reply()
        self.was_connected = False
        self.max_payload = 0
        self.reconnects = 0
        self.changed = ParkingLot()
        self._servers = Servers(options.servers)
        self._login = options.login()
        self._refusing: set[Server] = set()  # those that refused us when they were last asked
        self._client: NATSClient | None = None  # the connection there is, or was last
        self._clients: WeakRegistry[NATSClient] = (
            WeakRegistry()
        )  # that, and the attempts: a forked child lets go of their files
        self._tasks: set[asyncio.Task[None]] = set()

    # -- read by any thread

    @property
    def is_connected(self) -> bool:
        """Whether there is a server that answers."""
        return self.state is LinkState.CONNECTED

    @property
    def is_refused(self) -> bool:
        """Whether no server would have us when it was last asked."""
        return len(self._refusing) >= len(self._options.servers)

    @property
    def info(self) -> dict[str, Any]:
        """What the server has said of itself (``INFO``); nothing if there is none."""
        client = self._client
        return client.info if client is not None and self.is_connected else {}

    @property
    def where(self) -> str:
        """The servers it was given, without secrets."""
        return ", ".join(map(shown, self._options.servers))

    def await_connection(self, deadline: Deadline) -> None:
        """Wait for a server that has processed a SUB for every interest.

        Raises:
            DeadlineExceededError: There was none in time.
            BusClosedError: The link is closed.
        """
        if not self.changed.wait(lambda: self.state in (LinkState.CONNECTED, LinkState.CLOSED), deadline):
            raise DeadlineExceededError(f"{self.connect_error()}, within {deadline}")
        if self.state is LinkState.CLOSED:
            raise BusClosedError("the connection is closed")

    def connect_error(self, *, in_time: bool = False) -> ConnectError:
        """Say why there is no connection; or, to who has waited for one, why there was none ``in_time``."""
        reason = describe(TimeoutError()) if in_time and self.reason is _NOT_YET else self.reason
        return ConnectError(f"not connected to {self.where}: {reason}")

    # -- the loop thread

    def start(self) -> None:
        """Begin to connect."""
        self._enter(LinkState.CONNECTING)
        for work in (self._supervise, self.pump.run, self.subscriber.run):
            self._spawn(work())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.add(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Say so if a task ended by a mistake of ours: without it the link is lame."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._reporter.internal_error("".join(format_exception(error)))

    def _enter(self, state: LinkState) -> None:
        self.state = state
        self.changed.wake_all()

    async def _supervise(self) -> None:
        """Connect again whenever there is no connection."""
        while True:
            try:
                await self._keep(await self._reach())
            except Exception as mistake:  # of ours: it ends this connection, not the link
                self._reporter.internal_error("".join(format_exception(mistake)))
                await asyncio.sleep(_AFTER_MISTAKE)

    async def _reach(self) -> NATSClient:
        """Connect to whichever server lets us in first: while one takes its time, another is tried beside it."""
        attempts: dict[asyncio.Task[None], NATSClient] = {}
        try:
            while True:
                tried = [client.server for client in attempts.values()]
                server = self._servers.next(besides=tried) or _with_another_address(tried)
                if server is not None:
                    client = self._new_client(server)
                    attempts[self._begin_attempt(client)] = client
                head_start = min(_HEAD_START, self._options.connect_timeout / (len(self._servers) + 1))
                waits = server is not None
                await asyncio.wait(attempts, timeout=head_start if waits else None, return_when=asyncio.FIRST_COMPLETED)
                done = [attempt for attempt in attempts if attempt.done()]
                if not done and self.reason is _NOT_YET:  # say so early, while there may still come an answer
                    self._fault(TimeoutError())
                for attempt in done:
                    client = attempts.pop(attempt)
                    error = attempt.exception()
                    if error is None:
                        return client
                    self._failed(client, error)
        finally:
            for attempt, client in attempts.items():
                client.abandon(_CLOSED)
                attempt.cancel()

    def _new_client(self, server: Server) -> NATSClient:
        client = NATSClient(
            server,
            self._login,
            self._reporter,
            refused=self._refuse,
            unreadable=self.subscriber.unreadable,
            informed=self._informed,
        )
        self._clients.add(client)
        return client

    def _begin_attempt(self, client: NATSClient) -> "asyncio.Task[None]":
        async def attempt() -> None:
            await asyncio.sleep(client.server.rest())
            client.server.tried = monotonic()
            try:
                await client.open(self._options)
            except BaseException:
                client.abandon(_CLOSED)  # once more: asyncio may have swallowed a cancellation, and gone on to connect
                raise

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # seen: of one that has lost the race nobody asks

        task = asyncio.get_running_loop().create_task(attempt())
        task.add_done_callback(ended)
        self._tasks.add(task)
        return task

    def _failed(self, client: NATSClient, error: BaseException) -> None:
        client.abandon(_CLOSED)
        client.server.failures += 1
        client.server.silences = client.server.silences + 1 if isinstance(error, TimeoutError) else 0
        (self._refusing.add if is_refusal(error) else self._refusing.discard)(client.server)
        self._fault(error)

    async def _keep(self, client: NATSClient) -> None:
        """See a connection to its end."""
        self._client = client
        error: BaseException
        try:
            self._servers.succeeded()
            self.subscriber.resume(client, then=self._up)
            await self._watch(client)
            error = await client.lost
        except Exception as failed:
            client.server.failures += 1
            error = failed
        finally:
            client.abandon(_CLOSED)
        self._fault(error)
        self._down()

    def _fault(self, error: BaseException) -> None:
        """Say why there is no connection; if no server will have us, nobody waits for one any more."""
        self.reason = describe(error)
        if is_refusal(error):
            self.reason += self._login.doubt()
            if self.is_refused:
                self.first.fail(self.connect_error())
                self.changed.wake_all()
        if self.state is not LinkState.CONNECTED:
            said = "not connected to %s: %s", self.where, self.reason
            self._reporter.burst(Kind.CONNECT_FAILED, *said, about=self.reason, url=self.where)

    def _up(self, client: NATSClient) -> None:
        if client.lost.done() or self.state is LinkState.CLOSED:
            return
        if self.state is LinkState.RECONNECTING:
            self.reconnects += 1
            self._reporter.info(Kind.RECONNECTED, "connected to %s again", self.where, url=self.where)
        elif self.reason is not _NOT_YET:
            self._reporter.info(Kind.RECONNECTED, "connected to %s at last", self.where, url=self.where)
        self._refusing.clear()
        self._take_limits(client)
        self.pump.resume(client)
        self.requests.resume(client)
        self.was_connected = True
        self._enter(LinkState.CONNECTED)
        self.first.set(None)

    def _down(self) -> None:
        if self.state is LinkState.CONNECTED:
            self._enter(LinkState.RECONNECTING)
            said = "lost the connection to %s: %s", self.where, self.reason
            self._reporter.warning(Kind.DISCONNECTED, *said, url=self.where)
        self.pump.pause()
        self.requests.pause()
        self.subscriber.pause()

    async def _watch(self, client: NATSClient) -> None:
        """Break a connection off on which nothing went either way for a whole interval although a PONG was due."""
        interval = self._options.ping_interval
        while not client.lost.done():
            begun = monotonic()
            if await self._is_alive(client, interval):
                await asyncio.wait((client.lost,), timeout=max(0.0, begun + interval - monotonic()))
            else:
                client.abandon(Error(f"no answer within {interval:g} s"))

    async def _is_alive(self, client: NATSClient, interval: float) -> bool:
        """Wait for a PONG, as long as what is before its PING goes out; then, as long as anything comes in, a while.

        A link may be dead one way only: what comes in says nothing of what does not go out. It is looked several times:
        a process that was stopped meanwhile has looked once. What goes out behind the PING does not count: a frozen
        server's kernel takes some of it.
        """
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.ping(lambda: answered.set_result(None))
        due, before, quiet, late = client.written, (0, 0), 0, 0
        while quiet < _LOOKS and late < _LOOKS * _TOO_LATE:
            await asyncio.wait((client.lost, answered), timeout=interval / _LOOKS, return_when=asyncio.FIRST_COMPLETED)
            if client.lost.done() or answered.done():
                return True
            gone = min(client.delivered, due)
            late = late + 1 if gone == due else 0
            now = gone, client.received if gone == due else 0
            before, quiet = now, quiet + 1 if now == before else 1
        return False

    # -- what the server says

    def _refuse(self, text: str) -> bool:
        """Take the text of an ``-ERR``; returns whether the connection goes on."""
        refused = refusal(text)
        if refused is not None and refused.subject is not None:
            if not self.requests.refuse(refused.subject):
                self.pump.refuse(f"no permission to publish to {refused.subject!r}")
            return True
        if refused is not None and self.subscriber.refuse(refused):
            return True
        if text == TOO_LONG:
            self.lines.learn(None if self.is_connected else self.subscriber.line_in_question)
        if not is_violation(text):
            return False
        self._reporter.burst(Kind.SERVER_ERROR, "the server reports: %s", text, url=self.where)
        return True

    def _informed(self, client: NATSClient, info: dict[str, Any]) -> None:
        addresses = info.get("connect_urls")
        self._servers.learn(client.server, addresses if isinstance(addresses, list) else ())
        if client is not self._client:  # not yet, or it has lost the race
            return
        self._take_limits(client)
        if info.get("ldm") and self._servers.has_other(client.server):
            self._spawn(self._leave(client))

    def _take_limits(self, client: NATSClient) -> None:
        self.max_payload = client.max_payload
        self.pump.limit(client.max_payload)

    async def _leave(self, client: NATSClient) -> None:
        """Go to another server, with nothing in flight: however long that takes, if only it goes out."""
        await asyncio.sleep(_SPREAD * random.random())
        if client is self._client and self.is_connected:
            self.pump.hold()
            await self.pump.settle()  # it ends with the connection, too
        client.abandon(Error("it is about to shut down"))

    # -- ending

    async def close(self, grace: float | None) -> Account:
        """Send and confirm what was accepted, for at most ``grace`` seconds; then end whatever runs here."""
        self._outbox.close()
        try:
            if self.state is not LinkState.CLOSED:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.pump.settle(accepted=True), grace)
        finally:
            self.end()
            if self._client is not None:
                self._client.abandon(_CLOSED)
        await _cancel({task for task in self._tasks if task is not asyncio.current_task()})
        return self.pump.account()

    def end(self) -> None:
        """Write nothing more, and give everyone who waits here an end to it. Idempotent; no loop need run."""
        self._enter(LinkState.CLOSED)
        error = BusClosedError("the connection is closed")
        self.first.fail(error)
        self.pump.close(error)
        self.subscriber.close(error)
        self.requests.close(error)

    def disown(self, error: BusClosedError) -> None:
        """In a forked child: give an end to whoever waits here, over whom a signal handler forked."""
        self.first.fail(error)
        self.pump.release(error)
        self.requests.close(error)
        self._enter(LinkState.CLOSED)
        for client in self._clients:
            client.disown()

    def forsake(self) -> None:
        """Flush once, then end, with the loop: nobody is left to close this link."""

        async def wind_up() -> None:
            await self.close(_FORSAKEN_GRACE)
            self._reporter.end()
            asyncio.get_running_loop().stop()

        self._spawn(wind_up())


def _with_another_address(tried: list[Server]) -> Server | None:
    """One that is being tried, and has more addresses than attempts: the one that took the connection may be dead."""
    loop = cast(BaseLoop, asyncio.get_running_loop())
    for server, attempts in Counter(tried).items():
        if attempts < loop.count_addresses(*server.address):
            return server
    return None


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they are done: nats-py swallows a cancellation that comes while it flushes."""
    for _ in range(10):
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.02)
