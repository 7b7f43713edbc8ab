"""All cases, in the order in which they are shown."""

from . import (  # noqa: F401  # they register
    append,
    burn,
    decide,
    growth,
    handle,
    latest,
    load,
    local,
    memory,
    nodes,
    publish,
    receive,
    roundtrip,
    size,
)
from .cases import CASES, QUESTIONS, Case

__all__ = ["CASES", "chosen"]


def chosen(only: list[str] | None) -> list[Case]:
    """Find cases by their names, their questions' or groups', with what they are compared with, as they are shown."""
    only = only or list(QUESTIONS)
    unknown = set(only) - set(CASES) - set(QUESTIONS) - {question.group for question in QUESTIONS.values()}
    if unknown:
        raise SystemExit(f"no such case, question or group: {', '.join(sorted(unknown))}; see --list")
    wanted = [one for one in CASES.values() if {one.name, one.question.name, one.question.group} & set(only)]
    names = set().union(*(one.references for one in wanted))
    order = list(QUESTIONS.values())
    return sorted((one for one in CASES.values() if one.name in names), key=lambda one: order.index(one.question))
