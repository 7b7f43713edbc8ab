"""What a run found out: medians, spreads, and ratios, each with its goal. It is what ``--json`` writes."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from statistics import median

import msgspec

from .cases import CASES, FIGURES, Case, Figure, Goal, Sample
from .runner import Effort, Runs

__all__ = ["Ratio", "Report", "Row", "Spread", "Table", "build"]


class Spread(msgspec.Struct, frozen=True):
    """The median of the rounds, the lowest and the highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(median(values), min(values), max(values))


class Ratio(msgspec.Struct, frozen=True):
    """How a figure of a case compares with that of another, or with the best of several, round by round."""

    key: str
    to: tuple[str, ...]
    called: str
    value: Spread
    goal: float | None
    is_reached: bool | None  # by the median


class Row(msgspec.Struct, frozen=True):
    """A case."""

    case: str
    title: str
    says: str
    is_ours: bool
    figures: dict[str, Spread]
    ratios: tuple[Ratio, ...]
    samples: list[Sample]
    left_out: str | None  # why there are no figures


class Table(msgspec.Struct, frozen=True):
    """A question with its cases."""

    question: str
    title: str
    rows: tuple[Row, ...]


class Report(msgspec.Struct, frozen=True):
    """A whole run."""

    environment: dict[str, str]
    events: int
    repeat: int
    tables: tuple[Table, ...]


def build(cases: Sequence[Case], runs: Runs, environment: dict[str, str], effort: Effort) -> Report:
    """Sum up."""
    tables = (
        Table(question.name, question.title.format(stock=f"{effort.stock:,}"), tuple(_row(one, runs) for one in group))
        for question, group in groupby(cases, key=lambda one: one.question)
    )
    return Report(environment, effort.events, effort.repeat, tuple(tables))


def _row(one: Case, runs: Runs) -> Row:
    left_out = runs.left_out.get(one.name)
    samples = [] if left_out else runs.samples[one.name]
    keys = one.question.keys if samples else ()
    figures = {key: Spread.of([sample[key] for sample in samples]) for key in keys}
    return Row(one.name, one.title, one.says, one.is_ours, figures, tuple(_ratios(one, runs)), samples, left_out)


def _ratios(one: Case, runs: Runs) -> Iterator[Ratio]:
    """Make the ratio to what the case is compared with, and the others that have goals."""
    goals = list(one.goals)
    if not any(not goal.to and not goal.key for goal in goals) and one.base != one.name:
        goals.insert(0, Goal(None))
    for goal in goals:
        figure = FIGURES[goal.key or one.question.keys[0]]
        to = tuple(name for name in goal.to or (one.base,) if runs.samples.get(name) and name not in runs.left_out)
        if to and one.name not in runs.left_out:
            yield _judged(goal, figure, to, Spread.of(list(_by_round(one, to, figure, runs))))


def _judged(goal: Goal, figure: Figure, to: tuple[str, ...], value: Spread) -> Ratio:
    called = goal.called or CASES[to[0]].title
    if goal.bound is None:
        return Ratio(figure.key, to, called, value, None, None)
    is_reached = value.median >= goal.bound if figure.is_rate else value.median <= goal.bound
    return Ratio(figure.key, to, called, value, goal.bound, is_reached)


def _by_round(one: Case, to: tuple[str, ...], figure: Figure, runs: Runs) -> Iterator[float]:
    best = max if figure.is_rate else min
    for samples in zip(*(runs.samples[name] for name in (one.name, *to)), strict=True):
        mine, *others = (sample[figure.key] for sample in samples)
        yield mine / best(others)
