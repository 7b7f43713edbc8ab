"""Consuming: the events of a store, shared out among all processes that ask for them under one name.

The server remembers for each name what was delivered and what acknowledged. What is not acknowledged in time it
delivers again, to any of them, up to a number of times; then the event goes to the poison place.
"""

import weakref
from time import monotonic
from types import TracebackType
from typing import Self

from .._checks import check_count
from .._deadline import Deadline
from .._exit import before_threads_end
from .._fork import Heir, heirs
from .._lifetime import warn_unclosed
from .._nats.interest import Message
from .._waiting import Living, outside_guards
from ..connection import Connection
from ..errors import (
    AetherError,
    ConnectError,
    DeadlineExceededError,
    DisconnectedError,
    StoreClosedError,
    StoreUnavailableError,
)
from ._pull import Pulling
from ._sources import Source
from .delivery import ACK, Delivery, Desk, Keeper

__all__ = ["Consumption"]

_BEGIN = 5.0  # seconds to find the consumer again, then once more
_DRAIN = 1.0  # seconds for what is on its way to one who closes


class Consumption(Heir):
    """Deliveries of a durable consumer: a blocking iterator. Several threads may iterate it, each gets others.

    Nothing is dropped: what nobody takes waits in the store. It goes on where it was after reconnects, restarts of the
    server and changes of the leader; an event that was not acknowledged by then may come twice.

    Iteration ends when it or its store is closed, from any thread. What was delivered to it and not taken is given back
    at once; what was taken can still be acknowledged.

    An exception raised by a signal handler (Ctrl-C, a soft time limit) leaves a blocked or busy iterator usable; the
    one event that was in hand at that moment comes again when its ack wait is over.
    """

    def __init__(
        self,
        connection: Connection,
        stream: str,
        consumer: str,
        prefetch: int,
        ack_wait: float,
        source: Source,
    ) -> None:
        self._connection = connection
        self._name = f"{consumer!r} of {stream!r}"
        self._consumer = consumer
        self._source = source
        self._pulling = Pulling(connection, stream, prefetch, drains=True)
        self._inflow = self._pulling.inflow
        self._lock = self._inflow.lock  # guards the fields below
        self._beginner_until = 0.0  # when who begins again must be done, else another does it
        self._closed = False
        self._failure: AetherError | None = None
        self._keeper = Keeper(connection, self._inflow, ack_wait)
        self._desk = Desk(connection, self._keeper, source.bury)
        self._finalizer = weakref.finalize(self, _abandon, connection, self._pulling, self._keeper, repr(self))
        self._finalizer.atexit = False
        heirs.add(self)
        _consumptions.add(self)

    # -- taking

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Delivery:
        try:
            return self.get()
        except StoreClosedError:
            if self._failure is not None:
                raise
            raise StopIteration from None

    def get(self, timeout: float | None = None) -> Delivery:
        """Take the next delivery, waiting for it if need be.

        Args:
            timeout: Seconds; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: None came in time.
            StoreClosedError: It is closed.
            StoreError: The consumer was deleted meanwhile.
        """
        deadline = Deadline(timeout)
        while True:
            found = self._take()
            if found is not None:
                return found
            if self._closed:
                raise self._end()
            self._await(deadline)

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[Delivery]:
        """Take what is there, up to a number, waiting only for the first; ``[]`` if none came in time.

        Raises:
            StoreClosedError: It is closed.
        """
        check_count("max_events", max_events)
        try:
            batch = [self.get(timeout)]
        except DeadlineExceededError:
            return []
        while len(batch) < max_events and (found := self._take()) is not None:
            batch.append(found)
        return batch

    def _take(self) -> Delivery | None:
        """Take what has come, past what is not wanted."""
        passed: list[bytes] = []
        try:
            while (message := self._pop()) is not None:
                found = self._source.read(message, self._desk, passed)
                if found is not None:
                    return found
            return None
        finally:
            self._keeper.tell(passed, ACK)

    def _pop(self) -> Message | None:
        with self._lock:
            message = None if self._closed or not self._inflow.arrived else self._inflow.arrived.popleft()
        if not self._closed:
            self._pulling.ask()
        return message

    def _await(self, deadline: Deadline) -> None:
        """Wait for more, or see that more can come."""
        inflow = self._inflow
        if inflow.error is not None:
            raise type(inflow.error)(*inflow.error.args)
        if not inflow.silence():
            self._begin_again(deadline)
            return

        def ready() -> bool:
            return bool(inflow.arrived or not inflow.asked or inflow.is_broken or inflow.error or self._closed)

        came = inflow.changed.wait(ready, Deadline(min(deadline.remaining(), inflow.silence())))
        if not came and not deadline.remaining():
            raise DeadlineExceededError(f"no event for {self!r} within {deadline}")

    # -- beginning

    def begin(self, deadline: Deadline, *, first: bool = False) -> None:
        """Pull from the consumer, which is there; what has come already is kept, if it is still this one's."""
        self._pulling.subscribe(deadline)
        if first:
            self._keeper.begin()
        with self._lock:
            if not self._closed:
                self._pulling.begin(self._consumer, keep=not self._keeper.is_late())

    def _begin_again(self, deadline: Deadline) -> None:
        """Find the consumer again, or wait for the thread that does."""
        with self._lock:
            busy = max(0.0, self._beginner_until - monotonic())
            if not busy:
                self._beginner_until = monotonic() + _BEGIN + 1
        if busy:
            self._inflow.changed.wait(
                lambda: not self._inflow.is_broken or self._closed, Deadline(min(busy, deadline.remaining()))
            )
        else:
            self._find(Deadline(min(_BEGIN, deadline.remaining())))
        if not deadline.remaining():
            raise DeadlineExceededError(f"no event for {self!r} within {deadline}{self._connection.why_not()}")

    def _find(self, deadline: Deadline) -> None:
        try:
            self._source.look(self._consumer, deadline)
            self.begin(deadline)
        except (DeadlineExceededError, ConnectError, DisconnectedError, StoreUnavailableError):
            pass  # again, as long as there is time
        except AetherError as error:
            self._failure = error
            self.close()
            raise
        finally:
            self._beginner_until = 0.0

    # -- state

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called, or the consumer was deleted."""
        return self._closed

    # -- ending

    def close(self) -> None:
        """End, release every thread that waits here, and give back what was not taken. Idempotent, from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._inflow.changed.wake_all()
        self._finalizer.detach()
        self._pulling.close()
        with outside_guards():
            self._pulling.await_last(Deadline(_DRAIN))
        self._keeper.give_back()

    def _end(self) -> AetherError:
        return self._failure or StoreClosedError(f"{self!r} is closed")

    def _after_fork(self) -> None:
        self._finalizer.detach()
        self._closed = True
        self._failure = StoreClosedError(f"{self!r} was made before the fork, and is its parent's: consume again here")
        self._inflow.changed.wake_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Consumption {self._name}{' closed' if self._closed else ''}>"


_consumptions: Living[Consumption] = Living()


@before_threads_end
def _end_consuming() -> None:
    """Let every iteration end: Python waits for the normal threads in which it goes on."""
    for consumption in _consumptions:
        consumption.close()


def _abandon(connection: Connection, pulling: Pulling, keeper: Keeper, name: str) -> None:
    """A consumption was dropped without ``close()``: called by its finalizer, takes no lock."""
    keeper.ends = True
    connection.nudge(pulling.close)
    warn_unclosed(name, None)
