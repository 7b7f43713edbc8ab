"""What the streams of this process have done, and which of them are open."""

from dataclasses import dataclass
from typing import Protocol

from ..._runtime.exit import before_threads_end
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.registry import WeakRegistry
from ..._values.counting import Count

__all__ = ["StreamMetrics", "counts", "metrics", "open_streams"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamMetrics:
    """What the streams of this process have done, in a forked child since the fork: a snapshot that does not change.

    Attributes:
        open: Streams that are being sent now.
        opened: Streams that were begun.
        sent: Events that were given to the web server.
        dropped: Streams that ended because their client was too slow.
    """

    open: int = 0
    opened: int = 0
    sent: int = 0
    dropped: int = 0


class _Endable(Protocol):
    """A stream, as far as the end of the process knows it."""

    @property
    def closed(self) -> bool:
        """Whether it has ended."""

    def _stop(self) -> None:
        """End it: the process is about to end."""


class _Counts(ForkAware):
    """The counts. Any thread; no lock."""

    def __init__(self) -> None:
        self._after_fork()
        fork_aware.add(self)

    def _after_fork(self) -> None:
        for one in open_streams:  # which are the parent's
            open_streams.discard(one)
        self.opened = Count()
        self.sent = Count()
        self.dropped = Count()


#: The streams that were begun and are not collected.
open_streams: WeakRegistry[_Endable] = WeakRegistry()

counts = _Counts()


def metrics() -> StreamMetrics:
    """Return what the streams of this process have done."""
    return StreamMetrics(
        open=sum(not one.closed for one in open_streams),
        opened=counts.opened.count,
        sent=counts.sent.count,
        dropped=counts.dropped.count,
    )


@before_threads_end
def _end_streams() -> None:
    """End every stream when the process is about to end: the web server waits for them."""
    for one in open_streams:
        one._stop()
