"""``Runner``: threads that call a handler with the deliveries of a consumption; an actor's events one after the other.

Which delivery is handled next is decided in ``lanes.py``; here are the threads, and how they end.
"""

import threading
from collections.abc import Callable, Iterable
from functools import partial
from itertools import count

from ..._arguments import check_seconds
from ..._runtime.again import again
from ..._runtime.closing import Closeable
from ..._runtime.deadline import Deadline
from ..._runtime.exit import before_threads_end
from ..._runtime.fork import ForkAware, fork_aware
from ..._runtime.locks import outside_locks
from ..._runtime.registry import WeakRegistry
from ..._runtime.reporter import Details, Kind, Reporter, last_words
from ..._runtime.threads import NoThreadError, make_thread, start
from ..._values.shown import short
from ...errors import AetherError, StoreClosedError, StoreError
from ...health import Health
from ...metrics import CloseReport, RunnerMetrics
from .base import ConsumerState
from .consumption import Consumption, can_ask, close_by, fetch_state_of, health_of_link, left_of, lost_of
from .lanes import Handling, LaneScheduler

__all__ = [
    "Runner",
    "close_all",
    "failure_of",
    "has_ended",
    "lasting_runner_metrics",
    "let_all_end",
    "start_runner",
    "when_ended",
]

_AT_EXIT = 5.0  # seconds for the handlers of runners that nobody has closed

_numbers = count(1)


