"""``assert_survives``: a handler of a durable consumer has the same effect, whatever happens to its process."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from inspect import unwrap
from random import Random
from typing import Any, NoReturn

from .._arguments import (
    as_iterator,
    check_callback,
    check_count,
    check_flag,
    check_int,
    check_seconds,
    check_text,
    is_of,
)
from .._runtime.deadline import Deadline
from .._values.shown import name_of, short
from ..errors import InvalidOptionError
from ..event_types import EventTypes, class_of_events
from ..events import Event
from ..handler_arguments import as_called
from ..stores.consumers.handlers import OF_A_CONSUMER
from ..stores.projections.base import Database
from ..stores.projections.projection import check_database
from ..worker.idempotence import HandledOnce
from ._committing import committing
from ._histories import Fate, Plan, Step, parsed, random_history, single_faults
from ._lines import own_code
from ._playing import Player
from ._report import reported, told
from ._shrinking import Found, shortened
from ._stage import Stage
from ._trials import Outcome, Trials, World, are_equal

__all__ = ["Survival", "assert_survives"]

_LEAST = 25  # histories with a single fault that are played however long they take: a few of each kind
_AGAIN = 3  # times that a history which has failed is played again
_MOST_EVENTS = 1_000  # of a test: as many as are stored at once


@dataclass(frozen=True, slots=True)
class Survival:
    """What a handler has survived. :func:`assert_survives` returns it.

    Attributes:
        histories: How many histories were played.
        complete: Whether each history with a single fault was among them. False says that ``histories`` or ``seconds``
            were too few for that. If it is the seconds, there is a warning as well.
    """

    histories: int
    complete: bool


def assert_survives(
    handler: Callable[..., object],
    events: Iterable[Event | tuple[str, object]],
    *,
    state: Callable[[], Any],
    reset: Callable[[], object] | None = None,
    restart: Callable[[], object] | None = None,
    types: EventTypes | None = None,
    keep_order: bool = True,
    kill: bool = False,
    histories: int = 200,
    seconds: float = 5.0,
    seed: int = 0,
    replay: str = "",
    idempotent: Database | None = None,
) -> Survival:
    """See that a handler comes to the same state, however its events are delivered.

    The handler is called with events that a real server delivers: first undisturbed, in the order of the store; then in
    many other histories, in which events come twice, at once or late, acknowledgements are lost, the process dies
    before a delivery, within the handler, before and after an acknowledgement, the server restarts, and the events of
    different actors overtake each other. Histories with one fault come first, then random ones with up to three. The
    first one after which ``state()`` returns something else is shortened and reported.

    The handler is called on the calling thread, by one call at a time: races between threads are not looked for.

    Args:
        handler: Called as :meth:`Worker.consume` calls it: with the :class:`Delivery`, or with what its annotations ask
            for, the :class:`Event` and, with ``types``, its typed value. It may raise, and is called again later, up to
            five times for an event.
        events: What is delivered, 1 to 1,000: events, of which those without a version are numbered, or with ``types``
            also pairs of an actor's id and a value. The fewer they are, the more of their histories are tried: two
            actors with three events each are a good beginning.
        state: Returns what the handler has brought about, such as the rows of a table. It is compared by ``==``: leave
            out what may differ, such as times, and sort what may have any order.
        reset: Called before each run: it brings all that ``state()`` reads back to how it is before the first event.
            None if nothing has to be done, because the handler runs in other processes, say.
        restart: Called when a process starts, which is before each run, and after each death. Let it do what a new
            process does: forget what it has in memory, and open connections.
        types: The classes of the events, as for a store.
        keep_order: Whether the events of one actor come in order, as in one process, but for those that come again.
            False lets later ones come before earlier ones, as may happen after the death of a process, and with several
            processes.
        kill: How a process dies. False raises an exception in the handler which is no ``Exception``, so that only
            ``finally``, ``with`` and a bare ``except`` take notice. It is quick, and ``state()`` may look at objects in
            memory, which stand for what is outside. True runs the handler in forked processes that end by SIGKILL:
            nothing in memory survives, and ``state()``, which is called in this process, has to read what is outside.
            Connections that were opened before must not be used by the handler then.
        histories: How many histories are played at most.
        seconds: For how long new histories are begun, and then for how long one that fails is shortened. 25 histories
            with a single fault are played however long they take, as far as there are so many: on a busy machine, too,
            each kind of fault is among them. If the time is over before all of these were played, and ``histories``
            would allow them, a ``UserWarning`` says what to raise.
        seed: Chooses the random histories. The same number chooses the same ones.
        replay: A history of a report. Only this one is played, and it is not shortened.
        idempotent: The database of :meth:`Worker.consume`, if the handler runs with that: it is called with the
            database first, in a transaction that also notes the event, and not called for an event that has a note. The
            process may also die between the handler and the commit. A few rows per run are left in the table
            ``aether_handled``.

    Returns:
        How much was tried.

    Raises:
        AssertionError: The handler does not survive a history, which the text tells; or it fails in an undisturbed run.
        InvalidOptionError: An argument is wrong; or two undisturbed runs come to different states; or nothing that
            ``state()`` shows is changed by the events.
        DeadlineExceededError: An event did not come again, or a process did not end.
        ServerNotFoundError: There is no nats-server; the extra ``server`` brings one.
    """
    __tracebackhide__ = True
    class_of_events(types)  # which refuses anything else
    given = _numbered(events, types)
    name, kinds = name_of(handler), frozenset(one.event_type for one in given)
    database = None if idempotent is None else check_database("idempotent", idempotent)
    before = "" if database is None else "the database"
    call = as_called(handler, f"the handler {name}", OF_A_CONSUMER, types, kinds, before=before)
    once = None if database is None else HandledOnce(database, committing(call), _nothing)
    home = _module_of(handler)
    for what, function in (("state", state), ("reset", reset), ("restart", restart)):
        if function is not None or what == "state":
            check_callback(what, function)
    search = _Search(
        name=name.removeprefix(f"{home}.").rpartition("<locals>.")[2],
        events=given,
        is_killed=check_flag("kill", kill),
        keeps_order=check_flag("keep_order", keep_order),
        most=check_count("histories", histories),
        seconds=check_seconds("seconds", seconds),
        seed=check_int("seed", seed, 0),
        is_once=once is not None,
    )
    replayed = check_text("replay", replay)
    steps = parsed(replayed, len(given)) if replayed else []
    modules = home, str(sys._getframe(1).f_globals.get("__name__", ""))
    packages = frozenset(one.partition(".")[0] for one in modules)
    with Stage(given, types, search.is_killed) as stage, ExitStack() as end:
        starts = [restart or _nothing]
        if once is not None:
            starts.insert(0, once.disconnect)  # as a process that dies does
            end.callback(once.disconnect)
        world = World(state, reset or _nothing, lambda: [start() for start in starts])
        return search.run(stage, Player(once or call, own_code(packages)), world, steps)


def _nothing() -> None:
    pass


def _module_of(handler: Any) -> str:
    """Return the module of the function that a handler comes down to, if it is a partial, a wrapper or an object."""
    while is_of(handler, partial):
        handler = handler.func
    return str(getattr(unwrap(handler), "__module__", ""))


def _numbered(events: object, types: EventTypes | None) -> list[Event]:
    """Return the events of a test, each with a version."""
    iterator: Iterator[Any] | None = None if is_of(events, str) else as_iterator(events)  # type: ignore[arg-type]
    if iterator is None:
        raise InvalidOptionError(f"events must be an iterable of events, not {short(events)}")
    versions: Counter[str] = Counter()
    found = []
    for given in iterator:
        event = _event_of(given, types)
        versions[event.actor_id] = event.version or versions[event.actor_id] + 1
        found.append(event.replace(version=versions[event.actor_id]))
        if len(found) > _MOST_EVENTS:
            raise InvalidOptionError(f"events must be at most {_MOST_EVENTS:,}: a few show more, as more is tried")
    if not found:
        raise InvalidOptionError("events must be at least one event")
    return found


def _event_of(given: object, types: EventTypes | None) -> Event:
    if is_of(given, Event):
        return given
    if is_of(given, tuple) and len(given) == 2 and types is not None:
        return types.to_event(given[1], actor_id=given[0])
    wanted = "an Event" if types is None else "an Event, or a pair of an actor's id and a value"
    raise InvalidOptionError(f"each of the events must be {wanted}, not {short(given)}")


@dataclass(frozen=True)
class _Search:
    """Looks for a history that a handler does not survive; the attributes are as for :func:`assert_survives`."""

    name: str
    events: list[Event]
    is_killed: bool
    keeps_order: bool
    most: int
    seconds: float
    seed: int
    is_once: bool

    def run(self, stage: Stage, player: Player, world: World, replayed: list[Step]) -> Survival:
        __tracebackhide__ = True
        actors, kinds = (tuple(getattr(one, name) for one in self.events) for name in ("actor_id", "event_type"))
        plan = Plan(actors, kinds, ((),) * len(actors), self.keeps_order, restarts_server=not self.is_killed)
        every = frozenset(range(plan.count))
        trials = Trials(stage, plan, player, world)
        usual = self._look_at_usual(trials, player, world, every)
        visits = {visit.step.event: visit for visit in usual.visits}  # of each event the last one
        last = [visits[event] for event in range(plan.count)]
        plan = replace(plan, lines=tuple(one.lines for one in last), parts=tuple(one.parts for one in last))
        if replayed:
            if not plan.restarts_server:  # to the handler it is as if the acknowledgement were lost
                replayed = [one._replace(fate=Fate.LOST) if one.fate is Fate.SERVER else one for one in replayed]
            return self._replay(trials, replayed)
        return self._look_for_failure(trials, plan, every)

    def _look_at_usual(self, trials: Trials, player: Player, world: World, every: frozenset[int]) -> Outcome:
        """Run the handler twice undisturbed, and return what comes of it, with the lines that run for each event."""
        __tracebackhide__ = True
        states: list[Any] = [trials.initial]
        errors: list[BaseException] = []
        watched = player._replace(errors=errors)
        if not self.is_killed:  # else the handler runs elsewhere
            watched = watched._replace(on_visit=lambda: states.append(world.look()))
        first = trials.undisturbed(every, watched)
        if first.failure:
            raise AssertionError(f"{self.name} fails in an undisturbed run: {first.failure}") from _last(errors)
        refused = next((one.error for one in first.visits if one.error and one.settled == "rejected"), "")
        if refused and self.is_once:
            raise AssertionError(f"{self.name} fails in an undisturbed run: {refused}") from _last(errors)
        if all(are_equal(one, trials.initial) for one in (*states, first.state)):
            raise InvalidOptionError(_no_change(trials.initial, self.is_killed))
        second = trials.undisturbed(every, player._replace(counts_lines=True))
        if second.failure or not are_equal(first.state, second.state):
            raise InvalidOptionError(
                f"state() returned {short(first.state)} after one undisturbed run, and {short(second.state)} after "
                "another one, so there is nothing to compare with: leave out what differs, such as times and new ids"
            )
        return second

    def _replay(self, trials: Trials, steps: list[Step]) -> Survival:
        __tracebackhide__ = True
        wanted = frozenset(step.event for step in steps)
        errors: list[BaseException] = []
        outcome = trials.disturbed(wanted, steps, errors)
        if trials.fails(wanted, outcome):
            raise AssertionError(self._report((wanted, outcome), trials, "")) from _last(errors)
        return Survival(1, complete=False)

    def _look_for_failure(self, trials: Trials, plan: Plan, every: frozenset[int]) -> Survival:
        __tracebackhide__ = True
        deadline = Deadline(self.seconds)
        singles, is_complete = single_faults(plan), False
        random = Random(self.seed)
        while trials.count < self.most and (deadline.remaining() or (trials.count < _LEAST and not is_complete)):
            steps = next(singles, None)
            if steps is None:
                is_complete, steps = True, random_history(plan, random)
            outcome = trials.disturbed(every, steps)
            if trials.fails(every, outcome):
                self._shorten_and_raise((every, outcome), trials)
        survival = Survival(trials.count, complete=is_complete or next(singles, None) is None)
        if not survival.complete and trials.count < self.most:
            warnings.warn(
                f"{self.name} has survived {trials.count} histories in {self.seconds:g} s, and there are more with a "
                f"single fault: raise seconds=, or say by histories={trials.count} that these are enough",
                stacklevel=4,
            )
        return survival

    def _shorten_and_raise(self, found: Found, trials: Trials) -> NoReturn:
        __tracebackhide__ = True
        number, deadline = trials.count, Deadline(self.seconds)
        found = shortened(found, trials, lambda: bool(deadline.remaining()))
        _, outcome = found
        errors: list[BaseException] = []
        about = f"\n(It is made of history {number} of at most {self.most}, seed {self.seed}.)"
        failed = sum(self._fails_again(outcome, trials, errors) for _ in range(_AGAIN))
        if failed < _AGAIN:
            often = f"fail {failed} of {_AGAIN} times" if failed else "not fail"
            about = (
                f"\nWhen it was played again, it did {often}: the handler, or state(), depends on something else, such "
                f"as the time, a thread or chance.{about}"
            )
        raise AssertionError(self._report(found, trials, about)) from _last(errors)

    def _fails_again(self, outcome: Outcome, trials: Trials, errors: list[BaseException]) -> bool:
        """Play a history once more as ``replay=`` plays what the report tells; return whether it fails."""
        steps = told(outcome.visits)
        wanted = frozenset(step.event for step in steps)
        return trials.fails(wanted, trials.disturbed(wanted, steps, errors))

    def _report(self, found: Found, trials: Trials, about: str) -> str:
        wanted, outcome = found
        return reported(self.name, self.events, trials.undisturbed(wanted), outcome, about, is_once=self.is_once)


def _last(errors: list[BaseException]) -> BaseException | None:
    """Return what the handler has raised last, for the traceback."""
    return errors[-1] if errors else None


def _no_change(initial: object, is_killed: bool) -> str:
    text = f"state() returned {short(initial)} before the first event, and the same afterwards, so it shows nothing"
    if is_killed:
        return f"{text}: with kill=True the handler runs in other processes, so let state() read a file or a database"
    return f"{text}: let it return what the handler changes"
