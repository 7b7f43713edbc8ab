"""``Delivery``: an event that a consumer was given to work on, until it is settled.

Settling is a word to the subject that the server named with the message (https://docs.nats.io/reference/
reference-protocols/nats_api_reference): ``+ACK``, ``-NAK``, ``+WPI`` for work in progress. The word may be lost with a
connection; the server then delivers again when the ack wait is over.
"""

from collections.abc import Callable, Iterable
from contextlib import suppress

from .._checks import as_seconds, check_flag, check_seconds, is_of
from .._clock import monotonic
from .._deadline import Deadline
from .._nats.requests import is_status
from .._short import short
from .._waiting import guard
from ..connection import Connection
from ..errors import DeadlineExceededError, DisconnectedError, InvalidOptionError, StoreError
from ..events import Event
from ._arrivals import Arrivals
from ._jetstream import Pause, command
from ._pull import Pulling

__all__ = ["ACK", "Delivery", "Desk", "Keeper", "nak"]

ACK = b"+ACK"
_IN_PROGRESS = b"+WPI"
_TRY = 1.5  # seconds for one answer
_KEPT = 4  # times within an ack wait
_JUST_NOW = 0.05  # of an ack wait


def nak(delay: float) -> bytes:
    """Write "not acknowledged, deliver it again after so many seconds"."""
    return b'-NAK {"delay": %d}' % int(delay * 1e9) if delay else b"-NAK"


class Keeper:
    """Tells the server that work on what is held here goes on, well before the ack wait is over.

    It knows nobody who holds something, so that they can be collected.

    Args:
        connection: Over which.
        pulling: What lets it come.
        arrivals: What has come and is not taken yet.
        ack_wait: Seconds.

    Attributes:
        held: Where what was taken and is still held is acknowledged. Single operations only, any thread.
        ends: Nothing is taken from there any more; what is left is given back, the next time at the latest.
    """

    def __init__(self, connection: Connection, pulling: Pulling, arrivals: Arrivals, ack_wait: float) -> None:
        self._connection = connection
        self._pulling = pulling
        self._arrivals = arrivals
        self._ack_wait = ack_wait
        self._kept = monotonic()
        self.held: dict[bytes, None] = {}
        self.ends = False

    def begin(self) -> None:
        """Begin to tell."""
        self._connection.repeat(self._ack_wait / _KEPT, self._keep)

    def is_late(self) -> bool:
        """Whether the server may have given away what is held here: it was not told for too long."""
        return monotonic() - self._kept > self._ack_wait * 0.9

    def has_told_since(self, moment: float) -> bool:
        """Whether the ack wait of what is held since then has begun just now."""
        return monotonic() - max(moment, self._kept) < self._ack_wait * _JUST_NOW

    def give_back(self) -> None:
        """Give back what has come and was not taken, and from now on only keep what is held."""
        self.ends = True
        with self._arrivals.lock:
            waiting = self._arrivals.replies()
            self._arrivals.clear()
        self.tell(waiting, nak(0))

    def _keep(self) -> bool:
        """Tell once; on the loop thread."""
        if self.ends:  # whoever took from it was dropped, perhaps: what was on its way then is here by now
            if not self._pulling.is_over:  # an exception has cut off its close()
                self._pulling.close()
            self.give_back()
        self.tell([*self.held, *self._arrivals.replies()], _IN_PROGRESS)
        if self._connection.is_connected:
            self._kept = monotonic()
        return bool(self.held) or not self.ends

    def tell(self, replies: Iterable[bytes], word: bytes) -> None:
        """Say the same of many deliveries."""
        frames = b"".join(command(reply.decode(), b"", b"", word) for reply in replies)
        if frames:
            self._connection.tell(frames)


class Desk:
    """Where the deliveries of one consumer are settled.

    Args:
        connection: Over which.
        keeper: Who keeps those that are not.
        bury: Puts one into the poison place, for a reason, within a deadline.
        read: Reads the event of a sequence again.
    """

    def __init__(
        self,
        connection: Connection,
        keeper: Keeper,
        bury: Callable[["Delivery", str, Deadline], object],
        read: Callable[[int, Deadline], Event],
    ) -> None:
        self._connection = connection
        self.keeper = keeper
        self.bury = bury
        self.read = read
        self.lock = guard()  # guards how its deliveries are settled

    def tell(self, reply: bytes, word: bytes) -> None:
        """Say a word of a delivery; nobody waits for an answer."""
        self._connection.tell(command(reply.decode(), b"", b"", word))

    def confirm(self, reply: bytes, deadline: Deadline) -> None:
        """Acknowledge a delivery, until the server says that it knows; it may be told twice.

        Raises:
            DeadlineExceededError: It did not say so in time.
        """
        subject = reply.decode()
        pause = Pause(deadline)
        while True:
            with suppress(DeadlineExceededError, DisconnectedError):
                call = self._connection.ask({subject}, lambda inbox: command(subject, inbox, b"", ACK), deadline)
                (answer,) = call.wait(Deadline(min(_TRY, deadline.remaining())))
                if not is_status(answer):  # else nobody is there who would know
                    return
            if not pause.take():
                raise DeadlineExceededError(
                    f"the server has not confirmed the acknowledgement within {deadline}{self._connection.why_not()}: "
                    "the event may come again. To acknowledge it once more is safe"
                )


