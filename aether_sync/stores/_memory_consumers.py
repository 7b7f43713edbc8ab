"""``MemoryBackend``: the consumers of a store in memory; ``MemoryConsumption``, which takes from one.

Nothing travels here, so nothing waits in the process to be taken: an event is delivered when it is taken.
"""

import weakref
from collections import deque
from collections.abc import Iterable
from threading import RLock
from typing import Any

from .._runtime.again import again
from .._runtime.closing import warn_unclosed
from .._runtime.deadline import Deadline
from .._runtime.exit import before_threads_end, is_ending
from .._runtime.fork import fork_aware
from .._runtime.registry import WeakRegistry
from .._runtime.reporter import Reporter
from .._values.clock import monotonic
from ..errors import AetherError, DeadlineExceededError, StoreClosedError, StoreError, StreamMismatchError
from ..events import Event
from ._memory_log import Log, fresh
from ._memory_queue import DeliveryQueue, EventQueue, LetterQueue, Letters
from .consumers.base import ADVICE, AGAIN, SAME, ConsumerSettings, ConsumerState, DeadLetter
from .consumers.consumption import Consumption
from .consumers.context import ConsumerBackend
from .consumers.delivery import Delivery, Origin, Settler, receipt_of

__all__ = ["MemoryBackend", "MemoryConsumption"]


class _MemorySettler(Settler):
    """Settles the deliveries of one consumption of a store in memory."""

    def __init__(self, log: Log, queue: DeliveryQueue, lost: deque[bytes], origin: Origin) -> None:
        self.origin = origin
        self.lock: RLock = log.lock
        self._log = log
        self._queue = queue
        self._lost = lost

    def acknowledge(self, receipt: bytes) -> None:
        self._queue.settle(receipt)

    def confirm(self, receipt: bytes, deadline: Deadline) -> None:
        self._queue.settle(receipt)

    def give_back(self, receipt: bytes, delay: float) -> None:
        self._queue.defer(receipt, delay)

    def return_unhandled(self, receipt: bytes) -> None:
        if self._queue.return_unhandled(receipt):
            self._lost.append(receipt)

    def in_progress(self, receipt: bytes) -> None:
        self._queue.begin_anew(receipt)

    def bury(self, delivery: Delivery, reason: str, deadline: Deadline) -> None:
        if isinstance(self._queue, LetterQueue):  # it is a dead letter already, and stays where it is
            self._queue.defer(receipt_of(delivery), AGAIN)
        else:
            self._queue.bury(delivery.sequence, delivery.attempt, reason)

    def hold(self, receipt: bytes) -> None:
        self._queue.held[receipt] = None

    def let_go(self, receipt: bytes) -> None:
        if receipt in self._queue.held:
            self._queue.begin_anew(receipt)  # first: what is held no more may be due
            self._queue.held.pop(receipt, None)

    def has_just_extended(self, moment: float) -> bool:
        return True  # what is held is not delivered again at all

    def read(self, sequence: int, deadline: Deadline) -> Event:
        return fresh(self._log[sequence]).event

    def stored_at(self, receipt: bytes) -> int:
        return self._log.moment_of(int(receipt.partition(b" ")[0]))


