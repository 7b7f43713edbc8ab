"""One run of one case in a process of its own: ``python -m benchmarks.child CASE JOB``."""

import faulthandler
import sys

import msgspec

from .cases import CannotMeasureError, Job
from .every import CASES

if __name__ == "__main__":
    name, job = sys.argv[1], msgspec.json.decode(sys.argv[2], type=Job)
    faulthandler.dump_traceback_later(job.patience, exit=True)
    try:
        answer: object = CASES[name].run(job)
    except (CannotMeasureError, ImportError) as error:
        answer = {"left_out": str(error)}
    print(msgspec.json.encode(answer).decode())
