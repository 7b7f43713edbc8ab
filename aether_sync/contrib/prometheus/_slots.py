"""``Slot``: the files of one process in the directory that the processes of a server share.

They have the format of prometheus-client's own (``prometheus_client.mmap_dict``), and names by which its
``MultiProcessCollector`` reads them with all others: ``counter_``, ``histogram_`` and ``gauge_<mode>_`` before the name
of the slot, ``.db`` behind it.

A slot belongs to the process that has locked its lock file, and the system frees that lock however the process ends,
also by SIGKILL. So nobody has to be told of dead processes:

- A new process takes a slot that is free. It goes on from the counts that its owner before has left, so no counter goes
  down, and there are never more files than processes at the same time.
- Every process removes the gauges of slots that are free.

Somebody may empty the directory while processes live, for instance to start the next release beside the old one. Then
a lock file of the same name is another one, and so may be its owner. A process therefore looks whether its files are
still those of their names before it writes or removes any, and takes another slot if they are not.

The locks are those of ``fcntl.lockf()``, which a forked child does not have. They also are freed when the process that
has one closes *any* file of that name, so no process opens the lock file of its own slot again.
"""

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedRandom
from itertools import count
from pathlib import Path
from time import sleep
from typing import cast

from prometheus_client.mmap_dict import MmapedDict

__all__ = ["Slot", "remove_gauges_of_the_dead", "take_slot"]

_MOMENT = 0.02  # seconds: to remove some files takes a hundredth of that
_NAME = "aether-sync-"  # without an underscore, at which names of files are split
_GAUGES = re.compile(rf"gauge_live\w+_({_NAME}\d+)\.db")


class Slot:
    """The files of one process. One thread at a time uses it.

    Args:
        directory: Where they are.
        name: The name of the slot.
        lock: The open lock file.
    """

    def __init__(self, directory: Path, name: str, lock: int) -> None:
        self.name = name
        self._directory = directory
        self._lock: int | None = lock
        self._files: dict[str, MmapedDict] = {}
        self._bases: dict[tuple[str, str], float] = {}  # what others have counted, by file and key

    @property
    def is_there(self) -> bool:
        """Whether this process still has it: nobody has removed the lock file, nor put another in its place."""
        return self._lock is not None and _is_at(self._lock, _lock_path(self._directory, self.name))

    def forget_removed(self) -> list[str]:
        """Forget the files that somebody has removed; return their kinds. They are made again, and begin with zeros."""
        removed = [kind for kind, file in self._files.items() if not _is_at(file._f.fileno(), self._path(kind))]
        for kind in removed:
            _close(self._files.pop(kind))
        self._bases = {(kind, key): base for (kind, key), base in self._bases.items() if kind not in removed}
        return removed

    def add_to(self, kind: str, key: str, value: float) -> None:
        """Set what this process has counted; the file then holds that and what owners before have counted."""
        file = self._file(kind)
        base = self._bases.get((kind, key))
        if base is None:
            base = self._bases[kind, key] = file.read_value(key)[0]
        file.write_value(key, base + value, 0.0)

    def set_gauges(self, kind: str, values: dict[str, float], *, anew: bool) -> None:
        """Set gauges.

        Args:
            kind: The first part of the file's name.
            values: The values by key; with ``anew`` all of them, otherwise those that have changed.
            anew: Whether to replace the file: there is no way to remove a key. A reader sees the one or the other.
        """
        if not anew:
            file = self._file(kind)
            for key, value in values.items():
                file.write_value(key, value, 0.0)
            return
        self._file(kind)
        old, self._files[kind] = self._files[kind], self._make(kind, values)
        _close(old)

    def _file(self, kind: str) -> MmapedDict:
        file = self._files.get(kind)
        if file is None:
            if self._lock is None:
                raise OSError(f"{self.name} belongs to another process")  # a signal handler has forked meanwhile
            path = self._path(kind)
            file = self._files[kind] = MmapedDict(str(path)) if path.exists() else self._make(kind, {})
        return file

    def _make(self, kind: str, values: dict[str, float]) -> MmapedDict:
        """Make a file, which takes its place when it is whole: a reader fails on one that is empty."""
        path = self._path(kind)
        new = path.with_suffix(".new")
        new.unlink(missing_ok=True)  # of a process that was killed here
        file = MmapedDict(str(new))
        for key, value in values.items():
            file.write_value(key, value, 0.0)
        new.replace(path)
        return file

    def _path(self, kind: str) -> Path:
        return self._directory / f"{kind}_{self.name}.db"

    def free(self) -> None:
        """Leave the counts to another process, and take the gauges along, unless they are of another one already."""
        self.forget(removing_gauges=self.is_there)

    def forget(self, *, removing_gauges: bool = False) -> None:
        """Close the files without a change: those of the parent, in a forked child."""
        for file in self._files.values():
            with suppress(Exception):  # another thread of the parent may just have been opening it
                _close(file)
        self._files.clear()
        if removing_gauges:
            _remove_gauges(self._directory, self.name)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)


def take_slot(directory: Path) -> Slot:
    """Take the first slot that is free, or make one.

    Raises:
        OSError: There is no such directory, or this process may not write there.
    """
    known = len(list(directory.glob(f"{_NAME}*.lock")))
    for pause, numbers in (0.0, range(1, known + 1)), (_MOMENT, count(1)):
        sleep(pause)  # another process may hold a slot for a moment, to remove its gauges
        for number in numbers:
            name = f"{_NAME}{number}"
            lock = _try_lock(_lock_path(directory, name))
            if lock is not None:
                _remove_gauges(directory, name)
                return Slot(directory, name, lock)
    raise AssertionError("numbers do not end")


def remove_gauges_of_the_dead(own: Slot) -> None:
    """Remove the gauges of all slots that are free."""
    directory = own._directory
    with_gauges = {found[1] for one in os.listdir(directory) if (found := _GAUGES.fullmatch(one))}
    for name in with_gauges - {own.name}:
        with _held(_lock_path(directory, name)) as is_free:
            if is_free:
                _remove_gauges(directory, name)


def _close(file: MmapedDict) -> None:
    """Close a file without the lock of its buffer, which a thread of the parent may have held when this one forked."""
    file._m.close()
    cast("BufferedRandom", file._f).raw.close()


def _lock_path(directory: Path, name: str) -> Path:
    return directory / f"{name}.lock"


def _is_at(file: int, path: Path) -> bool:
    """Whether an open file is the one that has a name. The file of that name is not opened, see above."""
    try:
        return os.path.samestat(os.fstat(file), os.stat(path))
    except FileNotFoundError:
        return False


def _remove_gauges(directory: Path, name: str) -> None:
    for path in directory.glob(f"gauge_live*_{name}.db"):
        path.unlink(missing_ok=True)


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a slot, if it is free; the value says whether it is."""
    lock = _try_lock(path)
    try:
        yield lock is not None
    finally:
        if lock is not None:
            os.close(lock)


def _try_lock(path: Path) -> int | None:
    """Lock a file, and return its number; None if another process has it, or it belongs to another user."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except PermissionError:
        if path.exists():
            return None
        raise
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        os.close(file)
        if isinstance(error, BlockingIOError | PermissionError):  # either may say that it is locked
            return None
        raise
    if not _is_at(file, path):  # somebody has removed it meanwhile
        os.close(file)
        return None
    return file
