"""Batches that are not lost if a signal handler (Ctrl-C, a soft time limit) raises while they are filled."""

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
    """Take what is there, up to a number, waiting only for the first; ``[]`` if that does not come in time.

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
    """Add items to a batch until it has enough, or there are no more; return the batch.

    Args:
        batch: The items that were taken already.
        count: The largest number of items in the batch.
        take: Takes one more item; raises IndexError if there is none now.
        give_back: Called with the batch if an exception ends this early. At most the item that ``take`` has in hand is
            lost then.
    """
    try:
        try:
            batch.extend(map(call, repeat(take, count - len(batch))))
        except IndexError:
            pass
    except BaseException:
        give_back(batch)
        raise
    return batch  # without any call before it, so no handler runs in between
