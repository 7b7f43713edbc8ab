"""A set of objects that does not keep them alive."""

import weakref
from collections.abc import Iterator
from functools import partial
from typing import Generic, TypeVar

__all__ = ["WeakRegistry"]

T = TypeVar("T")


class WeakRegistry(Generic[T]):
    """The objects that were added and are still alive. Any thread may use it, and it takes no lock.

    It uses only single operations of a dict, and callbacks that are C functions, in which no signal handler can raise.
    """

    def __init__(self) -> None:
        self._refs: dict[int, weakref.ref[T]] = {}  # by id
        self._forget = self._refs.pop

    def add(self, one: T) -> None:
        """Add an object; it is forgotten when it is collected."""
        self._refs[id(one)] = weakref.ref(one, partial(self._forget, id(one)))

    def discard(self, one: T) -> None:
        """Forget an object, if it is here."""
        self._forget(id(one), None)

    def __len__(self) -> int:
        return len(self._refs)

    def __iter__(self) -> Iterator[T]:
        return iter([one for ref in list(self._refs.values()) if (one := ref()) is not None])
