"""``Consumer``: a durable consumer of a store, by its name; what a program can do with it."""

from collections.abc import Callable

from ..._arguments import check_callback, check_count, check_flag, check_seconds
from ..._runtime.deadline import Deadline
from ..._values.shown import short
from ...errors import StoreClosedError
from .._checks import check_version
from ..base import EventStore
from .base import ConsumerSettings, ConsumerState, DeadLetter
from .consumption import Consumption
from .context import ConsumerContext
from .handlers import Handler
from .lanes import Handling
from .runner import Runner, start_runner

__all__ = ["Consumer"]

_MOST_THREADS = 10_000  # of one runner: more is a slip
_HUNG_AFTER = 10  # ack waits: five minutes by default, longer than nearly all handlers take


class Consumer:
    """A durable consumer of a store: each event goes to one of all processes and threads that share its name.

    ``store.consumer(name)`` returns one. The server keeps the consumer, and how far it is; :meth:`iterate` and
    :meth:`run` make it if it is not there, and nothing happens before. This object holds no resource and need not be
    closed: what it has begun ends when that, or the store, is closed. It may be used by any thread, and after a fork.

    **Delivery is at least once.** An event that is not acknowledged in time is delivered again, to any process. So is
    one whose acknowledgement is lost with a connection. Therefore a handler records, together with its effect, the
    ``sequence`` of each event that had its effect, and skips those.

    **Order.** As long as one process alone consumes, the events of an actor come in the order of the store, also across
    lost connections: what was lost with one is delivered again when its ack wait is over, and until then later events
    of its actor wait here. An event that is delivered again because it was given back, or not acknowledged, comes later
    than others. Among several processes no order is kept, nor between a process that was killed and the next one. So an
    event with an earlier sequence than the last is not always a repeat.

    **Attempts.** Each delivery counts as an attempt, whether the event is worked on or not: what a process held when it
    was killed, or when it closed the iteration or the runner, has one attempt less. After ``max_deliver`` attempts the
    event becomes a dead letter. So the fewer events wait in a process (``prefetch``), the less a restart costs; with a
    ``max_deliver`` of 1, all that wait when it is closed become dead letters.
    """

    def __init__(
        self, name: str, settings: ConsumerSettings, store: EventStore, context: Callable[[], ConsumerContext]
    ) -> None:
        self._name = name
        self._store = store
        self._settings = settings
        self._context = context  # of the store as it is now: a fork renews it, and a closed store raises

    @property
    def name(self) -> str:
        """The name that it was given."""
        return self._name

    @property
    def store(self) -> EventStore:
        """The store whose consumer it is."""
        return self._store

    # -- working

    def iterate(self, *, prefetch: int = 64, dead_letters: bool = False, timeout: float | None = 5.0) -> Consumption:
        """Begin to take deliveries: join the consumer on the server, or make it.

        Args:
            prefetch: How many events wait in this process to be taken. 64 keep a thread busy while more are on their
                way; what waits here counts as delivered if the process is killed, or the iteration is closed. Each
                process may use its own.
            dead_letters: Whether to take the consumer's dead letters instead of its new events. An ``ack()`` removes an
                event from the dead letters for good. One that is not acknowledged stays, and is delivered again, as
                often as needed; one that is rejected is delivered again after a minute. ``actors`` and ``event_types``
                of this consumer hold here, too: other dead letters stay where they are, and count as unacknowledged
                meanwhile, so as many as ``max_ack_pending`` of them hold up the rest. ``start`` and ``max_deliver``
                have no meaning for dead letters, which are all delivered, as often as needed.
            timeout: Seconds to begin. None waits for ever.

        Returns:
            A blocking iterator of :class:`Delivery`; close it, or use it in a ``with`` statement.

        Raises:
            StreamMismatchError: The consumer is there with other settings; the error names each.
            InvalidOptionError: An argument is wrong.
            StoreClosedError: The store is closed.
            DeadlineExceededError: The server did not answer in time.
            StoreUnavailableError: The server cannot make the consumer, or a stream.
            PermissionDeniedError: The user lacks a right.
        """
        context, deadline = self._context(), Deadline(timeout)
        prefetch, dead_letters = check_count("prefetch", prefetch), check_flag("dead_letters", dead_letters)
        return self._begin_iteration(context, prefetch, dead_letters, deadline)

    def run(
        self,
        handler: Handler,
        *,
        threads: int = 4,
        retry_delay: float = 1.0,
        prefetch: int = 256,
        dead_letters: bool = False,
        timeout: float | None = 5.0,
    ) -> Runner:
        """Call a handler with each delivery, on threads of its own, the events of each actor one after the other.

        No argument has to be the same in all processes.

        Args:
            handler: Called with a :class:`Delivery`; several calls run at the same time. When it returns, the event is
                acknowledged; when it raises, it is called again after a pause. After ``max_deliver`` attempts the event
                becomes a dead letter. To return an awaitable or a generator, which nobody would run, is a failure, too.
            threads: How many handlers run at a time. 4 hide the waiting of handlers that use a network or a database.
            retry_delay: Seconds before an event whose handler failed is tried again, doubled each time, up to 60.
            prefetch: How many events are sorted by actor in this process at most, and how many more wait to be. 256 are
                enough that they are usually of several actors, so that all threads have work; there are more for a
                while when all are of a few actors and threads have nothing to do. A runner begins with two for each
                thread, and takes more while it handles all of them within half a second, or threads have nothing to do:
                each event that waits here when the runner is closed, or its process dies, has used up one of its
                ``max_deliver`` deliveries.
            dead_letters: Whether to handle the consumer's dead letters instead of its new events; see :meth:`iterate`.
                A dead letter is tried ``max_deliver`` times in a row, then it stays, and is handed out again after a
                minute.
            timeout: Seconds to begin. None waits for ever.

        Returns:
            A :class:`Runner` that has started; close it, or use it in a ``with`` statement.

        Raises:
            InvalidOptionError: An argument is wrong: the handler is an ``async def`` or a generator function, say, or
                does not take one argument.
            StoreError: No thread can be started. Also the errors of :meth:`iterate`.
        """
        context, deadline = self._context(), Deadline(timeout)
        check_callback("a handler", handler, "the delivery")
        threads = check_count("threads", threads, _MOST_THREADS)
        retry_delay = check_seconds("retry_delay", retry_delay)
        prefetch, dead_letters = check_count("prefetch", prefetch), check_flag("dead_letters", dead_letters)
        attempts = self._settings.max_deliver
        first = min(prefetch, 2 * threads)  # for each thread one to be handled, and one that waits
        handling = Handling(
            context.backend.stream,
            self._name,
            handler,
            retry_delay,
            attempts,
            counts_deliveries=not dead_letters,
            first=first,
            capacity=prefetch,
            hung_after=_HUNG_AFTER * self._settings.ack_wait,
        )
        consumption = self._begin_iteration(context, first, dead_letters, deadline)
        try:
            runner = start_runner(consumption, handling, threads, context.backend.reporter)
            context.runners.add(runner)
            self._refuse_if_closed(runner)
        except BaseException:  # of a signal handler, perhaps: nobody else would give back what comes
            consumption.close()
            raise
        return runner

    def _refuse_if_closed(self, runner: Runner) -> None:
        """Close a runner that a store which was closed meanwhile does not know of, and say so."""
        try:
            self._context()
        except StoreClosedError:
            runner.close()
            raise

    def _begin_iteration(
        self,
        context: ConsumerContext,
        prefetch: int,
        dead_letters: bool,
        deadline: Deadline,
        *,
        takes_ahead: bool = True,
    ) -> Consumption:
        begin = context.backend.begin
        consumption = begin(
            self._name, self._settings, prefetch, deadline, dead_letters=dead_letters, takes_ahead=takes_ahead
        )
        try:
            context.consumptions.add(consumption)
            self._context()  # a store that was closed meanwhile does not know of it
        except BaseException:
            consumption.close()
            raise
        return consumption

    # -- how far it is

    def wait_for(self, sequence: int, *, timeout: float | None = 5.0) -> None:
        """Return when the consumer has acknowledged all of its events up to a sequence: what it builds shows them.

        An event that was given up is not waited for. One that was delivered ``max_deliver`` times without an answer may
        hold this up for as long as other events are always being worked on.

        Args:
            sequence: Of an event, as saving it returned.
            timeout: Seconds; None waits for ever.

        Raises:
            DeadlineExceededError: It had not in time; the error says how far it is.
            StoreError: There is no such consumer.
        """
        context, deadline = self._context(), Deadline(timeout)
        context.backend.wait_for(self._settings, check_version("sequence", sequence), deadline)

    def state(self, *, timeout: float | None = 5.0) -> ConsumerState | None:
        """Return how far the consumer is; None if it is not there.

        A server that has just been started may say for a moment that it is not.

        Args:
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.state(self._settings.name, deadline)

    def delete(self, *, timeout: float | None = 5.0) -> bool:
        """Delete the consumer and how far it is; returns whether it was there. Its dead letters stay.

        Args:
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.delete(self._settings.name, deadline)

    # -- dead letters

    def dead_letters(self, *, limit: int = 1_000, timeout: float | None = 5.0) -> list[DeadLetter]:
        """Return what the consumer gave up: events that were rejected, or delivered ``max_deliver`` times in vain.

        They stay where they are. All dead letters of this name are returned, whatever ``actors`` and ``event_types``
        of this consumer are, and also after its ``delete()``. The server announces once that an event was delivered in
        vain: it is missing here if the dead-letter stream had no leader at that moment.

        Args:
            limit: How many at most. 1,000 are read in well under a second.
            timeout: Seconds; None waits for ever.

        Returns:
            The dead letters, in the order of the store. ``[]`` as well if no consumer has ever had this name: a program
            that watches a consumer also asks for its :meth:`state`, which is None then.
        """
        context, deadline = self._context(), Deadline(timeout)
        return context.backend.dead_letters(self._settings.name, check_count("limit", limit), deadline)

    def discard_dead_letter(self, sequence: int, *, timeout: float | None = 5.0) -> bool:
        """Remove an event from the dead letters without working on it; returns whether it was there.

        Args:
            sequence: Of the event.
            timeout: Seconds; None waits for ever.
        """
        context, deadline = self._context(), Deadline(timeout)
        sequence = check_version("sequence", sequence, least=1)
        return context.backend.discard(self._settings.name, sequence, deadline)

    def __repr__(self) -> str:
        return f"<Consumer {short(self._name)}>"
