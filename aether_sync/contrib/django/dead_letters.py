"""The dead letters of the handlers of a project: to look at, to handle again, and to discard."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..._runtime.deadline import Deadline
from ..._values.shown import explained
from ...errors import AetherError, RetryableError
from ...stores.consumers.base import DeadLetter
from ...stores.consumers.delivery import Delivery
from ...worker.on_consumer import ConsumerHandler
from ...worker.worker import handlers_of
from ._connections import get_store
from .registry import build_worker, registered

__all__ = ["Found", "Retried", "discard", "find_all", "retry"]

_AT_ONCE = 100  # dead letters that are taken at a time
_MOMENT = 1.0  # seconds without another one, after which there is none to be had
_LOOKED_AT = 1_000  # dead letters that are read to see which are still there
_LATER = 30.0  # seconds for which nobody gets one that stays


@dataclass(frozen=True, slots=True)
class Found:
    """The dead letters of a handler.

    Attributes:
        alias: Of its store, in the setting ``AETHER``.
        consumer: The name of its consumer.
        letters: The first of them, in the order of the store.
        trouble: Why they cannot be read; "" if they can.
    """

    alias: str
    consumer: str
    letters: tuple[DeadLetter, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Retried:
    """What became of dead letters that were handled again.

    Attributes:
        handled: The sequences of those that are none any more.
        failed: Why others have failed again, by sequence.
        missing: Those that another process has, or that were tried a moment ago.
        gone: Those that are no dead letters any more: somebody else has handled or discarded them.
    """

    handled: frozenset[int]
    failed: dict[int, str]
    missing: frozenset[int]
    gone: frozenset[int]


def find_all(limit: int, timeout: float) -> Iterator[Found]:
    """Give the dead letters of each handler.

    Args:
        limit: How many of each.
        timeout: Seconds for all together.
    """
    deadline = Deadline(timeout)
    for one in registered():
        if one.kind == "handler":
            try:
                consumer = get_store(one.alias).consumer(one.name)
                letters = consumer.dead_letters(limit=limit, timeout=deadline.timeout_left())
            except AetherError as error:
                yield Found(one.alias, one.name, trouble=str(error))
            else:
                yield Found(one.alias, one.name, tuple(letters))


def discard(alias: str, consumer: str, sequences: Iterable[int], timeout: float) -> int:
    """Remove dead letters for good; return how many there were.

    Raises:
        AetherError: The server has not answered in time.
    """
    deadline = Deadline(timeout)
    one = get_store(alias).consumer(consumer)
    return sum(one.discard_dead_letter(sequence, timeout=deadline.timeout_left()) for sequence in sequences)


def retry(alias: str, consumer: str, sequences: Iterable[int], timeout: float) -> Retried:
    """Call the handler with some dead letters, on this thread.

    Args:
        alias: In the setting ``AETHER``.
        consumer: The name of the handler's consumer.
        sequences: Of the events.
        timeout: Seconds in which the last one is begun.

    Raises:
        LookupError: There is no such handler.
        AetherError: The server has not answered in time.
    """
    handler = _handler(alias, consumer)
    wanted, handled, failed = set(sequences), set[int](), dict[int, str]()
    deadline = Deadline(timeout)
    try:
        with handler.consumer.iterate(dead_letters=True, timeout=deadline.timeout_left()) as deliveries:
            while wanted and (batch := deliveries.get_batch(_AT_ONCE, timeout=min(_MOMENT, deadline.remaining()))):
                for delivery in batch:
                    if delivery.sequence not in wanted or not deadline.remaining():
                        delivery.nak(_LATER)
                        continue
                    wanted.discard(delivery.sequence)
                    reason = _try(handler, delivery)
                    if reason:
                        failed[delivery.sequence] = reason
                    else:
                        handled.add(delivery.sequence)
    finally:
        if handler.release is not None:
            handler.release()
    gone = wanted - _still_there(alias, consumer, wanted, deadline) if wanted else wanted
    return Retried(frozenset(handled), failed, frozenset(wanted - gone), frozenset(gone))


def _still_there(alias: str, consumer: str, sequences: set[int], deadline: Deadline) -> set[int]:
    """Return which of some dead letters are there, and all if that cannot be told."""
    try:
        letters = get_store(alias).consumer(consumer).dead_letters(limit=_LOOKED_AT, timeout=deadline.timeout_left())
    except RetryableError:  # the time is over
        return sequences
    return sequences if len(letters) == _LOOKED_AT else sequences & {one.sequence for one in letters}


def _handler(alias: str, consumer: str) -> ConsumerHandler:
    for one in handlers_of(build_worker(alias, around=())):
        if isinstance(one, ConsumerHandler) and one.consumer.name == consumer:
            return one
    raise LookupError(f"there is no @handler({consumer!r}) for AETHER[{alias!r}]")


def _try(handler: ConsumerHandler, delivery: Delivery) -> str:
    """Call a handler with a delivery, and settle it; return why it has failed, or ""."""
    try:
        handler.call(delivery)
        if not delivery.settled:
            delivery.ack(confirm=True)
    except Exception as error:
        with suppress(AetherError):
            if not delivery.settled:
                delivery.nak(_LATER)
        return explained(error)
    return ""
