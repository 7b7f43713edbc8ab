"""From a process to another through the server: throughput, and the latency of single events."""

import asyncio
from itertools import islice
from statistics import quantiles
from threading import Thread
from time import monotonic, sleep

import nats
from nats.aio.msg import Msg

from aether_sync import Event, EventBus, NATSEventBus

from .cases import WAIT, Job, Sample, case
from .feeders import PACE, feeder
from .receive import count_messages, iterate


@case("nodes-nats-py", "nats-py alone, process to process")
def throughput_nats_py(job: Job) -> Sample:
    """``nc.publish()`` of a prebuilt payload in one process, a counting callback in another; nothing is coded."""
    return asyncio.run(count_messages(job, "nats_py"))


@case("nodes-aether", "aether_sync, process to process")
def throughput_aether(job: Job) -> Sample:
    """``bus.publish()`` of events made before in one process, ``for event in bus.subscribe(...)`` in another."""
    return iterate(job, "aether")


@case("latency-nats-py", "nats-py alone, process to process", share=0.02)
def latency_nats_py(job: Job) -> Sample:
    """From before ``nc.publish()`` in one process to a callback in another, an event every millisecond."""

    async def run() -> Sample:
        took: list[float] = []
        done = asyncio.Event()

        async def callback(message: Msg) -> None:
            took.append(monotonic() - float(message.data))
            if len(took) == job.events:
                done.set()

        client = await nats.connect(job.url)
        await client.subscribe(job.subject, cb=callback)
        await client.flush()
        await client.flush()
        with feeder("paced_nats_py", job) as go:
            go()
            await done.wait()
        await client.close()
        return _quantiles(took)

    return asyncio.run(run())


@case("latency-aether", "aether_sync, process to process", share=0.02)
def latency_aether(job: Job) -> Sample:
    """From before ``Event(...)`` and ``bus.publish()`` in one process to the event in a ``for`` loop in another."""
    with (
        NATSEventBus(job.url, prefix=job.prefix) as bus,
        bus.subscribe(job.namespace) as events,
        feeder("paced_aether", job) as go,
    ):
        go()
        return _quantiles([monotonic() - event.data["sent"] for event in islice(events, job.events)])


@case("latency-local", "`EventBus`, thread to thread", share=0.02)
def latency_local(job: Job) -> Sample:
    """The same between two threads of one process, without a server."""
    with EventBus() as bus, bus.subscribe(job.namespace) as events:

        def publish() -> None:
            for _ in range(job.events):
                bus.publish(job.namespace, Event(event_type="Tick", actor_id="clock", data={"sent": monotonic()}))
                sleep(PACE)

        thread = Thread(target=publish, daemon=True)
        thread.start()
        sample = _quantiles([monotonic() - event.data["sent"] for event in islice(events, job.events)])
        thread.join(WAIT)
        return sample


def _quantiles(seconds: list[float]) -> Sample:
    cuts = quantiles(seconds, n=100)
    return {"p50": cuts[49], "p99": cuts[98]}
