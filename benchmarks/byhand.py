"""A loop in a thread, as users write it who have nats-py and no library for it."""

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import nats
from nats.aio.client import Client

from .cases import WAIT

__all__ = ["connected", "settle"]

Call = Callable[[Coroutine[Any, Any, Any]], Any]


@contextmanager
def connected(url: str) -> Iterator[tuple[Client, asyncio.AbstractEventLoop, Call]]:
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


async def settle(client: Client) -> None:
    """Return when the server has processed everything: ``flush()`` alone overtakes what waits for nats-py's flusher."""
    while client.pending_data_size:
        await asyncio.sleep(0)
    await client.flush(WAIT)
