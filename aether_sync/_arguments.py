"""Checks of arguments that several rooms make, and what all of them take for a number, a text or a truth.

A whole number is an int, or what is registered as one (``numbers.Integral``: those of numpy); a number of seconds is
any real number (a float, a ``Decimal``, a ``Fraction``, numpy's). No bool is a number. What comes out is the plain
builtin, so that nothing of the user's code runs later on. An object may raise from whatever it is asked, so it is
asked here, and a refusal is an error of this library. Builtin objects do not, and are not asked within a ``try``: there
it could only be what a signal handler raises, and that is nobody's wrong argument.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from numbers import Integral, Real
from pathlib import PurePath
from threading import TIMEOUT_MAX
from types import GeneratorType
from typing import Any, TypeGuard, TypeVar

from ._values.shown import short
from .errors import InvalidOptionError

__all__ = [
    "LONGEST",
    "MAX_INT",
    "as_iterator",
    "as_seconds",
    "as_whole",
    "check_choice",
    "check_count",
    "check_flag",
    "check_int",
    "check_path",
    "check_seconds",
    "check_text",
    "check_timeout",
    "is_mapping",
    "is_of",
]

T = TypeVar("T")

_ITERABLE = (list, tuple, set, frozenset, GeneratorType)

MAX_INT = 2**63 - 1  #: what the server, Go and C count up to
LONGEST = min(TIMEOUT_MAX, float(MAX_INT // 10**9))  #: seconds that a lock can wait, and the server count: 292 years


def is_of(value: object, kind: type[T]) -> TypeGuard[T]:
    """Whether a value really is of a kind: ``isinstance()`` would ask the object, which may lie (a mock), or raise."""
    return issubclass(type(value), kind)


def is_mapping(value: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a value says that it is a Mapping; proxies of one may."""
    if type(value) is dict:
        return True
    try:
        return isinstance(value, Mapping)
    except Exception:  # of a ``__class__`` that raises
        return False


def as_iterator(value: Iterable[T]) -> Iterator[T] | None:
    """What iterates a value; None if it cannot be iterated. What its iterator raises later on is the user's own."""
    if type(value) in _ITERABLE:
        return iter(value)
    if not hasattr(type(value), "__iter__"):
        return None
    try:
        return iter(value)
    except Exception:
        return None


def as_whole(value: Any) -> int | None:
    """A whole number as a plain int; None if it is none."""
    if type(value) is int:
        return value
    if is_of(value, bool) or not issubclass(type(value), Integral):
        return None
    try:
        return int.__int__(value if is_of(value, int) else value.__index__())
    except Exception:
        return None


def as_seconds(value: object) -> float | None:
    """A real number as a plain float, infinite if no float is as large; None if it is none, NaN included."""
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
    except OverflowError:  # a fraction, or of a subclass of int
        return math.inf
    except Exception:
        return None


def _nearest(whole: int) -> float:
    try:
        return float(whole)
    except OverflowError:
        return math.inf if whole > 0 else -math.inf


def check_int(name: str, value: object, least: int, most: int = MAX_INT) -> int:
    """Refuse what is no whole number of a range, and return it as a plain int."""
    number = as_whole(value)
    if number is None or not least <= number <= most:
        end = "2**63 - 1" if most == MAX_INT else str(most)
        raise InvalidOptionError(f"{name} must be a whole number from {least} to {end}, not {short(value)}")
    return number


def check_count(name: str, value: object, most: int = MAX_INT) -> int:
    """Refuse a bound that is no whole number of 1 or more, and return it as a plain int."""
    number = as_whole(value)
    if number is None or not 1 <= number <= most:
        end = "" if most == MAX_INT and (number is None or number < 1) else f", at most {most}"
        raise InvalidOptionError(f"{name} must be a whole number, 1 or more{end}, not {short(value)}")
    return number


def check_seconds(name: str, value: object, least: float = 0.0) -> float:
    """Refuse a time span that is not more than 0, or is one that no clock counts; return it as a plain float.

    Args:
        name: Of the argument.
        value: Of the argument.
        least: Seconds, where less would make something spin.
    """
    seconds = as_seconds(value)
    if seconds is None or seconds <= 0 or seconds < least:
        begin = f"{least:g} or more" if least else "more than 0"
        raise InvalidOptionError(f"{name} must be seconds, {begin}, not {short(value)}")
    if seconds > LONGEST:
        raise InvalidOptionError(f"{name} must be seconds, at most {LONGEST:.0f}, not {short(value)}")
    return seconds


def check_timeout(name: str, value: object) -> float | None:
    """Refuse what is no time-out, and return it as a plain float: 0 means now, None for ever."""
    if value is None:
        return None
    seconds = as_seconds(value)
    if seconds is None or seconds < 0:
        raise InvalidOptionError(f"{name} must be seconds (0 or more) or None for ever, not {short(value)}")
    return seconds


def check_flag(name: str, value: object) -> bool:
    """Take a value for true or false, as ``if`` does; refuse one that is neither."""
    if type(value) is bool:
        return value
    try:
        return bool(value)
    except Exception as error:
        raise InvalidOptionError(f"{name} must be True or False, not {short(value)}") from error


def check_text(name: str, value: object) -> str | None:
    """Refuse what is neither a text of printable characters nor None, and return it as a plain str."""
    if value is None:
        return None
    text = str.__str__(value) if is_of(value, str) else None
    if text is None or not text.isprintable():
        raise InvalidOptionError(f"{name} must be a str of printable characters, not {short(value)}")
    return text


def check_path(name: str, value: Any) -> str:
    """Refuse what cannot be the path of a file, and return it as a plain str. What it is may be a secret."""
    path = value if type(value) is str else str(value) if is_of(value, PurePath) else _path_of(value)
    if not path or "\0" in path:
        raise InvalidOptionError(f"{name} must be the path of a file, a str or a Path, not {type(value).__name__}")
    return path


def _path_of(value: Any) -> str | None:
    try:
        path: object = os.fspath(value)
    except Exception:  # it is none, or one of the user's own
        return None
    return str.__str__(path) if is_of(path, str) else None


def check_choice(name: str, value: object, choices: Mapping[str, T]) -> T:
    """Refuse what is none of some words, and return what the word stands for."""
    word = str.__str__(value) if is_of(value, str) else None
    if word is None or word not in choices:
        raise InvalidOptionError(f"{name} must be one of {', '.join(map(repr, choices))}, not {short(value)}")
    return choices[word]
