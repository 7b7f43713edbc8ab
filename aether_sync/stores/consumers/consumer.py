"""What a store does with its durable consumers."""

from collections.abc import Iterable
from inspect import isasyncgenfunction, iscoroutinefunction, isgeneratorfunction
from typing import Any, Literal, TypedDict, Unpack

from ..._arguments import as_whole, check_count, check_flag, check_seconds, is_of
from ..._nats.channel import Channel
from ..._runtime.deadline import Deadline
from ..._runtime.registry import WeakRegistry
from ..._values.shown import short
from ...errors import InvalidOptionError, StoreClosedError
from .._checks import check_version, check_wanted
from .._jetstream.api import JetStream
from .._jetstream.names import Names
from .._jetstream.reader import Reader
from .._jetstream.stream import Stream
from . import durable
from .consumption import DRAIN, Consumption
from .dead_letters import DeadLetter, DeadLetterStream
from .durable import ConsumerState
from .runner import Handler, Runner, close_all
from .sources import Events, Pointers, Source

__all__ = ["MAX_ACK_PENDING", "ConsumeOptions", "Consumers"]

MAX_ACK_PENDING = 10_000  #: events in work, in all processes: those of an actor that fails must not be all of them
_MAX_DELIVER = 5
_HELD_BY_RUNNER = 256  # events: so that those of several actors are among them
_MOST_THREADS = 10_000  # of one runner: more is a slip
_SHORTEST_WAIT = 0.001  # seconds of an ack wait: four times within it the server is told that work goes on
_NOT_RUN = (iscoroutinefunction, isasyncgenfunction, isgeneratorfunction)
_SAME = "Use the same in every process"
_OF_DEAD_LETTERS = {"ack_wait", "max_ack_pending", "prefetch", "timeout"}


class ConsumeOptions(TypedDict, total=False):
    """The keyword arguments of ``consume()``."""

    actors: str | None
    event_types: Iterable[str]
    start: Literal["first", "new"] | int
    ack_wait: float
    max_deliver: int
    max_ack_pending: int
    prefetch: int
    timeout: float | None


