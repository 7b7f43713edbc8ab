"""From a process to another through the server: events encoded in one, decoded in the other.

Timed in the receiving process, as in :mod:`.receive`, but here the other one is no faster than its client.
"""

import asyncio
from collections.abc import Iterator

from aether_sync import NATSEventBus

from .cases import WAIT, Job, Sample, case
from .peers import nats_py
from .receive import iterate, receive_async
from .workload import encode, make_envelope, make_event

__all__ = ["publish_aether", "publish_nats_py"]


@case("nodes-nats-py", "nats-py, asyncio")
def nats_py_nodes(job: Job) -> Sample:
    """``await nc.publish()`` in one process, a callback in another."""
    return receive_async(nats_py.PEER, job, role=publish_nats_py)


@case("nodes-aether", "aether_sync")
def aether_nodes(job: Job) -> Sample:
    """``bus.publish()`` of events made before in one process, ``for event in bus.subscribe(...)`` in another."""
    return iterate(job, publish_aether)


def publish_nats_py(job: Job) -> Iterator[None]:
    """Publish the warm-up, then the events, with nats-py alone."""
    envelopes = map(make_envelope, range(job.total), [job.namespace] * job.total)
    with asyncio.Runner() as runner:
        client = runner.run(nats_py.PEER.connect(job))

        async def publish(made: list[object]) -> None:
            for envelope in made:
                await client.publish(job.subject, encode(envelope))
            await client.settle()

        made: list[object] = list(envelopes)
        for part in (made[: job.warmup], made[job.warmup :]):
            yield
            runner.run(publish(part))
        yield


def publish_aether(job: Job) -> Iterator[None]:
    """Publish the warm-up, then the events, with the library, one by one."""
    events = [make_event(number) for number in range(job.total)]
    with NATSEventBus(job.url, prefix=job.prefix, publish_timeout=WAIT) as bus:
        for part in (events[: job.warmup], events[job.warmup :]):
            yield
            for event in part:
                bus.publish(job.namespace, event)
            bus.flush(WAIT)
        yield
