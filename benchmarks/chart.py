"""A report as a picture: the ratio of each case to the first of its question, grouped by question."""

from pathlib import Path
from typing import Any

from .cases import FIGURES, QUESTIONS
from .report import Report, Row, Spread, Table

__all__ = ["draw"]

_WIDTH, _ROW, _HEAD = 13.0, 0.21, 0.75  # inches: of all, of a bar, of what stands around the bars of a question
_COLUMNS = 2
_LEGEND = (
    "Ratio to the first of each group, by powers of ten. Blue: aether_sync. Line: lowest and highest. Orange: goal."
)

# Of a lightness between those of white and dark pages, to be read on both.
_TEXT, _OURS, _THEIRS, _GOAL = "#808891", "#2f81f7", "#9aa4af", "#d9822b"


def draw(report: Report, path: Path) -> None:
    """Draw a report as SVG: a bar is a median, the line in it the spread, a mark the goal."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    colored = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color")
    style: Any = {"svg.fonttype": "none", "svg.hashsalt": "aether_sync", "font.size": 9}
    with mpl.rc_context(style | dict.fromkeys(colored, _TEXT)):
        columns = _columns([table for table in report.tables if _bars(table)])
        figure = Figure(figsize=(_WIDTH, max(sum(map(_height, column)) for column in columns)), layout="constrained")
        for area, column in zip(figure.subfigures(1, len(columns), squeeze=False)[0], columns, strict=True):
            heights = [_height(table) for table in column]
            axes = area.subplots(len(column), squeeze=False, gridspec_kw={"height_ratios": heights})
            for (one,), table in zip(axes, column, strict=True):
                _panel(one, table)
        figure.suptitle(_LEGEND, x=0.01, ha="left", fontsize=9)
        figure.savefig(path, format="svg", transparent=True, metadata={"Date": None})


def _columns(tables: list[Table]) -> list[list[Table]]:
    """Put each question into the column that is the shortest until then."""
    columns: list[list[Table]] = [[] for _ in range(min(_COLUMNS, len(tables)))]
    for table in tables:
        min(columns, key=lambda column: sum(map(_height, column))).append(table)
    return columns


def _height(table: Table) -> float:
    return _HEAD + _ROW * len(_bars(table))


def _bars(table: Table) -> list[Row]:
    return [row for row in table.rows if row.figures]


def _panel(axes: Any, table: Table) -> None:
    rows = _bars(table)
    for at, row in enumerate(rows):
        _bar(axes, at, row)
    axes.set_yticks(range(len(rows)), [row.title.replace("`", "") for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.axvline(1.0, color=_TEXT, linewidth=0.8)
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.4), max(high, 2.5))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.minorticks_off()
    figure = QUESTIONS[table.question].figures[0]
    better = "more is better" if figure.is_rate else "less is better"
    axes.set_title(f"{table.title}\n{figure.label}: {better}", loc="left", fontsize=9)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _bar(axes: Any, at: int, row: Row) -> None:
    ratio = row.ratios[0] if row.ratios else None
    value = ratio.value if ratio else Spread(1.0, 1.0, 1.0)
    axes.barh(at, value.median - 1.0, left=1.0, height=0.7, color=_OURS if row.is_ours else _THEIRS)
    axes.hlines(at, value.low, value.high, color=_TEXT, linewidth=1.2)
    text = f"{value.median:,.0f}" if value.median >= 100 else f"{value.median:.2g}"
    if ratio is not None and ratio.goal is not None:
        axes.plot(ratio.goal, at, marker="|", markersize=11, markeredgewidth=2, color=_GOAL)
        text += f"  ({'≥' if FIGURES[ratio.key].is_rate else '≤'} {ratio.goal:g})"
    axes.annotate(text, (1.02, at), xycoords=("axes fraction", "data"), va="center", fontsize=8)
