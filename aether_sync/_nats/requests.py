"""Questions to the server, and their answers: from any thread, each answered on an inbox of its own.

One subscription, ``_INBOX.<random>.*``, takes all answers; the last token says whose they are. A question is written by
the thread that asks it, where that is possible, else by the loop; while there is no connection it waits for one. When
the connection breaks, who had asked gets an error: whether the server has acted on it is then unknown.
"""

import asyncio
import os
import weakref
from collections import deque
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from functools import partial
from itertools import count
from threading import Lock

from .._runtime.again import again
from .._runtime.deadline import Deadline
from .._runtime.locks import signal_safe_lock
from .._values.clock import monotonic
from ..errors import AetherError, DeadlineExceededError, DisconnectedError, InvalidNamespaceError, PermissionDeniedError
from .client import NATSClient
from .interest import Mailbox, Message
from .lines import Lines, line_of
from .outbox import Wakeup
from .shortcut import Shortcut

__all__ = ["Call", "Requests", "is_status", "single"]

_PROMPT = 0.25  # seconds: a PONG that takes longer comes over a slow link
_SHARE = 0.7  # of the time that is left, for that PONG
_ALONE = 2  # questions that wait for their answers at once: of more, the loop writes several in one go


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


class Requests:
    """The questions of a connection. What is not marked otherwise runs on the loop thread."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        # By the last token of their inboxes; single operations only, any thread. Who asks may be interrupted before it
        # waits, and so before it could say that it does not: so nothing is kept of a question that nobody has any more.
        self._calls: dict[bytes, weakref.ref[Call]] = {}
        self._on_refusal: dict[str, Callable[[AetherError], object]] = {}  # of what nobody waits for, by subjects
        self._numbers = count(1)
        self._unsent: deque[weakref.ref[Call]] = deque()
        self._outgoing: deque[weakref.ref[Call]] = deque()  # put there by any thread, taken by the loop
        self._wakeup: Wakeup | None = None  # for them, once there was a connection
        self._client: NATSClient | None = None  # while connected
        self._shortcut: Shortcut | None = None  # of that wire
        self._closed: AetherError | None = None
        self._open_lock = signal_safe_lock()  # guards that a mailbox is subscribed once
        self._renew()

    def _renew(self) -> None:
        prefix = f"_INBOX.{os.urandom(12).hex()}."
        self._inbox = prefix.encode()
        self.mailbox = Mailbox(f"{prefix}*", self._take, ended=self._fail_all)

    # -- any thread

    def open(self, subscribe: Callable[[Mailbox], object]) -> Mailbox:
        """Return the mailbox for the answers, subscribed once: another one if the last was refused."""
        with self._open_lock:
            if self.mailbox.ended and self._closed is None:
                self._renew()
            mailbox = self.mailbox
            if not mailbox.entered:
                subscribe(mailbox)
                mailbox.entered = True
        return mailbox

    def new_call(
        self, subjects: Collection[str], make: Callable[[bytes], bytes], is_last: Callable[[Message], bool]
    ) -> Call:
        """Make a question.

        Args:
            subjects: Whom it is put to.
            make: Makes the commands, of the inbox for the answers.
            is_last: Whether an answer is the last one.

        Raises:
            InvalidNamespaceError: The server takes no line as long as this makes.
        """
        token = b"%d" % next(self._numbers)
        self._lines.take(line_of(max(subjects, key=len, default=""), self._inbox, token))
        call = Call(subjects, make(self._inbox + token), is_last, token, self._calls)
        self._calls[token] = weakref.ref(call, partial(self._calls.pop, token))
        return call

    def _waiting(self) -> list[Call]:
        """Those that somebody waits for."""
        return _those_that_live(list(self._calls.values()))

    def put(self, call: Call) -> bool:
        """Have a question written; returns False if the loop has to be told of it.

        One that is alone is written here and now. Where many ask at once, the loop writes all of a turn in one go.
        """
        if self._wakeup is None:
            return False
        if len(self._calls) <= _ALONE and self._carry(call):
            return True
        self._outgoing.append(weakref.ref(call))  # of who is interrupted before the bell rings it is not sent later
        wakeup = self._wakeup  # only now: a flush has hung up another one, or sees the call
        if not wakeup.rung:
            wakeup.ring()
        if self._closed is not None:  # since then, perhaps, nobody looks any more
            call.fail(self._closed)
        return True

    def on_refusal(self, subject: str, refused: Callable[[AetherError], object] | None) -> None:
        """Call ``refused`` when the server denies a command to ``subject`` that nobody waits for; None unregisters."""
        if refused is None:
            self._on_refusal.pop(subject, None)
        else:
            self._on_refusal[subject] = refused

    def _carry(self, call: Call) -> bool:
        shortcut = self._shortcut
        if shortcut is None or not call.claim():
            return False
        if shortcut.carry(call.frame, is_event=False):
            return True
        call.release()
        return False

    def write_at_once(self, frame: bytes) -> bool:
        """Write a command on this thread, if that is possible; returns False if :meth:`write` has to do it."""
        _, subject, reply = frame[: frame.index(b"\r\n")].decode().split(" ", 2)
        try:
            self._lines.take(line_of(subject, reply))
        except InvalidNamespaceError as error:
            self._on_refusal.get(subject, _nobody)(error)
            return True
        shortcut = self._shortcut
        return shortcut is not None and shortcut.carry(frame, is_event=False)

    # -- the loop thread

    def resume(self, client: NATSClient) -> None:
        """Write to this wire from now on: first what has waited for one."""
        self._client, self._shortcut = client, client.shortcut
        self._wakeup = Wakeup(asyncio.get_running_loop(), self._flush)
        unsent, self._unsent = self._unsent, deque()
        for call in _those_that_live(unsent):
            self.send(call)

    def pause(self) -> None:
        """The connection is lost, and with it the answers to what was sent."""
        self._client = self._shortcut = None
        error = DisconnectedError("the connection broke before the server had answered")
        for call in self._waiting():
            if call.was_sent:
                call.fail(error)

    def send(self, call: Call) -> None:
        """Write a question, or keep it until there is a connection."""
        if self._closed is not None:
            call.fail(self._closed)
        elif self._client is None:
            self._unsent.append(weakref.ref(call))
            if len(self._unsent) > 2 * len(self._calls):  # of most nobody waits for the answer any more
                living = _those_that_live(self._unsent)
                self._unsent = deque(weakref.ref(one) for one in living if one.is_waited_for)
        elif call.is_waited_for and call.claim():
            self._client.write(call.frame)

    def ping(self, call: Call) -> None:
        """Have the server answer when it has processed a question, if that was sent on this connection."""
        if self._client is not None:
            self._client.ping(call.pong)

    def write(self, frame: bytes) -> None:
        """Write commands that nobody waits for, if there is a connection."""
        if self._client is not None:
            self._client.write(frame)

    def _flush(self) -> None:
        """Write what was put here since the last time."""
        self._wakeup = Wakeup(asyncio.get_running_loop(), self._flush)  # first: who comes later rings that
        calls = _those_that_live([self._outgoing.popleft() for _ in range(len(self._outgoing))])
        if self._client is None:
            for call in calls:
                self.send(call)
        else:
            self._client.write(b"".join([call.frame for call in calls if call.is_waited_for and call.claim()]))

    def _take(self, messages: list[Message]) -> None:
        for message in messages:
            subject = message[0]
            token = subject[subject.rfind(b".") + 1 :]
            ref = self._calls.get(token)
            call = None if ref is None else ref()
            if call is not None and call.take(message):
                self._calls.pop(token, None)

    def refuse(self, subject: str) -> bool:
        """The server permits no publish to a subject; returns whether somebody had asked there."""
        refused = [call for call in self._waiting() if subject in call.subjects]
        for call in refused:
            call.fail(_denied(subject))
        return bool(refused) or self._refuse_written(subject)

    def _refuse_written(self, subject: str) -> bool:
        """As :meth:`refuse`, for what was written without a question."""
        concerned = self._on_refusal.get(subject)
        if concerned is not None:
            concerned(_denied(subject))
        return concerned is not None or subject.startswith("$JS.")  # no event of a bus

    def _fail_all(self, error: AetherError) -> None:
        for call in self._waiting():
            call.fail(error)

    def close(self, error: AetherError) -> None:
        """Release everyone who waits for an answer, or will. Any thread, once the loop has stopped."""
        self._closed = error
        self._client = self._shortcut = None
        self._fail_all(error)


def _those_that_live(refs: Iterable[weakref.ref[Call]]) -> list[Call]:
    """The questions that somebody still has."""
    return [call for ref in refs if (call := ref()) is not None]


def _nobody(_: AetherError) -> None:
    """Mind no refusal."""


def _denied(subject: str) -> PermissionDeniedError:
    return PermissionDeniedError(f"the server permits no publish to {subject!r}: its user lacks that right")
