"""All cases, in the order in which they are shown."""

from . import burn, growth, local, memory, nodes, publish, receive, roundtrip  # noqa: F401  # they register their cases
from .cases import CASES, QUESTIONS, Case

__all__ = ["CASES", "chosen"]


def chosen(only: list[str] | None) -> list[Case]:
    """Find cases by their names or their questions', with what they are compared with, as they are shown."""
    only = only or list(QUESTIONS)
    unknown = set(only) - set(CASES) - set(QUESTIONS)
    if unknown:
        raise SystemExit(f"no such case or question: {', '.join(sorted(unknown))}; see --list")
    wanted = [one for one in CASES.values() if one.name in only or one.question.name in only]
    names = set().union(*(one.references for one in wanted))
    order = list(QUESTIONS.values())
    return sorted((one for one in CASES.values() if one.name in names), key=lambda one: order.index(one.question))
