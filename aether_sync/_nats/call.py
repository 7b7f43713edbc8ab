"""One question to the server, and the wait of one thread for its answers."""

import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock

from .._runtime.again import again
from .._runtime.deadline import Deadline
from .._values.clock import monotonic
from ..errors import AetherError, DeadlineExceededError
from .interest import Message

__all__ = ["Call", "is_status", "single"]

_PROMPT = 0.25  # seconds: a PONG that takes longer comes over a slow link
_SHARE = 0.7  # of the time that is left, for that PONG


def single(message: Message) -> bool:
    """Say that an answer is the last: for questions that have one answer."""
    return True


def is_status(message: Message) -> bool:
    """Whether an answer is the last of several: a bare status such as ``NATS/1.0 204 EOB``."""
    return message[2].startswith(b"NATS/1.0 ")


class Call:
    """A question whose answers one thread waits for. Others have only weak references to it.

    Attributes:
        subjects: The subjects that it is sent to.
        frame: The commands that send it.
        answers: The answers that have come.
    """

    __slots__ = (
        "__weakref__", "_calls", "_done", "_error", "_is_last", "_is_over", "_may_be_sent", "_ponged", "_token",
        "answers", "frame", "subjects",
    )  # fmt: skip

    def __init__(
        self,
        subjects: Collection[str],
        frame: bytes,
        is_last: Callable[[Message], bool],
        token: bytes,
        calls: "dict[bytes, weakref.ref[Call]]",
    ) -> None:
        self.subjects = subjects
        self.frame = frame
        self.answers: list[Message] = []
        self._is_last = is_last
        self._token = token
        self._calls = calls  # which it is in as long as somebody waits
        self._error: AetherError | None = None
        self._may_be_sent = [True]  # taken by the thread that sends it, or that treats it as unsent
        self._is_over = False  # answered, or failed
        self._ponged = False  # the server has answered the last PING
        self._done = Lock()  # held until one of the two is true; by no thread in particular
        self._done.acquire()

    def claim(self) -> bool:
        """Take the right to send it, or to treat it as unsent; returns whether the caller got it."""
        try:
            return self._may_be_sent.pop()
        except IndexError:
            return False

    def release(self) -> None:
        """Give that right back."""
        self._may_be_sent.append(True)

    @property
    def is_waited_for(self) -> bool:
        """Whether anybody wants the answer."""
        return self._token in self._calls

    @property
    def was_sent(self) -> bool:
        """Whether the server may have got it."""
        return not self._may_be_sent

    def take(self, message: Message) -> bool:
        """Take an answer; returns whether it was the last. Loop thread only."""
        self.answers.append(message)
        if self._is_last(message):
            self._finish()
            return True
        return False

    def fail(self, error: AetherError) -> None:
        """End it with an error, which :meth:`wait` raises."""
        self._error = self._error or error
        self.forget()
        self._finish()

    def _finish(self) -> None:
        self._is_over = True
        self._wake()

    def pong(self) -> None:
        """Note that the server has processed the PING for this question. Called by the parser, so it must not raise."""
        self._ponged = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is released already
            self._done.release()

    def forget(self) -> None:
        """Ignore answers that still come."""
        self._calls.pop(self._token, None)

    def wait(
        self, deadline: Deadline, until: Deadline | None = None, ping: Callable[["Call"], object] = lambda _: None
    ) -> list[Message]:
        """Wait for the last answer, and return all of them.

        Args:
            deadline: For the next answer.
            until: For all answers; None means ``deadline``. On a slow link the next answer is waited for until then.
            ping: Writes a PING, whose PONG calls :meth:`pong`.

        Raises:
            DeadlineExceededError: An answer did not come in time.
            DisconnectedError: The connection broke after the question may have been sent.
            PermissionDeniedError: The server denies this user the question.
            BusClosedError: The connection is closed.
        """
        try:
            came = -1
            while not self._await_end(deadline):
                if len(self.answers) <= max(came, 0) and not (
                    until is not None and self._may_be_on_its_way(until, ping)
                ):
                    raise DeadlineExceededError(f"no answer within {deadline}")
                came = len(self.answers)
                if until is None or not until.remaining():
                    raise DeadlineExceededError(f"not all answers within {until or deadline}")
                deadline = Deadline(min(deadline.timeout or 0, until.remaining()))
        finally:
            self.forget()
        if self._error is not None:
            raise again(self._error)
        return self.answers

    def _await_end(self, deadline: Deadline) -> bool:
        while not self._is_over:
            if not self._done.acquire(timeout=deadline.for_lock()):
                return self._is_over
        return True

    def _may_be_on_its_way(self, until: Deadline, ping: Callable[["Call"], object]) -> bool:
        """Whether the link is slow: then a PING takes long as well, behind the question or before the answer."""
        if not self.was_sent:
            return False
        begun, bound = monotonic(), Deadline(until.remaining() * _SHARE)
        self._ponged = False
        ping(self)
        while not (self._ponged or self._is_over):
            if not self._done.acquire(timeout=bound.for_lock()):
                return self._is_over
        return self._is_over or monotonic() - begun > _PROMPT
