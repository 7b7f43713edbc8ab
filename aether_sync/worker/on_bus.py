"""``BusHandler``: a handler of a worker that is called with events of its bus."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

from .._bus.routing import make_target
from .._runtime.deadline import Deadline
from .._runtime.handler_threads import ThreadHooks
from .._runtime.reporter import Reporter
from ..bus import EventBus
from ..errors import AetherError
from ..events import Event
from ..health import Health
from ..metrics import HandlerMetrics
from ..patterns import SubscriptionFilter
from ..subscription_runner import (
    SubscriptionRunner,
    end_runner,
    has_runner_ended,
    let_runner_end,
    start_subscription_runner,
)
from .calls import ExtraCounts

__all__ = ["BusHandler", "Listening", "check_listening", "passing"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """What a handler listens to, and how.

    Attributes:
        pattern: Of namespaces.
        wanted: Which of their events.
        threads: How many calls may run at a time.
        queue_group: The queue group; None for none.
        maxsize: How many events may be queued.
        max_bytes: How many encoded bytes may be queued.
        overflow: What happens when the queue is full.
    """

    pattern: str
    wanted: SubscriptionFilter
    threads: int
    queue_group: str | None
    maxsize: int
    max_bytes: int
    overflow: Literal["drop_newest", "drop_oldest", "fail"]

    @property
    def filter(self) -> SubscriptionFilter | None:
        """The filter of the subscription; a queue group has none, as the server chooses its member before."""
        return self.wanted if self.queue_group is None else None


def check_listening(listening: Listening) -> None:
    """Raise what ``subscribe()`` would, before there is a bus to ask."""
    one = listening
    make_target((one.pattern,), one.filter, one.maxsize, one.max_bytes, one.overflow, one.queue_group, lambda _: None)


def passing(
    call: Callable[[Event], object], listening: Listening, passed_by: Callable[[], object]
) -> Callable[[Event], object]:
    """Return a call that leaves out events which a queue group gets and its filter does not want."""
    wanted = listening.wanted
    if listening.filter is not None or wanted.is_empty:
        return call

    def choose(event: Event) -> object:
        if wanted.matches(event):
            return call(event)
        passed_by()
        return None

    return choose


class BusHandler:
    """Calls a handler with events of a bus, from the begin of the worker to its end.

    Attributes:
        listening: What it listens to.
        call: Calls the handler with an event.
    """

    goes_on = False

    def __init__(
        self,
        name: str,
        bus: EventBus,
        listening: Listening,
        call: Callable[[Event], object],
        counts: ExtraCounts,
        reporter: Reporter,
    ) -> None:
        self.label = f"the handler {name} of {listening.pattern!r}"
        self.key = object()
        self._name = name
        self._bus = bus
        self.listening = listening
        self.call = call
        self._counts = counts
        self._reporter = reporter
        self._runner: SubscriptionRunner | None = None

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Subscribe, and start the threads."""
        one = self.listening
        subscription = self._bus.subscribe(
            one.pattern,
            filter=one.filter,
            queue_group=one.queue_group,
            maxsize=one.maxsize,
            max_bytes=one.max_bytes,
            overflow=one.overflow,
            timeout=deadline.timeout_left(),
        )
        self._runner = start_subscription_runner(
            subscription, self.call, one.threads, hooks, self._reporter, name=self._name, when_ended=changed
        )

    @property
    def has_ended(self) -> bool:
        """Whether it goes on no more."""
        return self._runner is not None and has_runner_ended(self._runner)

    @property
    def failure(self) -> AetherError | None:
        """The error that has ended it."""
        return None if self._runner is None else self._runner.failure

    def let_end(self, *, discard: bool) -> None:
        """Take nothing new; do not wait for what runs."""
        if self._runner is not None:
            let_runner_end(self._runner, discard=discard)

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for what runs, and return how many handlers still do when the time is over."""
        return 0 if self._runner is None else end_runner(self._runner, deadline, discard=discard)

    def forget(self) -> None:
        """In a forked child: the runner is the parent's."""
        self._runner = None

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""
        if self._runner is None:
            return Health(about=self.label, reasons=(f"{self.label} is not started",))
        return self._runner.health()

    def metrics(self) -> HandlerMetrics:
        """Return what it has done."""
        if self._runner is None:
            listening = self.listening
            return HandlerMetrics(name=self._name, kind="on", of=listening.pattern, threads=listening.threads)
        return replace(self._runner.metrics(), **self._counts.fields())
