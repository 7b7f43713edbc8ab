"""The engine of a connection: its loop thread, its link, and the thread that logs for them, from first use to end."""

import math

from ._deadline import Deadline
from ._loop import LoopThread
from ._nats.link import Link
from ._nats.options import ConnectOptions
from ._nats.pump import Account
from ._nats.reporter import Reporter
from ._queues import Outbox
from .bus import CloseReport
from .errors import BusClosedError, DeadlineExceededError

__all__ = ["Engine"]

_HARD_CLOSE = (
    0.5  # seconds, of a close's deadline, for what comes after the flush; taken also when there is no more time
)


class Engine:
    """What runs for a connection. It knows nothing of the connection, which can so be collected."""

    def __init__(self, options: ConnectOptions, outbox: Outbox) -> None:
        self._reporter = Reporter()
        self.loop = LoopThread(self._reporter.internal_error)
        self.link = Link(options, outbox, self._reporter)
        self._outbox = outbox
        self._first_deadline = Deadline(options.connect_timeout)
        self.loop.post(self.link.start)

    def await_first_attempt(self) -> None:
        """Wait for the first connection, until one deadline for all who wait for it.

        Raises:
            ConnectError: It failed, or the deadline came: then nobody waits for it any more.
        """
        self.loop.refuse_own_thread()
        first = self.link.first
        if not first.done:
            try:
                first.wait(self._first_deadline)
            except DeadlineExceededError:
                first.fail(self.link.connect_error())
                first.wait(self._first_deadline)

    def close(self, deadline: Deadline) -> CloseReport:
        """Flush, close the link, end both threads."""
        remaining = deadline.remaining()
        grace = None if math.isinf(remaining) else max(0.0, remaining - _HARD_CLOSE)
        hard = Deadline(None) if grace is None else Deadline(grace + _HARD_CLOSE)
        timed_out = False
        account = Account()
        try:
            account = self.loop.call(self.link.close, grace, deadline=hard)
        except (DeadlineExceededError, BusClosedError):
            timed_out = True
        ended = self.loop.stop(Deadline(_HARD_CLOSE))
        self._reporter.close(_HARD_CLOSE)
        return CloseReport(
            unsent=self._outbox.depth()[0],
            uncertain=account.uncertain,
            rejected=account.rejected,
            timed_out=timed_out or not ended,
        )

    def forsake(self) -> None:
        """Flush once and end, in the background. Takes no lock: for finalizers."""
        self.loop.nudge(self.link.forsake)
