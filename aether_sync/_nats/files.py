"""Reading of files that others name: in the environment, in a context, in the options of a connection."""

import errno
import os
import stat
from pathlib import Path

__all__ = ["read_file"]

_MAX_BYTES = 1 << 20


def read_file(path: str | Path, at_most: int = _MAX_BYTES) -> bytes:
    """Return the first bytes of a regular file, without waiting.

    Anything else may have no end, or give its content only once; a file with credentials is read for each attempt.

    Raises:
        OSError: There is none, it cannot be read, or is something else, such as a pipe.
        ValueError: No file has such a name.
    """
    with open(path, "rb", opener=_open_at_once) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return file.read(at_most)


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a named pipe is waited for otherwise
