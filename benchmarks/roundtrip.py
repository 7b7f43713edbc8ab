"""There and back between two processes, one event at a time, thread to thread; nothing is paced.

One publishes an event and waits for the answer; the other takes it and publishes it again at once. Both decode what
they receive and encode what they send. Timed each by itself, from before the first encodes to after it has decoded.
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import islice
from queue import SimpleQueue
from statistics import quantiles
from time import perf_counter
from typing import Any

from aether_sync import Event, NATSEventBus

from .cases import Goal, Job, Sample, case, register
from .partner import partner
from .peers import PEERS, pyzmq
from .peers.faces import AsyncClient, AsyncPeer, Peer
from .receive import uvloop_off
from .workload import decode, encode, make_envelope, make_event

__all__ = ["answer_aether", "answer_async", "answer_threads"]

_SHARE = 0.03  # of the events asked for: a round trip takes long


def _subjects(job: Job) -> tuple[str, str]:
    return f"{job.prefix}.there", f"{job.prefix}.back"


def quantiles_of(seconds: list[float], job: Job) -> Sample:
    """Sum up what came after the warm-up."""
    cuts = quantiles(seconds[job.warmup :], n=100)
    return {"p50": cuts[49], "p99": cuts[98]}


def _time_each(job: Job, make: Callable[[int], Any], there_and_back: Callable[[Any], object]) -> Sample:
    took: list[float] = []
    for event in [make(number) for number in range(job.total)]:
        start = perf_counter()
        there_and_back(event)
        took.append(perf_counter() - start)
    return quantiles_of(took, job)


def _envelope(job: Job) -> Callable[[int], Any]:
    return partial(make_envelope, namespace=job.namespace)


# -- peers with coroutines: from a task to a callback, which answers, to a callback, which wakes the task


def _ask_async(peer: AsyncPeer, job: Job) -> Sample:
    with partner(answer_async, job) as other, asyncio.Runner(loop_factory=peer.loop()) as runner:
        other.go()
        return runner.run(_time_async(peer, job))


async def _time_async(peer: AsyncPeer, job: Job) -> Sample:
    client = await peer.connect(job)
    there, back = _subjects(job)
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[object]

    async def callback(message: object) -> None:
        answer.set_result(decode(client.payload_of(message)))

    await client.subscribe(back, callback)
    took: list[float] = []
    for envelope in map(_envelope(job), range(job.total)):
        answer = loop.create_future()
        start = perf_counter()
        await client.publish(there, encode(envelope))
        await answer
        took.append(perf_counter() - start)
    await client.close()
    return quantiles_of(took, job)


def answer_async(job: Job) -> Iterator[None]:
    """Publish again what a callback gets."""
    peer = PEERS[job.peer]
    assert isinstance(peer, AsyncPeer)
    with asyncio.Runner(loop_factory=peer.loop()) as runner:
        client = runner.run(peer.connect(job))
        runner.run(_answer_in_callbacks(client, job))
        yield
        runner.run(asyncio.Event().wait())  # until this process is ended


async def _answer_in_callbacks(client: AsyncClient, job: Job) -> None:
    there, back = _subjects(job)

    async def callback(message: object) -> None:
        await client.publish(back, encode(decode(client.payload_of(message))))

    await client.subscribe(there, callback)


# -- peers for threads


def _ask_threads(peer: Peer, job: Job) -> Sample:
    there, back = _subjects(job)
    with partner(answer_threads, job) as other, peer.connect(job) as client:
        client.hear(back, decode)
        other.go()

        def there_and_back(envelope: object) -> None:
            client.send(there, encode(envelope))
            client.take(1)

        return _time_each(job, _envelope(job), there_and_back)


def answer_threads(job: Job) -> Iterator[None]:
    """Publish again, from a thread, what it has taken."""
    peer = PEERS[job.peer]
    assert isinstance(peer, Peer)
    there, back = _subjects(job)
    taken: SimpleQueue[object] = SimpleQueue()
    with peer.connect(job) as client:
        client.hear(there, lambda payload: taken.put(decode(payload)))
        yield
        for _ in range(job.total):
            client.take(1)
            client.send(back, encode(taken.get()))
        yield


def _ask(name: str, job: Job) -> Sample:
    peer, job = PEERS[name], replace(job, peer=name)
    return _ask_async(peer, job) if isinstance(peer, AsyncPeer) else _ask_threads(peer, job)


for _name, _peer in PEERS.items():
    register(f"roundtrip-{_name}", _peer.title, partial(_ask, _name), says=_peer.says, needs=_peer.needs, share=_SHARE)


@case("roundtrip-pyzmq", "pyzmq, PUB and SUB", needs=("zmq",), share=_SHARE)
def roundtrip_pyzmq(job: Job) -> Sample:
    """``send()`` and ``recv()`` in the main threads of both."""
    with pyzmq.asking(job) as (out, back):

        def there_and_back(envelope: object) -> None:
            out.send(encode(envelope))
            decode(back.recv())

        return _time_each(job, _envelope(job), there_and_back)


# -- ours


@case("roundtrip-aether", "aether_sync", share=_SHARE, goals=(Goal(1.4), Goal(2.0, key="p99")))
def aether(job: Job) -> Sample:
    """``bus.publish()`` of an event made before, ``next(subscription)``; a ``for`` loop in the other process."""
    with (
        partner(answer_aether, job) as other,
        NATSEventBus(job.url, prefix=job.prefix) as bus,
        bus.subscribe("back") as answers,
    ):
        other.go()

        def there_and_back(event: Event) -> None:
            bus.publish("there", event)
            next(answers)

        return _time_each(job, make_event, there_and_back)


def answer_aether(job: Job) -> Iterator[None]:
    """Publish again, in a ``for`` loop, what comes."""
    with NATSEventBus(job.url, prefix=job.prefix) as bus, bus.subscribe("there") as events:
        yield
        for event in islice(events, job.total):
            bus.publish("back", event)
        yield


@case("roundtrip-aether-asyncio", "aether_sync, without uvloop", share=_SHARE, needs=("uvloop",))
def aether_asyncio(job: Job) -> Sample:
    """The same with ``AETHER_SYNC_UVLOOP=0`` in both, where uvloop is installed."""
    uvloop_off()
    return aether(job)
