"""``OnlyThread``: the thread of an object that has at most one, which any thread may begin and end."""

from collections.abc import Iterator
from contextlib import suppress
from threading import Thread, current_thread
from typing import Generic, Protocol, TypeVar

from .deadline import Deadline
from .locks import outside_locks

__all__ = ["OnlyThread"]


class _Working(Protocol):
    """What works on a thread of its own."""

    thread: Thread

    @property
    def is_over(self) -> bool:
        """Whether another one may take its place."""

    def start(self) -> None:
        """Start the thread."""

    def let_end(self) -> None:
        """Have it end soon; do not wait."""


T = TypeVar("T", bound=_Working)


class OnlyThread(Generic[T]):
    """The one of its kind that works for an object. Any thread may use it, and a signal handler may interrupt it."""

    def __init__(self) -> None:
        self._all: list[T] = []  # at most one; its first one counts

    @property
    def there(self) -> T | None:
        """The one that works, or the last one that did; None if there is none."""
        try:
            return self._all[0]
        except IndexError:
            return None

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._all))

    def begin(self, own: T) -> T:
        """Start one, unless another works; return the one that does."""
        while True:
            there = self.there
            if there is None:
                self._all.append(own)  # accepted race: two threads append, and both go on with the first of them
            elif there.is_over:
                with suppress(ValueError):
                    self._all.remove(there)
            else:
                break
        first = self._all[0]
        if first is own:
            first.start()
        return first

    def drop(self, one: T) -> None:
        """Have one end, and know it no more."""
        one.let_end()
        with suppress(ValueError):
            self._all.remove(one)

    def let_end(self) -> None:
        """Have it end soon; do not wait."""
        for one in self:
            one.let_end()

    def join(self, deadline: Deadline) -> Thread | None:
        """Wait for its end; return its thread if that still runs when the time is over, and does not call this."""
        there = self.there
        if there is None or there.thread is current_thread() or there.thread.ident is None:
            return None
        with outside_locks():
            there.thread.join(deadline.for_lock())
        return there.thread if there.thread.is_alive() else None
