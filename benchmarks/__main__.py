"""The command: ``python -m benchmarks``; ``--help`` says what else it takes."""

import argparse
import sys
from pathlib import Path

import msgspec

from . import tables
from .cases import Case
from .environment import describe
from .every import chosen
from .report import Report, build
from .runner import run
from .servers import running

_QUICK = 1_000  # events


def main() -> int:
    """Do what the command line asks for; returns the exit status."""
    options = _parse()
    cases = chosen(options.only)
    if options.list:
        print("\n".join(f"{one.name}: {one.title}\n    {one.says}" for one in cases))
        return 0
    report, failed = _measure(cases, *((_QUICK, 1) if options.quick else (options.events, options.repeat)))
    if options.json != "-":
        print("\n".join(tables.lines(report)))
    if options.json:
        _write(options.json, msgspec.json.format(msgspec.json.encode(report)).decode())
    if failed:
        print(f"failed: {', '.join(sorted(failed))}", file=sys.stderr)
    return int(bool(failed))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="How fast the bus is, as ratios.")
    parser.add_argument("--only", metavar="NAME", action="append", help="a case or a question; may be repeated")
    parser.add_argument("--events", type=int, default=100_000, help="events per run, or a share of them (%(default)s)")
    parser.add_argument(
        "--repeat", type=int, default=5, help="runs of each case, of which the median counts (%(default)s)"
    )
    parser.add_argument(
        "--quick", action="store_true", help=f"{_QUICK:,} events, once: only to see that all of it works"
    )
    parser.add_argument("--json", metavar="FILE", help="write everything there; with - to stdout, instead of tables")
    parser.add_argument("--list", action="store_true", help="say what each case measures, and run none")
    return parser.parse_args()


def _measure(cases: list[Case], events: int, repeat: int) -> tuple[Report, set[str]]:
    with running({need for one in cases for need in one.needs}) as servers:
        environment = describe(servers[0])
        runs = run(cases, servers, events, repeat, _progress)
    _progress("")
    return build(cases, runs, environment, events, repeat), runs.failed


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
