"""From the server to a thread: a feeder process sends prebuilt frames as fast as the server takes them.

Timed from the feeder's start to the moment when the last event is in the hands of the receiving code.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from itertools import islice

import janus
import nats
from nats.aio.msg import Msg

from aether_sync import NATSEventBus

from .byhand import connected
from .cases import Job, Sample, Stopwatch, case
from .feeders import feeder
from .workload import decode

Callback = Callable[[Msg], Awaitable[None]]


@case("receive-nats-py", "nats-py alone, asyncio callback, no decoding")
def nats_py(job: Job) -> Sample:
    """An ``async def`` callback counts messages on the main thread's loop; nothing is decoded, no thread involved."""
    return asyncio.run(count_messages(job, "raw"))


async def count_messages(job: Job, source: str, read: Callable[[bytes], object] = len) -> Sample:
    """Receive what a feeder sends with nats-py alone; returns how fast that was."""
    missing = job.events
    done = asyncio.Event()

    async def callback(message: Msg) -> None:
        nonlocal missing
        read(message.data)
        missing -= 1
        if not missing:
            done.set()

    client = await nats.connect(job.url)
    await client.subscribe(job.subject, cb=callback)
    await client.flush()
    await client.flush()  # the first may overtake the SUB
    with feeder(source, job) as go:
        watch = Stopwatch()
        go()
        await done.wait()
        sample = watch.read(job.events)
    await client.close()
    return sample


@case("receive-decoded", "nats-py alone, asyncio callback, decoded with msgspec")
def decoded(job: Job) -> Sample:
    """The same, and each event is decoded in the callback, which is what a user of nats-py would do at least."""
    return asyncio.run(count_messages(job, "raw", decode))


@case("receive-item", "by hand: callback, one janus item per event, decode")
def item(job: Job) -> Sample:
    """The callback decodes and puts each event into a bounded janus queue; a thread takes one event at a time."""
    inbox: janus.Queue[object] = janus.Queue(65_536)

    async def callback(message: Msg) -> None:
        await inbox.async_q.put(decode(message.data).event)

    def take() -> int:
        inbox.sync_q.get()
        return 1

    return _by_hand(job, callback, take)


@case("receive-batch", "by hand: callback, one janus batch per loop tick, decode")
def batch(job: Job) -> Sample:
    """The callback gathers messages, which are decoded and put as one item per turn of the loop; a thread iterates."""
    inbox: janus.Queue[list[object]] = janus.Queue(1_024)
    arrived: list[bytes] = []

    def hand_over() -> None:
        inbox.async_q.put_nowait([decode(data).event for data in arrived])
        arrived.clear()

    async def callback(message: Msg) -> None:
        if not arrived:
            asyncio.get_running_loop().call_soon(hand_over)
        arrived.append(message.data)

    def take() -> int:
        return sum(1 for _ in inbox.sync_q.get())

    return _by_hand(job, callback, take)


def _by_hand(job: Job, callback: Callback, take: Callable[[], int]) -> Sample:
    with connected(job.url) as (client, _, call):
        call(client.subscribe(job.subject, cb=callback))
        call(client.flush())
        call(client.flush())
        with feeder("raw", job) as go:
            missing = job.events
            watch = Stopwatch()
            go()
            while missing:
                missing -= take()
            return watch.read(job.events)


@case("receive-public", "aether_sync, read by nats-py's public path (`msg_class`)")
def public(job: Job) -> Sample:
    """The same with ``AETHER_SYNC_LEAN=0``: what is left if a future nats-py is not known well enough."""
    os.environ["AETHER_SYNC_LEAN"] = "0"
    return iterate(job, "raw")


@case("receive-aether", "aether_sync: `for event in bus.subscribe(...)`")
def aether(job: Job) -> Sample:
    """The library, with what it checks, counts and bounds."""
    return iterate(job, "raw")


def iterate(job: Job, source: str) -> Sample:
    """Receive what a feeder sends with the library; returns how fast that was."""
    with (
        NATSEventBus(job.url, prefix=job.prefix) as bus,
        bus.subscribe(job.namespace) as events,
        feeder(source, job) as go,
    ):
        watch = Stopwatch()
        go()
        for _ in islice(events, job.events):
            pass
        return watch.read(job.events)
