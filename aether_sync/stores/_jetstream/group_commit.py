"""``GroupCommit``: what several threads save at the same time is stored in one atomic batch.

A server with one replica stages each batch in files of its own, and syncs them, before it stores the batch: that takes
milliseconds, however many records the batch has, and the batches of a stream wait for each other
(``newBatchStore`` of nats-server 2.15). So while a batch is under way, the saves that wait are collected, and the next
batch has all of them. A save that is alone is sent at once.

One thread at a time leads: it takes the saves that wait, sends them, and tells every other thread what became of its
own. Each record names its place in its save (``Aether-Save``), so readers know what was saved by one call. Each save
keeps its own expectations, so the batch is refused if one of its saves has to be. Then, and after any other failure
that may be due to one of them, each is stored by itself.

Accepted race: a leader that an exception interrupts a second time, while it tells the others, may leave them asleep.
They wake when most of their time is over, and find out by themselves what became of their saves.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from ..._runtime.again import again
from ..._runtime.deadline import Deadline
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.locks import outside_locks, signal_safe_lock, tries
from ..._runtime.waits import ParkingLot
from ...errors import AetherError, AtomicAppendUnsupportedError
from .answers import BusyError, NoRoomError, NotSentError, RefusedError, UnknownError
from .api import JetStream
from .messages import Outgoing, new_batch

__all__ = ["GroupCommit", "Landed", "Outbound"]

_LARGEST = 1_000  # records of a batch (ADR-50), unless the server says less
_BYTES = 4 * 2**20  # of the bodies of a batch of several saves
_PATIENT = 1.0  # seconds: who has less time left leads nobody else, as the others would lose the answer with it
_DELAY = 0.001  # seconds that a leader waits for those who were sent together the last time: a batch takes longer
_SHARE = 0.7  # of the time left, to wait for a leader; the rest is to find out what became of the save


class Landed(NamedTuple):
    """Where a save is stored.

    Attributes:
        first: The sequence of its first record.
        start: The sequence of the first record of its batch.
        batch: The id of the batch.
    """

    first: int
    start: int
    batch: bytes


@dataclass(eq=False, slots=True)
class Outbound:
    """A save that is to be stored.

    Attributes:
        messages: Its messages in order.
        batches: The ids of the batches in which it was sent, to be added to.
        number: How many attempts to store it were made before.
    """

    messages: Sequence[Outgoing]
    batches: set[bytes]
    number: int
    _is_free: list[bool] = field(default_factory=lambda: [True])  # taken by the leader, or by the thread that gives up
    outcome: Landed | Exception | None = None  # RefusedError if it has to be stored alone

    def claim(self) -> bool:
        """Take the right to send it, or to treat it as unsent; returns whether the caller got it."""
        try:
            return self._is_free.pop()
        except IndexError:
            return False


class GroupCommit(ForkAware):
    """Stores the saves of one stream in batches. Any thread may call it.

    Args:
        jetstream: Puts requests to the server.
        stream: The name of the stream.
    """

    def __init__(self, jetstream: JetStream, stream: str) -> None:
        self._jetstream = jetstream
        self._stream = stream
        self._turn = signal_safe_lock()  # held by the thread that leads; others only try to take it
        self._is_led = False  # written by the thread that has the turn
        self._queue: list[Outbound] = []  # the longest waiting first; changed by single operations
        self._waiting = ParkingLot()  # for an outcome, or for the turn
        self._gathering = ParkingLot()  # the leader, for those who are about to save again
        self._company = 1  # saves that there were at the end of the last batch; written by the thread that has the turn
        self._most = _LARGEST  # records of a batch; written by the thread that has the turn
        fork_aware.add(self)

    def _after_fork(self) -> None:
        self._queue.clear()  # those of the parent's other threads, which send them there

    def publish_alone(self, save: Outbound, deadline: Deadline) -> Landed:
        """Store a save in a batch of its own.

        Raises:
            Exception: As :meth:`JetStream.publish`.
        """
        batch = new_batch(len(save.messages))
        save.batches.add(batch)
        return self._send([save], batch, deadline)[0]

    def publish(self, save: Outbound, deadline: Deadline) -> Landed | None:
        """Store a save in a batch, with those of other threads that wait.

        Args:
            save: The save.
            deadline: For the attempt. If this thread leads, it is also that of the others that are sent with it.

        Returns:
            Where it is stored; None if nothing of it is, and it has to be stored by itself.

        Raises:
            UnknownError: It may be stored, or not.
            NotSentError: It was not sent.
            WrongThreadError: This is the loop thread.
            Exception: As :meth:`JetStream.publish`.
        """
        self._jetstream.refuse_own_thread()
        until = Deadline(None if deadline.timeout is None else deadline.remaining() * _SHARE)
        try:
            self._queue.append(save)
            self._gathering.wake_all()
            while save.outcome is None:
                self._try_to_lead(save, deadline)
                if save.outcome is None and not self._wait(save, until):
                    if save.claim():
                        raise NotSentError("saves of other threads are still before it")
                    raise UnknownError("no answer came to the thread that sent it with others")
        finally:
            self._leave(save)
        if isinstance(save.outcome, Landed):
            return save.outcome
        if isinstance(save.outcome, _AloneError):
            return None
        raise again(save.outcome)

    def _wait(self, save: Outbound, until: Deadline) -> bool:
        """Wait for the outcome or for the turn, without the locks of what a signal handler that saves has interrupted.

        The thread that leads, and the loop, may need them.
        """
        with outside_locks():
            return self._waiting.wait(lambda: save.outcome is not None or not self._is_led, until)

    def _leave(self, save: Outbound) -> None:
        with suppress(ValueError):  # it has left already
            self._queue.remove(save)

    def _try_to_lead(self, own: Outbound, deadline: Deadline) -> None:
        """Send a save with those that wait, unless another thread leads.

        A signal handler that saves while its thread leads leads, too: the turn is re-entrant.
        """
        was_led = mine = False
        try:
            for mine in tries(self._turn):
                break
            if mine:
                was_led, self._is_led = self._is_led, True
                self._lead(own, deadline)
        finally:
            try:
                if mine:
                    self._is_led = was_led  # no signal comes before the next line is done
                    self._turn.release()
            finally:
                if mine:
                    self._waiting.wake_all()

    def _lead(self, own: Outbound, deadline: Deadline) -> None:
        if own.outcome is not None:
            return
        if not own.claim():  # a leader took it, and was interrupted twice
            own.outcome = UnknownError("the thread that sent it with others was interrupted")
            return
        group = [own]
        try:
            self._leave(own)
            self._gather(group, deadline)
            batch = new_batch(sum(len(one.messages) for one in group))
            for one in group:
                one.batches.add(batch)
            for one, landed in zip(group, self._send(group, batch, deadline), strict=True):
                one.outcome = landed
            self._company = len(group) + len(self._queue)
            self._refuse_late(group)
        except (UnknownError, BusyError) as error:
            _end(group, error)
        except (RefusedError, NoRoomError, AetherError) as error:
            if isinstance(error, AtomicAppendUnsupportedError):
                self._most = min(self._most, sum(len(one.messages) for one in group) // 2)
            _end(group, error if len(group) == 1 else _AloneError())
        except BaseException:
            _end(group, UnknownError("the thread that sent it with others was interrupted"))
            raise

    def _gather(self, group: list[Outbound], deadline: Deadline) -> None:
        """Add the saves that wait, as far as they go into one batch: an actor is in one of them only.

        Args:
            group: What is sent; it has the leader's own save.
            deadline: The leader's.
        """
        if deadline.remaining() < _PATIENT:
            return
        if self._company > 1 + len(self._queue):
            self._gathering.wait(lambda: self._company <= 1 + len(self._queue), Deadline(_DELAY))
        if not self._queue:
            return
        count, size, subjects = _extent(group[0])
        for one in list(self._queue):
            more_count, more_size, more_subjects = _extent(one)
            fits = count + more_count <= self._most and size + more_size <= _BYTES
            if not fits or subjects & more_subjects or not one.claim():
                continue
            group.append(one)
            self._leave(one)
            count, size = count + more_count, size + more_size
            subjects |= more_subjects

    def _refuse_late(self, group: Sequence[Outbound]) -> None:
        """Refuse the waiting saves that expect what a group has just changed; sent with others, they would harm those.

        Args:
            group: The saves that were stored.
        """
        if not self._queue:
            return
        changed = {message.subject for one in group for message in one.messages}
        before = min(one.outcome.start for one in group if isinstance(one.outcome, Landed))
        for one in list(self._queue):
            late = any(
                message.subject in changed and message.expected is not None and message.expected < before
                for message in one.messages
            )
            if late and one.claim():
                one.outcome = RefusedError("another thread has just stored events of its actor")

    def _send(self, group: Sequence[Outbound], batch: bytes, deadline: Deadline) -> list[Landed]:
        if len(group) == 1:
            messages = group[0].messages
        else:  # readers are told which records were saved by one call
            messages = [
                message._replace(within=(place, len(one.messages)))
                for one in group
                for place, message in enumerate(one.messages, 1)
            ]
        number = max(one.number for one in group)
        ack = self._jetstream.publish(self._stream, messages, deadline, number, batch)
        start = ack.seq - len(messages) + 1
        landed, first = [], start
        for one in group:
            landed.append(Landed(first, start, batch))
            first += len(one.messages)
        return landed


class _AloneError(Exception):
    """It has to be stored by itself."""


def _extent(save: Outbound) -> tuple[int, int, set[str]]:
    """Return how many messages a save has, the bytes of their bodies, and their subjects."""
    messages = save.messages
    return len(messages), sum(len(one.data) for one in messages), {one.subject for one in messages}


def _end(group: Iterable[Outbound], error: Exception) -> None:
    """Give an error to those saves that have no outcome."""
    for one in group:
        if one.outcome is None:
            one.outcome = error
