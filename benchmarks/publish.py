"""From a thread to the server; nobody subscribes, so the server only reads.

Timed from the first event to the server's answer that it has processed the last one. By hand, the publishing thread
encodes a ready struct; the library gets an ``Event``, which it checks and encodes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from threading import Lock, Thread
from typing import Any

import janus
import nats
from nats.aio.client import Client

from aether_sync import Event, NATSEventBus

from .byhand import connected, settle
from .cases import WAIT, Job, Sample, Stopwatch, case
from .workload import encode, make_envelope, make_event, make_payload

_CHUNK = 100  # events per publish_many()
_THREADS = 4


@case("publish-nats-py", "nats-py alone, `publish` without encoding")
def nats_py(job: Job) -> Sample:
    """``await nc.publish()`` of one prebuilt payload on the main thread's loop; no thread involved."""

    async def run() -> Sample:
        payload = make_payload(0, job.namespace)
        client = await nats.connect(job.url)
        watch = Stopwatch()
        for _ in range(job.events):
            await client.publish(job.subject, payload)
        await settle(client)
        sample = watch.read(job.events)
        await client.close()
        return sample

    return asyncio.run(run())


@case("publish-call", "by hand: `run_coroutine_threadsafe(...).result()` per event", share=0.1)
def call_per_event(job: Job) -> Sample:
    """A thread encodes an event and waits for ``nc.publish()`` on the loop, each time."""
    envelopes = _envelopes(job)
    with connected(job.url) as (client, loop, call):
        watch = Stopwatch()
        for envelope in envelopes:
            asyncio.run_coroutine_threadsafe(client.publish(job.subject, encode(envelope)), loop).result()
        call(settle(client))
        return watch.read(job.events)


@case("publish-item", "by hand: one janus item per event, then `nc.publish`")
def item(job: Job) -> Sample:
    """A thread encodes events and puts each into janus; the loop takes one at a time and publishes it."""
    outbox: janus.Queue[bytes | None] = janus.Queue()

    async def pump(client: Client) -> None:
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

    async def pump(client: Client) -> None:
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
    pump: Callable[[Client], Coroutine[Any, Any, None]],
    put: Callable[[bytes], None],
    end: Callable[[], None],
) -> Sample:
    envelopes = _envelopes(job)
    with connected(job.url) as (client, loop, call):
        pumping = asyncio.run_coroutine_threadsafe(pump(client), loop)
        watch = Stopwatch()
        for envelope in envelopes:
            put(encode(envelope))
        end()
        pumping.result(WAIT)
        call(settle(client))
        return watch.read(job.events)


def _envelopes(job: Job) -> list[Any]:
    return [make_envelope(number, job.namespace) for number in range(job.events)]


@case("publish-aether", "aether_sync: `publish`")
def aether(job: Job) -> Sample:
    """``bus.publish()`` of events made before: batch hand-over, frames built by the thread, one write per batch."""
    events = _events(job)
    return _with_bus(job, lambda bus: _publish(bus, job, events))


@case("publish-aether-new", "aether_sync: `publish`, events made on the way")
def aether_new(job: Job) -> Sample:
    """The same with ``Event(...)`` inside the timed part: its id, its moment, its checks."""
    return _with_bus(job, lambda bus: _publish(bus, job, map(make_event, range(job.events))))


@case("publish-aether-many", "aether_sync: `publish_many`, 100 at a time")
def aether_many(job: Job) -> Sample:
    """``bus.publish_many()`` of a hundred events made before, again and again."""
    events = _events(job)

    def work(bus: NATSEventBus) -> None:
        for start in range(0, job.events, _CHUNK):
            bus.publish_many(job.namespace, events[start : start + _CHUNK])

    return _with_bus(job, work)


@case("publish-aether-threads", "aether_sync: `publish` from 4 threads")
def aether_threads(job: Job) -> Sample:
    """Four threads share one bus, each publishing a quarter of the events, made before."""
    events = _events(job)

    def work(bus: NATSEventBus) -> None:
        threads = [Thread(target=_publish, args=(bus, job, events[n::_THREADS]), daemon=True) for n in range(_THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WAIT)

    return _with_bus(job, work)


def _publish(bus: NATSEventBus, job: Job, events: Iterable[Event]) -> None:
    for event in events:
        bus.publish(job.namespace, event)


def _with_bus(job: Job, work: Callable[[NATSEventBus], None]) -> Sample:
    with NATSEventBus(job.url, prefix=job.prefix, publish_timeout=WAIT) as bus:
        watch = Stopwatch()
        work(bus)
        bus.flush(WAIT)
        return watch.read(job.events)


def _events(job: Job) -> list[Event]:
    return [make_event(number) for number in range(job.events)]
