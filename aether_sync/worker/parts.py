"""``Parts``: the handlers, projections, relays and periodic work of a worker, which begin and end together."""

from collections.abc import Callable, Iterator
from enum import Enum
from typing import Protocol

from .._runtime.deadline import Deadline
from .._runtime.exit import is_ending, mind_the_exit
from .._runtime.handler_threads import ThreadHooks
from .._runtime.locks import signal_safe_lock
from .._runtime.waits import ParkingLot
from ..errors import AetherError, InvalidOptionError, WorkerError
from ..health import Health
from ..metrics import HandlerMetrics
from .on_projection import ProjectionPart
from .periodic import Periodic

__all__ = ["Part", "Parts", "State"]

_ADVICE = "each event goes to one of those that share a name, so give them different ones"
_ADVICE_OF_WORK = "the name tells periodic work from other work, so give one of them another by every(..., name=...)"


class State(Enum):
    """How far a worker is."""

    NEW = "not started"
    STARTED = "started"
    CLOSED = "closed"


class Part(Protocol):
    """What begins and ends with a worker.

    Attributes:
        label: What it is called in messages.
    """

    label: str

    @property
    def goes_on(self) -> bool:
        """Whether nothing ends it but the worker: not even a bus or store that is closed."""

    @property
    def key(self) -> object:
        """What only one of a worker may have."""

    @property
    def has_ended(self) -> bool:
        """Whether it has ended by itself."""

    @property
    def failure(self) -> AetherError | None:
        """The error that has ended it."""

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Begin, and call ``changed`` when it has ended."""

    def let_end(self, *, discard: bool) -> None:
        """Take nothing new; do not wait for what runs."""

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for what runs, and return how many handlers still do when the time is over."""

    def forget(self) -> None:
        """In a forked child, be as one that has not begun."""

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""

    def metrics(self) -> HandlerMetrics | None:
        """Return what it has done; None if it is no handler."""


class Parts:
    """What a worker consists of, and how far it is. Any thread may use it, and iterate over it.

    Attributes:
        state: How far it is.
    """

    def __init__(self) -> None:
        self._all: list[Part] = []
        self.begin_anew()

    def begin_anew(self) -> None:
        """Be as one that has not begun: at first, and in a forked child."""
        for part in self._all:
            part.forget()
        self._lock = signal_safe_lock()  # guards the two fields below, and the list of all
        self.state = State.NEW
        self._begun: list[Part] = []
        self._changed = ParkingLot()  # who waits for the end

    @property
    def closed(self) -> bool:
        """Whether nothing new is taken any more."""
        return self.state is State.CLOSED

    def __iter__(self) -> Iterator[Part]:
        return iter(list(self._all))

    def add(self, part: Part) -> None:
        """Add one before the start.

        Raises:
            WorkerError: The worker has begun.
            InvalidOptionError: There is one with the same key.
        """
        with self._lock:
            if self.state is not State.NEW:
                raise WorkerError(f"the worker is {self.state.value} already: give it {part.label} before the start")
            there = next((one for one in self._all if one.key == part.key), None)
            if there is not None:
                advice = _ADVICE_OF_WORK if isinstance(part, Periodic) else _ADVICE
                raise InvalidOptionError(
                    f"the worker has {there.label} already, and no room for {part.label}: {advice}"
                )
            self._all.append(part)

    # -- the start

    def claim(self) -> None:
        """Become those that have begun.

        Raises:
            WorkerError: They are that already, or were closed; or there is none.
        """
        with self._lock:
            if self.state is not State.NEW:
                raise WorkerError(f"the worker is {self.state.value} already, and is started once: make a new one")
            if not self._all:
                raise WorkerError("the worker has nothing to do: give it handlers by on(), consume() or every()")
            self.state = State.STARTED

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Begin each: projections first, as most mistakes of settings show there before anything is handled.

        Args:
            hooks: What is called on each thread of handlers.
            changed: Called when one has ended. All threads of handlers refer to the worker by this.
            deadline: When it has to be done.

        Raises:
            WorkerError: The worker was closed meanwhile.
            AetherError: One cannot begin.
        """
        mind_the_exit()
        for part in sorted(self._all, key=lambda one: not isinstance(one, ProjectionPart)):
            if self.closed or is_ending():
                raise WorkerError("the worker was closed while it was being started")
            with self._lock:
                self._begun.append(part)
            part.begin(hooks, changed, deadline)
            if self.closed:  # just now: whoever has closed it may not have seen that this one has begun
                part.let_end(discard=True)

    # -- the end

    def wake(self) -> None:
        """Have who waits look again."""
        self._changed.wake_all()

    def wait(self, condition: Callable[[], object], deadline: Deadline) -> bool:
        """Wait until something holds that :meth:`wake` was called for; return whether it does."""
        return self._changed.wait(condition, deadline)

    @property
    def is_over(self) -> bool:
        """Whether the worker has ended, or one of the parts cannot go on."""
        ending = [part for part in self._begun if not part.goes_on]
        return self.closed or self.failure is not None or (bool(ending) and all(one.has_ended for one in ending))

    @property
    def failure(self) -> AetherError | None:
        """The error by which one of them cannot go on."""
        return next((part.failure for part in self._begun if part.failure is not None), None)

    @property
    def begun(self) -> list[Part]:
        """Those that have begun."""
        return list(self._begun)

    def close(self) -> None:
        """Begin no more."""
        with self._lock:
            self.state = State.CLOSED
        self.wake()

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Take nothing new, wait for what runs, and return how many handlers still do when the time is over."""
        with self._lock:
            begun = list(self._begun)
        for part in begun:
            part.let_end(discard=discard)
        return sum(part.end(deadline, discard=discard) for part in begun)
