"""``PulledConsumption``: a consumption of a consumer on a server.

It takes messages that the server has delivered, passes by those that are not wanted, and makes deliveries of the rest.
Who asks the server for messages is ``_jetstream/pull.py``; in which order they are taken, ``arrivals.py``.
"""

import weakref
from math import inf
from typing import Any

from ..._nats.channel import Channel
from ..._nats.interest import Message
from ..._nats.vitals import health_of
from ..._runtime.closing import warn_unclosed
from ..._runtime.deadline import Deadline
from ..._runtime.locks import outside_locks
from ..._values.clock import monotonic
from ...errors import DeadlineExceededError, StoreError, StoreUnavailableError
from ...health import Health
from .._jetstream.flow import Flow
from .._jetstream.pull import PullRequester
from .._jetstream.saves import Verdict
from .ack_extender import ACK, AckExtender
from .arrivals import Arrivals
from .base import ConsumerState
from .consumption import DRAIN, Consumption
from .delivery import Delivery, Origin
from .durable import state_of
from .settling import ServerSettler
from .sources import Source

__all__ = ["PulledConsumption", "begin_consuming"]

_OPEN = 0.25  # seconds until the server is asked again whether a save is whole
_LOOK = 0.25  # seconds in which an event that is to be delivered again would come


class PulledConsumption(Flow, Consumption):
    """A consumption of a consumer on a server.

    Args:
        channel: What is used of the connection.
        stream: The consumer's stream.
        consumer: Its name on the server.
        prefetch: How many messages wait here to be taken.
        takes_ahead: Whether more are requested before those that were taken are settled.
        ack_wait: Seconds until a message is delivered again.
        max_deliver: How often it is delivered at most; None if there is no bound.
        source: Makes deliveries of messages.
        origin: Where they come from.
    """

    def __init__(
        self,
        channel: Channel,
        stream: str,
        consumer: str,
        prefetch: int,
        takes_ahead: bool,
        ack_wait: float,
        max_deliver: int | None,
        source: Source,
        origin: Origin,
    ) -> None:
        self._arrivals = arrivals = Arrivals(ack_wait)
        super().__init__(channel, PullRequester(channel, stream, prefetch, arrivals, drains=True), arrivals.lock)
        self._takes_ahead = takes_ahead
        self._source = source
        self._pauses_until = 0.0  # written by any thread
        words = f"$JS.ACK.{stream}.{consumer}"
        self._extender = AckExtender(channel, self._requester, arrivals, words, ack_wait, max_deliver)
        label, reporter = f"{consumer!r} of {stream!r}", channel.reporter
        self._prepare(label, consumer, max_deliver, origin, reporter, self._extender.lost)
        self._settler = ServerSettler(channel, self._extender, source.bury, source.event, origin)
        self._finalizer = weakref.finalize(self, _abandon, channel, self._requester, self._extender, repr(self))
        self._finalizer.atexit = False

    # -- taking

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
        if not self._closed and (self._takes_ahead or message is None):
            self._requester.request_more()
        return message

    def _has_some(self) -> bool:
        return self._arrivals.has_some and self._extender.refusal is None and not self._pause_left()

    def _await_more(self, deadline: Deadline) -> None:
        self._await(deadline, self._pause_left() or inf)

    def _take_left(self, timeout: float | None) -> Delivery | None:
        """Take the next delivery of those that are there; None if nothing is left.

        The server says with each message how many it has left. When it has none, there may still be one that is to be
        delivered again, as it was given back: a server that says that some are not acknowledged gets a moment for that.
        """
        deadline = Deadline(timeout)
        while (found := self._take([])) is None:
            if self._closed:
                raise self._end()
            waiting = self._arrivals.left
            if not waiting:
                state = self._fetch_state(deadline)
                if not (state.waiting or state.unacknowledged):
                    return None
                waiting = state.waiting
            try:
                self._await_more(Deadline(min(_LOOK, deadline.remaining())))
            except DeadlineExceededError:
                if not waiting:
                    return None
                if not deadline.remaining():
                    raise
                self._arrivals.note_left(0)  # other processes may have taken them: the server is asked
        return found

    # -- how it is

    def _set_prefetch(self, count: int) -> None:
        self._requester.window = count

    def _count_left(self) -> int:
        return self._arrivals.left + len(self._arrivals.replies())

    def _count_lost(self) -> int:
        return self._lost.count + self._extender.denied

    def _fetch_state(self, deadline: Deadline) -> ConsumerState:
        return state_of(self._source.fetch_info(self._consumer, deadline))

    def _can_ask(self) -> bool:
        return self._channel.slot.is_connected

    def _health_of_link(self) -> tuple[Health, ...]:
        return (health_of(self._channel.slot),)

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

    def _after_fork(self) -> None:
        self._finalizer.detach()
        super()._after_fork()


def begin_consuming(consumption: PulledConsumption, info: dict[str, Any], deadline: Deadline) -> None:
    """Begin to pull from a consumer.

    Args:
        consumption: One that has not begun.
        info: What the server says of the consumer.
        deadline: For the subscription.
    """
    consumption._begin(info, deadline)


def _abandon(channel: Channel, requester: PullRequester, extender: AckExtender, name: str) -> None:
    """End a consumption that was dropped without ``close()``. Called by its finalizer: it takes no lock."""
    extender.ends = True
    channel.call_soon(requester.close)
    warn_unclosed(name, None)
