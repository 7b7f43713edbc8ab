"""The files 0, 1 and 2, which a daemon may have closed."""

import os

__all__ = ["fill_standard_files"]

_STDERR = 2


def fill_standard_files() -> None:
    """Open ``/dev/null`` for those of the files 0, 1 and 2 that are closed, for good.

    Otherwise the next file that is opened gets such a number. What a program prints would go into a socket of ours, and
    libuv ends the process when it closes one.

    Raises:
        OSError: No file can be opened.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(number)
