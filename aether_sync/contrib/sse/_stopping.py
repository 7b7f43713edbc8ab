"""``end_at_stop``: responses that wait for events end when the process is told to stop, so that the server can stop."""

import signal
from types import FrameType
from typing import Any

from ..._runtime.exit import end_iterations

__all__ = ["end_at_stop"]


def end_at_stop(*signals: signal.Signals) -> None:
    """End all streams and iterations of this process at these signals, besides what is done at them now.

    A web server that is told to stop waits for its responses, and they wait for events. Call this on the main thread
    when the server has set its own handlers: with uvicorn in the ``lifespan``. The workers of gunicorn have
    ``aether_sync.contrib.gunicorn``. What ends is in :func:`end_iterations`.

    Args:
        *signals: None means SIGTERM and SIGINT.

    Raises:
        ValueError: This is not the main thread, which Python requires for that.
    """
    for number in signals or (signal.SIGTERM, signal.SIGINT):
        _chain(number)


def _chain(number: signal.Signals) -> None:
    before: Any = signal.getsignal(number)

    def stop(got: int, frame: FrameType | None) -> None:
        try:
            if callable(before):
                before(got, frame)
        finally:
            end_iterations()
        if before == signal.SIG_DFL:  # what was to end the process still does
            signal.signal(got, signal.SIG_DFL)
            signal.raise_signal(got)

    signal.signal(number, stop)
