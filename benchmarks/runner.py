"""Runs cases in processes of their own, in turn, and sums up what they measured."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from statistics import median

from .cases import CASES, WAIT, Case, Sample

__all__ = ["Result", "baseline_of", "run"]


@dataclass(frozen=True, slots=True)
class Result:
    """What the repetitions of a case gave."""

    case: Case
    samples: list[Sample]
    ratio: float  # to the baseline of its direction, each round by itself

    def median(self, key: str) -> float:
        return median(sample[key] for sample in self.samples)

    @property
    def keys(self) -> list[str]:
        return list(self.samples[0]) if self.samples else []


def baseline_of(case: Case) -> Case:
    """What a case is compared with: the first of its direction."""
    return next(other for other in CASES.values() if other.direction == case.direction)


def run(cases: Sequence[Case], url: str, events: int, repeat: int, report: Callable[[str], None]) -> list[Result]:
    """Run every case ``repeat`` times, A B C A B C ..."""
    samples: dict[str, list[Sample]] = {case.name: [] for case in cases}
    for number in range(repeat):
        for case in cases:
            if case.run is not None:
                report(f"round {number + 1} of {repeat}: {case.name}")
                samples[case.name].append(_run_once(case, url, events))
    return [Result(case, samples[case.name], _ratio(samples, case)) for case in cases]


def _ratio(samples: dict[str, list[Sample]], case: Case) -> float:
    pairs = zip(samples[case.name], samples[baseline_of(case).name], strict=False)
    ratios = [next(iter(mine.values())) / next(iter(base.values())) for mine, base in pairs]
    return median(ratios) if ratios else float("nan")


def _run_once(case: Case, url: str, events: int) -> Sample:
    command = [sys.executable, "-m", __package__, "--case", case.name]
    command += ["--url", url, "--events", str(max(1_000, int(events * case.share)))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=WAIT + 10)
        finally:
            with suppress(ProcessLookupError):  # its feeders too, whatever happened to it
                os.killpg(process.pid, signal.SIGKILL)
    if process.returncode:
        raise SystemExit(f"{case.name} failed, with status {process.returncode}")
    sample: Sample = json.loads(output)
    return sample
