"""The link to the cluster: one nats client, kept connected, watched, and replaced when it gives up.

::

    NEW --start()--> CONNECTING --connected--> CONNECTED --broken--> RECONNECTING --connected--> CONNECTED
                          '------------- any of them --close()--> CLOSED -------------'

nats-py reconnects by itself after most failures. It closes for good after most ``-ERR``; then :meth:`Link._supervise`
makes a new client, and the interests are subscribed again on that one. A frozen link, or a read loop that died, is
found by :meth:`Link._watch`.
"""

import asyncio
from contextlib import suppress
from enum import Enum
from traceback import format_exception
from typing import Any

from nats.aio.client import Client

from .._queues import Outbox
from .._waiting import Parking, Reply, guard
from ..errors import BusClosedError, ConnectError
from .options import ConnectOptions
from .pump import Account, Pump
from .reasons import describe, is_answer, is_hang_up, is_refusal, refusal, shown
from .receive import message_class
from .reporter import Reporter
from .subscriber import Subscriber
from .wire import SteadyClient, Wire

__all__ = ["Link", "LinkState"]

_FORSAKEN_GRACE = 5.0  # seconds to flush for a connection that nobody closed


class LinkState(Enum):
    """Where a link stands."""

    NEW = "new"
    CONNECTING = "connecting"
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


