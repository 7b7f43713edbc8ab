"""The engine of a connection: its loop thread and its link, from the first use to the end."""

import math
from functools import partial

from .._runtime.deadline import Deadline
from .._runtime.event_loop import new_loop
from .._runtime.listeners import Listeners
from .._runtime.loop_thread import LoopThread
from .._runtime.reporter import Kind, Reporter, last_words, log_close
from ..errors import BusClosedError, ConnectError, DeadlineExceededError
from ..metrics import CloseReport
from .link import Link, LinkState
from .options import LinkOptions
from .outbox import Outbox

__all__ = ["Engine"]

_HARD_CLOSE = 0.5  # seconds of a close's deadline that are kept for what follows the flush, or 30% if that is less
_AT_LEAST = 0.1  # seconds for what follows the flush in any case; usually it takes a millisecond


class Engine:
    """What runs for a connection. It does not know the connection, which can therefore be collected.

    Attributes:
        link: The link, which runs on the loop.
        loop: The loop, and its thread.
        ping_interval: Seconds between two PINGs.
    """

    def __init__(self, options: LinkOptions, outbox: Outbox, reporter: Reporter, listeners: Listeners) -> None:
        self._reporter = reporter
        self._listeners = listeners
        self._is_closing = False
        self.link = Link(options, outbox, reporter, listeners)
        loop = new_loop(
            options.fast, warn=partial(reporter.warning, Kind.EVENT_LOOP, "asyncio's own event loop is used: %s")
        )
        self.loop = LoopThread(loop, reporter.internal_error, last=self._end)
        self._outbox = outbox
        self._connect_timeout = options.connect_timeout
        self.ping_interval = options.ping_interval
        self._first_deadline = Deadline(options.connect_timeout)
        self.loop.post(self.link.start)

    def _end(self) -> None:
        """End the link with its loop, for whatever reason that has ended."""
        self.link.end()
        if not self._is_closing:
            self._listeners.end(None, "the thread of the connection has ended")

    def discard(self) -> bool:
        """Close an engine that has no thread; returns False if it has one."""
        return self.loop.discard()

    def await_first_attempt(self) -> None:
        """Wait for the first connection, until a deadline that is the same for all threads that wait.

        Raises:
            ConnectError: The attempt failed, or the deadline came; then no thread waits for it any more.
        """
        self.loop.refuse_own_thread()
        first = self.link.first
        try:
            first.wait(self._first_deadline)
        except DeadlineExceededError:
            first.fail(self.link.connect_error(in_time=True))
            first.wait(self._first_deadline)

    def await_connection(self, deadline: Deadline, *, as_first: bool) -> None:
        """Wait until there is, or ever was, a connection. If it is lost, the caller waits for its answer anyway.

        Args:
            deadline: For the wait.
            as_first: Whether to wait no longer than a first attempt may take, as long as that is not over.

        Raises:
            ConnectError: There never was a connection. Raised at once if no server will have us.
            BusClosedError: The connection was closed meanwhile.
        """
        self.loop.refuse_own_thread()
        link = self.link
        if as_first and not link.first.done:  # as if this call had begun the attempt
            deadline = Deadline(min(deadline.remaining(), self._connect_timeout))
        link.changed.wait(
            lambda: link.was_connected or link.connector.is_refused or link.state is LinkState.CLOSED,
            deadline,
        )
        if link.state is LinkState.CLOSED:
            raise BusClosedError("the connection is closed")
        if not link.was_connected:
            error = link.connect_error(in_time=True)
            if as_first and not self._first_deadline.remaining():
                link.first.fail(error)  # no thread waits for it any more
            raise error

    def close(self, deadline: Deadline, name: str) -> CloseReport:
        """Flush, close the link, and end the loop and the reporter. What is left undone is logged under this name."""
        self._is_closing = True
        remaining = deadline.remaining()
        grace = None if math.isinf(remaining) else max(remaining - _HARD_CLOSE, remaining * 0.7)
        end = Deadline(None if grace is None else max(remaining, _AT_LEAST))
        timed_out = False
        try:
            self.loop.start()  # an exception may have kept another call from it
            self.loop.call(self.link.close, grace, deadline=end)
        except (ConnectError, DeadlineExceededError):  # there is no thread, or not enough time
            timed_out = True
        except BusClosedError:  # an interrupted close has ended it; what that left undone is counted below
            pass
        last = Deadline(5.0 if grace is None else max(end.remaining(), _AT_LEAST))
        ended = self.loop.stop(last)  # and with it the link, even if its own close has not begun
        account = self.link.pump.account()
        self.link.pump.mark_reported(account)
        unsent = self._outbox.depth()[0]
        in_flight = 0 if ended else self._outbox.position() - self.link.pump.settled - unsent
        report = CloseReport(
            unsent=unsent,
            uncertain=account.uncertain + max(0, in_flight),
            rejected=account.rejected,
            timed_out=timed_out or not ended,
        )
        log_close(self._reporter, name, report)
        self._listeners.end(report)
        self._reporter.close(last_words(last))
        return report

    @property
    def closed(self) -> bool:
        """Whether its connection was closed, perhaps before this engine was used."""
        return self._outbox.closed

    def forsake(self) -> None:
        """Flush once and end, in the background. Takes no lock: for finalizers."""
        self.loop.call_soon(self.link.forsake)
