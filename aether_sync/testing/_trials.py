"""``Trials``: plays histories, and compares what comes of each with what comes of an undisturbed run."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from .._values.shown import explained, short
from ..errors import InvalidOptionError
from ._histories import Plan, Step
from ._playing import Player
from ._progress import MOST_FAILURES, Progress, Visit
from ._stage import Stage, Start

__all__ = ["Outcome", "Trials", "World", "are_equal"]


@dataclass(frozen=True)
class World:
    """The user's functions around the handler.

    Attributes:
        state: Returns what is compared.
        reset: Brings that back to how it is before the first event.
        start: Is called when a process starts.
    """

    state: Callable[[], Any]
    reset: Callable[[], object]
    start: Start

    def look(self) -> Any:
        """Return the state, as a copy that does not change with what the handler does next.

        Raises:
            InvalidOptionError: It cannot be copied.
        """
        found = self.state()
        try:
            return copy.deepcopy(found)
        except Exception as error:
            raise InvalidOptionError(
                f"state() returned {short(found)}, which cannot be copied ({explained(error)}): let it return plain "
                "values, such as dicts and lists"
            ) from error


@dataclass(frozen=True)
class Outcome:
    """What has come of a history.

    Attributes:
        visits: The deliveries that were made.
        state: The state at the end.
        failure: Why it did not come to its end: the handler has failed too often, or state() has; "" if it did.
    """

    visits: tuple[Visit, ...]
    state: Any
    failure: str = ""

    @property
    def steps(self) -> tuple[Step, ...]:
        """The history, as it was possible."""
        return tuple(visit.step for visit in self.visits)


class Trials:
    """Plays histories of the same events.

    Args:
        stage: Has the events.
        plan: What histories are made of.
        player: Plays them.
        world: The user's functions.

    Attributes:
        initial: The state before the first event.
        count: How many histories were played, without undisturbed ones.
    """

    def __init__(self, stage: Stage, plan: Plan, player: Player, world: World) -> None:
        self._stage = stage
        self._plan = plan
        self._player = player
        self._world = world
        self.initial = self._begun()
        self._undisturbed: dict[frozenset[int], Outcome] = {}
        self.count = 0

    def _begun(self) -> Any:
        """Return the state before the first event."""
        self._world.reset()
        return self._world.look()

    def undisturbed(self, wanted: frozenset[int], player: Player | None = None) -> Outcome:
        """Return what comes of some of the events if nothing goes wrong.

        Args:
            wanted: The events.
            player: Plays it, if it is not the one of all histories.
        """
        found = None if player is not None else self._undisturbed.get(wanted)
        if found is None:
            found = self._undisturbed[wanted] = self._played(wanted, (), player or self._player)
        return found

    def disturbed(
        self, wanted: frozenset[int], steps: Iterable[Step], errors: list[BaseException] | None = None
    ) -> Outcome:
        """Return what comes of some of the events by a history.

        Args:
            wanted: The events.
            steps: The history.
            errors: What the handler raises is appended to it, if it is given.
        """
        self.count += 1
        return self._played(wanted, steps, self._player._replace(errors=errors))

    def fails(self, wanted: frozenset[int], outcome: Outcome) -> bool:
        """Whether an outcome is not that of an undisturbed run. None is, if an undisturbed run fails as well."""
        usual = self.undisturbed(wanted)
        return not usual.failure and (bool(outcome.failure) or not are_equal(outcome.state, usual.state))

    def _played(self, wanted: frozenset[int], steps: Iterable[Step], player: Player) -> Outcome:
        if not are_equal(self._begun(), self.initial):
            raise InvalidOptionError(
                f"before the first event state() returned {short(self.initial)} in the first run and "
                f"{short(self._world.look())} in a later one: give reset=, a function that brings all that state() "
                "reads back to how it is before the first event"
            )
        progress = self._stage.play(Progress.of(self._plan, wanted, steps), player, self._world.start)
        visits = tuple(progress.visits)
        if (last := progress.given_up) is not None:
            what = last.error or "it gives the event back"
            failure = f"the handler has failed {MOST_FAILURES} times with event {last.step.event + 1}: {what}"
            return Outcome(visits, None, failure)
        try:
            return Outcome(visits, self._world.look())
        except InvalidOptionError:
            raise
        except Exception as error:
            return Outcome(visits, None, f"state() raised {explained(error)}")


def are_equal(one: Any, other: Any) -> bool:
    """Whether two states are equal.

    Raises:
        InvalidOptionError: They do not say.
    """
    try:
        return bool(one == other)
    except Exception as error:
        raise InvalidOptionError(
            f"what state() returned, {short(one)}, cannot be compared ({explained(error)}): let it return plain values"
        ) from error
