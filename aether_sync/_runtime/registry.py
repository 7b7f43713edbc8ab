"""Objects that are still alive, known without keeping them so."""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """Objects that are still alive. Any thread, without a lock.

    Only single operations of a dict are used, and the callbacks are C functions, so no signal handler can raise in one.
    """

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[T]] = {}  # by id
        self._forget = self._refs.pop

    def add(self, one: T) -> None:
        """Know it until it is collected."""
        self._refs[id(one)] = weakref.ref(one, partial(self._forget, id(one)))

    def __iter__(self) -> Iterator[T]:
        return iter([one for ref in list(self._refs.values()) if (one := ref()) is not None])
