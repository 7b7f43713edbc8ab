"""``Evolution``: makes the state of an actor of its events, by the two functions of the user, which are checked.

``evolve`` must return a new state and leave its argument as it is: what a decision was given would change under it
otherwise. To compare the argument before and after each call costs more than the call. Therefore that is done for the
first event of each type, and in tests (``scenario``) for every event.
"""

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any, Generic, TypeVar

import msgspec

from .._arguments import check_callback
from .._values.shown import short
from ..errors import InvalidOptionError
from ..event_types import EventTypes
from ..events import Event

__all__ = ["Evolution", "is_changed", "name_of", "picture"]

State = TypeVar("State")

_LARGEST = 1_000  # objects of the user's own classes in a state, beyond which it is not compared


class Evolution(Generic[State]):
    """Makes states of events. Any thread may use it.

    Attributes:
        types: The classes of the events, or None.
        value_of: Returns what ``evolve`` is given for an event.

    Args:
        initial: Returns the state of an actor without events.
        evolve: Returns the state after an event.
        types: The classes of the events; None if ``evolve`` is given plain events.

    Raises:
        InvalidOptionError: ``initial`` or ``evolve`` cannot be called so.
    """

    def __init__(
        self, initial: Callable[[], State], evolve: Callable[[State, Any], State], types: EventTypes | None
    ) -> None:
        check_callback("initial", initial)
        check_callback("evolve", evolve, "a state", "an event")
        self.types = types
        self.value_of: Callable[[Event], Any] = _itself if types is None else types.value_of
        self._initial = initial
        self._evolve = evolve
        self._checked: set[str] = set()  # types of events of which the first was looked at; single operations only

    def begin(self) -> State:
        """Return the state of an actor without events.

        Raises:
            InvalidOptionError: It is None.
        """
        state = self._initial()
        if state is None:
            raise InvalidOptionError(f"initial, {name_of(self._initial)}, returned None: let it return the first state")
        return state

    def fold(self, state: State, events: Iterable[Event]) -> State:
        """Return the state after some events. An error of ``evolve`` itself is given a note that names the event.

        Raises:
            InvalidOptionError: ``evolve`` has returned None, or changed its argument.
            EventTypeError: An event does not have the value that its type says.
        """
        evolve, value_of, checked = self._evolve, self.value_of, self._checked
        at: Event | None = None
        try:
            for at in events:
                value = value_of(at)
                if at.event_type in checked:
                    state = self._not_none(evolve(state, value), at.event_type)
                else:
                    state = self.step(state, value, at.event_type)
                    checked.add(at.event_type)
        except Exception as error:
            if at is not None:
                what = f"version {at.version} of actor {short(at.actor_id)}, of type {short(at.event_type)}"
                error.add_note(f"It is about the event of {what}.")
            raise
        return state

    def step(self, state: State, value: Any, name: str) -> State:
        """Return the state after one value, and see that ``evolve`` does not change the state that it is given.

        Args:
            state: The state before.
            value: What ``evolve`` is given.
            name: The type of the event, for the error.
        """
        before = picture(state)
        after = self._not_none(self._evolve(state, value), name)
        if is_changed(state, before):
            raise InvalidOptionError(
                f"evolve, {name_of(self._evolve)}, changed the state that it was given with the event type "
                f"{short(name)}: let it return a new one, as by dataclasses.replace()"
            )
        return after

    def _not_none(self, state: State, name: str) -> State:
        if state is None:
            raise InvalidOptionError(
                f"evolve, {name_of(self._evolve)}, returned None for the event type {short(name)}: let it return the "
                "new state, which is the old one if nothing changes"
            )
        return state


def _itself(event: Event) -> Event:
    return event


def picture(state: object) -> bytes | None:
    """Return what can be compared with a later picture of the same object; None if msgspec cannot look into it."""
    seen: set[int] = set()  # ids of objects that msgspec does not know, each of which is looked into once

    def parts_of(one: object) -> dict[str, Any] | None:
        if id(one) in seen:
            return None
        seen.add(id(one))
        if len(seen) > _LARGEST:
            raise OverflowError
        kind = type(one)
        return {name: part for name, part in vars(one).items() if not _is_computed(kind, name)}

    try:
        return msgspec.json.encode(state, enc_hook=parts_of)
    except Exception:  # such as objects with slots, a cycle, or what a property of the user's raises
        return None


def _is_computed(kind: type, name: str) -> bool:
    """Whether an attribute of objects of a class is what a ``cached_property`` has computed of the others, and kept."""
    for each in kind.__mro__:
        if name in vars(each):
            return isinstance(vars(each)[name], cached_property)
    return False


def is_changed(state: object, before: bytes | None) -> bool:
    """Whether an object is known to have changed since a picture of it."""
    now = picture(state)
    return now is not None and before is not None and now != before


def name_of(function: object) -> str:
    """Return the name of a function of the user's, for messages."""
    try:
        name = getattr(function, "__qualname__", None) or getattr(type(function), "__qualname__", "")
        return f"{name}()" if type(name) is str and name.isprintable() and len(name) <= 80 else short(function)
    except Exception:
        return short(function)
