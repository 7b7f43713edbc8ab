"""Tests of decisions without a store: given what has happened, when something is decided, then these events follow."""

import difflib
import re
from collections.abc import Callable, Iterable
from typing import Any, Generic, TypeVar, TypeVarTuple

from .._arguments import is_of
from .._values.shown import explained, short
from ..errors import InvalidEventError, InvalidOptionError
from ..event_types import EventTypes, class_of_events
from ..events import Event
from ._decisions import as_events, as_read, check_decision, refuse_change, values_of
from ._evolution import Evolution, name_of, picture

__all__ = ["Given", "Scenarios", "When"]

State = TypeVar("State")
Raised = TypeVar("Raised", bound=BaseException)
Ts = TypeVarTuple("Ts")

_ACTOR = "actor-1"  # in whose name events are made of values
_WIDTH = 100  # characters of a line, beyond which a value is shown field by field


class Scenarios(Generic[State]):
    """Tests decisions without a store. A :class:`Repository` has :meth:`given` too.

    Args:
        initial: Returns the state of an actor without events; a class will do.
        evolve: Returns the state after an event, as for :class:`Repository`.
        types: The classes of the events, if the store of the program has them: then values are written as JSON and read
            again, as the store does. None gives them to ``evolve`` as they are.

    Raises:
        InvalidOptionError: An argument is wrong.
    """

    def __init__(
        self,
        *,
        initial: Callable[[], State],
        evolve: Callable[[State, Any], State],
        types: EventTypes | None = None,
    ) -> None:
        class_of_events(types)  # which refuses anything else
        self._evolution = Evolution(initial, evolve, types)

    def given(self, *values: object) -> "Given[State]":
        """Begin with what has happened before.

        Args:
            *values: The events of an actor, in order: values of their classes, or ``Event`` objects, whose versions do
                not matter; none for a new actor.

        Raises:
            InvalidEventError: A value cannot be an event.
            InvalidOptionError: ``evolve`` has changed the state that it was given, or returned None. This is checked
                for each event here.
        """
        return Given(self._evolution, values)


class Given(Generic[State]):
    """What has happened. :meth:`Scenarios.given` and :meth:`Repository.given` return it.

    Attributes:
        state: The state after that.
    """

    def __init__(self, evolution: Evolution[State], values: tuple[object, ...]) -> None:
        __tracebackhide__ = True
        self._evolution = evolution
        self._seen = _seen(evolution, _one_by_one("given", values), 0)
        self.state = _folded(evolution, evolution.begin(), self._seen)

    def when(self, decision: Callable[[State, *Ts], object], *args: *Ts) -> "When[State]":
        """Decide, as :meth:`Repository.decide` does. Nothing is checked before ``then()`` or its kin is called.

        Args:
            decision: The function that decides.
            *args: Its arguments after the state.

        Raises:
            InvalidOptionError: ``decision`` cannot be called.
        """
        check_decision(decision)
        return When(self._evolution, self.state, len(self._seen), decision, args)


