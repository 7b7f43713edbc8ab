"""The rules by which a history is judged: what a store promises, whatever happens to servers, links and processes.

What anybody saw is compared with what the stream holds in the end, as the server itself tells it. :func:`judge` is
pure. Not judged is what the library leaves open: an order between two calls that overlap; what becomes of a save
without an answer; on several servers, a read on one node of what another node has just saved, since a leader that is
cut off and does not know it yet may answer it.
"""

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from math import inf

from .history import Complaint, Delivered, History, Kept, Part, Read, Record, Save

__all__ = ["RULES", "judge"]


class Truth:
    """A history with what is looked up in it."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.content = history.content
        self.by_sequence = {one.sequence: one for one in self.content}
        self.by_id = {one.id: one for one in self.content}
        self.by_actor: dict[str, list[Record]] = defaultdict(list)
        for one in self.content:
            self.by_actor[one.actor].append(one)
        self.versions = {actor: [one.version for one in records] for actor, records in self.by_actor.items()}

    @cached_property
    def saves_of(self) -> dict[str, list[Save]]:
        """By id, the calls that tried to save it, by their beginnings."""
        saves: dict[str, list[Save]] = defaultdict(list)
        for save in sorted(self.history.saves, key=lambda one: one.begin):
            for each in save.ids:
                saves[each].append(save)
        return saves

    @cached_property
    def batches(self) -> dict[tuple[str, ...], list[Save]]:
        """The calls that tried to save several events, by their ids."""
        batches: dict[tuple[str, ...], list[Save]] = defaultdict(list)
        for save in self.history.saves:
            if len(save.ids) > 1:
                batches[save.ids].append(save)
        return batches

    def begun(self, event_id: str) -> float:
        return min((save.begin for save in self.saves_of.get(event_id, ())), default=inf)


Rule = Callable[[Truth], Iterable[tuple[str, Sequence[Part]]]]


# -- what is stored


def lost(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """What a save returned is in the stream, where it said."""
    for save in truth.history.saves:
        if save.outcome == "stored" and tuple(one.id for one in save.stored) != save.ids:
            yield "a save returned other events than it was given", [save]
        for one in save.stored:
            there = truth.by_sequence.get(one.sequence)
            if there is None or (there.id, there.actor, there.version) != (one.id, one.actor, one.version):
                yield f"{one.id} was stored at {one.sequence}, and is not there", [save, *([there] if there else [])]


def twice(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """No event is stored twice."""
    for event_id, number in Counter(one.id for one in truth.content).items():
        if number > 1:
            there = [one for one in truth.content if one.id == event_id]
            yield f"{event_id} is there {number} times", [*truth.saves_of.get(event_id, ()), *there]


def not_called_for(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """What every save of it said was not stored is not there; nor is what nobody saved.

    A save without an answer may be carried out until a later one of the same event meets a conflict.
    """
    for one in truth.content:
        saves = truth.saves_of.get(one.id, [])
        if any(save.outcome == "stored" for save in saves):
            continue
        denied = max((save.begin for save in saves if save.outcome == "conflict"), default=-inf)
        if all(save.outcome != "unknown" or save.end <= denied for save in saves):
            yield f"{one.id} is there, and was not to be stored", [*saves, one]


def gaps(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """Sequences have no gap, versions grow, and have none either where nobody left one."""
    sequences = [one.sequence for one in truth.content]
    if sequences != list(range(1, len(sequences) + 1)):
        missing = sorted(set(range(1, max(sequences) + 1)) - set(sequences))
        yield f"the sequences are not 1 to {len(sequences)}: {missing[:20]} are not there", []
    with_gaps = {each for save in truth.history.saves if save.has_gaps for each in save.ids}
    gappy = {one.actor for one in truth.content if one.id in with_gaps}
    for actor, records in truth.by_actor.items():
        for before, after in pairwise([Record(0, "", actor, 0, ""), *records]):
            if after.version <= before.version:
                yield f"{actor}: version {after.version} is behind version {before.version}", [before, after]
            elif after.version > before.version + 1 and actor not in gappy:
                yield f"{actor}: version {after.version} follows on {before.version}", [before, after]


def out_of_order(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """What was saved before something else was begun to be saved is before it in the stream."""
    stored = [
        (truth.begun(save.ids[0]), save.end, [one.sequence for one in save.stored], save)
        for save in truth.history.saves
        if save.stored
    ]
    ended = sorted(stored, key=lambda one: one[1])
    highest, latest, at = 0, None, 0
    for begin, _, sequences, save in sorted(stored, key=lambda one: one[0]):
        while ended[at][1] < begin:
            if ended[at][2][-1] > highest:
                highest, latest = ended[at][2][-1], ended[at][3]
            at += 1
        if latest is not None and sequences[0] < highest:
            yield f"{sequences[0]} was saved after {highest} was", [latest, save]


def torn(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """Of several events that were saved together, all are there or none; in a row, and only the last ends it."""
    together = set()
    for ids, saves in truth.batches.items():
        there = [truth.by_id[each] for each in ids if each in truth.by_id]
        together |= {one.id for one in there}
        if there and len(there) < len(ids):
            yield f"{len(there)} of {len(ids)} are there", [*saves, *there]
        elif [one.sequence for one in there] != [there[0].sequence + n for n in range(len(there))]:
            yield "they are not in a row", [*saves, *there]
        elif [one.ends_batch for one in there] != [one is there[-1] for one in there]:
            yield "the last, and only the last, is to end the batch", [*saves, *there]
    for one in truth.content:
        if one.id not in together and not one.ends_batch:
            yield f"{one.id} was saved alone, and does not end its batch", [one]


def unexplained(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """A conflict is told only where somebody else's event is in the way, and with a version that the actor had."""
    for save in truth.history.saves:
        if save.conflict is None:
            continue
        actor, attempted, current = save.conflict
        others = [
            one for one in truth.by_actor.get(actor, ()) if one.id not in save.ids and truth.begun(one.id) < save.end
        ]
        if not any(one.version >= attempted for one in others):
            yield f"nobody stored version {attempted} of {actor}, or a later one, before that", [save, *others[-3:]]
        elif not any(one.version == current for one in others):
            yield f"{actor} never was at version {current}", [save, *others[-3:]]


