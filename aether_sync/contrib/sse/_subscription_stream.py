"""``SubscriptionStream``: the events of a bus, as they are published: at most once, and without ids."""

from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError, SubscriptionClosedError, SubscriptionOverflowError
from ...events import Event
from ...subscription import Subscription
from ._counts import counts
from ._format import COMMENT, as_json, message, opening
from ._stream import Encode, EventStream, Step

__all__ = ["SubscriptionStream"]

_AT_ONCE = 64  # events of one chunk


class SubscriptionStream(EventStream):
    """What a subscription gets, which belongs to the stream from now on: closing the stream closes it."""

    def __init__(self, subscription: Subscription, encode: Encode | None, heartbeat: float) -> None:
        super().__init__(encode, heartbeat)
        self._subscription = subscription
        self._taken: list[Event] = []  # by a wait

    def _begin(self) -> bytes:
        return opening(self._retry(), None)

    def _step(self) -> bytes | Step:
        while True:
            taken, self._taken = self._taken, []
            try:
                taken += self._subscription.get_batch(_AT_ONCE, timeout=0)
            except SubscriptionOverflowError:
                self._drop()
                return Step.END
            except SubscriptionClosedError:
                if not taken:
                    return Step.END
            if not taken:
                return Step.WAIT
            if chunk := self._chunk(taken):
                return chunk

    def _chunk(self, events: list[Event]) -> bytes:
        made = [(self._encode or as_json)(event) for event in events]
        messages = [message(one.event_type, text) for one, text in zip(events, made, strict=True) if text is not None]
        counts.sent.many(len(messages))
        return b"".join(messages)

    def _work(self) -> None:
        """Nothing blocks here."""

    def _wait(self, deadline: Deadline) -> None:
        try:
            self._taken.append(self._subscription.get(deadline.timeout_left()))
        except (DeadlineExceededError, SubscriptionClosedError):  # what has ended it is found again
            pass

    async def _wait_in_coroutine(self) -> None:
        try:
            self._taken.append(await anext(self._subscription))
        except (StopAsyncIteration, SubscriptionClosedError):
            pass

    def _wake(self) -> None:
        """The end of the subscription wakes who waits; at the end of the process it is ended after the streams."""

    def _beat(self) -> bytes:
        return COMMENT

    def _release(self) -> None:
        self._subscription.close()
