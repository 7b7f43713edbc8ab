"""A report as text."""

from collections.abc import Iterator

from .cases import FIGURES, QUESTIONS
from .report import Ratio, Report, Row

__all__ = ["lines"]


Cells = tuple[str, ...]


def lines(report: Report) -> Iterator[str]:
    """Write a report as Markdown: what it was measured on, a table per question, ratios first, and one of all goals."""
    yield ", ".join(f"{name} {value}" for name, value in report.environment.items() if value != "not installed")
    missing = [name for name, value in report.environment.items() if value == "not installed"]
    if missing:
        yield f"Not installed: {', '.join(missing)}"
    yield f"Medians of {report.repeat}, of {report.events:,} events or a share of them; in brackets lowest and highest."
    for table in report.tables:
        labels = [figure.label for figure in QUESTIONS[table.question].figures]
        cells = [(table.title, "ratio", "goal", *labels)]
        for row in table.rows:
            cells += _rows(row, len(labels))
        yield ""
        yield from _table(cells)
    goals = list(_goals(report))
    if goals:
        yield ""
        yield from _table([("Goals", "ratio", "goal", "figure", "compared with"), *goals])


def _goals(report: Report) -> Iterator[Cells]:
    for table in report.tables:
        for row in table.rows:
            for ratio in row.ratios:
                if ratio.goal is not None:
                    figure = FIGURES[ratio.key]
                    measured = f"{figure.write(row.figures[ratio.key].median)} {figure.label}"
                    yield (f"{table.question}: {row.title}", *_ratio(ratio), measured, ratio.called)


def _table(cells: list[Cells]) -> Iterator[str]:
    widths = [max(len(row[at]) for row in cells) for at in range(len(cells[0]))]
    rule = tuple("-" * width if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths))
    for row in (cells[0], rule, *cells[1:]):
        padded = (
            cell.rjust(width) if at else cell.ljust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield f"| {' | '.join(padded)} |"


def _rows(row: Row, columns: int) -> Iterator[Cells]:
    if row.left_out:
        yield (f"{row.title}: {row.left_out}", *[""] * (columns + 2))
        return
    figures = [
        f"{FIGURES[key].write(spread.median)} ({FIGURES[key].write(spread.low)}-{FIGURES[key].write(spread.high)})"
        for key, spread in row.figures.items()
    ]
    first = _ratio(row.ratios[0]) if row.ratios else ("1.00", "")
    yield (row.title, *first, *figures)
    for other in row.ratios[1:]:
        yield (f"  … {FIGURES[other.key].label}, to {other.called}", *_ratio(other), *[""] * columns)


def _ratio(ratio: Ratio) -> tuple[str, str]:
    text = f"{ratio.value.median:.2f} ({ratio.value.low:.2f}-{ratio.value.high:.2f})"
    if ratio.goal is None:
        return text, ""
    sign = "≥" if FIGURES[ratio.key].is_rate else "≤"
    return text, f"{sign} {ratio.goal:g} {'reached' if ratio.is_reached else 'not reached'}"