# -- what was read


def unreal(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """What was read is what is stored, from the version asked for up to some version, without a hole."""
    for read in truth.history.reads:
        for actor, seen in read.seen.items():
            versions, there = truth.versions.get(actor, []), truth.by_actor.get(actor, [])
            if seen.version and seen.version not in versions:
                yield f"{actor} never was at version {seen.version}", [read]
            elif seen.ids is not None:
                at = bisect_left(versions, seen.first)
                wanted = there[at : at + len(seen.ids)]
                if tuple(one.id for one in wanted) != seen.ids:
                    yield f"{actor} has other events from version {seen.first} on", [read, *wanted[-20:]]


def seen_in_part(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """No reader and no follower sees a part of what was saved together."""
    batch_of = {each: ids for ids in truth.batches for each in ids}
    for read in truth.history.reads:
        read_ids = {each for seen in read.seen.values() for each in seen.ids or ()}
        for ids in {batch_of[each] for each in read_ids if each in batch_of}:
            records = [truth.by_id[each] for each in ids if each in truth.by_id]
            wanted = [one for one in records if one.actor in read.seen and one.version >= read.seen[one.actor].first]
            if missing := [one for one in wanted if one.id not in read_ids]:
                parts: list[Part] = [*truth.batches[ids], read, *records]
                yield f"{missing[0].id} was not seen, and others of its batch were", parts
    for life in truth.history.lives:
        for one in life.seen:
            there = truth.by_id.get(one.id)
            if not life.actors and not life.event_type and there is not None and there.ends_batch != one.ends_batch:
                yield f"{life.follower} was told wrongly where the batch of {one.id} ends", [life, there]


def _stale(
    truth: Truth, group: Callable[[Save | Read], str], learns_by_reading: bool
) -> Iterator[tuple[str, Sequence[Part]]]:
    """Look for reads that miss what their group knew before they began."""
    calls: list[Save | Read] = [save for save in truth.history.saves if save.stored]
    calls += truth.history.reads
    known: dict[tuple[str, str], tuple[int, Save | Read]] = {}
    ended, at = sorted(calls, key=lambda one: one.end), 0
    for read in sorted(truth.history.reads, key=lambda one: one.begin):
        while ended[at].end <= read.begin:
            _learn(known, group(ended[at]), ended[at], learns_by_reading)
            at += 1
        for actor, seen in read.seen.items():
            version, by = known.get((group(read), actor), (0, read))
            if seen.version < version and version >= seen.first:
                yield f"{actor} was known to be at version {version}, and was read at {seen.version}", [by, read]


def _learn(
    known: dict[tuple[str, str], tuple[int, Save | Read]], group: str, call: Save | Read, learns_by_reading: bool
) -> None:
    learnt: Iterable[tuple[str, int]] = ()
    if isinstance(call, Save):
        learnt = ((one.actor, one.version) for one in call.stored)
    elif learns_by_reading:
        learnt = ((actor, seen.version) for actor, seen in call.seen.items())
    for actor, version in learnt:
        if version > known.get((group, actor), (0, call))[0]:
            known[group, actor] = version, call


def stale(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """A read has all that was saved before on its node; on any node, where there is but one server."""
    return _stale(truth, lambda call: "" if truth.history.is_current else call.node, learns_by_reading=False)


def backwards(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """An actor's version never goes down for a client."""
    return _stale(truth, lambda call: call.client, learns_by_reading=True)


# -- snapshots


def untrue_snapshots(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """A snapshot that is loaded is of an event that is there, and has what the events up to it make."""
    loaded = [(actor, seen.snapshot, [read]) for read in truth.history.reads for actor, seen in read.seen.items()]
    loaded += [(actor, kept, []) for actor, kept in truth.history.snapshots.items()]
    for actor, kept, parts in loaded:
        if kept is None:
            continue
        versions = truth.versions.get(actor, [])
        at = bisect_left(versions, kept.version)
        there = truth.by_actor[actor][at] if at < len(versions) else None
        if there is None or kept != Kept(there.version, there.sequence, at + 1, there.id):
            yield f"the snapshot of {actor} is not true: {kept}", [*parts, *([there] if there else [])]


def lost_snapshots(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """In the end there is no older snapshot than one that was saved."""
    for save in truth.history.snapshotted:
        kept = truth.history.snapshots.get(save.actor)
        if kept is None or kept.version < save.version:
            yield f"the snapshot is gone, and {kept} is there", [save]


# -- followers and consumers


def followed(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """A follower gets each event that it wants once, in order, without a gap, through all its lives."""
    at: dict[str, int] = defaultdict(int)
    for life in sorted(truth.history.lives, key=lambda one: one.begin):
        if life.after != at[life.follower]:
            yield f"{life.follower} began at {life.after}, and not at {at[life.follower]}", [life]
        taken = life.seen[-1].sequence if life.seen else life.after
        end = len(truth.content) if life.is_last else max(life.checkpoint, taken)
        wanted = [one for one in truth.content[life.after : end] if life.wants(one)]
        if life.checkpoint < taken:
            yield f"the checkpoint {life.checkpoint} is before {taken}, which was taken", [life]
        for got, there in zip([*life.seen, *[None] * len(wanted)], wanted, strict=False):
            if got is None or (got.sequence, got.id, got.version) != (there.sequence, there.id, there.version):
                yield f"{life.follower} got {got}, and not {there.id} at {there.sequence}", [life, there]
                break
        else:
            if extra := life.seen[len(wanted) :]:
                yield f"{life.follower} got {extra[0]}, which it was not to get", [life]
        at[life.follower] = life.checkpoint
    if left := set(truth.history.followers) - {life.follower for life in truth.history.lives if life.is_last}:
        yield f"not read to the end: {', '.join(sorted(left))}", []


def not_caught_up(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """A follower that says that it is caught up has all that was saved on its node before it began."""
    saves = sorted((save for save in truth.history.saves if save.stored), key=lambda one: one.end)
    at: dict[str, int] = defaultdict(int)
    needed: dict[str, tuple[int, Save | None]] = defaultdict(lambda: (0, None))
    for life in sorted(truth.history.lives, key=lambda one: one.begin):
        key = life.follower
        while at[key] < len(saves) and saves[at[key]].end < life.begin:
            save = saves[at[key]]
            wanted = [one.sequence for one in save.stored if save.node == life.node and life.wants(one)]
            needed[key] = max(needed[key], (max(wanted, default=0), save), key=lambda one: one[0])
            at[key] += 1
        sequence, by = needed[key]
        if by is not None and life.caught_up is not None and life.caught_up < sequence:
            yield f"{life.follower} was caught up at {life.caught_up}, and {sequence} was there before", [by, life]


def consumed(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """Each consumer handles every event that it wants at least once, and each delivery is of an event that is there."""
    handled: dict[str, set[str]] = defaultdict(set)
    for one in truth.history.delivered:
        there = truth.by_sequence.get(one.sequence)
        if there is None or there.id != one.id:
            yield f"{one.consumer} got {one.id} at {one.sequence}", [one, *([there] if there else [])]
        handled[one.consumer].add(one.id)
    for consumer, event_type in truth.history.consumers.items():
        for there in truth.content:
            if event_type in ("", there.event_type) and there.id not in handled[consumer]:
                yield f"{consumer} never handled {there.id}", [there]


def handled_out_of_order(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """The only process that a consumer ever had handles the events of an actor in order, but for repeats."""
    latest: dict[tuple[str, str], Delivered] = {}
    seen = set()
    for one in sorted(truth.history.delivered, key=lambda one: one.at):
        there = truth.by_id.get(one.id)
        if one.process or there is None or (one.consumer, one.id) in seen:
            continue
        seen.add((one.consumer, one.id))
        before = latest.get((one.consumer, there.actor))
        if before is not None and before.sequence > one.sequence:
            yield f"{one.consumer} handled {one.sequence} of {there.actor} after {before.sequence}", [before, one]
        latest[one.consumer, there.actor] = one


def complained(truth: Truth) -> Iterator[tuple[str, Sequence[Part]]]:
    """Nothing is logged but what the faults explain."""
    for text in truth.history.logged:
        yield text, []


RULES: tuple[Rule, ...] = (
    lost, twice, not_called_for, gaps, out_of_order, torn, unexplained,
    unreal, seen_in_part, stale, backwards,
    untrue_snapshots, lost_snapshots,
    followed, not_caught_up, consumed, handled_out_of_order,
    complained,
)  # fmt: skip


def judge(history: History) -> list[Complaint]:
    """Return all that cannot be: nothing, if the store kept its promises."""
    truth = Truth(history)
    return [Complaint(rule.__name__, what, tuple(parts)) for rule in RULES for what, parts in rule(truth)]
