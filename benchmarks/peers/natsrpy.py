"""natsrpy: the client written in Rust, behind coroutines."""

from collections.abc import Callable
from operator import attrgetter
from typing import Any

from ..cases import Job
from .faces import AsyncClient, AsyncPeer

__all__ = ["PEER"]


async def _connect(job: Job) -> AsyncClient:
    import natsrpy

    client = natsrpy.Nats(addrs=[job.url])
    await client.startup()

    held: list[Any] = []

    async def subscribe(subject: str, callback: Callable[[Any], Any]) -> None:
        held.append(await client.subscribe(subject, callback).detatch())  # one that is dropped ends
        await client.flush()

    async def settle() -> None:
        await client.flush()

    async def close() -> None:
        held.clear()
        await client.shutdown()

    return AsyncClient(client.publish, subscribe, settle, close, attrgetter("payload"))


PEER = AsyncPeer(
    title="natsrpy, asyncio",
    connect=_connect,
    says="A client written in Rust: an ``async def`` callback, ``await publish()``.",
    needs=("natsrpy",),
    shares={"receive": 0.5, "publish": 0.05},
)
