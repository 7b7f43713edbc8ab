"""``python -m tests.checker``."""

import argparse
import sys
from random import SystemRandom

from . import __doc__ as about
from .checking import check
from .faults import FAULTS
from .history import report
from .networks import enter


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.checker", description=(about or "").partition("\n\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="of clients and faults (%(default)g)")
    parser.add_argument("--servers", type=int, default=3, choices=(1, 3), help="and replicas (%(default)s)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="%(default)s")
    parser.add_argument("--longest", type=float, default=12.0, help="seconds that a fault takes (%(default)g)")
    parser.add_argument("--seed", type=int, default=SystemRandom().randrange(10**6), help="another one each time")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    faults = options.faults.split(",")
    if unknown := set(faults) - set(FAULTS):
        parser.error(f"there are no faults {', '.join(sorted(unknown))}")
    if not options.inside:
        print(f"seed {options.seed}", flush=True)
    if "partition" in faults and not options.inside:
        enter("tests.checker", *sys.argv[1:], "--seed", str(options.seed), "--inside")
    history, complaints = check(options.seconds, options.servers, faults, options.seed, options.longest)
    print(report(history, complaints))
    sys.exit(bool(complaints))


if __name__ == "__main__":
    main()