class MemoryConsumption(Consumption):
    """A consumption of a consumer of a store in memory.

    Args:
        log: The events.
        queue: The deliveries of the consumer.
        origin: Where they come from.
        reporter: Logs for the store.
    """

    def __init__(self, log: Log, queue: DeliveryQueue, origin: Origin, reporter: Reporter) -> None:
        self._log = log
        self._queue = queue
        self._closed = False
        self._failure: AetherError | None = None
        lost: deque[bytes] = deque()
        label = f"{queue.settings.name!r}{' dead letters' if isinstance(queue, LetterQueue) else ''}"
        self._prepare(label, queue.settings.name, queue.max_deliver, origin, reporter, lost)
        self._settler = _MemorySettler(log, queue, lost, origin)
        self._finalizer = weakref.finalize(self, warn_unclosed, repr(self), None)
        self._finalizer.atexit = False
        fork_aware.add(self)
        _consumptions.add(self)  # before the check: what is registered before the end is closed with the others
        if is_ending():
            self._finalizer.detach()
            raise StoreClosedError(f"{self!r} does not begin any more: this process is about to end")

    # -- taking

    def _take(self, taken: list[Any]) -> Delivery | None:
        found = None if self._closed or self._queue.is_deleted else self._queue.take()
        if found is None:
            return None
        try:
            event = fresh(self._log[found.sequence]).event
            taken.append(found.receipt)
        except BaseException:
            self._queue.defer(found.receipt, 0, is_taken_back=True)
            raise
        return Delivery(event, found.sequence, found.attempt, found.receipt, self._settler)

    def _give_back(self, taken: list[Any]) -> None:
        for receipt in taken:
            self._queue.defer(receipt, 0, is_taken_back=True)

    def _await_more(self, deadline: Deadline) -> None:
        self._check_that_it_is_there()
        left = deadline.remaining()
        due = max(0.0, self._queue.due() - monotonic())
        came = self._log.waiting.wait(self._is_to_look, Deadline(min(left, due)))
        if not came and due >= left:
            raise DeadlineExceededError(f"no event for {self!r} within {deadline}")

    def _is_to_look(self) -> bool:
        return self._closed or self._queue.is_deleted or self._queue.has_some()

    def _check_that_it_is_there(self) -> None:
        if self._queue.is_deleted and not self._closed:
            self._failure = _nobody(self._queue.settings.name)
            self.close()
        if self._failure is not None:
            raise again(self._failure)

    def _take_left(self, timeout: float | None) -> Delivery | None:
        deadline = Deadline(timeout)
        while (found := self._take([])) is None:
            self._check_that_it_is_there()
            if self._closed:
                raise self._end()
            if not self._queue.count_new():
                return None
            self._await_more(deadline)  # as many as may be are being worked on elsewhere
        return found

    # -- how it is

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def is_connected(self) -> bool:
        return not self._closed

    def _set_prefetch(self, count: int) -> None:
        """Do nothing: nothing waits here to be taken."""

    def _count_left(self) -> int:
        return self._queue.count_new()

    def _fetch_state(self, deadline: Deadline) -> ConsumerState:
        if self._queue.is_deleted:
            raise _nobody(self._queue.settings.name)
        return self._queue.state()

    # -- ending

    def _close_by(self, deadline: Deadline) -> None:
        self._closed = True
        self._finalizer.detach()
        self._log.waiting.wake_all()
        self._report_lost()

    def _end(self) -> AetherError:
        failure = self._failure
        return StoreClosedError(f"{self!r} is closed") if failure is None else again(failure)

    def _after_fork(self) -> None:
        self._closed = True
        self._failure = StoreClosedError(f"{self!r} was made before the fork, and is its parent's: make another here")
        self._finalizer.detach()
        self._queue.held.clear()  # the parent's threads work on it: it is delivered here again


