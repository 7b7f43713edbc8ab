"""What a handler asks for by its annotations: the event, its typed value, the delivery. It is checked once, before.

The rule is the same wherever a handler is given: to a worker, a bus, a consumer, or ``assert_survives()``. A function
with one parameter without an annotation, or with ``*args`` alone, gets what is natural there: the event of a bus, or
the delivery of a consumer. What has a default and asks for nothing that there is keeps its default.
"""

import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from operator import attrgetter
from typing import Any, NamedTuple

from ._arguments import check_plain_function, is_mock_of_function, is_of
from ._values.shown import explained, short
from .errors import InvalidOptionError
from .event_types import EventTypes
from .events import Event

__all__ = ["OF_A_BUS", "OF_NOTHING", "Asked", "Source", "as_called"]

Getter = Callable[[Any], object]

_GIVEN = inspect.Parameter("given", inspect.Parameter.POSITIONAL_ONLY)  # of a function that does not tell its own


class Asked(Enum):
    """What a parameter asks for."""

    EVENT = "the event"
    VALUE = "its typed value"
    DELIVERY = "the delivery"


@dataclass(frozen=True, slots=True)
class Source:
    """What there is to give.

    Attributes:
        what: What the function is called with, in words.
        getters: How each thing is got from what the function is called with; None if it is that itself.
        natural: What a parameter without an annotation gets; None if there is nothing.
        delivery: The class of deliveries, if the function is called with one.
    """

    what: str
    getters: Mapping[Asked, Getter | None]
    natural: Asked | None
    delivery: type | None = None


OF_A_BUS = Source("an Event", {Asked.EVENT: None, Asked.VALUE: attrgetter("value")}, Asked.EVENT)
OF_NOTHING = Source("nothing", {}, None)


class _Parameter(NamedTuple):
    """A parameter that gets something.

    Attributes:
        name: Its name.
        is_named: Whether it is given by its name.
        asked: What it gets.
    """

    name: str
    is_named: bool
    asked: Asked


def as_called(
    function: Any,
    about: str,
    source: Source,
    types: EventTypes | None,
    wanted: frozenset[str] = frozenset(),
    *,
    before: str = "",
    may_ask_nothing: bool = False,
) -> Callable[..., Any]:
    """Return a function that calls the user's with what it asks for.

    Args:
        function: The user's.
        about: How errors call it, such as ``"the handler shop.send of consumer 'mailer'"``.
        source: What there is to give.
        types: The classes of the events, if they are known.
        wanted: The names of the event types that come; none if all do.
        before: What comes before all that is asked for, as the first argument, in words; "" for nothing.
        may_ask_nothing: Whether the function may ask for nothing.

    Returns:
        A function of that argument and of what the source says.

    Raises:
        InvalidOptionError: It cannot be called so. The error says what to do.
    """
    check_plain_function(about, function, f"with {source.what}")
    number = int(bool(before))
    parameters = _parameters_of(function, about)
    reader = _Reader(about, source, types, wanted)
    if before:
        reader.refuse_first(parameters[:1], before)
    asked = reader.read(parameters[number:])
    if not asked and source.getters and not may_ask_nothing:
        choice = f"{before}, and then {_choice(source, types)}" if before else _choice(source, types)
        raise InvalidOptionError(f"{about} must take {choice}, and {short(function)} does not")
    _refuse_unfit(function, about, number, asked)
    return _compiled(function, source, asked, number)


def _parameters_of(function: Any, about: str) -> list[inspect.Parameter]:
    """Return the parameters of a function; of a decorated one those of the wrapper, unless that takes anything."""
    if is_mock_of_function(function):
        return [_GIVEN]
    try:
        own = list(inspect.signature(function, eval_str=True, follow_wrapped=False).parameters.values())
        takes_anything = all(one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD) for one in own)
        return list(inspect.signature(function, eval_str=True).parameters.values()) if takes_anything else own
    except ValueError:  # a builtin function without a signature: it is called with what is natural
        return [_GIVEN]
    except NameError as error:
        raise InvalidOptionError(
            f"{about}: an annotation cannot be read, as {error}: import that name at the top of the module "
            "in which the function is defined"
        ) from error
    except Exception as error:  # an annotation, or an object of the user's, raises anything
        raise InvalidOptionError(f"{about}: its parameters cannot be read: {explained(error)}") from error


