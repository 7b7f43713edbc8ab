"""Runs a program, and sees it end in time with nothing to complain of."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..support.common import PATIENCE

ROOT = Path(__file__).parent.parent.parent

#: A fork with threads is what is tested; Python warns of it since 3.12.
FLAGS = ("-X", "dev", "-W", "ignore:This process:DeprecationWarning")


def start(program: Callable[..., Any], *arguments: object, flags: tuple[str, ...] = FLAGS) -> subprocess.Popen[str]:
    """Start a program of ``tests.programs``."""
    module = program.__module__.rpartition(".")[2]
    command = [sys.executable, *flags, "-m", "tests.programs", module, program.__name__, *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # with its children it can be ended, and only they
    )


def finish(process: subprocess.Popen[str], *, within: float = PATIENCE, status: int = 0, says: str | None = "") -> str:
    """Wait for the end of a program; return what it printed.

    Args:
        process: The program.
        within: Seconds.
        status: What it ends with; a signal's number, negative, if it is killed.
        says: What stands in its standard error, which otherwise is empty; None for anything.
    """
    begun = time.monotonic()
    try:
        output, errors = process.communicate(timeout=within)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 6)  # SIGABRT: faulthandler shows where every thread is
        output, errors = process.communicate()
        raise AssertionError(f"it had not ended after {time.monotonic() - begun:.1f} s:\n{output}\n{errors}") from None
    assert process.returncode == status, f"{process.returncode}\n{output}\n{errors}"
    assert says is None or (says in errors if says else not errors), errors
    return output


def run(program: Callable[..., Any], *arguments: object, **how: Any) -> str:
    """Run a program to its end."""
    return finish(start(program, *arguments), **how)