class Link:
    """Keeps one client connected.

    It is made on any thread; its methods run on the loop thread, its attributes are read anywhere.

    Attributes:
        state: Where it stands.
        reason: Why it is not connected, in words.
        first: Answered when it is connected for the first time, or fails because the server will not have us.
        max_payload: Bytes, of the server it was last connected to; 0 before the first.
        reconnects: How often it was connected again.
        changed: Where threads wait for another state.
    """

    def __init__(self, options: ConnectOptions, outbox: Outbox, reporter: Reporter) -> None:
        self._options = options
        self._outbox = outbox
        self._reporter = reporter
        self.pump = Pump(outbox, reporter)
        self.subscriber = Subscriber(reporter)
        self.state = LinkState.NEW
        self.reason = "not connected yet"
        self.first: Reply[None] = Reply()
        self.max_payload = 0
        self.reconnects = 0
        self.changed = Parking(guard())
        self._login = options.login()
        self._has_answer = False  # the reason is one that a server gave
        self._refusals = 0  # in a row
        self._client: Client | None = None
        self._wire: Wire | None = None  # of the connection there is, or was last
        self._gone = asyncio.Event()  # nats-py has closed the client for good
        self._tasks: list[asyncio.Task[None]] = []

    # -- read by any thread

    @property
    def is_connected(self) -> bool:
        """Whether there is a server that answers."""
        return self.state is LinkState.CONNECTED

    @property
    def where(self) -> str:
        """The servers it was given, without secrets."""
        return ", ".join(map(shown, self._options.servers))

    def connect_error(self) -> ConnectError:
        """Say why there is no connection."""
        return ConnectError(f"not connected to {self.where}: {self.reason}")

    # -- the loop thread

    def start(self) -> None:
        """Begin to connect."""
        self._enter(LinkState.CONNECTING)
        for work in (self._supervise, self._watch, self.pump.run, self.subscriber.run):
            task = asyncio.get_running_loop().create_task(work())
            task.add_done_callback(self._ended)
            self._tasks.append(task)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        """Say so if a task ended by a mistake of ours: without it the link is lame."""
        if not task.cancelled() and (error := task.exception()) is not None:
            self._reporter.internal_error("".join(format_exception(error)))

    def _enter(self, state: LinkState) -> None:
        self.state = state
        self.changed.wake_all()

    async def _supervise(self) -> None:
        """Connect; once nats-py gives a client up, begin again with a new one."""
        while True:
            client = SteadyClient(self._options.wants_tls, self._login, self.subscriber.unreadable)
            self._client = client
            self._gone.clear()
            client.msg_class = message_class(self.subscriber.use(client), self._reporter)  # type: ignore[assignment]
            try:
                await client.connect(**self._options.for_nats(), **self._callbacks(client))
                self._up()
                await self._gone.wait()
            except Exception as error:
                self._fault(error)
            else:
                self._fault(client.last_error or ConnectionError("the server closed the connection"))
            self._down()
            await self._discard(client)
            await asyncio.sleep(self._options.reconnect_wait)

    def _callbacks(self, client: Client) -> dict[str, Any]:
        """Callbacks for one client: they never raise or block, and are deaf once it is replaced."""

        async def error_cb(error: Exception) -> None:
            if client is self._client:
                self._fault(error)

        async def disconnected_cb() -> None:
            if client is self._client:
                if client.last_error is not None:  # why nats-py closes for good; else error_cb has told
                    self.reason = describe(client.last_error)
                self._down()

        async def reconnected_cb() -> None:
            if client is self._client:
                self._up()

        async def closed_cb() -> None:
            if client is self._client:
                self._gone.set()

        return {
            "error_cb": error_cb,
            "disconnected_cb": disconnected_cb,
            "reconnected_cb": reconnected_cb,
            "closed_cb": closed_cb,
        }

    def _fault(self, error: Exception) -> None:
        refused = refusal(error)
        if refused is not None:
            if refused.is_publish:
                self.pump.reject(1, f"no permission to publish to {refused.subject!r}")
            else:
                self.subscriber.refuse(refused)
            return
        if self._has_answer and is_hang_up(error):  # of the socket on which that answer came
            return
        self._has_answer = is_answer(error)
        self.reason = describe(error)
        if not is_refusal(error):
            self._refusals = 0
        else:
            self.reason += self._login.doubt()
            self._refusals += 1
            if self._refusals >= len(self._options.servers):  # each was asked
                self.first.fail(self.connect_error())
        if self.state is not LinkState.CONNECTED:
            self._reporter.burst(f"connect: {self.reason}", "not connected to %s: %s", self.where, self.reason)

    def _up(self) -> None:
        client = self._client
        if client is None or self.state is LinkState.CLOSED:
            return
        self._wire = wire = Wire(client)  # one per connection: what was asked on another is not answered on this
        if self.state is LinkState.RECONNECTING:
            self.reconnects += 1
            self._reporter.info("connected to %s again", self.where)
        self._has_answer, self._refusals = False, 0
        self.max_payload = client.max_payload
        self.pump.resume(wire, client.max_payload)
        self.subscriber.resume(wire)
        self._enter(LinkState.CONNECTED)
        self.first.set(None)

    def _down(self) -> None:
        if self.state is not LinkState.CONNECTED:
            return
        self._enter(LinkState.RECONNECTING)
        self._reporter.warning("lost the connection to %s: %s", self.where, self.reason)
        self.pump.pause()
        self.subscriber.pause()

    # -- watching

    async def _watch(self) -> None:
        """Ask the server for a PONG at every interval; a link that has not answered by the next one is broken off."""
        asked: Wire | None = None  # the wire on which a PONG is due
        seen = -1

        def answered() -> None:
            nonlocal asked
            asked = None

        while True:
            await asyncio.sleep(self._options.ping_interval)
            client, wire = self._client, self._wire
            if client is None or wire is None or self.state is not LinkState.CONNECTED:
                continue
            arrived = client.stats["in_msgs"]
            if client.is_closed:
                self._gone.set()  # nats-py gave up, and hangs in doing so
            elif wire.is_dead or client.is_reconnecting or (asked is wire and arrived == seen):
                asked = None
                self.reason = f"no answer within {self._options.ping_interval:g} s"
                wire.abort()
                await client.force_reconnect()
            elif asked is not wire:
                asked = wire
                wire.ping(answered)
            seen = arrived

    # -- ending

    async def close(self, grace: float | None) -> Account:
        """Send and confirm what was accepted, for at most ``grace`` seconds; then end whatever runs here."""
        self._outbox.close()
        try:
            if self.state is not LinkState.CLOSED:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(self.pump.settle(self._outbox.position()), grace)
        finally:
            self._enter(LinkState.CLOSED)
            self._release()
        await _cancel({task for task in self._tasks if task is not asyncio.current_task()})
        client, self._client, self._wire = self._client, None, None
        if client is not None:
            await self._discard(client)
        return self.pump.account()

    def _release(self) -> None:
        """Give everyone who waits here an end to it."""
        error = BusClosedError("the connection is closed")
        self.first.fail(error)
        self.pump.close(error)
        self.subscriber.close(error)

    def forsake(self) -> None:
        """Flush once, then end, with the loop: nobody is left to close this link."""

        async def wind_up() -> None:
            await self.close(_FORSAKEN_GRACE)
            self._reporter.end()
            asyncio.get_running_loop().stop()

        self._tasks.append(asyncio.get_running_loop().create_task(wind_up()))

    @staticmethod
    async def _discard(client: Client) -> None:
        """Close a client without waiting for a server that may be frozen."""
        Wire(client).abort()
        with suppress(Exception):
            await asyncio.wait_for(client.close(), 1.0)


async def _cancel(tasks: set["asyncio.Task[None]"]) -> None:
    """Cancel tasks until they are done: nats-py swallows a cancellation that comes while it flushes."""
    for _ in range(10):
        if not tasks:
            return
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=0.02)
