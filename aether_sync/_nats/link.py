"""The link to the cluster: one connection after the other. Each is watched, and replaced when it ends.

::

    NEW --start()--> CONNECTING --restored--> CONNECTED <--restored-- RECONNECTING
                          |                       '------- lost ------^     |
                          '--------------- any of them --close()--> CLOSED <'

restored: a server has let us in, and has processed a SUB for every interest. From then on the pump writes.

lost: the server has closed the connection; or has sent an ``-ERR`` that is not about a single command, or bytes that
are not the NATS protocol; or a PONG was due, and for a whole interval nothing went out, or nothing came in after that
(:meth:`Link._watch`); or the server says that it will shut down, and another one is known (:meth:`Link._move_on`). What
was written and not confirmed becomes uncertain. The next attempt is at another server if there is one (``connector``).
"""

import asyncio
import random
import socket
from collections.abc import Coroutine
from contextlib import suppress
from enum import Enum
from math import inf
from traceback import format_exception
from typing import Any

from nats.errors import Error

from .._runtime.deadline import Deadline
from .._runtime.listeners import Listeners
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Kind, Reporter
from .._runtime.waits import ParkingLot, Reply
from .._values.clock import monotonic
from ..errors import BusClosedError, ConnectError, DeadlineExceededError
from .client import NATSClient, TLSState
from .connector import Connector
from .lines import TOO_LONG, Lines
from .options import LinkOptions
from .outbox import Outbox
from .pump import Account, Pump
from .reasons import describe, is_refusal, is_violation, refusal, shown
from .requests import Requests, is_command
from .servers import Server
from .subscriber import Subscriber

__all__ = ["Link", "LinkState"]

_SPREAD = 0.5  # seconds within which all clients of a server that will shut down leave it, so as not to storm others
_CLOSED = Error("the link is closed")
_NOT_YET = "not connected yet"
_AFTER_MISTAKE = 0.5  # seconds to wait after an error in this library
_TOO_LATE = 12  # intervals for a PONG while other things come in: a minute, by default
_LOOKS = 10  # how often an interval is checked for progress while a PONG is due
_FORSAKEN_GRACE = 5.0  # seconds to flush, for a connection that nobody closed