class MemoryBackend(ConsumerBackend):
    """Keeps the consumers of a store in memory.

    Args:
        log: The events.
        namespace: That of the store; "" if it has none.
        reporter: Logs for the store.
    """

    def __init__(self, log: Log, namespace: str, reporter: Reporter) -> None:
        self.stream = ""
        self.reporter = reporter
        self._log = log
        self._namespace = namespace
        self._queues: dict[str, EventQueue] = {}  # by the consumer's name; single operations only
        self._letter_queues: dict[str, LetterQueue] = {}  # the same
        self._letters: dict[str, Letters] = {}  # the same

    def begin(
        self,
        name: str,
        settings: ConsumerSettings,
        prefetch: int,
        deadline: Deadline,
        *,
        dead_letters: bool,
        takes_ahead: bool,
    ) -> Consumption:
        letters = self._letters.setdefault(settings.name, {})
        queue: DeliveryQueue
        if dead_letters:
            new_letters = LetterQueue(self._log, settings, letters)
            queue = self._letter_queues.setdefault(settings.name, new_letters)
            _compare(queue.settings, settings, ("ack_wait", "max_ack_pending"), SAME)
        else:
            queue = self._queues.setdefault(settings.name, EventQueue(self._log, settings, letters))
            _compare(queue.settings, settings, ("ack_wait", "max_deliver", "max_ack_pending"), ADVICE)
        return MemoryConsumption(self._log, queue, Origin(name, self.stream, self._namespace), self.reporter)

    def wait_for(self, settings: ConsumerSettings, sequence: int, deadline: Deadline) -> None:
        queue = self._queues.get(settings.name)
        if queue is None:
            raise _nobody(settings.name)
        target = queue.last_wanted(sequence)

        def is_over() -> bool:
            return self._log.closed or queue.is_deleted or queue.has_passed(target)

        while not is_over():
            due = max(0.0, queue.due() - monotonic())  # then an event may be given up
            if not queue.lot.wait(is_over, Deadline(min(deadline.remaining(), due))) and not deadline.remaining():
                state = queue.state()
                raise DeadlineExceededError(
                    f"consumer {settings.name!r} has not acknowledged event {target} within {deadline}: all up to "
                    f"{state.acknowledged} is, {state.unacknowledged} events are being worked on, {state.waiting} wait"
                )
        if queue.is_deleted:
            raise _nobody(settings.name)
        if self._log.closed and not queue.has_passed(target):
            raise StoreClosedError(f"the store was closed before consumer {settings.name!r} had event {target}")

    def state(self, consumer: str, deadline: Deadline) -> ConsumerState | None:
        queue = self._queues.get(consumer)
        return None if queue is None else queue.state()

    def states(self, deadline: Deadline) -> list[ConsumerState]:
        return [queue.state() for _, queue in sorted(self._queues.items())]

    def delete(self, consumer: str, deadline: Deadline) -> bool:
        gone = [queues.pop(consumer, None) for queues in (self._letter_queues, self._queues)]
        for queue in gone:
            if queue is not None:
                queue.is_deleted = True
                queue.lot.wake_all()
        self._log.waiting.wake_all()
        return gone[1] is not None

    def dead_letters(self, consumer: str, limit: int, deadline: Deadline) -> list[DeadLetter]:
        queue = self._queues.get(consumer)
        if queue is not None:
            queue.sweep()
        found = list(self._letters.get(consumer, {}).values())[:limit]
        return sorted(found, key=lambda one: one.sequence)

    def discard(self, consumer: str, sequence: int, deadline: Deadline) -> bool:
        queue = self._letter_queues.get(consumer)
        if queue is not None:
            return queue.discard(sequence)
        return self._letters.get(consumer, {}).pop(sequence, None) is not None

    def close(self) -> None:
        """Wake those who wait for a consumer."""
        for queue in list(self._queues.values()):
            queue.lot.wake_all()


def _nobody(consumer: str) -> StoreError:
    return StoreError(f"there is no consumer {consumer!r} of this store in memory: iterate() and run() make it")


def _compare(has: ConsumerSettings, wants: ConsumerSettings, names: Iterable[str], advice: str) -> None:
    """Refuse settings that differ from those that a consumer was made with."""
    found = [
        f"{name} is {_shown(name, have)}, not {_shown(name, want)}"
        for name in names
        if (have := getattr(has, name)) != (want := getattr(wants, name))
    ]
    if advice is ADVICE:
        for name, have, want in (
            ("actors", has.wanted.actor_pattern or None, wants.wanted.actor_pattern or None),
            ("event_types", sorted(has.wanted.event_types), sorted(wants.wanted.event_types)),
        ):
            if have != want:
                found.append(f"{name} is {have!r}, not {want!r}")
    if found:
        raise StreamMismatchError(
            f"there is a consumer {has.name!r} of this store in memory with other settings: {'; '.join(found)}. "
            f"{advice}",
            tuple(found),
        )


def _shown(name: str, value: float) -> str:
    return f"{value:g} s" if name == "ack_wait" else repr(value)


_consumptions: WeakRegistry[MemoryConsumption] = WeakRegistry()


@before_threads_end
def _end_consuming() -> None:
    """Close every consumption when the main thread ends: Python waits for the other threads, which may iterate them."""
    for consumption in _consumptions:
        consumption.close()
