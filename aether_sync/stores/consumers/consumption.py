"""``Consumption``: a blocking iterator over the deliveries of a durable consumer.

It takes messages that the server has delivered, passes by those that are not wanted, and makes deliveries of the rest.
Who asks the server for messages is ``_jetstream/pull.py``; in which order they are taken, ``arrivals.py``.
"""

import weakref
from contextlib import suppress
from functools import partial
from math import inf
from typing import Any, Self

from ..._arguments import check_count
from ..._nats.channel import Channel, EngineSlot
from ..._nats.interest import Message
from ..._runtime.batches import take_batch
from ..._runtime.closing import warn_unclosed
from ..._runtime.deadline import Deadline
from ..._runtime.locks import outside_locks
from ..._runtime.reporter import Details, Kind
from ..._values.clock import monotonic
from ..._values.counting import Count
from ...errors import StoreClosedError, StoreError, StoreUnavailableError
from ...instrumentation import observers, received
from .._jetstream.flow import Flow
from .._jetstream.pull import PullRequester
from .._jetstream.saves import Verdict
from .ack_extender import ACK, AckExtender
from .arrivals import Arrivals
from .delivery import Delivery, Origin, Settler
from .durable import ConsumerState, state_of
from .sources import Source

__all__ = [
    "DRAIN",
    "Consumption",
    "begin_consuming",
    "connection_of",
    "fetch_state_of",
    "left_of",
    "lost_of",
    "report_lost",
    "set_prefetch",
    "take_for_handlers",
]

_OPEN = 0.25  # seconds until the server is asked again whether a save is whole
DRAIN = 1.0  #: seconds that closing waits for messages that are on their way


