"""``ServerBackend``: the consumers of a store that a JetStream server keeps."""

from ..._runtime.deadline import Deadline
from .._jetstream.parts import StoreParts
from . import durable
from .base import ADVICE, SAME, ConsumerSettings, ConsumerState, DeadLetter
from .consumption import Consumption
from .context import ConsumerBackend
from .dead_letters import DeadLetterStream
from .delivery import Origin
from .pulled import PulledConsumption, begin_consuming
from .sources import Events, Pointers, Source

__all__ = ["ServerBackend"]


class ServerBackend(ConsumerBackend):
    """Keeps the consumers of one store on its server.

    Args:
        parts: The parts of the store.
    """

    def __init__(self, parts: StoreParts) -> None:
        self._parts = parts
        self._dead_letters = DeadLetterStream(parts)
        self.stream = parts.names.stream
        self.reporter = parts.reporter

    def begin(  # noqa: D102
        self,
        name: str,
        settings: ConsumerSettings,
        prefetch: int,
        deadline: Deadline,
        *,
        dead_letters: bool,
        takes_ahead: bool,
    ) -> Consumption:
        parts, names = self._parts, self._parts.names
        parts.stream.open(deadline)  # both are needed before the first delivery: an event that is given up must have a
        self._dead_letters.open(deadline)  # place to go to
        source: Source
        max_deliver: int | None
        if dead_letters:
            stream, advice, max_deliver = names.dead_letters, SAME, None
            config = durable.dead_letter_configuration(names, settings)
            source = Pointers(parts, self._dead_letters, settings.wanted)
        else:
            stream, advice, max_deliver = names.stream, ADVICE, settings.max_deliver
            config = durable.configuration(names, settings)
            source = Events(parts, self._dead_letters, settings.name, settings.wanted)
        info = durable.join(parts.jetstream, stream, config, advice, deadline)
        origin = Origin(name, names.stream, names.namespace)
        consumption = PulledConsumption(
            parts.channel,
            stream,
            settings.name,
            prefetch,
            takes_ahead,
            settings.ack_wait,
            max_deliver,
            source,
            origin,
        )
        try:
            begin_consuming(consumption, info, deadline)
        except BaseException:
            consumption.close()
            raise
        return consumption

    def wait_for(self, settings: ConsumerSettings, sequence: int, deadline: Deadline) -> None:  # noqa: D102
        durable.wait_for(self._parts.jetstream, self._parts.names, settings.name, sequence, deadline)

    def state(self, consumer: str, deadline: Deadline) -> ConsumerState | None:  # noqa: D102
        return durable.fetch_state(self._parts.jetstream, self.stream, consumer, deadline)

    def states(self, deadline: Deadline) -> list[ConsumerState]:  # noqa: D102
        if self._parts.stream.find(deadline) is None:
            return []
        return durable.list_states(self._parts.jetstream, self.stream, deadline)

    def delete(self, consumer: str, deadline: Deadline) -> bool:  # noqa: D102
        durable.delete(self._parts.jetstream, self._parts.names.dead_letters, consumer, deadline)
        return durable.delete(self._parts.jetstream, self.stream, consumer, deadline)

    def dead_letters(self, consumer: str, limit: int, deadline: Deadline) -> list[DeadLetter]:  # noqa: D102
        return self._dead_letters.read_all(consumer, limit, deadline)

    def discard(self, consumer: str, sequence: int, deadline: Deadline) -> bool:  # noqa: D102
        return self._dead_letters.discard(consumer, sequence, deadline)
