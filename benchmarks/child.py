"""One run of one case in a process of its own: ``python -m benchmarks.child CASE JOB``."""

import faulthandler
import sys

import msgspec

from .cases import WAIT, CannotMeasureError, Job
from .every import CASES

if __name__ == "__main__":
    name, job = sys.argv[1:]
    faulthandler.dump_traceback_later(WAIT, exit=True)
    try:
        answer: object = CASES[name].run(msgspec.json.decode(job, type=Job))
    except (CannotMeasureError, ImportError) as error:
        answer = {"left_out": str(error)}
    print(msgspec.json.encode(answer).decode())