class LinkState(Enum):
    """The states of a link."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Link:
    """Keeps a connection up.

    It is made on any thread. Its methods run on the loop thread; its attributes may be read on any thread.

    Attributes:
        state: Its state.
        since: The moment of the state's beginning, on the monotonic clock.
        heard: The moment of the last sign that the server is there, likewise; it is up to a ping interval late.
        reason: Why it is not connected, in words.
        first: Set when it is connected for the first time; it fails when no server will have us.
        was_connected: Whether it was ever connected.
        max_payload: How many bytes a payload may have, on the server that it was last connected to; 0 before the first.
        reconnects: How often it was connected again.
        lines: How long a line the server accepts.
        changed: Where threads wait for another state.
        connector: Makes the connections, and knows the servers.
    """

    def __init__(self, options: LinkOptions, outbox: Outbox, reporter: Reporter, listeners: Listeners) -> None:
        self._options = options
        self._outbox = outbox
        self._reporter = reporter
        self._listeners = listeners
        self.lines = Lines()
        self.pump = Pump(outbox, reporter, listeners, self.lines, options.ping_interval / 2)
        self.subscriber = Subscriber(reporter, self.lines)
        self.requests = Requests(self.lines)
        self.state = LinkState.NEW
        self.since = monotonic()
        self.heard = inf
        self.reason = _NOT_YET
        self._lost_by = ""  # why the connection was lost; the reasons of attempts that failed since are others
        self.first: Reply[None] = Reply()
        self.was_connected = False
        self.max_payload = 0
        self.reconnects = 0
        self.changed = ParkingLot()
        self._login = options.login()
        self._client: NATSClient | None = None  # that of the connection there is, or was last
        # That one, and those of attempts: a forked child releases their files.
        self._clients: WeakRegistry[NATSClient] = WeakRegistry()
        self._tasks: set[asyncio.Task[None]] = set()
        self.connector = Connector(options, self._new_client, self._fault, self._tasks)

    # -- read by any thread

    @property
    def is_connected(self) -> bool:
        """Whether a server answers."""
        return self.state is LinkState.CONNECTED

    @property
    def info(self) -> dict[str, Any]:
        """The last ``INFO`` of the connected server; an empty dict if there is none."""
        client = self._client
        return client.info if client is not None and self.is_connected else {}

    @property
    def where(self) -> str:
        """The URLs that the user gave, without secrets."""
        return ", ".join(map(shown, self._options.servers))

    def await_connection(self, deadline: Deadline) -> None:
        """Wait until a server has processed a SUB for every interest.

        Raises:
            DeadlineExceededError: There was none in time.
            BusClosedError: The link is closed.
        """
        if not self.changed.wait(lambda: self.state in (LinkState.CONNECTED, LinkState.CLOSED), deadline):
            raise DeadlineExceededError(f"{self.connect_error()}, within {deadline}")
        if self.state is LinkState.CLOSED:
            raise BusClosedError("the connection is closed")

    def connect_error(self, *, in_time: bool = False) -> ConnectError:
        """Return an error that says why there is no connection; ``in_time`` if the caller has waited for one."""
        reason = describe(TimeoutError()) if in_time and self.reason is _NOT_YET else self.reason
        return ConnectError(f"not connected to {self.where}: {reason}")

    # -- the loop thread

    def start(self) -> None:
        """Begin to connect."""
        self._set_state(LinkState.CONNECTING)
        for work in (self._supervise, self.pump.run, self.subscriber.run):
            self._spawn(work())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        task.add_done_callback(self._ended)
        self._tasks.add(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Log it if an error in this library ended a task: without that task the link does not work."""
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._reporter.internal_error("".join(format_exception(error)))

    def _set_state(self, state: LinkState) -> None:
        self.state, self.since = state, monotonic()
        self.changed.wake_all()

    async def _supervise(self) -> None:
        """Connect again whenever there is no connection."""
        while True:
            try:
                await self._keep(await self.connector.connect())
            except Exception as mistake:  # in this library: it ends this connection, not the link
                self._reporter.internal_error("".join(format_exception(mistake)))
                await asyncio.sleep(_AFTER_MISTAKE)

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

    async def _keep(self, client: NATSClient) -> None:
        """Use a connection until its end."""
        self._client = client
        error: BaseException
        try:
            self.connector.servers.succeeded()
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
        """Note and log why there is no connection. If no server will have us, nobody needs to wait for one any more."""
        self.reason = describe(error)
        if isinstance(error, socket.gaierror):
            self.reason += self._options.meant
        if is_refusal(error):
            self.reason += self._login.doubt()
            if self.connector.is_refused:
                self.first.fail(self.connect_error())
                self.changed.wake_all()
        if self.state is not LinkState.CONNECTED:
            said = "not connected to %s: %s", self.where, self.reason
            self._reporter.burst(Kind.CONNECT_FAILED, *said, about=self.reason, url=self.where)

    def _up(self, client: NATSClient) -> None:
        if client.lost.done() or self.state is LinkState.CLOSED:
            return
        is_again, away = self.state is LinkState.RECONNECTING, monotonic() - self.since
        if is_again:
            self.reconnects += 1
            self._reporter.info(Kind.RECONNECTED, "connected to %s again", self.where, url=self.where)
        elif self.reason is not _NOT_YET:
            self._reporter.info(Kind.RECONNECTED, "connected to %s at last", self.where, url=self.where)
        self.connector.forget_refusals()
        self._take_limits(client)
        self.pump.resume(client)
        self.requests.resume(client)
        self.was_connected = True
        self.heard = self.since = monotonic()
        self.state = LinkState.CONNECTED
        reason = self._lost_by if is_again else "" if self.reason is _NOT_YET else self.reason
        # A callback finds the state that it is told of, and who waits for that state finds that it was told.
        self._listeners.tell("reconnected" if is_again else "connected", reason=reason, seconds=away)
        self.changed.wake_all()
        self.first.set(None)

    def _down(self) -> None:
        if self.state is LinkState.CONNECTED:
            self._lost_by = self.reason
            self._set_state(LinkState.RECONNECTING)
            said = "lost the connection to %s: %s", self.where, self.reason
            self._reporter.warning(Kind.DISCONNECTED, *said, url=self.where)
            self._listeners.tell("disconnected", reason=self.reason)
        self.pump.pause()
        self.requests.pause()
        self.subscriber.pause()

    async def _watch(self, client: NATSClient) -> None:
        """Abandon a connection when nothing moved on it for a whole interval although a PONG was due."""
        interval = self._options.ping_interval
        while not client.lost.done():
            begun = monotonic()
            if await self._is_alive(client, interval):
                await asyncio.wait((client.lost,), timeout=max(0.0, begun + interval - monotonic()))
            else:
                client.abandon(Error(f"no answer within {interval:g} s"))

    async def _is_alive(self, client: NATSClient, interval: float) -> bool:
        """Send a PING and wait for its PONG: as long as bytes go out before the PING, then as long as bytes come in.

        A link may be dead in one direction only: bytes that come in do not show that ours go out. Bytes behind the PING
        do not count, because the kernel of a frozen server takes some of them. Progress is checked several times in an
        interval: a process that was stopped meanwhile, and checks once, would see none.
        """
        answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        client.ping(lambda: answered.set_result(None))
        due, received, before, quiet, late = client.written, client.received, (0, 0), 0, 0
        while quiet < _LOOKS and late < _LOOKS * _TOO_LATE:
            await asyncio.wait((client.lost, answered), timeout=interval / _LOOKS, return_when=asyncio.FIRST_COMPLETED)
            if client.lost.done() or answered.done():
                self.heard = monotonic() if answered.done() else self.heard
                return True
            gone = min(client.delivered, due)
            late = late + 1 if gone == due else 0
            now = gone, client.received if gone == due else 0
            self.heard = monotonic() if client.received != received else self.heard
            received = client.received
            before, quiet = now, quiet + 1 if now == before else 1
        return False

    # -- from the server

    def _refuse(self, text: str) -> bool:
        """Handle the text of an ``-ERR``; returns whether the connection goes on.

        It ends if the text cannot be read: it may be about anything that is in flight, and the next PONG would confirm
        all of that.
        """
        refused = refusal(text)
        if refused is None:
            if text == TOO_LONG:
                self.lines.learn(None if self.is_connected else self.subscriber.line_in_question)
            return False
        if refused.reply is not None:
            return self.requests.permit(refused.reply)
        if refused.subject is not None:
            if self.requests.refuse(refused.subject):
                return True
            if is_command(refused.subject):  # no event; and nobody is left who would hear of it
                self._reporter.burst(Kind.SERVER_ERROR, "the server reports: %s", text, url=self.where)
            else:
                self.pump.refuse(refused.subject)
            return True
        if self.subscriber.refuse(refused):
            return True
        if not is_violation(text):
            return False
        self._reporter.burst(Kind.SERVER_ERROR, "the server reports: %s", text, url=self.where)
        return True

    def _informed(self, client: NATSClient, info: dict[str, Any]) -> None:
        addresses = info.get("connect_urls")
        self.connector.servers.learn(client.server, addresses if isinstance(addresses, list) else ())
        if client is not self._client:  # it has let us in just now, or has lost the race
            return
        self._take_limits(client)
        if info.get("ldm") and self.connector.servers.has_other(client.server):
            self._spawn(self._move_on(client))

    def _take_limits(self, client: NATSClient) -> None:
        self.max_payload = client.max_payload
        self.pump.limit(client.max_payload)

    async def _move_on(self, client: NATSClient) -> None:
        """Leave for another server once nothing is in flight, however long that takes."""
        await asyncio.sleep(_SPREAD * random.random())
        if client is self._client and self.is_connected:
            self.pump.hold()
            await self.pump.settle()  # which also returns when the connection breaks
        client.abandon(Error("it is about to shut down"))

    def tell_tls(self, reply: Reply[TLSState | None]) -> None:
        """Answer with what is known of the TLS of the connection; None if it has none, or there is no connection."""
        client = self._client
        reply.set(client.tls() if client is not None and self.is_connected else None)

    # -- ending

    async def close(self, grace: float | None) -> Account:
        """Send what was accepted and wait until it is confirmed, for at most ``grace`` seconds; then end all tasks."""
        self._outbox.close()
        try:
            if self.state is not LinkState.CLOSED:
                with suppress(TimeoutError):
                    async with asyncio.timeout(grace):  # not wait_for(), after which the loop has a turn before end()
                        await self.pump.drain()
        finally:
            self.end()
            if self._client is not None:
                self._client.abandon(_CLOSED)
        await _cancel({task for task in self._tasks if task is not asyncio.current_task()})
        return self.pump.account()

    def end(self) -> None:
        """Write nothing more, and release every thread that waits here. Idempotent; the loop need not run."""
        self._set_state(LinkState.CLOSED)
        error = BusClosedError("the connection is closed")
        self.first.fail(error)
        self.pump.close(error)
        self.subscriber.close(error)
        self.requests.close(error)

    def disown(self, error: BusClosedError) -> None:
        """In a forked child: release the thread that waits here, if a signal handler forked over it."""
        self.first.fail(error)
        self.pump.release(error)
        self.requests.close(error)
        self._set_state(LinkState.CLOSED)
        for client in self._clients:
            client.disown()

    def forsake(self) -> None:
        """Flush once, then end this link and the loop: nobody is left who could close it."""

        async def wind_up() -> None:
            await self.close(_FORSAKEN_GRACE)
            self._listeners.end(None, "it was dropped without close(), or its close() was interrupted")
            self._reporter.end()
            asyncio.get_running_loop().stop()

        self._spawn(wind_up())


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they are done. Once is not enough: nats-py swallows a cancellation while it flushes."""
    for _ in range(10):
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.02)
