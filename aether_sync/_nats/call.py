"""One question to the server, and the wait of one thread for its answers."""

import weakref
from collections.abc import Callable, Collection
from contextlib import suppress
from threading import Lock
from typing import TypeAlias

from .._runtime.again import again
from .._runtime.deadline import Deadline
from .._runtime.locks import outside_locks
from .._values.clock import monotonic
from ..errors import AetherError, DeadlineExceededError
from .interest import Message

__all__ = ["Call", "Last", "is_status", "single"]

#: Which answer to a question is the last: its number, from 1 on; or what tells that of an answer.
Last: TypeAlias = int | Callable[[Message], bool]
#: Of a question that has one answer.
single: Last = 1

_PROMPT = 0.25  # seconds: a PONG that takes longer comes over a slow link
_SHARE = 0.7  # of the time that is left, for that PONG


def is_status(message: Message) -> bool:
    """Whether an answer is the last of several: a bare status such as ``NATS/1.0 204 EOB``."""
    return message[2].startswith(b"NATS/1.0 ")


class Call:
    """A question whose answers one thread waits for. Others have only weak references to it.

    Args:
        subjects: The subjects that it is sent to.
        frame: The commands that send it.
        last: Which answer is the last.
        token: By which it is known among the calls.
        calls: Those that somebody waits for.
        leave: Called by each thread that has waited, with whether an exception ended its wait.

    Attributes:
        subjects: The subjects that it is sent to.
        frame: The commands that send it.
        answers: The answers that have come.
        is_parked: Whether a thread waits, and has to be woken by ``done``.
        is_nested: Whether a signal handler asks, on a thread that it has interrupted while that wrote: the loop needs
            the lock that this thread holds.
        done: The lock that this thread waits for; held until then by no thread in particular.
    """

    __slots__ = (
        "__weakref__", "_calls", "_error", "_is_over", "_last", "_leave", "_may_be_sent", "_ponged", "_token",
        "answers", "done", "frame", "is_nested", "is_parked", "subjects",
    )  # fmt: skip

    def __init__(
        self,
        subjects: Collection[str],
        frame: bytes,
        last: Last,
        token: bytes,
        calls: "dict[bytes, weakref.ref[Call]]",
        leave: Callable[[bool], object],
    ) -> None:
        self.subjects = subjects
        self.frame = frame
        self.answers: list[Message] = []
        self._last = last
        self._token = token
        self._calls = calls
        self._leave = leave
        self._error: AetherError | None = None
        self._may_be_sent = [True]  # taken by the thread that sends it, or that treats it as unsent
        self._is_over = False  # answered, or failed
        self._ponged = False  # the server has answered the last PING
        self.is_parked = self.is_nested = False
        self.done = Lock()
        self.done.acquire()

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

    def take(self, messages: list[Message]) -> bool:
        """Take answers in order; returns whether the last one is among them. Loop thread only.

        The thread that waits is not woken.
        """
        last, answers = self._last, self.answers
        if isinstance(last, int):
            answers += messages[: last - len(answers)]
            if len(answers) < last:
                return False
            self._is_over = True
            return True
        for message in messages:
            answers.append(message)
            if last(message):
                self._is_over = True
                return True
        return False

    def fail(self, error: AetherError) -> None:
        """End it with an error, which :meth:`wait` raises."""
        self._error = self._error or error
        self.forget()
        self._is_over = True
        self._wake()

    def pong(self) -> None:
        """Note that the server has processed the PING for this question. Called by the parser, so it must not raise."""
        self._ponged = True
        self._wake()

    def _wake(self) -> None:
        with suppress(RuntimeError):  # it is released already
            self.done.release()

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
        if self.is_nested:
            with outside_locks():
                self.is_nested = False
                return self.wait(deadline, until, ping)
        try:
            self.is_parked = True  # first, so that it is woken if the last answer comes after this look
            if not self._is_over and not (deadline.acquire(self.done) and self._is_over):
                self._await_end(deadline, until, ping)
            self._unpark()
            self._leave(False)
        except BaseException:
            self._unpark()
            self._leave(True)
            raise
        finally:
            self._calls.pop(self._token, None)
        if self._error is not None:
            raise again(self._error)
        return self.answers

    def _unpark(self) -> None:
        """Have this thread passed over by those that wake others."""
        try:
            self.done.release()
        except RuntimeError:  # it was woken in this moment
            pass

    def _await_end(self, deadline: Deadline, until: Deadline | None, ping: Callable[["Call"], object]) -> None:
        came = -1
        while not self._is_over_by(deadline):
            if len(self.answers) <= max(came, 0) and not (until is not None and self._may_be_on_its_way(until, ping)):
                raise DeadlineExceededError(f"no answer within {deadline}")
            came = len(self.answers)
            if until is None or not until.remaining():
                raise DeadlineExceededError(f"not all answers within {until or deadline}")
            deadline = Deadline(min(deadline.timeout or 0, until.remaining()))

    def _is_over_by(self, deadline: Deadline) -> bool:
        while not self._is_over:
            if not deadline.acquire(self.done):
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
            if not bound.acquire(self.done):
                return self._is_over
        return self._is_over or monotonic() - begun > _PROMPT