class _Reader:
    """Reads what parameters ask for."""

    def __init__(self, about: str, source: Source, types: EventTypes | None, wanted: frozenset[str]) -> None:
        self._about = about
        self._source = source
        self._types = types
        self._wanted = wanted

    def read(self, parameters: list[inspect.Parameter]) -> list[_Parameter]:
        found: list[_Parameter] = []
        bare: list[inspect.Parameter] = []
        has_passed = False  # over one that keeps its default: those behind it are given by their names
        for one in parameters:
            if one.kind in (one.VAR_POSITIONAL, one.VAR_KEYWORD):
                continue
            has_default = one.default is not one.empty
            is_bare = one.annotation in (one.empty, Any, object)
            asked = None if is_bare else self._asked_by(one, has_default)
            if asked is not None and not (has_passed and one.kind is one.POSITIONAL_ONLY):
                found.append(_Parameter(one.name, has_passed or one.kind is one.KEYWORD_ONLY, asked))
            elif has_default:
                has_passed = True
            else:
                bare.append(one)
        if bare:
            found.append(self._natural(bare, found))
        takes_any = any(one.kind is one.VAR_POSITIONAL for one in parameters)
        if not found and takes_any and self._source.natural is not None:
            found.append(_Parameter("", False, self._source.natural))
        return found

    def refuse_first(self, parameters: list[inspect.Parameter], before: str) -> None:
        """Refuse a first parameter that asks for something, where another thing is given first."""
        for one in parameters:
            kinds = _kinds_of(one.annotation)
            if kinds in ((self._source.delivery,), (Event,)) or (self._types and all(map(self._is_registered, kinds))):
                raise self._error(one, f"is annotated with {_shown(one.annotation)}, and the first one gets {before}")

    def _natural(self, bare: list[inspect.Parameter], found: list[_Parameter]) -> _Parameter:
        one, natural = bare[0], self._source.natural
        if natural is None:
            raise self._error(one, "has no default, and there is nothing to give: the function is called without")
        if len(bare) > 1 or found:
            raise self._error(one, f"has no annotation: give it {_choice(self._source, self._types)}")
        return _Parameter(one.name, one.kind is one.KEYWORD_ONLY, natural)

    def _asked_by(self, parameter: inspect.Parameter, has_default: bool) -> Asked | None:
        kinds = _kinds_of(parameter.annotation)
        if kinds and all(is_of(one, type) and issubclass(one, Event) for one in kinds):
            asked = Asked.EVENT
        elif kinds == (self._source.delivery,):
            asked = Asked.DELIVERY
        elif kinds and self._types is not None and all(map(self._is_registered, kinds)):
            asked = Asked.VALUE
        elif has_default:
            return None
        else:
            raise self._error(parameter, self._why_unknown(parameter))
        if asked not in self._source.getters:
            if has_default:
                return None
            what = f"asks for {asked.value}, and there is none here, as it is called with {self._source.what}"
            raise self._error(parameter, f"{what}: give it a default, such as None, for the calls without")
        if asked is Asked.VALUE:
            self._check_value(parameter, kinds)
        return asked

    def _is_registered(self, kind: object) -> bool:
        if not is_of(kind, type):
            return False
        try:
            assert self._types is not None
            return bool(self._types.names(kind))
        except InvalidOptionError as error:
            if "not complete" in str(error):
                raise InvalidOptionError(f"{self._about}: {error}") from error
            return False

    def _why_unknown(self, parameter: inspect.Parameter) -> str:
        shown = _shown(parameter.annotation)
        if not self._source.getters:
            return f"is annotated with {shown}, and there is nothing to give: the function is called without arguments"
        if self._types is None:
            return (
                f"is annotated with {shown}: it may be {_choice(self._source, None)}. To get typed values, give the "
                "store or the bus its classes: types=EventTypes()"
            )
        return f"is annotated with {shown}: it may be {_choice(self._source, self._types)}"

    def _check_value(self, parameter: inspect.Parameter, kinds: tuple[Any, ...]) -> None:
        """Refuse a class where events of other types come, too."""
        assert self._types is not None
        fitting = self._types.names(*kinds)
        shown = ", ".join(_shown(one) for one in kinds)
        if not self._wanted:
            raise self._error(
                parameter, f"is annotated with {shown}, and events of all types come: say event_types={{{shown}}}"
            )
        others = sorted(self._wanted - fitting)
        if others:
            raise self._error(
                parameter,
                f"is annotated with {shown}, and events of type {short(others[0])} come, too: ask for their class as "
                "well",
            )

    def _error(self, parameter: inspect.Parameter, what: str) -> InvalidOptionError:
        return InvalidOptionError(f"{self._about}: its parameter {parameter.name!r} {what}")


def _kinds_of(annotation: Any) -> tuple[Any, ...]:
    """Return the classes that an annotation names: those of a union, without None."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _kinds_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, type(int | str)):
        return tuple(one for one in typing.get_args(annotation) if one is not type(None))
    return (annotation,)


def _shown(kind: Any) -> str:
    return kind.__name__ if is_of(kind, type) else short(kind)


def _choice(source: Source, types: EventTypes | None) -> str:
    names = {Asked.DELIVERY: "a Delivery", Asked.EVENT: "an Event", Asked.VALUE: "a registered class"}
    there = [names[one] for one in names if one in source.getters and (one is not Asked.VALUE or types is not None)]
    return " or ".join(there) if there else "nothing"


def _refuse_unfit(function: Any, about: str, before: int, asked: list[_Parameter]) -> None:
    """Refuse a function that cannot be called so: a decorator may take something else than what it wraps."""
    try:
        own = inspect.signature(function, follow_wrapped=False)
    except Exception:  # of a builtin function
        return
    positional = [None] * (before + sum(not one.is_named for one in asked))
    named = dict.fromkeys((one.name for one in asked if one.is_named), None)
    try:
        own.bind(*positional, **named)
    except TypeError as error:
        raise InvalidOptionError(f"{about} takes {own}, and cannot be called: {error}") from None


def _compiled(function: Any, source: Source, asked: list[_Parameter], before: int) -> Callable[..., Any]:
    """Return how the function is called, with as little as possible between."""
    getters = [source.getters[one.asked] for one in asked if not one.is_named]
    named = [(one.name, source.getters[one.asked]) for one in asked if one.is_named]
    if not before and not named and len(getters) == 1:
        get = getters[0]
        return function if get is None else lambda given: function(get(given))
    if not asked and not before:
        return lambda given: function()

    def call(*given: Any) -> Any:
        source_of = given[-1]
        positional = [source_of if get is None else get(source_of) for get in getters]
        keywords = {name: source_of if get is None else get(source_of) for name, get in named}
        return function(*given[:before], *positional, **keywords)

    return call
