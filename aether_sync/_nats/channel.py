"""The channel: what a bus or a store does with a connection, on any thread.

It carries frames to the outbox, interests to the subscriber, and questions to the server and back. The connection owns
the engine that does the work: it makes it at the first use, and closes it. Both find it in the slot that they share.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from functools import partial
from threading import get_ident
from typing import Any

from .._runtime.again import again
from .._runtime.closing import loop_threads
from .._runtime.deadline import Deadline
from .._runtime.listeners import Listeners
from .._runtime.reporter import Reporter
from .._runtime.waits import Reply
from ..errors import (
    BusClosedError,
    DeadlineExceededError,
    DisconnectedError,
    EventTooLargeError,
    PermissionDeniedError,
    PublishTimeoutError,
)
from ..metrics import histogram_of
from .call import Call, Last, single
from .client import TLSState
from .engine import Engine
from .interest import Interest, TrialInterest
from .outbox import Outbox
from .reasons import shown
from .requests import Refused

__all__ = ["Channel", "EngineSlot"]


class EngineSlot:
    """Where a connection keeps what its channels use. The connection alone changes it.

    Attributes:
        engine: What runs for the connection; None before its first use, and after a fork.
        outbox: Frames that wait to be sent; it is there before the engine is.
        reporter: Logs what happens to the connection, and to the stores that use it. It is there before the engine is,
            and after the close.
        listeners: The callbacks of its ``on()``, likewise.
        closed: Whether the connection was closed.
        is_awaited: Whether the first use waits for the first connection.
        is_shared: Whether a bus was given the connection; then others may use it as well.
        where: The servers, without secrets.
    """

    __slots__ = ("closed", "engine", "is_awaited", "is_shared", "listeners", "outbox", "reporter", "where")

    def __init__(self, outbox: Outbox, servers: Sequence[str], *, is_awaited: bool) -> None:
        self.outbox = outbox
        self.reporter = Reporter(url=", ".join(map(shown, servers)))
        self.engine: Engine | None = None
        self.closed = False
        self.is_awaited = is_awaited
        self.is_shared = False
        self.where = ", ".join(map(shown, servers))
        self.listeners = Listeners(self.reporter, self.where)

    @property
    def is_connected(self) -> bool:
        """Whether a server answers, as far as is known now."""
        return self.engine is not None and self.engine.link.is_connected

    @property
    def reconnects(self) -> int:
        """How often the connection was made again after a loss."""
        return 0 if self.engine is None else self.engine.link.reconnects

    @property
    def summary(self) -> str:
        """The servers, without secrets, and the state of the connection."""
        state = "closed" if self.closed else "new" if self.engine is None else self.engine.link.state.value
        return f"{self.where} {state}"


class Channel:
    """What a bus or a store does with a connection.

    A channel keeps its connection alive; a connection knows nothing of its channels.

    Args:
        slot: The connection's.
        begin: Makes the engine if there is none, and begins to connect. It waits for nothing.
        ready: As ``begin``, and waits for the first attempt to connect where the first use does.

    Attributes:
        slot: The connection's: two channels of one connection have the same.
    """

    __slots__ = ("_begin", "_ready", "slot")

    def __init__(self, slot: EngineSlot, begin: Callable[[], Engine], ready: Callable[[], Engine]) -> None:
        self.slot = slot
        self._begin = begin
        self._ready = ready

    # -- state

    @property
    def reporter(self) -> Reporter:
        """Logs for the connection, whether that is used, closed or neither. In a forked child it is the same."""
        return self.slot.reporter

    @property
    def is_connected(self) -> bool:
        """Whether a server answers, as far as is known now."""
        return self.slot.is_connected

    @property
    def reconnects(self) -> int:
        """How often the connection was made again after a loss."""
        return self.slot.reconnects

    def why_disconnected(self) -> str:
        """Return why there is no connection, to be put behind a message; an empty text if there is one."""
        engine = self.slot.engine
        return "" if engine is None or engine.link.is_connected else f" ({engine.link.connect_error()})"

    def counts(self) -> dict[str, Any]:
        """Return what ``metrics()`` says of a connection."""
        engine = self.slot.engine
        events, size = self.slot.outbox.depth()
        return {
            "outbox_events": events,
            "outbox_bytes": size,
            "publish_waits": histogram_of(self.slot.outbox.waits),
            "confirmed": 0 if engine is None else engine.link.pump.confirmed,
            "uncertain": 0 if engine is None else engine.link.pump.uncertain,
            "rejected": 0 if engine is None else engine.link.pump.rejected,
            "reconnects": self.slot.reconnects,
        }

    def refused_since(self, count: int) -> frozenset[str] | None:
        """Return the subjects to which the server has refused events since so many were; None if some are not known."""
        engine = self.slot.engine
        return frozenset() if engine is None else engine.link.pump.refusals.since(count)

    # -- the loop

    def make_ready(self) -> None:
        """Begin to connect, and wait for the first attempt where the first use does."""
        self._ready()

    def refuse_own_thread(self) -> None:
        """Refuse a call that blocks on the loop thread, on which a finalizer may run.

        Raises:
            WrongThreadError: This is the loop thread.
        """
        if self.slot.engine is not None:
            self.slot.engine.loop.refuse_own_thread()

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Run a callback on the loop thread, if there is one. Takes no lock: for finalizers."""
        engine = self.slot.engine
        if engine is not None:
            engine.loop.call_soon(callback)

    def repeat(self, seconds: float, callback: Callable[[], bool]) -> None:
        """Run a callback on the loop thread every so many seconds, until it returns False."""
        self._ready().loop.repeat(seconds, callback)

    # -- publishing

    def send(self, frame: bytes, size: int, line: int, timeout: float | None, buffer: bool, wait: bool) -> None:
        """Accept a ``PUB`` command.

        Args:
            frame: The command.
            size: Bytes of its payload.
            line: The length of its line.
            timeout: Seconds to wait for room in the outbox. Nothing waits on a loop thread, whichever connection's.
            buffer: Whether to accept it while disconnected.
            wait: Whether to wait for the first attempt to connect.

        Raises:
            As ``publish()``.
        """
        slot = self.slot
        engine = slot.engine
        if (
            engine is None
            or not (link := engine.link).first.done
            or size > link.max_payload
            or line not in link.lines.taken
            or not (buffer or link.is_connected)
        ):
            self._prepare(size, line, buffer, wait)
        try:
            slot.outbox.put(frame, timeout)
        except PublishTimeoutError as error:
            raise self._explained(error) from None

    def send_many(
        self,
        count: int,
        size: int,
        largest: int,
        line: int,
        make: Callable[[], Sequence[bytes]],
        timeout: float | None,
        buffer: bool,
    ) -> None:
        """Accept several ``PUB`` commands, all of them or none.

        Args:
            count: How many.
            size: An upper bound of the bytes of all.
            largest: Bytes of the largest payload.
            line: The length of the longest of their lines.
            make: Makes the commands, once there is room.
            timeout: As for :meth:`send`.
            buffer: As for :meth:`send`.

        Raises:
            As ``publish()``.
        """
        self._prepare(largest, line, buffer, True)
        try:
            self.slot.outbox.put_many(count, size, make, timeout)
        except PublishTimeoutError as error:
            raise self._explained(error) from None

    def _prepare(self, largest: int, line: int, buffer: bool, wait: bool) -> None:
        """Have an engine, and make sure that what it has for a server takes a payload and a line of these lengths."""
        engine = self.slot.engine
        if engine is None or not engine.link.first.done:
            # The collector runs finalizers, which may publish, on a loop thread as well.
            engine = self._ready() if wait and get_ident() not in loop_threads else self._begin()
        link = engine.link
        if largest > link.max_payload > 0:
            raise _too_large(largest, link.max_payload)
        if line not in link.lines.taken:
            link.lines.take(line)
        if not buffer and not link.is_connected:
            raise DisconnectedError(f"nothing was published: {link.connect_error()}")

    def _explained(self, error: PublishTimeoutError) -> PublishTimeoutError:
        engine = self.slot.engine
        if engine is None or engine.link.is_connected:
            return error
        return PublishTimeoutError(f"{error}; {engine.link.connect_error()}")

    # -- subscribing

    def subscribe(self, interest: Interest, *, wait: bool = True) -> None:
        """Have the server subscribe an interest, in the order of the calls; :meth:`await_confirmation` waits for that.

        Args:
            interest: Which.
            wait: Whether to wait for the first attempt to connect.
        """
        engine = self._ready() if wait else self._begin()
        engine.loop.post(engine.link.subscriber.subscribe, interest)

    def unsubscribe(self, interest: Interest) -> None:
        """Have the server unsubscribe an interest, in the order of the calls."""
        engine = self.slot.engine
        if engine is not None and not self.slot.closed:
            with suppress(BusClosedError):  # it closed meanwhile, and all interests with it
                engine.loop.post(engine.link.subscriber.unsubscribe, interest)

    def await_confirmation(self, interest: Interest, deadline: Deadline) -> None:
        """Wait until the connected server has confirmed an interest.

        Raises:
            DeadlineExceededError: It had not in time.
            PermissionDeniedError: It refuses.
        """
        engine = self._ready()
        engine.loop.refuse_own_thread()
        try:
            interest.confirmed.wait(deadline)
            engine.link.await_connection(deadline)  # by another server than the one that confirmed it, perhaps
        except DeadlineExceededError:
            link = engine.link
            why = "the server has not confirmed it" if link.is_connected else str(link.connect_error())
            raise DeadlineExceededError(f"no subscription to {interest.subject!r} within {deadline}: {why}") from None
        if interest.error is not None:  # by that other server
            raise again(interest.error)

    def await_last(self, interests: Sequence[Interest], deadline: Deadline) -> None:
        """Wait until the server has sent the last message for interests that were unsubscribed, or the deadline."""
        engine = self.slot.engine
        if engine is None or self.slot.closed or engine.loop.is_current():
            return
        with suppress(DeadlineExceededError):
            for interest in interests:
                interest.gone.wait(deadline)

    # -- questions

    def request(
        self,
        subjects: Collection[str],
        make: Callable[[bytes], bytes],
        deadline: Deadline,
        last: Last = single,
        largest: int = 0,
    ) -> Call:
        """Put a question to the server, and return the call that its answers are then waited for with.

        Args:
            subjects: Whom it is put to.
            make: Makes the commands, from the inbox for the answers.
            deadline: For the connection, if there never was one, and for the right to get answers.
            last: Which answer is the last.
            largest: Bytes of the largest payload among the commands, headers included.

        Raises:
            ConnectError: There never was a connection.
            EventTooLargeError: The payload is larger than the server takes.
            PermissionDeniedError: The server sends this user no answers.
        """
        engine = self.slot.engine
        if engine is None or not engine.link.was_connected:
            engine = self._begin()
            engine.await_connection(deadline, as_first=self.slot.is_awaited)
            if self.slot.closed:
                self._begin()  # which refuses
        engine.loop.refuse_own_thread()
        link = engine.link
        requests = link.requests
        mailbox = requests.mailbox
        if mailbox.ended or not mailbox.confirmed.done:
            self.await_confirmation(requests.open(self.subscribe), deadline)
        if largest > link.max_payload > 0:
            raise _too_large(largest, link.max_payload)
        call = requests.new_call(subjects, make, last)
        if not requests.put(call):
            engine.loop.post(requests.send, call)
        return call

    def may_publish(self, subjects: Iterable[str], deadline: Deadline) -> dict[str, bool]:
        """Return by subject whether the server lets this user publish to it. Nobody gets a message of it.

        The server notes each trial in its log, as an error.

        Raises:
            DeadlineExceededError: The server has not answered in time.
            InvalidNamespaceError: A subject is longer than the server accepts.
        """
        engine = self._ready()
        engine.loop.refuse_own_thread()
        requests = engine.link.requests
        trials = [requests.new_trial(subject) for subject in subjects]
        for trial in trials:
            engine.loop.post(requests.begin_trial, trial)
        return {trial.subject: _is_permitted(partial(trial.call.wait, deadline)) for trial in trials}

    def may_subscribe(self, subjects: Iterable[str], deadline: Deadline) -> dict[str, bool]:
        """Return by subject whether the server lets this user subscribe to it. What comes for it is passed over.

        Raises:
            DeadlineExceededError: The server has not answered in time.
        """
        trials = {subject: TrialInterest(subject) for subject in subjects}
        try:
            for trial in trials.values():
                self.subscribe(trial)
            wait = self.await_confirmation
            return {subject: _is_permitted(partial(wait, trial, deadline)) for subject, trial in trials.items()}
        finally:
            for trial in trials.values():
                self.unsubscribe(trial)

    def tls(self, deadline: Deadline) -> TLSState | None:
        """Return how the connection is encrypted; None if it is not, or if there is none.

        Raises:
            DeadlineExceededError: The loop has not answered in time.
        """
        engine = self._ready()
        engine.loop.refuse_own_thread()
        reply: Reply[TLSState | None] = Reply()
        engine.loop.post(engine.link.tell_tls, reply)
        return reply.wait(deadline)

    def ping(self, call: Call) -> None:
        """Have the server tell a call that waits when it has processed all that was sent before."""
        engine = self.slot.engine
        if engine is not None:
            with suppress(BusClosedError):
                engine.loop.post(engine.link.requests.ping, call)

    def write(self, frame: bytes) -> None:
        """Write commands to the server, if there is a connection; nobody waits for an answer."""
        engine = self.slot.engine
        if engine is None or self.slot.closed:
            return
        requests = engine.link.requests
        if not requests.write_at_once(frame):
            with suppress(BusClosedError):
                engine.loop.post(requests.write, frame)

    def on_refusal(self, subject: str, refused: Refused) -> None:
        """Call ``refused`` when the server denies what :meth:`write` sent to a subject, on the loop thread.

        It is called on the thread that writes if the line would be longer than the server accepts.

        Args:
            subject: The subject; for the acknowledgements of a consumer ``$JS.ACK.<stream>.<consumer>``.
            refused: It gets the subject that was denied, and an error.
        """
        engine = self.slot.engine
        if engine is not None:
            engine.link.requests.on_refusal(subject, refused)

    def off_refusal(self, subject: str, refused: Refused) -> None:
        """Take that off again, if it is there."""
        engine = self.slot.engine
        if engine is not None:
            engine.link.requests.off_refusal(subject, refused)


def _is_permitted(wait: Callable[[], object]) -> bool:
    try:
        wait()
    except PermissionDeniedError:
        return False
    return True


def _too_large(size: int, limit: int) -> EventTooLargeError:
    return EventTooLargeError(f"an event of {size} bytes is larger than the server's max_payload of {limit}")
