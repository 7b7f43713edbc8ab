"""From a thread to the server; nobody subscribes, so the server only reads.

Timed from the first event to the server's answer that it has processed the last one. The publishing code encodes each
event, made before: a ready struct with msgspec, or for the library an ``Event``, which it also checks.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from itertools import pairwise
from threading import Lock, Thread
from typing import Any

import janus
from nats.aio.client import Client as Connection

from aether_sync import Event, NATSEventBus

from .cases import WAIT, Goal, Job, Sample, Stopwatch, case, register
from .peers import PEERS, nats_py, pyzmq
from .peers.faces import AsyncPeer, Client, Peer
from .receive import uvloop_off
from .workload import Envelope, encode, make_envelope, make_event, make_payload

_CHUNK = 100  # events per publish_many()
_THREADS = 4


def _envelopes(job: Job) -> list[Envelope]:
    return [make_envelope(number, job.namespace) for number in range(job.total)]


def _timed(job: Job, events: Sequence[Any], publish: Callable[[Any], object], settle: Callable[[], object]) -> Sample:
    """Time what comes after the warm-up; ``publish`` takes any number of events."""
    publish(events[: job.warmup])
    settle()
    watch = Stopwatch()
    publish(events[job.warmup :])
    settle()
    return watch.read(job.events)


def _from_threads(publish: Callable[[Any], object]) -> Callable[[Sequence[Any]], None]:
    """Let threads share the work.

    Each gets events that were made one after the other, as one thread alone does. Every fourth event would be new
    memory each time: of what four threads took for an event, a quarter was the wait for its bytes.
    """

    def publish_all(events: Sequence[Any]) -> None:
        ends = [len(events) * done // _THREADS for done in range(_THREADS + 1)]
        shares = [events[begin:end] for begin, end in pairwise(ends)]
        threads = [Thread(target=publish, args=(share,), daemon=True) for share in shares]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)

    return publish_all


# -- peers


def _publish_async(peer: AsyncPeer, job: Job, encoder: Callable[[Any], bytes] = encode) -> Sample:
    """``await publish()`` in one task of the main thread's loop."""
    with asyncio.Runner(loop_factory=peer.loop()) as runner:
        client = runner.run(peer.connect(job))
        subject = job.subject

        async def publish(envelopes: Iterable[Any]) -> None:
            for envelope in envelopes:
                await client.publish(subject, encoder(envelope))
            await client.settle()

        sample = _timed(job, _envelopes(job), lambda envelopes: runner.run(publish(envelopes)), lambda: None)
        runner.run(client.close())
        return sample


def _send_all(client: Client, subject: str, envelopes: Iterable[Envelope]) -> None:
    for envelope in envelopes:
        client.send(subject, encode(envelope))


def _publish(peer: Peer | AsyncPeer, job: Job) -> Sample:
    if isinstance(peer, AsyncPeer):
        return _publish_async(peer, job)
    with peer.connect(job) as client:
        return _timed(job, _envelopes(job), partial(_send_all, client, job.subject), client.settle)


def _publish_from_threads(peer: Peer, job: Job) -> Sample:
    with peer.connect(job) as client:
        publish = _from_threads(partial(_send_all, client, job.subject))
        return _timed(job, _envelopes(job), publish, client.settle)


for _name, _peer in PEERS.items():
    _about: Any = {"says": _peer.says, "needs": _peer.needs, "share": _peer.shares.get("publish", 1.0)}
    register(f"publish-{_name}", _peer.title, partial(_publish, _peer), **_about)
    if isinstance(_peer, Peer) and _peer.takes_threads:
        register(
            f"publish-{_name}-threads", f"{_peer.title}, 4 threads", partial(_publish_from_threads, _peer), **_about
        )


@case("publish-redis-pipeline", "redis, hiredis, pipelines of 100", needs=PEERS["redis"].needs)
def redis_pipeline(job: Job) -> Sample:
    """A hundred events to a round trip."""
    import redis

    client = redis.Redis.from_url(job.redis)

    def publish(envelopes: Sequence[Envelope]) -> None:
        for start in range(0, len(envelopes), _CHUNK):
            pipeline = client.pipeline(transaction=False)
            for envelope in envelopes[start : start + _CHUNK]:
                pipeline.publish(job.subject, encode(envelope))
            pipeline.execute()

    return _timed(job, _envelopes(job), publish, lambda: None)


@case("publish-natsrpy-gather", "natsrpy, asyncio, 100 at a time", needs=("natsrpy",), share=0.2)
def natsrpy_gather(job: Job) -> Sample:
    """``await asyncio.gather(...)`` of a hundred ``publish()``."""
    peer = PEERS["natsrpy"]
    assert isinstance(peer, AsyncPeer)
    with asyncio.Runner() as runner:
        client = runner.run(peer.connect(job))

        async def publish(envelopes: Sequence[Envelope]) -> None:
            for start in range(0, len(envelopes), _CHUNK):
                chunk = envelopes[start : start + _CHUNK]
                await asyncio.gather(*(client.publish(job.subject, encode(envelope)) for envelope in chunk))
            await client.settle()

        sample = _timed(job, _envelopes(job), lambda envelopes: runner.run(publish(envelopes)), lambda: None)
        runner.run(client.close())
        return sample


register("publish-pyzmq", "pyzmq, PUB", pyzmq.publish, needs=("zmq",))


