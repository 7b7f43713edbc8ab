"""What a decision returns, checked and turned into events."""

from collections.abc import Mapping
from itertools import islice
from typing import Any

from .._arguments import is_mapping, is_of
from .._codec.decoding import decode_event
from .._codec.encoding import encode_event
from .._values.shown import short
from ..errors import InvalidEventError, InvalidOptionError
from ..event_types import EventTypes
from ..events import Event
from ..stores._checks import BATCH_LIMIT, check_actor_id, numbered
from ._evolution import is_changed, name_of

__all__ = ["as_events", "as_read", "by_actor", "check_command_id", "check_decision", "refuse_change", "values_of"]

_TEXTS = (str, bytes, bytearray, memoryview)
_UNORDERED = (set, frozenset)


def check_decision(decision: object) -> None:
    """Refuse what cannot be called. Whether it takes the arguments, it says itself."""
    if not callable(decision):
        raise InvalidOptionError(
            f"a decision is a function that is called with the state and returns events, not {short(decision)}"
        )


def check_command_id(command_id: object) -> str:
    """Return the id of a command as a plain str; "" if there is none."""
    if not is_of(command_id, str):
        raise InvalidOptionError(f'command_id must be a str, or "" for none, not {short(command_id)}')
    return str.__str__(command_id)


def values_of(decided: object, decision: object) -> list[object]:
    """Return what a decision has returned as a list. An iterator is used up here, so its code runs here as well.

    Raises:
        InvalidEventError: It is something that cannot be events.
    """
    if decided is None:
        return []
    kind = type(decided)
    if kind in (list, tuple) or (issubclass(kind, list) and not issubclass(kind, _TEXTS)) or hasattr(kind, "__next__"):
        values = list(islice(decided, BATCH_LIMIT + 1))  # type: ignore[call-overload]
        for one in values:
            if is_of(one, type):
                raise _of_a_class(one, decision)
        return values
    if is_of(decided, type):
        raise _of_a_class(decided, decision)
    wrong = ""
    if hasattr(kind, "__await__") or hasattr(kind, "__aiter__"):
        wrong = "it must be a plain function, and no `async def`"
        if hasattr(kind, "__await__") and hasattr(kind, "close"):
            decided.close()  # type: ignore[attr-defined]  # or Python warns that it was never awaited
    elif issubclass(kind, _TEXTS):
        wrong = "an event is an object of its own class, or an Event"
    elif issubclass(kind, _UNORDERED):
        wrong = "a set has no order; return a list"
    elif issubclass(kind, Mapping):
        wrong = "an event is an object of its own class, or an Event; types.to_event() makes one of a TypedDict"
    if wrong:
        raise InvalidEventError(f"the decision {name_of(decision)} returned {short(decided)}: {wrong}")
    return [decided]


def refuse_change(state: object, before: bytes | None, decision: object) -> None:
    """Refuse a decision that is known to have changed the state that it was given.

    Args:
        state: The state.
        before: A picture of it, of before.
        decision: The function.

    Raises:
        InvalidOptionError: It has.
    """
    if is_changed(state, before):
        raise InvalidOptionError(
            f"the decision {name_of(decision)} changed the state that it was given: let it return events, of which "
            "evolve makes the new state"
        )


def _of_a_class(decided: type, decision: object) -> InvalidEventError:
    name = decided.__name__
    return InvalidEventError(
        f"the decision {name_of(decision)} returned the class {name}: let it return an object of it, {name}(...)"
    )


def by_actor(decided: object, decision: object, actor_ids: tuple[str, ...]) -> dict[str, list[object]]:
    """Return what a decision on several actors has returned, by actor, without those that nothing was decided for.

    Raises:
        InvalidEventError: It is not a mapping, or names an actor that the decision was not given.
    """
    if decided is None:
        return {}
    if not is_mapping(decided):
        if hasattr(type(decided), "__await__"):
            values_of(decided, decision)  # which says what is wrong
        raise InvalidEventError(
            f"the decision {name_of(decision)} on several actors returned {short(decided)}: let it return a dict, from "
            "the id of each actor to its new events"
        )
    found: dict[str, list[object]] = {}
    for actor_id, its in decided.items():
        if actor_id not in actor_ids:
            raise InvalidEventError(
                f"the decision {name_of(decision)} returned events of actor {short(actor_id)}, which it was not given: "
                "name it in decide_together()"
            )
        values = values_of(its, decision)
        if values:
            found[check_actor_id(actor_id)] = values
    return found


def as_events(
    values: list[object], actor_id: str, command_id: str, types: EventTypes | None, decision: object
) -> list[Event]:
    """Return new events of an actor, without versions, each with the id of the command.

    Raises:
        InvalidEventError: A value cannot be an event of this actor.
        EncodingError: A value holds something that cannot be written as JSON.
    """
    return [_as_event(value, actor_id, command_id, types, decision) for value in values]


def _as_event(value: Any, actor_id: str, command_id: str, types: EventTypes | None, decision: object) -> Event:
    if not is_of(value, Event):
        if types is None:
            raise InvalidEventError(
                f"the decision {name_of(decision)} returned {short(value)}, and the store has no types: give it "
                "types=EventTypes(...), or return an Event"
            )
        return types.to_event(value, actor_id=actor_id, command_id=command_id)
    wrong = ""
    if value.actor_id != actor_id:
        wrong = f"an event of actor {short(value.actor_id)}"
    elif value.version:
        wrong = f"an event of version {value.version}, which is left out, as it is numbered when it is stored"
    elif command_id and value.command_id not in ("", command_id):
        wrong = (
            f"an event with the command id {short(value.command_id)}, and decides on the command {short(command_id)}"
        )
    if wrong:
        raise InvalidEventError(f"the decision {name_of(decision)} on actor {short(actor_id)} returned {wrong}")
    return value.replace(command_id=command_id) if command_id else value


def as_read(events: list[Event], version: int) -> list[Event]:
    """Return events as everybody will read them when they are stored after a version of their actor.

    Raises:
        EncodingError: An event holds something that cannot be written as JSON.
    """
    return [decode_event(encode_event(event), "") for event in numbered(events, version)]
