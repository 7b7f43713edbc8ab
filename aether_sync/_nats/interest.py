"""What is subscribed on the server: by a bus, for its events; or by a store, for answers and for what it follows."""

import asyncio
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

from nats.aio.msg import Msg

from .._runtime.reporter import Kind, Reporter
from .._runtime.waits import Reply
from ..errors import AetherError, SubscriptionClosedError

__all__ = ["Arrivals", "Interest", "Mailbox", "Message", "message_class"]


#: A message as it came: its subject; where an answer goes, or nothing; its headers, with their first line and the empty
#: one, or nothing; its payload. A plain tuple: of no other the collector sees at once that it need not come back to it.
Message = tuple[bytes, bytes, bytes, bytes]


class Arrivals(Protocol):
    """What has arrived in this turn of the loop, and is delivered at its end. Loop thread only."""

    arrived: list[Any]

    def deliver(self, reporter: Reporter) -> None:
        """Deliver it. It does not raise: others of the same read come behind it."""

    def move(self) -> None:
        """What comes from now on comes through another connection, perhaps from another server."""

    def refuse(self, subject: str, reason: str, reporter: Reporter) -> None:
        """A message came that cannot be read."""


class Interest:
    """One NATS subscription.

    Attributes:
        subject: On the server; may have wildcards.
        group: Its queue group, if any.
        inbox: Where its messages arrive.
        whole: Whether they arrive with line and headers.
        confirmed: By the server; shared by all who wait for it.
        gone: The server has sent the last message for it.
        entered: Handed to the link.
        ended: Failed, or taken back from the link: never used again.
        error: Why it ended, if the link ended it.
    """

    whole: ClassVar[bool]
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
        """End for a reason: raise it to those who wait for the confirmation, and to those who iterate."""
        self._end(error, failure=error)

    def close(self, error: AetherError) -> None:
        """End with the connection: who iterates takes what is queued; who waits for the confirmation gets the error."""
        self._end(error, failure=None)

    def disown(self) -> None:
        """In a forked child: give an end to whoever waits here, over whom a signal handler forked."""
        self.confirmed.fail(SubscriptionClosedError("this process was forked meanwhile: subscribe again here"))
        self.gone.set(None)

    def conclude(self) -> None:
        """The server has sent the last message for it, or never will."""
        self.gone.set(None)

    def _end(self, error: AetherError, failure: AetherError | None) -> None:
        self.error = self.error or error
        self.ended = True
        self.confirmed.fail(error)


class Mailbox(Interest):
    """A subscription whose messages are handed on as they came, all of one turn at once.

    Args:
        subject: On the server.
        take: Called on the loop thread with what has arrived; must not raise.
        moved: Called there when what comes from now on comes through another connection.
        ended: Called, on any thread, when nothing comes any more, with the reason.
        group: A queue group of its own: who is a member gets what is on its way while it leaves.
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
        """Take one message; deliver at the end of this turn."""
        if not self.arrived:
            asyncio.get_running_loop().call_soon(self.deliver, reporter)
        self.arrived.append(message)

    def deliver(self, reporter: Reporter) -> None:
        """Hand on what has arrived."""
        arrived, self.arrived = self.arrived, []
        try:
            self._take(arrived)
        except Exception as mistake:  # of ours: who waits for these notices that they are missing
            reporter.mistake(mistake)

    def move(self) -> None:
        """What comes from now on comes through another connection."""
        self._moved()

    def refuse(self, subject: str, reason: str, reporter: Reporter) -> None:
        """A message came that cannot be read: who waits for it notices that it is missing."""
        reporter.burst(Kind.DECODE_ERROR, "a message on %r is skipped: %s", subject, reason, about="answers")

    def _end(self, error: AetherError, failure: AetherError | None) -> None:
        super()._end(error, failure)
        self._ended(error)


def message_class(interests: dict[int, Any], reporter: Reporter) -> Callable[..., Msg | None]:
    """Make what a nats client calls to build a message: it takes ours out of the client's hands at once.

    ``Client.msg_class`` is public; a false result ends nats-py's own processing, its queues and slow-consumer logic.
    What is not ours becomes the ``Msg`` it would have been.
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
    """Headers as they came, from what nats-py has made of them; it puts the words of the first line among them."""
    if headers is None:
        return b""
    fields = {str(getattr(key, "value", key)): value for key, value in headers.items()}
    first = " ".join(["NATS/1.0", *filter(None, (fields.pop("Status", ""), fields.pop("Description", "")))])
    return "\r\n".join([first, *(f"{key}: {value}" for key, value in fields.items()), "", ""]).encode()
