"""How long a request waits for its answer, and how it is tried again."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

from ..._nats.call import Call
from ..._nats.interest import Message
from ..._runtime.deadline import Deadline
from ...errors import DeadlineExceededError, DisconnectedError
from .answers import why_again

__all__ = ["TOO_LATE", "Asked", "Pause", "one_try", "patience"]

T = TypeVar("T")
_TRY = 1.5  # seconds to wait for one answer: a server that dies meanwhile never sends it

TOO_LATE = 0.01  #: seconds: with less time left, nothing more is tried


def patience(number: int) -> float:
    """Return the seconds to wait for the answer to an attempt: twice as long each time, as it may only be slow."""
    return _TRY * float(2 ** min(number, 10))


class Asked(Generic[T]):
    """A request that was sent. Calling it waits for the answer, and repeats the request if there is none."""

    def __init__(
        self,
        call: Call,
        wait: Callable[[Call, Deadline, Deadline], list[Message]],
        read: Callable[[list[Message]], T],
        again: Callable[[Deadline], list[Message]],
    ) -> None:
        self._call = call
        self._wait = wait
        self._read = read
        self._again = again
        self.forget = call.forget

    def __call__(self, deadline: Deadline) -> T:
        try:
            messages = self._wait(self._call, one_try(deadline, 0), deadline)
            if not why_again(messages[0]):
                return self._read(messages)
        except (DeadlineExceededError, DisconnectedError):
            pass
        return self._read(self._again(deadline))


class Pause:
    """Pauses between tries, longer and longer, until a deadline."""

    def __init__(self, deadline: Deadline, longest: float = 0.1) -> None:
        self._deadline = deadline
        self._longest = longest
        self._next = 0.002

    def take(self) -> bool:
        """Pause, and return True; return False at once if no time is left for a pause and another try."""
        if self._deadline.remaining() <= self._next + TOO_LATE:
            return False
        time.sleep(self._next)
        self._next = min(self._next * 2, self._longest)
        return True


def one_try(deadline: Deadline, number: int) -> Deadline:
    """Return until when to wait for the answer to an attempt."""
    return Deadline(min(patience(number), deadline.remaining()))
