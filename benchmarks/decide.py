"""Deciding on the state of an actor of 1,000 events, with and without snapshots."""

from functools import partial
from statistics import median
from time import perf_counter
from typing import Any

from aether_sync import Event, JetStreamEventStore, Repository

from .cases import Goal, Job, Sample
from .stock import DECIDED, make_unstored
from .stores import our_store, register_at

_SHARE = 0.001  # of the events asked for
_FEWEST = 20  # actors
_AGAIN = 3  # times that is decided on an actor which was just decided on
_EVERY = 100  # events


def _evolve(state: dict[str, Any], event: Event) -> dict[str, Any]:
    return {**state, "events": state.get("events", 0) + 1}


def _one_more(state: dict[str, Any], actor_id: str) -> Event:
    actor = int(actor_id.rpartition("-")[2])
    return make_unstored(actor, 0)


def _repository(store: JetStreamEventStore, snapshot_every: int | None) -> Repository[dict[str, Any]]:
    return Repository(store, initial=dict, evolve=_evolve, snapshot_every=snapshot_every)


def _by_hand(job: Job) -> Sample:
    took = []
    with our_store(job, "r1", DECIDED) as store:
        for actor_id in DECIDED.chosen(job, max(_FEWEST, job.events)):
            for number in range(1 + _AGAIN):
                start = perf_counter()
                version = store.get_events(actor_id)[-1].version
                store.append(actor_id, _one_more({}, actor_id), expected_version=version)
                took += [perf_counter() - start] if number else []
    return {"p50": median(took)}


def _decided(snapshot_every: int | None, is_warm: bool, job: Job) -> Sample:
    actors = DECIDED.chosen(job, max(_FEWEST, job.events))
    if snapshot_every:
        with our_store(job, "r1", DECIDED) as store, _repository(store, snapshot_every) as repository:
            for actor_id in actors:
                repository.decide(actor_id, _one_more, actor_id)
    took = []
    with our_store(job, "r1", DECIDED) as store, _repository(store, snapshot_every) as repository:
        for actor_id in actors:
            for number in range(1 + _AGAIN * is_warm):
                start = perf_counter()
                repository.decide(actor_id, _one_more, actor_id)
                took += [perf_counter() - start] if number or not is_warm else []
    return {"p50": median(took)}


def _register(name: str, title: str, says: str, run: Any, goal: float | None = None) -> None:
    goals = () if goal is None else (Goal(goal),)
    register_at("r1", name, title, run, base="decide-hand-aether", says=says, share=_SHARE, goals=goals)


_register(
    "decide-hand-aether",
    "aether_sync, `get_events` and `append`, again",
    "All events of an actor that was read just before are asked for, no state is made of them, and one is appended.",
    _by_hand,
)
_register(
    "decide-warm-aether",
    "aether_sync, `decide`, again",
    "`repository.decide()` on an actor that was decided on just before; its state is made of all events.",
    partial(_decided, None, True),
)
_register(
    "decide-snapshots-aether",
    "aether_sync, `decide`, again, with snapshots",
    "The same with `snapshot_every=100`; a snapshot is there.",
    partial(_decided, _EVERY, True),
    2.0,
)
_register(
    "decide-cold-aether",
    "aether_sync, `decide`, the first time",
    "`repository.decide()` on an actor that this store has not heard of.",
    partial(_decided, None, False),
)
_register(
    "decide-coldsnapshots-aether",
    "aether_sync, `decide`, the first time, with snapshots",
    "The same with `snapshot_every=100`; a snapshot is there.",
    partial(_decided, _EVERY, False),
)