class Consumption(Flow):
    """The deliveries of a durable consumer, as a blocking iterator. Several threads may iterate it.

    No event is dropped: events that nobody takes wait in the store. After a reconnect, a restart of the server or a
    change of the leader it goes on where it was; events that were not acknowledged by then may come twice.

    The iteration ends when it or its store is closed, which any thread may do. Events that were delivered and not taken
    are then given back at once; those that were taken can still be acknowledged.

    An exception from a signal handler (Ctrl-C, a soft time limit) leaves a blocked or busy iterator usable. The one
    event that was being taken at that moment is delivered again when its ack wait is over.
    """

    def __init__(
        self,
        channel: Channel,
        stream: str,
        consumer: str,
        prefetch: int,
        ack_wait: float,
        max_deliver: int | None,
        source: Source,
        origin: Origin,
    ) -> None:
        self._arrivals = arrivals = Arrivals(ack_wait)
        super().__init__(channel, PullRequester(channel, stream, prefetch, arrivals, drains=True), arrivals.lock)
        self._name = f"{consumer!r} of {stream!r}"
        self._consumer, self._stream = consumer, stream
        self._source = source
        self._lost = Count()  # events that were given back after their last delivery
        self._pauses_until = 0.0  # written by any thread
        words = f"$JS.ACK.{stream}.{consumer}"
        self._extender = AckExtender(channel, self._requester, arrivals, words, ack_wait, max_deliver)
        self._settler = Settler(channel, self._extender, source.bury, source.event, origin)
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
        """Take the next delivery; wait for it if there is none.

        Args:
            timeout: Seconds; 0 does not wait, None waits for ever.

        Raises:
            DeadlineExceededError: No delivery came in time.
            StoreClosedError: The iteration is closed.
            StoreError: The consumer was deleted meanwhile.
        """
        deadline = Deadline(timeout)
        began = monotonic() if observers else None
        found = self._get(deadline, [])
        if began is not None:
            self._show_received(began, [found])
        return found

    def _show_received(self, began: float, deliveries: list[Delivery], is_batch: bool = False) -> None:
        """Let observers see that a call has taken deliveries."""
        origin, events = self._settler.origin, [one.event for one in deliveries]
        received(began, events, destination=origin.stream, consumer=origin.consumer, is_batch=is_batch)

    def _get(self, deadline: Deadline, messages: list[Message]) -> Delivery:
        while True:
            found = self._take(messages)
            if found is not None:
                return found
            if self._closed:
                raise self._end()
            self._await(deadline, self._pause_left() or inf)

    def get_batch(self, max_events: int, timeout: float | None = None) -> list[Delivery]:
        """Take the deliveries that are there, up to a number; wait only for the first.

        Args:
            max_events: At most this many deliveries, 1 or more.
            timeout: Seconds, as for :meth:`get`.

        Returns:
            1 to ``max_events`` deliveries; ``[]`` if none came in time.

        Raises:
            StoreClosedError: The iteration is closed.
        """
        max_events, deadline = check_count("max_events", max_events), Deadline(timeout)
        began = monotonic() if observers else None
        batch = self._get_batch(max_events, deadline)
        if began is not None and batch:
            self._show_received(began, batch, is_batch=True)
        return batch

    def _get_batch(self, max_events: int, deadline: Deadline) -> list[Delivery]:
        messages: list[Message] = []

        def take() -> Delivery:
            found = self._take(messages)
            if found is None:
                raise IndexError
            return found

        return take_batch(max_events, partial(self._get, deadline, messages), take, lambda _: self._give_back(messages))

    def _give_back(self, messages: list[Message]) -> None:
        """Put back the messages that were taken last, to be taken next."""
        with self._lock:
            if not self._closed:
                self._arrivals.put_back(messages)
                messages = []
        self._extender.return_all([reply for _, reply, *_ in messages])
        self._buffer.changed.wake_all()

    def _take(self, messages: list[Message]) -> Delivery | None:
        """Take the first message that is wanted, and make a delivery of it; None if there is none yet.

        Args:
            messages: The message is appended to these.
        """
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
        """Put a message back for a moment: the server may still store the rest of its save."""
        self._pauses_until = monotonic() + _OPEN
        self._give_back([message])

    def _pause_left(self) -> float:
        """Seconds until messages that were put off are looked at again."""
        return max(0.0, self._pauses_until - monotonic())

    def _pop(self) -> Message | None:
        with self._lock:
            stands = self._closed or self._extender.refusal is not None or self._pause_left()
            message = None if stands else self._arrivals.pop()
        if not self._closed:
            self._requester.request_more()
        return message

    def _has_some(self) -> bool:
        return self._arrivals.has_some and self._extender.refusal is None and not self._pause_left()

    # -- beginning

    def _begin(self, info: dict[str, Any], deadline: Deadline) -> None:
        """Begin to pull from the consumer, on which this is the server's information."""
        self._admit()
        self._requester.subscribe(deadline)
        self._extender.start()
        self._flow(info)

    def _flow(self, info: dict[str, Any]) -> None:
        """Pull from now on. Messages that have come are kept, unless the server may have given them to others."""
        with self._lock:
            if not self._closed:
                if self._source.is_ordered:
                    self._arrivals.learn(info)
                self._arrivals.note_left(info["num_pending"])
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
        """End the iteration, release every thread that waits in it, and give back what was not taken.

        Any thread may call it, more than once. It waits up to a second for messages that are on their way. What is
        given back has one of its ``max_deliver`` attempts less; what has none left becomes a dead letter, and is
        logged.
        """
        self._close_by(Deadline(DRAIN))

    def _close_by(self, deadline: Deadline) -> None:
        """As :meth:`close`, within a deadline."""
        deadline = Deadline(min(DRAIN, deadline.remaining()))
        with self._lock:
            if self._closed:
                return
            self._closed = True
        try:  # wherever an exception ends this, what was not taken is given back, and the extender does the rest
            self._buffer.changed.wake_all()
            self._requester.close()
            self._finalizer.detach()
            with outside_locks():
                self._requester.await_last(deadline)
        finally:
            self._extender.give_back()
        self._report_lost()

    def _report_lost(self) -> None:
        """Log how many events were given back after their last delivery, and are dead letters now."""
        count = 0
        with suppress(IndexError):  # until there is none; another thread may do the same
            while self._extender.lost.pop():
                count += 1
        if count:
            self._lost.many(count)
            text = "closing consumer %r gives back %d events after their last delivery: they become dead letters"
            details: Details = {
                "stream": self._stream,
                "consumer": self._consumer,
                "counts": {"attempts": self._extender.max_deliver or 0, "events": count},
            }
            self._channel.reporter.warning(Kind.GAVE_UP, text, self._consumer, count, **details)

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


def set_prefetch(consumption: Consumption, count: int) -> None:
    """Let another number of messages wait to be taken. Those that are here stay."""
    consumption._requester.window = count


def fetch_state_of(consumption: Consumption, deadline: Deadline) -> ConsumerState:
    """Return how far the consumer of a consumption is.

    Raises:
        StoreError: There is no such consumer, or the server cannot say.
    """
    return state_of(consumption._source.fetch_info(consumption._consumer, deadline))


def connection_of(consumption: Consumption) -> EngineSlot:
    """Return the state of its connection."""
    return consumption._channel.slot


def take_for_handlers(consumption: Consumption, max_events: int) -> list[Delivery]:
    """As ``get_batch()``, where a runner takes in advance what handlers get later: no program has received it yet."""
    return consumption._get_batch(max_events, Deadline(None))


def report_lost(consumption: Consumption) -> None:
    """Log how many events were given back after their last delivery, and are dead letters now."""
    consumption._report_lost()


def left_of(consumption: Consumption) -> int:
    """Return how many events wait to be taken, in this process and on the server, as far as that is known here."""
    return consumption._arrivals.left + len(consumption._arrivals.replies())


def lost_of(consumption: Consumption) -> int:
    """Return how many events became dead letters here after their last delivery, without a word of their handler."""
    return consumption._lost.count + consumption._extender.denied


def _abandon(channel: Channel, requester: PullRequester, extender: AckExtender, name: str) -> None:
    """End a consumption that was dropped without ``close()``. Called by its finalizer: it takes no lock."""
    extender.ends = True
    channel.call_soon(requester.close)
    warn_unclosed(name, None)
