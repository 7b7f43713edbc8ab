"""Checks of arguments that all modules use.

A whole number is an int, or what is registered as ``numbers.Integral``, as numpy's are. A number of seconds is any real
number: a float, a ``Decimal``, a ``Fraction`` or one of numpy's. A bool is not a number. The checks return plain
builtin objects, so no code of the user's runs later on. An object of a user's class may raise whatever is done with it;
that is caught here, and becomes an error of this library. Builtin objects are handled outside of any ``try``: what is
raised there comes from a signal handler, and not from a wrong argument.
"""

import inspect
import math
import os
from collections.abc import (
    AsyncGenerator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Generator,
    Iterable,
    Iterator,
    Mapping,
)
from contextlib import suppress
from decimal import Decimal
from numbers import Integral, Real
from pathlib import Path, PurePath
from threading import TIMEOUT_MAX
from types import GeneratorType
from typing import Any, TypeGuard, TypeVar

from ._values.shown import name_of, short
from .errors import InvalidOptionError

__all__ = [
    "LONGEST",
    "MAX_INT",
    "as_iterator",
    "as_seconds",
    "as_whole",
    "check_absolute",
    "check_callback",
    "check_choice",
    "check_count",
    "check_flag",
    "check_int",
    "check_known",
    "check_options",
    "check_path",
    "check_plain_function",
    "check_seconds",
    "check_text",
    "check_timeout",
    "is_mapping",
    "is_mock_of_function",
    "is_of",
    "refuse_bare",
    "refuse_unrun",
]

T = TypeVar("T")

_ITERABLE = (list, tuple, set, frozenset, GeneratorType)

