"""``StopSignals``: SIGTERM and SIGINT while a program works: the first one ends it in order, a second one at once."""

import os
import signal
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Self

from .._runtime.signals import OwnHandlers
from .._values.clock import monotonic
from ..errors import WorkerError

__all__ = ["StopSignals"]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SAME = 0.5  # seconds: Ctrl-C reaches all processes of a terminal, and who supervises them passes it on as well


class StopSignals:
    """Notes the signals in a ``with`` statement; afterwards, and in a forked child, the handlers of before are back.

    Args:
        wake: Called when one has come. It runs in the signal handler.

    Raises:
        WorkerError: This is not the main thread, where alone Python lets signals be handled.
    """

    def __init__(self, wake: Callable[[], object]) -> None:
        self.first: signal.Signals | None = None  #: the first that came
        self._at = 0.0
        self._wake = wake
        self._handlers = OwnHandlers(self._handle)

    def __enter__(self) -> Self:
        try:
            for one in _SIGNALS:
                self._handlers.set(one)
        except ValueError:
            raise WorkerError(
                "run() handles signals, which Python does in the main thread alone: call start() here, and drain() at "
                "the end"
            ) from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handlers.restore()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        now = monotonic()
        if self.first is None:
            self.first, self._at = signal.Signals(number), now
            self._wake()
        elif now - self._at > _SAME:
            os._exit(128 + number)
