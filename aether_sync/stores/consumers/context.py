"""``ConsumerContext``: the parts of a store that its consumers use, and what of theirs has to end with the store."""

from ..._nats.channel import Channel
from ..._runtime.deadline import Deadline
from ..._runtime.registry import WeakRegistry
from .._jetstream.api import JetStream
from .._jetstream.names import Names
from .._jetstream.reader import Reader
from .._jetstream.stream import Stream
from .consumption import DRAIN, Consumption
from .dead_letters import DeadLetterStream
from .runner import Runner, close_all

__all__ = ["ConsumerContext"]


class ConsumerContext:
    """What the consumers of one store share. Any thread may call it.

    Attributes:
        dead_letters: The stream of their dead letters.
        consumptions: The consumptions that have begun; closing the store closes them.
        runners: The same of runners.
    """

    def __init__(self, channel: Channel, jetstream: JetStream, names: Names, reader: Reader, stream: Stream) -> None:
        self.channel = channel
        self.jetstream = jetstream
        self.names = names
        self.reader = reader
        self.dead_letters = DeadLetterStream(jetstream, names, reader, stream)
        self.consumptions: WeakRegistry[Consumption] = WeakRegistry()
        self.runners: WeakRegistry[Runner] = WeakRegistry()
        self._stream = stream

    def open_streams(self, deadline: Deadline) -> None:
        """See that the streams of events and of dead letters are there, or make them.

        Both are needed before the first delivery: an event that is given up must have a place to go to.
        """
        self._stream.open(deadline)
        self.dead_letters.open(deadline)

    def close(self, deadline: Deadline) -> None:
        """End all consumptions and runners; handlers that run have as long to end."""
        for runner in self.runners:
            runner.let_end()
        drained = Deadline(min(DRAIN, deadline.remaining()))
        for consumption in self.consumptions:
            consumption.close_by(drained)
        close_all(self.runners, deadline)
