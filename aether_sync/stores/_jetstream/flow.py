"""``Flow``: what followers and consumptions have in common: messages that are pulled, and renewed when they break off.

A thread of its own renews a flow, because a caller may have too little time for that. It ends when messages flow again,
when they cannot, or when the flow is closed.
"""

from itertools import count
from math import inf
from threading import RLock, Thread

from ..._nats.channel import Channel
from ..._runtime.again import again
from ..._runtime.closing import Closeable
from ..._runtime.deadline import Deadline
from ..._runtime.exit import before_threads_end, is_ending
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.registry import WeakRegistry
from ..._runtime.threads import NoThreadError, make_thread, start
from ...errors import (
    AetherError,
    DeadlineExceededError,
    RetryableError,
    StoreClosedError,
    StoreError,
)
from .pull import PullRequester
from .tries import Pause

__all__ = ["Flow", "close_by"]

_RENEW = 5.0  # seconds to begin a flow, then again
_AT_EXIT = 1.0  # seconds in which flows that nobody has closed give back what is on its way to them
_FOR_EVER = Deadline(None)
_NO_THREAD = 0.1  # seconds until it is tried again to start a thread
_LACKS = (MemoryError, OSError)  # a lack of memory or files: it passes

_numbers = count(1)


class Flow(Closeable, ForkAware):
    """Messages that are requested by the threads that take them, until the flow is closed or fails.

    Args:
        channel: What is used of the connection.
        requester: Requests the messages.
        lock: Guards the fields of the subclass, and those here.
    """

    def __init__(self, channel: Channel, requester: PullRequester, lock: RLock) -> None:
        self._channel = channel
        self._requester = requester
        self._buffer = requester.buffer
        self._lock = lock
        self._renewer: Thread | None = None  # who begins a flow
        self._closed = False
        self._failure: AetherError | None = None  # why nothing more comes
        fork_aware.add(self)

    def _admit(self) -> None:
        """Register it to be closed when the main thread ends; called before it begins.

        Raises:
            StoreClosedError: The main thread has ended.
        """
        _iterations.add(self)  # before the check: what is registered before the end is closed with the others
        if is_ending():
            raise StoreClosedError(f"{self!r} does not begin any more: this process is about to end")

    def _renew(self, deadline: Deadline) -> None:
        """Begin another flow, after what has arrived."""
        raise NotImplementedError

    def _has_some(self) -> bool:
        """Whether something can be taken or read."""
        return bool(self._buffer.arrived)

    @property
    def is_connected(self) -> bool:
        """Whether the server delivers events now."""
        return not self._has_ended() and self._channel.is_connected and self._buffer.silence() > 0

    @property
    def closed(self) -> bool:
        """Whether it has ended: it or its store was closed, or it failed for good."""
        return self._closed

    def _await(self, deadline: Deadline, at_most: float = inf) -> None:
        """Wait for messages, and renew the flow if it has broken off.

        Args:
            deadline: Of the caller.
            at_most: Seconds after which it returns, whether messages have come or not.

        Raises:
            DeadlineExceededError: No message came in time.
        """
        buffer = self._buffer
        error = self._failure or buffer.error
        if error is not None:
            raise again(error)
        if buffer.silence():
            is_begun = True
            self._requester.request_more()  # the last request may have ended without a message
        else:
            is_begun = self._ensure_renewal()
        was_broken, patience = buffer.is_broken, buffer.silence() if is_begun else _NO_THREAD

        def ready() -> bool:
            changed = buffer.is_broken is not was_broken or not (buffer.asked or was_broken)
            return changed or self._has_ended() or self._has_some()

        left = deadline.remaining()
        came = buffer.changed.wait(ready, Deadline(min(left, patience or left, at_most)))
        if not came and not deadline.remaining():
            raise self._nothing_within(deadline)

    def _nothing_within(self, deadline: Deadline) -> DeadlineExceededError:
        return DeadlineExceededError(f"no event for {self!r} within {deadline}{self._channel.why_disconnected()}")

    def _has_ended(self) -> bool:
        return self._closed or self._failure is not None or self._buffer.error is not None

    def _ensure_renewal(self) -> bool:
        """Start a thread that renews the flow, unless one does; return whether there is a thread."""
        buffer = self._buffer
        with self._lock:
            if buffer.silence():  # it was renewed just now
                return True
            buffer.break_off()
            if self._renewer is not None and self._renewer.is_alive():
                return True
            self._renewer = renewer = make_thread(self._renew_until_it_flows, name=f"aether-flow-{next(_numbers)}")
        try:
            start(renewer)
        except NoThreadError as error:
            if not error.is_passing:
                buffer.end(StoreClosedError(f"{self!r} cannot go on: {error}"))
            return not error.is_passing
        return True

    def _renew_until_it_flows(self) -> None:
        pause = Pause(_FOR_EVER, longest=1.0)
        while not self._has_ended():
            try:
                self._renew(Deadline(_RENEW))
            except (RetryableError, *_LACKS):
                pause.take()
            except AetherError as error:
                if not self._closed:  # else the error only comes from closing it
                    self._failure = error
            except Exception as mistake:  # of this library: callers would wait for ever
                self._failure = StoreError(f"{self!r} cannot go on: {mistake!r}")
            else:
                break
        self._buffer.changed.wake_all()

    def _end(self) -> AetherError:
        """Return the error that a caller gets when the flow has ended."""
        failure = self._failure
        return StoreClosedError(f"{self!r} is closed") if failure is None else again(failure)

    def _close_by(self, deadline: Deadline) -> None:
        """As :meth:`close`, within a deadline."""
        self.close()

    def _after_fork(self) -> None:
        self._closed = self._requester.is_over = True
        self._failure = StoreClosedError(f"{self!r} was made before the fork, and is its parent's: make another here")
        self._buffer.changed.wake_all()


def close_by(flow: Flow, deadline: Deadline) -> None:
    """Close one of several flows for which there is one deadline."""
    flow._close_by(deadline)


_iterations: WeakRegistry[Flow] = WeakRegistry()


@before_threads_end
def _end_iterations() -> None:
    """Close every flow when the main thread ends: Python then waits for the other threads, which may iterate them."""
    deadline = Deadline(_AT_EXIT)
    for iteration in _iterations:
        close_by(iteration, deadline)
