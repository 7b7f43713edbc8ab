"""The progress of a command, shown on a terminal."""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import BinaryIO

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

__all__ = ["Advance", "progress", "progress_of_input"]

#: Called with how much further it is, and how many events that makes in all.
Advance = Callable[[int, int], None]


@contextmanager
def progress(total: int | None, console: Console | None = None) -> Iterator[Advance]:
    """Show the progress on a terminal, towards a total if that is known."""
    console = console or Console(stderr=True)
    if not console.is_terminal:
        yield lambda further, events: None
        return
    columns = (
        SpinnerColumn(),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%" if total else ""),
        TextColumn("{task.fields[events]:,} events"),
        TimeRemainingColumn() if total else TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as shown:
        task = shown.add_task("", total=total, events=0)
        yield lambda further, events: shown.update(task, advance=further, events=events)


@contextmanager
def progress_of_input(file: BinaryIO) -> Iterator[Advance]:
    """Show how many bytes of a file are read, unless it is typed on a terminal."""
    if file.isatty():
        yield lambda further, events: None
        return
    status = os.fstat(file.fileno())
    with progress(status.st_size if stat.S_ISREG(status.st_mode) else None) as advance:
        yield advance
