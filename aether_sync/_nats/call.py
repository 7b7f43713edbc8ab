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
    """Of a question that has one answer: the first is the last."""
    return True


def is_status(message: Message) -> bool:
    """Of a question with several answers: a message that says only how it ended (``NATS/1.0 204 EOB``) is the last."""
    return message[2].startswith(b"NATS/1.0 ")


class Call:
    """A question, for one thread to wait for its answers; whoever else knows it lets go of it with that thread.

    Attributes:
        subjects: Whom it is put to.
        frame: The commands that put it.
        answers: What has come.
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
        self._calls = calls  # where it is as long as somebody waits
        self._error: AetherError | None = None
        self._may_be_sent = [True]  # taken by who sends it, or by who gives it up before that
        self._is_over = False  # answered, or failed
        self._ponged = False  # the server has answered the last PING
        self._done = Lock()  # held until one of these is so; by nobody's thread in particular
        self._done.acquire()

    def claim(self) -> bool:
        """Take the right to send it, or to call it unsent; one gets it."""
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
        """Whether the server may have heard of it."""
        return not self._may_be_sent

    def take(self, message: Message) -> bool:
        """Take an answer; returns whether it was the last. Loop thread only."""
        self.answers.append(message)
        if self._is_last(message):
            self._finish()
            return True
        return False

    def fail(self, error: AetherError) -> None:
        """Leave an error for who waits."""
        self._error = self._error or error
        self.forget()
        self._finish()

    def _finish(self) -> None:
        self._is_over = True
        self._wake()

    def pong(self) -> None:
        """The server has processed the PING that was written for this. Called by the parser: must not raise."""
        self._ponged = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is woken
            self._done.release()

    def forget(self) -> None:
        """Let answers that still come go nowhere."""
        self._calls.pop(self._token, None)

    def wait(
        self, deadline: Deadline, until: Deadline | None = None, ping: Callable[["Call"], object] = lambda _: None
    ) -> list[Message]:
        """Wait for the last answer.

        Args:
            deadline: For the next answer.
            until: For all of them; None for the same. Until then it is also waited over a link that is slow.
            ping: Has a PING written whose PONG comes to :meth:`pong`.

        Raises:
            DeadlineExceededError: It did not come in time.
            DisconnectedError: The connection broke, after this may have been sent.
            PermissionDeniedError: The server lets this user not ask.
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
        """Whether the link is slow: what is behind the question, or before the answer, holds up a PING as well."""
        if not self.was_sent:
            return False
        begun, bound = monotonic(), Deadline(until.remaining() * _SHARE)
        self._ponged = False
        ping(self)
        while not (self._ponged or self._is_over):
            if not self._done.acquire(timeout=bound.for_lock()):
                return self._is_over
        return self._is_over or monotonic() - begun > _PROMPT
