"""``ConsumerHandler``: a handler of a worker that is called with the deliveries of a durable consumer."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from .._runtime.deadline import Deadline
from .._runtime.handler_threads import Hook, ThreadHooks
from ..errors import AetherError
from ..health import Health
from ..metrics import HandlerMetrics, RunnerMetrics
from ..stores.consumers.delivery import Delivery
from ..stores.consumers.retry_policy import RetryPolicy
from ..stores.consumers.runner import Runner, close_all, failure_of, has_ended, let_all_end, when_ended
from ..stores.event_store import Consumer
from .calls import ExtraCounts

__all__ = ["ConsumerHandler", "Running"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """How a process runs the handler of a consumer.

    Attributes:
        threads: How many calls may run at a time.
        retry: When an event is tried again.
        prefetch: How many events are sorted by actor in this process at most.
    """

    threads: int
    retry: RetryPolicy
    prefetch: int


class ConsumerHandler:
    """Calls a handler with the deliveries of a consumer, from the begin of the worker to its end.

    Attributes:
        consumer: The consumer.
        call: Calls the handler with a delivery.
        release: Closes what the thread that calls it has opened for it; None if it opens nothing.
    """

    goes_on = False

    def __init__(
        self,
        name: str,
        consumer: Consumer,
        running: Running,
        call: Callable[[Delivery], object],
        counts: ExtraCounts,
        release: Callable[[], object] | None,
    ) -> None:
        self.label = f"the handler {name} of consumer {consumer.name!r}"
        self.key = "consume", consumer.name
        self._name = name
        self.consumer = consumer
        self._running = running
        self.call = call
        self._counts = counts
        self.release = release
        self._runner: Runner | None = None

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Join the consumer, or make it, and start the threads."""
        self._runner = runner = self.consumer.run(
            self.call,
            threads=self._running.threads,
            retry_delay=self._running.retry,
            prefetch=self._running.prefetch,
            thread_start=hooks.begin,
            thread_exit=hooks.end if self.release is None else partial(_end_thread, self.release, hooks.end),
            timeout=deadline.timeout_left(),
        )
        when_ended(runner, changed)

    def use_threads(self, threads: int) -> None:
        """Let so many calls run at a time; before it begins."""
        self._running = replace(self._running, threads=threads)

    @property
    def has_ended(self) -> bool:
        """Whether it goes on no more."""
        return self._runner is not None and has_ended(self._runner)

    @property
    def failure(self) -> AetherError | None:
        """The error that has ended it."""
        return None if self._runner is None else failure_of(self._runner)

    def let_end(self, *, discard: bool) -> None:
        """Take nothing new, and give back what waits; do not wait for what runs."""
        if self._runner is not None:
            let_all_end([self._runner])

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for what runs, and return how many handlers still do when the time is over."""
        return 0 if self._runner is None else close_all([self._runner], deadline)

    def forget(self) -> None:
        """In a forked child: the runner is the parent's."""
        self._runner = None

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""
        if self._runner is None:
            return Health(about=self.label, reasons=(f"{self.label} is not started",))
        return self._runner.health(timeout=deadline.timeout_left())

    def metrics(self) -> HandlerMetrics:
        """Return what it has done."""
        runner = self.runner_metrics()
        return HandlerMetrics(
            name=self._name,
            kind="consume",
            of=self.consumer.name,
            threads=self._running.threads,
            busy=runner.busy,
            waiting=max(0, runner.in_hand - runner.busy),
            handled=runner.handled,
            failed=runner.failed,
            dead_letters=runner.dead_letters,
            seconds=runner.seconds,
            **self._counts.fields(),
        )

    def runner_metrics(self) -> RunnerMetrics:
        """Return what its runner has counted."""
        return RunnerMetrics(consumer=self.consumer.name) if self._runner is None else self._runner.metrics()


def _end_thread(release: Callable[[], object], hook: Hook | None) -> None:
    try:
        release()
    finally:
        if hook is not None:
            hook()
