"""``unlike``: finds what has another class in a state that was read again than in the state that was written.

``==`` does not tell that a dict was a ``defaultdict``, or that a number was of an ``IntEnum``. The functions of the
user do, at the next event.

Objects of one class are looked at together, field by field: that takes a fraction of the time of one after the other.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any, TypeAlias
from uuid import UUID

__all__ = ["unlike"]

#: Classes of objects that have no others in them.
_PLAIN = frozenset({str, int, bool, float, type(None), bytes, date, timedelta, Decimal, UUID})

_Objects: TypeAlias = Sequence[Any]


def unlike(state: object, again: object) -> tuple[Any, Any] | None:
    """Return two parts that are at the same place of two states and differ in their class; None if there are none.

    An ``int`` may become a ``float``: it does so only where the annotation says float, and there an int is as good (PEP
    484).

    It looks once at each part that is in the JSON of the state, and does not recurse.

    Args:
        state: A state that JSON can hold.
        again: What was read from the JSON of it.

    Raises:
        Exception: What a method of the user's raises, such as a ``__hash__``.
    """
    waiting: list[tuple[_Objects, _Objects]] = [([state], [again])]
    while waiting:
        ones, others = waiting.pop()
        kinds = list(map(type, ones))
        if kinds != list(map(type, others)):
            for one, other in zip(ones, others, strict=True):
                if type(one) is not type(other) and (type(one), type(other)) != (int, float):
                    return one, other
        distinct = set(kinds)
        for kind in distinct - _PLAIN:
            mine, its = ones, others
            if len(distinct) > 1:
                mine = [one for one, its_kind in zip(ones, kinds, strict=True) if its_kind is kind]
                its = [other for other, its_kind in zip(others, kinds, strict=True) if its_kind is kind]
            if issubclass(kind, dict | list | tuple | set | frozenset):
                for one, other in zip(mine, its, strict=True):
                    if len(one) != len(other):
                        return one, other
            waiting += _parts(kind, mine, its)
    return None


def _parts(kind: type, ones: _Objects, others: _Objects) -> Iterator[tuple[_Objects, _Objects]]:
    """Yield what is in some objects of one class, and what is at the same places of others."""
    if issubclass(kind, set | frozenset):
        yield _members(ones, others)
    elif issubclass(kind, dict | list | tuple):
        yield list(chain.from_iterable(ones)), list(chain.from_iterable(others))
        if issubclass(kind, dict):
            yield _all_values(ones), _all_values(others)
    else:
        for name in _names_of(kind):
            yield [getattr(one, name, None) for one in ones], [getattr(other, name, None) for other in others]


def _members(ones: _Objects, others: _Objects) -> tuple[_Objects, _Objects]:
    """Return the members of some sets, and their equals in other sets, but not those of sets of one plain class."""
    mine: list[object] = []
    its: list[object] = []
    for one, other in zip(ones, others, strict=True):
        kinds = set(map(type, one))
        if len(kinds) > 1 or not kinds <= _PLAIN or kinds != set(map(type, other)):
            equal = {each: each for each in other}
            mine += one
            its += [equal.get(each) for each in one]
    return mine, its


def _all_values(dicts: _Objects) -> _Objects:
    return list(chain.from_iterable(one.values() for one in dicts))


def _names_of(kind: type) -> Sequence[str]:
    """Return the names of the fields of a class; none if it has no fields."""
    if issubclass(kind, datetime | time):
        return ["tzinfo"]  # a ZoneInfo knows when summer time is; the offset that JSON has does not
    if dataclasses.is_dataclass(kind):
        return [one.name for one in dataclasses.fields(kind)]
    if hasattr(kind, "__attrs_attrs__"):
        return [one.name for one in kind.__attrs_attrs__]
    names: Sequence[str] = getattr(kind, "__struct_fields__", ())
    return names
