"""The link to the cluster: one nats client, kept connected, watched, and replaced when it gives up.

::

    NEW --start()--> CONNECTING --connected--> CONNECTED <--connected-- RECONNECTING
                          |                        '------- broken ------^    |
                          '--------------- any of them --close()--> CLOSED <--'

broken is: the server closed the connection, or sent what is no protocol (nats-py reconnects); an ``-ERR`` that is not
about a subject (nats-py closes the client for good, and :meth:`Link._supervise` makes another one); no PONG in time
(:meth:`Link._watch` breaks the connection off); or a server that says that it will shut down, while another is known
(:meth:`Link._leave`: first what is in flight is confirmed). The next server is another one than the last, if there is
one that answers. On entering CONNECTED, all interests are subscribed and the pump writes; on leaving it, what was
written and is unconfirmed becomes uncertain.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from enum import Enum
from traceback import format_exception
from typing import Any

from .._queues import Outbox
from .._waiting import Parking, Reply, guard
from ..errors import BusClosedError, ConnectError
from .options import ConnectOptions
from .pump import Account, Pump
from .reasons import describe, is_refusal, refusal, shown
from .receive import message_class
from .reporter import Reporter
from .subscriber import Subscriber
from .wire import SteadyClient, Wire

__all__ = ["Link", "LinkState"]

_SPREAD = 0.5  # seconds within which all clients of a server that will shut down leave it, lest they storm the others
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
        self._client: SteadyClient | None = None
        self._wire: Wire | None = None  # of the connection there is, or was last
        self._gone = asyncio.Event()  # nats-py has closed the client for good
        self._leaving: Wire | None = None  # to a server that will shut down
        self._tasks: set[asyncio.Task[None]] = set()

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
            self._begin(work())

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
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
        """Connect; once nats-py gives a client up, begin again with a new one."""
        while True:
            client = SteadyClient(
                self._options.wants_tls, self.subscriber.unreadable, self._informed, before=self._client
            )
            self._client = client
            self._gone.clear()
            client.msg_class = message_class(self.subscriber.use(client), self._reporter)  # type: ignore[assignment]
            try:
                await client.connect(**self._options.for_nats(), **self._callbacks(client))
                self._up()
                await self._gone.wait()
            except Exception as error:
                self._fault(error)
            self._down()
            await self._discard(client)
            await asyncio.sleep(self._options.reconnect_wait)

    def _callbacks(self, client: SteadyClient) -> dict[str, Any]:
        """Callbacks for one client: they never raise or block, and are deaf once it is replaced."""

        def made(react: Callable[..., object]) -> Callable[..., Awaitable[None]]:
            async def callback(*args: Any) -> None:
                try:
                    if client is self._client:
                        react(*args)
                except Exception as error:  # nats-py would not go on
                    self._reporter.internal_error("".join(format_exception(error)))

            return callback

        return {
            "error_cb": made(self._fault),
            "disconnected_cb": made(self._down),
            "reconnected_cb": made(self._up),
            "closed_cb": made(self._gone.set),
        }

    def _fault(self, error: Exception) -> None:
        refused = refusal(error)
        if refused is not None:
            if refused.is_publish:
                self.pump.refuse(f"no permission to publish to {refused.subject!r}")
            else:
                self.subscriber.refuse(refused)
            return
        self.reason = describe(error)
        if is_refusal(error):
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
        self._take_limits(client)
        self.pump.resume(wire)
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

    def _take_limits(self, client: SteadyClient) -> None:
        self.max_payload = client.max_payload
        self.pump.limit(client.max_payload)

    def _informed(self, client: SteadyClient, info: dict[str, Any]) -> None:
        """The server has changed what it says of itself."""
        wire = self._wire
        if client is not self._client or wire is None or self.state is not LinkState.CONNECTED:
            return
        self._take_limits(client)
        if info.get("ldm") and client.has_alternative and wire is not self._leaving:
            self._leaving = wire
            self._begin(self._leave(client, wire))

    async def _leave(self, client: SteadyClient, wire: Wire) -> None:
        """Go to another server, with nothing in flight."""
        await asyncio.sleep(_SPREAD * random.random())
        if wire is not self._wire:
            return
        self.pump.hold()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self.pump.settle(), self._options.ping_interval)
        await self._break_off(client, wire, "it is about to shut down")

    # -- watching

    async def _watch(self) -> None:
        """Break a connection off on which nothing came for a whole interval although a PONG was due."""
        asked: Wire | None = None  # the wire on which a PONG is due
        seen: tuple[object, int] | None = None

        def answered() -> None:
            nonlocal asked
            asked = None

        while True:
            await asyncio.sleep(self._options.ping_interval)
            client, wire = self._client, self._wire
            if client is None or not client.is_connected:
                if client is not None and client.is_closed:
                    self._gone.set()  # nats-py gave up, and hangs in doing so
                continue  # each step to a connection has a deadline of its own
            if wire is None or self.state is not LinkState.CONNECTED:
                asked = wire  # nats-py awaits a PONG of its own before it says that it is connected
            before, seen = seen, Wire(client).received
            if seen == before and asked is wire:
                asked = None
                await self._break_off(client, wire, f"no answer within {self._options.ping_interval:g} s")
            elif wire is not None and asked is not wire:
                asked = wire
                wire.ping(answered)

    async def _break_off(self, client: SteadyClient, wire: Wire | None, reason: str) -> None:
        if wire is self._wire and client is self._client:
            self.reason = reason
            await client.force_reconnect()

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
            client, self._client, self._wire = self._client, None, None
            if client is not None:
                client.abandon()
        await _cancel({task for task in self._tasks if task is not asyncio.current_task()})
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

        self._begin(wind_up())

    @staticmethod
    async def _discard(client: SteadyClient) -> None:
        client.abandon()
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
