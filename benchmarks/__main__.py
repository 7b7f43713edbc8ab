"""The command: ``python -m benchmarks [--only NAME] [--events N] [--repeat N] [--json] [--list]``."""

import argparse
import faulthandler
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import groupby

from aether_sync import NatsServer

from . import nodes, publish, receive, threads  # noqa: F401  # they register their cases
from .cases import CASES, WAIT, Case, Job
from .runner import Result, baseline_of, run

_HEADINGS = {
    "receive": "Receive: server to thread",
    "publish": "Publish: thread to server",
    "threads": "One process: thread to thread",
    "nodes": "Process to process through a server",
    "latency": "Latency, an event every millisecond",
}


def main() -> None:
    """Run what the command line asks for."""
    options = _parse()
    if options.case:
        faulthandler.dump_traceback_later(WAIT, exit=True)
        job = Job(options.url, f"bench{os.getpid()}", options.events)
        print(json.dumps(CASES[options.case].run(job)))
        return
    cases = _chosen(options.only)
    if options.list:
        for case in cases:
            print(f"{case.name}: {case.title}\n    {case.says}")
        return
    with NatsServer(jetstream=False, config="max_pending: 1GB") as server:  # for slow receivers
        results = run(cases, server.url, options.events, options.repeat, _progress)
    _progress("")
    print("\n".join(_as_json(results) if options.json else _tables(results)))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Events per second, and ratios.")
    parser.add_argument("--only", metavar="NAME", action="append", help="a case or a direction; may be repeated")
    parser.add_argument("--events", type=int, default=100_000, help="events per repetition (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="repetitions, of which the median counts (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print every sample")
    parser.add_argument("--list", action="store_true", help="say what each case measures, and run none")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    return parser.parse_args()


def _chosen(only: list[str] | None) -> list[Case]:
    """Find the cases to run, with what they are compared with."""
    if only is None:
        only = list(_HEADINGS)
    wanted = [case for case in CASES.values() if case.name in only or case.direction in only]
    if not wanted:
        raise SystemExit(f"no such case or direction; there are: {', '.join(CASES)}")
    names = {case.name for one in wanted for case in (one, baseline_of(one))}
    chosen = [case for case in CASES.values() if case.name in names]
    return sorted(chosen, key=lambda case: list(_HEADINGS).index(case.direction))


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _as_json(results: Iterable[Result]) -> Iterator[str]:
    rows = [
        {
            "case": result.case.name,
            "says": result.case.says,
            "median": {key: result.median(key) for key in result.keys},
            "ratio": result.ratio if result.samples else None,
            "samples": result.samples,
        }
        for result in results
    ]
    yield json.dumps(rows, indent=2)


def _tables(results: Iterable[Result]) -> Iterator[str]:
    for direction, group in groupby(results, key=lambda result: result.case.direction):
        rows = list(group)
        columns = ("p50", "p99", "p50 ratio") if direction == "latency" else ("events/s", "ratio", "CPU/event")
        cells = [(_HEADINGS[direction], *columns), *map(_row, rows)]
        widths = [max(len(row[at]) if at < len(row) else 0 for row in cells) for at in range(len(cells[0]))]
        rule = tuple("-" * width if at == 0 else "-" * (width - 1) + ":" for at, width in enumerate(widths))
        for row in (cells[0], rule, *cells[1:]):
            padded = (
                cell.rjust(width) if at else cell.ljust(width)
                for at, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            yield f"| {' | '.join(padded)} |"
        yield ""


def _row(result: Result) -> tuple[str, ...]:
    if not result.samples:
        return (result.case.title, "another issue", "", "")
    ratio = f"{result.ratio:.2f}"
    if "rate" in result.keys:
        return (result.case.title, f"{result.median('rate'):,.0f}", ratio, f"{result.median('cpu') * 1e6:.1f} µs")
    return (result.case.title, *(f"{result.median(key) * 1e6:,.0f} µs" for key in ("p50", "p99")), ratio)


if __name__ == "__main__":
    main()
