"""Interests: what a bus subscribes on the server for events, and a store for answers and stored events."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from nats.aio.msg import Msg

from .._runtime.reporter import Kind, Reporter
from .._runtime.waits import Reply
from ..errors import AetherError, SubscriptionClosedError

__all__ = ["Arrivals", "Interest", "Mailbox", "Message", "TrialInterest", "message_class"]


#: A message as it came: its subject; the subject for an answer, if any; its headers with their first and last line, if
#: any; its payload. It is a plain tuple, because the garbage collector stops tracking a plain tuple of bytes at once.
Message = tuple[bytes, bytes, bytes, bytes]


class Arrivals(Protocol):
    """Messages that have arrived in this turn of the loop, and are delivered at its end. Loop thread only."""

    arrived: list[Any]

    def deliver(self, reporter: Reporter) -> None:
        """Deliver the messages. Must not raise, because those of other inboxes are delivered after it."""

    def move(self) -> None:
        """Note that what comes from now on comes over another connection, perhaps from another server."""

    def refuse(self, subject: str, reason: str, reporter: Reporter) -> None:
        """Note that a message came which cannot be read."""


class Interest:
    """One NATS subscription.

    Attributes:
        subject: The subject, which may have wildcards.
        group: The queue group, if any.
        inbox: Where its messages arrive.
        whole: Whether they arrive with their line and headers.
        confirmed: Set when the server has confirmed it. Any number of threads may wait for it.
        gone: Set when the server has sent the last message for it.
        entered: Whether it was handed to the link.
        ended: Whether it failed, or was taken back from the link; it is never used again then.
        is_trial: Whether it only asks if it is permitted, so that a refusal is no trouble to be logged.
        error: Why it ended, if the link ended it.
    """

    whole: ClassVar[bool]
    is_trial: ClassVar[bool] = False
    inbox: Arrivals

    def __init__(self, subject: str, group: str | None) -> None:
        self.subject = subject
        self.group = group
        self.confirmed: Reply[None] = Reply()
        self.gone: Reply[None] = Reply()
        self.entered = False
        self.ended = False
        self.error: AetherError | None = None

    def fail(self, error: AetherError) -> None:
        """End it by an error, which is raised to threads that wait for the confirmation, and to those that iterate."""
        self._end(error, failure=error)

    def close(self, error: AetherError) -> None:
        """End it with the connection: iterators still take what is queued; waits for the confirmation get the error."""
        self._end(error, failure=None)

    def disown(self) -> None:
        """In a forked child: release the thread that waits here, if a signal handler forked over it."""
        self.confirmed.fail(SubscriptionClosedError("this process was forked meanwhile: subscribe again here"))
        self.gone.set(None)

    def conclude(self) -> None:
        """Note that the server has sent the last message for it, or never will."""
        self.gone.set(None)

    def _end(self, error: AetherError, failure: AetherError | None) -> None:
        self.error = self.error or error
        self.ended = True
        self.confirmed.fail(error)


class Mailbox(Interest):
    """A subscription whose messages are handed on as they came, all of one turn of the loop together.

    Args:
        subject: The subject on the server.
        take: Called on the loop thread with the messages that have arrived; must not raise.
        moved: Called on the loop thread when what comes from now on comes over another connection.
        ended: Called on any thread with the reason when nothing comes any more.
        group: A queue group that nobody else is in: a member still gets messages that are on their way when it leaves.
    """

    whole = True

    def __init__(
        self,
        subject: str,
        take: Callable[[list[Message]], object],
        moved: Callable[[], object] = lambda: None,
        ended: Callable[[AetherError], object] = lambda _: None,
        group: str | None = None,
    ) -> None:
        super().__init__(subject, group)
        self.inbox = self
        self.arrived: list[Message] = []
        self._take = take
        self._moved = moved
        self._ended = ended

    def arrive(self, message: Message, reporter: Reporter) -> None:
        """Take one message, which is delivered at the end of this turn."""
        if not self.arrived:
            asyncio.get_running_loop().call_soon(self.deliver, reporter)
        self.arrived.append(message)

    def deliver(self, reporter: Reporter) -> None:
        """Hand on the messages that have arrived."""
        arrived, self.arrived = self.arrived, []
        try:
            self._take(arrived)
        except Exception as mistake:  # in this library: those who wait for the messages will notice
            reporter.mistake(mistake)

    def move(self) -> None:
        """Note that what comes from now on comes over another connection."""
        self._moved()

    def refuse(self, subject: str, reason: str, reporter: Reporter) -> None:
        """Log that a message cannot be read; those who wait for it will notice that it is missing."""
        text = "a message on %r is skipped: %s"
        reporter.burst(Kind.DECODE_ERROR, text, subject, reason, about="answers", subject=subject)

    def _end(self, error: AetherError, failure: AetherError | None) -> None:
        super()._end(error, failure)
        self._ended(error)


class TrialInterest(Mailbox):
    """Asks whether this user may subscribe to a subject; what comes for it meanwhile is passed over.

    Args:
        subject: The subject on the server.
    """

    is_trial = True

    def __init__(self, subject: str) -> None:
        super().__init__(subject, _pass_over)


def _pass_over(_: list[Message]) -> None:
    """Ignore messages."""


def message_class(interests: dict[int, Any], reporter: Reporter) -> Callable[..., Msg | None]:
    """Return what a nats client calls to build a message, which takes messages for our interests at once.

    ``Client.msg_class`` is public. A false result ends nats-py's own processing, with queues and slow-consumer logic.
    Any other message becomes the ``Msg`` that it would have been.
    """

    def build(
        subject: str, reply: str, data: bytes, headers: dict[str, str] | None, _client: Any, _sid: int
    ) -> Msg | None:
        interest = interests.get(_sid)
        if interest is None:
            return Msg(_client=_client, subject=subject, reply=reply, data=data, headers=headers, _sid=_sid)
        if interest.whole:
            message = (subject.encode(), reply.encode(), _written(headers), data)
            interest.inbox.arrive(message, reporter)
        else:
            interest.inbox.arrive(interest, subject, data, reporter)
        return None

    return build


def _written(headers: dict[str, str] | None) -> bytes:
    """Return headers as they came, from what nats-py has made of them; it puts words of the first line among them."""
    if headers is None:
        return b""
    fields = {str(getattr(key, "value", key)): value for key, value in headers.items()}
    first = " ".join(["NATS/1.0", *filter(None, (fields.pop("Status", ""), fields.pop("Description", "")))])
    return "\r\n".join([first, *(f"{key}: {value}" for key, value in fields.items()), "", ""]).encode()
