"""The threads and coroutines that wait for an event of one queue.

They stand in one line. A thread waits on a lock of its own; a coroutine waits for a future of its event loop, which
the thread that wakes it sets by ``call_soon_threadsafe``. Nothing of that happens while no coroutine waits.

Waking a thread is a single step in C, which no signal handler interrupts. Waking a coroutine is not: asyncio's
``call_soon_threadsafe`` is Python code, so a handler may raise after the coroutine was taken out of the line and before
its loop was told. Therefore all waiting coroutines are also known apart from the line, and :meth:`Readers.wake_all`,
which is called after such an exception, tells all of them.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from operator import methodcaller

from .._runtime.registry import WeakRegistry
from .._runtime.waits import ParkingLot

__all__ = ["Readers"]

_is_closed = methodcaller("is_closed")


class _Ticket:
    """The place in the line of a coroutine that waits."""

    __slots__ = ("__weakref__", "_readers", "future")

    def __init__(self, readers: "Readers") -> None:
        self._readers = readers
        self.future = asyncio.get_running_loop().create_future()

    def release(self) -> None:
        """Wake the coroutine; any thread. If its loop is closed, it never runs again, and the next reader is woken."""
        loop = self.future.get_loop()
        try:
            loop.call_soon_threadsafe(self._set)
        except RuntimeError:
            if not loop.is_closed():
                raise
        if loop.is_closed():  # perhaps just now, and what was called soon is never called
            self._readers.leave_out(_is_closed)  # of all closed loops, or each of them would be woken by the one before
            self._readers.wake(1)

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Readers(ParkingLot):
    """The readers of one queue that wait, the longest waiting first."""

    __slots__ = ("_coroutines",)

    def __init__(self) -> None:
        super().__init__()
        # All that wait, in the line or woken just now. Weak, so that a loop that was stopped for good can be collected,
        # and with it the coroutine, which then passes on a wake-up that it had.
        self._coroutines: WeakRegistry[_Ticket] = WeakRegistry()

    async def wait_in_coroutine(self, ready: Callable[[], object]) -> None:
        """Wait, in a coroutine, until woken; return at once if ``ready()``, which never blocks.

        If the wait ends by an exception, as by the cancellation of the task, a wake-up that had come is passed on. A
        signal handler may raise after any call, so the ticket is taken out of the line before anything else is called.
        """
        ticket = _Ticket(self)
        is_passed_on = True
        try:
            self._coroutines.add(ticket)
            self.parked.append(ticket)
            if not ready():
                await ticket.future
            is_passed_on = False
        finally:
            try:
                self.parked.remove(ticket)
            except ValueError:  # it was woken
                if is_passed_on:
                    try:
                        self.wake(1)
                    except BaseException:  # of a handler, perhaps before anyone was woken
                        self.wake_all()
                        raise

    def wake_all(self) -> None:
        """Wake everyone who waits, also coroutines whose wake-up was lost to an exception."""
        super().wake_all()
        for ticket in self._coroutines:
            ticket.release()

    def leave_out(self, chosen: Callable[[asyncio.AbstractEventLoop], object]) -> None:
        """Forget the coroutines of the chosen loops, which run no more, and tell the loops nothing."""
        for ticket in self._coroutines:
            if chosen(ticket.future.get_loop()):
                self._coroutines.discard(ticket)
                with suppress(ValueError):  # it was woken
                    self.parked.remove(ticket)
