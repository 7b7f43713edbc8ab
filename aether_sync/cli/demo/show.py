"""The tables of the demonstration: live while it runs, and the one at the end."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from .audit import Audit, Row
from .plan import PUBLISHERS, Kind, Reading, Status

__all__ = ["Screen", "show_audit"]

_LINE_EVERY = 1.0  # seconds between two lines where there is no terminal


class Screen:
    """Shows the traffic: a table on a terminal, a line each second elsewhere."""

    def __init__(self, console: Console, plan: Sequence[Sequence[Reading]]) -> None:
        self._console = console
        self._plan = plan
        self._live = Live(console=console, auto_refresh=False, transient=True) if console.is_terminal else None
        self._start = time.monotonic()
        self._next_line = _LINE_EVERY

    def __enter__(self) -> Self:
        self._start = time.monotonic()
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, statuses: Sequence[Status]) -> None:
        """Show what the nodes have done so far."""
        spent = time.monotonic() - self._start
        if self._live is not None:
            self._live.update(_table(_live_rows(self._plan, statuses), max(spent, 0.1)), refresh=True)
        elif spent >= self._next_line:
            self._next_line += _LINE_EVERY
            self._console.print(_line(statuses, spent), highlight=False)


def show_audit(console: Console, found: Audit, seconds: float) -> bool:
    """Show the final table, and whether it adds up; return that."""
    console.print(_table(found.rows, seconds))
    for fault in found.faults:
        console.print(Text(f"Does not add up: {fault}", style="bold red"), soft_wrap=True)
    if not found.faults:
        published = sum(row.published or 0 for row in found.rows)
        console.print(
            Text(f"It adds up: {published:,} events, each received once, in order, or counted as dropped.", "green")
        )
    return not found.faults


def _live_rows(plan: Sequence[Sequence[Reading]], statuses: Sequence[Status]) -> Iterator[Row]:
    groups = Counter[str]()
    for number, (readings, status) in enumerate(zip(plan, statuses, strict=True), 1):
        node = f"node-{number}"
        count = sum(status.published.values())
        yield Row(node=node, name=f"publishes ({PUBLISHERS} threads)", published=count, count=count)
        for reading, (received, dropped) in zip(readings, status.readings, strict=True):
            yield Row(node=node, name=reading.label, received=received, dropped=dropped, count=received)
            if reading.group:
                groups[f"group {reading.group}: {', '.join(reading.patterns)}"] += received
    for name, received in groups.items():
        yield Row(node="all", name=name, received=received, count=received)


def _table(rows: Sequence[Row] | Iterator[Row], seconds: float) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    table.add_column("node", no_wrap=True)
    table.add_column("subscription", no_wrap=True)
    for title in ("published", "expected", "received", "dropped", "events/s"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    for row in rows:
        counts = (row.published, row.expected, row.received, row.dropped, round(row.count / seconds))
        style = "bold" if row.published is not None else "yellow" if row.dropped else ""
        table.add_row(row.node, row.name, *map(_number, counts), _verdict(row), style=style)
    return table


def _number(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def _verdict(row: Row) -> Text:
    if row.faults is None:
        return Text("")
    return Text("NO", "bold red") if row.faults else Text("ok", "green")


def _line(statuses: Sequence[Status], spent: float) -> str:
    published = sum((Counter[Kind](status.published) for status in statuses), Counter[Kind]()).total()
    received = sum(received for status in statuses for received, _ in status.readings)
    dropped = sum(dropped for status in statuses for _, dropped in status.readings)
    return f"{spent:5.1f} s  published {published:,}  received {received:,}  dropped {dropped:,}"
