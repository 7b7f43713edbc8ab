"""``SubscriptionRunner``: threads that call a handler with the events of a subscription. ``bus.run()`` returns one."""

from collections.abc import Callable
from contextvars import Context, copy_context
from math import inf
from threading import get_ident
from typing import TypeAlias

from ._arguments import check_count, check_flag, check_seconds, refuse_unrun
from ._runtime.again import again
from ._runtime.closing import Closeable
from ._runtime.deadline import Deadline
from ._runtime.exit import before_threads_end
from ._runtime.fork import ForkAware, fork_aware
from ._runtime.handler_threads import HandlerThreads, Hook, ThreadHooks, as_failure
from ._runtime.registry import WeakRegistry
from ._runtime.reporter import Details, Failures, Kind, Reporter, last_words
from ._values.clock import monotonic
from ._values.counting import Times
from ._values.shown import short
from .errors import AetherError, SubscriptionClosedError
from .events import Event
from .handling_context import context_of, handling
from .health import Health
from .metrics import BOUNDS, CloseReport, HandlerMetrics, histogram_of_both
from .subscription import Subscription

__all__ = [
    "EventHandler",
    "SubscriptionRunner",
    "check_running",
    "end_runner",
    "has_runner_ended",
    "let_runner_end",
    "start_subscription_runner",
]

#: A user's function that is called with an event of a bus, or with its value, as its annotations say.
EventHandler: TypeAlias = Callable[..., object]

_MOST_THREADS = 10_000  # of one runner: more is a slip
_AT_EXIT = 5.0  # seconds for the handlers of runners that nobody has closed


