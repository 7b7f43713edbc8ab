"""Histories: in which order the events of a test are delivered, and what goes wrong with each delivery.

A history is a list of steps, and each step delivers one event. It can be written as a text, which ``replay=`` takes::

    1:dies-after 1 2
    1:dies-at-3 1
    1:dies-at-3.2 1

Here is only what a history is, and which ones are tried. What is possible is decided where they are played: a step that
delivers an event which is done, or whose turn has not come, is left out there, and what is left over at the end is
delivered in the order of the store. So each list of steps is a history, which makes it easy to shorten one.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from itertools import repeat, zip_longest
from random import Random
from typing import NamedTuple

from ..errors import InvalidOptionError

__all__ = ["DEATHS", "Fate", "Part", "Place", "Plan", "Step", "as_text", "parsed", "random_history", "single_faults"]


class Fate(StrEnum):
    """What happens to one delivery, the simplest first; the words are those of ``replay=``."""

    DONE = ""  # it is handled, and the server notes the acknowledgement
    LOST = "ack-lost"  # it is handled, and the acknowledgement is lost
    AFTER = "dies-after"  # it is handled, and the process dies before the acknowledgement
    ACKED = "dies-acked"  # it is handled and acknowledged, and the process dies then
    BEFORE = "dies-before"  # the process dies before it calls the handler
    WITHIN = "dies-at"  # the process dies in the handler, before a line or in the middle of it
    SERVER = "server-restarts"  # it is handled, and the server restarts before the acknowledgement


#: The fates of a delivery that end its process.
DEATHS = frozenset((Fate.BEFORE, Fate.WITHIN, Fate.AFTER, Fate.ACKED))

_COMES_AGAIN = (Fate.LOST, Fate.AFTER, Fate.BEFORE, Fate.WITHIN)
_STEP = re.compile(
    r"(\d+)(?::(?:(dies-at)-(\d+)(?:\.(\d+))?|(ack-lost|server-restarts|dies-before|dies-after|dies-acked)))?"
)
_MOST_FAULTS = 3  # of a random history
_WITHIN = 3  # deaths within the handler for each other fault: there are the most of them, and they find the most


class Step(NamedTuple):
    """The delivery of an event.

    Attributes:
        event: Which one, counted from 0.
        fate: What happens to it.
        line: Before which line of the handler the process dies, counted as they run, from 1; 0 if it does not.
        part: In the middle of that line, before which of the calls that it makes: from 2; 0 if it dies before the
            line.
    """

    event: int
    fate: Fate = Fate.DONE
    line: int = 0
    part: int = 0

    def __str__(self) -> str:
        part = f".{self.part}" if self.part else ""
        fate = f"{self.fate}-{self.line}{part}" if self.fate is Fate.WITHIN else str(self.fate)
        return f"{self.event + 1}:{fate}" if fate else str(self.event + 1)


class Place(NamedTuple):
    """A line of code."""

    file: str
    line: int


class Part(NamedTuple):
    """A part of a line, which begins with a call, as :class:`Step` counts them."""

    line: int
    part: int


@dataclass(frozen=True)
class Plan:
    """What histories are made of.

    Attributes:
        actors: The actor of each event.
        kinds: The type of each event.
        lines: The lines of the user's code that run when each event is handled, in the order in which they run.
        keeps_order: Whether the events of an actor are delivered in order.
        restarts_server: Whether the server may restart.
        parts: The parts of these lines that run when each event is handled.
    """

    actors: tuple[str, ...]
    kinds: tuple[str, ...]
    lines: tuple[tuple[Place, ...], ...]
    keeps_order: bool
    restarts_server: bool
    parts: tuple[tuple[Part, ...], ...] = ()

    @property
    def count(self) -> int:
        """How many events there are."""
        return len(self.actors)


def as_text(steps: Iterable[Step]) -> str:
    """Return a history as ``replay=`` takes it."""
    return " ".join(map(str, steps))


def parsed(text: str, count: int) -> list[Step]:
    """Read a history.

    Args:
        text: As :func:`as_text` returns it.
        count: How many events there are.

    Raises:
        InvalidOptionError: It is no history of so many events.
    """
    return [_parsed_step(word, count) for word in text.split()]


def _parsed_step(word: str, count: int) -> Step:
    found = _STEP.fullmatch(word)
    if found is None:
        raise InvalidOptionError(f"replay has {word!r}, which is no step: copy it from the report of a failure")
    event, within, line, part, fate = found.groups()
    if not 1 <= int(event) <= count:
        raise InvalidOptionError(f"replay has {word!r}, and there are {count} events: it is of another test")
    return Step(int(event) - 1, Fate(within or fate or ""), int(line or 0), int(part or 0))


# -- with one fault


def single_faults(plan: Plan) -> Iterator[list[Step]]:
    """Yield the histories in which one thing is other than usual: of each kind in turn, the simplest kinds first."""
    within = _deaths_within(plan)
    kinds = (
        _repeats(plan),
        _orders(plan),
        _deaths(plan, Fate.AFTER),
        _late_repeats(plan),
        _deaths(plan, Fate.ACKED),
        _deaths(plan, Fate.BEFORE),
        *repeat(within, _WITHIN),
        _deaths_in_parts(plan),
    )
    for turn in zip_longest(*kinds):
        yield from (one for one in turn if one is not None)
    if plan.restarts_server:  # it is slow, and to the handler it is as if the acknowledgement were lost
        yield _with_fault(plan, plan.count // 2, Fate.SERVER)


def _plain(plan: Plan) -> list[Step]:
    return [Step(event) for event in range(plan.count)]


def _with_fault(plan: Plan, event: int, fate: Fate, line: int = 0) -> list[Step]:
    """Return the history in which an event suffers a fate, and comes again at once."""
    return _with_step(plan, Step(event, fate, line))


def _with_step(plan: Plan, step: Step) -> list[Step]:
    steps = _plain(plan)
    return [*steps[: step.event], step, *steps[step.event :]]


def _repeats(plan: Plan) -> Iterator[list[Step]]:
    return (_with_fault(plan, event, Fate.LOST) for event in range(plan.count))


def _late_repeats(plan: Plan) -> Iterator[list[Step]]:
    for event in range(plan.count - 1):
        steps = _plain(plan)
        steps[event] = Step(event, Fate.LOST)
        yield [*steps, Step(event)]


def _deaths(plan: Plan, fate: Fate) -> Iterator[list[Step]]:
    return (_with_fault(plan, event, fate) for event in range(plan.count))


def _deaths_within(plan: Plan) -> Iterator[list[Step]]:
    """Yield a death at each line of the handler, the first and the second time that it runs for a type of event."""
    seen: dict[tuple[str, Place], int] = {}
    for event, (kind, lines) in enumerate(zip(plan.kinds, plan.lines, strict=True)):
        for number, place in enumerate(lines, start=1):
            seen[kind, place] = seen.get((kind, place), 0) + 1
            if number > 1 and seen[kind, place] <= 2:  # before the first line nothing has been done yet
                yield _with_fault(plan, event, Fate.WITHIN, number)


def _deaths_in_parts(plan: Plan) -> Iterator[list[Step]]:
    """Yield a death in the middle of each line that does several things, the first time that it runs for a type."""
    seen = set()
    for event, parts in enumerate(plan.parts):
        for line, part in parts:
            what = plan.kinds[event], plan.lines[event][line - 1], part
            if what not in seen:
                seen.add(what)
                yield _with_step(plan, Step(event, Fate.WITHIN, line, part))


def _orders(plan: Plan) -> Iterator[list[Step]]:
    """Yield other orders: with two neighbours swapped, if that may be; with each actor first, last, and in turn."""
    events = list(range(plan.count))
    orders = []
    if not plan.keeps_order:
        orders += [[*events[:at], at + 1, at, *events[at + 2 :]] for at in events[:-1]]
        orders.append(events[::-1])
    actors = list(dict.fromkeys(plan.actors))
    for is_last in (False, True):
        orders += [sorted(events, key=lambda event: (plan.actors[event] == actor) is is_last) for actor in actors]
    lanes = [[event for event in events if plan.actors[event] == actor] for actor in reversed(actors)]
    orders.append([event for turn in zip_longest(*lanes) for event in turn if event is not None])
    known = [events]
    for order in orders:
        if order not in known:
            known.append(order)
            yield [Step(event) for event in order]


# -- with several


def random_history(plan: Plan, random: Random) -> list[Step]:
    """Return a history with one to three faults, which often has another order, too."""
    order = _random_order(plan, random) if random.random() < 0.7 else list(range(plan.count))
    steps = [Step(event) for event in order]
    for _ in range(random.randint(1, _MOST_FAULTS)):
        _add_fault(steps, plan, random)
    return steps


def _random_order(plan: Plan, random: Random) -> list[int]:
    """Return the events in a random order, in which those of an actor keep theirs if they have to."""
    places = list(range(plan.count))
    random.shuffle(places)
    if not plan.keeps_order:
        return places
    lanes: dict[str, list[int]] = {}
    for event in reversed(range(plan.count)):
        lanes.setdefault(plan.actors[event], []).append(event)
    return [lanes[plan.actors[place]].pop() for place in places]


def _add_fault(steps: list[Step], plan: Plan, random: Random) -> None:
    sound = [at for at, step in enumerate(steps) if step.fate is Fate.DONE]
    if not sound:
        return
    at = random.choice(sound)
    event = steps[at].event
    if random.random() < 0.2:
        steps[at] = Step(event, Fate.ACKED)
        return
    fate, line = random.choice(_COMES_AGAIN), 0
    if fate is Fate.WITHIN:
        count = len(plan.lines[event])
        fate, line = (fate, random.randint(2, count)) if count > 1 else (Fate.BEFORE, 0)
    steps[at] = Step(event, fate, line)
    again = at + 1 if random.random() < 0.5 else random.randint(at + 1, len(steps))
    steps.insert(again, Step(event))
