"""Runs cases in processes of their own, in turn: A B C A B C ..."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from time import monotonic

import msgspec

from .cases import Case, Job, Sample, Servers
from .environment import lacking

__all__ = ["Effort", "Runs", "run"]

_FEWEST = 100  # events

_prefixes = count()


@dataclass(slots=True)
class Runs:
    """What the runs of all cases gave, by the name of the case."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)  # why
    failed: set[str] = field(default_factory=set)  # of those, the ones that should have run

    def add(self, more: "Runs") -> None:
        """Take over the runs of other cases."""
        self.samples |= more.samples
        self.left_out |= more.left_out
        self.failed |= more.failed


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is run."""

    events: int
    repeat: int
    crowd: int
    stock: int


def run(cases: Sequence[Case], servers: Servers, effort: Effort, report: Callable[[str], None]) -> Runs:
    """Run every case so many times; one that cannot run, or fails, is left out from then on."""
    reasons = {one.name: lacking(one.needs) for one in cases}
    runs = Runs(left_out={name: reason for name, reason in reasons.items() if reason is not None})
    progress = _Progress(report)
    for number in range(effort.repeat):
        running = [one for one in cases if one.name not in runs.left_out]
        for at, one in enumerate(running):
            left = len(running) * (effort.repeat - number) - at
            progress.tell(f"round {number + 1} of {effort.repeat}: {one.name}", left)
            _add(runs, one, servers, effort)
    return runs


class _Progress:
    """Says what is running, and how long the rest will take, from how long it took until now."""

    def __init__(self, report: Callable[[str], None]) -> None:
        self._report = report
        self._started = monotonic()
        self._done = 0

    def tell(self, what: str, left: int) -> None:
        if self._done:
            minutes, seconds = divmod(round((monotonic() - self._started) / self._done * left), 60)
            what += f", {minutes} min {seconds:02} s left"
        self._done += 1
        self._report(what)


def _add(runs: Runs, one: Case, servers: Servers, effort: Effort) -> None:
    """Run a case once."""
    events = max(_FEWEST, int(effort.events * one.share))
    prefix = f"bench{os.getpid()}-{next(_prefixes)}"
    crowd, stock = effort.crowd, effort.stock
    job = Job(servers.url, servers.redis, prefix, events, crowd=crowd, stock=stock, stores=servers.stores)
    sample, reason, has_failed = _run(one, job)
    if sample is not None:
        runs.samples.setdefault(one.name, []).append(sample)
        return
    runs.left_out[one.name] = reason
    if has_failed and not one.needs:
        runs.failed.add(one.name)


def _run(one: Case, job: Job) -> tuple[Sample | None, str, bool]:
    """Return a sample, or why there is none, and whether that is a failure."""
    command = [sys.executable, "-m", f"{__package__}.child", one.name, msgspec.json.encode(job).decode()]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, complaints = process.communicate(timeout=job.patience + 10)
        except subprocess.TimeoutExpired:
            return None, f"it did not end within {job.patience} s", True
        finally:
            with suppress(ProcessLookupError):  # its partners too, whatever happened to it
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        lines = complaints.strip().splitlines() or [f"status {process.returncode}"]
        print(complaints, file=sys.stderr)
        return None, f"it failed: {lines[-1]}", True
    answer = msgspec.json.decode(output)
    return (None, answer["left_out"], False) if "left_out" in answer else (answer, "", False)