@case("publish-nats-py-raw", "nats-py, asyncio, no encoding")
def nats_py_raw(job: Job) -> Sample:
    """As ``publish-nats-py``, with one prebuilt payload."""
    payload = make_payload(0, job.namespace)
    return _publish_async(nats_py.PEER, job, lambda _: payload)


# -- ours

_GOALS = (Goal(2.0), Goal(40.0, ("publish-call",), called="`run_coroutine_threadsafe`"))
_THREADS_GOALS = (Goal(2.0), Goal(40.0, ("publish-call-threads",), called="`run_coroutine_threadsafe`, 4 threads"))


def _with_bus(
    job: Job, publish: Callable[[NATSEventBus, Sequence[Event]], object], *, by_threads: bool = False
) -> Sample:
    events = [make_event(number) for number in range(job.total)]
    with NATSEventBus(job.url, prefix=job.prefix, publish_timeout=WAIT) as bus:
        work = partial(publish, bus)
        sample = _timed(job, events, _from_threads(work) if by_threads else work, partial(bus.flush, WAIT))
        if bus.metrics().confirmed != job.total:
            raise RuntimeError("not every event was confirmed")
        return sample


def _one_by_one(job: Job) -> Callable[[NATSEventBus, Iterable[Event]], None]:
    def publish(bus: NATSEventBus, events: Iterable[Event]) -> None:
        for event in events:
            bus.publish(job.namespace, event)

    return publish


def _many(job: Job) -> Callable[[NATSEventBus, Sequence[Event]], None]:
    def publish(bus: NATSEventBus, events: Sequence[Event]) -> None:
        for start in range(0, len(events), _CHUNK):
            bus.publish_many(job.namespace, events[start : start + _CHUNK])

    return publish


@case("publish-aether", "aether_sync: `publish`", goals=_GOALS)
def aether(job: Job) -> Sample:
    """``bus.publish()`` of events made before."""
    return _with_bus(job, _one_by_one(job))


@case("publish-aether-asyncio", "aether_sync: `publish`, without uvloop", needs=("uvloop",))
def aether_asyncio(job: Job) -> Sample:
    """The same with ``AETHER_SYNC_UVLOOP=0``, where uvloop is installed."""
    uvloop_off()
    return aether(job)


@case("publish-aether-new", "aether_sync: `publish`, events made on the way")
def aether_new(job: Job) -> Sample:
    """The same with ``Event(...)`` inside the timed part: its id, its moment, its checks."""

    def publish(bus: NATSEventBus, events: Sequence[Event]) -> None:
        for number in range(len(events)):
            bus.publish(job.namespace, make_event(number))

    return _with_bus(job, publish)


@case("publish-aether-many", "aether_sync: `publish_many`, 100 at a time", goals=_GOALS)
def aether_many(job: Job) -> Sample:
    """``bus.publish_many()`` of a hundred events made before, again and again."""
    return _with_bus(job, _many(job))


@case("publish-aether-threads", "aether_sync: `publish`, 4 threads", goals=_THREADS_GOALS)
def aether_threads(job: Job) -> Sample:
    """Four threads share one bus, each publishing a quarter of the events, made before."""
    return _with_bus(job, _one_by_one(job), by_threads=True)


@case("publish-aether-many-threads", "aether_sync: `publish_many`, 4 threads", goals=_THREADS_GOALS)
def aether_many_threads(job: Job) -> Sample:
    """The same, a hundred events at a time."""
    return _with_bus(job, _many(job), by_threads=True)


# -- by hand, with nats-py and janus


@case("publish-item", "by hand: one janus item per event")
def item(job: Job) -> Sample:
    """A thread encodes events and puts each into janus; the loop takes one at a time and publishes it."""
    outbox: janus.Queue[bytes | None] = janus.Queue()

    async def pump(client: Connection) -> None:
        while (payload := await outbox.async_q.get()) is not None:
            await client.publish(job.subject, payload)

    return _by_hand(job, pump, outbox.sync_q.put, lambda: outbox.sync_q.put(None))


@case("publish-batch", "by hand: batch hand-over, then `nc.publish` each")
def batch(job: Job) -> Sample:
    """A thread encodes events into a list that janus has already; the loop takes the list and publishes each."""
    outbox: janus.Queue[list[bytes] | None] = janus.Queue()
    lock = Lock()
    gathering: list[bytes] | None = None

    def put(payload: bytes) -> None:
        nonlocal gathering
        with lock:
            if gathering is None:
                fresh = [payload]
                outbox.sync_q.put(fresh)
                gathering = fresh
            else:
                gathering.append(payload)

    async def pump(client: Connection) -> None:
        nonlocal gathering
        while (payloads := await outbox.async_q.get()) is not None:
            with lock:
                gathering = None
            for payload in payloads:
                await client.publish(job.subject, payload)
            await asyncio.sleep(0)

    return _by_hand(job, pump, put, lambda: outbox.sync_q.put(None))


def _by_hand(
    job: Job,
    pump: Callable[[Connection], Coroutine[Any, Any, None]],
    put: Callable[[bytes], None],
    end: Callable[[], None],
) -> Sample:
    with nats_py.connected(job.url) as (client, loop, call):

        def publish(envelopes: Sequence[Envelope]) -> None:
            pumping = asyncio.run_coroutine_threadsafe(pump(client), loop)
            for envelope in envelopes:
                put(encode(envelope))
            end()
            pumping.result(WAIT)

        return _timed(job, _envelopes(job), publish, lambda: call(nats_py.settle(client)))
