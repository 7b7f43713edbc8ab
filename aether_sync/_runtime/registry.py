"""Objects that are still alive, known without being kept alive."""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """Objects that are still alive. Any thread, without a lock.

    It uses only single operations of a dict, and its callbacks are C functions, in which no signal handler can raise.
    """

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[T]] = {}  # by id
        self._forget = self._refs.pop

    def add(self, one: T) -> None:
        """Know an object until it is collected."""
        self._refs[id(one)] = weakref.ref(one, partial(self._forget, id(one)))

    def __iter__(self) -> Iterator[T]:
        return iter([one for ref in list(self._refs.values()) if (one := ref()) is not None])
