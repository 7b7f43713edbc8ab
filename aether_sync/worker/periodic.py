"""``Periodic``: work of a worker that is done again and again."""

from collections.abc import Callable
from contextvars import copy_context
from threading import get_ident

from .._arguments import refuse_unrun
from .._runtime.deadline import Deadline
from .._runtime.exit import is_ending
from .._runtime.handler_threads import HandlerThreads, ThreadHooks, as_failure
from .._runtime.reporter import Burst, Failures, Kind, Reporter
from .._runtime.waits import ParkingLot
from .._values.clock import monotonic
from .._values.counting import Times
from .._values.shown import short
from ..errors import AetherError, ClosedError, PermissionDeniedError
from ..health import Health
from ..metrics import BOUNDS, HandlerMetrics, histogram_of_both
from .calls import ExtraCounts
from .turns import BEAT, Turns

__all__ = ["Periodic"]


class Periodic:
    """Calls a handler every so many seconds, from the begin of the worker to its end.

    Args:
        name: Of the work.
        handler: The name of the handler.
        seconds: From the begin of a turn to that of the next one.
        call: Calls the handler.
        turns: Says whose turn it is; None if each process has all of them.
        has_closed: Whether the store is closed that the work is of, so that no turn begins any more; None if it is of
            none, and only the worker ends it.
        counts: Counts what is counted besides.
        reporter: Logs for the worker.
    """

    def __init__(
        self,
        name: str,
        handler: str,
        seconds: float,
        call: Callable[[None], object],
        turns: Callable[[], Turns] | None,
        has_closed: Callable[[], bool] | None,
        counts: ExtraCounts,
        reporter: Reporter,
    ) -> None:
        self.label = f"the handler {handler} every {seconds:g} s"
        self.key = "every", name
        self._name = name
        self._handler = handler
        self._seconds = seconds
        self._call = call
        self._make_turns = turns
        self._has_closed = has_closed
        self.goes_on = has_closed is None
        self._counts = counts
        self._reporter = reporter
        self._returned, self._raised = Times(BOUNDS), Times(BOUNDS)
        self._burst, self._troubles = Failures(), Burst()
        self.forget()

    def forget(self) -> None:
        """In a forked child, begin anew."""
        self.failure: AetherError | None = None
        self._changed = ParkingLot()
        self._is_ending = False
        self._has_left = False
        self._since = 0.0  # when the call has begun that runs; 0 if none does
        self._runs_on = 0  # the thread of that call
        self._trouble = ""  # why it is not known whose turn it is
        self._threads: HandlerThreads | None = None

    def begin(self, hooks: ThreadHooks, changed: Callable[[], object], deadline: Deadline) -> None:
        """Start the thread."""
        threads = HandlerThreads(self._work, 1, "aether-every", hooks, self._reporter, self._fail, changed)
        self._threads = threads
        threads.start()

    # -- the thread

    def _work(self) -> None:
        turns = None if self._make_turns is None else self._make_turns()
        while not self._is_over():
            self._pause(self._take_turn() if turns is None else self._take_turn_of(turns))

    def _is_over(self) -> bool:
        return self._is_ending or (self._has_closed is not None and self._has_closed())

    def _pause(self, seconds: float) -> None:
        """Wait, and look now and then whether the store is closed, which nobody tells."""
        deadline = Deadline(seconds)
        while not self._is_over() and (left := deadline.remaining()) > 0:
            self._changed.wait(lambda: self._is_ending, Deadline(left if self.goes_on else min(left, BEAT)))

    def _take_turn(self) -> float:
        """Do the work; return the seconds until the next turn. What was missed is not made up for."""
        begun = monotonic()
        self._do()
        return max(0.0, begun + self._seconds - monotonic())

    def _take_turn_of(self, turns: Turns) -> float:
        """Do the work if it is this process's turn; return the seconds until to look again.

        Raises:
            AetherError: It will never be known again whose turn it is.
        """
        try:
            held = turns.take()
        except (ClosedError, PermissionDeniedError):
            if self._is_over() or is_ending():
                return 0.0
            raise
        except AetherError as error:
            self._trouble = str(error)
            if self._troubles.opens():
                text = "it is not known whose turn %r is, so it waits: %s"
                self._reporter.warning(Kind.TURN_UNKNOWN, text, self._name, error)
            return BEAT
        self._trouble = ""
        if isinstance(held, float):
            return held
        with held:
            self._do()
        return 0.0

    def _do(self) -> None:
        context, begun = copy_context(), monotonic()
        self._since, self._runs_on = begun, get_ident()
        try:
            refuse_unrun(context.run(self._call, None))
        except BaseException as error:  # the thread is ours, and goes on
            self._raised.add(monotonic() - begun)
            if self._burst.opens():
                text = "the handler %s failed, which is called every %s s"
                what = self._handler, f"{self._seconds:g}"
                self._reporter.error(Kind.HANDLER_FAILED, text, *what, error=error, context=context)
        else:
            self._returned.add(monotonic() - begun)
        finally:
            self._since = 0.0

    def _fail(self, error: BaseException) -> None:
        self.failure = as_failure(error, self.label)
        text = "the handler %s, which is called every %s s, ends: %s"
        what = self._handler, f"{self._seconds:g}", self.failure
        self._reporter.error(Kind.RUNNER_ENDED, text, *what, error=error)

    # -- its end

    @property
    def has_ended(self) -> bool:
        """Whether it goes on no more."""
        return self._threads is not None and not self._threads.running

    def let_end(self, *, discard: bool) -> None:
        """Begin no turn any more; do not wait for the one that runs."""
        self._is_ending = True
        self._changed.wake_all()

    def end(self, deadline: Deadline, *, discard: bool) -> int:
        """Wait for the turn that runs, and return whether it still does when the time is over."""
        threads = self._threads
        if threads is None:
            return 0
        if not threads.wait(deadline):
            threads.join(deadline)
            return 0
        is_left = bool(self._since) and self._runs_on != get_ident()
        if is_left and not self._has_left:
            self._has_left = True
            text = "closing the worker leaves %s behind, on %s"
            self._reporter.warning(Kind.HANDLERS_LEFT, text, self._handler, threads.names())
        return int(is_left)

    # -- how it is

    def health(self, deadline: Deadline) -> Health:
        """Return whether it can do its work now."""
        if self.failure is not None:
            return Health(about=self.label, reasons=(f"{self.label} has ended: {self.failure}",), alive=False)
        if self._threads is None:
            return Health(about=self.label, reasons=(f"{self.label} is not started",))
        trouble = self._trouble
        reasons = [f"it is not known whose turn {short(self._name)} is: {trouble}"] if trouble else []
        since = self._since
        longest = monotonic() - since if since else 0.0
        return Health.of(self.label, reasons, numbers={"seconds_longest_handler": longest})

    def metrics(self) -> HandlerMetrics:
        """Return what it has done."""
        seconds, handled, failed = histogram_of_both(self._returned, self._raised)
        return HandlerMetrics(
            name=self._handler,
            kind="every",
            of=self._name,
            threads=1,
            busy=int(bool(self._since)),
            handled=handled,
            failed=failed,
            seconds=seconds,
            **self._counts.fields(),
        )
