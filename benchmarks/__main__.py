"""The command: ``python -m benchmarks``; ``--help`` says what else it takes."""

import argparse
import sys
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import msgspec

from . import chart, tables
from .against import slower
from .cases import Case
from .environment import describe, lacking
from .every import chosen
from .report import Report, build
from .runner import Effort, Runs, run
from .servers import running
from .stock import SMALL

_CROWD = 10_000  # subscriptions
_EVENTS = 100_000  # per run
_ENOUGH = 3  # runs
_SIZES = "size"  # the question that compares them


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    options = _parse()
    cases = chosen(options.only)
    if not _asks_for_sizes(options):
        cases = [one for one in cases if one.question.name != _SIZES]
    if options.list:
        print("\n".join(f"{one.name}: {one.title}\n    {one.says}" for one in cases))
        return 0
    effort = _effort(options)
    report, failed = _measure(cases, effort)
    if options.json != "-":
        print("\n".join(tables.lines(report)))
    if options.json:
        _write(options.json, msgspec.json.format(msgspec.json.encode(report)).decode())
    if options.svg:
        chart.draw(report, options.svg)
    complaints = [f"{name} failed" for name in sorted(failed)]
    if options.against and min(report.repeat, options.against.repeat) < _ENOUGH:
        complaints.append(f"--against: with less than {_ENOUGH} runs there is no spread to judge by")
    elif options.against:
        complaints += [f"slower: {text}" for text in slower(report, options.against)]
    for complaint in complaints:
        print(complaint, file=sys.stderr)
    return int(bool(complaints))


def _effort(options: argparse.Namespace) -> Effort:
    if options.quick:
        return Effort(events=1_000, repeat=options.repeat or 1, crowd=100, stock=2_000)
    return Effort(options.events, options.repeat or 5, _CROWD, max(SMALL, options.events))


def _asks_for_sizes(options: argparse.Namespace) -> bool:
    """Whether stores of two sizes are compared: if they are asked for by name, or differ."""
    named = {one.partition("-")[0] for one in options.only or ()}
    return options.quick or _SIZES in named or options.events > SMALL


def _of_group(group: str, effort: Effort) -> Effort:
    """Where there is a store, only its stock grows with the events asked for."""
    return replace(effort, events=min(effort.events, _EVENTS)) if group == "store" else effort


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast bus and store are, as ratios.")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="a case, a question, `bus` or `store`; repeatable"
    )
    parser.add_argument(
        "--events",
        type=int,
        default=_EVENTS,
        help="events per run, or a share of them (%(default)s); of more than 200000, a store is filled with so many",
    )
    parser.add_argument("--repeat", type=int, help="runs of each case, of which the median counts (5; 1 if --quick)")
    parser.add_argument("--quick", action="store_true", help="few events: only to see that all of it works")
    parser.add_argument("--json", metavar="FILE", help="write everything there; with - to stdout, instead of tables")
    parser.add_argument("--svg", metavar="FILE", type=Path, help="draw the ratios there; it takes matplotlib")
    parser.add_argument(
        "--against",
        metavar="FILE",
        type=_earlier,
        help="compare with what --json wrote, and fail if ratios of ours got worse by more than the spread",
    )
    parser.add_argument("--list", action="store_true", help="say what each case measures, and run none")
    options = parser.parse_args()
    if options.svg and (reason := lacking(("matplotlib",))):
        parser.error(f"--svg: {reason}")
    return options


def _earlier(path: str) -> Report:
    try:
        return msgspec.json.decode(Path(path).read_bytes(), type=Report)
    except (OSError, msgspec.DecodeError) as error:
        raise argparse.ArgumentTypeError(f"{path} is no report: {error}") from None


def _measure(cases: list[Case], effort: Effort) -> tuple[Report, set[str]]:
    """Run one group after the other: the servers of one are not there while the other is measured."""
    runs, environment = Runs(), dict[str, str]()
    for name, group in groupby(cases, key=lambda one: one.question.group):
        some = list(group)
        with running({need for one in some for need in one.needs}, {one.place for one in some}) as servers:
            environment = environment or describe(servers.url)
            runs.add(run(some, servers, _of_group(name, effort), _progress))
    _progress("")
    return build(cases, runs, environment, effort), runs.failed


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif text:
        print(text, file=sys.stderr, flush=True)


def _write(path: str, text: str) -> None:
    if path == "-":
        print(text)
    else:
        Path(path).write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