class SubscriptionRunner(Closeable, ForkAware):
    """Calls a handler with the events of a bus on threads of its own, until it or its bus is closed.

    ``bus.run()`` returns one, started. What holds for a :class:`Subscription` holds here: an event comes at most once,
    and is lost if the queue is full, or if the handler raises. A failure is counted, and logged with its event; of
    failures that come close together, the first. With one thread, events are handled in order.

    It goes on when nobody refers to it. Any thread may call its methods.
    """

    def __init__(
        self,
        subscription: Subscription,
        handler: EventHandler,
        threads: int,
        hooks: ThreadHooks,
        reporter: Reporter,
        name: str,
        when_ended: Callable[[], object],
    ) -> None:
        self._subscription = subscription
        self._handler = handler
        self._reporter = reporter
        self._name, self._of = name, ", ".join(subscription.patterns)
        self._returned, self._raised = Times(BOUNDS), Times(BOUNDS)
        self._running: dict[int, tuple[float, Event]] = {}  # by thread: since when, and what; by single operations
        self._burst = Failures()  # of failures
        self._is_ending = False  # what is queued is not handled any more
        self._has_left = False
        self.failure: AetherError | None = None  #: the error that has ended it, if one has
        self._threads = HandlerThreads(self._work, threads, "aether-handler", hooks, reporter, self._fail, when_ended)
        fork_aware.add(self)
        _runners.add(self)

    # -- the threads

    def _work(self) -> None:
        for event in self._subscription:
            if self._is_ending:
                return
            self._handle(event)
            if self._is_ending:
                return

    def _handle(self, event: Event) -> None:
        me, begun, context = get_ident(), monotonic(), None
        self._running[me] = begun, event
        try:
            with handling(event):
                context = copy_context()  # what a handler sets and does not set back ends with it
                refuse_unrun(context.run(self._handler, event))
        except BaseException as error:  # the thread is ours, and goes on
            self._raised.add(monotonic() - begun)
            self._note(error, event, context)
        else:
            self._returned.add(monotonic() - begun)
        finally:
            self._running.pop(me, None)

    def _note(self, error: BaseException, event: Event, context: Context | None) -> None:
        """Log that the handler has failed, unless that was done a moment ago."""
        if self._burst.opens():
            about = context_of(event)
            details: Details = {
                "subscription": self._of,
                "actor": about.actor,
                "event_id": about.event_id,
                "event_type": about.event_type,
                "namespace": about.namespace,
                "correlation_id": about.correlation_id,
            }
            text = "the handler %s of %r failed with event %s (%s of %s)"
            what = self._name, self._of, event.id, event.event_type, event.actor_id
            self._reporter.error(Kind.HANDLER_FAILED, text, *what, error=error, context=context, **details)

    def _fail(self, error: BaseException) -> None:
        """Note what has ended a thread, and end the others."""
        if self.failure is None:
            self.failure = as_failure(error, repr(self))
            text = "the runner of %r with %s ends: %s"
            self._reporter.error(
                Kind.RUNNER_ENDED, text, self._of, self._name, self.failure, subscription=self._of, error=error
            )
        self._is_ending = True
        self._subscription.close(discard=True)

    def _start(self) -> None:
        try:
            self._threads.start()
        except BaseException:
            self._is_ending = True
            self._subscription.close(discard=True)
            raise

    # -- its state and end

    @property
    def closed(self) -> bool:
        """Whether it takes no more events: it or its bus was closed, or it failed."""
        return self._subscription.closed

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until it has ended, because it or its bus was closed, and what was queued is handled.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            AetherError: The error that ended it: the subscription overflowed with ``overflow="fail"``, a right was
                revoked, or ``thread_start`` has raised.
        """
        has_ended = not self._threads.wait(Deadline(timeout))
        if self.failure is not None:
            raise again(self.failure)
        return has_ended

    def metrics(self) -> HandlerMetrics:
        """Return what it has done so far, also after it was closed."""
        stats = self._subscription.stats()
        seconds, handled, failed = histogram_of_both(self._returned, self._raised)
        return HandlerMetrics(
            name=self._name,
            kind="on",
            of=self._of,
            threads=len(self._threads),
            busy=len(self._running),
            waiting=stats.pending,
            handled=handled,
            failed=failed,
            dropped=stats.dropped,
            seconds=seconds,
        )

    def health(self, *, hung_after: float | None = None) -> Health:
        """Return whether it can do its work now, and if not, why. It asks nobody; ask the bus for its connection.

        Args:
            hung_after: Seconds after which a handler that still runs hangs: then it is neither ok nor alive. By default
                no handler counts as hanging, as nobody here can know how long yours may take.

        Returns:
            With ``numbers``: ``threads``; ``handlers``, those that run now; ``waiting``, the events that are queued;
            and ``seconds_longest_handler``, how long the one has run that runs for the longest time.

        Raises:
            InvalidOptionError: ``hung_after`` is no number of seconds.
        """
        limit = None if hung_after is None else check_seconds("hung_after", hung_after)
        about = f"the handler {self._name} of {short(self._of)}"
        if self.failure is not None:
            return Health(about=about, reasons=(f"{about} has ended: {self.failure}",), alive=False)
        if self.closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        running = list(self._running.values())
        since, event = min(running, key=lambda one: one[0]) if running else (inf, None)
        longest = max(0.0, monotonic() - since)
        numbers: dict[str, float] = {
            "threads": len(self._threads),
            "handlers": len(running),
            "waiting": self._subscription.stats().pending,
            "seconds_longest_handler": longest,
        }
        hangs = limit is not None and event is not None and longest >= limit
        reasons = [f"{about} has run for {longest:.0f} s with event {short(event.id)}"] if hangs and event else []
        return Health.of(about, reasons, alive=not hangs, numbers=numbers)

    def close(self, timeout: float | None = 5.0, *, discard: bool = False) -> CloseReport:
        """Leave the bus, handle what is queued, and wait for the handlers that run.

        Any thread may call it, more than once. A handler may call it, too: that handler is not waited for.

        Args:
            timeout: Seconds; None waits for ever. What is queued when they are over is dropped, and counted as such; a
                handler that takes longer is left behind.
            discard: Whether to drop at once what is queued.

        Returns:
            What was left undone. It is true if all handlers have ended, but for one that calls this itself.
        """
        deadline = Deadline(timeout)
        left = self._end(deadline, discard=check_flag("discard", discard))
        self._reporter.flush(last_words(deadline))
        return CloseReport(handlers_left=left, timed_out=bool(left))

    def _end(self, deadline: Deadline, *, discard: bool) -> int:
        """As :meth:`close`, without waiting until what there is to say is logged; returns how many handlers run."""
        self._let_end(discard=discard)
        if not self._threads.wait(deadline):
            self._threads.join(deadline)
            return 0
        self._let_end(discard=True)
        others = list(self._running.keys() - {get_ident()})
        if others:
            self._leave_behind()
        return len(others)

    def _let_end(self, *, discard: bool) -> None:
        """Take no more events; do not wait for the handlers that run."""
        if discard:
            self._is_ending = True
        self._subscription.close(discard=discard)

    def _leave_behind(self) -> None:
        if not self._has_left:
            self._has_left = True
            text = "closing the runner of %r leaves handlers behind, on %s"
            names = self._threads.names()
            self._reporter.warning(Kind.HANDLERS_LEFT, text, self._of, names, subscription=self._of)

    def _after_fork(self) -> None:
        self.failure = SubscriptionClosedError(f"{self!r} was made before the fork, and is its parent's: run it here")
        self._is_ending = True
        self._running = {}
        self._threads.disown()

    def __repr__(self) -> str:
        return f"<SubscriptionRunner of {short(self._of)}{' closed' if self.closed else ''}>"


def check_running(threads: object, thread_start: Hook | None, thread_exit: Hook | None) -> tuple[int, ThreadHooks]:
    """Return the number of threads and what is called on each, or raise if a runner cannot be begun with these."""
    return check_count("threads", threads, _MOST_THREADS), ThreadHooks.checked(thread_start, thread_exit)


def start_subscription_runner(
    subscription: Subscription,
    handler: EventHandler,
    threads: int,
    hooks: ThreadHooks,
    reporter: Reporter,
    *,
    name: str,
    when_ended: Callable[[], object] = lambda: None,
) -> SubscriptionRunner:
    """Make a runner and start its threads. If they cannot be, the subscription is closed.

    Args:
        subscription: Where events come from.
        handler: Calls the user's function.
        threads: How many handlers run at a time.
        hooks: What is called on each thread.
        reporter: Logs for the owner.
        name: How the handler is called in messages and metrics.
        when_ended: Called when the last thread has ended; it is quick.

    Raises:
        WorkerError: There is no thread to be had.
    """
    try:
        runner = SubscriptionRunner(subscription, handler, threads, hooks, reporter, name, when_ended)
    except BaseException:
        subscription.close(discard=True)
        raise
    runner._start()
    return runner


def has_runner_ended(runner: SubscriptionRunner) -> bool:
    """Whether all of its threads have ended."""
    return not runner._threads.running


def let_runner_end(runner: SubscriptionRunner, *, discard: bool) -> None:
    """Have a runner take no more events; do not wait for the handlers that run."""
    runner._let_end(discard=discard)


def end_runner(runner: SubscriptionRunner, deadline: Deadline, *, discard: bool) -> int:
    """As :meth:`SubscriptionRunner.close`, without waiting for the log; returns how many handlers still run."""
    return runner._end(deadline, discard=discard)


_runners: WeakRegistry[SubscriptionRunner] = WeakRegistry()


@before_threads_end
def _end_running() -> None:
    """Wait for handlers when the main thread has ended: their subscriptions have ended before."""
    deadline = Deadline(_AT_EXIT)
    for runner in _runners:
        runner._end(deadline, discard=False)
