"""Plays a history with deliveries of a real server, up to its end or the death of the process.

Which delivery comes next, and whether its acknowledgement is sent, is decided here. All else is the server's: each
delivery of an event is one that the server has made, the first as well as one that comes again. The ack wait, which has
to be over before an event comes again, is not waited for: the delivery is given back instead.
"""

import gc
import traceback
import warnings
from collections.abc import Callable, Iterable
from contextvars import copy_context
from enum import Enum
from types import FrameType
from typing import NamedTuple

from .._arguments import is_of, refuse_unrun
from .._values.shown import explained
from ..errors import DeadlineExceededError, InvalidOptionError
from ..handling_context import handle_pushed
from ..stores.consumers.consumption import Consumption
from ..stores.consumers.delivery import Delivery
from ._histories import DEATHS, Fate, Place, Step
from ._lines import Tracer
from ._progress import Progress, Visit

__all__ = ["End", "Hand", "Player"]

_PATIENCE = 60.0  # seconds for a delivery that the server is known to have, on a busy machine


class End(Enum):
    """How playing ends."""

    SETTLED = "all events are done, or one was given up"
    DIED = "the process has died"
    SERVER = "the server is to be restarted"


class Hand:
    """What the server has delivered to the process, by event.

    Args:
        consumption: Where deliveries come from.
        events: The number of each event, by its sequence.
        wanted: The events that take part; others are acknowledged without being handled.
    """

    def __init__(self, consumption: Consumption, events: dict[int, int], wanted: frozenset[int]) -> None:
        self._consumption = consumption
        self._events = events
        self._wanted = wanted
        self._here: dict[int, Delivery] = {}

    def take(self, event: int) -> Delivery:
        """Return the delivery of an event, which the server has made or is about to make.

        Raises:
            DeadlineExceededError: It does not come.
        """
        while event not in self._here:
            batch = self._consumption.get_batch(len(self._events), timeout=_PATIENCE)
            if not batch:
                raise DeadlineExceededError(
                    f"event {event + 1} has not come again within {_PATIENCE:g} s. A handler that gives an event back "
                    "with a delay has to be tested with a shorter one"
                )
            for one in batch:
                number = self._events[one.sequence]
                if number in self._wanted:
                    self._here[number] = one
                else:
                    one.ack()
        return self._here[event]

    def put_away(self, event: int) -> None:
        """Forget a delivery that is settled."""
        self._here.pop(event, None)

    def give_back(self, events: Iterable[int]) -> None:
        """Have the server deliver events again, as it does when their ack wait is over."""
        for event in events:
            delivery = self._here.pop(event, None)
            if delivery is not None and not delivery.settled:
                delivery.nak()

    def give_back_all(self) -> None:
        """Have the server deliver again all that is here, of which the process that dies has handled nothing."""
        self.give_back(list(self._here))


class _Died(BaseException):
    """The process dies here. It is not an Exception, so that no handler takes it for an error of its own."""

    def __init__(self, place: Place) -> None:
        super().__init__("the process dies here")
        self.place = place


class Player(NamedTuple):
    """Plays histories.

    Attributes:
        call: Calls the handler.
        is_own: Whether a frame is of the user's code.
        counts_lines: Whether visits have the lines that have run.
        on_visit: Is called after each delivery, if it is there.
        errors: What the handler raises is appended to it, if it is there.
        kill: Ends this process while the handler runs; None to raise an exception there.
    """

    call: Callable[[Delivery], object]
    is_own: Callable[[FrameType], bool]
    counts_lines: bool = False
    on_visit: Callable[[], None] | None = None
    errors: list[BaseException] | None = None
    kill: Callable[[], None] | None = None

    def play(self, progress: Progress, hand: Hand) -> End:
        """Deliver events until all are done, or the process dies, or the server is to be restarted."""
        while (step := progress.next_step()) is not None:
            delivery = hand.take(step.event)
            visit = Visit(step, is_again=progress.was_called(step.event))
            if step.fate is not Fate.BEFORE:
                visit = self._handle(visit, delivery, progress)
            progress.note(visit, _settle(delivery, visit, hand))
            if self.on_visit is not None:
                self.on_visit()
            if visit.step.fate is Fate.SERVER:
                return End.SERVER
            if visit.step.fate in DEATHS:
                return End.DIED
        return End.SETTLED

    def _handle(self, visit: Visit, delivery: Delivery, progress: Progress) -> Visit:
        """Call the handler, and return what has come of it."""

        def die(place: Place) -> None:
            if self.kill is not None:
                dies = visit._replace(place=place, settled=delivery.settled)
                progress.note(dies, delivery.settled in _FINAL)
                self.kill()
            raise _Died(place)

        step = visit.step
        if step.fate is Fate.WITHIN or self.counts_lines:
            with Tracer(self.is_own, step.line, die, part=step.part, counts_parts=self.counts_lines) as tracer:
                error, died = self._called(delivery)
            if tracer.has_acted and died is None:
                raise _caught(tracer.places[step.line - 1])
            if self.counts_lines:
                visit = visit._replace(lines=tuple(tracer.places), parts=tuple(tracer.parts))
        else:
            error, died = self._called(delivery)
        if (step.fate is Fate.WITHIN and died is None) or error:  # the line was not reached, or the handler has failed
            step = Step(step.event)
        return visit._replace(step=step, place=died, error=error, settled=delivery.settled)

    def _called(self, delivery: Delivery) -> tuple[str, Place | None]:
        """Call the handler as a runner does; return its error, "" if there is none, and where the process has died."""
        try:
            with handle_pushed(delivery):
                refuse_unrun(copy_context().run(self.call, delivery))
        except _Died as died:
            _forget(died)
            return "", died.place
        except (Exception, SystemExit) as error:
            if (death := _death_behind(error)) is not None:  # on its way out it made a context manager fail, say
                return "", death.place
            if self.errors is not None:
                self.errors.append(error)
            return explained(error), None
        return "", None


def _death_behind(error: BaseException) -> _Died | None:
    """Return the death of the process that an error has come of; None if there is none."""
    context = error.__context__
    while context is not None and not is_of(context, _Died):
        context = context.__context__
    return context


def _caught(place: Place) -> InvalidOptionError:
    return InvalidOptionError(
        f"the handler has caught the exception by which its process is to die, before line {place.line} of "
        f"{place.file}, and has gone on: let it catch Exception instead of BaseException, or say kill=True"
    )


_FINAL = ("acknowledged", "rejected")  # of the ways to settle a delivery


def _forget(died: _Died) -> None:
    """Let go of what the dead process had open: a transaction that is not committed is rolled back now."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # a process that dies closes nothing
        traceback.clear_frames(died.__traceback__)
        gc.collect(1)  # a connection of sqlite3 is part of a cycle; what the handler has just made is young


def _settle(delivery: Delivery, visit: Visit, hand: Hand) -> bool:
    """Settle a delivery as its fate is; return whether the event does not come again."""
    event, fate = visit.step.event, visit.step.fate
    if visit.settled:
        hand.put_away(event)
    elif visit.error:  # the runner keeps it, and calls the handler again
        delivery.attempt += 1
    elif fate in (Fate.DONE, Fate.ACKED):
        delivery.ack(confirm=True, timeout=_PATIENCE)
        hand.put_away(event)
        return True
    elif fate is Fate.LOST:
        hand.give_back([event])
    return visit.settled in _FINAL