class When(Generic[State]):
    """A decision that was made. :meth:`Given.when` returns it."""

    def __init__(
        self,
        evolution: Evolution[State],
        state: State,
        version: int,
        decision: Callable[..., object],
        args: tuple[object, ...],
    ) -> None:
        self._evolution = evolution
        self._state = state
        self._version = version
        self._name = name_of(decision)
        self._values: list[object] = []
        self._error: Exception | None = None
        before = picture(state)
        try:
            self._values = values_of(decision(state, *args), decision)
        except Exception as error:  # then_raises() compares it; all others raise it
            self._error = error
        try:
            refuse_change(state, before, decision)
        except InvalidOptionError as error:
            self._error = error

    def then(self, *values: object) -> State:
        """See that these events were decided, and no others, in this order.

        Events of classes are compared by ``==``, ``Event`` objects by their type, actor and data.

        Args:
            *values: The events that are expected, as for ``given()``.

        Returns:
            The state after them.

        Raises:
            AssertionError: Others were decided; the text shows the difference.
            Exception: What the decision has raised.
        """
        __tracebackhide__ = True
        if self._error is not None:
            raise self._error
        seen = _seen(self._evolution, self._values, self._version)
        wanted = _seen(self._evolution, _one_by_one("then", values), self._version)
        if [_compared(one) for one in seen] != [_compared(one) for one in wanted]:
            raise AssertionError(f"the decision {self._name} returned other events:\n{_difference(wanted, seen)}")
        return _folded(self._evolution, self._state, seen)

    def then_nothing(self) -> State:
        """See that no event was decided; as :meth:`then` without values.

        Returns:
            The state, which is as it was.
        """
        __tracebackhide__ = True
        return self.then()

    def then_raises(self, kind: type[Raised], match: str | None = None) -> Raised:
        """See that the decision has raised an error.

        Args:
            kind: Its class, or a base class of it.
            match: A regular expression that is looked for in its text; None for any text.

        Returns:
            The error.

        Raises:
            AssertionError: It has returned, or raised another error, which is the cause; or the text does not match.
            InvalidOptionError: ``kind`` is no class of errors, or ``match`` no regular expression.
        """
        __tracebackhide__ = True
        if not (is_of(kind, type) and issubclass(kind, BaseException)):
            raise InvalidOptionError(f"then_raises() takes a class of errors such as ValueError, not {short(kind)}")
        if match is not None and not is_of(match, str):
            raise InvalidOptionError(f"match must be a regular expression, a str, not {short(match)}")
        try:
            pattern = None if match is None else re.compile(str.__str__(match))
        except re.error as wrong:
            raise InvalidOptionError(f"match must be a regular expression: {explained(wrong)}") from None
        error = self._error
        if error is None:
            lines = _lines(_seen(self._evolution, self._values, self._version)) or ["nothing"]
            given = "".join(f"\n  {line}" for line in lines)
            raise AssertionError(f"the decision {self._name} did not raise {kind.__name__}, and returned:{given}")
        if not is_of(error, kind):
            raise AssertionError(
                f"the decision {self._name} did not raise {kind.__name__}, but {explained(error)}"
            ) from error
        if pattern is not None and not pattern.search(str(error)):
            raise AssertionError(
                f"the decision {self._name} raised {kind.__name__} with another text:\n- {match}\n+ {error}"
            ) from error
        return error


# -- what evolve is given


def _one_by_one(name: str, values: tuple[object, ...]) -> tuple[object, ...]:
    """Refuse a list of events in place of events."""
    for one in values:
        if type(one) in (list, tuple):  # a NamedTuple may be an event
            raise InvalidEventError(f"{name}() takes events one by one, and was given {short(one)}: {name}(*events)")
    return values


def _seen(evolution: Evolution[Any], values: Iterable[object], version: int) -> list[Any]:
    """Return values as ``evolve`` is given them when they are read from a store, the first after a version."""
    __tracebackhide__ = True
    if evolution.types is None:
        values = list(values)
        events = [one for one in values if is_of(one, Event)]
        if len(events) < len(values):
            return values  # there is no store whose events they could be
    else:
        events = [one if is_of(one, Event) else _made_of(one, evolution.types) for one in values]
    unnumbered = [one.replace(version=0) for one in events]
    return [evolution.value_of(one) for one in as_read(unnumbered, version)]


def _made_of(value: object, types: EventTypes) -> Event:
    __tracebackhide__ = True
    (event,) = as_events([value], _ACTOR, "", types, _made_of)
    return event


def _folded(evolution: Evolution[State], state: State, seen: Iterable[Any]) -> State:
    __tracebackhide__ = True
    for value in seen:
        name = value.event_type if is_of(value, Event) else type(value).__name__
        state = evolution.step(state, value, name)
    return state


# -- how they are compared and shown


def _compared(value: Any) -> object:
    return (Event, value.event_type, value.actor_id, value.data) if is_of(value, Event) else value


def _difference(wanted: list[Any], seen: list[Any]) -> str:
    """Return both line by line: with a minus what is missing, with a plus what is too much."""
    lines = difflib.ndiff(_lines(wanted), _lines(seen))
    return "\n".join(["- expected", "+ returned", "", *(line.rstrip("\n") for line in lines)])


def _lines(values: Iterable[Any]) -> list[str]:
    return [line for value in values for line in _lines_of(value)]


def _lines_of(value: Any) -> list[str]:
    if is_of(value, Event):
        return [f"Event({value.event_type!r} of {value.actor_id!r}, {value.data!r})"]
    text = repr(value)
    if len(text) <= _WIDTH and "\n" not in text:
        return [text]
    names = getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None)
    if names is None and is_of(value, dict):
        return ["{", *(f"    {key!r}: {one!r}," for key, one in value.items()), "}"]
    if names is None:
        return text.splitlines()
    return [f"{type(value).__name__}(", *(f"    {name}={getattr(value, name)!r}," for name in names), ")"]
