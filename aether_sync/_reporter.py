"""Log messages, logged on a thread of their own: a log handler is user code, and may block, raise, or call us."""

import logging
import threading
from contextlib import suppress
from itertools import count
from queue import SimpleQueue
from typing import NamedTuple

from ._clock import monotonic

__all__ = ["Burst", "Reporter"]

_numbers = count(1)

logger = logging.getLogger("aether_sync")

_QUEUED_AT_MOST = 1_000  # messages; a handler that blocks for ever costs no more memory than that
_BURSTS_KNOWN = 1_000
_BURST_ENDS_AFTER = 5.0  # seconds of quiet; what comes then is logged again


class Burst:
    """Things of one kind that come close together, of which the first is worth a log record."""

    __slots__ = ("_last",)

    def __init__(self) -> None:
        self._last = float("-inf")

    def opens(self) -> bool:
        """Note one more; True if it is the first after a quiet time."""
        now = monotonic()
        opens = now - self._last > _BURST_ENDS_AFTER
        self._last = now
        return opens


class _Message(NamedTuple):
    level: int
    text: str
    args: tuple[object, ...]


class Reporter:
    """Takes messages on any thread, never blocking, and logs them on a thread started for the first one."""

    def __init__(self) -> None:
        self._messages: SimpleQueue[_Message | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._to_start = [True]  # taken by who starts the thread
        self._bursts: dict[str, Burst] = {}  # by kind

    def warning(self, text: str, *args: object) -> None:
        """Log a warning, soon."""
        self._put(_Message(logging.WARNING, text, args))

    def internal_error(self, what: str) -> None:
        """Log a mistake of ours, soon."""
        self._put(_Message(logging.ERROR, "internal error, please report it: %s", (what,)))

    def info(self, text: str, *args: object) -> None:
        """Log an information, soon."""
        self._put(_Message(logging.INFO, text, args))

    def burst(self, kind: str, text: str, *args: object) -> None:
        """Log a warning unless one of its kind came within the last seconds."""
        if kind not in self._bursts and len(self._bursts) >= _BURSTS_KNOWN:
            self._bursts.clear()
        if self._bursts.setdefault(kind, Burst()).opens():
            self.warning(text, *args)

    def _put(self, message: _Message) -> None:
        if self._messages.qsize() < _QUEUED_AT_MOST:
            self._messages.put(message)
        if self._to_start:
            self._start()

    def _start(self) -> None:
        with suppress(IndexError, RuntimeError):  # another does it; or the interpreter ends: then close() logs
            self._to_start.pop()
            thread = threading.Thread(target=self._run, name=f"aether-log-{next(_numbers)}", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while (message := self._messages.get()) is not None:
            with suppress(Exception):  # of a handler or filter: the next message is logged all the same
                logger.log(message.level, message.text, *message.args)
        self._messages.put(None)  # for another: a thread that a handler's close() came before

    def end(self) -> None:
        """Log what is left, and end the thread."""
        self._messages.put(None)

    def close(self, timeout: float) -> None:
        """End the thread and wait for it; one that a handler holds for longer than ``timeout`` is left behind."""
        self.end()
        if self._thread is None:
            self._run()
        elif self._thread is not threading.current_thread():
            self._thread.join(min(timeout, threading.TIMEOUT_MAX))
