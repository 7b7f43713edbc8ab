"""From the server to a thread: another process sends prebuilt frames as fast as the server takes them.

Timed from its start to the moment when the last event is in the hands of the receiving code. Every contender decodes
with msgspec, unless its title says otherwise.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import islice

import janus
from nats.aio.msg import Msg

from aether_sync import NATSEventBus

from .cases import Goal, Job, Sample, Stopwatch, case, register
from .feeders import feed_nats
from .partner import Partner, Role, partner
from .peers import PEERS, nats_py, pyzmq
from .peers.faces import PATIENCE, AsyncPeer, Peer, lost
from .workload import decode

__all__ = ["iterate", "receive_async", "uvloop_off"]

ROOM = 2**30  # bytes for a queue: what is dropped is not measured


def timed(job: Job, sender: Partner, take: Callable[[int], object]) -> Sample:
    """Time the events after the warm-up; ``take`` returns when so many more are in hand."""
    sender.go()
    take(job.warmup)
    sender.await_ready()
    watch = Stopwatch()
    sender.go()
    take(job.events)
    return watch.read(job.events)


def receive_async(
    peer: AsyncPeer, job: Job, read: Callable[[bytes], object] = decode, role: Role = feed_nats
) -> Sample:
    """An ``async def`` callback on the main thread's loop; no thread is involved."""
    with asyncio.Runner(loop_factory=peer.loop()) as runner, partner(role, job) as sender:
        client = runner.run(peer.connect(job))
        payload_of = client.payload_of
        done = asyncio.Event()
        missing = job.warmup

        async def callback(message: object) -> None:
            nonlocal missing
            read(payload_of(message))
            missing -= 1
            if not missing:
                done.set()

        def take(count: int) -> None:
            nonlocal missing
            try:
                runner.run(asyncio.wait_for(done.wait(), PATIENCE))
            except TimeoutError:
                raise lost(count - missing, count) from None
            missing = job.events
            done.clear()

        runner.run(client.subscribe(job.subject, callback))
        sample = timed(job, sender, take)
        runner.run(client.close())
        return sample


def _receive(peer: Peer | AsyncPeer, job: Job) -> Sample:
    if isinstance(peer, AsyncPeer):
        return receive_async(peer, job)
    with peer.connect(job) as client, partner(peer.feeder, job) as sender:
        client.hear(job.subject, decode)
        return timed(job, sender, client.take)


for _name, _peer in PEERS.items():
    register(
        f"receive-{_name}",
        _peer.title,
        partial(_receive, _peer),
        says=_peer.says,
        needs=_peer.needs,
        share=_peer.shares.get("receive", 1.0),
    )


register("receive-pyzmq", "pyzmq, SUB", pyzmq.receive, needs=("zmq",))


@case("receive-nats-py-raw", "nats-py, asyncio, no decoding")
def counted(job: Job) -> Sample:
    """As ``receive-nats-py``, and messages are only counted."""
    return receive_async(nats_py.PEER, job, len)


# -- ours


def iterate(job: Job, role: Role = feed_nats) -> Sample:
    """Receive with the library, in a ``for`` loop of the main thread."""
    with (
        NATSEventBus(job.url, prefix=job.prefix) as bus,
        bus.subscribe(job.namespace, maxsize=job.total, max_bytes=ROOM) as events,
        partner(role, job) as sender,
    ):

        def take(count: int) -> None:
            for _ in islice(events, count):
                pass

        sample = timed(job, sender, take)
        if bus.metrics().reconnects:
            raise RuntimeError("the connection broke")
        return sample


_OTHERS = ("receive-call", "receive-nats-py-sync", "receive-pynats2", "receive-natsrpy", "receive-redis")


@case(
    "receive-aether",
    "aether_sync: `for event in bus.subscribe(...)`",
    goals=(Goal(2.0), Goal(1.0, _OTHERS, called="best other peer"), Goal(0.5, ("receive-pyzmq",), called="pyzmq")),
)
def aether(job: Job) -> Sample:
    """The library, with what it checks, counts and bounds."""
    return iterate(job)


@case("receive-aether-asyncio", "aether_sync, without uvloop", needs=("uvloop",))
def aether_asyncio(job: Job) -> Sample:
    """The same with ``AETHER_SYNC_UVLOOP=0``, where uvloop is installed."""
    uvloop_off()
    return iterate(job)


def uvloop_off() -> None:
    """Let the library in this process, and in its partner's, take the loop of the standard library."""
    os.environ["AETHER_SYNC_UVLOOP"] = "0"


@case("receive-aether-public", "aether_sync, by nats-py's public path (`msg_class`)")
def public(job: Job) -> Sample:
    """The same with ``AETHER_SYNC_LEAN=0``: what is left if a future nats-py is not known well enough."""
    os.environ["AETHER_SYNC_LEAN"] = "0"
    return iterate(job)


# -- by hand, with nats-py and janus


@case("receive-item", "by hand: callback, one janus item per event")
def item(job: Job) -> Sample:
    """The callback decodes and puts each event into a bounded janus queue; a thread takes one event at a time."""
    inbox: janus.Queue[object] = janus.Queue(65_536)

    async def callback(message: Msg) -> None:
        await inbox.async_q.put(decode(message.data).event)

    def take(count: int) -> None:
        for _ in range(count):
            inbox.sync_q.get()

    return _by_hand(job, callback, take)


@case("receive-batch", "by hand: callback, one janus batch per loop tick")
def batch(job: Job) -> Sample:
    """The callback gathers messages, which are decoded and put as one item per turn of the loop; a thread iterates."""
    inbox: janus.Queue[list[object]] = janus.Queue()
    arrived: list[bytes] = []

    def hand_over() -> None:
        inbox.async_q.put_nowait([decode(data).event for data in arrived])
        arrived.clear()

    async def callback(message: Msg) -> None:
        if not arrived:
            asyncio.get_running_loop().call_soon(hand_over)
        arrived.append(message.data)

    def take(count: int) -> None:
        while count:
            for _ in inbox.sync_q.get():
                count -= 1

    return _by_hand(job, callback, take)


def _by_hand(job: Job, callback: Callable[[Msg], Awaitable[None]], take: Callable[[int], object]) -> Sample:
    with nats_py.connected(job.url) as (client, _, call), partner(feed_nats, job) as sender:
        call(client.subscribe(job.subject, cb=callback))
        call(client.flush())
        call(client.flush())
        return timed(job, sender, take)
