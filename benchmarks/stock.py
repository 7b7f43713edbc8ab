"""What stores hold: events of 300 bytes, of many actors, as they come in life: now of this one, now of that."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

from aether_sync import Event

from .cases import Job
from .workload import WireEvent, make_envelope

__all__ = [
    "BARE",
    "DECIDED",
    "FEW",
    "FEW_SMALL",
    "MANY",
    "MANY_SMALL",
    "ROWS",
    "SMALL",
    "Stock",
    "actor_name",
    "make_stored",
    "make_unstored",
    "stocked",
]

SMALL = 200_000  #: events of a stock that does not grow with what is asked for

_MORE = {"note": "to be left with the neighbours if nobody is at home, but not at noon"}


def actor_name(actor: int) -> str:
    return f"order-{actor:06}"


def make_stored(actor: int, version: int) -> WireEvent:
    """Make an event as who does it all by hand."""
    event = make_envelope(actor, "").event
    event.id = f"{actor:016x}{version:016x}"
    event.version = version
    event.data |= _MORE
    return event


def make_unstored(actor: int, version: int) -> Event:
    """Make the same as users of the library do."""
    event = make_stored(actor, version)
    return Event(event_type=event.event_type, actor_id=event.actor_id, version=version, data=event.data)


@dataclass(frozen=True, slots=True)
class Stock:
    """So many events of each actor; in JetStream with the headers that a store needs, or without any."""

    name: str
    each: int
    is_bare: bool = False
    is_spread: bool = True  # or stored actor by actor
    is_small: bool = False  # of 200,000 events at most, however many are asked for

    def events(self, job: Job) -> int:
        return self.actors(job) * self.each

    def actors(self, job: Job) -> int:
        return (min(job.stock, SMALL) if self.is_small else job.stock) // self.each

    def rounds(self, job: Job) -> Iterator[list[tuple[int, int]]]:
        """Actor and version of each event, in the order in which they are stored.

        If they are spread, the order is random, since what a server does in blocks of its own might go well or badly
        with any rhythm; in a round no actor comes twice.
        """
        turn, actors = Random(self.name), list(range(self.actors(job)))
        versions = range(1, self.each + 1)
        if not self.is_spread:
            yield from ([(actor, version) for version in versions] for actor in actors)
            return
        for version in versions:
            turn.shuffle(actors)
            yield [(actor, version) for actor in actors]

    def chosen(self, job: Job, count: int) -> list[str]:
        """Choose actors to load, none twice if there are enough; the same ones for every contender."""
        names = [actor_name(actor) for actor in range(self.actors(job))]
        Random(self.name).shuffle(names)
        return list(islice(names * (count // len(names) + 1), count))

    def sequences(self, job: Job, actors: Iterable[str]) -> dict[str, list[int]]:
        """Say where the events of some actors are: the first that is stored has the sequence 1."""
        found: dict[str, list[int]] = {actor_id: [] for actor_id in actors}
        wanted = {int(actor_id.rpartition("-")[2]): sequences for actor_id, sequences in found.items()}
        stored = (actor for numbers in self.rounds(job) for actor, _ in numbers)
        for sequence, actor in enumerate(stored, 1):
            if actor in wanted:
                wanted[actor].append(sequence)
        return found


MANY = Stock("many", 10)  #: 20,000 actors with 10 events each, or ten times as many
MANY_SMALL = replace(MANY, name="many-small", is_small=True)
BARE = Stock("bare", 10, is_bare=True, is_small=True)  #: the same without headers
FEW = Stock("few", 1_000)  #: 200 actors with 1,000 events each, or ten times as many
FEW_SMALL = replace(FEW, name="few-small", is_small=True)
DECIDED = replace(FEW, name="decided", is_small=True)  #: the same, to which a few are added
ROWS = Stock("rows", 1_000, is_spread=False, is_small=True)  #: the same, actor by actor


def stocked(job: Job, where: str, stock: Stock, fill: Callable[[], Any]) -> None:
    """Let a store be filled, once in a run of the benchmarks."""
    done = Path(job.stores.folder, f"{where}-{stock.name}.filled")
    if not done.exists():
        fill()
        done.touch()
