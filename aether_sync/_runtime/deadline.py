"""A timeout, turned once into the moment at which all steps of an operation must be done."""

import math
from threading import TIMEOUT_MAX, Lock, get_ident, main_thread

from .._arguments import check_timeout
from .._values.clock import monotonic

__all__ = ["Deadline"]

_SLICE = 1.0  # seconds


class Deadline:
    """The moment ``timeout`` seconds from now.

    Args:
        timeout: Seconds. 0 means now, None means never.

    Raises:
        InvalidOptionError: ``timeout`` is not a number, NaN, or negative.
    """

    __slots__ = ("_moment", "timeout")

    def __init__(self, timeout: float | None) -> None:
        if type(timeout) is not float or not timeout >= 0:
            timeout = check_timeout("timeout", timeout)
        self.timeout = timeout
        self._moment = math.inf if timeout is None else monotonic() + timeout

    def remaining(self) -> float:
        """Return the seconds that are left: 0.0 when it is over, ``math.inf`` if it never comes."""
        left: float = self._moment - monotonic()
        return left if left > 0 else 0.0

    def timeout_left(self) -> float | None:
        """Return the time that is left, as the timeout of the next step."""
        return None if self.timeout is None else self.remaining()

    def for_lock(self) -> float:
        """Return the time that is left, as ``Lock.acquire(timeout=...)`` takes it."""
        left: float = self._moment - monotonic()
        return 0.0 if left < 0 else left if left < TIMEOUT_MAX else TIMEOUT_MAX

    def acquire(self, lock: Lock) -> bool:
        """Take a lock; return False if this moment came first.

        The main thread waits in slices. CPython looks whether there is a signal, and then begins to wait: a signal that
        comes in between does not end the wait, nor does one that the system gives to another thread. Its handler runs
        when the slice is over.
        """
        left: float = self._moment - monotonic()
        if left <= _SLICE:
            return lock.acquire(True, left if left > 0 else 0.0)
        return lock.acquire(True, _SLICE) or self._acquire_later(lock)

    def _acquire_later(self, lock: Lock) -> bool:
        longest = _SLICE if get_ident() == main_thread().ident else TIMEOUT_MAX
        while True:
            left = self.for_lock()
            if lock.acquire(True, min(left, longest)):
                return True
            if left <= longest:
                return False

    def __str__(self) -> str:
        return "for ever" if self.timeout is None else f"{self.timeout:g} s"
