"""JetStream by nats-py alone, on the main thread's loop: what a store can be made of without a library."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from itertools import count
from typing import Any

import nats
import nats.js.errors
from nats.aio.msg import Msg
from nats.js import JetStreamContext, api

from aether_sync.stores._jetstream.cache import Known
from aether_sync.stores._jetstream.messages import Outgoing, headers_of

from ..cases import Job
from ..stock import Stock, make_stored, stocked
from ..workload import WireEvent, decode_event, encode
from .bare_socket import BareSocket, frame
from .faces import PATIENCE

__all__ = ["bare", "checked", "connected", "follow", "load", "made", "pipelined", "subject_of"]

_ATTEMPTS = 3  # at filling a stock
_PAUSE = 0.05  # seconds between two looks at who leads a stream
_WINDOW = 1_000  # events in one write, when a stream is filled; two of these are on their way
_LOOKED_FOR = 120.0  # seconds in which duplicates are
_SHORT = 0.1  # the same while a stream is filled

Append = Callable[[WireEvent], Awaitable[object]]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[JetStreamContext]:
    """Connect for as long as the block runs."""
    client = await nats.connect(url, allow_reconnect=False)
    try:
        yield client.jetstream(timeout=PATIENCE)
    finally:
        await client.close()


def _subject(stream: str, event: WireEvent) -> str:
    return subject_of(stream, event.actor_id)


def subject_of(stream: str, actor_id: str) -> str:
    """One subject per actor, as the Go original has it: ``<stream>.events.<actor type>.<actor id>``."""
    return f"{stream}.events.{actor_id.partition('-')[0]}.{actor_id}"


def _headers(event: WireEvent, sequence: int) -> dict[str, str]:
    """By which the server refuses an event if another came between, or if it is there already."""
    return {"Nats-Expected-Last-Subject-Sequence": str(sequence), "Nats-Msg-Id": event.id}


# -- streams


@contextmanager
def made(job: Job, place: str, stock: Stock | None) -> Iterator[str]:
    """Make a stream, empty and named by the job, or named by the stock that it holds.

    Yields the URL of its leader, so that no contender has a longer way to it than another.
    """
    if stock is not None:
        stocked(job, place, stock, lambda: _make_stock(job, place, stock))
        yield asyncio.run(_lead(job, place, stock.name))
        return
    yield asyncio.run(_lead(job, place, job.prefix))
    asyncio.run(_remove(job, place, job.prefix))


def _make_stock(job: Job, place: str, stock: Stock) -> None:
    """Fill a stream; once more where a leader went meanwhile, as on a busy machine, and took some with it."""
    for attempt in count(1):
        try:
            asyncio.run(_fill(asyncio.run(_lead(job, place, stock.name)), job, stock))
        except (OSError, RuntimeError, nats.errors.Error):
            if attempt == _ATTEMPTS:
                raise
            with suppress(nats.js.errors.NotFoundError):
                asyncio.run(_remove(job, place, stock.name))
        else:
            return


async def _lead(job: Job, place: str, stream: str) -> str:
    """Make a stream if it is not there, with the settings of a store; returns the URL of its leader.

    It waits until there is one: what is sent to a stream that has none is lost.
    """
    servers = job.stores.streams[place]
    async with connected(next(iter(servers.values()))) as js:
        info = await js.add_stream(
            api.StreamConfig(
                name=stream,
                subjects=[f"{stream}.events.>"],
                storage=api.StorageType.FILE,
                discard=api.DiscardPolicy.NEW,
                deny_delete=True,
                deny_purge=True,
                allow_direct=True,
                allow_atomic=True,
                duplicate_window=_LOOKED_FOR,
                num_replicas=len(servers),
            )
        )
        if len(servers) == 1:
            return next(iter(servers.values()))
        async with asyncio.timeout(PATIENCE):
            while info.cluster is None or info.cluster.leader not in servers:
                await asyncio.sleep(_PAUSE)
                info = await js.stream_info(stream)
        return servers[info.cluster.leader]


async def _remove(job: Job, place: str, stream: str) -> None:
    async with connected(next(iter(job.stores.streams[place].values()))) as js:
        await js.delete_stream(stream)


async def _fill(url: str, job: Job, stock: Stock) -> None:
    """Store all, with few ids of messages kept meanwhile: a server keeps each as long as duplicates are looked for."""
    async with connected(url) as js:
        config = (await js.stream_info(stock.name)).config
        await js.update_stream(config.evolve(duplicate_window=_SHORT))
        await asyncio.to_thread(_send, url, job, stock)
        info = await js.update_stream(config)
        if info.state.messages != stock.events(job):
            raise RuntimeError(f"stream {stock.name} holds {info.state.messages:,} events, not {stock.events(job):,}")


def _send(url: str, job: Job, stock: Stock) -> None:
    """Send all events, waiting for the answer to one in many: what was sent before it was stored before.

    Of a stock that is spread, not two events of an actor are on their way at once: a cluster refuses the second, if it
    tells what it expects to be the last.
    """
    sequence, ends = 0, [Known()] * stock.actors(job)
    with BareSocket(url) as client:
        for numbers in stock.rounds(job):
            unanswered, last, frames = 0, len(numbers), bytearray()
            for place, (actor, version) in enumerate(numbers, 1):
                event = make_stored(actor, version)
                subject = _subject(stock.name, event)
                headers = b"" if stock.is_bare else _stored_headers(subject, event, ends[actor])
                is_answered = place % _WINDOW == 0 or place == last
                frames += frame(subject, headers, encode(event), is_answered=is_answered)
                sequence += 1
                if not stock.is_bare:
                    ends[actor] = Known(version, sequence, earlier=ends[actor].to_name)
                if is_answered:
                    client.send(frames)
                    frames.clear()
                    unanswered += 1
                    _check(client.receive(unanswered - (place != last)))  # one window is on its way meanwhile
                    unanswered = int(place != last)


def _check(answers: list[tuple[bytes, bytes]]) -> None:
    for _, body in answers:
        if b'"seq":' not in body:
            raise RuntimeError(f"an event was not stored: {body!r}")


def _stored_headers(subject: str, event: WireEvent, end: Known) -> bytes:
    """Return the headers that our store writes for an event that it saves alone, after the end of its actor."""
    message = Outgoing(subject, event.id, end.sequence, b"", earlier=end.to_name.text)
    return headers_of([message], b"")[0]


# -- appending


def bare(js: JetStreamContext, stream: str) -> Append:
    """Publish, and wait for the answer."""
    return lambda event: js.publish(_subject(stream, event), encode(event))


def checked(js: JetStreamContext, stream: str) -> Append:
    """The same with headers."""
    sequences: dict[str, int] = {}

    async def publish(event: WireEvent) -> None:
        headers = _headers(event, sequences.get(event.actor_id, 0))
        ack = await js.publish(_subject(stream, event), encode(event), headers=headers)
        sequences[event.actor_id] = ack.seq

    return publish


async def pipelined(js: JetStreamContext, stream: str, events: Sequence[WireEvent], window: int) -> None:
    """Publish so many at a time, then wait for all their answers."""
    for at in range(0, len(events), window):
        answers = [await js.publish_async(_subject(stream, event), encode(event)) for event in events[at : at + window]]
        await asyncio.gather(*answers)


# -- reading


async def load(js: JetStreamContext, stream: str, actor_id: str, name: str) -> list[WireEvent]:
    """Read an actor's events by an ordered consumer with a callback, and delete that: else it stays for a while."""
    events: list[WireEvent] = []
    done = asyncio.Event()

    async def callback(message: Msg) -> None:
        events.append(decode_event(message.data))
        if message.metadata.num_pending == 0:
            done.set()

    config = api.ConsumerConfig(name=name)
    reading = await js.subscribe(
        subject_of(stream, actor_id), stream=stream, cb=callback, ordered_consumer=True, config=config
    )
    await _within(done.wait())
    await reading.unsubscribe()
    await js.delete_consumer(stream, name)
    return events


async def follow(js: JetStreamContext, stream: str, count: int) -> None:
    """Count what an ordered consumer calls back with."""
    done = asyncio.Event()
    missing = count

    async def callback(_: Msg) -> None:
        nonlocal missing
        missing -= 1
        if not missing:
            done.set()

    reading = await js.subscribe(f"{stream}.events.>", stream=stream, cb=callback, ordered_consumer=True)
    await _within(done.wait())
    await reading.unsubscribe()


async def _within(work: Coroutine[Any, Any, object]) -> None:
    async with asyncio.timeout(PATIENCE):
        await work