class Consumers:
    """The durable consumers of one store. Any thread."""

    def __init__(
        self,
        channel: Channel,
        jetstream: JetStream,
        names: Names,
        reader: Reader,
        stream: Stream,
    ) -> None:
        self._channel = channel
        self._jetstream = jetstream
        self._names = names
        self._reader = reader
        self._stream = stream
        self._dead_letters = DeadLetterStream(jetstream, names, reader, stream)
        self._consumptions: WeakRegistry[Consumption] = WeakRegistry()
        self._runners: WeakRegistry[Runner] = WeakRegistry()
        self._closed = False

    def consume(
        self,
        consumer: str,
        *,
        actors: str | None = None,
        event_types: Iterable[str] = (),
        start: Literal["first", "new"] | int = "first",
        ack_wait: float = 30.0,
        max_deliver: int = _MAX_DELIVER,
        max_ack_pending: int = MAX_ACK_PENDING,
        prefetch: int = 64,
        timeout: float | None = 5.0,
    ) -> Consumption:
        """As ``consume()`` of a store."""
        deadline = Deadline(timeout)
        name = self._names.consumer(consumer)
        wanted = check_wanted("actors", actors, event_types)
        after = _after(start)
        ack_wait = check_seconds("ack_wait", ack_wait, _SHORTEST_WAIT)
        max_ack_pending = check_count("max_ack_pending", max_ack_pending)
        prefetch = check_count("prefetch", prefetch)
        max_deliver = check_count("max_deliver", max_deliver)
        config = durable.settings(self._names, name, wanted, after, ack_wait, max_deliver, max_ack_pending)
        self._open(deadline)
        info = durable.join(self._jetstream, self._names.stream, config, deadline)
        source = Events(self._jetstream, self._names, self._reader, self._dead_letters, name, wanted)
        return self._begun(self._names.stream, name, prefetch, ack_wait, source, info, deadline)

    def consume_dead_letters(
        self,
        consumer: str,
        *,
        ack_wait: float = 30.0,
        max_ack_pending: int = MAX_ACK_PENDING,
        prefetch: int = 64,
        timeout: float | None = 5.0,
    ) -> Consumption:
        """As ``consume_dead_letters()`` of a store."""
        deadline = Deadline(timeout)
        name = self._names.consumer(consumer)
        ack_wait = check_seconds("ack_wait", ack_wait, _SHORTEST_WAIT)
        max_ack_pending = check_count("max_ack_pending", max_ack_pending)
        prefetch = check_count("prefetch", prefetch)
        self._open(deadline)
        config = durable.dead_letter_settings(self._names, name, ack_wait, max_ack_pending)
        info = durable.join(self._jetstream, self._names.dead_letters, config, deadline, _SAME)
        source = Pointers(self._jetstream, self._names, self._dead_letters)
        return self._begun(self._names.dead_letters, name, prefetch, ack_wait, source, info, deadline)

    def run(
        self,
        consumer: str,
        handler: Handler,
        *,
        threads: int,
        retry_delay: float,
        dead_letters: bool,
        **options: Unpack[ConsumeOptions],
    ) -> Runner:
        """As ``run()`` of a store."""
        threads = check_count("threads", threads, _MOST_THREADS)
        retry_delay = check_seconds("retry_delay", retry_delay)
        if not callable(handler):
            raise InvalidOptionError(f"a handler is called with each delivery, and {short(handler)} cannot be called")
        if any(is_kind(handler) or is_kind(type(handler).__call__) for is_kind in _NOT_RUN):
            raise InvalidOptionError(f"a handler is a plain function, and nobody would run what {short(handler)} makes")
        dead_letters = check_flag("dead_letters", dead_letters)
        attempts = check_count("max_deliver", options.get("max_deliver", _MAX_DELIVER))
        capacity = check_count("prefetch", options.setdefault("prefetch", _HELD_BY_RUNNER))
        if dead_letters:
            common = {key: value for key, value in options.items() if key in _OF_DEAD_LETTERS}
            consumption = self.consume_dead_letters(consumer, **common)  # type: ignore[arg-type]
        else:
            consumption = self.consume(consumer, **options)
        try:
            runner = Runner(
                consumption,
                handler,
                consumer=consumer,
                threads=threads,
                retry_delay=retry_delay,
                attempts=attempts,
                counts_deliveries=not dead_letters,
                capacity=capacity,
            )
            self._runners.add(runner)
            runner.start()
            if self._closed:
                runner.close()
                self._refuse_if_closed()
        except BaseException:  # of a signal handler, perhaps: nobody else would give back what comes
            consumption.close()
            raise
        return runner

    def _open(self, deadline: Deadline) -> None:
        """See that both streams are there, and make them: what is given up must have a place to go to."""
        self._stream.open(deadline)
        self._dead_letters.open(deadline)

    def _begun(
        self,
        stream: str,
        name: str,
        prefetch: int,
        ack_wait: float,
        source: Source,
        info: dict[str, Any],
        deadline: Deadline,
    ) -> Consumption:
        found = Consumption(self._channel, stream, name, prefetch, ack_wait, source)
        try:
            found.admit()
            found.begin(info, deadline)
            self._consumptions.add(found)
            self._refuse_if_closed()
        except BaseException:
            found.close()
            raise
        return found

    def dead_letters(self, consumer: str, limit: int, deadline: Deadline) -> list[DeadLetter]:
        """Return what a consumer gave up."""
        limit = check_count("limit", limit)
        return self._dead_letters.look(self._names.consumer(consumer), limit, deadline)

    def discard_dead_letters(self, consumer: str, sequence: int, deadline: Deadline) -> bool:
        """Take an event from the dead-letter stream of a consumer."""
        sequence = check_version("sequence", sequence, least=1)
        return self._dead_letters.discard(self._names.consumer(consumer), sequence, deadline)

    def wait_for(self, sequence: int, consumer: str, deadline: Deadline) -> None:
        """Return when a consumer has acknowledged all up to a sequence."""
        sequence = check_version("sequence", sequence)
        durable.wait_for(self._jetstream, self._names, sequence, self._names.consumer(consumer), deadline)

    def states(self, deadline: Deadline) -> list[ConsumerState]:
        """Return how far each is."""
        if self._stream.find(deadline) is None:
            return []
        return durable.listed(self._jetstream, self._names.stream, deadline)

    def forget(self, consumer: str, deadline: Deadline) -> bool:
        """Delete a consumer, and that of what it gave up; returns whether there was one."""
        name = self._names.consumer(consumer)
        durable.forget(self._jetstream, self._names.dead_letters, name, deadline)
        return durable.forget(self._jetstream, self._names.stream, name, deadline)

    def _refuse_if_closed(self) -> None:
        if self._closed:
            raise StoreClosedError("the store was closed meanwhile")

    def close(self, deadline: Deadline) -> None:
        """End all iterations and runners; their handlers have as long to end."""
        self._closed = True
        for runner in self._runners:
            runner.let_end()
        drained = Deadline(min(DRAIN, deadline.remaining()))
        for consumption in self._consumptions:
            consumption.close_by(drained)
        close_all(self._runners, deadline)


def _after(start: object) -> int | None:
    """The sequence to begin after; None for what comes."""
    word = str.__str__(start) if is_of(start, str) else None
    if word == "first":
        return 0
    if word == "new":
        return None
    if as_whole(start) is None:
        raise InvalidOptionError(f'start must be "first", "new", or the sequence to begin after, not {short(start)}')
    return check_version("start", start)
