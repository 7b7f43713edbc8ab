"""Batches that are not lost when a signal handler (Ctrl-C, a soft time limit) raises, at whatever moment."""

from collections.abc import Callable
from itertools import repeat
from operator import call
from typing import TypeVar

from ..errors import DeadlineExceededError

__all__ = ["fill", "take_batch"]

T = TypeVar("T")


def take_batch(
    count: int, first: Callable[[], T], take: Callable[[], T], give_back: Callable[[list[T]], object]
) -> list[T]:
    """Take what is there, up to a number, and wait only for the first; return ``[]`` if that does not come in time.

    Args:
        count: How many at most.
        first: Waits for the first and takes it; raises DeadlineExceededError if none comes in time.
        take: As for :func:`fill`.
        give_back: As for :func:`fill`.
    """
    try:
        batch = [first()]
    except DeadlineExceededError:
        return []
    return fill(batch, count, take, give_back)


def fill(batch: list[T], count: int, take: Callable[[], T], give_back: Callable[[list[T]], object]) -> list[T]:
    """Fill a batch up to a number.

    Args:
        batch: What was taken already.
        count: How many it may have at most.
        take: Takes one more; raises IndexError if there is none now.
        give_back: Called with the batch if an exception interrupts this. At most the one is lost that ``take`` has just
            taken.
    """
    try:
        try:
            batch.extend(map(call, repeat(take, count - len(batch))))
        except IndexError:
            pass
    except BaseException:
        give_back(batch)
        raise
    return batch  # at once: nothing is called in between, so no handler runs