class Delivery:
    """An event to be worked on, and then acknowledged: otherwise it is delivered again, to any process.

    The first of :meth:`ack`, :meth:`nak` and :meth:`reject` settles it. The same once more does nothing (but for an
    ``ack(confirm=True)``, which asks again); another one is a ``StoreError``. Any thread may call them.

    Attributes:
        event: The event, as any reader gets it.
        sequence: Its place in the store: what a handler compares to know an event that it has had already.
        attempt: How often it was delivered, this time included: 1 or more.
        settled: ``"acknowledged"``, ``"given back"``, ``"rejected"``, or "" as long as it is none.
    """

    __slots__ = ("_desk", "_is_light", "_kept_since", "_reply", "attempt", "event", "sequence", "settled", "unburied")

    def __init__(self, event: Event, sequence: int, attempt: int, reply: bytes, desk: Desk) -> None:
        self.event = event
        self.sequence = sequence
        self.attempt = attempt
        self.settled = ""
        self._reply = reply
        self._desk = desk
        self._is_light = False  # it has no event
        self._kept_since = 0.0
        self.unburied: str | None = None  #: why it was rejected, if that failed. For a runner

    def ack(self, *, confirm: bool = False, timeout: float | None = 5.0) -> None:
        """Say that it is done: it is not delivered again.

        Args:
            confirm: Wait until the server says that it knows. Without it, that word may be lost with a connection, and
                the event comes again. It may come again all the same: with one replica the server writes down some
                tenths of a second later what is acknowledged, whatever its ``sync_interval``, and forgets it if it is
                killed before that.
            timeout: Seconds for that.

        Raises:
            DeadlineExceededError: The server did not say so in time; it may know, or not. Call it again, or work on the
                event again when it comes.
            StoreError: It was given back or rejected before.
        """
        deadline, confirm = Deadline(timeout), check_flag("confirm", confirm)
        first = self._settle("acknowledged")
        if confirm:
            self._desk.confirm(self._reply, deadline)
        elif first:
            self._desk.tell(self._reply, ACK)

    def nak(self, delay: float = 0.0) -> None:
        """Give it back: it is delivered again, to any process.

        Args:
            delay: Seconds before that.

        Raises:
            StoreError: It was acknowledged or rejected before.
        """
        delay = 0.0 if as_seconds(delay) == 0 else check_seconds("delay", delay)
        if self._settle("given back"):
            self._desk.tell(self._reply, nak(delay))

    def in_progress(self) -> None:
        """Say that work on it goes on: the ack wait begins anew. Nothing, once it is settled."""
        if not self.settled:
            self._desk.tell(self._reply, _IN_PROGRESS)

    def reject(self, reason: str, *, timeout: float | None = 5.0) -> None:
        """Give it up: it is not delivered again, and when this returns it is in the poison place.

        Of one that comes from there, it stays there, and is handed out again after a minute.

        Args:
            reason: For who looks there; its first 4,000 characters are kept.
            timeout: Seconds.

        Raises:
            DeadlineExceededError: It is not there in time; it is as unsettled as before. So with every other error.
            StoreError: It was acknowledged or given back before.
        """
        deadline = Deadline(timeout)
        if not is_of(reason, str):
            raise InvalidOptionError(f"a reason is a str for who looks there, not {short(reason)}")
        reason = str.__str__(reason)
        if self._settle("rejected"):
            try:
                self._desk.bury(self, reason, deadline)
            except BaseException:
                self.settled, self.unburied = "", reason
                raise
            self.let_go()

    def _settle(self, how: str) -> bool:
        """Note how it is settled; returns whether it was not yet."""
        with self._desk.lock:
            if self.settled and self.settled != how:
                raise StoreError(f"{self!r} is {self.settled} already, and cannot be {how} any more")
            first = not self.settled
            self.settled = how
        if how != "rejected":  # which takes a while
            self.let_go()
        return first

    def lighten(self) -> None:
        """Let go of the event, which takes room. For a runner."""
        self._is_light = True
        del self.event

    def make_whole(self, deadline: Deadline) -> None:
        """Have the event again, before anybody sees this. For a runner.

        Raises:
            MalformedRecordError: It is not there any more.
        """
        if self._is_light:
            self.event = self._desk.read(self.sequence, deadline)
            self._is_light = False

    def keep(self) -> None:
        """Have the server told that work on it goes on, until it is settled. For a runner."""
        self._kept_since = monotonic()
        self._desk.keeper.held[self._reply] = None

    def renew(self) -> None:
        """Let the ack wait begin anew, unless it has just begun. For a runner whose handler may let no thread run."""
        if not self._desk.keeper.has_told_since(self._kept_since):
            self.in_progress()

    def let_go(self) -> None:
        """Have the server told no more."""
        self._desk.keeper.held.pop(self._reply, None)

    def release(self, word: bytes) -> None:
        """Say a word of it, without settling it. For who puts it into the poison place."""
        self._desk.tell(self._reply, word)

    def __repr__(self) -> str:
        state = f", {self.settled}" if self.settled else ""
        return f"<Delivery of {self.sequence}, {short(self.event.event_type)}, attempt {self.attempt}{state}>"
