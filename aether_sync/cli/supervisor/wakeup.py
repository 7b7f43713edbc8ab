"""``Wakeup``: what ends the wait of the supervisor: signals, and other threads."""

import os
import signal
from types import FrameType

from .messages import SIGNALS

__all__ = ["Wakeup"]


class Wakeup:
    """Collects the signals that end the program. The main thread makes it.

    Every signal that has a handler, and each :meth:`wake`, makes it readable, so that none is missed that comes just
    before a wait.
    """

    def __init__(self) -> None:
        self._came, self._write = os.pipe()
        for end in (self._came, self._write):
            os.set_blocking(end, False)
        self._signals: list[int] = []
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # without a handler, nothing would be written
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as SIGHUP is under nohup
                signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals.append(number)

    def fileno(self) -> int:
        """Return the number of the file that can be read when something has come."""
        return self._came

    def wake(self) -> None:
        """End the wait; any thread may call this."""
        try:
            os.write(self._write, b"\0")
        except BlockingIOError:
            pass  # it is full, so the wait ends anyway

    def take(self) -> list[int]:
        """Return the signals that have come since the last call, and be silent until the next one."""
        try:
            while os.read(self._came, 4_096):
                pass
        except BlockingIOError:
            pass
        taken, self._signals = self._signals, []
        return taken