class Runner(Closeable, ForkAware):
    """Handles the events of a durable consumer on its own threads, until it or its store is closed.

    ``Consumer.run()`` returns one, started.

    **Order.** Within this process the events of one actor are handled one after the other, in the order of the store,
    also across lost connections; events of different actors are handled at the same time. *Among* processes JetStream
    keeps no such order, nor between a process that was killed and the next one: two processes may handle two events of
    one actor at the same time, or the later one first, and any event may come twice. Therefore a handler records,
    together with its effect, the ``delivery.sequence`` of each event that had its effect, and skips those. To compare
    with the last sequence is not enough: an earlier one is not always a repeat.

    **Results.** When the handler returns, the event is acknowledged. When it raises, it is called again after a pause;
    meanwhile later events of that actor wait, and those of others are handled. After ``max_deliver`` attempts the event
    becomes a dead letter. The handler may also settle the delivery itself: :meth:`Delivery.reject` gives the event up
    at once, :meth:`Delivery.nak` passes it on to any process.

    **Time.** A handler may take as long as it likes: the event is not delivered to another process as long as this one
    lives, is connected, and lets its other threads run. A handler that keeps the GIL for nearly the whole ack wait may
    see its event delivered to another process.
    """

    def __init__(self, consumption: Consumption, handling: Handling, threads: int, reporter: Reporter) -> None:
        self._scheduler = LaneScheduler(consumption, handling, reporter)
        self._reporter = reporter
        self._stream, self._name = handling.stream, handling.consumer
        self._hung_after = handling.hung_after
        self._is_of_dead_letters = not handling.counts_deliveries
        self._has_left = False  # closing it took too long: handlers were left behind
        number = next(_numbers)
        self._threads = [
            make_thread(self._take, name=f"aether-taker-{number}"),
            *(make_thread(self._work, name=f"aether-worker-{next(_numbers)}") for _ in range(threads)),
        ]
        fork_aware.add(self)
        _runners.add(self)

    def _start(self) -> None:
        """Start the threads. If one cannot be started, or an exception comes in between, all of them end."""
        try:
            for thread in self._threads:
                start(thread)
        except NoThreadError as error:
            self.close()
            raise StoreError(f"the runner is not begun: {error}") from error
        except BaseException:  # from a signal handler: the caller gets no runner that he could close
            self._let_end()
            raise

    # The threads refer to the runner, so it goes on when nobody else does, until it or its store is closed.

    def _take(self) -> None:
        self._scheduler.take()

    def _work(self) -> None:
        self._scheduler.work()

    # -- its state and end

    def metrics(self) -> RunnerMetrics:
        """Return what the runner has done so far; any thread may ask, also after it was closed, and also a handler."""
        scheduler = self._scheduler
        return scheduler.counts.snapshot(
            stream=self._stream,
            consumer=self._name,
            of_dead_letters=self._is_of_dead_letters,
            threads=len(self._threads) - 1,
            lag=0 if self.closed else left_of(scheduler.consumption),
            dead_letters=lost_of(scheduler.consumption),
            **scheduler.measure(),
        )

    @property
    def closed(self) -> bool:
        """Whether it takes no more events: it or its store was closed, or it failed."""
        return self._scheduler.closing

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the runner has ended, because another thread or a handler has closed it or its store.

        Args:
            timeout: Seconds; None waits for ever.

        Returns:
            Whether it has ended.

        Raises:
            AetherError: The error that ended it: the consumer was deleted, the connection was closed for good, or a
                right was revoked.
        """
        scheduler = self._scheduler
        ended = scheduler.ended.wait(lambda: scheduler.closing and not scheduler.running, Deadline(timeout))
        if scheduler.failure is not None:
            raise again(scheduler.failure)
        return ended

    def health(self, *, timeout: float | None = 0.5, hung_after: float | None = None) -> Health:
        """Return whether the runner can do its work now, and if not, why. It raises nothing for a server that is away.

        It is ok while it runs, its connection is well (see :meth:`Connection.health`, of which the answer is the only
        one of ``parts``), no handler hangs, and the server answers in time and knows the consumer. It is alive until it
        is closed, or ended by an error.

        Args:
            timeout: Seconds for the question to the server how far the consumer is; 0 asks nothing, and says what is
                known here. The default leaves time to answer a probe that waits for a second. None waits for ever.
            hung_after: Seconds after which a handler that still runs counts as hanging. By default that is ten times
                the consumer's ``ack_wait``, so five minutes as a rule; then the runner is not ok, but alive, as nobody
                here can know how long your handlers may take. A number of yours says that no handler takes so long: the
                runner is not alive either when one does.

        Returns:
            With ``numbers``: ``threads``; ``handlers``, those that run now; ``waiting``, the events in this process
            that wait for one; ``seconds_longest_handler``, how long the one has run that runs for the longest time; and
            from the server ``lag``, the events that were not delivered to any process yet, ``unacknowledged``, those
            that were delivered and are being worked on in any process, and ``redelivered``, as in
            :class:`ConsumerState`.

        Raises:
            InvalidOptionError: An argument is no number of seconds.
        """
        deadline = Deadline(timeout)
        limit = self._hung_after if hung_after is None else check_seconds("hung_after", hung_after)
        about, scheduler = f"the runner of consumer {short(self._name)}", self._scheduler
        if scheduler.failure is not None:
            return Health(about=about, reasons=(f"{about} has ended: {scheduler.failure}",), alive=False)
        if self.closed:
            return Health(about=about, reasons=(f"{about} is closed",), alive=False)
        busy, links, reasons = scheduler.busy(), health_of_link(scheduler.consumption), []
        numbers: dict[str, float] = {
            "threads": len(self._threads) - 1,
            "handlers": busy.handlers,
            "waiting": busy.waiting,
            "seconds_longest_handler": busy.longest,
        }
        hangs = busy.longest >= limit
        if hangs:
            what = f"event {busy.sequence} (of {short(busy.actor_id)})"
            reasons.append(f"{about}: the handler has run for {busy.longest:.0f} s with {what}")
        if can_ask(scheduler.consumption) and deadline.timeout != 0:
            try:
                numbers |= _numbers_of(fetch_state_of(scheduler.consumption, deadline))
            except AetherError as error:
                reasons.append(f"{about}: {error}")
        alive = not (hangs and hung_after is not None)
        return Health.of(about, reasons, alive=alive, numbers=numbers, parts=links)

    def close(self, timeout: float | None = 5.0) -> CloseReport:
        """Take no more events, wait for the handlers that run, and give back the rest.

        Any thread may call it, more than once. A handler may call it, too: that handler is not waited for. What is
        given back has one of its ``max_deliver`` attempts less; what has none left becomes a dead letter, and is
        logged.

        Args:
            timeout: Seconds for the handlers that run; None waits for ever. A handler that takes longer is left behind:
                its event is delivered to another process when the ack wait is over.

        Returns:
            What was left undone. It is true if all handlers have ended, but for one that calls this itself.
        """
        deadline = Deadline(timeout)
        left = self._end(deadline)
        self._reporter.flush(last_words(deadline))
        return CloseReport(handlers_left=left, timed_out=bool(left))

    def _end(self, deadline: Deadline) -> int:
        """As :meth:`close`, within a deadline, without waiting until what there is to say is logged.

        Returns:
            How many handlers still run that are waited for.
        """
        scheduler = self._scheduler
        self._let_end()
        close_by(scheduler.consumption, deadline)
        own = threading.current_thread() in self._threads
        try:
            if own:  # nor do other handlers that close it wait for this one
                scheduler.closers.add(threading.get_ident())
                scheduler.ended.wake_all()
            with outside_locks():
                ended = scheduler.ended.wait(lambda: scheduler.running <= len(scheduler.closers) * own, deadline)
        finally:
            scheduler.closers.discard(threading.get_ident())
        scheduler.give_back()
        if ended and not own:
            self._join(deadline)
        if ended:
            return 0
        handling = scheduler.handling() - scheduler.closers - {threading.get_ident()}
        scheduler.abandon_busy()
        self._leave_behind(handling)
        return len(handling)

    def _let_end(self) -> None:
        """Take no more events; do not wait for the handlers that run."""
        self._scheduler.stop()

    def _leave_behind(self, handling: set[int]) -> None:
        """Say once which threads are left: those of handlers, or if there are none, all that have not ended yet."""
        if self._has_left:
            return
        self._has_left = True
        details = Details(stream=self._stream, consumer=self._name)
        if handling:
            names = ", ".join(thread.name for thread in self._threads if thread.ident in handling)
            text = "closing the runner of consumer %r leaves handlers behind, on %s"
            self._reporter.warning(Kind.HANDLERS_LEFT, text, self._name, names, **details)
        else:
            names = ", ".join(thread.name for thread in self._threads if thread.is_alive())
            text = "closing the runner of consumer %r leaves threads behind that call no handler, %s"
            self._reporter.warning(Kind.HANDLERS_LEFT, text, self._name, names, **details)

    def _join(self, deadline: Deadline) -> None:
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(deadline.for_lock())

    def _after_fork(self) -> None:
        self._scheduler.disown()
        self._scheduler.failure = StoreClosedError(
            f"{self!r} was made before the fork, and is its parent's: run it here"
        )
        self._scheduler.ended.wake_all()

    def __repr__(self) -> str:
        return f"<Runner of {short(self._name)}{' closed' if self.closed else ''}>"


def _numbers_of(state: ConsumerState) -> dict[str, float]:
    return {"lag": state.waiting, "unacknowledged": state.unacknowledged, "redelivered": state.redelivered}


_runners: WeakRegistry[Runner] = WeakRegistry()


@before_threads_end
def _end_running() -> None:
    """Close all runners when the main thread has ended, so that their handlers can end."""
    close_all(_runners, Deadline(_AT_EXIT))


def start_runner(consumption: Consumption, handling: Handling, threads: int, reporter: Reporter) -> Runner:
    """Make a runner and start its threads.

    Args:
        consumption: Where deliveries come from.
        handling: What is done with them.
        threads: How many handlers run at a time.
        reporter: Logs for the store.

    Raises:
        StoreError: There is no thread to be had.
    """
    runner = Runner(consumption, handling, threads, reporter)
    runner._start()
    return runner


def has_ended(runner: Runner) -> bool:
    """Whether all of its threads have ended."""
    return runner.closed and not runner._scheduler.running


def failure_of(runner: Runner) -> AetherError | None:
    """Return the error that has ended a runner; None if none has."""
    return runner._scheduler.failure


def when_ended(runner: Runner, call: Callable[[], object]) -> None:
    """Have something quick called when a runner has ended. It may have ended already: look at it afterwards."""
    runner._scheduler.when_ended = call


def let_all_end(runners: Iterable[Runner]) -> None:
    """Have all of them take no more; handlers that run come to their end. Does not wait for that."""
    for runner in runners:
        runner._let_end()


def close_all(runners: Iterable[Runner], deadline: Deadline) -> int:
    """Close all of them within one deadline. One that an earlier close has left behind is not waited for again.

    What they have to say is logged soon; whoever closes them waits for that.

    Returns:
        How many handlers still run.
    """
    closing = list(runners)
    let_all_end(closing)
    return sum(runner._end(Deadline(0) if runner._has_left else deadline) for runner in closing)


def lasting_runner_metrics(runner: Runner) -> Callable[[], RunnerMetrics]:
    """Return a function that says what a runner has counted, also when it is collected, which it does not prevent.

    Dead letters without a word of the handler are not in it.
    """
    return partial(runner._scheduler.counts.snapshot, dead_letters=0)
