"""``shortened``: the shortest history near a failing one that fails as well.

Each round tries histories that are a little simpler: without an event, without a step, with a simpler fate, nearer to
the order of the store, with earlier events. The first that fails is where the next round begins.
"""

from collections.abc import Callable, Iterator

from ._histories import Fate, Step
from ._trials import Outcome, Trials

__all__ = ["Found", "shortened"]

_SIMPLER: dict[Fate, tuple[Fate, ...]] = {
    Fate.DONE: (),
    Fate.LOST: (Fate.DONE,),
    Fate.AFTER: (Fate.DONE, Fate.LOST),
    Fate.ACKED: (Fate.DONE,),
    Fate.BEFORE: (Fate.DONE, Fate.ACKED),
    Fate.SERVER: (Fate.DONE, Fate.LOST, Fate.AFTER),
    Fate.WITHIN: (Fate.DONE, Fate.LOST, Fate.AFTER, Fate.BEFORE),
}
_RANK = {fate: rank for rank, fate in enumerate(Fate)}

#: A failing history: the events that take part, and what has come of it.
Found = tuple[frozenset[int], Outcome]


def shortened(found: Found, trials: Trials, may_go_on: Callable[[], bool]) -> Found:
    """Return the shortest failing history that is found from one.

    Args:
        found: The one.
        trials: Plays histories.
        may_go_on: Whether there is time for another one.
    """
    while (better := _better(found, trials, may_go_on)) is not None:
        found = better
    return found


def _better(found: Found, trials: Trials, may_go_on: Callable[[], bool]) -> Found | None:
    """Return a failing history that is simpler; None if none is, or there is no time."""
    wanted, outcome = found
    size = _size(wanted, outcome.steps)
    tried = {(wanted, outcome.steps)}
    for fewer, steps in _candidates(wanted, outcome.steps):
        if not may_go_on():
            return None
        if (fewer, steps) in tried or _size(fewer, steps) >= size:
            continue
        tried.add((fewer, steps))
        other = trials.disturbed(fewer, steps)
        if trials.fails(fewer, other) and _size(fewer, other.steps) < size:
            return fewer, other
    return None


def _size(wanted: frozenset[int], steps: tuple[Step, ...]) -> tuple[object, ...]:
    """Return what makes a history long, the most important first."""
    order = [step.event for step in steps]
    swapped = sum(one > other for at, one in enumerate(order) for other in order[at + 1 :])
    fates = sorted((_RANK[step.fate] for step in steps if step.fate is not Fate.DONE), reverse=True)
    return (
        *(len(wanted), len(steps), len(fates), fates, swapped, sum(wanted)),
        *(sum(step.line for step in steps), sum(step.part for step in steps)),
    )


def _candidates(wanted: frozenset[int], steps: tuple[Step, ...]) -> Iterator[tuple[frozenset[int], tuple[Step, ...]]]:
    """Yield histories that are a little simpler."""
    events = sorted(wanted)
    part = len(events) // 2
    while part:  # many events at once, and then fewer
        for at in range(len(events) - part, -1, -part):
            gone = set(events[at : at + part])
            yield wanted - gone, tuple(step for step in steps if step.event not in gone)
        part //= 2
    for at, step in enumerate(steps):
        yield wanted, steps[:at] + steps[at + 1 :]
        for fate in _SIMPLER[step.fate]:
            yield wanted, (*steps[:at], Step(step.event, fate), *steps[at + 1 :])
        for line in {step.line // 2, step.line - 1} if step.line > 2 else ():
            yield wanted, (*steps[:at], step._replace(line=line, part=0), *steps[at + 1 :])
        if step.part:
            yield wanted, (*steps[:at], step._replace(part=0), *steps[at + 1 :])
    for at in range(len(steps) - 1):
        one, other = steps[at : at + 2]
        if one.event > other.event:
            yield wanted, (*steps[:at], other, one, *steps[at + 2 :])
    for event in events:
        for earlier in sorted(set(range(event)) - wanted):
            yield (
                (wanted - {event}) | {earlier},
                tuple(step._replace(event=earlier) if step.event == event else step for step in steps),
            )
