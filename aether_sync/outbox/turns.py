"""``Turn``: of the relays of a database that cannot lock rows, one works at a time.

That is for order and economy: two relays would publish each event of the bus twice. What is stored is stored once
anyhow, since the version of an event is in its row before it is stored.
"""

import fcntl
import os
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from .._runtime.fork import ForkAware, fork_aware

__all__ = ["Turn", "turn_file_beside"]


def turn_file_beside(databases: Iterable[Any]) -> str:
    """Return the file of the turns beside a database of SQLite; "" if that is in memory.

    Args:
        databases: What ``PRAGMA database_list`` has returned: number, name and file of each.
    """
    file = next((file for _, name, file in databases if name == "main"), "")
    return f"{file}-relay" if file else ""


class Turn(ForkAware):
    """A lock on a file, which the kernel frees when its process ends, however it ends.

    One thread uses it. A forked child does not have the turn of its parent.

    Args:
        path: The file, which is made if it is not there; "" for none: then the turn is always free.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._file = -1
        fork_aware.add(self)

    def take(self) -> bool:
        """Take the turn, without waiting; return whether this has it."""
        if self._file >= 0 or not self._path:
            return True
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            return False
        except BaseException:
            os.close(file)
            raise
        self._file = file
        return True

    def give_back(self) -> None:
        """Let others have it."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _after_fork(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            with suppress(OSError):  # closing a copy lets the parent keep the lock
                os.close(file)