MAX_INT = 2**63 - 1  #: the largest integer of the server, of Go and of C
LONGEST = min(TIMEOUT_MAX, float(MAX_INT // 10**9))  #: seconds that locks and the server can count: 292 years


def is_of(value: object, kind: type[T]) -> TypeGuard[T]:
    """Whether a value is an instance; ``isinstance()`` asks the object itself, which may lie, as mocks do, or raise."""
    return issubclass(type(value), kind)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value is a Mapping, or says so itself, as proxies do."""
    if type(value) is dict:
        return True
    try:
        return isinstance(value, Mapping)
    except Exception:  # its ``__class__`` raises
        return False


def as_iterator(value: Iterable[T]) -> Iterator[T] | None:
    """Return an iterator over a value, or None if it has none. Errors of the iterator itself are not caught."""
    if type(value) in _ITERABLE:
        return iter(value)
    if not hasattr(type(value), "__iter__"):
        return None
    try:
        return iter(value)
    except Exception:
        return None


def as_whole(value: Any) -> int | None:
    """Return a whole number as a plain int; None if the value is not one."""
    if type(value) is int:
        return value
    if is_of(value, bool) or not issubclass(type(value), Integral):
        return None
    try:
        return int.__int__(value if is_of(value, int) else value.__index__())
    except Exception:
        return None


def as_seconds(value: object) -> float | None:
    """Return a real number as a plain float, infinite if it is too large; None if the value is not one, or is NaN."""
    number = value if type(value) is float else _as_float(value)
    return None if number is None or number != number else number


def _as_float(value: Any) -> float | None:
    if type(value) is int:
        return _nearest(value)
    if is_of(value, float):
        return float.__float__(value)
    if is_of(value, bool) or not issubclass(type(value), (Real, Decimal)):
        return None
    try:
        return float(value)
    except OverflowError:  # of a Fraction, or a subclass of int
        return math.inf
    except Exception:
        return None


def _nearest(whole: int) -> float:
    try:
        return float(whole)
    except OverflowError:
        return math.inf if whole > 0 else -math.inf


def check_int(name: str, value: object, least: int, most: int = MAX_INT) -> int:
    """Return a whole number of a range as a plain int, or raise."""
    number = as_whole(value)
    if number is None or not least <= number <= most:
        end = "2**63 - 1" if most == MAX_INT else str(most)
        raise InvalidOptionError(f"{name} must be a whole number from {least} to {end}, not {short(value)}")
    return number


def check_count(name: str, value: object, most: int = MAX_INT) -> int:
    """Return a whole number of 1 or more as a plain int, or raise."""
    number = as_whole(value)
    if number is None or not 1 <= number <= most:
        end = "" if most == MAX_INT and (number is None or number < 1) else f", at most {most}"
        raise InvalidOptionError(f"{name} must be a whole number, 1 or more{end}, not {short(value)}")
    return number


def check_seconds(name: str, value: object, least: float = 0.0) -> float:
    """Return a time span in seconds as a plain float, or raise if it is not more than 0, or too long for a clock.

    Args:
        name: The name of the argument.
        value: Its value.
        least: The fewest seconds, where less would keep a thread busy.
    """
    seconds = as_seconds(value)
    what = "a number" if name == "seconds" else "seconds"
    if seconds is None or seconds <= 0 or seconds < least:
        begin = f"{least:g} or more" if least else "more than 0"
        raise InvalidOptionError(f"{name} must be {what}, {begin}, not {short(value)}")
    if seconds > LONGEST:
        raise InvalidOptionError(f"{name} must be {what}, at most {LONGEST:.0f}, not {short(value)}")
    return seconds


def check_timeout(name: str, value: object) -> float | None:
    """Return a time-out in seconds as a plain float, or None for ever; raise if it is neither. 0 means now."""
    if value is None:
        return None
    seconds = as_seconds(value)
    if seconds is None or seconds < 0:
        raise InvalidOptionError(f"{name} must be seconds (0 or more) or None for ever, not {short(value)}")
    return seconds


def check_flag(name: str, value: object) -> bool:
    """Return a bool, or raise: a text such as ``"false"``, which would count as true, is a mistake."""
    if type(value) is not bool:
        raise InvalidOptionError(f"{name} must be True or False, not {short(value)}")
    return value


def check_options(kind: type, options: Iterable[str], handed_on: Collection[str]) -> None:
    """Refuse keyword arguments that nobody knows, before they reach another class, which the user may not know.

    Args:
        kind: The class that the user called.
        options: What it was given besides what it names itself.
        handed_on: What the other class takes.
    """
    unknown = [one for one in options if one not in handed_on]
    if unknown:
        own = [one.name for one in inspect.signature(kind).parameters.values() if one.kind is one.KEYWORD_ONLY]
        check_known(f"{kind.__name__} has no option", unknown, sorted([*own, *handed_on]))


def check_known(refusal: str, given: Iterable[str], known: Collection[str], *, common: str = "") -> None:
    """Refuse a name that is not known, and say which is near it.

    Args:
        refusal: How the error begins, such as ``"Store has no option"``.
        given: The names.
        known: Those that there are.
        common: What all names begin with, which brings none nearer to another.
    """
    for unknown in (one for one in given if one not in known):
        import difflib  # which nobody needs who makes no mistake

        begun = [one for one in known if one.startswith((f"{unknown}_", f"{unknown}s_"))]
        own = {one.removeprefix(common).casefold(): one for one in known}  # a slip may be one of capitals
        close = difflib.get_close_matches(unknown.removeprefix(common).casefold(), own, n=1)
        near = begun or [own[one] for one in close]
        hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known)}"
        if unknown == "context":  # of the nats command line
            hint = "make the connection with Connection.from_context(), and give it that"
        raise InvalidOptionError(f"{refusal} {short(unknown)}: {hint}")


#: What nobody would run that such a function returns.
_NOT_RUN: Mapping[Callable[[Any], bool], str] = {
    inspect.iscoroutinefunction: "an `async def`",
    inspect.isasyncgenfunction: "an `async def` with a `yield`",
    inspect.isgeneratorfunction: "a generator function",
}


def check_plain_function(name: str, value: Any, called: str) -> None:
    """Refuse what cannot be called, and what would return something that nobody runs.

    Args:
        name: What it is called.
        value: The user's function.
        called: How it is called, such as ``"with a Notice"``.
    """
    if not callable(value):
        raise InvalidOptionError(f"{name} must be a function that is called {called}, not {short(value)}")
    for is_kind, kind in _NOT_RUN.items():
        if (not is_mock_of_function(value) and is_kind(value)) or is_kind(type(value).__call__):
            raise InvalidOptionError(f"{name} must not be {kind}, as {short(value)} is: pass a plain function")


def is_mock_of_function(value: Any) -> bool:
    """Whether something only looks like a function, as a ``Mock(spec=function)`` does: its code cannot be read."""
    return type(getattr(getattr(value, "__code__", None), "co_flags", 0)) is not int


def check_callback(name: str, value: Any, *arguments: str) -> None:
    """Refuse what cannot be called with these arguments, and what would return something that nobody runs.

    Args:
        name: What it is called.
        value: The user's function.
        *arguments: What it is called with, such as ``"a Notice"``.
    """
    said = " and ".join(arguments)
    check_plain_function(name, value, f"with {said}" if arguments else "without arguments")
    try:
        parameters = inspect.signature(value, follow_wrapped=False)  # those of the wrapper, which is what is called
    except Exception:  # a builtin function may have none, and an object of the user's may raise anything
        return
    try:
        parameters.bind(*arguments)
    except TypeError as error:
        number = ("without arguments", "with one argument, ", "with two arguments, ")[len(arguments)]
        raise InvalidOptionError(
            f"{name} is called {number}{said}, and {short(value)} takes {parameters}: {error}"
        ) from None


def refuse_bare(first: object, decorator: str, example: str) -> None:
    """Refuse a function or class where a decorator takes something else first: it has no parentheses.

    Without this the decorator would take the function for its argument, and nobody would ever call it.

    Args:
        first: The first argument of what returns the decorator.
        decorator: How a user writes it: ``"@worker.on"``.
        example: What may be within the parentheses: ``"'orders'"``.
    """
    if callable(first):
        raise InvalidOptionError(
            f"{decorator} over {name_of(first)} has no parentheses, and takes something within them: write "
            f"{decorator}({example})"
        )


def refuse_unrun(returned: object) -> None:
    """Refuse what a handler has returned if its work is still to be done by whoever awaits or iterates it.

    Raises:
        InvalidOptionError: It is an awaitable, a generator or an asynchronous generator.
    """
    if not issubclass(type(returned), (Awaitable, Generator, AsyncGenerator)):
        return
    if isinstance(returned, (Coroutine, Generator)):
        with suppress(Exception):  # of the user's code, in one that was begun
            returned.close()  # or Python warns that it was never awaited
    raise InvalidOptionError(
        f"the handler has returned {short(returned)}, which nobody runs, instead of doing the work: pass a plain "
        "function"
    )


def check_text(name: str, value: object) -> str | None:
    """Return a text of printable characters as a plain str, or None; raise if it is neither."""
    if value is None:
        return None
    text = str.__str__(value) if is_of(value, str) else None
    if text is None or not text.isprintable():
        raise InvalidOptionError(f"{name} must be a str of printable characters, not {short(value)}")
    return text


def check_path(name: str, value: Any) -> str:
    """Return the path of a file as a plain str, or raise. The error does not show the value, which may be a secret."""
    path = value if type(value) is str else str(value) if is_of(value, PurePath) else _path_of(value)
    if not path or "\0" in path:
        raise InvalidOptionError(f"{name} must be the path of a file, a str or a Path, not {type(value).__name__}")
    return path


def check_absolute(name: str, value: Any) -> Path:
    """Return a path as it is called also when the program has changed its folder, or raise."""
    path = Path(check_path(name, value))
    try:
        return path.absolute()
    except OSError as error:
        raise InvalidOptionError(
            f"{name} is a path within the working directory, which is not there any more: give a whole path"
        ) from error


def _path_of(value: Any) -> str | None:
    try:
        path: object = os.fspath(value)
    except Exception:  # it is not a path, or a user's own, which raises
        return None
    return str.__str__(path) if is_of(path, str) else None


def check_choice(name: str, value: object, choices: Mapping[str, T]) -> T:
    """Return what one of some words stands for, or raise."""
    word = str.__str__(value) if is_of(value, str) else None
    if word is None or word not in choices:
        raise InvalidOptionError(f"{name} must be one of {', '.join(map(repr, choices))}, not {short(value)}")
    return choices[word]
