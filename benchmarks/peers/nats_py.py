"""nats-py: alone with asyncio, and as users wrap it who have no library for threads."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from operator import attrgetter
from typing import Any

import nats
from nats.aio.client import Client as Connection
from nats.aio.subscription import Subscription

from ..cases import WAIT, Job
from .faces import PATIENCE, AsyncClient, AsyncPeer, Client, Peer, Read, lost

__all__ = ["CALL_PER_EVENT", "ON_UVLOOP", "PEER", "connected", "settle"]

Call = Callable[[Coroutine[Any, Any, Any]], Any]


async def _connect(job: Job) -> AsyncClient:
    client = await nats.connect(job.url)

    async def subscribe(subject: str, callback: Callable[[Any], Any]) -> None:
        await client.subscribe(subject, cb=callback)
        await client.flush()
        await client.flush()  # the first may overtake the SUB

    return AsyncClient(client.publish, subscribe, lambda: settle(client), client.close, attrgetter("data"))


async def settle(client: Connection) -> None:
    """Return when the server has processed everything: ``flush()`` alone overtakes what waits for nats-py's flusher."""
    while client.pending_data_size:
        await asyncio.sleep(0)
    await client.flush(WAIT)


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop]:
    import uvloop

    new: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return new


PEER = AsyncPeer(
    title="nats-py, asyncio",
    connect=_connect,
    says="nats-py alone, on the main thread's loop: ``async def`` callback, ``await publish()``.",
)
ON_UVLOOP = AsyncPeer(
    title="nats-py, uvloop", connect=_connect, says="The same on uvloop.", needs=("uvloop",), loop=_uvloop
)


@contextmanager
def connected(url: str) -> Iterator[tuple[Connection, asyncio.AbstractEventLoop, Call]]:
    """Run a loop in a thread, with a client on it; yields client, loop, and what runs a coroutine there and waits."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    def call(work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(WAIT)

    client = call(nats.connect(url))
    try:
        yield client, loop, call
    finally:
        call(client.close())
        loop.call_soon_threadsafe(loop.stop)
        thread.join(WAIT)


class _CallPerEvent(Client):
    def __init__(self, job: Job) -> None:
        self._stack = ExitStack()
        self._client, self._loop, self._call = self._stack.enter_context(connected(job.url))
        self._subscription: Subscription
        self._read: Read

    def hear(self, subject: str, read: Read) -> None:
        self._subscription = self._call(self._client.subscribe(subject))
        self._call(self._client.flush())
        self._call(self._client.flush())
        self._read = read

    def take(self, count: int) -> None:
        for number in range(count):
            try:
                message = self._await(self._subscription.next_msg(PATIENCE))
            except TimeoutError:
                raise lost(number, count) from None
            self._read(message.data)

    def send(self, subject: str, payload: bytes) -> None:
        self._await(self._client.publish(subject, payload))

    def settle(self) -> None:
        self._call(settle(self._client))

    def close(self) -> None:
        self._stack.close()

    def _await(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


CALL_PER_EVENT = Peer(
    title="nats-py, `run_coroutine_threadsafe(...).result()`",
    connect=_CallPerEvent,
    says="A loop in a thread; another thread hands it one coroutine per event, and waits for it each time.",
    shares={"receive": 0.1, "publish": 0.1},
)
