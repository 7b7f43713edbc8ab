"""The stores that are compared, and where they are.

``R1`` is one server, ``R3`` a cluster of three with every event on all of them. Who is asked is the leader of the
stream, for all alike. All events are of 300 bytes, and encoded and decoded by all, unless a title says otherwise.

When an event counts as stored differs: PostgreSQL and SQLite have it on the disk, as both are set up by default and
here. JetStream hands it to the system, and has it on the disk within two minutes; *synced* (``sync_interval: always``)
it waits for the disk, too.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from nats.js import JetStreamContext

from aether_sync import Event

from .cases import Job, Sample, register
from .peers import eventsourcing, jetstream, nats_py
from .peers.faces import AsyncPeer
from .stock import Stock, make_stored, make_unstored

if TYPE_CHECKING:
    from aether_sync import JetStreamEventStore

__all__ = ["CONTENDERS", "DATABASES", "STREAMS", "SYNCED", "Contender", "Store", "in_loop", "our_store", "register_at"]

STREAMS = ("r1", "r3")  #: the places of JetStream that every question is asked about
SYNCED = "synced"
DATABASES = ("sqlite", "postgres")

_TITLES = {"r1": "R1", "r3": "R3", SYNCED: "R1 synced", "sqlite": "SQLite", "postgres": "PostgreSQL"}
_NEEDS = {"sqlite": ("eventsourcing",), "postgres": ("eventsourcing", "psycopg", "postgres")}


class Store(Protocol):
    """A store that plain threads call."""

    def append(self, events: Sequence[Any]) -> object:
        """Store events, all or none."""

    def load(self, actor_id: str, after: int = 0) -> Sequence[object]:
        """Return an actor's events after a version."""

    def follow(self) -> Iterator[object]:
        """Iterate over all events, in order."""


@dataclass(frozen=True, slots=True)
class Contender:
    """Who opens stores, and makes events for them: an empty store, or one that holds what is in stock."""

    name: str
    open: Callable[[Job, str, Stock | None], AbstractContextManager[Store]]
    make: Callable[[int, int], Any]  # of an actor and a version


# -- ours


class _Ours:
    def __init__(self, store: "JetStreamEventStore") -> None:
        self._store = store

    def append(self, events: Sequence[Event]) -> object:
        if len(events) == 1:
            return self._store.save_event(events[0])
        return self._store.save_events(events)

    def load(self, actor_id: str, after: int = 0) -> Sequence[object]:
        return self._store.get_events(actor_id, from_version=after + 1)

    def follow(self) -> Iterator[object]:
        with self._store.follow() as stored:
            yield from stored


@contextmanager
def our_store(
    job: Job, place: str, stock: Stock | None, cache_bytes: int = 64 * 2**20
) -> Iterator["JetStreamEventStore"]:
    """Open a store of ours, empty and named by the job, or named by the stock that it holds."""
    from aether_sync import JetStreamEventStore

    with jetstream.made(job, place, stock) as url:
        stream, replicas = stock.name if stock else job.prefix, len(job.stores.streams[place])
        with JetStreamEventStore(url, stream=stream, replicas=replicas, cache_bytes=cache_bytes) as store:
            yield store


@contextmanager
def _open_ours(job: Job, place: str, stock: Stock | None) -> Iterator[Store]:
    with our_store(job, place, stock, cache_bytes=0 if stock else 64 * 2**20) as store:  # what is loaded is not kept
        yield _Ours(store)


CONTENDERS = {
    "aether": Contender("aether_sync", _open_ours, make_unstored),
    "eventsourcing": Contender("eventsourcing", eventsourcing.opened, make_stored),
}


# -- nats-py


def in_loop(
    measure: Callable[[JetStreamContext, Job], Coroutine[Any, Any, Sample]],
    place: str,
    stock: Stock | None,
    job: Job,
    peer: AsyncPeer = nats_py.PEER,
) -> Sample:
    """Measure with coroutines, on the loop of the main thread, of the kind that a peer has."""

    async def run(url: str) -> Sample:
        async with jetstream.connected(url) as js:
            return await measure(js, job)

    with jetstream.made(job, place, stock) as url, asyncio.Runner(loop_factory=peer.loop()) as runner:
        return runner.run(run(url))


# -- the cases


def register_at(
    place: str,
    name: str,
    title: str,
    run: Callable[[Job], Sample],
    *,
    base: str,
    says: str,
    needs: tuple[str, ...] = (),
    **options: Any,
) -> None:
    """Add a case of a place, compared with one of the same place, or, on a database, with that of one server."""
    base = f"{base}-{STREAMS[0] if place in DATABASES else place}"
    needs += _NEEDS.get(place, ())
    title = f"{_TITLES[place]}: {title}"
    register(f"{name}-{place}", title, run, says=says, base=base, needs=needs, place=place, **options)
