"""``Progress``: which event is delivered next in a history that is being played, and what has come of it so far.

It goes from a process that dies to the next one, also when that is another process of the system, so it can be pickled.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from ._histories import Fate, Part, Place, Plan, Step

__all__ = ["MOST_FAILURES", "Progress", "Visit"]

MOST_FAILURES = 5  #: how often a handler may fail with one event, as by default in a runner


class Visit(NamedTuple):
    """A delivery that was made.

    Attributes:
        step: What happened.
        place: Where in the user's code the process died; None if it did not die there.
        error: The error of the handler; "" if it raised none.
        settled: How the handler itself has settled the delivery; "" if it has not.
        is_again: Whether a handler was called with this event before.
        lines: The lines of the user's code that have run, if they were counted.
        parts: Their parts, likewise.
    """

    step: Step
    place: Place | None = None
    error: str = ""
    settled: str = ""
    is_again: bool = False
    lines: tuple[Place, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass
class Progress:
    """How far a history is.

    Attributes:
        actors: The actor of each event.
        keeps_order: Whether the events of an actor are delivered in order.
        wanted: The events that take part.
        steps: What is left of the history.
        visits: The deliveries that were made.
    """

    actors: tuple[str, ...]
    keeps_order: bool
    wanted: frozenset[int]
    steps: list[Step]
    visits: list[Visit] = field(default_factory=list)
    _handled: set[int] = field(default_factory=set)  # the handler has returned for them, perhaps in vain
    _settled: set[int] = field(default_factory=set)  # they do not come again
    _failures: dict[int, int] = field(default_factory=dict)
    _paused: set[int] = field(default_factory=set)  # they have failed, and are tried again when nothing else is left

    @classmethod
    def of(cls, plan: Plan, wanted: frozenset[int], steps: Iterable[Step]) -> "Progress":
        """Begin a history."""
        return cls(plan.actors, plan.keeps_order, wanted, list(steps))

    @property
    def unsettled(self) -> list[int]:
        """The events that still have to be handled."""
        return sorted(self.wanted - self._settled)

    @property
    def given_up(self) -> Visit | None:
        """The last failure of an event that a runner would give up; None if there is none."""
        last = self.visits[-1] if self.visits else None
        if last is None or self._failures.get(last.step.event, 0) < MOST_FAILURES:
            return None
        return last

    def next_step(self) -> Step | None:
        """Return the next delivery: of the history, and then of what is left, in order. None at the end."""
        if self.given_up is not None:
            return None
        while self.steps:
            step = self.steps.pop(0)
            if step.event not in self._paused and self._may_come(step.event):
                return step
        left = [event for event in self.unsettled if self._may_come(event)]
        ready = [event for event in left if event not in self._paused]
        if not ready:
            self._paused.clear()
            ready = left
        return Step(ready[0]) if ready else None

    def _may_come(self, event: int) -> bool:
        """Whether an event may be delivered now: it is not done, and all before it of its actor were handled."""
        if event not in self.wanted or event in self._settled:
            return False
        return not self.keeps_order or all(
            other in self._handled
            for other in self.wanted
            if other < event and self.actors[other] == self.actors[event]
        )

    def was_called(self, event: int) -> bool:
        """Whether a handler was called with an event."""
        return any(one.step.event == event and one.step.fate is not Fate.BEFORE for one in self.visits)

    def note(self, visit: Visit, is_settled: bool) -> None:
        """Note a delivery, and whether its event is done."""
        event, fate = visit.step.event, visit.step.fate
        self.visits.append(visit)
        if is_settled:
            self._settled.add(event)
        if visit.error or visit.settled == "given back":
            self._failures[event] = self._failures.get(event, 0) + 1
            self._paused.add(event)
        elif fate not in (Fate.BEFORE, Fate.WITHIN) or is_settled:
            self._handled.add(event)
            self._failures.pop(event, None)
