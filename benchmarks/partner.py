"""Another process that takes part in a case: it sends what is received, or answers.

A *role* is a generator of one job. It gets ready and yields; each time it is resumed it does a part of its work, and
yields again when that is done.
"""

import faulthandler
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

import msgspec

from .cases import WAIT, Job

__all__ = ["Partner", "Role", "partner"]

Role = Callable[[Job], Iterator[None]]


class Partner:
    """The hold that a case has on the other process."""

    def __init__(self, name: str, told: IO[bytes], heard: IO[bytes]) -> None:
        self._name, self._told, self._heard = name, told, heard

    def await_ready(self) -> None:
        """Wait until its role has come to the next yield."""
        if self._heard.readline() != b"ready\n":
            raise RuntimeError(f"the other process, {self._name}, failed")

    def go(self) -> None:
        """Let its role go on from where it has yielded."""
        self._told.write(b"go\n")


@contextmanager
def partner(role: Role, job: Job) -> Iterator[Partner]:
    """Run a role in a process of its own, and wait until it is ready."""
    command = [sys.executable, "-m", __name__, role.__module__, role.__name__, msgspec.json.encode(job).decode()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            one = Partner(role.__name__, process.stdin, process.stdout)
            one.await_ready()
            yield one
        finally:
            process.kill()


def _main(module: str, name: str, job: str) -> None:
    faulthandler.dump_traceback_later(WAIT, exit=True)
    role: Role = getattr(importlib.import_module(module), name)
    for _ in role(msgspec.json.decode(job, type=Job)):
        print("ready", flush=True)
        if not sys.stdin.readline():
            return


if __name__ == "__main__":
    _main(*sys.argv[1:])
