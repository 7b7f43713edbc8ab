"""Consuming: the events of a store, shared out among all processes that ask for them under one name.

The server remembers for each name what was delivered and what acknowledged. What is not acknowledged in time it
delivers again, to any of them, up to a number of times; then the event goes to the dead-letter stream.
"""

import weakref
from functools import partial
from math import inf
from typing import Any, Self

from ..._arguments import check_count
from ..._nats.channel import Channel
from ..._nats.interest import Message
from ..._runtime.batches import take_batch
from ..._runtime.closing import warn_unclosed
from ..._runtime.deadline import Deadline
from ..._runtime.locks import outside_locks
from ..._values.clock import monotonic
from ...errors import StoreClosedError, StoreError, StoreUnavailableError
from .._jetstream.flow import Flow
from .._jetstream.pull import PullRequester
from .._jetstream.saves import Verdict
from .ack_extender import ACK, AckExtender, nak
from .arrivals import Arrivals
from .delivery import Delivery, Settler
from .sources import Source

__all__ = ["DRAIN", "Consumption", "begin_consuming"]

_OPEN = 0.25  # seconds until it is asked again whether the server has finished a save
DRAIN = 1.0  #: seconds for what is on its way to one who closes


class Consumption(Flow):
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
        channel: Channel,
        stream: str,
        consumer: str,
        prefetch: int,
        ack_wait: float,
        source: Source,
    ) -> None:
        self._arrivals = arrivals = Arrivals(ack_wait)
        super().__init__(channel, PullRequester(channel, stream, prefetch, arrivals, drains=True), arrivals.lock)
        self._name = f"{consumer!r} of {stream!r}"
        self._consumer = consumer
        self._source = source
        self._pauses_until = 0.0  # written by any thread
        self._extender = AckExtender(channel, self._requester, arrivals, ack_wait)
        self._settler = Settler(channel, self._extender, source.bury, source.event)
        self._finalizer = weakref.finalize(self, _abandon, channel, self._requester, self._extender, repr(self))
        self._finalizer.atexit = False

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
        return self._get(Deadline(timeout), [])

    def _get(self, deadline: Deadline, messages: list[Message]) -> Delivery:
        while True:
            found = self._take(messages)
            if found is not None:
                return found
            if self._closed:
                raise self._end()
            self._await(deadline, self._pause_left() or inf)

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[Delivery]:
        """Take what is there, up to a number, waiting only for the first; ``[]`` if none came in time.

        Raises:
            StoreClosedError: It is closed.
        """
        max_events = check_count("max_events", max_events)
        messages: list[Message] = []
        deadline = Deadline(timeout)

        def take() -> Delivery:
            found = self._take(messages)
            if found is None:
                raise IndexError
            return found

        return take_batch(max_events, partial(self._get, deadline, messages), take, lambda _: self._give_back(messages))

    def _give_back(self, messages: list[Message]) -> None:
        """Put back what was taken last, for whoever takes next."""
        with self._lock:
            if not self._closed:
                self._arrivals.put_back(messages)
                messages = []
        self._extender.send([reply for _, reply, *_ in messages], nak(0))
        self._buffer.changed.wake_all()

    def _take(self, messages: list[Message]) -> Delivery | None:
        """Take what has come, past what is not wanted; what it was made of is added to some messages."""
        passed: list[bytes] = []
        try:
            while (message := self._pop()) is not None:
                verdict = self._source.verdict(message, self._arrivals.ahead)
                if verdict is Verdict.OPEN:
                    self._put_off(message)
                    return None
                if verdict is Verdict.TORN:
                    passed.append(message[1])
                    continue
                found = self._source.read(message, self._settler, passed)
                if found is not None:
                    messages.append(message)
                    return found
            return None
        finally:
            self._extender.send(passed, ACK)

    def _put_off(self, message: Message) -> None:
        """Look at a message later: its save may still become whole."""
        self._pauses_until = monotonic() + _OPEN
        self._give_back([message])

    def _pause_left(self) -> float:
        """Seconds until it is worth to look at what is put off."""
        return max(0.0, self._pauses_until - monotonic())

    def _pop(self) -> Message | None:
        with self._lock:
            message = None if self._closed or self._pause_left() else self._arrivals.pop()
        if not self._closed:
            self._requester.request_more()
        return message

    def _has_some(self) -> bool:
        return self._arrivals.has_some and not self._pause_left()

    # -- beginning

    def _begin(self, info: dict[str, Any], deadline: Deadline) -> None:
        """Begin to pull from the consumer, of which the server says this."""
        self._admit()
        self._requester.subscribe(deadline)
        self._extender.start()
        self._flow(info)

    def _flow(self, info: dict[str, Any]) -> None:
        """Pull from now on; what has come already is kept, if it is still this one's."""
        with self._lock:
            if not self._closed:
                if self._source.is_ordered:
                    self._arrivals.learn(info)
                self._requester.begin(self._consumer, keep=not self._extender.is_late())

    def _renew(self, deadline: Deadline) -> None:
        try:
            info = self._source.fetch_info(self._consumer, deadline)
        except StoreUnavailableError:
            raise
        except StoreError as error:
            self._failure = error
            self.close()
            raise
        self._flow(info)

    # -- ending

    def close(self) -> None:
        """End, release every thread that waits here, and give back what was not taken. Idempotent, from any thread."""
        self._close_by(Deadline(DRAIN))

    def _close_by(self, deadline: Deadline) -> None:
        """As :meth:`close`, one of several for which there is one deadline."""
        deadline = Deadline(min(DRAIN, deadline.remaining()))
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:  # whatever an exception cuts off: what was not taken is given back, and the keeper does the rest
            self._buffer.changed.wake_all()
            self._requester.close()
            self._finalizer.detach()
            with outside_locks():
                self._requester.await_last(deadline)
        finally:
            self._extender.give_back()

    def _after_fork(self) -> None:
        self._finalizer.detach()
        super()._after_fork()

    def __repr__(self) -> str:
        return f"<Consumption {self._name}{' closed' if self._closed else ''}>"


def begin_consuming(consumption: Consumption, info: dict[str, Any], deadline: Deadline) -> None:
    """Begin to pull from a consumer.

    Args:
        consumption: One that has not begun.
        info: What the server says of the consumer.
        deadline: For the subscription.
    """
    consumption._begin(info, deadline)


def _abandon(channel: Channel, requester: PullRequester, extender: AckExtender, name: str) -> None:
    """A consumption was dropped without ``close()``: called by its finalizer, takes no lock."""
    extender.ends = True
    channel.call_soon(requester.close)
    warn_unclosed(name, None)
