"""From no connection to one: which server is tried, and which others beside it.

While one server takes its time, others are tried beside it, or another address of its host. Whoever lets us in first
has us; the other attempts are abandoned.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import cast

from nats.errors import Error

from .._runtime.base_loop import BaseLoop
from .._values.clock import monotonic
from .client import NATSClient
from .options import LinkOptions
from .reasons import is_refusal
from .servers import Server, Servers

__all__ = ["Connector"]

_GIVEN_UP = Error("this attempt is given up")
_HEAD_START = 2.0  # seconds of one server before another is tried beside it; less if there would be no time for all


class Connector:
    """Connects to one of the servers. Loop thread only, except :attr:`is_refused`.

    Args:
        options: How to connect.
        new_client: Makes a client for an attempt at a server.
        failed: Called with the error of each attempt that failed; and with a ``TimeoutError`` when the very first one
            takes long, so that its user can say so while an answer may still come.
        tasks: Where attempts are noted while they run.

    Attributes:
        servers: All that are known.
    """

    def __init__(
        self,
        options: LinkOptions,
        new_client: Callable[[Server], NATSClient],
        failed: Callable[[BaseException], None],
        tasks: "set[asyncio.Task[None]]",
    ) -> None:
        self.servers = Servers(options.servers)
        self._options = options
        self._new_client = new_client
        self._failed = failed
        self._tasks = tasks
        self._refusing: set[Server] = set()  # those that refused us when they were last asked
        self._was_heard = False  # an attempt has ended, or was said to take long

    @property
    def is_refused(self) -> bool:
        """Whether no server would have us when it was last asked."""
        return len(self._refusing) >= len(self._options.servers)

    def forget_refusals(self) -> None:
        """Forget which servers refused us: one has let us in, so the others may as well."""
        self._refusing.clear()

    async def connect(self) -> NATSClient:
        """Connect to whichever server lets us in first."""
        attempts: dict[asyncio.Task[None], NATSClient] = {}
        try:
            while True:
                has_begun = self._begin_another(attempts)
                await asyncio.wait(
                    attempts,
                    timeout=self._head_start() if has_begun else None,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                client = self._first_success(attempts)
                if client is not None:
                    return client
        finally:
            for attempt, client in attempts.items():
                client.abandon(_GIVEN_UP)
                attempt.cancel()

    def _head_start(self) -> float:
        return min(_HEAD_START, self._options.connect_timeout / (len(self.servers) + 1))

    def _begin_another(self, attempts: "dict[asyncio.Task[None], NATSClient]") -> bool:
        """Begin an attempt at a server that is not being tried; returns whether there is one."""
        tried = [client.server for client in attempts.values()]
        server = self.servers.next(besides=tried) or _with_another_address(tried)
        if server is None:
            return False
        client = self._new_client(server)
        attempts[self._begin_attempt(client)] = client
        return True

    def _begin_attempt(self, client: NATSClient) -> "asyncio.Task[None]":
        async def attempt() -> None:
            await asyncio.sleep(client.server.rest())
            client.server.tried = monotonic()
            try:
                await client.open(self._options)
            except BaseException:
                client.abandon(_GIVEN_UP)  # once more: asyncio may have swallowed a cancellation, and gone on
                raise

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            if not task.cancelled():
                task.exception()  # retrieved, or asyncio would log it: nobody asks an attempt that has lost the race

        task = asyncio.get_running_loop().create_task(attempt())
        task.add_done_callback(ended)
        self._tasks.add(task)
        return task

    def _first_success(self, attempts: "dict[asyncio.Task[None], NATSClient]") -> NATSClient | None:
        """Take out of ``attempts`` what has ended; return the client of the first that succeeded, if any did."""
        done = [attempt for attempt in attempts if attempt.done()]
        if not done and not self._was_heard:
            self._failed(TimeoutError())
        self._was_heard = True
        for attempt in done:
            client = attempts.pop(attempt)
            error = attempt.exception()
            if error is None:
                return client
            self._fail(client, error)
        return None

    def _fail(self, client: NATSClient, error: BaseException) -> None:
        client.abandon(_GIVEN_UP)
        client.server.failures += 1
        client.server.silences = client.server.silences + 1 if isinstance(error, TimeoutError) else 0
        (self._refusing.add if is_refusal(error) else self._refusing.discard)(client.server)
        self._failed(error)


def _with_another_address(tried: list[Server]) -> Server | None:
    """Return a server that is being tried and has more addresses than attempts: the tried address may be dead."""
    loop = cast(BaseLoop, asyncio.get_running_loop())
    for server, attempts in Counter(tried).items():
        if attempts < loop.count_addresses(*server.address):
            return server
    return None
